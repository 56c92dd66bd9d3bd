"""This file knows modular addition with an embedding MLP: the smallest training that shows grokking.

p = 97, 40 % of all pairs, embeddings N(0, 1) of width 128 concatenated, 256 hidden ReLU units, full batch,
cross-entropy, AdamW with weight decay 1 on everything, no warm-up. The network fits at once and generalises about 25
times later.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from twoclocks.training.models import embedding_mlp
from twoclocks.training.recipe import Expected, Problem, Recipe, SaveAt, Setting, defaults_of, resolve_settings
from twoclocks.training.tasks import modular_addition_task

NAME = "modular-addition"
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "p": Setting(97, 5, 1009, "the modulus, which is the number of classes"),
        "train_fraction": Setting(0.4, 0.05, 0.95, "share of all pairs trained on"),
        "width": Setting(128, 1, 8192, "numbers in one embedding"),
        "hidden": Setting(256, 1, 65536, "hidden units"),
        "lr": Setting(3e-3, 1e-8, 1e4, "learning rate"),
        "beta1": Setting(0.9, 0.0, 0.9999, "memory of the mean gradient"),
        "beta2": Setting(0.98, 0.0, 0.999999, "memory of the mean squared gradient"),
        "weight_decay": Setting(1.0, 0.0, 1e4, "decoupled weight decay on every weight"),
        "steps": Setting(2500, 1, 10_000_000, "optimiser steps"),
        "shuffle_labels": Setting(False, 0, 1, "deal the labels out at random, so that nothing can generalise"),
        "data_seed": Setting(0, 0, 2**62, "seed of the split, and of shuffled labels"),
    }
)
# Over 4 splits x 3 seeds T_gen_0.99 was 1375 to 1900, with a median of 1475; T_fit was 50 to 52.
EXPECTED = Expected("grokking", "genuine", {"T_fit": (50, 70), "T_gen_0.99": (1200, 2000)})
COST = 30.0


def modular_addition(*, weight_decay: float = 1.0, **settings: Any) -> Recipe:
    """Return the recipe of addition modulo p (97) with an embedding MLP; see `SETTINGS` for what can be set.

    Raises:
        InputError: a setting is unknown, of the wrong type, or out of range.

    >>> modular_addition(p=59, steps=900).settings["steps"]
    900
    """
    resolved = resolve_settings(NAME, SETTINGS, {"weight_decay": weight_decay, **settings})
    defaults = defaults_of(SETTINGS)
    return Recipe(
        name=NAME,
        title="Modular addition with an embedding MLP",
        source="task arXiv 2201.02177; setting after arXiv 2606.05863 section 5, made faster; clocks measured by us",
        settings=resolved,
        save_at=SaveAt(per_decade=20, every=50, snapshots_per_decade=5, snapshot_every=200, examples=4096),
        problem=problem,
        cost=COST * work(resolved) / work(defaults),
        expected=EXPECTED if resolved == defaults else None,
    )


def problem(settings: Mapping[str, Any]) -> Problem:
    """Return the network on its task, as the settings say."""
    task = modular_addition_task(
        settings["p"],
        settings["train_fraction"],
        shuffle_labels=settings["shuffle_labels"],
        generator=torch.Generator().manual_seed(settings["data_seed"]),
    )
    return embedding_mlp(task, settings["width"], settings["hidden"])


def work(settings: Mapping[str, Any]) -> float:
    """Return the multiplications of a training, up to a constant: steps · pairs · hidden units · classes."""
    pairs = settings["train_fraction"] * settings["p"] ** 2
    return float(settings["steps"] * pairs * settings["hidden"] * settings["p"])
