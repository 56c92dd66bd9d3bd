"""This file knows how many directions a linear readout needs to tell the classes of a representation apart, and why.

For a dichotomy y (a sign for every class) the cone C = {Σ z_ij y_i x_ij, z ≥ 0} is spanned by the points x_ij of all classes
i, each with the sign of its class; its critical dimension is E_t ‖Π_C(t)‖², the mean squared length of the projection of a
standard normal t on C (conic geometry calls it the statistical dimension). Seen through n random directions, the classes
can be separated with probability above 1/2 if and, up to a few directions, only if n exceeds it. Few is good.

- Points are taken as they are: not centred, not whitened. All features times a factor change nothing, nor does a rotation.
- The bias is one more coordinate of every point, as large as the root mean square length of a point. It lets the readout
  shift its threshold. Without it, dichotomies through the origin fill the whole space for features that lie on a cycle.
- t is drawn through the points: with G their Gram matrix, the inner products x_ij · t are √G ε with ε ~ N(0, I), one a point.
  So the draws depend on the generator and the number of points alone, and the same ε at two moments, for the same points,
  leaves a small error in the difference, also where the features have turned in between or changed their width.
- The value is at most min(d (+ 1 with bias), points). Where no readout separates the classes in the whole space, none does in
  any projection, and the value only says how many directions the cone fills. It then falls also where features lose
  directions, which is no improvement: read it beside an accuracy of refitted readouts on the training split.

Source: arXiv 2503.18114 and Chung, Lee & Sompolinsky 2018; Amelunxen et al. 2014 for random projections of cones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from twoclocks.measures.collapse import classes_present
from twoclocks.measures.nonnegative import nonnegative_least_squares
from twoclocks.measures.spectrum import ZERO_MODE, centred, positive, scaled

LEAST_POINTS = 10  # of every class: with fewer, any labels are separable (science.md, section 7)
JACKKNIFE_GROUPS = 10
ONE_POINT = (0.0, 0.0, 1.0, 0.0)  # radius, dimension, centre and axis alignment of constant features


@dataclass(frozen=True)
class Estimate:
    """A mean over random draws and its standard error: the precision of the draws, not that of the points or of the run."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Geometry:
    """How the points of the classes lie, as the cone sees them (`manifold_geometry`), and what it costs.

    `draws` `[draws]`: the squared projections whose mean is the critical dimension, to be paired with those of other moments.
    """

    radius: Estimate
    dimension: Estimate
    centre_alignment: Estimate
    axis_alignment: Estimate
    critical_dimension: Estimate
    draws: Tensor


@dataclass(frozen=True)
class Cone:
    """The solved problems: Gram matrix and class of the points, square of their bias, and x · t, signs, duals `[b n]`."""

    gram: Tensor
    offset: Tensor
    moments: Tensor
    signs: Tensor
    duals: Tensor
    place: Tensor


@dataclass(frozen=True)
class Anchors:
    """Which classes have an anchor `[b c]`, its weights of the points `[b c n]`, and the points as the cone has them."""

    active: Tensor
    weights: Tensor
    gram: Tensor
    offset: Tensor
    moments: Tensor


def critical_dimension(
    features: Tensor,
    labels: Tensor,
    *,
    dichotomies: str = "one-versus-rest",
    bias: bool = True,
    draws: int = 40,
    generator: torch.Generator,
) -> Estimate:
    """Return the critical dimension N_crit = E_{y,t} ‖Π_C(t)‖², in directions, with its standard error over draws.

    One-versus-rest takes each class in turn, in random order; so the error, std / √draws, is too large rather than too small
    where classes differ. Infinite where the features are constant: no number of directions separates them. About 20
    classes of 12 points serve (`chosen_points`); the cost grows with n² in memory. Compare moments at the same points and
    at generators of the same seed, by the differences of `critical_dimension_draws`.

    Args:
        features: `[n d]`, also d > n.
        labels: `[n]`, whole numbers; at least two classes, of at least 10 examples each.
        dichotomies: "one-versus-rest", "pairwise" (the points of two classes alone) or "random" (a fair sign a class).
        bias: whether every point has one more coordinate, as large as the root mean square length of a point.
        draws: how many pairs (y, t), at least 2.
        generator: where they come from.

    Raises:
        ValueError: the lengths differ, labels are not whole numbers, fewer than two classes occur, one of them has fewer
            than 10 examples, a value is not finite, or dichotomies or draws are none of the above.

    >>> eye, labels = torch.eye(40), torch.arange(4).repeat_interleave(10)  # an orthant: each of 40 weights is positive or not
    >>> found = critical_dimension(eye, labels, bias=False, draws=400, generator=torch.Generator().manual_seed(0))
    >>> abs(found.value - 20) < 4 * found.standard_error
    True
    """
    return mean_of(
        critical_dimension_draws(features, labels, dichotomies=dichotomies, bias=bias, draws=draws, generator=generator)
    )


def critical_dimension_draws(
    features: Tensor,
    labels: Tensor,
    *,
    dichotomies: str = "one-versus-rest",
    bias: bool = True,
    draws: int = 40,
    generator: torch.Generator,
) -> Tensor:
    """Return ‖Π_C(t)‖² for every draw, `[draws]`, whose mean is the critical dimension.

    At two moments, for the same points and generators of the same seed, draw k is the same dichotomy and the same t, so
    mean and error of the differences tell whether the critical dimension moved. Arguments and errors: `critical_dimension`.
    """
    return squared_projections(solved_cone(features, labels, dichotomies, bias, draws, generator), draws)


def manifold_capacity(
    features: Tensor,
    labels: Tensor,
    *,
    dichotomies: str = "one-versus-rest",
    bias: bool = True,
    draws: int = 40,
    generator: torch.Generator,
) -> Estimate:
    """Return the capacity P / N_crit, in classes per direction, P the classes of a dichotomy (2 if pairwise, else all).

    0 for constant features. The error is that of N_crit, carried through to first order. Source: arXiv 2503.18114.
    Arguments and errors: `critical_dimension`.

    >>> eye, labels = torch.eye(40), torch.arange(4).repeat_interleave(10)
    >>> found = manifold_capacity(eye, labels, bias=False, draws=400, generator=torch.Generator().manual_seed(0))
    >>> abs(found.value - 4 / 20) < 4 * found.standard_error
    True
    """
    needed = critical_dimension(features, labels, dichotomies=dichotomies, bias=bias, draws=draws, generator=generator)
    classes = 2 if dichotomies == "pairwise" else len(torch.unique(labels))
    return Estimate(classes / needed.value, classes * needed.standard_error / needed.value**2)


def manifold_geometry(
    features: Tensor,
    labels: Tensor,
    *,
    dichotomies: str = "one-versus-rest",
    bias: bool = True,
    draws: int = 40,
    generator: torch.Generator,
) -> Geometry:
    """Return radius, dimension, centre and axis alignment of the classes, and N_crit, from the same draws.

    The anchor of class i is s_i(y, t) = Σ_j z_ij x_ij / Σ_j z_ij with the duals z of the projection on C: the point of its
    convex hull that bounds the readout. Centres s⁰ are the means of the anchors, axes s¹ = s − s⁰ what is left. A class
    without a positive dual in a draw has no anchor there, and is left out of that draw `[def]`. With G⁰ and G¹ the Gram
    matrices of centres and axes of the classes with anchors, and v = s¹ · t:

    - dimension D = E[vᵀ G¹⁺ v] / E[number of anchors]: directions of a class that count;
    - radius R² = E[vᵀ (G⁰ + G¹)⁺ v] / E[vᵀ G¹⁺ v − vᵀ (G⁰ + G¹)⁺ v], the ratio of means and not the mean of ratios: the
      extent along its axes relative to the distance of its centre from the origin. Orthogonal classes of D-spheres of
      radius R around centres of length 1 have R and, as R → 0, D. Where axes outweigh centres, R√D ≫ 1, and every class
      has its anchor, the capacity is about (1 + R⁻²) / D;
    - centre alignment, mean_{i ≠ j} |cos(s⁰_i, s⁰_j)|, and axis alignment, the same of s¹ in a draw, averaged over draws:
      absolute, since the side of an anchor follows the dichotomy. Random directions have √(2 / πd), not 0.

    The bias coordinate belongs to the centres in the radius, but not in the alignment; axes have none. The centres are
    means over draws: some hundred draws keep their noise out of the axes. Errors are a jackknife over ten groups of draws.
    For constant features radius, dimension and axis alignment are 0, the centres agree, and N_crit is infinite. Source:
    arXiv 2503.18114. Arguments and errors: `critical_dimension`.

    >>> eye, labels = torch.eye(2).repeat_interleave(10, 0), torch.arange(2).repeat_interleave(10)  # each class is one point
    >>> found = manifold_geometry(eye, labels, bias=False, draws=20, generator=torch.Generator().manual_seed(0))
    >>> found.radius.value, found.dimension.value, found.centre_alignment.value
    (0.0, 0.0, 0.0)
    """
    cone = solved_cone(features, labels, dichotomies, bias, draws, generator)
    numbers = [Estimate(value, 0.0) for value in ONE_POINT] if cone is None else jackknifed(anchors_of(cone))
    projections = squared_projections(cone, draws)
    radius, dimension, centres, axes = numbers
    return Geometry(radius, dimension, centres, axes, mean_of(projections), projections)


def geometry_values(
    features: Tensor, labels: Tensor, *, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the values of `manifold_geometry` without their errors, `[4]`, and the squared projections, `[draws]`.

    The same numbers by default, in half the time: for a series over many moments. Raises: as `critical_dimension`.

    >>> eye, labels = torch.eye(2).repeat_interleave(10, 0), torch.arange(2).repeat_interleave(10)
    >>> values, _ = geometry_values(eye, labels, draws=4, generator=torch.Generator())
    >>> [round(value, 9) for value in values[:2].tolist()]  # radius and dimension: each class is one point
    [0.0, 0.0]
    """
    cone = solved_cone(features, labels, "one-versus-rest", True, draws, generator)
    if cone is None:
        return torch.tensor(ONE_POINT, dtype=torch.float64), squared_projections(cone, draws)
    everything = torch.ones(draws, dtype=torch.bool, device=features.device)
    return geometry_of(anchors_of(cone), everything), squared_projections(cone, draws)


def anchors_of(cone: Cone) -> Anchors:
    """Return the anchors of every draw."""
    member = torch.nn.functional.one_hot(cone.place).double().T
    total = cone.duals @ member.T
    weights = (cone.duals / positive(total)[:, cone.place])[:, None, :] * member
    gram = cone.gram - cone.offset
    return Anchors(total > 0, weights, gram, cone.offset, cone.moments)


def jackknifed(anchors: Anchors) -> list[Estimate]:
    """Return the four numbers of the geometry, each with its error from leaving out one group of draws after another."""
    number = torch.arange(len(anchors.active), device=anchors.active.device)
    groups = min(JACKKNIFE_GROUPS, len(number))
    without = torch.stack([geometry_of(anchors, number % groups != group) for group in range(groups)])
    errors = ((groups - 1) * without.var(0, correction=0)).sqrt()
    errors = torch.where(errors.isfinite(), errors, 0.0)
    values = geometry_of(anchors, number >= 0)
    return [Estimate(value, error) for value, error in zip(values.tolist(), errors.tolist(), strict=True)]


def geometry_of(anchors: Anchors, kept: Tensor) -> Tensor:
    """Return radius, dimension, centre alignment and axis alignment of some of the draws, `[4]`."""
    active, weights = anchors.active[kept], anchors.weights[kept]
    middle = weights.sum(0) / positive(active.sum(0).double())[:, None]
    apart = (weights - middle) * active[:, :, None]
    centres, axes = middle @ anchors.gram @ middle.T, apart @ anchors.gram @ apart.mT
    pairs = active[:, :, None] & active[:, None, :]
    smallest = anchors.gram.diagonal().mean() * ZERO_MODE
    pull = (apart * anchors.moments[kept][:, None, :]).sum(2) * (axes.diagonal(dim1=1, dim2=2) > smallest)
    spread = quadratic(axes, pull, smallest)
    touching = quadratic(axes + (centres + anchors.offset) * pairs, pull, smallest)
    met = active.any(0)
    aligned = alignment(centres, met[:, None] & met, smallest), alignment(axes, pairs, smallest)
    return torch.stack([radius_of(touching, spread), spread / positive(active.sum().double()), *aligned])


def radius_of(touching: Tensor, spread: Tensor) -> Tensor:
    """Return √(touching / (spread − touching)): 0 where nothing spreads, infinite where no centre is off the origin."""
    rest = spread - touching
    if not bool(rest > ZERO_MODE * spread):
        return torch.where(spread > 0, torch.full_like(spread, math.inf), 0.0)
    return (touching / rest).sqrt()


def quadratic(grams: Tensor, vectors: Tensor, smallest: Tensor) -> Tensor:
    """Return Σ vᵀ G⁺ v over draws, for v in the range of G, what is smaller than `smallest` in G counting as 0."""
    ridge = smallest * torch.eye(grams.shape[1], dtype=torch.float64, device=grams.device)
    solved = torch.cholesky_solve(vectors[:, :, None], torch.linalg.cholesky(grams + ridge))[:, :, 0]
    total: Tensor = (vectors * solved).sum()
    return total


def alignment(gram: Tensor, pairs: Tensor, smallest: Tensor) -> Tensor:
    """Return the mean absolute cosine of different vectors, over the given pairs of which none has no length, else 0."""
    length = gram.diagonal(dim1=-2, dim2=-1)
    long = length > smallest
    apart = ~torch.eye(gram.shape[-1], dtype=torch.bool, device=gram.device)
    counted = pairs & apart & long[..., :, None] & long[..., None, :]
    cosines = gram / positive(length.clamp_min(0.0).sqrt()[..., :, None] * length.clamp_min(0.0).sqrt()[..., None, :])
    return torch.where(counted, cosines.abs(), 0.0).sum() / positive(counted.sum().double())


def chosen_points(labels: Tensor, *, classes: int = 20, points: int = 12, generator: torch.Generator) -> Tensor:
    """Return the places of `points` examples of each of `classes` random classes, `[classes · points]`, class by class.

    Choose once and measure every moment at the same places. Where fewer classes have as many examples, all of those are
    taken, in random order.

    Raises:
        ValueError: labels are not whole numbers, fewer than 10 points or two classes are asked for, or fewer than two
            classes have as many examples.

    >>> chosen_points(torch.arange(3).repeat(50), classes=2, points=10, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([20])
    """
    check_choice(labels, classes, points)
    present, counts = torch.unique(labels, return_counts=True)
    large = present[counts >= points].cpu()
    if len(large) < 2:
        raise ValueError(
            f"labels: expected at least two classes of {points} examples, got {len(large)}; the largest has {int(counts.max())}"
        )
    taken = large[torch.randperm(len(large), generator=generator)[:classes]]
    places = [(labels.cpu() == label).nonzero()[:, 0] for label in taken]
    return torch.cat([of[torch.randperm(len(of), generator=generator)[:points]] for of in places])


def solved_cone(
    features: Tensor, labels: Tensor, dichotomies: str, bias: bool, draws: int, generator: torch.Generator
) -> Cone | None:
    """Return the projection of every draw, as weights of the points; None for constant features. Refuses unfit arguments."""
    check_manifolds(features, labels, dichotomies, draws)
    if not bool(centred(features).any()):
        return None
    _, place = classes_present(features, labels)
    phi = scaled(features)
    gram = phi @ phi.T
    offset = gram.diagonal().mean() * bias
    noise = torch.randn(draws, len(phi), dtype=torch.float64, device=generator.device, generator=generator)
    signs = DICHOTOMIES[dichotomies](int(place.max()) + 1, draws, generator).to(phi.device)[:, place]
    root = square_root(gram + offset)
    gram, moments = root @ root, noise.to(phi.device) @ root
    return Cone(gram, offset, moments, signs, nonnegative_least_squares(gram, moments, signs).weights, place)


def square_root(gram: Tensor) -> Tensor:
    """Return the symmetric square root of a positive semidefinite matrix, without the directions that are rounding."""
    values, vectors = torch.linalg.eigh(gram)
    resolved = values > torch.finfo(torch.float64).eps * len(gram) * values[-1]
    root: Tensor = (vectors * torch.where(resolved, values, 0.0).sqrt()) @ vectors.T
    return root


def squared_projections(cone: Cone | None, draws: int) -> Tensor:
    """Return ‖Π_C(t)‖² = Π_C(t) · t of every draw; infinite without a cone: no directions separate constant features."""
    if cone is None:
        return torch.full((draws,), math.inf, dtype=torch.float64)
    return (cone.duals * cone.signs * cone.moments).sum(1)


def one_versus_rest(classes: int, draws: int, generator: torch.Generator) -> Tensor:
    """Return signs `[draws c]`: one class up, the others down, each class in turn."""
    return 2 * torch.eye(classes, dtype=torch.float64)[in_turn(classes, draws, generator)] - 1


def pairwise(classes: int, draws: int, generator: torch.Generator) -> Tensor:
    """Return signs `[draws c]`: one class up, one down, the others left out, each pair in turn."""
    pairs = torch.tensor(list(combinations(range(classes), 2)))[in_turn(math.comb(classes, 2), draws, generator)]
    eye = torch.eye(classes, dtype=torch.float64)
    return eye[pairs[:, 0]] - eye[pairs[:, 1]]


def random_signs(classes: int, draws: int, generator: torch.Generator) -> Tensor:
    """Return signs `[draws c]`, each fair, given that both occur."""
    signs = fair(draws, classes, generator)
    while bool((constant := (signs == signs[:, :1]).all(1)).any()):
        signs[constant] = fair(int(constant.sum()), classes, generator)
    return signs


def fair(draws: int, classes: int, generator: torch.Generator) -> Tensor:
    """Return independent fair signs `[draws c]`."""
    return 2 * torch.randint(2, (draws, classes), device=generator.device, generator=generator).cpu().double() - 1


def in_turn(count: int, draws: int, generator: torch.Generator) -> Tensor:
    """Return `draws` numbers below `count`: all of them in random order, and again."""
    rounds = -(-draws // count)
    orders = [torch.randperm(count, device=generator.device, generator=generator).cpu() for _ in range(rounds)]
    return torch.cat(orders)[:draws]


DICHOTOMIES: Mapping[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "one-versus-rest": one_versus_rest,
    "pairwise": pairwise,
    "random": random_signs,
}


def mean_of(values: Tensor) -> Estimate:
    """Return the mean of draws and its standard error; infinite draws have an infinite mean and no error."""
    if not bool(values.isfinite().all()):
        return Estimate(math.inf, 0.0)
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def check_manifolds(features: Tensor, labels: Tensor, dichotomies: str, draws: int) -> None:
    """Refuse classes with too few points, and dichotomies or draws that there are not."""
    present, place = classes_present(features, labels)
    fewest = int(place.bincount().argmin())
    count = int(place.bincount().amin())
    if count < LEAST_POINTS:
        raise ValueError(
            f"labels: expected at least {LEAST_POINTS} examples a class, got {count} of class {int(present[fewest])}"
        )
    if dichotomies not in DICHOTOMIES:
        raise ValueError(f"dichotomies: expected one of {', '.join(DICHOTOMIES)}, got {dichotomies!r}")
    if draws < 2:
        raise ValueError(f"draws: expected at least 2, got {draws}")


def check_choice(labels: Tensor, classes: int, points: int) -> None:
    """Refuse labels that name no classes, and a choice too small to measure."""
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels: expected one axis of whole numbers, got {labels.dtype} in {[*labels.shape]}")
    if classes < 2 or points < LEAST_POINTS:
        raise ValueError(f"expected at least two classes and {LEAST_POINTS} points of each, got {classes} and {points}")
