"""This file knows the course of a measure over training: where it starts, how far it gets, whether it turns back.

Every course is read on one scale, `share`: 0 at chance (the level of the untrained network), 1 at perfection. So a rule
written for accuracies holds for losses too, and a two-class task, which starts at one half, is not taken to be half solved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from twoclocks.trajectory import Array, Float, Series, Trajectory

FARTHEST = 1e6  # shares beyond this many times the way from chance to perfection are not told apart
MOMENTS = 1500  # a course is smoothed at this many moments at most
WINDOW = 1.08  # each over the evaluations within this factor of its time, as training happens on a log scale of time
COIN = (0.4, 0.62)  # first accuracies that a two-class task may start from; above it no chance level is believed
START_AGREES = 0.03  # training and held-out accuracy that start closer than this both start at chance


@dataclass(frozen=True)
class Course:
    """One measure of one run, as shares of the way from chance to perfection, `[t]`.

    `raw` is as recorded; `smooth` is its running median at the moments `at` (indices into `step`), each over `window`
    evaluations; `noise` is the standard deviation of one evaluation. `chance` and `perfect` are in the measure's own unit.
    `examples`: how many an accuracy is of, where that is known.
    """

    name: str
    step: Array
    raw: Float
    at: Array
    smooth: Float
    window: Array
    noise: float
    chance: float
    perfect: float
    chance_is_known: bool
    examples: int | None = None

    @property
    def is_accuracy(self) -> bool:
        """Return whether the measure is an accuracy (and not a loss)."""
        return self.name.endswith("accuracy")

    @property
    def title(self) -> str:
        """Return the name as a reader says it.

        >>> Course("train_accuracy", *[np.zeros(1)] * 5, 0.0, 0.0, 1.0, True).title
        'training accuracy'
        """
        return self.name.replace("heldout", "held-out").replace("train_", "training ").replace("_", " ")

    @property
    def best(self) -> float:
        """Return the best smoothed share."""
        return float(self.smooth.max())

    @property
    def best_step(self) -> float:
        """Return the step of the best smoothed share."""
        return float(self.step[self.at[int(self.smooth.argmax())]])

    def in_unit(self, share: Any) -> Any:
        """Return a share, or an array of them, in the measure's own unit."""
        return self.chance + share * (self.perfect - self.chance)

    def share_of(self, value: float) -> float:
        """Return how far a value in the measure's own unit is on the way from chance to perfection."""
        return (value - self.chance) / (self.perfect - self.chance)

    def first_past(self, share: float, sustained: int = 3) -> int | None:
        """Return the first index into `at` from which `sustained` smoothed moments in a row are at or past a share."""
        return first_run(self.smooth >= share, min(sustained, max(1, len(self.smooth) // 4)))

    def step_past(self, share: float) -> float | None:
        """Return the step that belongs to `first_past`."""
        first = self.first_past(share)
        return None if first is None else float(self.step[self.at[first]])

    def error_at(self, step: float, before: int = 15, after: int = 15) -> float:
        """Return the standard error of the smoothed share at a step: that of a median of its window.

        The noise is that of the evaluations around the step (`before` and `after` it so many), or of the whole course
        where that is more.
        """
        place = max(int(np.searchsorted(self.step[self.at], step, side="right")) - 1, 0)
        size, centre = int(self.window[place]), int(self.at[place])
        noise = max(self.noise, evaluation_noise(self.raw[max(0, centre - before) : centre + after + 1]))
        return noise * (1.25 / float(np.sqrt(size)) if size > 1 else 1.0)

    def at_step(self, step: float) -> float:
        """Return the smoothed share at a step, taken from the last moment at or before it."""
        place = int(np.searchsorted(self.step[self.at], step, side="right")) - 1
        return float(self.smooth[max(place, 0)])


@dataclass(frozen=True)
class Dip:
    """A fall and a rise: the best share before (`first`), the worst between (`trough`), the best after (`second`)."""

    first: float
    trough: float
    second: float
    first_step: float
    trough_step: float
    second_step: float
    evaluations: int

    @property
    def depth(self) -> float:
        """Return how far it fell, in shares."""
        return self.first - self.trough

    @property
    def recovery(self) -> float:
        """Return how far it rose again, in shares."""
        return self.second - self.trough


@dataclass(frozen=True)
class Trend:
    """How much a course gained over the last part of the training, with its standard error, in shares."""

    gain: float
    standard_error: float
    evaluations: int

    def exceeds(self, least: float) -> bool:
        """Return whether the gain is beyond noise and beyond `least`."""
        return self.gain > max(least, 3.0 * self.standard_error)


def deepest_fall(values: Float) -> tuple[int, int, float]:
    """Return the places of a level and of the lowest later one that lie furthest apart, and how far.

    Levels are those of `medians_of_three`: one value alone is no fall.
    """
    smooth = medians_of_three(values)
    highest = np.maximum.accumulate(smooth)
    low = int((highest - smooth).argmax())
    return int(smooth[: low + 1].argmax()), low, float(highest[low] - smooth[low])


def medians_of_three(values: Float) -> Float:
    """Return every value's median with its two neighbours; the first stands for itself, the last for the last three.

    >>> medians_of_three(np.array([0.9, 0.8, 0.1, 0.7, 0.0]))
    array([0.9, 0.8, 0.7, 0.1, 0.1])
    """
    smooth = values.copy()
    smooth[1:-1] = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    smooth[-1] = np.median(values[-3:]) if len(values) > 1 else values[-1]
    return smooth


def course_of(trajectory: Trajectory, split: str, run: int = 0) -> Course | None:
    """Return the course of a split: of its accuracy where that was recorded, else of its loss, else None."""
    series = trajectory.scalars.get(f"{split}_accuracy")
    if series is not None and np.isfinite(series.value[run]).sum() >= 2:
        other = trajectory.scalars.get("heldout_accuracy" if split == "train" else "train_accuracy")
        sizes = [
            len(batch.labels) for name in ("train", "heldout") if (batch := trajectory.batches.get(name)) is not None
        ]
        chance, known = chance_accuracy(series.value[run], None if other is None else other.value[run], sizes)
        own = trajectory.batches.get(split)
        return replace(course(series, run, chance, 1.0, known), examples=None if own is None else len(own.labels))
    series = trajectory.scalars.get(f"{split}_loss")
    if series is None or np.isfinite(series.value[run]).sum() < 2:
        return None
    finite = series.value[run][np.isfinite(series.value[run])]
    return course(series, run, first_loss(trajectory, float(finite[0]), run), min(0.0, float(finite.min())), True)


def first_loss(trajectory: Trajectory, own: float, run: int) -> float:
    """Return the loss of the untrained network: the earliest of either split, or the split's own first if that is more.

    Logs often begin one split later than the other, by when the network has learned most of what it will.
    """
    firsts = []
    for name in ("train_loss", "heldout_loss"):
        series = trajectory.scalars.get(name)
        finite = np.flatnonzero(np.isfinite(series.value[run])) if series is not None else np.empty(0, np.int64)
        if series is not None and len(finite):
            firsts.append((float(series.step[finite[0]]), float(series.value[run][finite[0]])))
    return max(own, min(firsts)[1])


def course(series: Series, run: int, chance: float, perfect: float, chance_is_known: bool) -> Course:
    """Return the course of one run of a series, given what counts as chance and as perfect."""
    finite = np.isfinite(series.value[run])
    step = series.step[finite]
    with np.errstate(over="ignore", invalid="ignore"):  # a loss of 1e300 is as bad as one of 1e6
        span = np.float64(perfect) - chance
        raw = np.nan_to_num((series.value[run][finite] - chance) / (span if span != 0 else 1.0), nan=-FARTHEST)
    raw = np.clip(raw, -FARTHEST, FARTHEST)
    at, smooth, window = running_median(step, raw)
    noise = evaluation_noise(raw)
    return Course(series.name, step, raw, at, smooth, window, noise, chance, perfect, chance_is_known)


def chance_accuracy(accuracy: Float, other: Float | None, sizes: Sequence[int] = ()) -> tuple[float, bool]:
    """Return the accuracy of the untrained network as the log shows it, and whether the log shows it.

    Before training, training and held-out examples are answered equally badly. Where the first records of the two differ
    by more than their noise (`sizes`: of how many examples they are, where known), or the first record is already a good
    one, learning began before the log did. Chance is then unknown: one half where the lower of the two is about that, as on
    a two-class task, and else 0 stands for it.
    """
    accuracy = accuracy[np.isfinite(accuracy)]
    own = float(accuracy[0])
    finite: Float = np.empty(0) if other is None else other[np.isfinite(other)]
    if not len(finite):
        return (own, True) if own <= COIN[1] else (0.0, False)
    first = float(finite[0])
    middle = 0.5 * (own + first)
    drawn = middle * (1 - middle) * sum(1 / size for size in sizes if size)
    noise = float(np.sqrt(early_noise(accuracy) ** 2 + early_noise(finite) ** 2 + max(drawn, 0.0)))
    if abs(own - first) <= max(START_AGREES, 3.0 * noise) and max(own, first) <= COIN[1]:
        return 0.5 * (own + first), True
    return (0.5, False) if COIN[0] <= min(own, first) <= COIN[1] else (0.0, False)


def early_noise(raw: Float) -> float:
    """Return the noise of one evaluation at the start of a log, or over all of it where that is more."""
    return max(evaluation_noise(raw), evaluation_noise(raw[: max(12, len(raw) // 10)]))


def running_median(step: Array, value: Float) -> tuple[Array, Float, Array]:
    """Return chosen indices, the running median there over the evaluations within a factor of time, and their number.

    Under 30 evaluations nothing is smoothed. The first and the last evaluation stand for themselves, so that an end point
    is not drawn towards the past.
    """
    count = len(value)
    if count < 30:
        return np.arange(count), value.copy(), np.ones(count, dtype=np.int64)
    at = np.arange(count) if count <= MOMENTS else moments(step, count)
    age = (step - step[0]).astype(np.float64) + 1.0
    low = np.searchsorted(age, age[at] / WINDOW, side="left")
    high = np.searchsorted(age, age[at] * WINDOW, side="right") - 1
    half = np.minimum(np.maximum(np.minimum(at - low, 200), 1), np.minimum(at, count - 1 - at))
    half = np.where(high - at < half, np.maximum(np.minimum(half, np.maximum(high - at, 1)), np.minimum(1, half)), half)
    smooth = np.empty(len(at))
    for h in np.unique(half).tolist():  # all windows of one width at once
        same = half == h
        smooth[same] = np.median(np.lib.stride_tricks.sliding_window_view(value, 2 * h + 1)[at[same] - h], axis=1)
    return at, smooth, 2 * half + 1


def moments(step: Array, count: int) -> Array:
    """Return MOMENTS indices, half of them even in index and half even in log time, first and last included."""
    even = np.linspace(0, count - 1, MOMENTS // 2)
    age = (step - step[0]).astype(np.float64) + 1.0
    log_spaced = np.searchsorted(age, np.geomspace(1.0, age[-1], MOMENTS // 2))
    return np.unique(np.concatenate([even.round().astype(np.int64), np.minimum(log_spaced, count - 1)]))


def first_run(past: Array, length: int) -> int | None:
    """Return the index at which the first run of `length` true values begins.

    >>> first_run(np.array([False, True, False, True, True]), 2)
    3
    """
    if length <= 1:
        return int(np.argmax(past)) if past.any() else None
    if len(past) < length:
        return None
    runs = np.convolve(past.astype(np.int64), np.ones(length, dtype=np.int64), mode="valid") == length
    return int(np.argmax(runs)) if runs.any() else None


def deepest_dip(course: Course) -> Dip | None:
    """Return the dip that is deepest when measured from the lower of its two sides; None where the course never turns."""
    smooth, step = course.smooth, course.step[course.at]
    before = np.maximum.accumulate(smooth)
    after = np.maximum.accumulate(smooth[::-1])[::-1]
    depth = np.minimum(before, after) - smooth
    trough = int(depth.argmax())
    if depth[trough] <= 0:
        return None
    first = int(smooth[: trough + 1].argmax())
    second = trough + int(smooth[trough:].argmax())
    low = smooth[first : second + 1] < smooth[trough] + 0.5 * depth[trough]
    spanned = course.at[first : second + 1][low]
    count = int(spanned.max() - spanned.min() + 1)
    (a, b, c), (s, t, u) = smooth[[first, trough, second]].tolist(), step[[first, trough, second]].tolist()
    return Dip(first=a, trough=b, second=c, first_step=s, trough_step=t, second_step=u, evaluations=count)


def trend_at_end(course: Course, since: float = 0.5) -> Trend:
    """Return what a course gained over the last part of the training time: that part's last quarter over its first `[def]`.

    The standard error is that of a difference of two medians, from the noise of the whole course or the spread inside the
    two windows, whichever is larger, widened for autocorrelation as n(1 − ρ)/(1 + ρ) independent evaluations; it is
    infinite where a window holds fewer than two evaluations.
    """
    time = (course.step - course.step[0]) / max(float(course.step[-1] - course.step[0]), 1.0)
    quarter = (1.0 - since) / 4
    early, late = course.raw[(time >= since) & (time < since + quarter)], course.raw[time >= 1.0 - quarter]
    if min(len(early), len(late)) < 2:
        return Trend(0.0, float("inf"), len(early) + len(late))
    inflation = np.sqrt((1.0 + (rho := autocorrelation(course.raw[time >= since]))) / (1.0 - rho))
    errors = (inflation * max(course.noise, spread(part)) / np.sqrt(len(part)) for part in (early, late))
    error = 1.25 * float(np.hypot(*errors))
    return Trend(float(np.median(late) - np.median(early)), error, len(early) + len(late))


def evaluation_noise(raw: Float) -> float:
    """Return the standard deviation of one evaluation, from second differences, which any smooth course makes small.

    The 68.27 % quantile of their size is σ√6 for Gaussian noise, and no steep rise or single spike moves it.
    """
    if len(raw) < 8:
        return 0.0
    return float(np.quantile(np.abs(np.diff(np.clip(raw, -FARTHEST, FARTHEST), 2)), 0.6827) / np.sqrt(6.0))


def autocorrelation(raw: Float) -> float:
    """Return the lag-one autocorrelation of evaluations around their own straight line, between 0 and 0.95."""
    if len(raw) < 8:
        return 0.0
    place = np.arange(len(raw), dtype=np.float64)
    residual = raw - np.polyval(np.polyfit(place, raw, 1), place)
    energy = float(residual @ residual)
    return float(np.clip(residual[1:] @ residual[:-1] / energy, 0.0, 0.95)) if energy > 1e-24 else 0.0


def spread(values: Float) -> float:
    """Return a robust standard deviation: 1.4826 times the median distance from the median."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
