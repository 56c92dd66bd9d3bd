"""The nouns of a recorded training: what they refuse, and which steps are recorded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twoclocks.errors import InputError
from twoclocks.trajectory import SaveAt, Series, Source, Trajectory, on_grid


def series(steps: list[int], runs: int = 2, name: str = "train_loss") -> Series:
    """Return a series whose value is its step plus a tenth of its run."""
    value = np.array([[step + run / 10 for step in steps] for run in range(runs)])
    return Series(name, "nats per example", np.array(steps, np.int64), value.reshape(runs, len(steps)))


def trajectory(*held: Series) -> Trajectory:
    """Return a trajectory that holds these series."""
    return Trajectory(Source("here", "test", 1), {one.name: one for one in held})


def test_a_series_refuses_steps_that_do_not_increase_and_values_that_do_not_fit() -> None:
    assert series([0, 1, 5]).runs == 2
    for steps in ([0, 1, 1], [3, 2]):
        with pytest.raises(ValueError, match="steps must increase strictly"):
            series(steps)
    for value in (np.zeros(3), np.zeros((2, 2))):
        with pytest.raises(ValueError, match=r"expected value\[r, 3, ...\], got"):
            Series("train_loss", "", np.arange(3), value)


def test_a_nan_that_was_recorded_stays() -> None:
    kept = Series("train_loss", "", np.arange(2), np.array([[1.0, np.nan]]))
    assert np.isnan(kept.value[0, 1])


def test_one_run_of_a_trajectory_keeps_its_run_axis() -> None:
    whole = trajectory(series([0, 1, 5]), series([0, 7], name="lr"))
    assert whole.runs == 2
    assert whole.last_step == 7
    one = whole.of_run(1)
    assert one.runs == 1
    assert one.scalars["train_loss"].value.tolist() == [[0.1, 1.1, 5.1]]
    for run in (-1, 2):
        with pytest.raises(InputError, match=f"run {run} was asked for, but this trajectory holds runs 0 to 1"):
            whole.of_run(run)


def test_an_empty_trajectory_is_one_run_without_steps() -> None:
    assert trajectory().runs == 1
    assert trajectory().last_step == 0
    assert trajectory(series([])).last_step == 0


@pytest.mark.parametrize("wrong", [{"per_decade": -1}, {"every": -2}, {"snapshot_every": -1}, {"examples": 1}])
def test_save_at_refuses_what_is_no_schedule(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"SaveAt: {next(iter(wrong))} must be"):
        SaveAt(**wrong)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 50))
def test_the_grid_is_exactly_the_rounded_powers_and_the_multiples(per_decade: int, every: int) -> None:
    powers = {round(10 ** (j / per_decade)) for j in range(3 * per_decade + 1)} if per_decade else set()
    multiples = {step for step in range(1000) if every and step % every == 0}
    found = {step for step in range(1000) if on_grid(step, per_decade, every)}
    assert found == {0} | (powers | multiples) & set(range(1000))


def test_every_snapshot_is_evaluated_and_step_zero_always_is() -> None:
    for at in (SaveAt(), SaveAt(per_decade=0, snapshots_per_decade=3), SaveAt(0, 0, 0, 7), SaveAt(0, 0, 0, 0)):
        assert at.evaluates(0)
        assert at.keeps(0)
        assert all(at.evaluates(step) for step in range(2000) if at.keeps(step))
    assert not any(SaveAt(0, 0, 0, 0).evaluates(step) for step in range(1, 2000))


def test_the_default_schedule_is_log_spaced() -> None:
    taken = [sum(SaveAt().evaluates(step) for step in range(10**k, 10 ** (k + 1))) for k in range(5)]
    assert taken == [9, 38, 40, 40, 40]
    assert sum(SaveAt().keeps(step) for step in range(10**5)) == 39
