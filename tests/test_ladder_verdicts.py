"""Kinds: genuine and spurious grokking, and memorisation with and without progress, on ladders drawn by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twoclocks.decomposition import Decomposition
from twoclocks.evidence import telling_moments
from twoclocks.kinds import kind_of
from twoclocks.ladder_verdicts import judge_ladder, rungs_of
from twoclocks.runs import Run, run_of
from twoclocks.sources.logs import read_columns
from twoclocks.verdicts import Outcome, Verdict

STEP = np.array([0, 10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 1000])
LATE = np.array([0.01] * 8 + [0.1, 0.6, 0.95, 1.0])
NEVER = np.array([0.01] * 12)


def run_with(heldout: np.ndarray[Any, Any]) -> Run:
    train = [0.01, 0.2, 0.9] + [1.0] * 9
    return run_of(read_columns({"step": STEP.tolist(), "train_acc": train, "test_acc": heldout.tolist()}))


def ladder(
    native: np.ndarray[Any, Any], train: np.ndarray[Any, Any], heldout: np.ndarray[Any, Any], *, half: float = 0.01
) -> Decomposition:
    def interval(value: np.ndarray[Any, Any], wide: float = half) -> np.ndarray[Any, Any]:
        return np.stack([value - wide, value + wide], -1)[None]

    return Decomposition(
        preset="ridge",
        step=STEP,
        native=native[None],
        train_probe=train[None],
        heldout_probe=heldout[None],
        calibration_gap=(train - native)[None],
        train_bias=(heldout - train)[None],
        native_interval=interval(native),
        train_probe_interval=interval(train),
        heldout_probe_interval=interval(heldout),
        calibration_gap_interval=interval(train - native),
        train_bias_interval=interval(heldout - train),
        scored=2000,
        fitted_on_train=3000,
        fitted_on_heldout=2000,
    )


def judged(ridge: Decomposition, presets: dict[str, Decomposition], run: Run) -> dict[str, Verdict]:
    """Return the verdicts on the ladder, and that the features changed, which a ladder alone cannot tell."""
    moved = Verdict("TC210", "the features changed since initialisation", Outcome.SUPPORTED)
    return judge_ladder(rungs_of(ridge, run, 0), presets, run, 0) | {"TC210": moved}


def kind(
    label: str, native: np.ndarray[Any, Any], train: np.ndarray[Any, Any], heldout: np.ndarray[Any, Any], **options: Any
) -> str | None:
    return kind_of(label, judged(ladder(native, train, heldout, **options), {}, run_with(native)))


RISING = np.array([0.01, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 0.85, 0.97, 1.0])
DAMAGED = np.array([0.75, 0.74, 0.6, 0.4, 0.2, 0.17, 0.17, 0.2, 0.4, 0.6, 0.9, 0.95])
FLAT = np.array([0.02] * 12)


def test_features_that_lead_the_readout_and_never_fell_are_genuine() -> None:
    assert kind("grokking", LATE, RISING, RISING) == "genuine"


def test_features_that_were_damaged_and_repaired_are_spurious() -> None:
    assert kind("grokking", LATE, DAMAGED, DAMAGED) == "spurious"


def test_damage_counts_from_step_zero_even_where_the_readout_never_used_the_features() -> None:
    only_at_start = np.array([0.75] + [0.2] * 7 + [0.4, 0.6, 0.9, 0.95])
    assert kind("grokking", LATE, only_at_start, only_at_start) == "spurious"


def test_flat_probes_before_a_jump_decide_nothing() -> None:
    jump = np.array([0.01] * 8 + [0.1, 0.6, 0.95, 1.0])
    assert kind("grokking", LATE, jump, jump) == "undetermined"


def test_intervals_wider_than_the_effect_decide_nothing() -> None:
    assert kind("grokking", LATE, RISING, RISING, half=0.9) == "undetermined"


def test_memorisation_is_told_apart_by_the_probes() -> None:
    assert kind("memorisation", NEVER, RISING, RISING) == "representation improving"
    assert kind("memorisation", NEVER, FLAT, FLAT) == "no progress"
    assert kind("ordinary learning", LATE, RISING, RISING) is None


def test_grokking_without_features_has_no_kind_yet() -> None:
    assert kind_of("grokking", {}) == "undetermined"
    assert kind_of("memorisation", {}) is None


def test_a_refit_is_offered_only_where_every_preset_agrees() -> None:
    native, probe = NEVER, np.full(12, 0.4)
    run = run_with(native)
    agree = ladder(native, probe, probe)
    against = ladder(native, native, probe)
    verdict = judged(agree, {"paper": agree}, run)["TC204"]
    assert verdict.outcome is Outcome.SUPPORTED
    assert verdict.effect == pytest.approx(0.39)
    assert judged(agree, {"paper": against}, run)["TC204"].outcome is Outcome.UNDETERMINED
    assert judged(against, {}, run)["TC204"].outcome is Outcome.REFUTED


def test_a_lead_that_one_preset_contradicts_is_undetermined() -> None:
    run, ridge = run_with(LATE), ladder(LATE, RISING, RISING)
    contradicting = ladder(LATE, LATE, LATE)
    assert judged(ridge, {"paper": contradicting}, run)["TC201"].outcome is Outcome.UNDETERMINED
    assert judged(ridge, {"paper": ridge}, run)["TC201"].outcome is Outcome.SUPPORTED


def test_noise_alone_is_called_damage_or_progress_in_at_most_one_of_twenty_draws() -> None:
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(200):
        probe = rng.binomial(2000, 0.3, 12) / 2000
        drawn = ladder(NEVER, probe, probe, half=1.96 * np.sqrt(0.3 * 0.7 / 2000))
        verdicts = judged(drawn, {}, run_with(NEVER))
        alarms.append(verdicts["TC202"].holds or verdicts["TC203"].holds)
    assert len(alarms) == 200
    assert sum(alarms) <= 10


def test_the_presets_are_fitted_where_the_fall_is_judged_and_can_deny_it() -> None:
    drawn = ladder(LATE, DAMAGED, DAMAGED)
    train = [0.01, 0.2, 0.9] + [1.0] * 9
    log = read_columns({"step": STEP.tolist(), "train_acc": train, "test_acc": LATE.tolist()})
    moments = telling_moments(log, drawn)
    at = np.isin(STEP, moments)
    steady = np.full(len(STEP), 0.89)
    other = replace(
        ladder(LATE, steady, steady),
        step=STEP[at],
        native=LATE[None, at],
        train_probe=steady[None, at],
        heldout_probe=(steady + 0.01 * np.arange(len(STEP)))[None, at],
        train_bias=(0.01 * np.arange(len(STEP)))[None, at],
    )
    damage = judged(drawn, {"logistic": other}, run_with(LATE))["TC203"]
    assert damage.outcome is Outcome.UNDETERMINED
    assert any("(logistic) fell by" in row for row in damage.evidence)
    assert judged(drawn, {}, run_with(LATE))["TC203"].outcome is Outcome.SUPPORTED
