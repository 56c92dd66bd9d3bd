"""This file knows modular addition as the two-clocks work trains it: slowly, so that both clocks can be read.

p = 113, a symmetric combination of trainable embeddings of width 128, one ReLU layer, softmax, full batch, AdamW at
learning rate 1e-3 with betas (0.9, 0.98) and weight decay 0.6 to 1.0, 15,000 steps (arXiv 2606.05863, section 5). The
source states neither the training fraction nor the hidden width nor how pairs are split; here they are settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from twoclocks.training.models import embedding_mlp
from twoclocks.training.recipe import Expected, Problem, Recipe, SaveAt, Setting, defaults_of, resolve_settings
from twoclocks.training.tasks import modular_addition_task

NAME = "modular-addition-published"
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "p": Setting(113, 5, 1009, "the modulus, which is the number of classes"),
        "train_fraction": Setting(0.3, 0.05, 0.95, "share of all pairs trained on"),
        "unordered": Setting(False, 0, 1, "split unordered pairs, so that no mirror of a training pair is held out"),
        "width": Setting(128, 1, 8192, "numbers in one embedding"),
        "hidden": Setting(256, 1, 65536, "hidden units"),
        "lr": Setting(1e-3, 1e-8, 1e4, "learning rate"),
        "beta1": Setting(0.9, 0.0, 0.9999, "memory of the mean gradient"),
        "beta2": Setting(0.98, 0.0, 0.999999, "memory of the mean squared gradient"),
        "weight_decay": Setting(1.0, 0.0, 1e4, "decoupled weight decay on every weight"),
        "steps": Setting(15_000, 1, 10_000_000, "optimiser steps"),
        "data_seed": Setting(0, 0, 2**62, "seed of the split"),
    }
)
EXPECTED = Expected("grokking", None, {})
COST = 200.0


def modular_addition_published(*, weight_decay: float = 1.0, **settings: Any) -> Recipe:
    """Return the recipe of addition modulo 113 in the setting of the two-clocks work; `SETTINGS` says what can be set.

    Raises:
        InputError: a setting is unknown, of the wrong type, or out of range.

    >>> modular_addition_published(weight_decay=0.6).settings["steps"]
    15000
    """
    resolved = resolve_settings(NAME, SETTINGS, {"weight_decay": weight_decay, **settings})
    others = {**defaults_of(SETTINGS), "weight_decay": resolved["weight_decay"]}
    is_published = resolved == others and 0.6 <= float(resolved["weight_decay"]) <= 1.0
    return Recipe(
        name=NAME,
        title="Modular addition as published for the two clocks",
        source="arXiv 2606.05863 section 5; training fraction, split and hidden width are ours",
        settings=resolved,
        save_at=SaveAt(per_decade=20, every=50, snapshots_per_decade=5, snapshot_every=250, examples=2048),
        problem=problem,
        cost=COST * float(resolved["steps"]) / 15_000,
        expected=EXPECTED if is_published else None,
    )


def problem(settings: Mapping[str, Any]) -> Problem:
    """Return the network on its task, as the settings say."""
    task = modular_addition_task(
        settings["p"],
        settings["train_fraction"],
        shuffle_labels=False,
        generator=torch.Generator().manual_seed(settings["data_seed"]),
        unordered=settings["unordered"],
    )
    return embedding_mlp(task, settings["width"], settings["hidden"], summed=True)
