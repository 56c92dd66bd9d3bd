"""This file knows the moments of one run that judgements refer to: when it fitted, when it generalised, where it broke."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twoclocks import thresholds as at
from twoclocks.courses import Course, Dip, course_of, deepest_dip
from twoclocks.trajectory import Array, Float, Series, Trajectory


@dataclass(frozen=True)
class Run:
    """The two courses of one run and the moments the judgements refer to. Steps are None where they did not come.

    `first_step` is where time begins: 0, or the first step where that is negative. `fit_step` is the first evaluation at
    which the run counts as fitted, `fit_before` the evaluation before it; `generalised_step` and `generalised_before` the
    same for the held-out share coming close to its best.
    """

    train: Course | None
    heldout: Course | None
    first_step: float
    fit_step: float | None
    fit_before: float | None
    generalised_step: float | None
    generalised_before: float | None
    train_broke_at: float | None
    exploded_by: float | None

    @property
    def heldout_at_fit(self) -> float | None:
        """Return the held-out share at the fit, relative to its best."""
        if self.heldout is None or self.fit_step is None or self.heldout.best <= 0:
            return None
        return self.heldout.at_step(self.fit_step) / self.heldout.best

    @property
    def best_step(self) -> float:
        """Return the step of the best held-out measure; the first step where there is none."""
        return self.first_step if self.heldout is None else self.heldout.best_step

    @property
    def dip(self) -> Dip | None:
        """Return the deepest dip of the held-out course."""
        return None if self.heldout is None else deepest_dip(self.heldout)


def plateau_of(step: Array, run: Run) -> Array:
    """Return which of some steps lie on the plateau: after the fit and before the held-out rise.

    The rise begins when held-out accuracy is half way from chance to perfection; a run that never got there is on its
    plateau to the end, and one that never fitted has none.
    """
    fitted = np.inf if run.fit_step is None else run.fit_step
    return np.asarray((step >= fitted) & before_rise(step, run))


def onset_of(run: Run) -> float | None:
    """Return the step from which held-out accuracy has left chance for good: a tenth of the way to perfection."""
    heldout = run.heldout
    return heldout.step_past(at.ONSET) if heldout is not None and heldout.is_accuracy else None


def before_rise(step: Array, run: Run) -> Array:
    """Return which of some steps come before held-out accuracy is half way from chance to perfection (all, if it never is)."""
    half = half_way(run)
    return np.asarray(step < (np.inf if half is None else half))


def half_way(run: Run) -> float | None:
    """Return the step from which held-out accuracy is past half the way from chance to perfection."""
    heldout = run.heldout
    return heldout.step_past(at.WELL_ABOVE_CHANCE) if heldout is not None and heldout.is_accuracy else None


def closest(step: Array, wanted: float) -> int:
    """Return the place of the moment closest to a step, in factors of time.

    >>> closest(np.array([0, 1, 10, 100]), 40.0)
    3
    """
    return int(np.abs(np.log((np.asarray(step, np.float64) + 1.0) / (wanted + 1.0))).argmin())


def around(step: Array, wanted: float) -> Array:
    """Return the places of three snapshots in a row, the middle one closest to a step; at an end of the run the outermost.

    >>> around(np.array([0, 1, 10, 100, 1000]), 12.0), around(np.array([0, 1, 10, 100, 1000]), 900.0)
    (array([1, 2, 3]), array([2, 3, 4]))
    """
    first = max(min(closest(step, wanted) - 1, len(step) - at.FEWEST_SNAPSHOTS), 0)
    return np.arange(first, min(first + at.FEWEST_SNAPSHOTS, len(step)))


def lost_places(accuracy: Float) -> Array:
    """Return the places at which an accuracy is lost, for a while or for good.

    There it is below the share `LOST_FOR_GOOD` of the highest level so far, which comes close to the best of all.

    >>> lost_places(np.array([0.1, 0.95, 0.9, 0.2, 1.0]))
    array([3])
    """
    known = np.nan_to_num(accuracy, nan=0.0)
    highest = np.maximum.accumulate(known)
    return np.flatnonzero((highest >= at.CLOSE_TO_BEST * highest[-1]) & (known < at.LOST_FOR_GOOD * highest))


def evenly(places: Array, most: int) -> Array:
    """Return at most so many of some places, evenly among them.

    >>> evenly(np.arange(10), 3)
    array([0, 4, 9])
    """
    chosen = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int))
    return np.asarray(places[chosen])


def run_of(trajectory: Trajectory, run: int = 0) -> Run:
    """Return the courses and the moments of one run of a trajectory."""
    train, heldout = course_of(trajectory, "train", run), course_of(trajectory, "heldout", run)
    fit, fit_before = fit_of(train)
    generalised, generalised_before = moment_past(heldout, None if heldout is None else at.CLOSE_TO_BEST * heldout.best)
    loss = trajectory.scalars.get("train_loss") or trajectory.scalars.get("heldout_loss")
    first = min((0.0, *(float(s.step[0]) for s in trajectory.scalars.values() if len(s.step))))
    broke = None if loss is None else broke_at(loss, run)
    growth = None if loss is None else growth_of(loss, run)
    return Run(train, heldout, first, fit, fit_before, generalised, generalised_before, broke, growth)


def fit_of(train: Course | None) -> tuple[float | None, float | None]:
    """Return the evaluation at which a run counts as fitted, and the one before it.

    With accuracies: close to its own best, if that is nearly perfect, and at FIT at the latest. With losses alone nobody
    can say what a perfect fit is: close to the best of this log.
    """
    if train is None or train.best <= 0:
        return None, None
    if not train.is_accuracy:
        return moment_past(train, at.CLOSE_TO_BEST * train.best) if train.best >= at.LOSS_FELL else (None, None)
    if train.best < at.NEARLY_FITTED:
        return None, None
    return moment_past(train, min(train.share_of(at.FIT), at.CLOSE_TO_OWN_BEST * train.best))


def moment_past(course: Course | None, share: float | None) -> tuple[float | None, float | None]:
    """Return the step at which a course is first past a share for good measure, and the evaluation before it."""
    if course is None or share is None or share <= 0:
        return None, None
    first = course.first_past(share)
    if first is None:  # a rise cut off by the end of the log: the first crossing is all there is
        first = course.first_past(share, sustained=1)
    if first is None:
        return None, None
    place = int(course.at[first])
    return float(course.step[place]), float(course.step[place - 1]) if place else None


def broke_at(loss: Series, run: int) -> float | None:
    """Return the step from which a loss is not finite until the end, if it is."""
    broken = ~np.isfinite(loss.value[run])
    if not broken.any() or not broken[-1]:
        return None
    finite = np.flatnonzero(~broken)
    return float(loss.step[int(finite[-1]) + 1 if len(finite) else 0])


def growth_of(loss: Series, run: int) -> float | None:
    """Return the last loss (median of three) over the first one; None where that says nothing."""
    finite = loss.value[run][np.isfinite(loss.value[run])]
    if len(finite) < 4 or finite[0] <= 0:
        return None
    with np.errstate(over="ignore"):
        return float(np.median(finite[-3:]) / finite[0])
