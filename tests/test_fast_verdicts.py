"""The fast clock's claims on runs of known truth: each outcome, with its effect and sign, and what is not asked of."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from synthetic import ADAMW, LINEAR, evidence, flow_time, growth_alone, series, trajectory
from twoclocks.conditions import Conditions, contraction_of
from twoclocks.diagnosis import judge_conditions
from twoclocks.evidence import Evidence, examine_clocks
from twoclocks.fast_verdicts import (
    growth_outcome,
    judge_contraction,
    judge_fast,
    judge_growth,
    judge_loss_floor,
    judge_rounding,
    judge_velocity,
)
from twoclocks.fits import Fit, FitOutcome, Growth
from twoclocks.measures.adam import adam_gap_velocity
from twoclocks.recipes import deep_linear
from twoclocks.training.loop import train
from twoclocks.trajectory import Float, Snapshot
from twoclocks.verdicts import Outcome, Verdict

STEP = np.arange(10, 1010, 10)
NOISE = 0.01 * np.random.default_rng(0).normal(size=len(STEP))
SQUARE: dict[str, Any] = {**LINEAR, "settings": {"weight_decay": 0.5, "loss": "square"}}


def growing(margin: Float, **settings: Any) -> Evidence:
    of = trajectory(series("train_margin_min", STEP, margin), settings={**ADAMW, **settings})
    return evidence(of, fitted=growth_alone(of))


def test_linear_growth_and_its_slope() -> None:
    verdict = judge_growth(growing(1 + 0.02 * STEP + NOISE), 0)
    assert verdict.outcome is Outcome.SUPPORTED
    assert verdict.effect == pytest.approx(0.02, rel=1e-2)
    assert verdict.interval is not None and verdict.interval[0] < 0.02 < verdict.interval[1]


@pytest.mark.parametrize("margin", [np.log(STEP), 5 * -np.expm1(-STEP / 250)], ids=["log", "saturating"])
def test_growth_that_is_not_linear(margin: Float) -> None:
    verdict = judge_growth(growing(margin + NOISE), 0)
    assert verdict.outcome is Outcome.REFUTED
    assert verdict.effect is not None and verdict.effect > 0


def test_growth_hidden_by_noise_is_undetermined() -> None:
    loud = 1 + 0.0005 * STEP + 0.2 * np.random.default_rng(1).normal(size=len(STEP))
    assert judge_growth(growing(loud), 0).outcome is Outcome.UNDETERMINED
    flat = judge_growth(growing(5 + 0.1 * np.random.default_rng(1).normal(size=len(STEP))), 0)
    assert "within a few evaluations" in flat.evidence[0]


def test_a_run_that_never_fitted_has_no_growth() -> None:
    for margin in (np.full(100, -1.0), np.full(100, np.nan)):
        for judge in (judge_growth, judge_velocity):
            assert judge(growing(margin), 0).outcome is Outcome.NOT_APPLICABLE
    assert judge_contraction(evidence(trajectory(), fitted=[Conditions()]), 0).outcome is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("linear", "logarithmic", "saturating", "low", "outcome"),
    [
        (0.0, 7.0, 0.0, 0.1, Outcome.SUPPORTED),
        (0.0, 5.0, 0.0, 0.1, Outcome.UNDETERMINED),  # the log law is not out of the running
        (0.0, 7.0, -3.0, 0.1, Outcome.UNDETERMINED),  # saturation is better
        (0.0, 7.0, 0.0, -0.1, Outcome.UNDETERMINED),  # it may not grow at all
        (0.0, 7.0, -7.0, 0.1, Outcome.REFUTED),
        (0.0, -7.0, 0.0, 0.1, Outcome.REFUTED),
        (0.0, 7.0, 0.0, -2.0, Outcome.REFUTED),  # it falls
    ],
)
def test_growth_is_judged_by_what_is_left_of_the_other_laws(
    linear: float, logarithmic: float, saturating: float, low: float, outcome: Outcome
) -> None:
    def fit(name: str, score: float) -> Fit:
        return Fit(name, {}, {"slope": (low, low + 1)}, FitOutcome.CONVERGED, 40, 40.0, (0.0, 1.0), "", score)

    laws = fit("linear", linear), fit("logarithmic", logarithmic), fit("saturating", saturating)
    assert growth_outcome(Growth(*laws, "undetermined")) is outcome


def contracting(loss: Float) -> Verdict:
    of = trajectory(series("train_loss", STEP, loss))
    fit = contraction_of(of, (float(STEP[0]), float(STEP[-1])), 0)
    return judge_contraction(evidence(of, fitted=[Conditions(contraction=fit)]), 0)


def test_contraction_of_an_exponential_and_of_a_power() -> None:
    exponential, power = contracting(np.exp(-STEP / 100)), contracting(1 / STEP)
    assert exponential.outcome is Outcome.SUPPORTED
    assert exponential.effect == pytest.approx(0, abs=1e-3)
    assert power.outcome is Outcome.REFUTED
    assert power.effect == pytest.approx(1, abs=1e-3)
    assert contracting(np.full(100, 0.3)).outcome is Outcome.UNDETERMINED
    assert contracting(np.zeros(100)).outcome is Outcome.NOT_APPLICABLE


def test_the_velocity_of_adam() -> None:
    pace = adam_gap_velocity(1e-3, 0.9, 0.98)
    for quotient, outcome in ((1.0, Outcome.SUPPORTED), (2.0, Outcome.REFUTED), (1.1, Outcome.UNDETERMINED)):
        verdict = judge_velocity(growing(1 + quotient * pace * STEP + 0.1 * pace * NOISE / NOISE.std()), 0)
        assert verdict.effect == pytest.approx(quotient, rel=1e-2)
        assert verdict.outcome is outcome


def test_the_velocity_needs_adam_a_line_and_one_learning_rate() -> None:
    line = 1 + 0.001 * STEP + 1e-4 * NOISE
    sgd = growing(line, settings={"weight_decay": 0.1, "optimizer": "sgd"})
    assert "not Adam" in judge_velocity(sgd, 0).evidence[0]
    assert "not grow linearly" in judge_velocity(growing(np.log(STEP) + NOISE), 0).evidence[0]
    unsteady = growing(line, settings={"lr": 0.1, "beta1": 0.9, "beta2": 0.5})
    assert "no steady velocity" in judge_velocity(unsteady, 0).evidence[0]
    changing = growing(line)
    rate = series("lr", STEP, 1e-3 / np.sqrt(STEP))
    of = replace(changing.trajectory, scalars={**changing.trajectory.scalars, "lr": rate})
    assert "learning rate changes" in judge_velocity(replace(changing, trajectory=of), 0).evidence[0]


@pytest.mark.parametrize(
    ("loss", "outcome", "effect"),
    [(1e-8, Outcome.SUPPORTED, 1e-8 * 2**23), (1e-3, Outcome.REFUTED, 1e-3 * 2**23), (0.0, Outcome.SUPPORTED, None)],
)
def test_a_loss_at_the_rounding_of_float32(loss: float, outcome: Outcome, effect: float | None) -> None:
    verdict = judge_rounding(evidence(trajectory(series("train_loss", STEP, np.full(100, loss))), fitted=[]), 0)
    assert verdict.outcome is outcome
    assert effect is None or verdict.effect == pytest.approx(effect)


def test_a_loss_that_crosses_the_rounding_is_undetermined() -> None:
    loss = 10 * 2.0**-23 * np.exp(0.5 * (-1.0) ** np.arange(100))
    assert judge_rounding(evidence(trajectory(series("train_loss", STEP, loss)), fitted=[]), 0).outcome is (
        Outcome.UNDETERMINED
    )
    for few in (loss[:5], np.full(100, np.nan)):
        of = trajectory(series("train_loss", STEP[: len(few)], few))
        assert judge_rounding(evidence(of, fitted=[]), 0).outcome is Outcome.NOT_APPLICABLE


def test_another_loss_than_cross_entropy_is_not_asked() -> None:
    of = trajectory(
        series("train_loss", STEP, np.exp(-STEP / 100)), series("train_margin_min", STEP, 0.01 * STEP), settings=SQUARE
    )
    judged = judge_fast(evidence(of), 0)
    assert set(judged) == {"TC301", "TC302", "TC303", "TC304", "TC305"}
    assert {verdict.outcome for verdict in judged.values()} == {Outcome.NOT_APPLICABLE}


def at_rest(*, off: float = 1.0, force: float = 0.0, **settings: Any) -> Evidence:
    """Return a run whose pull is `off` times what the Euler identity asks for, with ‖∇F‖ = `force`, at every snapshot."""
    step = np.arange(0, 50, 10)
    rows = [Snapshot(int(s), None, {"readout/weight": np.ones((1, 3, 4)), "weights/a": np.ones((1, 4, 4)),
                                    "weights/b": np.ones((1, 3, 4))}) for s in step]  # fmt: skip
    of = trajectory(
        series("weight_norm", step, np.full(5, 2.0)), series("train_loss", step, np.full(5, 0.3)),
        series("squared_gradient_norm", step, np.full(5, force**2)),
        settings={**LINEAR, **settings}, snapshots=rows,
    )  # fmt: skip
    pull = series("expected_gap(logits: train)", step, np.full(5, off * 0.5 * 4 / 2))
    return Evidence(of, measured={pull.name: pull})


def test_the_floor_of_a_loss_at_a_stationary_point() -> None:
    verdict = judge_loss_floor(at_rest(), 0)
    assert verdict.outcome is Outcome.SUPPORTED
    assert verdict.effect == pytest.approx(0, abs=1e-12)
    assert "T_cls(ε) = ∞" in verdict.evidence[1]
    turning = judge_loss_floor(at_rest(force=0.1), 0)  # ‖θ‖ turns round: ⟨θ, ∇F⟩ = 0 and ∇F is not
    assert turning.outcome is Outcome.UNDETERMINED
    away = judge_loss_floor(at_rest(off=1.2), 0)
    assert away.outcome is Outcome.UNDETERMINED
    assert away.effect == pytest.approx(0.2)


def test_one_snapshot_off_the_identity_is_enough_not_to_say_so() -> None:
    of = at_rest()
    pull = of.measured["expected_gap(logits: train)"]
    pull.value[0, -3] *= 1.02
    assert judge_loss_floor(of, 0).outcome is Outcome.UNDETERMINED
    pull.value[0, -3] = np.nan
    assert judge_loss_floor(of, 0).outcome is Outcome.NOT_APPLICABLE


def test_where_there_is_no_floor_the_reason_is_said() -> None:
    reasons = [
        (at_rest(settings={}), "not known"),
        (at_rest(settings={"weight_decay": 0.0}), "no weight decay"),
        (at_rest(decay="decoupled"), "AdamW"),
    ]
    zero = at_rest()
    zero.trajectory.scalars["weight_norm"].value[:] = 0
    reasons += [(zero, "all weights are 0"), (replace(at_rest(), measured={}), "bias-free homogeneous")]
    found = [judge_loss_floor(of, 0) for of, _ in reasons]
    assert len(found) == 5
    for verdict, (_, words) in zip(found, reasons, strict=True):
        assert verdict.outcome is Outcome.NOT_APPLICABLE
        assert words in verdict.evidence[0]


def test_a_real_linear_network_comes_to_its_floor() -> None:
    recipe = deep_linear(loss="cross-entropy", p=4, width=4, init="random", weight_decay=0.05, lr=0.5, steps=1500)
    run = train(recipe)
    judged = judge_conditions(examine_clocks(replace(run, settings={**run.settings, "map": "linear"})), 0)
    verdict = judged["TC303"]
    assert verdict.outcome is Outcome.SUPPORTED
    loss = float(run.scalars["train_loss"].value[0, -1])
    floor = float(verdict.evidence[0].rsplit(" ", 1)[1])
    assert floor <= loss * 1.01 and math.isfinite(floor)


def test_a_log_of_no_decay_is_told_as_such() -> None:
    of = evidence(trajectory(flow_time(STEP), settings={"settings": {"weight_decay": 0.0}}), fitted=[Conditions()])
    assert "no finite limit" in judge_loss_floor(of, 0).evidence[0]
