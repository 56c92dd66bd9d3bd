import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import oracles
from twoclocks.measures.probes import fit_ridge_probe
from twoclocks.measures.readouts import readout_cosine, ridge_readout


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_cosine_of_known_readouts() -> None:
    simplex = torch.eye(3)
    assert_close(readout_cosine(simplex, simplex), torch.tensor(1.0, dtype=torch.float64))
    assert_close(readout_cosine(simplex, -simplex), torch.tensor(-1.0, dtype=torch.float64))
    turned = simplex[[1, 2, 0]]  # off by one class: ⟨P, P'⟩ = −1, ‖P‖² = 2 for the centred identity P
    assert_close(readout_cosine(simplex, turned), torch.tensor(-0.5, dtype=torch.float64))


def test_the_cosine_is_that_of_the_centred_entries_taken_one_by_one() -> None:
    weight, other = drawn(5, 7), drawn(5, 7, seed=1)
    dot = first = second = 0.0
    for c in range(5):
        for k in range(7):
            a = float(weight[c, k]) - sum(float(weight[m, k]) for m in range(5)) / 5
            b = float(other[c, k]) - sum(float(other[m, k]) for m in range(5)) / 5
            dot, first, second = dot + a * b, first + a * a, second + b * b
    assert float(readout_cosine(weight, other)) == pytest.approx(dot / math.sqrt(first * second), abs=1e-12)


@given(st.integers(0, 10_000), st.floats(1e-200, 1e200), st.integers(2, 6), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_the_cosine_ignores_scale_shift_rotation_and_order(seed: int, scale: float, c: int, d: int) -> None:
    weight, other = drawn(c, d, seed=seed), drawn(c, d, seed=seed + 1)
    cosine = readout_cosine(weight, other)
    turn = torch.linalg.qr(drawn(d, d, seed=seed + 2)).Q
    order = torch.randperm(c, generator=torch.Generator().manual_seed(seed))
    assert_close(readout_cosine(scale * weight, other), cosine, rtol=1e-9, atol=1e-9)
    assert_close(readout_cosine(weight + drawn(1, d, seed=seed + 3), other), cosine, rtol=1e-7, atol=1e-7)
    assert_close(readout_cosine((weight @ turn)[order], (other @ turn)[order]), cosine, rtol=1e-9, atol=1e-9)
    assert_close(readout_cosine(other, weight), cosine)
    assert -1 <= float(cosine) <= 1


def test_a_readout_that_tells_no_classes_apart_has_no_direction() -> None:
    same = torch.full((4, 3), 0.1)
    assert float(readout_cosine(same, drawn(4, 3))) == 0.0
    assert float(readout_cosine(same, same)) == 0.0


def test_independent_readouts_are_as_far_from_orthogonal_as_said() -> None:
    cosines = torch.stack(
        [readout_cosine(drawn(10, 20, seed=2 * k), drawn(10, 20, seed=2 * k + 1)) for k in range(400)]
    )
    assert abs(float(cosines.mean())) < 4 / math.sqrt(400 * 180)
    assert float(cosines.std()) == pytest.approx(1 / math.sqrt(180), rel=0.15)


def test_the_ridge_readout_is_the_weight_of_the_ridge_probe() -> None:
    features, labels = drawn(60, 8), torch.arange(60) % 4
    assert_close(ridge_readout(features, labels), fit_ridge_probe(features, labels).weight, rtol=0, atol=0)
    unit = float((features - features.mean(0)).square().sum()) / 8
    weight, _ = oracles.ridge(features.numpy(), labels.numpy(), 4, 0.1 * unit)
    assert_close(ridge_readout(features, labels, penalties=[0.1]), torch.from_numpy(weight), rtol=1e-9, atol=1e-12)
    assert ridge_readout(features, labels, classes=6)[4:].abs().max() == 0


def test_readouts_of_two_samples_of_one_rule_agree_and_of_random_labels_do_not() -> None:
    """The false alarm: frozen random features, on which train and held-out readouts differ by sampling alone."""
    rule, features = drawn(5, 16, seed=9), [drawn(600, 16, seed=k) for k in (1, 2)]
    ruled = [ridge_readout(x, (x @ rule.T).argmax(1), classes=5) for x in features]
    assert float(readout_cosine(*ruled)) > 0.9
    ridges = []
    for k, x in enumerate(features):
        labels = torch.randint(0, 5, (600,), generator=torch.Generator().manual_seed(k))
        ridges.append(ridge_readout(x, labels, classes=5))
    assert abs(float(readout_cosine(*ridges))) < 4 / math.sqrt(4 * 16)
    assert abs(float(readout_cosine(drawn(5, 16, seed=5), ruled[0]))) < 4 / math.sqrt(4 * 16)


def test_what_has_no_cosine_is_refused_in_words() -> None:
    for weight, other, words in (
        (drawn(3, 2), drawn(3, 4), r"other: expected the shape of the weight, \[3, 2\], got \[3, 4\]"),
        (drawn(1, 2), drawn(1, 2), "weight: expected at least two classes, got 1"),
        (drawn(3, 2), torch.full((3, 2), torch.nan), "other: expected finite"),
        (drawn(3), drawn(3), "weight: expected two axes"),
    ):
        with pytest.raises(ValueError, match=words):
            readout_cosine(weight, other)
