import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import Tensor
from torch.testing import assert_close

from twoclocks.measures.nonnegative import nonnegative_least_squares


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def problems(vectors: Tensor, count: int, seed: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return Gram matrix, moments and signs of random targets, a quarter of the signs negative, and the targets."""
    targets = normal(seed, count, vectors.shape[1])
    signs = torch.where(normal(seed + 1, count, len(vectors)) < -0.7, -1.0, 1.0).double()
    return vectors @ vectors.T, targets @ vectors.T, signs, targets


def errors(vectors: Tensor, signs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return ((weights * signs) @ vectors - targets).square().sum(1)


CLUSTERS = normal(20, 6, 15).repeat_interleave(6, 0)
FAMILIES = {
    "fewer than their length": normal(1, 20, 40),
    "more than their length": normal(2, 60, 8),
    "as many": normal(3, 30, 30),
    "in clusters": CLUSTERS + 0.01 * normal(4, 36, 15),
    "repeated": CLUSTERS,
    "opposite pairs": torch.cat([normal(5, 15, 20), -normal(5, 15, 20)]),
    "about one mean": 1 + 0.01 * normal(6, 30, 40),
    "positive": normal(7, 40, 20).relu(),
    "of a plane": normal(8, 40, 2) @ normal(9, 2, 20),
    "of very different lengths": normal(10, 30, 40) * torch.logspace(-6, 6, 30, dtype=torch.float64)[:, None],
    "with zeros": normal(11, 30, 20) * (torch.arange(30) % 3 > 0)[:, None],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_least_error_is_that_of_scipy(family: str) -> None:
    vectors = FAMILIES[family]
    gram, moments, signs, targets = problems(vectors, 12)
    found = nonnegative_least_squares(gram, moments, signs)
    assert bool((found.weights >= 0).all()) and float(found.violation.max()) < 1e-8
    least = [
        nnls((vectors * s[:, None]).T.numpy(), t.numpy(), maxiter=10_000)[1] ** 2
        for s, t in zip(signs, targets, strict=True)
    ]
    assert len(least) == 12
    assert_close(
        errors(vectors, signs, targets, found.weights), torch.tensor(least, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


def test_vectors_that_differ_by_little_are_still_told_apart() -> None:
    """Points 1e-5 about a common mean, where the ridge alone would cost 1e-2 of the error."""
    vectors = 1 + 1e-5 * normal(6, 60, 80)
    gram, moments, signs, targets = problems(vectors, 8)
    found = nonnegative_least_squares(gram, moments, signs)
    least = [
        nnls((vectors * s[:, None]).T.numpy(), t.numpy(), maxiter=10_000)[1] ** 2
        for s, t in zip(signs, targets, strict=True)
    ]
    assert len(least) == 8
    exact = torch.tensor(least, dtype=torch.float64)
    assert_close(errors(vectors, signs, targets, found.weights), exact, rtol=0, atol=1e-4)


def test_an_orthant_keeps_the_positive_parts() -> None:
    targets = normal(1, 9, 7)
    found = nonnegative_least_squares(torch.eye(7).double(), targets, torch.ones(9, 7))
    assert_close(found.weights, targets.clamp_min(0.0), rtol=1e-9, atol=1e-12)


def test_separable_vectors_that_a_target_opposes_get_no_weight() -> None:
    vectors = normal(2, 25, 10) + 5 * torch.eye(10).double()[0]
    against = -vectors.mean(0, keepdim=True)
    found = nonnegative_least_squares(vectors @ vectors.T, against @ vectors.T, torch.ones(1, 25))
    assert not bool(found.weights.any()) and float(found.violation) == 0.0


def test_a_target_inside_the_cone_is_met_exactly() -> None:
    vectors = normal(3, 40, 6).abs()
    targets = normal(4, 8, 40).abs() @ vectors
    found = nonnegative_least_squares(vectors @ vectors.T, targets @ vectors.T, torch.ones(8, 40))
    assert float(errors(vectors, torch.ones(8, 40), targets, found.weights).max()) < 1e-18 * float(
        targets.square().max()
    )


def test_problems_of_a_batch_do_not_see_each_other() -> None:
    gram, moments, signs, _ = problems(FAMILIES["more than their length"], 6)
    together = nonnegative_least_squares(gram, moments, signs).weights
    alone = torch.cat(
        [nonnegative_least_squares(gram, m[None], s[None]).weights for m, s in zip(moments, signs, strict=True)]
    )
    assert_close(together, alone, rtol=1e-7, atol=1e-9)


def test_a_sign_is_the_vector_turned_round_and_zero_leaves_it_out() -> None:
    gram, moments, signs, _ = problems(normal(5, 12, 20), 3)
    turned = nonnegative_least_squares(gram * signs[0] * signs[0][:, None], moments[:1] * signs[0], torch.ones(1, 12))
    assert_close(nonnegative_least_squares(gram, moments[:1], signs[:1]).weights, turned.weights, rtol=1e-9, atol=1e-12)
    some = torch.where(torch.arange(12) < 5, signs, 0.0)
    part = nonnegative_least_squares(gram[:5, :5], moments[:, :5], signs[:, :5]).weights
    assert_close(nonnegative_least_squares(gram, moments, some).weights[:, :5], part, rtol=1e-9, atol=1e-12)
    assert not bool(nonnegative_least_squares(gram, moments, some).weights[:, 5:].any())


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_an_optimum_has_no_gradient_left(seed: int, n: int, d: int) -> None:
    gram, moments, signs, _ = problems(normal(seed, n, d), 4, seed + 1)
    weights = nonnegative_least_squares(gram, moments, signs).weights
    rising = signs * (moments - (signs * weights) @ gram)
    scale = 1e-7 * float(moments.abs().max())
    assert float(rising.max()) < scale
    assert float((rising * weights).abs().max()) < scale * max(float(weights.max()), 1.0)


@given(st.floats(1e-8, 1e8), st.floats(1e-8, 1e8))
@settings(max_examples=15, deadline=None)
def test_weights_follow_the_length_of_vectors_and_targets(length: float, size: float) -> None:
    gram, moments, signs, _ = problems(normal(6, 15, 20), 3)
    weights = nonnegative_least_squares(gram, moments, signs).weights
    scaled = nonnegative_least_squares(gram * length**2, moments * length * size, signs).weights
    assert_close(scaled * length / size, weights, rtol=1e-7, atol=1e-9)


def test_moments_that_no_target_has_end_with_their_violation_told() -> None:
    """Two equal vectors cannot meet a target differently: the error has no minimum in z where it says that they do."""
    gram = torch.ones(2, 2, dtype=torch.float64)
    found = nonnegative_least_squares(gram, torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, -1.0]]))
    assert bool(found.weights.isfinite().all())
    assert float(found.violation) > 0.1


def test_half_precision_and_no_targets_of_size_are_taken() -> None:
    zero = nonnegative_least_squares(torch.eye(3).half(), torch.zeros(2, 3), torch.ones(2, 3))
    assert zero.weights.dtype == torch.float64
    assert not bool(zero.weights.any()) and not bool(zero.violation.any())


@pytest.mark.parametrize(
    ("gram", "moments", "signs", "words"),
    [
        (torch.ones(2, 3), torch.ones(1, 3), torch.ones(1, 3), "a gram of"),
        (torch.eye(3), torch.ones(1, 2), torch.ones(1, 2), "expected"),
        (torch.eye(3), torch.ones(1, 3), torch.ones(2, 3), "signs: expected"),
        (torch.eye(3), torch.ones(1, 3), torch.full((1, 3), 0.5), "signs: expected"),
        (torch.eye(3) * np.nan, torch.ones(1, 3), torch.ones(1, 3), "finite"),
        (torch.eye(3), torch.ones(1, 3) * np.inf, torch.ones(1, 3), "finite"),
    ],
)
def test_problems_that_do_not_fit_are_refused(gram: Tensor, moments: Tensor, signs: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nonnegative_least_squares(gram, moments, signs)
