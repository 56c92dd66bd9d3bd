"""This file knows the representation over training: how separable its features are, how aligned, and how far they moved.

Everything is measured at every snapshot on the same examples, with the same random draws, so that moments can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from twoclocks.series import FEATURED, SPLITS, featured, float64, labels_of, logits_of
from twoclocks.trajectory import Float, Series, Snapshot, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

CLASSES, POINTS, DRAWS, SEED = 20, 240, 40, 0  # of the critical dimension: classes, points in all, draws of t and of y
PENALTY = 0.1  # of the ridge readouts that directions are compared with, in mean eigenvalues
POINT_NOISE, UNLIKE = (
    1.6,
    0.05,
)  # of the critical dimension, and 1 − CKA of moments that share nothing: see `point_noise`
ROUNDING = 1e-12
HALVINGS = 5  # of the examples, by which the error of the alignment gap is known
UNITS = {"critical_dimension": "directions", "manifold_dimension": "directions", "kernel_velocity": "distance per step"}
Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Representation:
    """Series of the representation by name, and what was not measured and why."""

    series: Mapping[str, Series]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Looked:
    """The examples that are looked at, the same at every moment.

    `points`: held-out places of at most `CLASSES` classes, `POINTS` in all, None where classes are too small.
    `matched`: places in both splits with equal class counts, whole and in several pairs of halves. `refused`: what cannot
    be measured, and why.
    """

    labels: Mapping[str, Tensor]
    points: Tensor | None
    matched: Matched | None
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Matched:
    """Places of training and of held-out examples with equal class counts, and the same cut into halves, several times."""

    whole: tuple[Tensor, Tensor]
    halves: tuple[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], ...]


@dataclass(frozen=True)
class Moment:
    """The tensors of one run at one snapshot, in float64."""

    train: Tensor
    heldout: Tensor
    weight: Tensor
    logits: Tensor


def representation_of(trajectory: Trajectory) -> Representation:
    """Measure the representation of every run at every snapshot that holds features of both splits and the readout.

    `critical_dimension(heldout)` of one-versus-rest dichotomies with a bias, with its standard error over the draws and the
    draws themselves; capacity and geometry of the same cones; `alignment(split)` and `alignment_gap` at equal class counts,
    with the gap's standard error over subsamples; kernel distance, change and velocity and debiased CKA of the training
    features; `ildr(heldout)`; `nc1` to `nc4`; `readout_cosine(... fit)`. A run has NaN at a moment at which its tensors are
    not finite, or at which a measure is not defined.
    """
    moments = featured(trajectory.snapshots)
    looked = looked_at(trajectory, moments[0].tensors["readout/weight"].shape[2])
    runs = len(moments[0].tensors["readout/weight"])
    rows = [list(rows_of(moments, run, looked)) for run in range(runs)]
    step = np.array([snapshot.step for snapshot in moments], np.int64)
    names = sorted({name for of_run in rows for row in of_run for name in row})
    series = {name: Series(name, unit_of(name), step, stacked(rows, name)) for name in names}
    return Representation(series, looked.refused)


def looked_at(trajectory: Trajectory, width: int) -> Looked:
    """Choose the examples that are looked at."""
    labels = {split: labels_of(trajectory, split) for split in SPLITS}
    points, no_points = chosen_or_why(lambda: points_of(labels["heldout"], width), "the critical dimension")
    matched, no_match = chosen_or_why(lambda: matched_of(labels), "alignment gap and direction of the readout")
    return Looked(labels, points, matched, (*no_points, *no_match))


def chosen_or_why(choose: Callable[[], T], what: str) -> tuple[T | None, tuple[str, ...]]:
    """Return a choice of examples, or None and why there is none."""
    try:
        return choose(), ()
    except ValueError as refusal:
        return None, (f"{what}: {refusal}",)


def points_of(labels: Tensor, width: int, seed: int = SEED) -> Tensor:
    """Return the places of the examples whose critical dimension is measured, as many of each class.

    `POINTS` in all, or twice the features if these are fewer, because n points without structure have n / 2 and no more than
    the features; and no more of a class than the last of the `CLASSES` largest has.

    Raises:
        ValueError: there are fewer than two classes with ten examples.
    """
    import torch  # only where tensors are measured: the log path reads series without it

    from twoclocks.measures.capacity import LEAST_POINTS, chosen_points

    counts = torch.unique(labels, return_counts=True)[1].sort(descending=True).values[:CLASSES]
    most = int(counts[counts >= LEAST_POINTS][-1]) if bool((counts >= LEAST_POINTS).any()) else LEAST_POINTS
    wanted = max(LEAST_POINTS, min(POINTS, 2 * width) // max(len(counts), 2))
    return chosen_points(
        labels, classes=CLASSES, points=min(wanted, most), generator=torch.Generator().manual_seed(seed)
    )


def matched_of(labels: Mapping[str, Tensor]) -> Matched:
    """Return examples of both splits with equal class counts, and their halves."""
    import torch  # only where tensors are measured: the log path reads series without it

    from twoclocks.measures.kernels import matched_places
    from twoclocks.measures.probes import stratified_parts

    generator = torch.Generator().manual_seed(SEED)
    whole = matched_places(labels["train"], labels["heldout"], generator=generator)
    halvings = []
    for _ in range(HALVINGS):
        train, heldout = (
            [places[part] for part in stratified_parts(labels[split][places], 2, generator)]
            for split, places in zip(SPLITS, whole, strict=True)
        )
        halvings.append(((train[0], heldout[0]), (train[1], heldout[1])))
    return Matched(whole, tuple(halvings))


def rows_of(moments: list[Snapshot], run: int, looked: Looked) -> Iterator[Row]:
    """Give everything that is measured of a run, moment by moment."""
    first, last = moment_of(moments[0], run), moment_of(moments[-1], run)
    before: tuple[int, Moment] | None = None
    for snapshot in moments:
        now = moment_of(snapshot, run)
        if now is None:
            yield {}
            continue
        row = (
            geometry_row(now, looked)
            | noise_row(now, first, looked)
            | alignment_row(now, looked)
            | collapse_row(now, looked)
            | readout_row(now, looked)
        )
        row |= motion_row(now, first, last)
        if before is not None:
            row |= velocity_row(now, before[1], snapshot.step - before[0])
        yield row
        before = snapshot.step, now


def moment_of(snapshot: Snapshot, run: int) -> Moment | None:
    """Return the tensors of a run at a snapshot; None where they are not finite."""
    train, heldout, weight = (float64(snapshot.tensors[name][run]) for name in FEATURED)
    logits = logits_of(snapshot, "train")[run]
    finite = all(bool(tensor.isfinite().all()) for tensor in (train, heldout, weight, logits))
    return Moment(train, heldout, weight, logits) if finite else None


def geometry_row(now: Moment, looked: Looked) -> Row:
    """Return critical dimension, capacity and geometry of the chosen held-out examples; nothing for constant features."""
    import torch  # only where tensors are measured: the log path reads series without it

    from twoclocks.measures.capacity import geometry_values, mean_of

    if looked.points is None:
        return {}
    features, labels = now.heldout[looked.points], looked.labels["heldout"][looked.points]
    generator = torch.Generator().manual_seed(SEED)
    (radius, dimension, centres, axes), draws = geometry_values(features, labels, draws=DRAWS, generator=generator)
    needed = mean_of(draws)
    if not np.isfinite(needed.value):
        return {}
    return {
        "critical_dimension(heldout)": needed.value,
        "critical_dimension_error(heldout)": needed.standard_error,
        "critical_dimension_draws(heldout)": draws.numpy(),
        "manifold_capacity(heldout)": len(torch.unique(labels)) / needed.value,
        "manifold_radius(heldout)": float(radius),
        "manifold_dimension(heldout)": float(dimension),
        "centre_alignment(heldout)": float(centres),
        "axis_alignment(heldout)": float(axes),
    }


def noise_row(now: Moment, first: Moment | None, looked: Looked) -> Row:
    """Return what the choice of points may add to the change of the critical dimension since the first snapshot."""
    from twoclocks.measures.similarity import debiased_linear_cka

    if looked.points is None or first is None:
        return {}
    likeness = float(debiased_linear_cka(first.heldout[looked.points], now.heldout[looked.points]))
    noise = point_noise(looked.labels["heldout"][looked.points], likeness)
    return {"critical_dimension_point_noise(heldout)": noise}


def point_noise(labels: Tensor, likeness: float) -> float:
    """Return the standard deviation of a relative change of the critical dimension by the choice of points alone `[def]`.

    √2 · 1.6 / √(n C) for features that have little in common: n points of C classes serve C dichotomies, and random features
    redrawn 24 times had 1.2 to 2.1 in place of 1.6 (2 to 20 classes, 20 to 240 points, 8 to 128 features). Less in
    proportion to √(1 − CKA) where the two moments are more alike than a CKA of 0.95, since their points are the same. The
    draws say nothing of it.

    >>> import torch
    >>> round(point_noise(torch.arange(20) % 5, 0.0), 3), point_noise(torch.arange(20) % 5, 1.0)
    (0.226, 0.0)
    """
    unlike = min(max(1.0 - likeness, 0.0) / UNLIKE, 1.0)
    return POINT_NOISE * math.sqrt(2.0 * unlike / (len(labels) * len(set(labels.tolist()))))


def alignment_row(now: Moment, looked: Looked) -> Row:
    """Return the alignment of both splits at equal class counts, their gap, and its standard error by halves.

    Half the difference of two disjoint halves has the variance of the whole.
    """
    if looked.matched is None:
        return {}
    train, heldout = alignments(now, looked, looked.matched.whole)
    halves = [[alignments(now, looked, half) for half in pair] for pair in looked.matched.halves]
    apart = [(first[0] - first[1]) - (second[0] - second[1]) for first, second in halves]
    return {
        "alignment(train)": train,
        "alignment(heldout)": heldout,
        "alignment_gap": train - heldout,
        "alignment_gap_error": float(np.sqrt(np.mean(np.square(apart)))) / 2,
    }


def alignments(now: Moment, looked: Looked, places: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return the alignment of some training and of some held-out examples, each centred on their own mean."""
    from twoclocks.measures.kernels import kernel_target_alignment

    own, other = places
    return (
        float(kernel_target_alignment(now.train[own], looked.labels["train"][own])),
        float(kernel_target_alignment(now.heldout[other], looked.labels["heldout"][other])),
    )


def collapse_row(now: Moment, looked: Looked) -> Row:
    """Return how far the training features have collapsed onto their classes, and the class distances held out."""
    from twoclocks.measures.collapse import inter_intra_distance_ratio, nc1, nc2_equiangular, nc2_equinorm, nc3, nc4

    labels = looked.labels["train"]
    wanted: dict[str, Callable[[], Tensor]] = {
        "nc1(train)": lambda: nc1(now.train, labels),
        "nc2_equinorm(train)": lambda: nc2_equinorm(now.train, labels),
        "nc2_equiangular(train)": lambda: nc2_equiangular(now.train, labels),
        "nc3(train)": lambda: nc3(now.train, labels, now.weight),
        "nc4(train)": lambda: nc4(now.train, labels, now.logits),
        "ildr(heldout)": lambda: inter_intra_distance_ratio(now.heldout, looked.labels["heldout"]),
    }
    return {name: value for name, measured in wanted.items() if (value := defined(measured)) is not None}


def readout_row(now: Moment, looked: Looked) -> Row:
    """Return the cosine of the native readout with ridge readouts of as many features of either split, at one penalty.

    A tuned penalty collapses on memorised features, and the cosine would jump with it.
    """
    from twoclocks.measures.readouts import readout_cosine, ridge_readout

    if looked.matched is None:
        return {}
    row: Row = {}
    for split, features, places in zip(SPLITS, (now.train, now.heldout), looked.matched.whole, strict=True):
        name = f"readout_cosine({split.replace('heldout', 'held-out')} fit)"
        labels = looked.labels[split][places]
        fitted = partial(ridge_readout, features[places], labels, classes=len(now.weight), penalties=[PENALTY])
        value = defined(lambda fitted=fitted: readout_cosine(now.weight, fitted()))  # type: ignore[misc]
        row |= {} if value is None else {name: value}
    return row


def motion_row(now: Moment, first: Moment | None, last: Moment | None) -> Row:
    """Return how far the training features are from those of the first and of the last snapshot; nothing if constant."""
    from twoclocks.measures.kernels import kernel_change, kernel_distance
    from twoclocks.measures.similarity import debiased_linear_cka

    row: Row = {}
    if is_constant(now.train):
        return row
    if first is not None and not is_constant(first.train):
        row["kernel_distance(train: to the start)"] = without_rounding(kernel_distance(first.train, now.train))
        row["kernel_change(train: from the start)"] = without_rounding(kernel_change(first.train, now.train))
        row["cka(train: to the start)"] = float(debiased_linear_cka(first.train, now.train))
    if last is not None and not is_constant(last.train):
        row["cka(train: to the end)"] = float(debiased_linear_cka(last.train, now.train))
    return row


def is_constant(features: Tensor) -> bool:
    """Return whether all examples have the same features, up to rounding."""
    from twoclocks.measures.spectrum import centred

    return not bool(centred(features).any())


def velocity_row(now: Moment, before: Moment, steps: int) -> Row:
    """Return the kernel distance a step since the snapshot before."""
    from twoclocks.measures.kernels import kernel_distance

    return {"kernel_velocity(train)": float(kernel_distance(before.train, now.train)) / steps}


def without_rounding(difference: Tensor) -> float:
    """Return a difference of kernels, 0 where it is nothing but rounding."""
    return float(difference) if float(difference) > ROUNDING else 0.0


def defined(measured: Callable[[], Tensor]) -> float | None:
    """Return a measure, or None where these features do not allow it or it is not finite."""
    try:
        value = float(measured())
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def stacked(rows: list[list[Row]], name: str) -> Float:
    """Return one measure `[r t ...]`, NaN where it was not measured."""
    shape = next(np.shape(row[name]) for of_run in rows for row in of_run if name in row)
    absent = np.full(shape, np.nan)
    return np.array([[row.get(name, absent) for row in of_run] for of_run in rows], np.float64)


def unit_of(name: str) -> str:
    """Return the unit of a series."""
    return next((unit for beginning, unit in UNITS.items() if name.startswith(beginning)), "")
