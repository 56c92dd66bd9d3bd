"""Clocks: sustained crossings, censoring, resolution, loss, and the median over runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twoclocks.clocks import Between, hitting_time, reported_time
from twoclocks.trajectory import Series


def series(*values: list[float], spacing: int = 10) -> Series:
    return Series("x", "", np.arange(len(values[0])) * spacing, np.array(values, dtype=float))


def test_a_crossing_that_is_not_kept_does_not_count() -> None:
    time = hitting_time(series([0, 1, 0, 1, 1, 1]), above=1.0, sustained=3)
    assert (time.value, time.resolution, time.censored, time.lost_at) == (30, 10, False, None)


def test_what_is_never_met_is_censored_and_not_a_number() -> None:
    time = hitting_time(series([0.0] * 6), above=1.0)
    assert time.censored
    assert time.value is None
    assert time.last == 50


def test_a_property_met_at_once_has_no_resolution() -> None:
    assert hitting_time(series([1.0] * 6), above=1.0).resolution is None


def test_losing_a_property_is_told() -> None:
    time = hitting_time(series([1, 1, 1, 0, 0, 1, 0, 0, 0, 0]), above=1.0, sustained=3)
    assert time.value == 0
    assert time.lost_at == 60


def test_nan_meets_no_criterion() -> None:
    nan = float("nan")
    assert hitting_time(series([nan, nan, nan]), below=1e9, sustained=1).censored


def test_the_median_over_runs_counts_censored_times_as_latest() -> None:
    early, late, never = [0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0.0] * 6
    assert hitting_time(series(early, late, never), above=1, sustained=2).value == 30
    assert hitting_time(series(early, never, never), above=1, sustained=2).censored
    assert hitting_time(series(early, late, never), above=1, sustained=2).values == (10, 30, None)


def test_the_first_crossing_is_reported_only_where_nothing_is_sustained() -> None:
    assert reported_time(series([0, 1, 0, 0, 1]), above=1.0).sustained == 1
    assert reported_time(series([0, 1, 0, 0, 1]), above=1.0).value == 10
    assert reported_time(series([0, 1, 0] + [1] * 5), above=1.0).value == 30
    assert reported_time(series([0.0] * 5), above=1.0).sustained == 5


def test_one_threshold_is_needed() -> None:
    with pytest.raises(ValueError, match="not both"):
        hitting_time(series([1.0]), above=1.0, below=1.0)
    with pytest.raises(ValueError, match="not both"):
        hitting_time(series([1.0]))
    with pytest.raises(ValueError, match="at least 1"):
        hitting_time(series([1.0]), above=1.0, sustained=0)
    with pytest.raises(ValueError, match="no evaluation"):
        hitting_time(series([]), above=1.0)


@given(values=st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40), sustained=st.integers(1, 6))
def test_hitting_time_agrees_with_its_definition(values: list[float], sustained: int) -> None:
    expected = next((i * 10 for i in range(len(values) - sustained + 1) if all(values[i : i + sustained])), None)
    assert hitting_time(series(values), above=1.0, sustained=sustained).value == expected


def test_what_is_met_at_the_first_evaluation_is_an_upper_bound() -> None:
    at_once, later_on = hitting_time(series([1.0] * 6, [0, 0, 1, 1, 1, 1]), above=1.0, sustained=3), [True, False]
    assert list(at_once.lefts) == later_on
    assert at_once.afters == (None, 10)
    assert (at_once.known(0), at_once.known(1)) == (Between(0.0, 0), Between(20, 20))
    started_late = hitting_time(Series("x", "", np.arange(5, 10), np.ones((1, 5))), above=1.0)
    assert started_late.known(0) == Between(0.0, 5)


def test_a_censored_time_is_later_than_the_last_evaluation_that_missed_it_and_not_than_the_last() -> None:
    """A criterion met at the last two evaluations may have been met for good there: only 30 is known to be too early."""
    time = hitting_time(series([0, 1, 1, 0, 1, 1]), above=1.0, sustained=3)
    assert time.censored
    assert time.known(0) == Between(30, None)
    assert time.last == 50


def test_nothing_is_known_of_a_run_that_was_never_seen() -> None:
    nan = float("nan")
    time = hitting_time(series([nan] * 4, [0, 0, nan, nan], [1.0, 1.0, nan, nan]), above=1.0, sustained=3)
    assert time.values == (None, None, None)
    assert [time.known(run) for run in range(3)] == [Between(None, None), Between(10, None), Between(None, None)]


def test_one_evaluation_sustains_nothing() -> None:
    met, unmet = hitting_time(series([1.0]), above=1.0, sustained=3), hitting_time(series([0.0]), above=1.0)
    assert met.censored
    assert met.known(0) == Between(None, None)
    assert unmet.known(0) == Between(0, None)


@given(values=st.lists(st.sampled_from([0.0, 1.0, float("nan")]), min_size=1, max_size=30), sustained=st.integers(1, 5))
def test_the_bounds_of_a_time_agree_with_their_definition(values: list[float], sustained: int) -> None:
    time = hitting_time(series(values), above=1.0, sustained=sustained)
    end = len(values) if time.values[0] is None else time.values[0] // 10
    misses = [i * 10 for i in range(end) if values[i] == 0.0]
    assert time.afters[0] == (misses[-1] if misses else None)
    assert time.lefts[0] == (time.values[0] == 0)
