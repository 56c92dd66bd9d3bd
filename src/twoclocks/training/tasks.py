"""This file knows the tasks we train on: which examples there are, their labels, and which of them are held out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

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


@dataclass(frozen=True)
class Strings:
    """Examples that are strings of bits: `bits[n b]`, each −1 or 1 (float32), and their `labels[n]`."""

    bits: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ParityTask:
    """Different strings of bits to train on and to hold out, and the `places` (rising) whose parity is the label."""

    places: Tensor
    train: Strings
    heldout: Strings


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


def composition_task(table: Tensor, train_fraction: float, *, generator: torch.Generator) -> PairTask:
    """Return the task of a multiplication table `[p p]`: label table[left, right]; `permutation_table` gives one.

    The number of training pairs is the whole part of train_fraction · p². Source of the task: arXiv 2201.02177.

    Raises:
        ValueError: the table is not square, or an entry is no number from 0 to p − 1.

    >>> task = composition_task(permutation_table(3), 0.5, generator=torch.Generator().manual_seed(0))
    >>> task.classes, len(task.train.labels), len(task.heldout.labels)
    (6, 18, 18)
    """
    p = len(table)
    if table.shape != (p, p) or not bool(((table >= 0) & (table < p)).all()):
        raise ValueError(f"table: expected [p p] of numbers from 0 to p - 1, got shape {list(table.shape)}")
    order = torch.randperm(p * p, generator=generator)
    train, heldout = order.tensor_split([int(train_fraction * len(order))])
    return PairTask(p, pairs_numbered(train, table.flatten(), p), pairs_numbered(heldout, table.flatten(), p))


def permutation_table(letters: int) -> Tensor:
    """Return the table `[k! k!]` of the permutation group S_k: table[a, b] is a after b, (a b)(i) = a(b(i)).

    Permutations are numbered in the order of their words, so 0 leaves all letters in place.

    Raises:
        ValueError: fewer than 1 letter, or more than 6 (S_7 has 5040 elements and a table of 25 million).

    >>> permutation_table(3)[0], permutation_table(3).diagonal()  # 0 is neutral; of 6 elements 4 undo themselves
    (tensor([0, 1, 2, 3, 4, 5]), tensor([0, 0, 0, 4, 3, 0]))
    """
    if not 1 <= letters <= 6:
        raise ValueError(f"letters: expected 1 to 6, got {letters}")
    words = torch.tensor(list(permutations(range(letters))))
    composed = words[:, words]  # [a b i]: the letter a(b(i))
    places = letters ** torch.arange(letters - 1, -1, -1)
    return torch.searchsorted(words @ places, composed @ places)


def sparse_parity_task(
    bits: int, relevant: int, examples: int, heldout: int, *, generator: torch.Generator
) -> ParityTask:
    """Return the parity of `relevant` of `bits` bits: label 1 where an odd number of them is −1, else 0.

    Strings are drawn uniformly, all of them different; the places are drawn too. Source: arXiv 2303.11873, 2207.08799.

    Raises:
        ValueError: there are no such places, or fewer different strings than asked for.

    >>> task = sparse_parity_task(5, 2, 12, 8, generator=torch.Generator().manual_seed(0))
    >>> bool(((-1) ** task.train.labels == task.train.bits[:, task.places].prod(1)).all())
    True
    """
    if not 1 <= relevant <= bits <= 62:
        raise ValueError(f"relevant: expected 1 to bits, and bits at most 62, got {relevant} of {bits}")
    if examples < 1 or heldout < 1 or examples + heldout > 2**bits:
        raise ValueError(f"examples and heldout: expected 1 to {2**bits} together, got {examples} and {heldout}")
    places = torch.randperm(bits, generator=generator)[:relevant].sort().values
    numbers = different_numbers(2**bits, examples + heldout, generator)
    strings = 1.0 - 2.0 * (numbers[:, None] >> torch.arange(bits) & 1)
    labels = (strings[:, places] < 0).sum(1) % 2
    of_split = [Strings(strings[rows], labels[rows]) for rows in (slice(examples), slice(examples, None))]
    return ParityTask(places, *of_split)


def different_numbers(below: int, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` different whole numbers from 0 to below − 1, drawn uniformly, in the order they were drawn.

    >>> different_numbers(4, 4, torch.Generator().manual_seed(0)).sort().values
    tensor([0, 1, 2, 3])
    """
    if below <= 8 * count:
        return torch.randperm(below, generator=generator)[:count]
    drawn: dict[int, None] = {}  # keeps the order
    while len(drawn) < count:
        drawn |= dict.fromkeys(torch.randint(below, (count - len(drawn),), generator=generator).tolist())
    return torch.tensor(list(drawn))
