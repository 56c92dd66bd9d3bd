"""Verdicts: each claim against a curve where it is plainly true, one where it is plainly false, and pure noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from twoclocks.runs import run_of
from twoclocks.sources.logs import read_columns
from twoclocks.stats import t_interval
from twoclocks.verdicts import Outcome, Verdict, judge_curves, over_runs

STEP = np.unique(np.round(np.geomspace(1, 10_000, 150))) - 1


def sigmoid(centre: float, width: float = 0.15) -> np.ndarray[Any, Any]:
    return 1 / (1 + np.exp(-(np.log10(STEP + 1) - np.log10(centre)) / width))


def verdicts_of(train: np.ndarray[Any, Any], heldout: np.ndarray[Any, Any]) -> dict[str, Verdict]:
    table = {
        "step": STEP.tolist(),
        "train_acc": (0.01 + 0.99 * train).tolist(),
        "test_acc": (0.01 + 0.99 * heldout).tolist(),
    }
    return judge_curves(run_of(read_columns(table)))


FIT = sigmoid(50)
CURVES = {
    "grokking": (FIT, sigmoid(2000)),
    "together": (FIT, sigmoid(50)),
    "memorisation": (FIT, 0 * FIT),
    "no fit": (0.02 * FIT, 0.02 * FIT),
    "descent": (sigmoid(500), 0.8 * sigmoid(10) - 0.3 * (sigmoid(100) - sigmoid(3000))),
    "overfitting": (sigmoid(500), 0.8 * sigmoid(10) - 0.3 * sigmoid(200)),
    "collapse": (FIT, sigmoid(300) - 0.9 * sigmoid(4000)),
}
TRUE_OF = {
    "TC102": {"grokking", "together", "memorisation", "descent", "overfitting", "collapse"},
    "TC103": {"grokking", "together", "descent", "overfitting", "collapse"},
    "TC104": {"grokking", "collapse"},
    "TC105": {"descent"},
    "TC106": {"overfitting", "collapse"},
    "TC107": {"collapse"},
}


@pytest.mark.parametrize("code", TRUE_OF)
def test_each_claim_holds_just_where_it_is_true(code: str) -> None:
    judged = {name: verdicts_of(*curves)[code].outcome for name, curves in CURVES.items()}
    assert {name for name, outcome in judged.items() if outcome is Outcome.SUPPORTED} == TRUE_OF[code]
    assert len(judged) == 7


def test_the_delay_is_the_ratio_of_the_times_and_its_interval_holds_it() -> None:
    verdict = verdicts_of(*CURVES["grokking"])["TC104"]
    assert verdict.effect is not None
    assert verdict.interval is not None
    centre = 2000 * 10 ** (0.15 * np.log(9)) / (50 * 10 ** (0.15 * np.log(0.97 / 0.03)))
    assert verdict.interval[0] <= verdict.effect <= verdict.interval[1]
    assert verdict.effect == pytest.approx(centre, rel=0.1)


@pytest.mark.parametrize(("code", "most"), [("TC104", 2), ("TC105", 4), ("TC106", 4), ("TC107", 2), ("TC109", 4)])
def test_noise_on_ordinary_learning_rarely_alarms(code: str, most: int) -> None:
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(200):
        noise = rng.normal(0, 0.01, len(STEP))
        alarms += verdicts_of(FIT, 0.85 * sigmoid(40) + noise)[code].holds
    assert alarms <= most


def test_runs_that_disagree_leave_a_claim_undetermined() -> None:
    yes, no = verdicts_of(*CURVES["grokking"])["TC104"], verdicts_of(*CURVES["together"])["TC104"]
    assert over_runs([yes, yes, yes]).outcome is Outcome.SUPPORTED
    assert over_runs([yes, yes, yes]).n == 3
    assert over_runs([yes, yes, yes]).unit_of_n == "runs"
    assert over_runs([yes, no]).outcome is Outcome.UNDETERMINED
    assert over_runs([yes]) is yes


def test_the_t_interval_covers_nineteen_of_twenty_means() -> None:
    rng = np.random.default_rng(3)
    low, high = np.array([t_interval(rng.normal(2.0, 1.0, 5)) for _ in range(1000)]).T
    covered = float(((low <= 2.0) & (high >= 2.0)).mean())
    assert 0.93 <= covered <= 0.97
    assert t_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
