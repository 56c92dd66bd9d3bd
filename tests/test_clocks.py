"""Clocks: sustained crossings, censoring, resolution, loss, and the median over runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twoclocks.clocks import hitting_time, reported_time
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
