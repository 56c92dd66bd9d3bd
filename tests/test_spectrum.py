import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import oracles
from twoclocks.measures import spectrum
from twoclocks.measures.spectrum import (
    effective_rank,
    entropy_rank,
    participation_ratio,
    schatten_energy,
    schatten_norm,
    singular_values,
    stable_rank,
)

RANKS = (stable_rank, effective_rank, entropy_rank)


def matrix(seed: int, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(seed: int, size: int) -> Tensor:
    return torch.linalg.qr(matrix(seed, size, size)).Q


@pytest.mark.parametrize(("rows", "columns"), [(7, 7), (5, 30), (30, 5), (1, 4), (4, 1), (1, 1)])
def test_spectra_equal_their_oracles(rows: int, columns: int) -> None:
    a = matrix(rows, rows, columns)
    assert_close(singular_values(a), torch.from_numpy(oracles.singular_values(a.numpy())), rtol=1e-9, atol=1e-12)
    for rank in RANKS:
        assert float(rank(a)) == pytest.approx(getattr(oracles, rank.__name__)(a.numpy()), rel=1e-9)
    for p in (0.5, 2 / 3, 1.0, 2.0, 5.0, math.inf):
        assert float(schatten_norm(a, p)) == pytest.approx(oracles.schatten_norm(a.numpy(), p), rel=1e-9)
    if rows > 1:
        assert float(participation_ratio(a)) == pytest.approx(oracles.participation_ratio(a.numpy()), rel=1e-9)


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6))
@settings(max_examples=15, deadline=None)
def test_ranks_ignore_rotation_and_scale(seed: int, factor: float) -> None:
    a = matrix(seed, 6, 9)
    turned = factor * rotation(seed + 1, 6) @ a @ rotation(seed + 2, 9)
    for rank in RANKS:
        assert_close(rank(turned), rank(a), rtol=1e-9, atol=0)
    assert_close(participation_ratio(factor * a @ rotation(seed, 9) + 3), participation_ratio(a), rtol=1e-6, atol=0)
    assert_close(schatten_norm(turned, 0.5), factor * schatten_norm(a, 0.5), rtol=1e-9, atol=0)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_ranks_are_ordered_and_bounded_by_the_rank(seed: int) -> None:
    a = matrix(seed, 8, 3) @ matrix(seed + 1, 3, 10)
    assert 1 <= stable_rank(a) <= entropy_rank(a) <= effective_rank(a) <= 3


def test_zeros_of_a_spectrum_do_not_leak_into_ranks_and_norms() -> None:
    line = matrix(0, 300, 1) @ matrix(1, 1, 200)
    for rank in RANKS:
        assert float(rank(line)) == pytest.approx(1.0, abs=1e-9)
    assert float(schatten_norm(line, 0.5)) == pytest.approx(float(line.norm()), rel=1e-9)
    assert int((singular_values(line) > 0).sum()) == 1


def test_small_singular_values_count_in_a_schatten_quasi_norm() -> None:
    values = torch.tensor([1.0, 1e-4, 1e-9, 1e-11], dtype=torch.float64)
    a = rotation(0, 4) @ values.diag() @ rotation(1, 4)
    assert float(schatten_norm(a, 0.25)) == pytest.approx(float(values.pow(0.25).sum() ** 4), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_ranks_survive_very_small_and_very_large_entries(scale: float) -> None:
    a = matrix(2, 5, 4)
    for rank in (*RANKS, participation_ratio):
        assert_close(rank(scale * a), rank(a))
    assert_close(singular_values(scale * a), scale * singular_values(a))


def test_a_matrix_of_zeros_and_constant_features_have_rank_zero() -> None:
    for rank in RANKS:
        assert float(rank(torch.zeros(3, 4))) == 0.0
    assert float(participation_ratio(matrix(0, 1, 50).expand(7, 50))) == 0.0
    assert float(schatten_norm(torch.zeros(3, 4), 0.5)) == 0.0
    assert singular_values(torch.zeros(3, 4)).tolist() == [0.0, 0.0, 0.0]


def test_what_is_no_matrix_is_refused_in_words() -> None:
    for bad, words in [(torch.zeros(3), "two axes"), (torch.zeros(0, 3), "at least one entry")]:
        with pytest.raises(ValueError, match=words):
            stable_rank(bad)
    with pytest.raises(ValueError, match="positive number"):
        schatten_norm(torch.eye(2), 0.0)
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        participation_ratio(torch.ones(1, 3))


def test_the_gram_matrix_of_the_smaller_side_is_taken() -> None:
    assert spectrum.smaller_gram(torch.ones(2, 5)).shape == (2, 2)
    assert spectrum.smaller_gram(torch.ones(5, 2)).shape == (2, 2)


@pytest.mark.parametrize("p", [0.25, 0.5, 2 / 3, 1.0, 2.0, 3.0])
def test_schatten_energies_are_sums_of_powers_and_powers_of_the_norm(p: float) -> None:
    a = matrix(4, 6, 9)
    expected = sum(float(value) ** p for value in oracles.singular_values(a.numpy()))
    assert float(schatten_energy(a, p)) == pytest.approx(expected, rel=1e-10)
    assert float(schatten_energy(a, p)) == pytest.approx(float(schatten_norm(a, p)) ** p, rel=1e-12)
    turned = 7 * rotation(5, 6) @ a @ rotation(6, 9)
    assert_close(schatten_energy(turned, p), 7**p * schatten_energy(a, p), rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_a_type_cannot_resolve_counts_as_zero(dtype: torch.dtype) -> None:
    """A matrix of rank 2 rounded to a short type has full rank, and at p = 1/2 its 98 zeros would weigh most."""
    turn, other = rotation(7, 100)[:, :2], rotation(8, 100)[:, :2]
    a = turn @ torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64)) @ other.T
    assert float(schatten_energy(a.to(dtype), 0.5)) == pytest.approx(3.0, rel=1e-6 if dtype == torch.float32 else 2e-3)
    assert float(schatten_norm(a.to(dtype), 0.5)) == pytest.approx(9.0, rel=1e-6 if dtype == torch.float32 else 4e-3)
    if dtype != torch.float64:
        assert float(schatten_energy(a.to(dtype).double(), 0.5)) > 3 + 1e-3


def test_small_values_that_a_type_resolves_are_kept() -> None:
    values = torch.tensor([1.0, 1e-5])
    assert float(schatten_energy(values.diag(), 0.5)) == pytest.approx(1 + 1e-5**0.5, rel=1e-6)
    assert float(schatten_energy(values.diag().half(), 0.5)) == 1.0
    assert float(schatten_energy(torch.diag(torch.tensor([4, 9])), 0.5)) == pytest.approx(5.0)


def test_a_schatten_energy_of_nothing_is_nothing_and_of_no_power_is_refused() -> None:
    assert float(schatten_energy(torch.zeros(3, 4), 0.5)) == 0.0
    for p in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive, finite"):
            schatten_energy(torch.eye(2), p)
