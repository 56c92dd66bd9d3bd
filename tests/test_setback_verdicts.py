"""Dips and collapses on ladders drawn by hand: whether the features failed along with the readout, or the readout alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twoclocks.decomposition import Decomposition
from twoclocks.kinds import kind_of
from twoclocks.ladder_verdicts import rungs_of
from twoclocks.runs import Run, run_of
from twoclocks.setback_verdicts import judge_setbacks
from twoclocks.sources.logs import read_columns
from twoclocks.verdicts import Outcome, judge_curves

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
    heldout: Values, ridge: Decomposition, train: Values = FITTING, **presets: Decomposition
) -> tuple[dict[str, Any], str | None]:
    run = run_with(heldout, train)
    curves = judge_curves(run)
    verdicts = curves | judge_setbacks(rungs_of(ridge, run, 0), presets, run, 0, curves)
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


def test_a_collapse_at_the_floor_of_float32_is_numerical() -> None:
    verdicts, _ = judged(LOST, ladder(LOST, LOST, LOST), EARLY)
    floor = replace(verdicts["TC212"], code="TC304", outcome=Outcome.SUPPORTED)
    assert kind_of("collapse after generalisation", verdicts | {"TC304": floor}) == "numerical"


def test_noise_alone_never_says_which_part_failed() -> None:
    rng, seen = np.random.default_rng(0), []
    level = np.full(len(STEP), 0.8)
    for _ in range(100):
        noisy = rng.binomial(500, level) / 500
        verdicts, _ = judged(noisy, ladder(noisy, noisy, rng.binomial(500, level) / 500, half=0.035))
        seen += [verdicts[code].outcome for code in ("TC211", "TC212")]
    assert len(seen) == 200
    assert sum(outcome in (Outcome.SUPPORTED, Outcome.REFUTED) for outcome in seen) <= 10
