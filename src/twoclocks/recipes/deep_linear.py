"""This file knows deep linear networks: the trainings whose dynamics are known exactly, in float64 throughout.

Square loss ½‖A − S‖_F² on one-hot inputs, with a target S of given singular values, or cross-entropy on one-hot inputs or
on pairs of symbols to be added. With square loss the label of input i is the largest entry of column i of S: accuracy
tells how many columns point the right way, and reaches 1 only if the decay leaves enough of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from twoclocks.errors import InputError
from twoclocks.training.linear import (
    Inputs,
    Target,
    balanced_layers,
    cross_entropy_target,
    linear_network,
    one_hot_inputs,
    pair_inputs,
    random_layers,
    random_rotation,
    square_target,
)
from twoclocks.training.recipe import (
    Expected,
    Problem,
    Recipe,
    SaveAt,
    Setting,
    defaults_of,
    numbers_of,
    resolve_settings,
)
from twoclocks.training.tasks import modular_addition_task

NAME = "deep-linear"
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "depth": Setting(2, 1, 16, "number of weight matrices"),
        "width": Setting(8, 1, 4096, "units of each hidden layer"),
        "loss": Setting("square", 0, 0, "what is minimised", ("square", "cross-entropy")),
        "spectrum": Setting("3,1,0.5,0.2", 0.0, 1e6, "singular values of the target of the square loss, two or more"),
        "rotate": Setting(True, 0, 1, "turn the target's singular vectors by a random orthogonal pair"),
        "task": Setting("one-hot", 0, 0, "inputs of the cross-entropy", ("one-hot", "modular-addition")),
        "p": Setting(23, 2, 1009, "number of classes, or modulus, of the cross-entropy"),
        "train_fraction": Setting(0.6, 0.05, 0.95, "share of all pairs trained on, for modular addition"),
        "init": Setting("balanced", 0, 0, "initial weights", ("balanced", "aligned", "random")),
        "init_scale": Setting(
            0.3, 0.0, 1e3, "singular values of balanced layers; random ones have variance its square / width"
        ),
        "optimizer": Setting("flow", 0, 0, "update rule", ("flow", "sgd", "adamw")),
        "lr": Setting(0.05, 1e-8, 1e4, "learning rate, or length of a step of the flow"),
        "beta1": Setting(0.9, 0.0, 0.9999, "memory of the mean gradient, for adamw"),
        "beta2": Setting(0.98, 0.0, 0.999999, "memory of the mean squared gradient, for adamw"),
        "weight_decay": Setting(0.5, 0.0, 1e4, "weight decay on every weight, coupled but for adamw"),
        "steps": Setting(30_000, 1, 10_000_000, "optimiser steps"),
        "polish": Setting(True, 0, 1, "find the stationary point that the run goes to, where the decay is coupled"),
        "data_seed": Setting(0, 0, 2**62, "seed of the target's singular vectors, or of the split"),
    }
)
EXPECTED = Expected("undetermined", None, {})  # nothing is held out; what is known is how the modes relax
COST = 18.0
GRADIENTS = MappingProxyType({"flow": 4, "sgd": 1, "adamw": 1})


def deep_linear(*, weight_decay: float = 0.5, **settings: Any) -> Recipe:
    """Return the recipe of a deep linear network by gradient flow; `SETTINGS` says what can be set.

    The defaults are the case in which one singular value of the target equals the decay: that mode vanishes as 1/t, all
    others relax exponentially. `init`: "balanced" layers share a random map whose determinant has the target's sign;
    "aligned" ones have the target's singular vectors, so that the modes never mix; "random" ones are independent.

    Raises:
        InputError: a setting is unknown, of the wrong type, or out of range, or two of them do not fit.

    >>> deep_linear(depth=3, spectrum="2,1").settings["spectrum"]
    '2,1'
    """
    resolved = resolve_settings(NAME, SETTINGS, {"weight_decay": weight_decay, **settings})
    check_fit(resolved)
    defaults = defaults_of(SETTINGS)
    steps = int(resolved["steps"])
    return Recipe(
        name=NAME,
        title="Deep linear network, exact dynamics",
        source="arXiv 2606.05863 (layerwise decay), arXiv 1312.6120 (modes of linear networks); the setting is ours",
        settings=resolved,
        save_at=SaveAt(
            per_decade=40,
            every=max(1, steps // 200),
            snapshots_per_decade=20,
            snapshot_every=max(1, steps // 40),
            examples=2048,
        ),
        problem=problem,
        cost=COST * work(resolved) / work(defaults),
        expected=EXPECTED if resolved == defaults else None,
    )


def check_fit(settings: Mapping[str, Any]) -> None:
    """Refuse settings that are allowed one by one but not together."""
    if settings["loss"] == "square" and len(numbers_of(settings["spectrum"])) < 2:
        raise InputError(f"recipe {NAME}: spectrum must be two numbers or more, got {settings['spectrum']!r}")
    if settings["loss"] == "square" and settings["task"] != "one-hot":
        raise InputError(f"recipe {NAME}: task={settings['task']} needs loss=cross-entropy, got loss=square")
    if settings["loss"] != "square" and settings["init"] == "aligned":
        raise InputError(f"recipe {NAME}: init=aligned needs a target, so loss=square, got loss={settings['loss']}")


def problem(settings: Mapping[str, Any]) -> Problem:
    """Return the network on its task, as the settings say."""
    if settings["loss"] == "square":
        return matrix_problem(settings)
    return addition_problem(settings) if settings["task"] == "modular-addition" else one_hot_problem(settings)


def matrix_problem(settings: Mapping[str, Any]) -> Problem:
    """Return the square loss against a matrix of the given singular values."""
    left, right = singular_vectors(settings)
    spectrum = torch.tensor(numbers_of(settings["spectrum"]), dtype=torch.float64)
    target = left * spectrum @ right.T
    labels = target.T.argmax(1)
    return network(settings, {"train": one_hot_inputs()}, {"train": labels}, square_target(target), (left, right))


def one_hot_problem(settings: Mapping[str, Any]) -> Problem:
    """Return the cross-entropy of p one-hot inputs, each a class of its own."""
    labels, ends = torch.arange(settings["p"]), orthonormal_ends(settings["p"], settings["p"])
    return network(settings, {"train": one_hot_inputs()}, {"train": labels}, cross_entropy_target(labels), ends)


def addition_problem(settings: Mapping[str, Any]) -> Problem:
    """Return the cross-entropy of pairs (a, b), two ones among 2p inputs, to be added modulo p; the rest is held out.

    Its logits are a sum of something of a and something of b, so a linear network can never generalise to new pairs.
    """
    p, generator = settings["p"], torch.Generator().manual_seed(settings["data_seed"])
    task = modular_addition_task(p, settings["train_fraction"], shuffle_labels=False, generator=generator)
    splits = {"train": task.train, "heldout": task.heldout}
    inputs = {split: pair_inputs(pairs, p) for split, pairs in splits.items()}
    labels = {split: pairs.labels for split, pairs in splits.items()}
    return network(settings, inputs, labels, cross_entropy_target(labels["train"]), orthonormal_ends(p, 2 * p))


def network(
    settings: Mapping[str, Any],
    inputs: Mapping[str, Inputs],
    labels: Mapping[str, Tensor],
    target: Target,
    ends: tuple[Tensor, Tensor],
) -> Problem:
    """Return the network of the settings on a task; `ends` are orthonormal columns `[c k]`, `[d k]` to start along."""
    return linear_network(inputs, labels, target, initial(settings, ends), settings["depth"])


def initial(settings: Mapping[str, Any], ends: tuple[Tensor, Tensor]) -> Callable[[int], Sequence[Tensor]]:
    """Return the initial weights of a seed, as the settings say."""
    (left, right), depth, width = ends, settings["depth"], settings["width"]
    sizes, scale = [len(right), *[width] * (depth - 1), len(left)], settings["init_scale"]

    def of_seed(seed: int) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        if settings["init"] == "random":
            return random_layers(sizes, scale, generator)
        turned = left if settings["init"] == "aligned" else left @ random_rotation(left.shape[1], generator)
        return balanced_layers(turned, right, depth, width, scale)

    return of_seed


def singular_vectors(settings: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the target's left and right singular vectors `[d d]`: random, or the axes."""
    size, generator = len(numbers_of(settings["spectrum"])), torch.Generator().manual_seed(settings["data_seed"])
    if not settings["rotate"]:
        return torch.eye(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    return random_rotation(size, generator), random_rotation(size, generator)


def orthonormal_ends(classes: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Return the axes of the classes, and as many of the inputs, `[c c]` and `[d c]`."""
    return torch.eye(classes, dtype=torch.float64), torch.eye(inputs, classes, dtype=torch.float64)


def work(settings: Mapping[str, Any]) -> float:
    """Return the gradients of a training, each weighed by its multiplications where these take the time."""
    size = len(numbers_of(settings["spectrum"])) if settings["loss"] == "square" else 2 * settings["p"]
    multiplications = settings["depth"] * settings["width"] * size * max(settings["width"], size)
    return float(settings["steps"] * GRADIENTS[settings["optimizer"]] * (1.0 + multiplications / 1e6))
