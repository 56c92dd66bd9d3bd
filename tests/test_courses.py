"""Courses: chance, smoothing, dips and trends are read as a person would read the plot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from twoclocks.courses import Course, course_of, deepest_dip, running_median, trend_at_end
from twoclocks.runs import run_of
from twoclocks.sources.logs import read_columns
from twoclocks.trajectory import EvalBatch
from twoclocks.verdicts import Outcome, judge_degradation


def heldout(values: list[float], **others: list[float]) -> Course:
    course = course_of(read_columns({"step": list(range(len(values))), "test_acc": values, **others}), "heldout")
    assert course is not None
    return course


def test_chance_is_read_from_the_start_where_both_splits_agree_on_it() -> None:
    two_classes = heldout([0.5, 0.51, 0.9, 1.0], train_acc=[0.51, 0.7, 1.0, 1.0])
    assert two_classes.chance == pytest.approx(0.505)
    assert two_classes.best == pytest.approx(1.0)
    assert heldout([0.01, 0.02, 0.5], train_acc=[0.01, 0.5, 1.0]).chance == pytest.approx(0.01)


def test_a_log_that_starts_after_learning_began_has_no_known_chance() -> None:
    late = heldout([0.35, 0.61, 0.8], train_acc=[0.25, 0.59, 0.9])
    assert (late.chance, late.chance_is_known) == (0.0, False)
    two_classes = heldout([0.56, 0.55, 0.54], train_acc=[0.7, 0.9, 1.0])
    assert (two_classes.chance, two_classes.chance_is_known) == (0.5, False)
    resumed = heldout([0.98, 0.98, 0.98], train_acc=[0.99, 0.99, 0.99])
    assert not resumed.chance_is_known


def test_a_loss_is_counted_from_its_first_value_to_zero() -> None:
    course = course_of(read_columns({"step": [0, 1, 2], "val_loss": [4.0, 6.0, 1.0]}), "heldout")
    assert course is not None
    assert_allclose(course.raw, [0.0, -0.5, 0.75])
    assert course.in_unit(course.best) == pytest.approx(1.0)


def test_accuracy_decides_where_both_are_recorded() -> None:
    both = read_columns({"step": [0, 1, 2], "val_loss": [4.0, 6.0, 9.0], "val_acc": [0.1, 0.5, 0.9]})
    course = course_of(both, "heldout")
    assert course is not None
    assert course.name == "heldout_accuracy"


def test_smoothing_keeps_the_ends_and_takes_out_single_spikes() -> None:
    value = np.linspace(0, 1, 200)
    value[100] = -5
    at, smooth, window = running_median(np.arange(200), value)
    assert len(at) == len(window) == 200
    assert smooth[0] == value[0]
    assert smooth[-1] == value[-1]
    assert abs(smooth[100] - 0.5) < 0.02


def test_smoothing_a_long_log_keeps_its_early_moments() -> None:
    at, smooth, _ = running_median(np.arange(50_000), np.minimum(np.arange(50_000) / 20, 1.0))
    assert len(at) <= 1500
    assert_allclose(smooth[:15], np.arange(15) / 20, atol=0.051)


def test_the_deepest_dip_is_measured_from_its_lower_side() -> None:
    dip = deepest_dip(heldout([0.0, 0.8, 0.5, 0.4, 0.5, 0.6, 0.6]))
    assert dip is not None
    assert (dip.first, dip.trough, dip.second) == (0.8, 0.4, 0.6)
    assert (dip.first_step, dip.trough_step, dip.second_step) == (1, 3, 5)
    assert deepest_dip(heldout([0.0, 0.1, 0.2, 0.3])) is None


def test_trend_at_the_end_is_a_gain_with_its_noise() -> None:
    rng = np.random.default_rng(0)
    rising = heldout((np.linspace(0, 0.5, 400) + rng.normal(0, 0.01, 400)).tolist())
    flat = heldout((0.5 + rng.normal(0, 0.01, 400)).tolist())
    assert trend_at_end(rising).exceeds(0.05)
    assert not trend_at_end(flat).exceeds(0.0)


def test_a_flat_course_is_called_moving_in_less_than_one_of_fifty_draws() -> None:
    rng = np.random.default_rng(1)
    alarms = [trend_at_end(heldout((0.5 + rng.normal(0, 0.02, 200)).tolist())).exceeds(0.0) for _ in range(200)]
    assert sum(alarms) <= 4


def test_a_course_that_needs_a_split_the_log_lacks_is_none() -> None:
    assert course_of(read_columns({"step": [0, 1], "val_loss": [1.0, 0.5]}), "train") is None


def test_the_fit_is_the_accuracy_threshold_or_close_to_the_own_best() -> None:
    steps = list(range(12))
    full = read_columns(
        {"step": steps, "train_acc": [0.1, 0.5, 0.9, 0.985, 1, 1, 1, 1, 1, 1, 1, 1], "test_acc": [0.1] * 12}
    )
    augmented = read_columns(
        {"step": steps, "train_acc": [0.1, 0.5, 0.8, 0.93, 0.94] + [0.95] * 7, "test_acc": [0.1] * 12}
    )
    low = read_columns({"step": steps, "train_acc": [0.1, 0.5, 0.6] + [0.7] * 9, "test_acc": [0.1] * 12})
    assert [run_of(log).fit_step for log in (full, augmented, low)] == [3, 3, None]


def test_a_loss_that_is_not_finite_to_the_end_is_a_break_and_one_that_recovers_is_not() -> None:
    inf = float("inf")
    broken = read_columns({"step": list(range(8)), "train_loss": [3.0, 2, 1] + [inf] * 5})
    spiked = read_columns({"step": list(range(8)), "train_loss": [3.0, 2, inf, 1, 1, 1, 1, 1]})
    assert run_of(broken).train_broke_at == 3
    assert run_of(spiked).train_broke_at is None


def test_a_fall_of_one_example_of_twelve_is_no_overfitting() -> None:
    """What is said of so few examples may not hold of others; of 1,200 the same share is beyond chance."""
    outcomes = {}
    for n in (12, 1200):
        heldout = [0.1, 0.3, 0.6, 0.8] + [11 / 12] * 8 + [10 / 12] * 28
        log = read_columns({"step": list(range(40)), "train_acc": [0.1, 0.5] + [1.0] * 38, "test_acc": heldout})
        labels = np.arange(n) % 3
        run = run_of(replace(log, batches={"heldout": EvalBatch("heldout", labels, n)}))
        outcomes[n] = judge_degradation(run).outcome
    assert outcomes == {12: Outcome.UNDETERMINED, 1200: Outcome.SUPPORTED}


def test_untrained_accuracies_of_few_examples_that_differ_by_chance_are_both_chance() -> None:
    table = {"step": [0, 1, 2, 3], "train_acc": [0.16, 0.3, 0.5, 1.0], "test_acc": [0.077, 0.2, 0.4, 0.9]}
    log = read_columns(table)
    known = {name: EvalBatch(name, np.zeros(n, np.int64), n) for name, n in (("train", 100), ("heldout", 300))}
    course = course_of(replace(log, batches=known), "heldout")
    assert course is not None and course.chance_is_known and course.chance == pytest.approx(0.1185)
    unknown = course_of(log, "heldout")
    assert unknown is not None and not unknown.chance_is_known
