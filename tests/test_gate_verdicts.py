"""Frozen gates, gates that flip, and what is too little to tell."""

from __future__ import annotations

import numpy as np

from synthetic import evidence, fitted_at, snapshot, trajectory
from twoclocks.conditions import Conditions
from twoclocks.gate_verdicts import judge_gates, least_bounds, outcome_of, since_words
from twoclocks.trajectory import Float
from twoclocks.verdicts import Outcome, Verdict

STEP = np.arange(0, 100, 10)


def judged(on: Float, *, fit: float = 0.0) -> Verdict:
    """Judge gates `[t n h]` of a run that fitted at a step."""
    moments = [snapshot(int(at), features__train=row[None]) for at, row in zip(STEP, on, strict=False)]
    accuracy = fitted_at(fit, STEP)
    found = judge_gates(evidence(trajectory(accuracy, snapshots=moments), fitted=[Conditions()]), 0)
    assert set(found) == {"TC501"}
    return found["TC501"]


def gates(seed: int = 0) -> Float:
    on = (np.random.default_rng(seed).random((40, 20)) < 0.7).astype(np.float64)
    return np.tile(on, (10, 1, 1))


def test_gates_that_never_flip_stand_still() -> None:
    verdict = judged(gates())
    assert verdict.outcome is Outcome.SUPPORTED
    assert (verdict.effect, verdict.interval, verdict.n) == (1.0, (1.0, 1.0), 9)


def test_gates_that_flipped_after_the_fit_do_not() -> None:
    on = gates()
    on[:4, :, :5] = 1 - on[:4, :, :5]
    verdict = judged(on)
    assert verdict.outcome is Outcome.REFUTED
    assert verdict.effect == 0.75
    assert "from step 40 on" in verdict.evidence[1]
    assert judged(on, fit=40).outcome is Outcome.SUPPORTED  # those before the fit do not count


def test_dead_units_do_not_hide_flips() -> None:
    on = np.zeros((10, 40, 400))
    on[:, :, 0] = on[:4, :, 1] = 1
    verdict = judged(on)
    assert verdict.effect is not None and verdict.effect > 0.99
    assert verdict.outcome is Outcome.REFUTED


def test_near_the_threshold_it_is_not_told() -> None:
    assert outcome_of([(0.985, 0.995), (0.992, 0.999)]) is Outcome.UNDETERMINED
    assert outcome_of([(0.991, 0.999), (0.98, 0.989)]) is Outcome.REFUTED
    assert least_bounds(np.array([1.0, 0.9]), np.array([0.0, 0.01])) == (0.9 - 0.0196, 0.9 + 0.0196)
    assert "last snapshot but one" in since_words(STEP[:2], np.array([0.9, 0.9]))


def test_what_is_too_little_to_tell() -> None:
    assert "never fitted" in judged(gates(), fit=1000).evidence[0]
    assert "fewer than 3 snapshots" in judged(gates(), fit=70).evidence[0]
    assert "not kept at three snapshots" in judged(gates()[:2]).evidence[0]
    broken = gates()
    broken[-1, 0, 0] = np.nan
    assert judged(broken).outcome is Outcome.NOT_APPLICABLE
