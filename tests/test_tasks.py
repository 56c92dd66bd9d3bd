"""What holds for the tasks: multiplication tables are those of groups, parities are parities, splits share nothing."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from twoclocks.training.tasks import (
    PairTask,
    composition_task,
    different_numbers,
    modular_addition_task,
    permutation_table,
    sparse_parity_task,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(table: Tensor, count: int) -> list[tuple[int, int, int]]:
    chosen = torch.randint(len(table), (count, 3), generator=generator(1)).tolist()
    return [(a, b, c) for a, b, c in chosen]


@pytest.mark.parametrize("letters", [1, 2, 3, 4, 5])
def test_permutations_form_a_group(letters: int) -> None:
    """Closure, cancellation, neutral element, inverses, and associativity on a sample."""
    table, order = permutation_table(letters), math.factorial(letters)
    assert table.shape == (order, order)
    everything = torch.arange(order).expand(order, order)
    assert torch.equal(table.sort(0).values, everything.T) and torch.equal(table.sort(1).values, everything)
    assert torch.equal(table[0], torch.arange(order)) and torch.equal(table[:, 0], torch.arange(order))
    inverse = (table == 0).int().argmax(1)
    assert not table[torch.arange(order), inverse].any() and not table[inverse, torch.arange(order)].any()
    triples = sampled(table, 500)
    assert all(table[table[a, b], c] == table[a, table[b, c]] for a, b, c in triples)
    assert len(triples) == 500


def test_composition_is_that_of_the_words_themselves() -> None:
    """The slow second definition: a after b, letter by letter."""
    words = list(permutations(range(5)))
    table, seen = permutation_table(5), 0
    for a, b, _ in sampled(table, 300):
        assert words[int(table[a, b])] == tuple(words[a][words[b][i]] for i in range(5))
        seen += 1
    assert seen == 300


def test_s5_does_not_commute_and_has_its_conjugacy_classes() -> None:
    """Pairs that commute are as many as order times classes (Burnside): S5 has 120 elements and 7 classes."""
    table = permutation_table(5)
    assert int((table == table.T).sum()) == 120 * 7
    assert bool((permutation_table(2) == permutation_table(2).T).all())
    undo_themselves = int((table.diagonal() == 0).sum())
    assert undo_themselves == 1 + 10 + 15  # the neutral one, 10 swaps, 15 pairs of swaps


@pytest.mark.parametrize("letters", [0, -1, 7])
def test_a_table_of_too_many_letters_is_refused(letters: int) -> None:
    with pytest.raises(ValueError, match=rf"letters: expected 1 to 6, got {letters}"):
        permutation_table(letters)


def pairs_of(task: PairTask) -> set[tuple[int, int]]:
    splits = [task.train, task.heldout]
    found = [pair for split in splits for pair in zip(split.left.tolist(), split.right.tolist(), strict=True)]
    assert len(found) == len(set(found))
    return set(found)


def test_composition_task_splits_all_pairs_and_labels_them_by_the_table() -> None:
    table = permutation_table(4)
    task = composition_task(table, 0.4, generator=generator())
    assert (task.classes, len(task.train.labels), len(task.heldout.labels)) == (24, 230, 346)
    assert len(pairs_of(task)) == 24 * 24
    for split in (task.train, task.heldout):
        assert torch.equal(split.labels, table[split.left, split.right])
    other = composition_task(table, 0.4, generator=generator(1))
    assert not torch.equal(task.train.left * 24 + task.train.right, other.train.left * 24 + other.train.right)


def test_composition_of_a_cyclic_group_is_modular_addition() -> None:
    numbers = torch.arange(7)
    one = composition_task((numbers[:, None] + numbers) % 7, 0.5, generator=generator(3))
    other = modular_addition_task(7, 0.5, shuffle_labels=False, generator=generator(3))
    for split, same in ((one.train, other.train), (one.heldout, other.heldout)):
        assert torch.equal(split.left, same.left) and torch.equal(split.right, same.right)
        assert torch.equal(split.labels, same.labels)


@pytest.mark.parametrize(
    "table", [torch.zeros(2, 3).long(), torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0, -1], [1, 0]])]
)
def test_a_table_that_is_no_table_is_refused(table: Tensor) -> None:
    with pytest.raises(ValueError, match="table: expected"):
        composition_task(table, 0.5, generator=generator())


def test_sparse_parity_is_the_parity_of_its_places_and_of_no_others() -> None:
    task = sparse_parity_task(40, 3, 1000, 2000, generator=generator())
    assert len(task.places) == 3 and task.places.unique().numel() == 3
    seen = 0
    for split, count in ((task.train, 1000), (task.heldout, 2000)):
        assert split.bits.shape == (count, 40) and split.bits.dtype == torch.float32
        assert torch.equal(split.bits.abs(), torch.ones(count, 40))
        for string, label in zip(split.bits.tolist(), split.labels.tolist(), strict=True):
            assert label == sum(string[place] < 0 for place in task.places) % 2
            seen += 1
    assert seen == 3000


def test_no_single_bit_and_no_pair_of_places_tells_a_sparse_parity() -> None:
    """Correlations with the label are noise of 1/√n for every bit and pair, and 1 for the product of the places."""
    task = sparse_parity_task(20, 3, 8000, 1000, generator=generator())
    signs, bits = 1.0 - 2.0 * task.train.labels, task.train.bits
    assert float((signs[:, None] * bits).mean(0).abs().max()) < 5 / 8000**0.5
    pairs = bits[:, task.places[[0, 0, 1]]] * bits[:, task.places[[1, 2, 2]]]
    assert float((signs[:, None] * pairs).mean(0).abs().max()) < 5 / 8000**0.5
    assert float((signs * bits[:, task.places].prod(1)).mean()) == 1.0


@pytest.mark.parametrize(("bits", "examples", "heldout"), [(4, 9, 7), (10, 300, 200), (40, 500, 500), (62, 50, 50)])
def test_strings_are_all_different(bits: int, examples: int, heldout: int) -> None:
    task = sparse_parity_task(bits, 2, examples, heldout, generator=generator())
    both = torch.cat([task.train.bits, task.heldout.bits])
    assert len(both.unique(dim=0)) == len(both) == examples + heldout


def test_the_split_is_that_of_its_generator() -> None:
    one, same, other = (sparse_parity_task(30, 3, 50, 50, generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.train.bits, same.train.bits) and torch.equal(one.places, same.places)
    assert not torch.equal(one.train.bits, other.train.bits)


def test_different_numbers_are_uniform() -> None:
    numbers = different_numbers(2**62, 4000, generator())
    assert len(numbers.unique()) == 4000
    assert float((numbers.double() / 2**62).mean()) == pytest.approx(0.5, abs=5 / (12 * 4000) ** 0.5)


@pytest.mark.parametrize(
    ("bits", "relevant", "examples", "heldout", "sentence"),
    [
        (40, 0, 10, 10, "relevant: expected 1 to bits"),
        (3, 4, 1, 1, "relevant: expected 1 to bits"),
        (63, 3, 10, 10, "bits at most 62"),
        (3, 2, 5, 4, "expected 1 to 8 together, got 5 and 4"),
        (40, 3, 0, 10, "got 0 and 10"),
        (40, 3, 10, 0, "got 10 and 0"),
    ],
)
def test_parities_that_cannot_be_are_refused(
    bits: int, relevant: int, examples: int, heldout: int, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        sparse_parity_task(bits, relevant, examples, heldout, generator=generator())
