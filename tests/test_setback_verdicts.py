"""Dips and collapses on ladders drawn by hand: whether the features failed along with the readout, or the readout alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twoclocks.decomposition import Decomposition
from twoclocks.kinds import kind_of
from twoclocks.ladder_verdicts import Rungs, rungs_of
from twoclocks.runs import Run, closest, run_of
from twoclocks.setback_verdicts import judge_setbacks
from twoclocks.sources.logs import read_columns
from twoclocks.stats import wilson_interval
from twoclocks.trajectory import Series
from twoclocks.verdicts import Outcome, Verdict, judge_curves

STEP = np.unique(np.geomspace(1, 3000, 60).round().astype(int))
SNAPSHOTS = np.concatenate([[0], STEP[::3]])
WAVE = np.interp(np.log(STEP), np.log([1, 10, 40, 200, 900, 3000]), [0.1, 0.5, 0.8, 0.6, 0.78, 0.82])
FITTING = np.interp(np.log(STEP), np.log([1, 40, 200, 900, 3000]), [0.1, 0.8, 0.97, 1.0, 1.0])
LOST = np.interp(np.log(STEP), np.log([1, 20, 100, 600, 900, 3000]), [0.1, 0.3, 1.0, 1.0, 0.2, 0.15])
EARLY = np.interp(np.log(STEP), np.log([1, 30, 3000]), [0.1, 1.0, 1.0])
Values = np.ndarray[Any, Any]


def run_with(heldout: Values, train: Values) -> Run:
    return run_of(read_columns({"step": STEP.tolist(), "train_acc": train.tolist(), "test_acc": heldout.tolist()}), 0)


def ladder(native: Values, train: Values, heldout: Values, half: float = 0.01) -> Decomposition:
    def at(values: Values) -> Values:
        return np.interp(SNAPSHOTS, STEP, values)[None]

    def interval(values: Values) -> Values:
        return np.stack([values - half, values + half], -1)

    m, p, o = at(native), at(train), at(heldout)
    return Decomposition(
        "ridge", SNAPSHOTS, m, p, o, p - m, o - p, interval(m), interval(p), interval(o), interval(p - m), interval(o - p),
        scored=2000, fitted_on_train=4000, fitted_on_heldout=2000,
    )  # fmt: skip


def judged(
    heldout: Values,
    ridge: Decomposition,
    train: Values = FITTING,
    *,
    best: Values | None = None,
    draws: Series | None = None,
    **presets: Decomposition,
) -> tuple[dict[str, Verdict], str | None]:
    run = run_with(heldout, train)
    curves = judge_curves(run)
    rungs: Rungs = rungs_of(ridge, run, 0)
    rungs = rungs if best is None else replace(rungs, best_train_probe=np.interp(SNAPSHOTS, STEP, best))
    verdicts = curves | judge_setbacks(rungs, presets, run, 0, curves, draws)
    label = "epoch-wise double descent" if curves["TC105"].holds else "collapse after generalisation"
    return verdicts, kind_of(label, verdicts)


def test_probes_that_dip_with_the_readout_are_a_degraded_representation() -> None:
    verdicts, kind = judged(WAVE, ladder(WAVE, WAVE, WAVE + 0.05))
    assert verdicts["TC211"].outcome is Outcome.SUPPORTED
    assert verdicts["TC211"].effect == pytest.approx(1.0, abs=0.05)
    assert kind == "representation degradation"


def test_a_probe_that_stays_high_is_a_misaligned_readout() -> None:
    verdicts, kind = judged(WAVE, ladder(WAVE, WAVE, np.maximum.accumulate(WAVE) + 0.02))
    assert verdicts["TC211"].outcome is Outcome.REFUTED
    assert kind == "readout misalignment"


def test_one_preset_that_stays_high_is_enough_to_refute_degradation() -> None:
    high = ladder(WAVE, WAVE, np.maximum.accumulate(WAVE) + 0.02)
    assert judged(WAVE, ladder(WAVE, WAVE, WAVE), logistic=high)[0]["TC211"].outcome is Outcome.REFUTED


def test_a_probe_that_always_read_little_shows_nothing() -> None:
    poor = ladder(WAVE, WAVE, np.full(len(STEP), 0.3))
    verdicts, kind = judged(WAVE, ladder(WAVE, WAVE, WAVE), paper=poor)
    assert verdicts["TC211"].outcome is Outcome.UNDETERMINED
    assert kind is None


def test_wide_intervals_leave_a_dip_open() -> None:
    assert judged(WAVE, ladder(WAVE, WAVE, WAVE, half=0.2))[0]["TC211"].outcome is Outcome.UNDETERMINED


def test_without_a_dip_and_without_a_loss_both_claims_do_not_apply() -> None:
    rising = np.interp(np.log(STEP), np.log([1, 40, 3000]), [0.1, 0.8, 0.9])
    verdicts, _ = judged(rising, ladder(rising, rising, rising))
    assert verdicts["TC211"].outcome is Outcome.NOT_APPLICABLE
    assert verdicts["TC212"].outcome is Outcome.NOT_APPLICABLE


def test_a_refitted_readout_that_still_answers_is_a_collapse_of_the_interface() -> None:
    verdicts, kind = judged(LOST, ladder(LOST, np.maximum.accumulate(LOST), np.maximum.accumulate(LOST)), EARLY)
    assert verdicts["TC212"].outcome is Outcome.SUPPORTED
    assert verdicts["TC212"].effect == pytest.approx(1.0, abs=0.02)
    assert kind == "interface"


def test_probes_that_are_lost_too_are_a_collapse_of_the_representation() -> None:
    verdicts, kind = judged(LOST, ladder(LOST, LOST, LOST), EARLY)
    assert verdicts["TC212"].outcome is Outcome.REFUTED
    assert kind == "representation"


def test_one_probe_that_still_answers_shows_that_the_features_hold_it() -> None:
    kept = ladder(LOST, np.maximum.accumulate(LOST), LOST)
    assert judged(LOST, ladder(LOST, LOST, LOST), EARLY, logistic=kept)[0]["TC212"].outcome is Outcome.SUPPORTED


# What a run of probes shows at one snapshot alone


def places_of(run: Run) -> tuple[int, int]:
    """Return the places of the snapshots closest to the dip's first peak and to its trough."""
    assert run.dip is not None
    return closest(SNAPSHOTS, run.dip.first_step), closest(SNAPSHOTS, run.dip.trough_step)


def spiked(probes: Decomposition, place: int, value: float, half: float = 0.01) -> Decomposition:
    """Return a ladder whose held-out-fit probe has another value at one snapshot."""
    probe = probes.heldout_probe.copy()
    probe[0, place] = value
    return replace(probes, heldout_probe=probe, heldout_probe_interval=np.stack([probe - half, probe + half], -1))


def test_one_snapshot_at_either_end_of_a_dip_decides_nothing() -> None:
    run = run_with(WAVE, FITTING)
    first, trough = places_of(run)
    high, low = ladder(WAVE, WAVE, np.maximum.accumulate(WAVE) + 0.02), ladder(WAVE, WAVE, WAVE + 0.02)
    open_too = (Outcome.SUPPORTED, Outcome.UNDETERMINED)
    cases = [
        (high, trough, 0.58, (Outcome.REFUTED,)), (high, first, 0.99, (Outcome.REFUTED,)),
        (low, trough, 0.80, (Outcome.SUPPORTED,)), (low, first, 0.60, open_too), (low, first, 0.99, open_too),
    ]  # fmt: skip
    for probes, place, value, outcomes in cases:
        assert judged(WAVE, probes)[0]["TC211"].outcome is outcomes[0]
        assert judged(WAVE, spiked(probes, place, value))[0]["TC211"].outcome in outcomes


def some_moments(probes: Decomposition, places: list[int]) -> Decomposition:
    """Return a ladder that is known at some snapshots only, as a preset's is."""
    changed = {
        name: getattr(probes, name)[:, places]
        for name in vars(probes)
        if isinstance(getattr(probes, name), np.ndarray) and name != "step"
    }
    return replace(probes, step=probes.step[places], **changed)


def test_a_preset_known_at_fewer_than_three_snapshots_of_a_level_can_deny_and_not_decide() -> None:
    first, trough = places_of(run_with(WAVE, FITTING))
    high = ladder(WAVE, WAVE, np.maximum.accumulate(WAVE) + 0.02)
    along = ladder(WAVE, WAVE, WAVE)
    few = some_moments(high, [first, trough])
    enough = some_moments(high, sorted({*range(first - 1, first + 2), *range(trough - 1, trough + 2)}))
    verdict = judged(WAVE, along, logistic=few)[0]["TC211"]
    assert verdict.outcome is Outcome.UNDETERMINED
    assert any("at fewer than 3 snapshots" in row for row in verdict.evidence)
    assert judged(WAVE, along, logistic=enough)[0]["TC211"].outcome is Outcome.REFUTED
    lost = np.flatnonzero(np.interp(SNAPSHOTS, STEP, LOST) < 0.7)[-3:].tolist()
    kept, gone = ladder(LOST, np.maximum.accumulate(LOST), LOST), ladder(LOST, LOST, LOST)
    assert judged(LOST, gone, EARLY, logistic=some_moments(kept, lost[:1]))[0]["TC212"].outcome is Outcome.UNDETERMINED
    assert judged(LOST, gone, EARLY, logistic=some_moments(kept, lost))[0]["TC212"].outcome is Outcome.SUPPORTED


def test_a_dip_between_few_snapshots_is_left_open() -> None:
    first, trough = places_of(run_with(WAVE, FITTING))
    probes = ladder(WAVE, WAVE, WAVE)
    sparse = some_moments(probes, [0, first, (first + trough) // 2, trough, len(SNAPSHOTS) - 1])
    verdict = judged(WAVE, sparse)[0]["TC211"]
    assert (verdict.outcome, verdict.unit_of_n) == (Outcome.UNDETERMINED, "snapshots")


# A loss that one probe still reads is not the representation's


def test_a_collapse_that_any_probe_still_reads_is_not_of_the_representation() -> None:
    kept = np.maximum.accumulate(LOST)
    heldout_reads = judged(LOST, ladder(LOST, LOST, kept), EARLY)
    assert heldout_reads[0]["TC212"].outcome is Outcome.UNDETERMINED
    assert heldout_reads[1] is None
    other_reads = judged(LOST, ladder(LOST, LOST, LOST), EARLY, paper=ladder(LOST, LOST, kept))
    assert other_reads[0]["TC212"].outcome is Outcome.UNDETERMINED
    best_reads, kind = judged(LOST, ladder(LOST, LOST, kept), EARLY, best=kept)
    assert (best_reads["TC212"].outcome, kind) == (Outcome.SUPPORTED, "interface")
    assert best_reads["TC212"].effect == pytest.approx(1.0, abs=0.02)
    assert any(row.startswith("train-fit probe at its best penalty: 1.00") for row in best_reads["TC212"].evidence)


def test_probes_that_could_not_be_fitted_leave_a_loss_open() -> None:
    unknown = np.full(len(STEP), np.nan)
    assert judged(LOST, ladder(LOST, unknown, unknown), EARLY)[0]["TC212"].outcome is Outcome.UNDETERMINED
    assert judged(LOST, ladder(LOST, LOST, unknown), EARLY)[0]["TC212"].outcome is Outcome.UNDETERMINED
    assert judged(WAVE, ladder(WAVE, WAVE, unknown))[0]["TC211"].outcome is Outcome.UNDETERMINED


def dimension(course: Values, seed: int = 0) -> Series:
    """Return draws of a critical dimension that follows a course, the same draws at every snapshot."""
    own = np.random.default_rng(seed).normal(scale=2.0, size=40)
    values = np.interp(SNAPSHOTS, STEP, course)[:, None] + own
    return Series("critical_dimension_draws(heldout)", "", SNAPSHOTS, values[None])


def test_a_critical_dimension_that_did_not_rise_denies_that_the_features_got_worse() -> None:
    flat, after_loss = np.full(len(STEP), 20.0), 20.0 + 20.0 * (1.0 - LOST)
    gone, along = ladder(LOST, LOST, LOST), ladder(WAVE, WAVE, WAVE)
    assert judged(LOST, gone, EARLY, draws=dimension(after_loss))[0]["TC212"].outcome is Outcome.REFUTED
    denied = judged(LOST, gone, EARLY, draws=dimension(flat))[0]["TC212"]
    assert denied.outcome is Outcome.UNDETERMINED
    assert any(row.startswith("critical dimension 19.9 before, 19.9 then") for row in denied.evidence)
    assert judged(WAVE, along, draws=dimension(40.0 - 20.0 * WAVE))[0]["TC211"].outcome is Outcome.SUPPORTED
    assert judged(WAVE, along, draws=dimension(flat))[0]["TC211"].outcome is Outcome.UNDETERMINED
    kept = ladder(LOST, np.maximum.accumulate(LOST), np.maximum.accumulate(LOST))
    assert judged(LOST, kept, EARLY, draws=dimension(flat))[0]["TC212"].outcome is Outcome.SUPPORTED


# Noise: 100 scored examples, 200 draws


SCORED = 100
DEEP = np.interp(np.log(STEP), np.log([1, 10, 40, 200, 900, 3000]), [0.1, 0.6, 0.9, 0.4, 0.85, 0.9])


def accuracies(course: Values, rng: np.random.Generator, same: bool) -> tuple[Values, Values]:
    """Return accuracies and their Wilson intervals at the snapshots, on examples of fixed difficulty or on new ones."""
    level = np.interp(SNAPSHOTS, STEP, course)
    drawn = (rng.random(SCORED) < level[:, None]).mean(1) if same else rng.binomial(SCORED, level) / SCORED
    return drawn[None], np.array([wilson_interval(round(one * SCORED), SCORED) for one in drawn.tolist()])[None]


def drawn_ladder(native: Values, train: Values, heldout: Values, rng: np.random.Generator, same: bool) -> Decomposition:
    (m, of_m), (p, of_p), (o, of_o) = (accuracies(one, rng, same) for one in (native, train, heldout))

    def apart(one: Values, two: Values) -> Values:
        return np.hypot(one[..., 1] - one[..., 0], two[..., 1] - two[..., 0]) / 2

    return Decomposition(
        "ridge", SNAPSHOTS, m, p, o, p - m, o - p, of_m, of_p, of_o,
        np.stack([p - m - apart(of_p, of_m), p - m + apart(of_p, of_m)], -1),
        np.stack([o - p - apart(of_o, of_p), o - p + apart(of_o, of_p)], -1),
        scored=SCORED, fitted_on_train=1000, fitted_on_heldout=SCORED,
    )  # fmt: skip


def outcomes_of(code: str, course: Values, train: Values, probe: Values, same: bool) -> list[Verdict]:
    """Return how a claim comes out on 200 draws of a ladder whose three presets have the same true course."""
    rng = np.random.default_rng(0)
    return [
        judged(course, ridge, train, logistic=logistic, paper=paper)[0][code]
        for ridge, logistic, paper in (
            [drawn_ladder(course, probe, probe, rng, same) for _ in range(3)] for _ in range(200)
        )
    ]


SETBACKS = {"TC211": (DEEP, FITTING), "TC212": (LOST, EARLY)}
FORBIDDEN = {  # the share of the native loss that a probe truly loses, and what may then be said in one of twenty draws
    "TC211": {0.0: (Outcome.SUPPORTED,), 0.5: (Outcome.SUPPORTED, Outcome.REFUTED), 1.0: (Outcome.REFUTED,)},
    "TC212": {0.0: (Outcome.REFUTED,), 0.5: (Outcome.SUPPORTED, Outcome.REFUTED), 1.0: (Outcome.SUPPORTED,)},
}


@pytest.mark.parametrize("same", [True, False], ids=["examples of fixed difficulty", "new examples"])
@pytest.mark.parametrize("code", ["TC211", "TC212"])
def test_noisy_probes_of_a_real_setback_blame_the_wrong_part_in_at_most_one_of_twenty_draws(
    code: str, same: bool
) -> None:
    course, train = SETBACKS[code]
    seen = 0
    for share, forbidden in FORBIDDEN[code].items():
        probe = course + (1.0 - share) * (np.maximum.accumulate(course) - course)
        verdicts = outcomes_of(code, course, train, probe, same)
        reached = [verdict for verdict in verdicts if verdict.effect is not None]
        assert len(reached) >= 190, "the judgement itself must be reached"
        for outcome in forbidden:
            seen += 1
            assert sum(verdict.outcome is outcome for verdict in verdicts) <= 10, (share, outcome)
    assert seen == 4


@pytest.mark.parametrize("level", [0.3, 0.8])
def test_noise_alone_is_no_loss_that_a_refit_could_restore(level: float) -> None:
    flat, better = np.full(len(STEP), level), np.full(len(STEP), min(level + 0.3, 0.95))
    rng, seen = np.random.default_rng(0), []
    for _ in range(200):
        probes = drawn_ladder(flat, better, better, rng, same=False)
        seen += [one.outcome for code, one in judged(flat, probes)[0].items() if code in ("TC211", "TC212")]
    assert len(seen) == 400
    assert sum(outcome in (Outcome.SUPPORTED, Outcome.REFUTED) for outcome in seen) <= 10
