"""This file knows small problems made of plain modules, with all that a problem can have: batches, rules, a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from twoclocks.training.modules import module_problem, shuffled_batches
from twoclocks.training.optimizers import AdamW, Frozen, GradientDescent, Muon, Rule, Switched
from twoclocks.training.recipe import Problem, Recipe
from twoclocks.trajectory import SaveAt

INPUTS, HIDDEN, CLASSES, TRAIN, HELDOUT, BATCH = 6, 10, 3, 50, 30, 16
BLOCKS = {
    "outer": ("0.weight", "4.bias"),
    "biases": ("0.bias", "2.bias"),
    "hidden": ("2.weight",),
    "readout": ("4.weight",),
}


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs `[n 6]` and which of their first three numbers is the largest."""
    rows = torch.randn(count, INPUTS, generator=torch.Generator().manual_seed(seed))
    return rows, rows[:, :CLASSES].argmax(1)


def three_layers(seed: int) -> nn.Module:
    """Return a network of three linear layers."""
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
    )


def three_layers_problem(dtype: torch.dtype = torch.float32, **how: Any) -> Problem:
    """Return the network of three layers on its examples; the names of one block lie between those of others."""
    splits = {"train": examples(TRAIN, 0), "heldout": examples(HELDOUT, 1), "train_twin": examples(TRAIN, 0)}
    return module_problem(
        lambda seed: three_layers(seed).to(dtype),
        {split: (rows,) for split, (rows, _) in splits.items()},
        {split: labels for split, (_, labels) in splits.items()},
        **{"readout": "4", "blocks": BLOCKS} | how,
    )


def several_rules() -> dict[str, Rule]:
    """Return a rule of every kind, one a block."""
    return {
        "outer": AdamW(3e-3, 0.9, 0.98, 0.1),
        "biases": Switched(GradientDescent(1e-2, 1e-3, momentum=0.9), Frozen(), last=170),
        "hidden": Muon(0.02, 0.95, 0.1),
        "readout": GradientDescent(1e-2, 0.0, momentum=0.5),
    }


def falling(update: int) -> float:
    """Return a factor of the learning rate that warms up and then falls."""
    return min(update / 20, (20 / update) ** 0.5)


def everything(settings: Mapping[str, Any]) -> Problem:
    """Return the problem with batches, several rules and a schedule."""
    return three_layers_problem(batches=shuffled_batches(TRAIN, BATCH), rules=several_rules(), schedule=falling)


EVERYTHING = Recipe(
    name="everything",
    title="Three layers with all that a problem can have",
    source="ours, for tests",
    settings={"lr": 3e-3, "steps": 330},
    save_at=SaveAt(every=30, snapshot_every=60),
    problem=everything,
    cost=1.0,
)


def recipe_of(problem: Problem, **settings: Any) -> Recipe:
    """Return a recipe of 60 steps of AdamW for a problem, some settings changed."""
    defaults = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.98, "weight_decay": 0.1, "steps": 60}
    return replace(EVERYTHING, settings=defaults | settings, problem=lambda given: problem)
