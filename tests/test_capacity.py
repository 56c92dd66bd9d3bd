import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import oracles
from twoclocks.measures import capacity
from twoclocks.measures.capacity import (
    Estimate,
    chosen_points,
    critical_dimension,
    critical_dimension_draws,
    manifold_capacity,
    manifold_geometry,
)

KINDS = ("one-versus-rest", "pairwise", "random")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def classed(seed: int, classes: int, d: int, noise: float = 1.0, points: int = 10) -> tuple[Tensor, Tensor]:
    """Return points around a random centre for every class, and labels."""
    labels = torch.arange(classes).repeat_interleave(points)
    return normal(seed, classes, d)[labels] + noise * normal(seed + 1, classes * points, d), labels


def fourier_features(seed: int, *, noise: float = 0.02) -> tuple[Tensor, Tensor]:
    """Return 12 noisy points for each of 29 residues: cosines and sines of 5 frequencies, turned into 64 directions."""
    labels = torch.arange(29).repeat_interleave(12)
    frequencies = 1 + torch.randperm(14, generator=generator(seed))[:5]
    phase = 2 * math.pi * labels[:, None].double() * frequencies / 29
    turn = torch.linalg.qr(normal(seed + 1, 64, 10)).Q.T
    return torch.cat([phase.cos(), phase.sin()], 1) @ turn + noise * normal(seed + 2, len(labels), 64), labels


def spheres(classes: int, dimension: int, radius: float) -> tuple[Tensor, Tensor]:
    """Return orthogonal classes: segments (dimension 1) or circles (2) of a radius around unit vectors."""
    angle = 2 * math.pi * torch.arange(40).double() / 40
    segment = torch.linspace(-1, 1, 10, dtype=torch.float64)[:, None]
    shape = segment if dimension == 1 else torch.stack([angle.cos(), angle.sin()], 1)
    features = torch.zeros(classes, len(shape), classes * (1 + dimension), dtype=torch.float64)
    for place in range(classes):
        features[place, :, place] = 1.0
        start = classes + place * dimension
        features[place, :, start : start + dimension] = radius * shape
    return features.flatten(0, 1), torch.arange(classes).repeat_interleave(len(shape))


def exact_sphere(dimension: int, radius: float) -> tuple[float, float]:
    """Return R and D of one orthogonal sphere by integrating over t: along its centre, and its length along the sphere.

    The class is active where t₀ > −R χ. Its anchor is then at the edge, or, where R t₀ > χ, at χ / t₀ from the centre.
    """
    along = torch.linspace(-8, 8, 1201, dtype=torch.float64)[:, None]
    length = torch.linspace(1e-6, 8, 1201, dtype=torch.float64)[None]
    density = torch.exp(-(along**2 + length**2) / 2) * length ** (dimension - 1) * (along > -radius * length)
    inside = radius * along > length
    reach = torch.where(inside, length / torch.where(inside, along, 1.0), radius).square()
    share = length**2 / (1 + reach) * density
    return math.sqrt(float((reach * share).sum() / share.sum())), float((length**2 * density).sum() / density.sum())


def in_the_open(features: Tensor, labels: Tensor, kind: str, bias: bool, draws: int) -> tuple[np.ndarray, ...]:
    """Return the points with their bias, the signs of every draw and the targets t themselves, for the oracles."""
    cone = capacity.solved_cone(features, labels, kind, bias, draws, generator(0))
    points = oracles.with_bias(features.numpy()) if bias else features.numpy()
    points = points / features.abs().max().item()
    return points, cone.signs.numpy(), np.linalg.lstsq(points, cone.moments.numpy().T, rcond=1e-10)[0].T


def test_case_21_random_points_need_half_their_number() -> None:
    values = []
    for seed in range(8):
        features, labels = normal(seed, 40, 200), torch.arange(4).repeat_interleave(10)
        for kind in ("one-versus-rest", "random"):
            found = critical_dimension(
                features, labels, dichotomies=kind, bias=False, draws=100, generator=generator(seed)
            )
            values.append(found.value)
    assert len(values) == 16
    assert np.mean(values) == pytest.approx(20.0, abs=4 * np.std(values) / math.sqrt(8))
    assert np.mean(values) == pytest.approx(20.0, abs=1.5)


def test_case_22_perfect_fourier_features_need_few_directions_with_a_bias_and_all_without() -> None:
    found = [fourier_features(seed) for seed in (0, 10)]
    assert np.mean([critical_dimension(*f, draws=58, generator=generator(1)).value for f in found]) == pytest.approx(
        5.3, abs=1.2
    )
    random = critical_dimension(*found[0], dichotomies="random", bias=False, draws=58, generator=generator(1))
    assert random.value == pytest.approx(62.5, abs=4 * random.standard_error)
    assert random.value > 56


def test_an_orthant_needs_half_its_directions_and_keeps_as_many_classes_apart() -> None:
    eye, labels = torch.eye(60), torch.arange(6).repeat_interleave(10)
    for kind, exact, classes in (("one-versus-rest", 30, 6), ("pairwise", 10, 2), ("random", 30, 6)):
        common = {"dichotomies": kind, "bias": False, "draws": 200}
        found = critical_dimension(eye, labels, **common, generator=generator(3))
        assert found.value == pytest.approx(exact, abs=4 * found.standard_error)
        held = manifold_capacity(eye, labels, **common, generator=generator(3))
        assert held.value == pytest.approx(classes / found.value, rel=1e-12)
        assert held.standard_error == pytest.approx(classes * found.standard_error / found.value**2, rel=1e-12)


def test_collapsed_orthogonal_classes_are_an_orthant_of_as_many_directions() -> None:
    features = torch.eye(7).repeat_interleave(10, 0)
    found = critical_dimension(
        features, torch.arange(7).repeat_interleave(10), bias=False, draws=800, generator=generator(0)
    )
    assert found.value == pytest.approx(3.5, abs=4 * found.standard_error)


def test_the_draws_are_normal_along_the_points() -> None:
    """The inner products x · t of the points with t have the Gram matrix as covariance, within five of its errors."""
    features, labels = classed(0, 2, 5)
    cone = capacity.solved_cone(features, labels, "one-versus-rest", True, 4000, generator(0))
    points = torch.from_numpy(oracles.with_bias(features.numpy())) / features.abs().max()
    assert_close(cone.gram, points @ points.T, rtol=1e-10, atol=1e-12)
    size = cone.gram.diagonal()
    error = ((size[:, None] * size + cone.gram.square()) / 4000).sqrt()
    assert float(((cone.moments.T.cov() - cone.gram) / error).abs().max()) < 5.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("d", [6, 40])
def test_every_draw_is_the_projection_that_quadratic_programming_finds(kind: str, bias: bool, d: int) -> None:
    features, labels = classed(d, 3, d)
    common = {"dichotomies": kind, "bias": bias, "draws": 8}
    found = critical_dimension_draws(features, labels, **common, generator=generator(0)).numpy()
    points, signs, targets = in_the_open(features, labels, kind, bias, 8)
    slow = [oracles.cone_projection((points * y[:, None])[y != 0], t) @ t for y, t in zip(signs, targets, strict=True)]
    assert len(slow) == 8
    np.testing.assert_allclose(found, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_the_critical_dimension_is_where_random_projections_become_separable(bias: bool) -> None:
    """Through n random directions, a linear programme separates mostly if n is above N_crit, seldom if below."""
    features, labels = classed(4, 5, 40, 1.5)
    found = critical_dimension(features, labels, bias=bias, draws=400, generator=generator(0))
    points = oracles.with_bias(features.numpy()) if bias else features.numpy()
    rng = np.random.default_rng(0)
    separable = {}
    for shift in (-5, 0, 5):
        n = round(found.value) + shift
        tries = [
            oracles.is_separable(
                np.where(labels.numpy() == k % 5, 1, -1)[:, None] * points @ rng.normal(size=(points.shape[1], n))
            )
            for k in range(60)
        ]
        separable[shift] = np.mean(tries)
    assert separable[-5] < 0.3 < separable[0] < 0.8
    assert separable[5] > 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_geometry_is_that_of_the_slow_definition(kind: str, bias: bool) -> None:
    features, labels = classed(2, 4, 60, 0.7)
    common = {"dichotomies": kind, "bias": bias, "draws": 12}
    found = manifold_geometry(features, labels, **common, generator=generator(0))
    points, signs, targets = in_the_open(features, labels, kind, bias, 12)
    slow = oracles.manifold_geometry(points, labels.numpy(), signs, targets, int(bias))
    fast = (found.radius, found.dimension, found.centre_alignment, found.axis_alignment)
    np.testing.assert_allclose([one.value for one in fast], slow, rtol=1e-6)
    assert found.critical_dimension == critical_dimension(features, labels, **common, generator=generator(0))
    assert_close(
        found.draws, critical_dimension_draws(features, labels, **common, generator=generator(0)), rtol=0, atol=0
    )


@pytest.mark.parametrize(("dimension", "radius"), [(1, 0.1), (1, 0.5), (2, 0.1), (2, 0.5)])
def test_orthogonal_spheres_have_their_own_radius_and_dimension(dimension: int, radius: float) -> None:
    features, labels = spheres(5, dimension, radius)
    found = manifold_geometry(features, labels, dichotomies="random", bias=False, draws=200, generator=generator(2))
    exact_radius, exact_dimension = exact_sphere(dimension, radius)
    assert exact_radius == pytest.approx(radius, rel=0.04)
    assert found.radius.value == pytest.approx(exact_radius, rel=0.02)
    assert found.dimension.value == pytest.approx(exact_dimension, abs=4 * found.dimension.standard_error)
    assert found.centre_alignment.value < 1e-2 and found.axis_alignment.value < 1e-2


def test_centres_at_an_angle_are_aligned_by_its_cosine() -> None:
    points = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).repeat_interleave(10, 0)
    found = manifold_geometry(points, torch.arange(2).repeat_interleave(10), draws=40, generator=generator(0))
    assert found.centre_alignment.value == pytest.approx(0.6, abs=1e-7)
    assert (found.radius.value, found.dimension.value, found.axis_alignment.value) == (0.0, 0.0, 0.0)


def test_classes_with_a_common_axis_are_aligned_along_it() -> None:
    segment = torch.linspace(-0.3, 0.3, 10, dtype=torch.float64)
    features = torch.eye(5, dtype=torch.float64)[:4].repeat_interleave(10, 0)
    features[:, 4] = segment.repeat(4)
    found = manifold_geometry(
        features,
        torch.arange(4).repeat_interleave(10),
        dichotomies="random",
        bias=False,
        draws=60,
        generator=generator(0),
    )
    assert found.axis_alignment.value == pytest.approx(1.0, abs=1e-6)
    assert found.centre_alignment.value < 0.1


def test_capacity_follows_from_radius_and_dimension_where_axes_outweigh_centres() -> None:
    """Four orthogonal simplices of 40 far points: capacity ≈ (1 + R⁻²) / D, less by what the centres take."""
    features = torch.cat([torch.eye(4).repeat_interleave(40, 0), 10 * torch.eye(160)], 1)
    found = manifold_geometry(
        features,
        torch.arange(4).repeat_interleave(40),
        dichotomies="random",
        bias=False,
        draws=100,
        generator=generator(1),
    )
    predicted = (1 + found.radius.value**-2) / found.dimension.value
    assert 4 / found.critical_dimension.value == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_rotation_scale_and_more_directions_change_no_draw(kind: str, bias: bool) -> None:
    features, labels = classed(0, 4, 30)
    common = {"dichotomies": kind, "bias": bias, "draws": 10}
    draws = critical_dimension_draws(features, labels, **common, generator=generator(1))
    moved = 1e-4 * torch.cat([features, torch.zeros(40, 25)], 1) @ torch.linalg.qr(normal(9, 55, 55)).Q
    assert_close(critical_dimension_draws(moved, labels, **common, generator=generator(1)), draws, rtol=1e-6, atol=1e-6)


def test_without_a_bias_the_length_of_each_point_changes_nothing_but_the_draws() -> None:
    """The cone is that of the directions; with a bias it is not."""
    features, labels = classed(0, 4, 30)
    longer = features * torch.linspace(1, 2, 40)[:, None].double()
    without = [critical_dimension(f, labels, bias=False, draws=600, generator=generator(1)) for f in (features, longer)]
    assert without[0].value == pytest.approx(
        without[1].value, abs=4 * math.hypot(*[found.standard_error for found in without])
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_examples_and_the_names_of_classes_change_only_the_draws(kind: str) -> None:
    features, labels = classed(0, 3, 30, 0.6)
    order = torch.randperm(30, generator=generator(3))
    common = {"dichotomies": kind, "draws": 600}
    first = critical_dimension(features, labels, **common, generator=generator(1))
    for other in (
        critical_dimension(features[order], labels[order], **common, generator=generator(1)),
        critical_dimension(features, 100 - 7 * labels, **common, generator=generator(2)),
    ):
        assert other.value == pytest.approx(first.value, abs=4 * math.hypot(first.standard_error, other.standard_error))
        assert other.value != first.value


def test_the_same_seed_gives_the_same_draws_and_another_seed_others() -> None:
    features, labels = classed(0, 4, 20)
    first, same, other = (critical_dimension_draws(features, labels, generator=generator(seed)) for seed in (0, 0, 1))
    assert_close(first, same, rtol=0, atol=0)
    assert not bool((first == other).any())


def test_the_error_shrinks_with_the_root_of_the_draws() -> None:
    features, labels = classed(0, 4, 20)
    errors = [
        critical_dimension(features, labels, draws=draws, generator=generator(0)).standard_error
        for draws in (100, 1600)
    ]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.25)


def test_the_error_covers_the_exact_value_as_often_as_it_says() -> None:
    eye, labels = torch.eye(20), torch.arange(2).repeat_interleave(10)
    draws = critical_dimension_draws(eye, labels, bias=False, draws=200 * 40, generator=generator(0))
    found = [capacity.mean_of(forty) for forty in draws.view(200, 40)]
    covered = np.mean([abs(one.value - 10) < 1.96 * one.standard_error for one in found])
    assert len(found) == 200
    assert 0.89 <= covered <= 0.99


def test_the_errors_of_the_geometry_cover_its_scatter() -> None:
    features, labels = classed(0, 4, 20)
    found = [manifold_geometry(features, labels, draws=60, generator=generator(seed)) for seed in range(25)]
    for name in ("radius", "dimension", "centre_alignment", "axis_alignment"):
        each = [getattr(one, name) for one in found]
        scatter = np.std([one.value for one in each])
        assert 0.5 < np.mean([one.standard_error for one in each]) / scatter < 2.0, name


def test_common_draws_leave_less_error_in_the_difference_of_two_moments() -> None:
    features, labels = classed(0, 6, 40)
    turned = (features + 0.1 * normal(7, 60, 40)) @ torch.linalg.qr(normal(8, 40, 40)).Q
    first = critical_dimension_draws(features, labels, generator=generator(0))
    paired = critical_dimension_draws(turned, labels, generator=generator(0)) - first
    apart = critical_dimension_draws(turned, labels, generator=generator(1)) - first
    assert float(paired.std()) < 0.5 * float(apart.std())


def test_better_separated_classes_need_fewer_directions_and_have_smaller_radii() -> None:
    noises = (2.0, 1.0, 0.5, 0.1)
    found = [manifold_geometry(*classed(3, 8, 60, noise), draws=80, generator=generator(0)) for noise in noises]
    needed = [one.critical_dimension.value for one in found]
    radii = [one.radius.value for one in found]
    assert len(found) == 4
    assert needed == sorted(needed, reverse=True) and radii == sorted(radii, reverse=True)


def test_the_value_is_at_most_the_directions_and_the_points() -> None:
    wide, narrow = classed(0, 2, 500), classed(0, 8, 6)
    found = critical_dimension(*wide, draws=200, generator=generator(0))
    assert found.value < 20
    full = critical_dimension(*narrow, bias=False, draws=400, generator=generator(0))
    assert full.value == pytest.approx(6.0, abs=4 * full.standard_error)
    assert critical_dimension(*narrow, draws=400, generator=generator(0)).value < 7 + 4 * full.standard_error


def test_constant_features_are_an_outcome_that_no_number_of_directions_helps() -> None:
    labels = torch.arange(3).repeat_interleave(10)
    for features in (torch.full((30, 4), 0.1), torch.zeros(30, 4)):
        assert critical_dimension(features, labels, generator=generator(0)) == Estimate(math.inf, 0.0)
        assert manifold_capacity(features, labels, generator=generator(0)) == Estimate(0.0, 0.0)
        found = manifold_geometry(features, labels, generator=generator(0))
        assert found.critical_dimension.value == math.inf and found.centre_alignment.value == 1.0
        assert found.radius.value == found.dimension.value == found.axis_alignment.value == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_half_precision_as_in_a_run_folder_gives_nearly_the_same(dtype: torch.dtype) -> None:
    features, labels = classed(0, 4, 60)
    before = features.clone()
    exact = critical_dimension_draws(features, labels, generator=generator(0))
    rough = critical_dimension_draws(features.to(dtype), labels, generator=generator(0))
    assert rough.dtype == torch.float64
    assert_close(rough, exact, rtol=0.02, atol=0.02)
    assert_close(features, before, rtol=0, atol=0)


def test_each_class_takes_its_turn_and_both_signs_occur() -> None:
    one = capacity.one_versus_rest(6, 18, generator(0))
    assert_close((one == 1).sum(0), torch.full((6,), 3))
    assert_close(one.sum(1), torch.full((18,), -4.0).double())
    two = capacity.pairwise(5, 20, generator(0))
    assert_close(two.abs().sum(0), torch.full((5,), 8.0).double())
    assert not bool(two.sum(1).any())
    signs = capacity.random_signs(3, 4000, generator(0))
    rows, counts = signs.unique(dim=0, return_counts=True)
    assert len(rows) == 6 and not bool((rows == rows[:, :1]).all(1).any())
    assert int(counts.min()) > 550


def test_chosen_points_are_whole_classes_of_equal_size_and_follow_the_seed() -> None:
    labels = torch.cat([torch.arange(30).repeat(15), torch.full((9,), 99)])
    places = chosen_points(labels, classes=20, points=12, generator=generator(0))
    present, counts = labels[places].unique(return_counts=True)
    assert len(present) == 20 and counts.tolist() == [12] * 20 and 99 not in present
    assert len(places.unique()) == 240
    assert_close(places, chosen_points(labels, classes=20, points=12, generator=generator(0)), rtol=0, atol=0)
    assert not torch.equal(places, chosen_points(labels, classes=20, points=12, generator=generator(1)))
    assert len(chosen_points(labels, classes=50, generator=generator(0))) == 30 * 12


def test_what_cannot_be_measured_is_refused_in_words() -> None:
    features, labels = classed(0, 3, 5)
    few = torch.where(torch.arange(30) == 0, 1, labels)
    bad = features.clone()
    bad[3, 2] = math.nan
    refusals = [
        (
            lambda: critical_dimension(features, few, generator=generator(0)),
            "at least 10 examples a class, got 9 of class 0",
        ),
        (lambda: critical_dimension(features, labels * 0, generator=generator(0)), "at least two classes"),
        (lambda: critical_dimension(bad, labels, generator=generator(0)), "finite"),
        (lambda: critical_dimension(features, labels[:20], generator=generator(0)), "labels: expected one for each"),
        (lambda: critical_dimension(features, labels.double(), generator=generator(0)), "whole numbers"),
        (lambda: critical_dimension(features, labels, draws=1, generator=generator(0)), "draws: expected at least 2"),
        (
            lambda: manifold_geometry(features, labels, dichotomies="all", generator=generator(0)),
            "one of one-versus-rest",
        ),
        (lambda: manifold_capacity(features, few, generator=generator(0)), "got 9 of class 0"),
        (lambda: chosen_points(labels, points=12, generator=generator(0)), "two classes of 12 examples, got 0"),
        (lambda: chosen_points(labels, points=5, generator=generator(0)), "10 points of each"),
        (lambda: chosen_points(labels.double(), generator=generator(0)), "whole numbers"),
    ]
    for refused, words in refusals:
        with pytest.raises(ValueError, match=words):
            refused()
    assert len(refusals) == 11
