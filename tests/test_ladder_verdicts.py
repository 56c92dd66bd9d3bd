"""Kinds: genuine and spurious grokking, and memorisation with and without progress, on ladders drawn by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from twoclocks.decomposition import Decomposition, Sensitivity
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
    native: np.ndarray[Any, Any],
    train: np.ndarray[Any, Any],
    heldout: np.ndarray[Any, Any],
    *,
    half: float = 0.01,
    scored: int = 2000,
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
        scored=scored,
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
    assert kind("grokking", LATE, RISING, RISING, half=0.9, scored=4) == "undetermined"


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


def alarms(drawn: int, believed: int) -> int:
    """Return in how many of 200 draws probes that stand still at 0.3 are called damaged or improved.

    They are scored on `drawn` examples, and taken to be as precise as on `believed`.
    """
    rng, half, called = np.random.default_rng(0), 1.96 * np.sqrt(0.3 * 0.7 / believed), []
    for _ in range(200):
        probe = rng.binomial(drawn, 0.3, 12) / drawn
        verdicts = judged(ladder(NEVER, probe, probe, half=half, scored=believed), {}, run_with(NEVER))
        assert Outcome.NOT_APPLICABLE not in (verdicts["TC202"].outcome, verdicts["TC203"].outcome)
        called.append(verdicts["TC202"].holds or verdicts["TC203"].holds)
    return sum(called)


@pytest.mark.parametrize("scored", [60, 200])
def test_noise_alone_is_called_damage_or_progress_in_at_most_one_of_twenty_draws(scored: int) -> None:
    assert alarms(scored, believed=scored) <= 10
    assert alarms(scored, believed=10**9) > 10  # it is the intervals that keep it quiet


def test_what_only_the_tuned_penalty_moves_is_no_progress() -> None:
    run, steady = run_with(LATE), np.full(12, 0.8)
    tuned = ladder(LATE, RISING, steady)
    strip = Sensitivity(STEP, "ridge", np.array([1.0]), LATE[None], steady[None, :, None], steady[None, :, None], 2000,
                        *(np.ones((1, 12)),) * 3, steady[None])  # fmt: skip
    drawn = judge_ladder(rungs_of(tuned, run, 0, strip), {}, run, 0)
    assert drawn["TC202"].outcome is Outcome.REFUTED
    assert judged(tuned, {}, run)["TC202"].outcome is Outcome.SUPPORTED  # without the strip it cannot be known


def test_one_low_snapshot_before_the_rise_is_no_damage() -> None:
    """The last snapshot before the rise is as little believed alone as any other but step 0."""
    outcomes = []
    for place in (5, 7, 8):
        probe = np.full(12, 0.8)
        probe[place] = 0.3
        outcomes.append(judged(ladder(LATE, probe, probe), {}, run_with(LATE))["TC203"].outcome)
    assert outcomes == [Outcome.REFUTED] * 3


def test_without_a_plateau_what_comes_after_the_rise_is_not_before_it() -> None:
    """Held-out accuracy is half way at step 50, before the fit; features that fall later did not delay it."""
    early = np.array([0.01, 0.3] + [0.98] * 10)
    falling = np.array([0.5, 0.7, 0.9, 0.9, 0.9, 0.9, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5])
    damage = judged(ladder(early, falling, falling), {}, run_with(early))["TC203"]
    assert damage.outcome is Outcome.UNDETERMINED
    assert damage.evidence == ("2 snapshots lie in the window, and a trend takes 3",)


def test_a_preset_that_shows_a_lead_within_its_noise_does_not_confirm_it() -> None:
    run, ridge = run_with(LATE), ladder(LATE, RISING, RISING)
    barely = ladder(LATE, LATE + 0.02, LATE + 0.02, half=0.03)
    clearly = ladder(LATE, LATE + 0.06, LATE + 0.06, half=0.03)
    assert judged(ridge, {"paper": barely}, run)["TC201"].outcome is Outcome.UNDETERMINED
    assert judged(ridge, {"paper": clearly}, run)["TC201"].outcome is Outcome.SUPPORTED


def test_the_presets_are_fitted_where_the_fall_is_judged_and_can_deny_it() -> None:
    drawn = ladder(LATE, DAMAGED, DAMAGED)
    train = [0.01, 0.2, 0.9] + [1.0] * 9
    log = read_columns({"step": STEP.tolist(), "train_acc": train, "test_acc": LATE.tolist()})
    moments = telling_moments(log, drawn)
    assert set().union(*moments.values()) == {0}
    at = np.isin(STEP, list(moments))
    steady = np.full(len(STEP), 0.89)
    whole = ladder(LATE, steady, steady + 0.01 * np.arange(len(STEP)))
    other = whole.at(at)
    damage = judged(drawn, {"logistic": other}, run_with(LATE))["TC203"]
    assert damage.outcome is Outcome.UNDETERMINED
    assert any("(logistic) fell by" in row for row in damage.evidence)
    assert judged(drawn, {}, run_with(LATE))["TC203"].outcome is Outcome.SUPPORTED
