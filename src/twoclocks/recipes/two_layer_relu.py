"""This file knows modular addition with a two-layer ReLU network by gradient descent: late generalisation without Adam.

Two ones among 2p inputs, one hidden layer, cross-entropy, full batch, coupled decay, normal initial weights of variance
2 / inputs and 1 / hidden, times a scale (arXiv 2311.18817). Training is trapped by the kernel of its initial weights,
the longer the larger these are, until the decay has worn them down.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from twoclocks.training.models import two_hot_mlp
from twoclocks.training.recipe import Expected, Problem, Recipe, SaveAt, Setting, defaults_of, resolve_settings
from twoclocks.training.tasks import modular_addition_task

NAME = "two-layer-relu"
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "p": Setting(97, 5, 1009, "the modulus, which is the number of classes"),
        "train_fraction": Setting(0.4, 0.05, 0.95, "share of all pairs trained on"),
        "hidden": Setting(256, 1, 65536, "hidden units"),
        "init_scale": Setting(1.0, 0.0, 1e3, "factor of all initial weights"),
        "optimizer": Setting("sgd", 0, 0, "update rule", ("sgd", "flow")),
        "lr": Setting(10.0, 1e-8, 1e4, "learning rate, or length of a step of the flow"),
        "weight_decay": Setting(1e-4, 0.0, 1e4, "coupled weight decay on every weight"),
        "steps": Setting(12_000, 1, 100_000_000, "optimiser steps"),
        "data_seed": Setting(0, 0, 2**62, "seed of the split"),
    }
)
# Over 3 seeds of one split training accuracy reached 1 within step 396, with held-out accuracy at 0; held-out accuracy was
# 0.90 to 0.92 at step 8628, and 0.94 to 0.95 at 9923 in the two seeds followed so far. The
# kind was genuine in the one run that was recorded and diagnosed.
EXPECTED = Expected("grokking", None, {"T_fit": (300, 500), "T_gen_0.9": (5000, 11_000)})
COST = 150.0


def two_layer_relu(*, weight_decay: float = 1e-4, **settings: Any) -> Recipe:
    """Return the recipe of addition modulo p (97) with a two-layer ReLU network; `SETTINGS` says what can be set.

    The published figures are of hidden=1024, lr=0.002, weight_decay=1e-4; the defaults of its code are lr=0.1 and
    weight_decay=1e-3. At that width a step takes 62 ms, and lr=0.002 needs about 5000 times as many as lr=10: never run here.

    Raises:
        InputError: a setting is unknown, of the wrong type, or out of range.

    >>> two_layer_relu(hidden=1024, lr=0.002, weight_decay=1e-4).settings["hidden"]
    1024
    """
    resolved = resolve_settings(NAME, SETTINGS, {"weight_decay": weight_decay, **settings})
    defaults = defaults_of(SETTINGS)
    steps = int(resolved["steps"])
    return Recipe(
        name=NAME,
        title="Modular addition with a two-layer ReLU network",
        source="arXiv 2311.18817 and its code; width, learning rate and number of steps changed by us to be bearable",
        settings=resolved,
        save_at=SaveAt(
            per_decade=20, every=max(1, steps // 100), snapshots_per_decade=5, snapshot_every=max(1, steps // 20)
        ),
        problem=problem,
        cost=COST * work(resolved) / work(defaults),
        expected=EXPECTED if resolved == defaults else None,
    )


def problem(settings: Mapping[str, Any]) -> Problem:
    """Return the network on its task, as the settings say."""
    task = modular_addition_task(
        settings["p"],
        settings["train_fraction"],
        shuffle_labels=False,
        generator=torch.Generator().manual_seed(settings["data_seed"]),
    )
    return two_hot_mlp(task, settings["hidden"], settings["init_scale"])


def work(settings: Mapping[str, Any]) -> float:
    """Return the multiplications of a training, up to a constant: gradients · pairs · hidden units · classes."""
    pairs, gradients = settings["train_fraction"] * settings["p"] ** 2, 4 if settings["optimizer"] == "flow" else 1
    return float(settings["steps"] * gradients * pairs * settings["hidden"] * settings["p"])
