"""This file knows how numbers over seeds are written: means and medians with intervals, counts, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from twoclocks.clocks import Between, HittingTime, median_between, median_interval
from twoclocks.stats import t_interval

UNKNOWN = "–"


def number(value: float, digits: int = 3) -> str:
    """Return a number in a few significant digits, from a thousand on in full.

    >>> number(12345.6), number(0.00123456), number(-2.5)
    ('12,346', '0.00123', '−2.5')
    """
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}").replace("-", "−")


def span(low: float, high: float) -> str:
    """Return two numbers as a range.

    >>> span(1.0, 2.5), span(1500, 1500)
    ('1 to 2.5', '1,500')
    """
    first, last = number(low), number(high)
    return first if first == last else f"{first} to {last}"


def mean_words(values: Sequence[float | None]) -> str:
    """Return the mean over runs with its 95 % t interval, and of how many runs it is where not of all.

    >>> mean_words([1.0, 2.0, 3.0]), mean_words([1.0, 3.0, None])
    ('2 (−0.484 to 4.48)', '2 (−10.7 to 14.7); 2 of 3 runs')
    """
    known = np.array([value for value in values if value is not None and math.isfinite(value)])
    if not len(known):
        return UNKNOWN
    of = "" if len(known) == len(values) else f"; {len(known)} of {len(values)} runs"
    bounds = "" if len(known) == 1 else " ({} to {})".format(*map(number, t_interval(known)))
    return f"{number(float(known.mean()))}{bounds}{of}"


def time_words(time: HittingTime) -> str:
    """Return the median time over runs with its interval, that of order statistics; what is censored stays a bound.

    >>> def reached(*values: int | None) -> HittingTime:
    ...     n = len(values)
    ...     return HittingTime(values, (1,) * n, (None,) * n, 3, 500, (False,) * n, (9,) * n)
    >>> time_words(reached(100, 120, 110, 130, 105)), time_words(reached(100, 120, 110, None, None))
    ('110 (100 to 130)', '120 (100 to > 500); 3 of 5 runs')
    """
    known = [Between(time.last, None) if value is None else Between(value, value) for value in time.values]
    middle, interval = median_between(known), median_interval(known)[0]
    reached = sum(value is not None for value in time.values)
    of = "" if reached == time.runs else f"; {reached} of {time.runs} runs"
    if middle.value is None:
        return f"> {number(time.last)}{of}"
    bounds = "" if interval is None else f" ({bound_words(interval, time.last)})"
    return f"{number(middle.value)}{bounds}{of}"


def bound_words(interval: Between, last: float) -> str:
    """Return the ends of an interval of times, the upper one a bound where it is censored."""
    low = UNKNOWN if interval.low is None else number(interval.low)
    if interval.high is None:
        return f"{low} to > {number(last)}"
    return low if low == number(interval.high) else f"{low} to {number(interval.high)}"


def between_words(middle: Between, interval: Between | None) -> str:
    """Return a median ratio with its interval, or the bound it is known to exceed or to stay below.

    >>> between_words(Between(3.0, 3.0), Between(2.0, None)), between_words(Between(60.0, None), None)
    ('3 (2 to ∞)', '> 60')
    """
    if middle.value is None:
        if middle.low is None:
            return UNKNOWN if middle.high is None else f"< {number(middle.high)}"
        return f"> {number(middle.low)}"
    if interval is None or (interval.low is None and interval.high is None):
        return number(middle.value)
    low = UNKNOWN if interval.low is None else number(interval.low)
    return f"{number(middle.value)} ({low} to {'∞' if interval.high is None else number(interval.high)})"


def counted(outcomes: Iterable[str]) -> str:
    """Return how often each outcome came, the most frequent first.

    >>> counted(["holds", "fails", "holds"])
    '2 × holds, 1 × fails'
    """
    seen = [str(outcome) for outcome in outcomes]
    names = sorted(dict.fromkeys(seen), key=lambda name: -seen.count(name))
    return ", ".join(f"{seen.count(name)} × {name}" for name in names) or UNKNOWN


def listed(names: Sequence[str]) -> str:
    """Return names in a row, or "none".

    >>> listed([]), listed(["a", "b"])
    ('none', 'a, b')
    """
    return ", ".join(names) or "none"
