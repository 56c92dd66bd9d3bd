"""This file knows which examples every evaluation of a training looks at, and refuses those that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twoclocks.errors import InputError

DRAW_SEED = 0


@dataclass(frozen=True)
class Examples:
    """The examples of one split that every evaluation looks at: inputs `[n ...]` and labels `[n]`.

    `population` is how many there were to choose from, `classes` which class numbers occur among all of those.
    """

    split: str
    inputs: tuple[Tensor, ...]
    labels: Tensor
    population: int
    classes: frozenset[int]


def choose_examples(split: str, given: Any, at_most: int) -> Examples:
    """Check the pair (inputs, labels) of one split and copy out of it the examples to look at.

    Where there are more than `at_most`, that many are drawn without replacement with seed 0, in their old order.

    Raises:
        InputError: it is not such a pair, its lengths differ, or its labels are not class numbers.
    """
    inputs, labels = as_pair(split, given)
    check_labels(split, labels)
    for tensor in inputs:
        if tensor.ndim == 0 or len(tensor) != len(labels):
            raise InputError(
                f"{split}: {rows_of(tensor)} inputs but {len(labels)} labels; give one label for each input"
            )
    kept = drawn_rows(len(labels), at_most)
    chosen = tuple(tensor[kept.to(tensor.device)] for tensor in inputs)
    if not all(bool(tensor.isfinite().all()) for tensor in chosen):
        raise InputError(f"{split}: the inputs hold NaN or infinite numbers; remove or replace those examples")
    return Examples(
        split, chosen, labels[kept.to(labels.device)].long(), len(labels), frozenset(np.unique(labels.cpu()).tolist())
    )


def as_pair(split: str, given: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return inputs (a tensor, or several as a tuple) and labels as tensors that carry no gradient."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise InputError(f"{split}: expected a pair (inputs, labels) of tensors, got {type(given).__name__}")
    inputs, labels = given
    several = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    return tuple(as_tensor(split, part) for part in several), as_tensor(split, labels)


def as_tensor(split: str, value: Any) -> Tensor:
    """Return a tensor or an array as a tensor that carries no gradient."""
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, Tensor):
        return value.detach()
    raise InputError(
        f"{split}: expected tensors, got {type(value).__name__}; give them as torch tensors or numpy arrays"
    )


def check_labels(split: str, labels: Tensor) -> None:
    """Refuse labels that are not one class number an example."""
    if labels.ndim != 1:
        raise InputError(
            f"{split}: labels must be one class number an example, got shape {list(labels.shape)}; "
            "of one-hot labels give labels.argmax(1)"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"{split}: labels must be whole numbers, got {labels.dtype}; give labels.long() if they are class numbers "
            "(regression cannot be recorded)"
        )
    if len(labels) < 2:
        raise InputError(f"{split}: at least 2 examples are needed, got {len(labels)}")
    if int(labels.min()) < 0:
        raise InputError(f"{split}: labels must count from 0, got {int(labels.min())}; leave such examples out")


def check_classes(train: Examples, heldout: Examples, classes: int) -> None:
    """Refuse labels that the model has no logit for, and held-out classes that training lacks."""
    for examples in (train, heldout):
        largest = max(examples.classes)
        if largest >= classes:
            raise InputError(
                f"{examples.split}: label {largest} has no logit, the model has outputs 0 to {classes - 1}; "
                "renumber the labels or widen the readout"
            )
    lacking = sorted(heldout.classes - train.classes)
    if lacking:
        raise InputError(
            f"heldout: class {lacking[0]} is not among the training labels; leave its examples out or split anew"
        )


def drawn_rows(population: int, at_most: int) -> Tensor:
    """Return which rows are looked at: all, or `at_most` drawn without replacement, in order."""
    if population <= at_most:
        return torch.arange(population, device="cpu")
    generator = torch.Generator(device="cpu").manual_seed(DRAW_SEED)
    return torch.randperm(population, generator=generator, device="cpu")[:at_most].sort().values


def rows_of(tensor: Tensor) -> int:
    """Return how many rows a tensor has; a single number has none."""
    return len(tensor) if tensor.ndim else 0
