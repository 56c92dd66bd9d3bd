"""What is fitted of one run's conditions: windows, levels, what is left out, and how long a whole folder takes."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from synthetic import (
    ADAMW,
    COUPLED,
    LINEAR,
    ar1,
    evidence,
    fitted_at,
    flow_time,
    log_steps,
    series,
    snapshot,
    trajectory,
)
from twoclocks.conditions import (
    balancedness_rates,
    certificate_of,
    closing_part,
    closing_tail,
    growth_window,
    in_flow_time,
    level_of,
    level_on_trend,
    linear_until,
    log_level,
    measured_conditions,
    mode_tails,
    objective_gap,
    pull_of,
)
from twoclocks.diagnosis import judge_conditions
from twoclocks.evidence import examine_clocks
from twoclocks.measures.motion import readout_lead_certificate
from twoclocks.recipes import deep_linear
from twoclocks.stats import t_interval
from twoclocks.training.loop import train
from twoclocks.trajectory import EvalBatch, Snapshot, Trajectory
from twoclocks.verdicts import Outcome

STEP = np.arange(0, 400, 10)
CODES = {
    *(f"TC30{i}" for i in range(1, 6)),
    *(f"TC40{i}" for i in range(1, 8)),
    "TC501",
    *(f"TC60{i}" for i in range(1, 5)),
}


def test_a_level_of_independent_numbers_is_their_t_interval() -> None:
    values = np.array([1.0, -2.0, 0.5, 3.0, -1.0, 2.0, -1.5, 0.2, 1.0, -0.7])
    level = level_of(values)
    assert level.mean == pytest.approx(values.mean())
    assert level.effective_n == pytest.approx(10)  # its correlation is negative, which is not taken advantage of
    np.testing.assert_allclose(level.interval, t_interval(values), rtol=1e-12)


def test_a_level_covers_the_truth_of_noise() -> None:
    rng, held = np.random.default_rng(0), 0
    for row in 1.0 + ar1(rng, (1000, 40), 0.5, 1.0):
        low, high = level_of(row).interval
        held += low <= 1.0 <= high
    assert 900 <= held <= 985


def test_a_quotient_is_of_sums_and_widened_by_the_few_that_weigh_most() -> None:
    whole = np.exp(-np.arange(40.0))
    part = whole * (0.5 + 0.1 * (-1.0) ** np.arange(40))
    level = level_of(part, whole)
    assert level.mean == pytest.approx(part.sum() / whole.sum())
    assert level.effective_n < 4 < level_of(part / whole).effective_n


def test_a_trend_is_no_error_of_a_level_on_it() -> None:
    rng = np.random.default_rng(1)
    values = np.linspace(1, 3, 40) + 0.01 * rng.normal(size=40)
    low, high = level_on_trend(values).interval
    assert low < values.mean() < high
    assert high - low < 0.02 < np.ptp(level_of(values).interval)


def test_levels_refuse_what_has_none() -> None:
    for part, whole in (([1.0, 2.0], None), ([1.0, 2.0, 3.0], [1.0, 1.0]), ([1.0] * 3, [-1.0] * 3)):
        with pytest.raises(ValueError, match="a level needs 3 evaluations"):
            level_of(part, whole)
    with pytest.raises(ValueError, match="4 evaluations"):
        level_on_trend([1.0, 2.0, 3.0])
    assert log_level(np.zeros(4)).mean == pytest.approx(1e-300)


def test_the_window_of_growth_is_from_the_fit_to_nine_tenths_of_the_largest_gap() -> None:
    margin = np.minimum(-1 + STEP / 100, 2.0)
    of = trajectory(series("train_margin_min", STEP, [margin, -np.ones(40), np.full(40, np.nan)]))
    assert growth_window(of, 0) == (110.0, 290.0)  # 0.9 · 2 = 1.8 is passed at 280, but for rounding
    assert growth_window(of, 1) is growth_window(of, 2) is None
    assert growth_window(trajectory(), 0) is None


def test_linear_growth_is_followed_until_it_bends() -> None:
    step = np.arange(10, 610, 10)
    margin = np.where(step <= 300, step / 100, 3 + 0.3 * np.log(np.maximum(step, 300) / 300))
    of = trajectory(series("train_margin_min", step, margin + 1e-3 * np.random.default_rng(0).normal(size=60)))
    end = linear_until(of, (10.0, 600.0), 0)
    assert end is not None and 200 <= end <= 400


def test_the_gap_of_an_objective_needs_its_polished_limit_and_ends_at_rounding() -> None:
    objective = series("objective", STEP, [2 + np.exp(-STEP / 10), np.full(40, 3.0)])
    assert objective_gap(trajectory(objective)) == {}
    gap = objective_gap(trajectory(objective, settings={"polish": {"objective": [2.0, None]}}))["objective gap"]
    np.testing.assert_allclose(gap.value[0, :20], np.exp(-STEP[:20] / 10), rtol=1e-6)
    assert np.isnan(gap.value[0, STEP > 260]).all()
    assert np.isnan(gap.value[1]).all()


def test_a_tail_begins_where_a_series_has_fallen_for_good() -> None:
    values = np.concatenate([[1.0, 0.05, 1.0], np.geomspace(0.5, 0.01, 20)])
    step, late = closing_tail(np.arange(23), values)
    assert late[0] <= 0.1 < values[step[0] - 1]
    assert len(closing_tail(np.arange(23), np.ones(23))[0]) == 23
    assert len(closing_tail(np.arange(0), np.ones(0))[0]) == 0
    structure = series("S", np.arange(23), values)
    assert closing_part(structure, 0, 100.0) is None
    part = closing_part(structure, 0, 2.0)
    assert part is not None and part[1][0] <= 0.5 * 1.0


def test_time_is_flow_time_where_it_is_known() -> None:
    of = trajectory(flow_time(STEP, lr=0.1))
    np.testing.assert_allclose(in_flow_time(of, np.array([5, 10]), np.ones(2), 3)[0], [0.5, 1.0])
    assert in_flow_time(trajectory(), np.array([5, 10]), np.ones(2), 0)[0].tolist() == [5.0, 10.0]


def test_rounding_of_a_balanced_network_has_no_rate() -> None:
    norm, defect = series("weight_norm", STEP, np.ones(40)), series("balancedness_defect.1", STEP, np.full(40, 1e-16))
    of = trajectory(norm, flow_time(STEP), settings=LINEAR)
    assert balancedness_rates(of, {defect.name: defect}, 0) == {}
    real = replace(defect, value=np.exp(-0.01 * STEP)[None])
    assert balancedness_rates(of, {real.name: real}, 0)["1"].parameters["rate"] == pytest.approx(0.01)
    assert balancedness_rates(trajectory(norm, settings=LINEAR), {real.name: real}, 0) == {}


def test_few_modes_are_fitted_and_they_are_the_slowest() -> None:
    step = np.arange(1, 200, 3)
    rates, limit = (1.0, 0.5, 0.1, 0.05, 0.02), np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    values = limit + np.exp(-np.outer(step, rates))
    of = trajectory(settings={"polish": {"singular_values": [limit.tolist()]}})
    measured = {"singular_values(weights)": series("singular_values(weights)", step, np.zeros(len(step)))}
    measured["singular_values(weights)"] = replace(measured["singular_values(weights)"], value=values[None])
    tails = mode_tails(of, measured, 0)
    assert len(tails) == 3
    slowest = tails[0].comparison
    assert slowest is not None and slowest.fits["exponential"].parameters["rate"] == pytest.approx(0.02, rel=1e-3)


def embedding_moment(step: int, *, scale: float = 1.0, runs: int = 1, summed: bool = False) -> Snapshot:
    rng = np.random.default_rng(step)
    width, hidden, classes = 4, 6, 5
    inputs = width if summed else 2 * width
    return snapshot(
        step,
        features__train=np.maximum(rng.normal(size=(runs, 30, hidden)), 0).astype(np.float16),
        readout__weight=scale * rng.normal(size=(runs, classes, hidden)),
        weights__embedding_weight=rng.normal(size=(runs, classes, width)),
        weights__hidden_weight=scale * rng.normal(size=(runs, hidden, inputs)),
        weights__hidden_bias=rng.normal(size=(runs, hidden)),
        weights__readout_weight=scale * rng.normal(size=(runs, classes, hidden)),
    )


@pytest.mark.parametrize("summed", [False, True])
def test_the_certificate_is_that_of_the_measure(summed: bool) -> None:
    moment = embedding_moment(3, summed=summed)
    tensors = {name: torch.from_numpy(np.asarray(array, np.float64)[0]) for name, array in moment.tensors.items()}
    size = 4
    mixing = 2 * torch.eye(size) if summed else math.sqrt(2) * torch.eye(2 * size)
    each = readout_lead_certificate(
        tensors["features/train"],
        readout=tensors["readout/weight"],
        hidden=tensors["weights/hidden.weight"],
        mixing=mixing.double(),
    )
    found = certificate_of(trajectory(snapshots=[moment]))
    assert found["readout_lead_certificate(least)"].value[0, 0] == pytest.approx(float(each.min()), rel=1e-6)
    assert found["readout_lead_certificate(median)"].value[0, 0] == pytest.approx(float(each.median()), rel=1e-6)


def test_the_certificate_is_of_this_architecture_alone() -> None:
    moment = embedding_moment(3)
    other = {**moment.tensors, "weights/second.weight": np.ones((1, 3, 3))}
    wide = {**moment.tensors, "weights/hidden.weight": np.ones((1, 6, 7))}
    for tensors in (other, wide, {"features/train": moment.tensors["features/train"]}):
        assert certificate_of(trajectory(snapshots=[Snapshot(3, None, tensors)])) == {}


def test_the_certificate_of_zero_or_broken_weights_is_not_known() -> None:
    broken = embedding_moment(3, runs=2)
    broken.tensors["weights/hidden.weight"][1, 0, 0] = np.nan
    values = certificate_of(trajectory(snapshots=[broken]))["readout_lead_certificate(least)"].value
    assert np.isfinite(values[0, 0]) and np.isnan(values[1, 0])
    zero = embedding_moment(3, scale=0.0)
    assert np.isnan(certificate_of(trajectory(snapshots=[zero]))["readout_lead_certificate(least)"].value).all()


def linear_moments(runs: int, *, depth: int = 2, rank: int = 3) -> list[Snapshot]:
    rng = np.random.default_rng(0)
    moments = []
    for step in range(0, 100, 10):
        weights = {f"weights/layer.{i + 1}.weight": rng.normal(size=(runs, 3, 3)) for i in range(depth)}
        for array in weights.values():
            array[:, rank:] = 0
        readout = weights[f"weights/layer.{depth}.weight"]
        features = rng.normal(size=(runs, 8, 3))
        moments.append(Snapshot(step, None, {**weights, "readout/weight": readout, "features/train": features}))
    return moments


def test_a_linear_network_of_one_matrix_shares_its_map_with_none() -> None:
    of = trajectory(snapshots=linear_moments(1, depth=1), settings=LINEAR)
    assert "relative_slack" not in measured_conditions(of)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_maps_of_any_rank_are_measured(rank: int) -> None:
    batches = {"train": EvalBatch("train", np.arange(8) % 3, 8)}
    of = trajectory(snapshots=linear_moments(2, rank=rank), settings=LINEAR, batches=batches)
    measured = measured_conditions(of)
    assert {"relative_slack", "balancedness_defect.1", "singular_values(weights)"} <= set(measured)
    assert "expected_gap(logits: train)" in measured
    assert all(np.isfinite(one.value).all() for one in measured.values())
    assert pull_of(replace(of, settings=ADAMW)) == {}


def test_every_claim_is_judged_on_a_trajectory_that_holds_nothing() -> None:
    of = trajectory(series("train_margin_min", STEP, np.full((2, 40), np.nan)), settings={})
    whole = examine_clocks(of)
    assert len(whole.conditions) == 2
    for r in range(2):
        judged = judge_conditions(whole, r)
        assert set(judged) == CODES
        assert {verdict.outcome for verdict in judged.values()} == {Outcome.NOT_APPLICABLE}
        assert all(verdict.evidence and verdict.evidence[0] for verdict in judged.values())


def several_runs() -> Trajectory:
    """Return a linear network's three runs, of which the second became NaN half way."""
    rng = np.random.default_rng(3)
    step = log_steps(1000, 60)
    t = np.tile(step.astype(np.float64), (3, 1))
    broken = np.zeros_like(t, dtype=bool)
    broken[1, 30:] = True
    scalars = {
        "train_loss": np.exp(-t / 100),
        "train_margin_min": t / 100 - 0.2,
        "train_margin_q01": t / 90 - 0.2,
        "squared_gradient_norm": np.exp(-t / 50),
        "objective": 1 + np.exp(-t / 50),
        "weight_norm": 2 + 0 * t,
        "flow_time": 0.1 * t,
        "lr": 0.1 + 0 * t,
        "train_accuracy": (t > 20).astype(float),
        **{f"{kind}.{block}": np.exp(0.1 * rng.normal(size=t.shape)) * (1 + (block == "readout"))
           for kind in ("gradient_norm", "update_size", "loss_decrease", "block_norm") for block in ("hidden", "readout")},
    }  # fmt: skip
    moments = linear_moments(3)
    for moment in moments[5:]:
        for array in moment.tensors.values():
            array[1] = np.nan
    recorded = (series(name, step, np.where(broken, np.nan, value)) for name, value in scalars.items())
    settings = {**LINEAR, "polish": {"objective": [1.0, None, 1.0], "slowest_rate": [0.1, None, 0.1]}}
    batches = {"train": EvalBatch("train", np.arange(8) % 3, 8)}
    return trajectory(*recorded, settings=settings, snapshots=moments, batches=batches)


def test_one_run_that_broke_changes_nothing_for_the_others() -> None:
    whole = several_runs()
    good = [0, 2]
    others = Trajectory(
        whole.source,
        {name: replace(one, value=one.value[good]) for name, one in whole.scalars.items()},
        tuple(Snapshot(m.step, None, {n: a[good] for n, a in m.tensors.items()}) for m in whole.snapshots),
        whole.batches,
        settings={**whole.settings, "polish": {"objective": [1.0, 1.0], "slowest_rate": [0.1, 0.1]}},
    )
    together, apart = examine_clocks(whole), examine_clocks(others)
    compared = 0
    for r, own in ((0, 0), (2, 1)):
        for code, verdict in judge_conditions(apart, own).items():
            again = judge_conditions(together, r)[code]
            assert (again.outcome, again.effect, again.interval) == (verdict.outcome, verdict.effect, verdict.interval)
            compared += 1
    assert compared == 2 * len(CODES)
    assert set(judge_conditions(together, 1)) == CODES


def test_a_single_snapshot_says_nothing_of_change() -> None:
    of = several_runs()
    judged = judge_conditions(examine_clocks(replace(of, snapshots=of.snapshots[:1])), 0)
    for code in ("TC303", "TC401", "TC402", "TC501", "TC604"):
        assert judged[code].outcome is Outcome.NOT_APPLICABLE, code


def linear(**settings: object) -> dict[str, Outcome]:
    run = train(deep_linear(**settings))  # type: ignore[arg-type]
    judged = judge_conditions(examine_clocks(replace(run, settings={**run.settings, "map": "linear"})), 0)
    return {code: verdict.outcome for code, verdict in judged.items()}


def test_a_linear_network_relaxes_as_its_theory_says() -> None:
    found = linear(spectrum="3,2,1.5,1.2", init="random", lr=0.01, steps=3000)
    assert found["TC401"] is found["TC402"] is found["TC404"] is Outcome.SUPPORTED
    assert found["TC403"] is Outcome.REFUTED
    assert found["TC301"] is found["TC303"] is found["TC405"] is Outcome.NOT_APPLICABLE  # square loss


@pytest.mark.slow
def test_a_mode_at_the_threshold_makes_the_tail_polynomial() -> None:
    run = train(deep_linear(steps=12_000))
    of = examine_clocks(replace(run, settings={**run.settings, "map": "linear"}))
    verdict = judge_conditions(of, 0)["TC403"]
    assert verdict.outcome is Outcome.SUPPORTED
    assert verdict.effect == pytest.approx(0.75, abs=0.02)


def test_without_decay_and_with_adamw_the_theory_is_silent() -> None:
    free = linear(weight_decay=0.0, steps=500)
    adamw = linear(optimizer="adamw", steps=500, lr=1e-3)
    for found in (free, adamw):
        assert {found[code] for code in ("TC303", "TC402", "TC406")} == {Outcome.NOT_APPLICABLE}
    assert free["TC404"] is Outcome.NOT_APPLICABLE
    assert adamw["TC404"] is not Outcome.NOT_APPLICABLE  # its rest is of the update itself


def folder_of_grokking(runs: int, snapshots: int) -> Trajectory:
    """Return what a run of modular addition keeps: hidden 256, p 113, 2048 examples a split in half precision."""
    rng, step = np.random.default_rng(0), log_steps(15_000, 350)
    p, hidden, examples = 113, 256, 2048
    labels = {split: EvalBatch(split, rng.integers(0, p, examples), 4000) for split in ("train", "heldout")}
    base = np.maximum(rng.normal(size=(runs, 2 * examples, hidden)), 0).astype(np.float32)
    moments = []
    for at in np.linspace(0, 15_000, snapshots).astype(int).tolist():
        features = (base * (1 + 1e-4 * at * (base > 0.5))).astype(np.float16)
        moments.append(
            Snapshot(at, None, {
                "features/train": features[:, :examples], "features/heldout": features[:, examples:],
                "readout/weight": rng.normal(size=(runs, p, hidden)).astype(np.float32),
                "weights/embedding.weight": rng.normal(size=(runs, p, 128)).astype(np.float32),
                "weights/hidden.weight": rng.normal(size=(runs, hidden, 128)).astype(np.float32),
                "weights/readout.weight": rng.normal(size=(runs, p, hidden)).astype(np.float32),
            })
        )  # fmt: skip
    t = np.tile(step.astype(np.float64), (runs, 1))
    noisy = np.exp(ar1(rng, t.shape, 0.5, 0.05))
    scalars = {
        "train_loss": np.exp(-t / 300) * noisy + 1e-6,
        "train_accuracy": (t > 150).astype(float),
        "train_margin_min": np.minimum(t / 100, 12) * noisy - 1,
        "train_margin_q01": np.minimum(t / 80, 14) * noisy - 1,
        "flow_time": 1e-3 * t,
        "lr": 1e-3 + 0 * t,
        **{f"{kind}.{block}": noisy for kind in ("gradient_norm", "update_size", "loss_decrease", "block_norm")
           for block in ("embedding", "hidden", "readout")},
    }  # fmt: skip
    return trajectory(
        *(series(name, step, value) for name, value in scalars.items()),
        settings=ADAMW, snapshots=moments, batches=labels,
    )  # fmt: skip


@pytest.mark.slow
def test_a_folder_is_examined_in_a_fraction_of_a_minute() -> None:
    of = folder_of_grokking(runs=4, snapshots=20)  # an eighth of 8 runs with 80 snapshots, of which 30 s are asked
    began = time.process_time()
    whole = examine_clocks(of)
    assert time.process_time() - began < 6  # 1.5 s were measured, and 8 s on a real folder of 5 runs with 80 snapshots
    assert len(judge_conditions(whole, 1)) == len(CODES)


def test_the_synthetic_settings_are_what_they_say() -> None:
    assert COUPLED["decay"] == LINEAR["decay"] == "coupled" and ADAMW["decay"] == "decoupled"
    assert evidence(trajectory(fitted_at(50, STEP))).clocks is not None


def test_no_time_passes_while_the_learning_rate_is_zero() -> None:
    flow = series("flow_time", STEP, np.minimum(STEP, 200) / 100)
    time, values = in_flow_time(trajectory(flow), STEP, np.arange(len(STEP), dtype=float), 0)
    assert time.tolist() == (STEP[:21] / 100).tolist()
    assert values.tolist() == list(range(21))
    late = series("flow_time", STEP[5:], STEP[5:] / 100.0)
    assert in_flow_time(trajectory(late), STEP, np.ones(len(STEP)), 0)[0][0] == 0.5


def test_a_gap_that_is_lost_again_begins_to_grow_when_it_comes_back() -> None:
    margin = np.where(STEP < 60, 1.0, np.where(STEP < 200, -1.0, STEP / 100.0))
    window = growth_window(trajectory(series("train_margin_min", STEP, margin)), 0)
    assert window is not None and window[0] == 200


def test_a_network_that_decays_to_nothing_is_diagnosed_all_the_same() -> None:
    run = train(deep_linear(loss="cross-entropy", p=5, steps=300))  # its polished map is 0, so no gap to it has a scale
    clocks = examine_clocks(run).clocks
    assert clocks is not None and clocks.structure is None
    assert any("Schatten" in why for why in clocks.missing)


def test_objective_reduced_objective_and_slack_are_kept_apart() -> None:
    run = train(deep_linear(init="random", spectrum="2,1", steps=2000))
    series = measured_conditions(run)
    whole, reduced, slack = (series[name] for name in ("objective gap", "schatten objective gap", "slack"))
    at_snapshots = whole.value[:, np.isin(whole.step, reduced.step)]
    np.testing.assert_allclose(at_snapshots, reduced.value + 0.25 * slack.value, rtol=1e-9, equal_nan=True)
    assert slack.value[0, 0] > 0.1 and reduced.value[0, 0] > 0  # random layers do not share their map evenly
    assert slack.value[0, -1] < 1e-6
