"""This file knows sparse parity: a label that depends on three of forty bits, fitted at once and understood later.

1000 strings in batches of 32, one hidden ReLU layer, gradient descent with coupled decay: task, sizes and update rule are
those of arXiv 2303.11873, which has a hinge loss and 1000 hidden units; the cross-entropy over two classes and 200 are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from twoclocks.training.mlp import mlp
from twoclocks.training.modules import shuffled_batches
from twoclocks.training.recipe import Expected, Problem, Recipe, SaveAt, Setting, defaults_of, resolve_settings
from twoclocks.training.tasks import sparse_parity_task

NAME = "sparse-parity"
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "bits": Setting(40, 2, 62, "bits in a string"),
        "relevant": Setting(3, 1, 62, "bits that the label is the parity of"),
        "examples": Setting(1000, 2, 10_000_000, "strings trained on"),
        "heldout": Setting(2000, 2, 10_000_000, "other strings held out"),
        "hidden": Setting(200, 1, 65536, "hidden units"),
        "init_scale": Setting(1.0, 0.0, 1e3, "factor of all initial weights"),
        "batch": Setting(32, 0, 10_000_000, "strings of one update, 0 for all of them"),
        "optimizer": Setting("sgd", 0, 0, "update rule; decay is coupled in sgd, decoupled in adamw", ("sgd", "adamw")),
        "lr": Setting(0.1, 1e-8, 1e4, "learning rate"),
        "beta1": Setting(0.9, 0.0, 0.9999, "memory of the mean gradient in adamw"),
        "beta2": Setting(0.98, 0.0, 0.999999, "memory of the mean squared gradient in adamw"),
        "weight_decay": Setting(0.01, 0.0, 1e4, "weight decay on every weight"),
        "steps": Setting(9000, 1, 10_000_000, "optimiser steps"),
        "data_seed": Setting(0, 0, 2**62, "seed of the strings and of the places"),
    }
)
# Over 3 seeds of one draw of strings training accuracy reached 0.99 at steps 1260 to 1620 and held-out accuracy 0.9 at 3690
# to 5130. The published width of 1000 was not trained to the end. Full-batch AdamW (lr 1e-2, decay 1) stayed at chance for
# 3000 steps in the one run tried.
EXPECTED = Expected("grokking", None, {"T_fit": (1000, 2000), "T_gen_0.9": (3000, 6500)})
COST = 8.0


def sparse_parity(*, weight_decay: float = 0.01, **settings: Any) -> Recipe:
    """Return the recipe of the parity of 3 of 40 bits with a ReLU network; `SETTINGS` says what can be set.

    Raises:
        InputError: a setting is unknown, of the wrong type, or out of range.

    >>> sparse_parity(relevant=2).settings["bits"]
    40
    """
    resolved = resolve_settings(NAME, SETTINGS, {"weight_decay": weight_decay, **settings})
    defaults = defaults_of(SETTINGS)
    steps = int(resolved["steps"])
    return Recipe(
        name=NAME,
        title="Sparse parity with a ReLU network",
        source="task, sizes, batch and update rule arXiv 2303.11873 (task also 2605.27078); the loss and the width are ours",
        settings=resolved,
        save_at=SaveAt(
            per_decade=20, every=max(1, steps // 100), snapshots_per_decade=3, snapshot_every=max(1, steps // 20)
        ),
        problem=problem,
        cost=COST * work(resolved) / work(defaults),
        expected=EXPECTED if resolved == defaults else None,
    )


def problem(settings: Mapping[str, Any]) -> Problem:
    """Return the network on its task, as the settings say."""
    task = sparse_parity_task(
        settings["bits"],
        settings["relevant"],
        settings["examples"],
        settings["heldout"],
        generator=torch.Generator().manual_seed(settings["data_seed"]),
    )
    splits = {"train": task.train, "heldout": task.heldout}
    examples, batch = settings["examples"], settings["batch"]
    return mlp(
        {name: split.bits for name, split in splits.items()},
        {name: split.labels for name, split in splits.items()},
        widths=[settings["bits"], settings["hidden"], 2],
        scale=settings["init_scale"],
        batches=shuffled_batches(examples, batch) if 0 < batch < examples else None,
    )


def work(settings: Mapping[str, Any]) -> float:
    """Return the multiplications of a training, up to a constant: steps · strings of an update · hidden units · bits."""
    at_once = min(settings["examples"], settings["batch"] or settings["examples"])
    return float(settings["steps"] * at_once * settings["hidden"] * settings["bits"])
