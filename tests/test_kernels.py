import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import oracles
from contracts import Case, check_contract
from twoclocks.measures.kernels import (
    alignment_gap,
    change_between,
    change_between_kernels,
    distance_between,
    distance_between_kernels,
    kernel_change,
    kernel_distance,
    kernel_target_alignment,
    matched_places,
    reduced_kernels,
)
from twoclocks.measures.similarity import linear_cka


def labelled(n: int = 30, d: int = 7, c: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, c, (n,), generator=generator)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) + labels[:, None], labels


@pytest.mark.parametrize(("n", "d"), [(30, 7), (10, 40)])
def test_alignment_equals_its_oracle_through_the_explicit_kernel(n: int, d: int) -> None:
    features, labels = labelled(n, d)
    expected = oracles.kernel_target_alignment(features.numpy(), labels.numpy())
    assert float(kernel_target_alignment(features, labels)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_perfect_features_reach_the_closed_form(classes: int) -> None:
    labels = torch.arange(classes).repeat(6)
    expected = (1 - 1 / classes) / math.sqrt(classes - 1)
    assert float(kernel_target_alignment(torch.eye(classes)[labels], labels)) == pytest.approx(expected, rel=1e-12)


def test_alignment_ignores_basis_shift_scale_and_the_names_of_classes() -> None:
    features, labels = labelled()
    turn = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    same = kernel_target_alignment(3 * features @ turn + 5, 10 * labels - 4)
    assert_close(same, kernel_target_alignment(features, labels), rtol=1e-9, atol=0)


def test_shuffled_labels_align_less() -> None:
    features, labels = labelled(n=200)
    shuffled = labels[torch.randperm(200, generator=torch.Generator().manual_seed(2))]
    assert kernel_target_alignment(features, shuffled) < kernel_target_alignment(features, labels) / 4


def test_constant_features_align_with_nothing() -> None:
    assert float(kernel_target_alignment(torch.full((4, 3), 0.1), torch.tensor([0, 0, 1, 1]))) == 0.0


@pytest.mark.parametrize(
    ("labels", "words"),
    [(torch.zeros(3, dtype=torch.int64), "one for each of 4"), (torch.zeros(4), "whole numbers")],
)
def test_labels_that_do_not_fit_are_refused_in_words(labels: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kernel_target_alignment(torch.ones(4, 2), labels)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("n", "d", "e"), [(30, 7, 4), (10, 40, 30), (25, 20, 20), (1, 3, 3)])
def test_change_and_distance_equal_their_oracles_through_explicit_kernels(n: int, d: int, e: int) -> None:
    x, y = normal(1, n, d), normal(2, n, e) + 0.5
    kernels = x @ x.T, y @ y.T
    change, distance = (oracle(x.numpy(), y.numpy()) for oracle in (oracles.kernel_change, oracles.kernel_distance))
    assert float(kernel_change(x, y)) == pytest.approx(change, rel=1e-11)
    assert float(change_between_kernels(*kernels)) == pytest.approx(change, rel=1e-11)
    assert float(kernel_distance(x, y)) == pytest.approx(distance, rel=1e-11, abs=1e-15)
    assert float(distance_between_kernels(*kernels)) == pytest.approx(distance, rel=1e-11, abs=1e-15)


@pytest.mark.parametrize("n", [60, 8])
def test_rotated_features_have_not_moved(n: int) -> None:
    x, turn = normal(1, n, 9), torch.linalg.qr(normal(2, 9, 9)).Q
    assert float(kernel_change(x, x @ turn)) < 1e-14
    assert float(kernel_distance(x, x @ turn)) < 1e-28
    assert float((x @ turn - x).norm() / x.norm()) > 1
    assert_close(kernel_change(x, x @ turn @ turn), kernel_change(x @ turn, x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.5, 1.0, 3.0, -2.0])
def test_scaled_features_change_by_the_square_and_keep_their_direction(scale: float) -> None:
    x = normal(1, 40, 6)
    assert float(kernel_change(x, scale * x)) == pytest.approx(abs(scale**2 - 1), rel=1e-12, abs=1e-15)
    assert float(kernel_distance(x, scale * x)) == pytest.approx(float(not scale), abs=1e-28)


def test_a_small_step_is_measured_to_full_precision() -> None:
    """K = xxᵀ moves by ε(xvᵀ + vxᵀ), of length √2 ε |x||v| for v ⊥ x; the cosine falls short of 1 by ε²|v|²/|x|²."""
    x, v = torch.tensor([[3.0], [4.0], [0.0]]).double(), torch.tensor([[0.0], [0.0], [1.0]]).double()
    for size in (1e-5, 1e-9, 1e-12):
        assert float(kernel_change(x, x + size * v)) == pytest.approx(math.sqrt(2) * size / 5, rel=1e-4)
        assert float(kernel_distance(x, x + size * v)) == pytest.approx(size**2 / 25, rel=1e-3)


@pytest.mark.parametrize("size", [1e-4, 3e-4, 1e-3, 3e-3, 1e-2])
def test_both_ways_to_a_difference_agree_where_one_takes_over(size: float) -> None:
    x = normal(1, 50, 6)
    y = x + size * normal(2, 50, 6)
    assert float(kernel_change(x, y)) == pytest.approx(float(change_between(*reduced_kernels(x, y))), rel=1e-9)
    assert float(kernel_distance(x, y)) == pytest.approx(float(distance_between(*reduced_kernels(x, y))), rel=1e-9)


def test_features_along_other_examples_are_at_distance_one() -> None:
    one, other = torch.tensor([[1.0], [2.0], [0.0], [0.0]]), torch.tensor([[0.0], [0.0], [3.0], [1.0]])
    assert float(kernel_distance(one, other)) == pytest.approx(1, rel=1e-15)
    assert float(kernel_change(one, other)) == pytest.approx(math.sqrt(25 + 100) / 5)


def test_the_distance_of_centred_features_is_one_minus_their_cka() -> None:
    x, y = normal(1, 30, 5) + 2, normal(2, 30, 8)
    centred = float(kernel_distance(x - x.mean(0), y - y.mean(0)))
    assert centred == pytest.approx(1 - float(linear_cka(x, y)), rel=1e-12)
    assert centred != pytest.approx(float(kernel_distance(x, y)), rel=1e-2)


def test_constant_and_zero_features_have_a_kernel_or_none() -> None:
    zero, constant, x = torch.zeros(5, 3), torch.full((5, 2), 7.0), normal(1, 5, 3)
    assert float(kernel_change(constant, 2 * constant)) == pytest.approx(3)
    assert float(kernel_distance(constant, 2 * constant)) == pytest.approx(0, abs=1e-28)
    assert [float(kernel_change(*pair)) for pair in ((zero, zero), (zero, x), (x, zero))] == [0.0, math.inf, 1.0]
    assert [float(kernel_distance(*pair)) for pair in ((zero, zero), (zero, x), (x, zero))] == [0.0, 1.0, 1.0]
    for measure in (kernel_change, kernel_distance):
        assert measure(zero, x).dtype == measure(zero, zero).dtype == torch.float64


def test_huge_and_tiny_features_neither_overflow_nor_vanish() -> None:
    x, y = normal(1, 20, 3), normal(2, 20, 3)
    for size in (1e-200, 1e200):
        assert_close(kernel_change(size * x, size * y), kernel_change(x, y), rtol=1e-12, atol=0)
        assert_close(kernel_distance(size * x, y), kernel_distance(x, y), rtol=1e-12, atol=0)


def test_no_matrix_of_all_pairs_of_examples_is_formed() -> None:
    n, d = 200_000, 3  # n × n would be 320 GB
    x, y = normal(1, n, d), normal(2, n, d)
    labels = torch.arange(n) % 2
    assert 0 < float(kernel_distance(x, y)) < 1
    assert float(kernel_change(x, 2 * x)) == pytest.approx(3)
    assert abs(float(alignment_gap(x, labels, y, labels, generator=seeded()))) < 1e-4


def test_moments_of_other_examples_are_refused_in_words() -> None:
    for measure in (kernel_change, kernel_distance):
        with pytest.raises(ValueError, match="the 5 examples"):
            measure(normal(1, 5, 3), normal(1, 4, 3))
    for measure in (change_between_kernels, distance_between_kernels):
        with pytest.raises(ValueError, match="shape of first"):
            measure(normal(1, 5, 5), normal(1, 4, 4))


def test_the_alignment_gap_of_identical_sets_is_nothing() -> None:
    features, labels = labelled(200, 12, 7)
    order = torch.randperm(200, generator=seeded(3))
    assert float(alignment_gap(features, labels, features, labels, generator=seeded())) == 0.0
    assert abs(float(alignment_gap(features, labels, features[order], labels[order], generator=seeded()))) < 1e-14


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_features_perfect_in_training_and_constant_elsewhere_have_the_gap_on_paper(classes: int) -> None:
    """Training aligns by (1 − 1/C)/√(C − 1); features that sit at the training mean align with nothing."""
    labels = torch.arange(classes).repeat(6)
    perfect = torch.eye(classes, dtype=torch.float64)[labels]
    constant = torch.full_like(perfect, 1 / classes)
    gap = float(alignment_gap(perfect, labels, constant, labels, generator=seeded()))
    assert gap == pytest.approx((1 - 1 / classes) / math.sqrt(classes - 1), rel=1e-12)
    assert float(alignment_gap(constant, labels, perfect, labels, generator=seeded())) == pytest.approx(-gap, rel=1e-12)


def test_the_alignment_gap_is_that_of_the_oracle_on_the_matched_places() -> None:
    features, labels = labelled(90, 7, 4)
    train, heldout = (features[:60], labels[:60]), (features[60:], labels[60:])
    places = matched_places(train[1], heldout[1], generator=seeded(5))
    sides = [
        oracles.kernel_target_alignment(x[kept].numpy(), y[kept].numpy())
        for (x, y), kept in zip((train, heldout), places, strict=True)
    ]
    gap = float(alignment_gap(*train, *heldout, generator=seeded(5)))
    assert gap == pytest.approx(sides[0] - sides[1], rel=1e-9)
    assert gap != float(alignment_gap(*train, *heldout, generator=seeded(6)))


def test_matched_places_hold_as_many_of_every_class_as_the_smaller_set() -> None:
    first, second = torch.tensor([9, 4, 4, 9, 4, 4, 1, 3, 3, 3]), torch.tensor([4, 9, 4, 4, 9, 9, 3, 7, 7])
    kept = matched_places(first, second, generator=seeded())
    assert [sorted(labels[places].tolist()) for labels, places in zip((first, second), kept, strict=True)] == [
        [4, 4, 4, 9, 9]
    ] * 2
    assert all(bool((places.diff() > 0).all()) for places in kept)
    seen = [set(matched_places(first, second, generator=seeded(seed))[0].tolist()) for seed in range(40)]
    assert set.union(*seen) == {0, 1, 2, 3, 4, 5} and len({frozenset(places) for places in seen}) == 4
    counts = matched_places(first, second, least=1, generator=seeded())
    assert sorted(first[counts[0]].tolist()) == [3, 4, 4, 4, 9, 9]


def test_drawn_places_are_uniform() -> None:
    first, second = torch.zeros(9, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    first[6:], second[2:] = 1, 1
    generator, draws = seeded(), 1000
    counts = torch.zeros(9)
    for _ in range(draws):
        counts[matched_places(first, second, least=1, generator=generator)[0]] += 1
    assert_close(counts[:6] / draws, torch.full((6,), 2 / 6), rtol=0, atol=0.06)  # four standard errors
    assert_close(counts[6:] / draws, torch.full((3,), 1 / 3), rtol=0, atol=0.06)


@pytest.mark.parametrize(("n", "classes", "signal"), [(200, 10, 0.0), (100, 2, 0.3), (400, 10, 0.1)])
@pytest.mark.parametrize("width", [16, 64])
def test_features_that_know_nothing_of_the_split_have_no_gap_on_average(
    n: int, classes: int, signal: float, width: int
) -> None:
    gaps = []
    for seed in range(60):
        generator = seeded(seed)
        centres = signal * torch.randn(classes, width, generator=generator)
        labels = torch.arange(n) % classes
        x, h = (centres[labels] + torch.randn(n, width, generator=generator) for _ in range(2))
        gaps.append(float(alignment_gap(x, labels, h, labels, generator=generator)))
    assert abs(sum(gaps) / 60) < 4 * torch.tensor(gaps).std().item() / math.sqrt(60)


def test_a_shift_of_all_heldout_features_is_no_alignment_of_theirs() -> None:
    features, labels = labelled(60, 7, 4)
    shifted = (features[30:] + 100, labels[30:])
    gaps = [
        float(alignment_gap(features[:30], labels[:30], *h, generator=seeded()))
        for h in (shifted, (features[30:], labels[30:]))
    ]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-12)


def test_constant_features_have_no_gap_and_no_rounding_to_align_with() -> None:
    labels, x = torch.arange(21) % 3, normal(1, 21, 4)
    constant = torch.full((21, 4), 0.1, dtype=torch.float64)
    assert float(alignment_gap(constant, labels, constant, labels, generator=seeded())) == 0.0
    alignment = float(kernel_target_alignment(x, labels))
    assert float(alignment_gap(constant, labels, x, labels, generator=seeded())) == pytest.approx(-alignment, rel=1e-12)


def test_features_bent_to_the_training_labels_have_a_positive_gap() -> None:
    labels = torch.arange(200) % 10
    x, h = normal(1, 200, 32), normal(2, 200, 32)
    assert float(alignment_gap(x + 3 * torch.eye(32)[labels], labels, h, labels, generator=seeded())) > 0.03


@pytest.mark.parametrize(
    ("train", "heldout", "least", "words"),
    [
        ((normal(1, 4, 3), [0, 0, 1, 1]), (normal(1, 4, 2), [0, 0, 1, 1]), 2, "3 columns"),
        ((normal(1, 4, 3), [0, 0, 1, 1]), (normal(1, 4, 3), [0, 0, 1, 2]), 2, "got 1 of 3"),
        ((normal(1, 4, 3), [0, 0, 1, 1]), (normal(1, 4, 3), [5, 5, 6, 6]), 2, "at least 2 classes"),
        ((normal(1, 4, 3), [0, 0, 0, 0]), (normal(1, 4, 3), [0, 0, 0, 0]), 2, "at least 2 classes"),
        ((normal(1, 4, 3), [0, 0, 1, 1]), (normal(1, 4, 3), [0, 0, 1, 1]), 0, "at least 1 example"),
        ((normal(1, 4, 3), [0, 0, 1]), (normal(1, 4, 3), [0, 0, 1, 1]), 2, "one for each of 4"),
        ((normal(1, 4, 3), [0, 0, 1, 1]), (normal(1, 4, 3) / 0, [0, 0, 1, 1]), 2, "finite"),
    ],
)
def test_splits_that_cannot_be_compared_are_refused_in_words(
    train: tuple[Tensor, list[int]], heldout: tuple[Tensor, list[int]], least: int, words: str
) -> None:
    sides = [item for features, labels in (train, heldout) for item in (features, torch.tensor(labels))]
    with pytest.raises(ValueError, match=words):
        alignment_gap(*sides, least=least, generator=seeded())


KERNELS = (normal(3, 6, 6), normal(4, 6, 6))
CASES = [
    Case(kernel_change, {"x": normal(5, 40, 6), "y": normal(6, 40, 9)}),
    Case(kernel_distance, {"x": normal(5, 40, 6), "y": normal(6, 40, 9)}),
    Case(change_between_kernels, dict(zip(("first", "second"), KERNELS, strict=True))),
    Case(distance_between_kernels, dict(zip(("first", "second"), KERNELS, strict=True))),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.measure.__name__)
def test_measures_between_moments_keep_their_contract(case: Case) -> None:
    check_contract(case)
