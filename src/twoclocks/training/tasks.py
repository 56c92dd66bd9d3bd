"""This file knows the tasks we train on: which examples there are, their labels, and which of them are held out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Examples that are pairs of symbols: `left[n]` and `right[n]` from 0 to p − 1, and their `labels[n]`."""

    left: Tensor
    right: Tensor
    labels: Tensor


@dataclass(frozen=True)
class PairTask:
    """All p² pairs of p symbols, split into those trained on and those held out; both in the order of (left, right)."""

    classes: int
    train: Pairs
    heldout: Pairs


def modular_addition_task(
    p: int, train_fraction: float, *, shuffle_labels: bool, generator: torch.Generator, unordered: bool = False
) -> PairTask:
    """Return the task left + right mod p; `shuffle_labels` deals the same labels out at random, so nothing generalises.

    The number of training pairs is the whole part of train_fraction · p². `unordered`: the p (p + 1) / 2 pairs with
    left ≤ right alone, for networks that cannot tell (a, b) from (b, a): to them the mirror of a training pair would be
    a training pair among the held-out ones. Source of the task: arXiv 2201.02177.

    >>> task = modular_addition_task(5, 0.4, shuffle_labels=False, generator=torch.Generator().manual_seed(0))
    >>> len(task.train.labels), len(task.heldout.labels)
    (10, 15)
    >>> bool(((task.train.left + task.train.right) % 5 == task.train.labels).all())
    True
    """
    order = torch.randperm(p * p, generator=generator)
    if unordered:
        order = order[order // p <= order % p]
    labels = (torch.arange(p)[:, None] + torch.arange(p)).flatten() % p
    if shuffle_labels:
        labels = labels[torch.randperm(p * p, generator=generator)]
    train, heldout = order.tensor_split([int(train_fraction * len(order))])
    return PairTask(p, pairs_numbered(train, labels, p), pairs_numbered(heldout, labels, p))


def pairs_numbered(numbers: Tensor, labels: Tensor, p: int) -> Pairs:
    """Return the pairs (k // p, k % p) for the given numbers k, sorted: sums of gradients then have one fixed order."""
    numbers = numbers.sort().values
    return Pairs(numbers // p, numbers % p, labels[numbers])
