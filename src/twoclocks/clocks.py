"""This file knows when: the first step from which a series stays past a threshold, or that it has not come yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twoclocks.courses import first_run
from twoclocks.trajectory import Array, Float, Series

SUSTAINED = 5
Step = int | float


@dataclass(frozen=True)
class HittingTime:
    """When a criterion was first met for `sustained` evaluations in a row, one entry a run; None where it was not (censored).

    `last` is the last evaluated step: a censored time is known to be later. `resolutions` are the gaps to the evaluation
    before. `losts` are the steps from which, having been met, the criterion then failed `sustained` times in a row.
    """

    values: tuple[Step | None, ...]
    resolutions: tuple[Step | None, ...]
    losts: tuple[Step | None, ...]
    sustained: int
    last: Step

    @property
    def value(self) -> Step | None:
        """Return the median time over runs (of an even number, the earlier middle one); None where it is censored."""
        return self.values[self.middle]

    @property
    def censored(self) -> bool:
        """Return whether the median time lies beyond the last evaluation."""
        return self.value is None

    @property
    def resolution(self) -> Step | None:
        """Return the gap between the median time and the evaluation before it."""
        return self.resolutions[self.middle]

    @property
    def lost_at(self) -> Step | None:
        """Return the step at which the run of the median time lost the property for the first time, if it did."""
        return self.losts[self.middle]

    @property
    def middle(self) -> int:
        """Return the run whose time is the median, censored times counting as later than all others."""
        order = sorted(range(len(self.values)), key=lambda r: np.inf if (v := self.values[r]) is None else v)
        return order[(len(order) - 1) // 2]


def hitting_time(
    series: Series, *, below: float | None = None, above: float | None = None, sustained: int = SUSTAINED
) -> HittingTime:
    """Return when a series is first at or past a threshold for `sustained` evaluations in a row, run by run.

    Args:
        series: `value[r, t]`. below, above: the threshold; give one. NaN never meets it. sustained: evaluations in a row.

    Raises:
        ValueError: not exactly one threshold is given, or `sustained` is below 1, or the series has no evaluation.

    >>> loss = Series("train_loss", "nats", np.arange(0, 60, 10), np.array([[3.0, 0.1, 2.0, 0.1, 0.1, 0.1]]))
    >>> time = hitting_time(loss, below=0.5, sustained=2)
    >>> time.value, time.resolution, time.censored
    (30, 10, False)
    >>> hitting_time(loss, below=0.01).value is None
    True
    """
    if above is not None and below is None:
        met = series.value >= above
    elif below is not None and above is None:
        met = series.value <= below
    else:
        raise ValueError("hitting_time: give either below= or above=, and not both")
    if sustained < 1:
        raise ValueError(f"hitting_time: sustained must be at least 1 evaluation, got {sustained}")
    if not len(series.step):
        raise ValueError(f"hitting_time: the series {series.name} has no evaluation")
    found = [first_run(row, sustained) for row in met]
    return HittingTime(
        values=tuple(None if i is None else step_at(series.step, i) for i in found),
        resolutions=tuple(None if not i else step_at(series.step, i) - step_at(series.step, i - 1) for i in found),
        losts=tuple(
            None if i is None else lost_after(series.step, row, i, sustained) for row, i in zip(met, found, strict=True)
        ),
        sustained=sustained,
        last=step_at(series.step, len(series.step) - 1),
    )


def reported_time(series: Series, *, above: float) -> HittingTime:
    """Return the sustained hitting time or, where the whole series has no such run of evaluations, the first crossing.

    The first crossing is told apart by `sustained == 1`; it is used only if no run of the ensemble has a sustained time.
    """
    time = hitting_time(series, above=above)
    if any(value is not None for value in time.values):
        return time
    crossing = hitting_time(series, above=above, sustained=1)
    return crossing if any(value is not None for value in crossing.values) else time


def lost_after(step: Array, met: Array, first: int, sustained: int) -> Step | None:
    """Return the step from which the criterion fails `sustained` times in a row after it was met, if it does."""
    lost = first_run(~met[first:], sustained)
    return None if lost is None else step_at(step, first + lost)


def step_at(step: Array, place: int) -> Step:
    """Return one step as a plain number: an int, or a float where epochs are fractional."""
    value: Step = step[place].item()
    return value


def decades(first: float, last: float, per_decade: int = 1) -> Float:
    """Return thresholds 10^first … 10^last, `per_decade` a factor of ten.

    >>> decades(-1, -3)
    array([0.1  , 0.01 , 0.001])
    """
    count = round(abs(last - first) * per_decade) + 1
    return np.logspace(first, last, count)
