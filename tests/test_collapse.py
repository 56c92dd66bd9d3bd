import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import oracles
from contracts import Case, check_contract
from twoclocks.measures.collapse import (
    inter_intra_distance_ratio,
    nc1,
    nc2_equiangular,
    nc2_equinorm,
    nc3,
    nc4,
    rule_residual,
    within_between_scatter,
)

OF_FEATURES = (nc1, nc2_equinorm, nc2_equiangular, within_between_scatter)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def classed(seed: int, n: int = 60, d: int = 7, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Return features with classes of unequal size, each around a centre of its own, and labels."""
    labels = torch.cat([torch.arange(classes), torch.randint(0, classes, (n - classes,), generator=_generator(seed))])
    return normal(seed, n, d) + 2 * normal(seed + 1, classes, d)[labels], labels


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simplex(classes: int, repeats: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(classes).repeat(repeats)
    return 3 * torch.eye(classes, dtype=torch.float64)[labels] + 1, labels


@pytest.mark.parametrize(("d", "classes"), [(7, 4), (2, 5), (1, 2), (30, 3)])
def test_measures_of_collapse_equal_their_oracles(d: int, classes: int) -> None:
    features, labels = classed(d, d=d, classes=classes)
    weight, logits = normal(9, classes, d), normal(8, 60, classes)
    phi, y = features.numpy(), labels.numpy()
    measured = [float(measure(features, labels)) for measure in OF_FEATURES]
    expected = [oracles.nc1(phi, y), *oracles.nc2(phi, y), oracles.within_between_scatter(phi, y)]
    assert measured == pytest.approx(expected, rel=1e-9)
    assert float(inter_intra_distance_ratio(features, labels)) == pytest.approx(
        oracles.inter_intra_distance_ratio(phi, y), rel=1e-9
    )
    assert float(nc3(features, labels, weight)) == pytest.approx(oracles.nc3(phi, y, weight.numpy()), rel=1e-9)
    assert float(nc4(features, labels, logits)) == pytest.approx(oracles.nc4(phi, y, logits.numpy()), abs=1e-12)
    assert float(rule_residual(logits, labels)) == pytest.approx(oracles.rule_residual(logits.numpy(), y), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_collapsed_simplex_is_collapsed_by_every_measure(classes: int) -> None:
    features, labels = simplex(classes, 5)
    for measure in OF_FEATURES:
        assert float(measure(features, labels)) == pytest.approx(0.0, abs=1e-12), measure.__name__
    weight = 7 * (torch.eye(classes, dtype=torch.float64) - 1 / classes)
    assert float(nc3(features, labels, weight)) == pytest.approx(0.0, abs=1e-12)
    assert float(nc4(features, labels, features @ weight.T)) == 0.0
    assert float(rule_residual(features @ weight.T, labels)) == pytest.approx(0.0, abs=1e-24)


def test_noise_around_a_simplex_has_the_variability_of_its_size() -> None:
    """Centres e_c with two points ±s e_i a coordinate: Σ_W = s² I / C, Σ_B has C − 1 eigenvalues 1/C: NC1 = s²(C − 1)/C."""
    classes, size, one = 5, 0.3, torch.eye(5, dtype=torch.float64)
    shifts = torch.cat([size * one, -size * one])
    features = (one[:, None] + shifts).view(-1, classes)
    labels = torch.arange(classes).repeat_interleave(2 * classes)
    assert float(nc1(features, labels)) == pytest.approx(size**2 * (classes - 1) / classes, rel=1e-12)
    assert float(within_between_scatter(features, labels)) == pytest.approx(size**2 / (1 - 1 / classes), rel=1e-12)


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6))
@settings(max_examples=15, deadline=None)
def test_rotation_shift_and_scale_change_nothing(seed: int, factor: float) -> None:
    features, labels = classed(seed)
    turn = torch.linalg.qr(normal(seed + 2, 7, 7)).Q
    moved = factor * (features @ turn + 3)
    for measure in OF_FEATURES:
        assert_close(measure(moved, labels), measure(features, labels), rtol=1e-8, atol=1e-12)
    weight = normal(seed + 3, 4, 7)
    assert_close(nc3(moved, labels, weight @ turn), nc3(features, labels, weight), rtol=1e-8, atol=0)
    logits = normal(seed + 4, 60, 4)
    assert_close(nc4(moved, labels, logits), nc4(features, labels, logits), rtol=0, atol=0)
    shifted = factor * (logits + normal(seed + 5, 60, 1))
    assert_close(rule_residual(shifted, labels), rule_residual(logits, labels), rtol=1e-7, atol=0)


@pytest.mark.parametrize("measure", OF_FEATURES, ids=lambda measure: measure.__name__)
def test_repeating_the_examples_of_one_class_changes_nothing(measure: object) -> None:
    features, labels = classed(3)
    again = labels == 1
    twice = torch.cat([features, features[again]]), torch.cat([labels, labels[again]])
    assert_close(measure(*twice), measure(features, labels), rtol=1e-10, atol=0)


def test_centres_that_coincide_and_constant_features_give_no_nan() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    same = torch.tensor([[0.1], [0.7], [0.3], [0.5]], dtype=torch.float64)
    assert float(nc1(same, labels)) == math.inf
    assert float(within_between_scatter(same, labels)) == math.inf
    constant = torch.full((4, 3), 0.1)
    assert [float(measure(constant, labels)) for measure in OF_FEATURES] == [0.0, 0.0, 1.0, 0.0]
    assert float(rule_residual(constant, labels)) == 0.0
    assert float(nc3(constant, labels, torch.zeros(2, 3))) == 0.0


def test_logits_that_ignore_the_rule_are_all_residual() -> None:
    logits = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    assert float(rule_residual(logits, torch.tensor([0, 0, 1, 1]))) == 1.0


def test_a_network_that_answers_the_nearest_centre_agrees_with_the_rule() -> None:
    features, labels = classed(6, n=400)
    features = features + 5 * labels[:, None]
    centres = torch.stack([features[labels == c].mean(0) for c in range(4)])
    assert float(nc4(features, labels, -torch.cdist(features, centres))) == 0.0
    assert float(nc4(features, labels, torch.cdist(features, centres))) == 1.0


def test_a_class_without_examples_has_no_centre_to_be_near() -> None:
    features, labels = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 2])
    assert float(nc4(features, labels, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))) == 0.5


@pytest.mark.parametrize("measure", [*OF_FEATURES, rule_residual], ids=lambda measure: measure.__name__)
def test_every_measure_of_collapse_keeps_its_contract(measure: object) -> None:
    features, labels = classed(5, classes=3)
    name = "logits" if measure is rule_residual else "features"
    check_contract(Case(measure, {name: features, "labels": labels}, least=2))


def test_what_does_not_fit_is_refused_in_words() -> None:
    features, labels = classed(0)
    refusals = [
        (lambda: nc1(features, torch.zeros(60, dtype=torch.long)), "at least two classes"),
        (lambda: nc1(features, labels[:4]), "labels: expected one"),
        (lambda: nc3(features, labels, torch.ones(5, 7)), "weight: expected"),
        (lambda: nc3(features, labels + 1, torch.ones(4, 7)), "weight: expected"),
        (lambda: nc4(features, labels, torch.ones(60, 3)), "labels: expected 0 to 2"),
        (lambda: rule_residual(features / 0, labels), "finite"),
    ]
    for refused, words in refusals:
        with pytest.raises(ValueError, match=words):
            refused()
    assert len(refusals) == 6


def test_distances_of_a_noisy_simplex_have_the_ratio_of_their_lengths() -> None:
    """Centres e_c are √2 apart, and every point is s from its own."""
    classes, size, one = 5, 0.3, torch.eye(5, dtype=torch.float64)
    features = (one[:, None] + torch.cat([size * one, -size * one])).view(-1, classes)
    labels = torch.arange(classes).repeat_interleave(2 * classes)
    assert float(inter_intra_distance_ratio(features, labels)) == pytest.approx(math.sqrt(2) / size, rel=1e-12)


def test_the_distance_ratio_ignores_rotation_shift_scale_and_repeated_examples() -> None:
    features, labels = classed(3)
    value = inter_intra_distance_ratio(features, labels)
    moved = 1e-3 * (features @ torch.linalg.qr(normal(5, 7, 7)).Q + 3)
    assert_close(inter_intra_distance_ratio(moved, labels), value, rtol=1e-9, atol=0)
    again = labels == 1
    twice = torch.cat([features, features[again]]), torch.cat([labels, labels[again]])
    assert_close(inter_intra_distance_ratio(*twice), value, rtol=1e-10, atol=0)


def test_the_distance_ratio_of_collapsed_coinciding_and_constant_classes_is_an_outcome() -> None:
    collapsed = simplex(4, 5)
    assert float(inter_intra_distance_ratio(*collapsed)) == math.inf
    labels = torch.tensor([0, 0, 1, 1])
    same = torch.tensor([[0.1], [0.7], [0.3], [0.5]], dtype=torch.float64)
    assert float(inter_intra_distance_ratio(same, labels)) == 0.0
    assert float(inter_intra_distance_ratio(torch.full((4, 3), 0.1), labels)) == 0.0


def test_the_distance_ratio_keeps_the_contract_of_a_measure() -> None:
    features, labels = normal(5, 60, 7), torch.cat([torch.tensor([0, 0, 1]), torch.arange(57) % 3])
    check_contract(Case(inter_intra_distance_ratio, {"features": features, "labels": labels}, least=3))
