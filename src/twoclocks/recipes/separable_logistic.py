"""This file knows linear classification of separable data by gradient descent, whose loss falls as 1/t and no faster.

Without decay there is no finite limit: the margin grows as log t, and one step lowers the loss by a share that is itself
proportional to the loss (arXiv 1710.10345). With coupled decay the loss stops at a floor. Two classes are two rows of
weights: the gap (w_1 − w_2)·x follows the logistic loss of a single row at twice the learning rate and half the decay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from twoclocks.errors import InputError
from twoclocks.training.linear import (
    cross_entropy_target,
    dense_inputs,
    linear_network,
    random_layers,
    random_rotation,
)
from twoclocks.training.recipe import Expected, Problem, Recipe, SaveAt, Setting, defaults_of, resolve_settings

NAME = "separable-logistic"
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "n": Setting(64, 1, 100_000, "training examples"),
        "heldout": Setting(256, 0, 100_000, "held-out examples"),
        "d": Setting(16, 2, 4096, "numbers in one input, at least one a class"),
        "classes": Setting(2, 2, 1000, "classes"),
        "margin": Setting(0.5, 0.0, 1e3, "least distance of an example from the border of its class"),
        "spread": Setting(1.0, 0.0, 1e3, "standard deviation of the inputs before they are moved off the border"),
        "init_scale": Setting(0.1, 0.0, 1e3, "size of the initial weights, of variance its square / classes"),
        "optimizer": Setting("sgd", 0, 0, "update rule", ("sgd", "flow")),
        "lr": Setting(0.5, 1e-8, 1e4, "learning rate, or length of a step of the flow"),
        "weight_decay": Setting(0.0, 0.0, 1e4, "coupled weight decay"),
        "steps": Setting(10_000, 1, 10_000_000, "optimiser steps"),
        "polish": Setting(True, 0, 1, "find the stationary point that the run goes to, where the decay is not 0"),
        "data_seed": Setting(0, 0, 2**62, "seed of the examples"),
    }
)
EXPECTED = Expected("ordinary learning", None, {})
COST = 2.0


def separable_logistic(*, weight_decay: float = 0.0, **settings: Any) -> Recipe:
    """Return the recipe of linear classification of separable Gaussian data; `SETTINGS` says what can be set.

    Raises:
        InputError: a setting is unknown, of the wrong type, or out of range, or there are more classes than inputs.

    >>> separable_logistic(n=8).settings["lr"]
    0.5
    """
    resolved = resolve_settings(NAME, SETTINGS, {"weight_decay": weight_decay, **settings})
    if resolved["classes"] > resolved["d"]:
        raise InputError(f"recipe {NAME}: d must be at least classes = {resolved['classes']}, got {resolved['d']}")
    defaults = defaults_of(SETTINGS)
    steps = int(resolved["steps"])
    return Recipe(
        name=NAME,
        title="Separable data, linear network",
        source="arXiv 1710.10345; the setting is ours",
        settings=resolved,
        save_at=SaveAt(
            per_decade=40, every=max(1, steps // 200), snapshots_per_decade=10, snapshot_every=max(1, steps // 20)
        ),
        problem=problem,
        cost=COST * work(resolved) / work(defaults),
        expected=EXPECTED if resolved == defaults else None,
    )


def problem(settings: Mapping[str, Any]) -> Problem:
    """Return the linear network on its examples, as the settings say."""
    generator = torch.Generator().manual_seed(settings["data_seed"])
    axes = random_rotation(settings["d"], generator)
    counts = {"train": settings["n"]} | ({"heldout": settings["heldout"]} if settings["heldout"] else {})
    examples = {split: separable(count, settings, generator) for split, count in counts.items()}
    labels = {split: of_split for split, (_, of_split) in examples.items()}
    inputs = {split: dense_inputs(rows @ axes.T) for split, (rows, _) in examples.items()}
    return linear_network(inputs, labels, cross_entropy_target(labels["train"]), initial(settings), depth=1)


def separable(count: int, settings: Mapping[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs `[n d]` and labels `[n]`: class c is where coordinate c is largest, by √2 · margin at least.

    Normal inputs have their largest of the first C coordinates moved to the place of their label, by an exchange, and
    raised by √2 · margin, which is `margin` in distance from the border.
    """
    labels = torch.arange(count) % settings["classes"]
    rows = settings["spread"] * torch.randn(count, settings["d"], dtype=torch.float64, generator=generator)
    every, largest = torch.arange(count), rows[:, : settings["classes"]].argmax(1)
    raised, other = rows[every, largest] + 2**0.5 * settings["margin"], rows[every, labels]
    rows[every, largest] = other
    rows[every, labels] = raised
    return rows, labels


def initial(settings: Mapping[str, Any]) -> Callable[[int], Sequence[Tensor]]:
    """Return the initial weights of a seed."""
    sizes = [settings["d"], settings["classes"]]
    return lambda seed: random_layers(sizes, settings["init_scale"], torch.Generator().manual_seed(seed))


def work(settings: Mapping[str, Any]) -> float:
    """Return the gradients of a training, each weighed by its multiplications where these take the time."""
    gradients = settings["steps"] * (4 if settings["optimizer"] == "flow" else 1)
    return float(gradients * (1.0 + settings["n"] * settings["d"] * settings["classes"] / 1e6))
