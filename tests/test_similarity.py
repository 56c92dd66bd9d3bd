import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import oracles
from twoclocks.measures.similarity import debiased_linear_cka, linear_cka

BOTH = (linear_cka, debiased_linear_cka)


def gaussian(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("d", "e"), [(3, 5), (3, 60), (60, 70)])
def test_similarity_equals_its_oracle_through_explicit_kernels(d: int, e: int) -> None:
    x, y = gaussian(0, 20, d), gaussian(1, 20, e)
    y[:, :3] += x[:, :3]
    for cka in BOTH:
        assert float(cka(x, y)) == pytest.approx(getattr(oracles, cka.__name__)(x.numpy(), y.numpy()), rel=1e-9)


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(-10, 10))
@settings(max_examples=15, deadline=None)
def test_similarity_ignores_rotation_shift_and_scale(seed: int, factor: float, shift: float) -> None:
    x, y = gaussian(seed, 12, 4), gaussian(seed + 1, 12, 5)
    turned = factor * x @ torch.linalg.qr(gaussian(seed + 2, 4, 4)).Q + shift
    for cka in BOTH:
        assert_close(cka(turned, y), cka(x, y), rtol=1e-6, atol=1e-9)
        assert_close(cka(x, y), cka(y, x), rtol=1e-12, atol=1e-12)
        assert float(cka(turned, x)) == pytest.approx(1.0)


def test_unrelated_wide_features_look_alike_only_without_debiasing() -> None:
    x, y = gaussian(3, 30, 2000), gaussian(4, 30, 2000)
    assert float(linear_cka(x, y)) > 0.95
    assert abs(float(debiased_linear_cka(x, y))) < 0.1


def test_constant_features_are_like_nothing() -> None:
    for cka in BOTH:
        assert float(cka(torch.full((6, 2), 0.1), gaussian(0, 6, 3))) == 0.0


def test_other_examples_are_refused_in_words() -> None:
    for cka in BOTH:
        with pytest.raises(ValueError, match="expected the 6 examples of x"):
            cka(gaussian(0, 6, 2), gaussian(0, 7, 2))
