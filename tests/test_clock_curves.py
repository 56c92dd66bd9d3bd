"""The clocks as curves: closed forms, censoring, units of time, delays, and the order of the two clocks over runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twoclocks.clocks import (
    Between,
    ClockCurve,
    Clocks,
    HittingTime,
    clock_curve,
    decades,
    is_decay_coupled,
    later,
    median_interval,
    order,
    read_clocks,
    ruler,
    weight_decay_of,
)
from twoclocks.errors import InputError
from twoclocks.trajectory import Array, Series, Source, Trajectory

NAN = float("nan")
STEP = np.arange(0, 4001)


def series(name: str, value: Any, step: Array = STEP) -> Series:
    return Series(name, "", step, np.atleast_2d(np.asarray(value, dtype=float)))


def trajectory(scalars: Mapping[str, Any], settings: Mapping[str, Any] | None = None, step: Array = STEP) -> Trajectory:
    named = {name: series(name, value, step) for name, value in scalars.items()}
    return Trajectory(Source("run", "run folder", len(step)), named, settings=settings or {})


def times(
    values: Sequence[int | None], afters: Sequence[int | None], lefts: Sequence[bool] | None = None
) -> HittingTime:
    n = len(values)
    known = tuple(lefts or [False] * n)
    return HittingTime(tuple(values), (None,) * n, (None,) * n, 3, 4000, known, tuple(afters))


def clocks_of(classifier: HittingTime, representation: HittingTime) -> Clocks:
    """Return clocks of one threshold each."""
    cls = ClockCurve("T_cls", "train_loss", (0.1,), (classifier,))
    return Clocks(cls, ClockCurve("T_rep", "S", (0.1,), (representation,)), None, None, {}, {}, ())


# T(ε) of L = e^{−t/50} is 50 ln(1/ε); of L = 1/t it is 1/ε; of S = t^{−2} it is η^{−1/2}: the first step at or after it.
@pytest.mark.parametrize(
    ("value", "time_of"),
    [
        (np.exp(-STEP / 50), lambda e: 50 * math.log(1 / e)),
        (1 / np.maximum(STEP, 1), lambda e: 1 / e),
        (np.maximum(STEP, 1.0) ** -2, lambda e: e**-0.5),
    ],
)
def test_closed_forms_of_the_clock_curve(value: Array, time_of: Any) -> None:
    curve = clock_curve("T", series("L", value), decades(-1, -3, per_decade=3))
    assert len(curve.times) == 7
    for threshold, time in zip(curve.thresholds, curve.times, strict=True):
        assert time.value == math.ceil(time_of(threshold) - 1e-9)
        assert time.resolution == 1


def test_both_clocks_are_read_in_one_sentence() -> None:
    run = trajectory({"train_loss": np.exp(-STEP / 50)})
    clocks = read_clocks(run, loss=decades(-1, -6), gap=decades(-1, -3), structure=series("S", 1 / (1 + STEP)))
    assert clocks.classifier is not None
    assert clocks.representation is not None
    assert [time.value for time in clocks.classifier.times] == [116, 231, 346, 461, 576, 691]  # 50 n ln 10, rounded up
    assert [time.value for time in clocks.representation.times] == [9, 99, 999]
    assert clocks.representation.of == "S"
    assert clocks.classifier.is_monotone
    assert clocks.missing == ("train_accuracy was not recorded", "heldout_accuracy was not recorded")


def test_thresholds_may_come_in_any_order_and_must_be_positive() -> None:
    run = trajectory({"train_loss": np.exp(-STEP / 50)})
    upwards = read_clocks(run, loss=[1e-3, 1e-1, 1e-2]).classifier
    assert upwards is not None
    assert upwards.thresholds == (1e-1, 1e-2, 1e-3)
    refused = 0
    for bad in ([], [0.0], [-1.0, 0.1], [NAN]):
        with pytest.raises(InputError, match="positive"):
            read_clocks(run, loss=bad)
        refused += 1
    assert refused == 4


def test_a_short_series_needs_three_evaluations_in_a_row_and_a_long_one_five() -> None:
    counted = {}
    for points in (199, 200):
        step = np.arange(points)
        value = np.where(step >= points - 3, 0.0, 1.0)
        counted[points] = clock_curve("T", series("L", value, step), [0.5]).times[0]
    assert (counted[199].value, counted[199].sustained) == (196, 3)
    assert (counted[200].value, counted[200].sustained) == (None, 5)
    given = read_clocks(trajectory({"train_loss": np.exp(-STEP / 50)}), sustained=7).classifier
    assert given is not None
    assert given.times[0].sustained == 7


def test_loss_of_the_property_is_kept_threshold_by_threshold() -> None:
    value = np.exp(-STEP / 50) + np.where((STEP > 2000) & (STEP < 2100), 0.05, 0.0)
    curve = clock_curve("T", series("L", value), [1e-1, 1e-2])
    assert [time.lost_at for time in curve.times] == [None, 2001]


def test_a_run_of_nan_is_left_aside_and_the_others_stay() -> None:
    fast, slow = np.exp(-STEP / 50), np.exp(-STEP / 100)
    curve = read_clocks(trajectory({"train_loss": [fast, np.full(len(STEP), NAN), slow]}), loss=[0.1]).classifier
    assert curve is not None
    assert curve.times[0].values == (116, None, 231)
    assert curve.times[0].known(1) == Between(None, None)
    assert (curve.median(0).value, curve.median(0).events) == (116, 2)
    assert curve.is_monotone


def test_a_single_evaluation_is_censored_in_every_clock() -> None:
    one = np.array([0])
    clocks = read_clocks(trajectory({"train_loss": [[1e-9]]}, step=one), structure=series("S", [[1e-9]], one))
    assert clocks.classifier is not None
    assert all(time.censored for time in clocks.classifier.times)
    table = order(clocks)
    assert {cell.undecidable for row in table.cells for cell in row} == {1}
    assert table.cells[0][0].ratio == Between(None, None)


def test_a_log_without_snapshots_says_why_it_has_no_representation_clock() -> None:
    clocks = read_clocks(trajectory({"train_loss": np.exp(-STEP / 50)}))
    assert clocks.representation is None
    assert "no snapshots" in clocks.missing[-1]
    with pytest.raises(InputError, match="needs both of them"):
        order(clocks)


def test_nothing_recorded_gives_no_clock_and_no_error() -> None:
    clocks = read_clocks(trajectory({}))
    assert (clocks.classifier, clocks.fit, clocks.generalisation, clocks.delays) == (None, None, {}, {})


def test_a_curve_knows_when_its_times_are_in_disorder() -> None:
    curve = clock_curve("T", series("L", np.exp(-STEP / 50)), [1e-1, 1e-2])
    assert not replace(curve, times=curve.times[::-1]).is_monotone


SETTINGS = {"settings": {"weight_decay": 0.5}, "decay": "coupled"}


def accuracies(fit: int, generalised: int) -> dict[str, Array]:
    return {"train_accuracy": (fit <= STEP).astype(float), "heldout_accuracy": (generalised <= STEP).astype(float)}


def test_the_delay_in_three_units_at_a_constant_learning_rate() -> None:
    run = trajectory({**accuracies(100, 900), "flow_time": 0.01 * STEP}, SETTINGS)
    delay = read_clocks(run).delays[0.9]
    assert delay.ratio[0].value == 9
    assert delay.step[0].value == 800
    assert delay.flow_time is not None
    assert delay.decay_time is not None
    assert delay.flow_time[0].value == pytest.approx(8.0)
    assert delay.decay_time[0].value == pytest.approx(4.0)
    assert delay.why == {}


def test_the_delay_in_three_units_at_a_falling_learning_rate() -> None:
    """With lr = 1/(1 + t) flow time is about log(1 + t), here recorded at every tenth step only."""
    seen = np.arange(0, 4001, 10)
    flow = series("flow_time", np.log1p(seen), seen)
    run = trajectory(accuracies(95, 999), SETTINGS)
    delay = read_clocks(replace(run, scalars={**run.scalars, "flow_time": flow})).delays[0.5]
    between = 0.5 * (math.log(91) + math.log(101))
    assert delay.flow_time is not None
    assert delay.flow_time[0].value == pytest.approx(0.1 * math.log(991) + 0.9 * math.log(1001) - between)
    assert delay.decay_time is not None
    assert delay.decay_time[0].value == pytest.approx(0.5 * delay.flow_time[0].value)


def test_a_censored_delay_is_a_lower_bound_in_every_unit() -> None:
    run = trajectory({**accuracies(100, 9999), "flow_time": 0.01 * STEP}, SETTINGS)
    delay = read_clocks(run).delays[0.99]
    assert delay.ratio[0] == Between(40.0, None)
    assert delay.step[0] == Between(3900, None)
    assert delay.flow_time == (Between(pytest.approx(39.0), None),)


def test_a_fit_before_the_first_evaluation_bounds_the_delay_from_both_sides() -> None:
    late = np.arange(50, 4001)
    given = {"train_accuracy": np.ones(len(late)), "heldout_accuracy": (late >= 900).astype(float)}
    delay = read_clocks(trajectory(given, step=late)).delays[0.9]
    assert delay.ratio[0] == Between(18.0, None)
    assert delay.step[0] == Between(850, 900)


def test_a_unit_that_is_unknown_says_why() -> None:
    seen = {}
    for name, settings in {
        "no decay": {"settings": {"weight_decay": 0.0}},
        "not recorded": {},
        "groups": {"session": {"weight_decay": [0.1, 0.0]}, "optimizer": {"name": "AdamW", "defaults": {}}},
        "Adam": {"session": {"weight_decay": [0.1]}, "optimizer": {"name": "Adam", "defaults": {}}},
    }.items():
        delay = read_clocks(trajectory({**accuracies(100, 900), "flow_time": 0.01 * STEP}, settings)).delays[0.9]
        assert delay.decay_time is None
        assert delay.flow_time is not None
        seen[name] = delay.why["decay_time"]
    expected = {"no decay": "is 0", "not recorded": "not recorded", "groups": "differs", "Adam": "rescales"}
    assert len(seen) == 4
    assert [name for name, why in seen.items() if expected[name] not in why] == []
    without = read_clocks(trajectory(accuracies(100, 900), SETTINGS)).delays[0.9]
    assert set(without.why) == {"flow_time", "decay_time"}
    with pytest.raises(InputError, match="unknown unit"):
        ruler(trajectory({}), "epochs")


def test_flow_time_is_not_extrapolated() -> None:
    flow = ruler(trajectory({"flow_time": 0.01 * STEP}), "flow_time")
    assert flow.at(4000, 0) == pytest.approx(40.0)
    assert flow.at(4001, 0) is None
    begun_late = ruler(trajectory({"flow_time": [[5.0, 10.0]]}, step=np.array([10, 20])), "flow_time")
    assert begun_late.at(5, 0) == 2.5


def test_weight_decay_and_its_coupling_are_read_from_every_kind_of_run() -> None:
    cases: list[tuple[dict[str, Any], float | None, bool | None]] = [
        ({"settings": {"weight_decay": 0.3}, "decay": "coupled"}, 0.3, True),
        ({"settings": {"weight_decay": 0.3}, "decay": "decoupled"}, 0.3, False),
        ({"session": {"weight_decay": [0.1, 0.1]}, "optimizer": {"name": "SGD", "defaults": {}}}, 0.1, True),
        ({"optimizer": {"name": "AdamW", "defaults": {"weight_decay": 0.01}}}, 0.01, False),
        ({"optimizer": {"name": "Adam", "defaults": {"weight_decay": 0.01}}, "session": {}}, 0.01, None),
        ({"optimizer": {"name": "NAdam", "defaults": {"decoupled_weight_decay": True}}}, None, False),
        ({"session": {"weight_decay": [0.1, 0.0]}, "optimizer": {"defaults": {"weight_decay": 0.1}}}, None, None),
        ({"session": {"weight_decay": None}, "optimizer": None}, None, None),
        ({}, None, None),
    ]
    seen = [(weight_decay_of(trajectory({}, s)), is_decay_coupled(trajectory({}, s))) for s, _, _ in cases]
    assert len(seen) == 9
    assert seen == [(decay, coupled) for _, decay, coupled in cases]


def test_the_order_table_on_eight_runs_of_known_truth() -> None:
    """Loss e^{−t/τ} and gap 1/(1 + t/σ): T_cls = τ ln 1/ε and T_rep = σ (1/η − 1), σ = 2 τ, run by run."""
    tau = np.linspace(20, 55, 8)
    loss, gap = np.exp(-STEP / tau[:, None]), 1 / (1 + STEP / (2 * tau[:, None]))
    clocks = read_clocks(
        trajectory({"train_loss": loss}), loss=decades(-1, -2), gap=[0.5, 0.1], structure=series("S", gap)
    )
    table = order(clocks)
    assert (table.losses, table.gaps) == ((0.1, 0.01), (0.5, 0.1))
    cells = [cell for row in table.cells for cell in row]
    truth = [2.0 / math.log(10), 18.0 / math.log(10), 2.0 / math.log(100), 18.0 / math.log(100)]
    assert len(cells) == 4
    for cell, ratio in zip(cells, truth, strict=True):
        assert cell.ratio.value == pytest.approx(ratio, rel=0.03)
        assert cell.interval is not None
        assert cell.interval.low <= cell.ratio.value <= cell.interval.high
        assert (cell.later, cell.earlier, cell.undecidable) == ((0, 8, 0) if ratio < 1 else (8, 0, 0))
        assert cell.p == 2 / 2**8


def test_censored_clocks_bound_the_ratio_and_two_of_them_say_nothing() -> None:
    classifier = times([100, 100, 100, None], [99, 99, 99, 4000])
    representation = times([500, None, None, None], [499, 4000, 4000, 4000])
    cell = order(clocks_of(classifier, representation)).cells[0][0]
    assert (cell.later, cell.earlier, cell.undecidable) == (3, 0, 1)
    assert cell.ratio == Between(5.0, None)  # of the four, all that is known is ≥ 0, ≥ 40, ≥ 40 and 5
    assert cell.interval is None
    assert cell.p == 0.25
    both = order(clocks_of(times([None] * 5, [4000] * 5), times([None] * 5, [4000] * 5))).cells[0][0]
    assert (both.ratio, both.interval, both.undecidable, both.p) == (Between(None, None), Between(None, None), 5, 1.0)


def test_a_clock_that_had_struck_at_the_first_evaluation_bounds_the_ratio_from_below() -> None:
    cell = order(clocks_of(times([10] * 3, [None] * 3, [True] * 3), times([500] * 3, [400] * 3))).cells[0][0]
    assert cell.ratio == Between(50.0, None)
    assert cell.later == 3


def test_times_between_the_same_evaluations_are_undecidable() -> None:
    """The loss is seen at every step and the gap at every hundredth: 350 is not known to be before 'from 300 to 400'."""
    cell = order(clocks_of(times([350, 250], [349, 249]), times([400, 400], [300, 300]))).cells[0][0]
    assert (cell.later, cell.earlier, cell.undecidable) == (1, 0, 1)
    side_by_side = order(clocks_of(times([300], [299]), times([400], [300]))).cells[0][0]
    assert side_by_side.later == 1  # at 300 the loss was met and the gap was not


def test_the_classifier_clock_can_be_the_later_one() -> None:
    cell = order(clocks_of(times([None] * 6, [4000] * 6), times([50] * 6, [40] * 6))).cells[0][0]
    assert (cell.later, cell.earlier) == (0, 6)
    assert cell.ratio == Between(None, 50 / 4000)
    assert cell.p == 2 / 2**6


def test_the_order_needs_the_same_runs() -> None:
    with pytest.raises(InputError, match="same runs"):
        order(clocks_of(times([1], [0]), times([1, 2], [0, 0])))
    with pytest.raises(ValueError, match="as many runs"):
        later(times([1], [0]), times([1, 2], [0, 0]))


def test_groups_of_runs_are_compared_by_log_rank() -> None:
    """The example of the log-rank test: 1, 2, 3 against 4, 5, 6 gives (3 − 1.15)² / 0.6775."""
    early, late = times([1, 2, 3], [0, 1, 2]), times([4, 5, 6, None], [3, 4, 5, None])
    assert later(early, times([4, 5, 6], [3, 4, 5]), paired=False).statistic == pytest.approx(5.0517, abs=1e-4)
    assert later(early, late, paired=False).n == 7
    assert later(early, times([4, 5, 6], [3, 4, 5])).statistic == 3


def test_exact_levels_of_the_interval_of_a_median() -> None:
    """Of 8 the extremes cover 254/256 and the next ones 238/256; of 5 the extremes cover 30/32 and no more is to be had."""
    eight = [Between(2.0**n, 2.0**n) for n in range(8)]
    extremes, level = median_interval(eight, level=254 / 256)
    assert extremes == Between(1.0, 128.0)
    assert level == 254 / 256
    next_ones, _ = median_interval(eight, level=238 / 256)
    assert next_ones == Between(2.0, 64.0)
    interpolated, level = median_interval(eight)
    assert interpolated is not None
    within = (254 / 256 - 0.95) / (16 / 256)  # so far from the extremes' level to the next one's
    assert math.log2(interpolated.low) == pytest.approx(7 * within / (1 + 6 * within))
    assert interpolated.low * interpolated.high == pytest.approx(128)  # as symmetric as the numbers are
    assert level == 0.95
    assert median_interval(eight[:4])[0] is None
    assert median_interval([*eight[:4], Between(2.0, None)])[0] == Between(1.0, None)


def drawn(rng: np.random.Generator, horizon: int, ratio: float) -> Clocks:
    """Return the clocks of 8 runs drawn with log-normal T_cls and T_rep / T_cls, seen at every step up to a horizon."""
    cls = np.ceil(100 * np.exp(rng.normal(0, 0.3, 8)))
    rep = np.ceil(cls * ratio * np.exp(rng.normal(0, 0.6, 8)))

    def seen(time: Array) -> HittingTime:
        return times([int(t) if t <= horizon else None for t in time], [int(min(t - 1, horizon)) for t in time])

    return clocks_of(seen(cls), seen(rep))


def coverage(horizon: int) -> tuple[float, float]:
    """Return how often the 95 % interval holds the true ratio, and the share of censored T_rep, over 1500 ensembles."""
    rng, truth = np.random.default_rng(4), 5.0
    covered, unreached = [], []
    for _ in range(1500):
        clocks = drawn(rng, horizon, truth)
        interval = order(clocks).cells[0][0].interval
        covered.append((interval.low or 0) <= truth <= (interval.high or math.inf))
        unreached.append(np.mean([value is None for value in clocks.representation.times[0].values]))
    assert len(covered) == 1500
    return float(np.mean(covered)), float(np.mean(unreached))


@pytest.mark.parametrize(("horizon", "censored"), [(10**9, (0.0, 0.0)), (900, (0.1, 0.3))])
def test_the_interval_of_the_ratio_covers_as_often_as_it_says(horizon: int, censored: tuple[float, float]) -> None:
    covered, unreached = coverage(horizon)
    assert censored[0] <= unreached <= censored[1]
    assert 0.90 <= covered <= 0.98


def test_the_interval_of_the_ratio_is_cautious_where_much_is_censored() -> None:
    covered, unreached = coverage(600)
    assert 0.3 <= unreached <= 0.5
    assert covered >= 0.95


def test_the_sign_test_of_equal_clocks_alarms_at_most_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    alarms = [order(drawn(rng, 300, 1.0)).cells[0][0].p < 0.05 for _ in range(1000)]
    assert len(alarms) == 1000
    assert np.mean(alarms) <= 0.05
