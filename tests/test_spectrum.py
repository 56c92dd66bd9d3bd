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
