"""The claims on the blocks' speeds on runs of known truth: each outcome, its effect and sign, and what is not asked of."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic import evidence, fitted_at, log_steps, series, trajectory
from twoclocks.block_verdicts import decreases_until, judge_blocks, judge_certificate, judge_share
from twoclocks.evidence import Evidence
from twoclocks.trajectory import Float, Series
from twoclocks.verdicts import Outcome, Verdict

STEP = log_steps(5000, 120)
NOISE = np.exp(0.1 * np.random.default_rng(0).normal(size=len(STEP)))
SUPPORTED, REFUTED, UNDETERMINED = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.UNDETERMINED
LEADS = {"TC601": "gradient_norm", "TC602": "update_size"}


def of_blocks(recorded: str, fit: float = 500.0, **sizes: Float | float) -> Evidence:
    rows = {name: size * NOISE if isinstance(size, float) else size for name, size in sizes.items()}
    return evidence(
        trajectory(
            fitted_at(fit, STEP),
            *(series(f"block_norm.{name}", STEP, np.ones(len(STEP))) for name in rows),
            *(series(f"{recorded}.{name}", STEP, row) for name, row in rows.items()),
        ),
        fitted=[],
    )


@pytest.mark.parametrize("code", list(LEADS))
def test_the_lead_of_the_readout(code: str) -> None:
    half = np.where(np.arange(len(STEP)) % 2, 2.0, 0.5)
    for size, outcome, ratio in ((3.0, SUPPORTED, 3), (0.2, REFUTED, 0.2), (half, UNDETERMINED, 1)):
        other = np.ones(len(STEP))
        verdict = judge_blocks(of_blocks(LEADS[code], readout=size, encoder=other), 0)[code]
        assert verdict.outcome is outcome
        assert verdict.effect == pytest.approx(ratio, rel=0.2)
        assert verdict.interval is not None and verdict.interval[0] < verdict.effect < verdict.interval[1]


@pytest.mark.parametrize("code", list(LEADS))
def test_it_leads_only_if_it_leads_every_block(code: str) -> None:
    wavering = np.where(np.arange(len(STEP)) % 2, 1.0, 0.1)
    ones = np.ones(len(STEP))
    behind = judge_blocks(of_blocks(LEADS[code], readout=0.5, a=0.1 * ones, b=ones), 0)[code]
    assert behind.outcome is REFUTED and "÷ b" in behind.effect_is
    unsure = judge_blocks(of_blocks(LEADS[code], readout=0.5, a=0.1 * ones, b=wavering), 0)[code]
    assert unsure.outcome is UNDETERMINED
    unknown = judge_blocks(of_blocks(LEADS[code], readout=3.0, a=ones, b=np.full(len(STEP), np.nan)), 0)[code]
    assert unknown.outcome is UNDETERMINED
    assert any("÷ b: fewer than" in row for row in unknown.evidence)


def test_a_trend_does_not_hide_a_lead() -> None:
    fading = np.geomspace(20, 1.3, len(STEP)) * np.exp(0.02 * np.random.default_rng(1).normal(size=len(STEP)))
    verdict = judge_blocks(of_blocks("gradient_norm", fit=5000, readout=fading, encoder=np.ones(len(STEP))), 0)["TC601"]
    assert verdict.outcome is SUPPORTED


def test_only_what_comes_before_the_fit_counts() -> None:
    turning = np.where(STEP <= 600, 3.0, 0.1) * NOISE
    ones = np.ones(len(STEP))
    verdict = judge_blocks(of_blocks("gradient_norm", readout=turning, encoder=ones), 0)["TC601"]
    assert verdict.outcome is SUPPORTED
    assert any("after the fit readout ÷ encoder is 0.1" in row or "is 0.09" in row for row in verdict.evidence)
    never = judge_blocks(of_blocks("gradient_norm", fit=1e9, readout=turning, encoder=ones), 0)["TC601"]
    assert never.outcome is UNDETERMINED
    assert any("never fitted" in row for row in never.evidence)
    early = judge_blocks(of_blocks("gradient_norm", fit=3, readout=turning, encoder=ones), 0)["TC601"]
    assert early.outcome is Outcome.NOT_APPLICABLE


def share(readout: Float | float, encoder: Float | float, fit: float = 500.0) -> Verdict:
    return judge_share(of_blocks("loss_decrease", fit, readout=readout, encoder=encoder), 0)


def test_the_share_of_the_loss() -> None:
    for own, outcome in ((0.8, SUPPORTED), (0.2, REFUTED)):
        verdict = share(own, 1 - own)
        assert verdict.outcome is outcome
        assert verdict.effect == pytest.approx(own)
    swinging = 0.5 + 0.4 * (-1.0) ** np.arange(len(STEP))
    assert share(swinging, 1 - swinging).outcome is UNDETERMINED
    assert share(-0.2, -0.8).outcome is Outcome.NOT_APPLICABLE
    assert share(0.8, 0.2, fit=3).outcome is Outcome.NOT_APPLICABLE


def test_an_evaluated_step_stands_for_the_steps_around_it() -> None:
    step = np.array([1, 2, 3, 5, 9, 17])
    decreases: dict[str, Series] = {"a": series("a", step, np.ones(6)), "b": series("b", step[:5], np.ones(5))}
    kept, values = decreases_until(decreases, 0, 1, 9)
    assert kept.tolist() == [1, 2, 3, 5, 9]
    np.testing.assert_allclose(values["a"], [1, 1, 1.5, 3, 4], rtol=0.12)  # half way to the neighbours
    assert values["a"][1] == 1.0


def test_the_certificate_certifies_or_says_nothing() -> None:
    def judged(value: Float) -> Verdict:
        measured = series("readout_lead_certificate(least)", STEP, value)
        return judge_certificate(evidence(trajectory(fitted_at(500, STEP)), measured, fitted=[]), 0)

    sure = judged(np.where(STEP <= 600, 1.5, 0.1))
    assert (sure.outcome, sure.effect) == (SUPPORTED, 1.5)
    for value in (0.7, 1.0005):  # the second within the rounding of recorded features
        assert judged(np.full(len(STEP), value)).outcome is UNDETERMINED
    assert judged(np.full(len(STEP), np.nan)).outcome is Outcome.NOT_APPLICABLE


def test_what_was_not_recorded_is_said() -> None:
    judged = judge_blocks(evidence(trajectory(fitted_at(500, STEP)), fitted=[]), 0)
    assert list(judged) == ["TC601", "TC602", "TC603", "TC604"]
    assert {verdict.outcome for verdict in judged.values()} == {Outcome.NOT_APPLICABLE}
