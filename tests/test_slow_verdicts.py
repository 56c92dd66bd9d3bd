"""The slow clock's claims on runs of known truth: each outcome, with its effect and sign, and what is not asked of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from synthetic import ADAMW, COUPLED, LINEAR, clocks_of, evidence, fitted_at, flow_time, log_steps, series, trajectory
from twoclocks.clocks import Between
from twoclocks.conditions import Conditions, balancedness_rates
from twoclocks.evidence import Evidence
from twoclocks.fits import Fit, FitOutcome
from twoclocks.slow_verdicts import (
    hull,
    judge_balance,
    judge_balance_decay,
    judge_order,
    judge_prefactor,
    judge_rest,
    judge_shrinkage,
    judge_slow,
    judge_tail_law,
    order_outcome,
)
from twoclocks.tails import Tail
from twoclocks.trajectory import Float
from twoclocks.verdicts import Outcome, Verdict

STEP = np.arange(0, 400, 10)
SUPPORTED, REFUTED, UNDETERMINED = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.UNDETERMINED
UNKNOWN: Mapping[str, Any] = {"settings": {"weight_decay": 0.5}}
FREE: Mapping[str, Any] = {"decay": "coupled", "settings": {"weight_decay": 0.0}}


def slack(value: Float, norm: float = 1.0) -> Verdict:
    of = trajectory(series("weight_norm", STEP, np.full(40, norm)), settings=LINEAR)
    return judge_balance(evidence(of, series("relative_slack", STEP[: len(value)], value), fitted=[]), 0)


def test_balance() -> None:
    for level, outcome in ((1e-3, SUPPORTED), (0.3, REFUTED), (0.0, SUPPORTED)):
        verdict = slack(np.full(40, level))
        assert verdict.outcome is outcome
        assert verdict.effect == pytest.approx(max(level, 1e-12))
    assert slack(0.01 * np.exp((-1.0) ** np.arange(40))).outcome is UNDETERMINED
    falling = slack(np.exp(-STEP / 20))
    assert falling.outcome is SUPPORTED and falling.evidence[0].startswith("1 at step 0")


def test_balance_where_it_cannot_be_asked() -> None:
    reasons = {
        "not finite": slack(np.append(np.ones(39), np.nan)),
        "all weights are 0": slack(np.zeros(40), norm=0.0),
        "fewer than 8 snapshots": slack(np.ones(1)),
        "deep linear network": judge_balance(evidence(trajectory(), fitted=[]), 0),
    }
    for words, verdict in reasons.items():
        assert verdict.outcome is Outcome.NOT_APPLICABLE
        assert words in verdict.evidence[0]


def defects(*rates: float, settings: Mapping[str, Any] = LINEAR, time: bool = True) -> Verdict:
    recorded = [series("weight_norm", STEP, np.ones(40)), *([flow_time(STEP, lr=0.01)] if time else [])]
    of = trajectory(*recorded, settings=settings)
    decays = [series(f"balancedness_defect.{i + 1}", STEP, np.exp(-0.01 * rate * STEP)) for i, rate in enumerate(rates)]
    fitted = Conditions(balancedness=balancedness_rates(of, {one.name: one for one in decays}, 0))
    return judge_balance_decay(evidence(of, *decays, fitted=[fitted]), 0)


def test_balance_decay() -> None:
    held, broken = defects(1.0, 1.0), defects(1.0, 1.5)
    assert held.outcome is SUPPORTED
    assert held.effect == pytest.approx(1.0)
    assert broken.outcome is REFUTED
    assert broken.effect == pytest.approx(1.5)
    wide = Fit("exponential", {"rate": 1.0}, {"rate": (0.5, 1.5)}, FitOutcome.CONVERGED, 40, 40.0, (0.0, 4.0))
    of = trajectory(flow_time(STEP), settings=LINEAR)
    defect = series("balancedness_defect.1", STEP, np.ones(40))
    verdict = judge_balance_decay(evidence(of, defect, fitted=[Conditions(balancedness={"1": wide})]), 0)
    assert verdict.outcome is UNDETERMINED


def test_balance_decay_where_there_is_no_law() -> None:
    reasons = {
        "AdamW has no such law": defects(1.0, settings=ADAMW),
        "not known whether": defects(1.0, settings=UNKNOWN),
        "no weight decay": defects(1.0, settings=FREE),
        "the weight decay is not known": defects(1.0, settings={"decay": "coupled"}),
        "flow time": defects(1.0, time=False),
        "deep linear network": defects(),
        "are rounding": defects(1e4),
    }
    for words, verdict in reasons.items():
        assert verdict.outcome is Outcome.NOT_APPLICABLE
        assert words in verdict.evidence[0]


def tail_of(verdict: str, theta: float | None, **more: Any) -> Verdict:
    tail = Tail(verdict, theta, None, "why", None, (1.0, 100.0))
    return judge_tail_law(evidence(trajectory(), fitted=[Conditions(tail=tail, tail_of="S", **more)]), 0)


def kappa(theta: float, half: float) -> Fit:
    spread = {"theta": (theta - half, theta + half)}
    return Fit("Łojasiewicz", {"theta": theta}, spread, FitOutcome.CONVERGED, 40, 40.0, (1.0, 9.0))


def test_the_law_of_a_tail() -> None:
    expected = {
        "polynomial": SUPPORTED,
        "exponential": REFUTED,
        "floor reached": UNDETERMINED,
        "undetermined": UNDETERMINED,
    }
    for law, outcome in expected.items():
        verdict = tail_of(law, 0.75)
        assert (verdict.outcome, verdict.effect) == (outcome, 0.75)
        assert law in verdict.evidence[0]


def test_kappa_tells_an_exponential_and_contradicts_a_power_law() -> None:
    sure = {"kappa": kappa(0.51, 0.02), "relaxations": 8.0}
    verdict = tail_of("undetermined", None, **sure)
    assert (verdict.outcome, verdict.effect) == (REFUTED, 0.51)
    assert tail_of("polynomial", 0.75, **sure).outcome is UNDETERMINED
    for unsure in (
        {**sure, "relaxations": 3.0},
        {**sure, "kappa": kappa(0.51, 0.1)},
        {**sure, "kappa": kappa(0.75, 0.01)},
    ):
        assert tail_of("undetermined", None, **unsure).outcome is UNDETERMINED


def test_modes_that_are_all_exponential_contradict_a_power_law() -> None:
    mode = Tail("exponential", 0.5, None, "", None, (1.0, 100.0))
    power = Tail("polynomial", 0.75, None, "", None, (1.0, 100.0))
    assert tail_of("polynomial", 0.75, modes=(mode, mode)).outcome is UNDETERMINED
    assert tail_of("polynomial", 0.75, modes=(mode, power)).outcome is SUPPORTED


def test_a_run_without_a_tail_says_why() -> None:
    step, gap = log_steps(1000, 40), series("S", log_steps(1000, 40), np.ones(len(log_steps(1000, 40))))
    cases = {
        "neither an objective": evidence(trajectory(), fitted=[Conditions()]),
        "never fitted": evidence(trajectory(fitted_at(1e9, step)), structure=gap),
        "did not begin to close": evidence(trajectory(fitted_at(10, step)), structure=gap),
    }
    for words, of in cases.items():
        verdict = judge_tail_law(of, 0)
        assert verdict.outcome is Outcome.NOT_APPLICABLE
        assert words in verdict.evidence[0]


def rest(residual: Float, settings: Mapping[str, Any] = COUPLED, *, by: str = "gradient", norm: float = 2.0) -> Verdict:
    ones = np.ones(len(residual))
    recorded = {
        "gradient": [series("squared_gradient_norm", STEP, (0.5 * norm * residual) ** 2)],
        "update": [series("update_size.a", STEP, 0.01 * 0.5 * residual), series("update_size.b", STEP, 0 * residual)],
        "nothing": [],
    }[by]
    of = trajectory(
        series("weight_norm", STEP, norm * ones), series("lr", STEP, 0.01 * ones), *recorded, settings=settings
    )
    return judge_rest(evidence(of, fitted=[]), 0)


@pytest.mark.parametrize(("settings", "by"), [(COUPLED, "gradient"), (COUPLED, "update"), (ADAMW, "update")])
def test_rest(settings: Mapping[str, Any], by: str) -> None:
    for level, outcome in ((0.01, SUPPORTED), (0.5, REFUTED)):
        verdict = rest(np.full(40, level), settings, by=by)
        assert verdict.outcome is outcome
        assert verdict.effect == pytest.approx(level)
    assert rest(0.1 * np.exp((-1.0) ** np.arange(40)), settings, by=by).outcome is UNDETERMINED


def test_rest_where_it_cannot_be_asked() -> None:
    still, ended = np.full(40, 0.01), np.full(40, 0.01)
    ended[10:] = np.nan
    reasons = [
        ("no weight decay", rest(still, FREE)),
        ("not known how the decay acts", rest(still, UNKNOWN)),
        ("the weight decay is not known", rest(still, {})),
        ("neither the objective's gradient", rest(still, by="nothing")),
        ("neither the objective's gradient", rest(still, ADAMW, by="gradient")),
        ("neither the objective's gradient", rest(ended)),
        ("neither the objective's gradient", rest(still, norm=0.0)),
    ]
    for words, verdict in reasons:
        assert verdict.outcome is Outcome.NOT_APPLICABLE
        assert words in verdict.evidence[0]


def order(loss_rate: float, gap_rate: float, *, last: int = 100_000, noise: float = 0.0) -> Verdict:
    step = log_steps(last, 200)
    shake = np.exp(noise * np.random.default_rng(0).normal(size=len(step)))
    of = trajectory(series("train_loss", step, np.exp(-loss_rate * step) * shake))
    gap = series("S", step, np.exp(-gap_rate * step) * shake)
    return judge_order(Evidence(of, clocks=clocks_of(of, gap)), 0)


def test_the_order_of_the_clocks() -> None:
    later, equal, earlier = order(1e-2, 1e-3), order(1e-2, 1e-2), order(1e-3, 1e-2)
    assert (later.outcome, equal.outcome, earlier.outcome) == (SUPPORTED, REFUTED, REFUTED)
    for verdict, ratio in ((later, 10), (equal, 1), (earlier, 0.1)):
        assert verdict.effect == pytest.approx(ratio, rel=0.1)
        assert verdict.interval is not None and verdict.interval[0] <= verdict.effect <= verdict.interval[1]
    assert order(1e-2, 0.5e-2).outcome is UNDETERMINED


def test_a_clock_that_was_cut_off_is_a_bound() -> None:
    cut, soon = order(1e-2, 3e-4, last=10_000), order(1e-2, 3e-4, last=500)
    assert cut.outcome is SUPPORTED
    assert cut.effect is not None and cut.interval is None  # some thresholds were reached, others are bounds
    assert any("not reached by step 10000" in row for row in cut.evidence)
    never = order(1e-2, 1e-9, last=10_000)  # a structure that never closes, as with shuffled labels
    assert (never.outcome, never.effect, never.interval) == (UNDETERMINED, None, None)
    assert soon.outcome is UNDETERMINED  # its last evaluation is less than twice the loss's time at some threshold
    assert order(1e-9, 1e-9).outcome is UNDETERMINED  # neither clock struck
    assert judge_order(evidence(trajectory(), fitted=[]), 0).outcome is Outcome.NOT_APPLICABLE


def test_a_run_of_nan_has_no_order() -> None:
    step = log_steps(1000, 40)
    of = trajectory(series("train_loss", step, np.full(len(step), np.nan)))
    whole = Evidence(of, clocks=clocks_of(of, series("S", step, np.exp(-step))))
    assert judge_order(whole, 0).outcome is Outcome.NOT_APPLICABLE


def test_bounds_of_quotients() -> None:
    assert order_outcome([Between(2.0, None), Between(3.0, 4.0)]) is SUPPORTED
    assert order_outcome([Between(None, 1.9)]) is REFUTED
    assert order_outcome([Between(2.5, 3.0), Between(None, 1.5)]) is UNDETERMINED
    assert order_outcome([Between(1.5, 2.5)]) is UNDETERMINED
    assert hull([Between(2.0, 3.0), Between(1.0, 2.0)]) == (1.0, 3.0)
    assert hull([Between(2.0, None), Between(None, 2.0)]) is hull([]) is None


def shrinkage(r: float, half: float, tail: Tail) -> Verdict:
    fit = Fit("power relation", {"r": r}, {"r": (r - half, r + half)}, FitOutcome.CONVERGED, 30, 30.0, (0.0, 1.0))
    return judge_shrinkage(evidence(trajectory(), fitted=[Conditions(shrinkage=fit, tail=tail)]), 0)


def test_shrinkage() -> None:
    tail = Tail("polynomial", 0.75, (0.749, 0.751), "", None, (0.0, 1.0))
    held, squared, wide = shrinkage(0.25, 0.001, tail), shrinkage(0.5, 0.001, tail), shrinkage(0.25, 0.1, tail)
    assert (held.outcome, squared.outcome, wide.outcome) == (SUPPORTED, REFUTED, UNDETERMINED)
    assert (held.effect, squared.effect) == (1.0, 2.0)
    unsettled = Tail("undetermined", 0.75, None, "", None, (0.0, 1.0))
    assert "not settled" in shrinkage(0.25, 0.001, unsettled).evidence[0]
    assert judge_shrinkage(evidence(trajectory(), fitted=[Conditions()]), 0).outcome is Outcome.NOT_APPLICABLE


def test_one_weight_decay_cannot_tell_a_prefactor() -> None:
    for settings, words in ((COUPLED, "weight decay 0.5"), ({}, "not known")):
        verdict = judge_prefactor(evidence(trajectory(settings=settings), fitted=[]))
        assert verdict.outcome is Outcome.NOT_APPLICABLE
        assert words in verdict.evidence[0]


def test_every_code_is_judged_once() -> None:
    judged = judge_slow(evidence(trajectory(), fitted=[Conditions()]), 0)
    assert list(judged) == [f"TC40{i}" for i in range(1, 8)]
