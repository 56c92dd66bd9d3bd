"""Claims about the representation's own measures, on series drawn by hand, and their false alarms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from twoclocks.evidence import Evidence
from twoclocks.kinds import kind_of
from twoclocks.measures.capacity import critical_dimension_draws
from twoclocks.representation import Looked, Moment, alignment_row, matched_of, motion_row, point_noise, points_of
from twoclocks.representation_verdicts import judge_representation
from twoclocks.runs import Run, run_of
from twoclocks.sources.logs import read_columns
from twoclocks.trajectory import Series
from twoclocks.verdicts import Outcome, Verdict

STEP = np.array([0, 10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 1000])
TRAIN = [0.01, 0.2, 0.9] + [1.0] * 9
LATE = [0.01] * 8 + [0.12, 0.6, 0.95, 1.0]  # rises from step 600 on
Values = np.ndarray[Any, Any]


def run_with(heldout: list[float] = LATE) -> Run:
    return run_of(read_columns({"step": STEP.tolist(), "train_acc": TRAIN, "test_acc": heldout}))


def series(name: str, values: Values) -> Series:
    return Series(name, "", STEP, np.asarray(values, np.float64)[None])


def draws_around(means: Values, shared: float = 2.0, own: float = 0.1, seed: int = 0) -> Values:
    """Critical dimensions `[t draws]` whose draws are shared by all moments, but for a little noise of their own."""
    rng = np.random.default_rng(seed)
    return np.asarray(means)[:, None] + rng.normal(0, shared, 40) + rng.normal(0, own, (len(means), 40))


def judged(heldout: list[float] = LATE, **measured: Values) -> dict[str, Verdict]:
    names = {
        "draws": "critical_dimension_draws(heldout)", "gap": "alignment_gap", "own": "alignment(train)",
        "error": "alignment_gap_error", "train_fit": "readout_cosine(train fit)",
        "heldout_fit": "readout_cosine(held-out fit)", "alike": "cka(train: to the start)",
        "noise": "critical_dimension_point_noise(heldout)",
    }  # fmt: skip
    known = {names[key]: series(names[key], values) for key, values in measured.items()}
    log = read_columns({"step": STEP.tolist(), "train_acc": TRAIN, "test_acc": heldout})
    return judge_representation(Evidence(log, measured=known), run_with(heldout), 0)


FALLING = np.array([43, 43, 42, 40, 38, 36, 35, 34, 32, 30, 27, 26.0])
AT_THE_RISE = np.array([43] * 8 + [40, 35, 30, 26.0])


def test_the_share_of_the_fall_before_the_rise_is_what_was_drawn() -> None:
    verdict = judged(draws=draws_around(FALLING))["TC206"]
    assert verdict.outcome is Outcome.SUPPORTED
    assert verdict.effect == pytest.approx((43 - 34) / (43 - 26), abs=0.03)
    assert verdict.interval is not None
    assert verdict.interval[0] < (43 - 34) / (43 - 26) < verdict.interval[1]


def test_a_fall_that_comes_with_the_rise_refutes_it() -> None:
    verdict = judged(draws=draws_around(AT_THE_RISE))["TC206"]
    assert verdict.outcome is Outcome.REFUTED
    assert verdict.effect == pytest.approx(0.0, abs=0.03)


def test_a_critical_dimension_that_does_not_fall_has_no_share() -> None:
    assert judged(draws=draws_around(np.full(12, 43.0)))["TC206"].outcome is Outcome.NOT_APPLICABLE
    assert judged(draws=draws_around(43 + np.arange(12.0)))["TC206"].outcome is Outcome.NOT_APPLICABLE


def test_without_a_rise_there_is_nothing_before_it() -> None:
    assert judged([0.01] * 12, draws=draws_around(FALLING))["TC206"].outcome is Outcome.NOT_APPLICABLE


def test_a_critical_dimension_above_its_start_is_seen_and_one_spike_is_not() -> None:
    swollen = np.array([43, 44, 47, 52, 55, 55, 54, 52, 48, 44, 40, 35.0])
    spike = np.array([43, 43, 43, 43, 60, 43, 43, 43, 42, 40, 38, 35.0])
    seen = judged(draws=draws_around(swollen))["TC207"]
    assert seen.outcome is Outcome.SUPPORTED
    assert seen.effect == pytest.approx((54 - 43) / 43, abs=0.02)
    assert judged(draws=draws_around(spike))["TC207"].outcome is Outcome.REFUTED
    assert judged(draws=draws_around(FALLING))["TC207"].outcome is Outcome.REFUTED


def test_a_run_without_step_zero_has_no_baseline() -> None:
    values = draws_around(FALLING)
    late = Series("critical_dimension_draws(heldout)", "", STEP[1:], values[None, 1:])
    log = read_columns({"step": STEP.tolist(), "train_acc": TRAIN, "test_acc": LATE})
    verdicts = judge_representation(Evidence(log, measured={late.name: late}), run_with(), 0)
    assert verdicts["TC206"].outcome is Outcome.UNDETERMINED
    assert verdicts["TC207"].outcome is Outcome.UNDETERMINED


def test_noise_of_the_draws_alone_is_called_a_change_in_at_most_one_of_twenty() -> None:
    alarms = []
    for seed in range(200):
        verdicts = judged(draws=draws_around(np.full(12, 43.0), own=3.0, seed=seed))
        alarms.append(verdicts["TC206"].holds or verdicts["TC207"].holds)
    assert len(alarms) == 200
    assert sum(alarms) <= 10


def test_few_points_leave_a_change_of_the_critical_dimension_open() -> None:
    swollen = np.array([43, 44, 47, 52, 55, 55, 54, 52, 48, 44, 40, 35.0])
    for share, expected in ((0.015, Outcome.SUPPORTED), (0.15, Outcome.UNDETERMINED)):
        assert judged(draws=draws_around(swollen), noise=np.full(12, share))["TC207"].outcome is expected
    assert judged(draws=draws_around(FALLING), noise=np.full(12, 0.03))["TC206"].outcome is Outcome.SUPPORTED
    assert judged(draws=draws_around(FALLING), noise=np.full(12, 0.2))["TC206"].outcome is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize(("classes", "n", "width"), [(2, 60, 8), (3, 60, 16), (10, 200, 32)])
def test_random_features_redrawn_at_every_snapshot_are_seldom_called_simpler_or_worse(
    classes: int, n: int, width: int
) -> None:
    alarms = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(n) % classes
        inputs = torch.randn(classes, 20, generator=generator)[labels] + torch.randn(n, 20, generator=generator)
        points = points_of(labels, width)
        drawn = []
        for _ in STEP:
            features = (inputs @ torch.randn(20, width, generator=generator)).relu()[points]
            same = torch.Generator().manual_seed(0)
            drawn.append(critical_dimension_draws(features, labels[points], generator=same).numpy())
        verdicts = judged(draws=np.array(drawn), noise=np.full(12, point_noise(labels[points], 0.0)))
        alarms.append(verdicts["TC206"].holds or verdicts["TC207"].holds)
    assert len(alarms) == 12
    assert sum(alarms) <= 2


def gaps(n: int, classes: int, width: int, train: float, heldout: float) -> list[Outcome]:
    """Return what is said of the alignment gap of noise with so much signal in either split, in 20 draws."""
    outcomes = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        centres, labels = torch.randn(classes, width, generator=generator), torch.arange(n) % classes
        x, h = (s * centres[labels] + torch.randn(n, width, generator=generator) for s in (train, heldout))
        matched = matched_of({"train": labels, "heldout": labels})
        looked = Looked({"train": labels, "heldout": labels}, None, matched, ())
        row = alignment_row(Moment(x.double(), h.double(), torch.zeros(classes, width), x), looked)
        same = {
            key: np.full(12, row[name])
            for key, name in (("gap", "alignment_gap"), ("own", "alignment(train)"), ("error", "alignment_gap_error"))
        }
        outcomes.append(judged(**same)["TC208"].outcome)
    return outcomes


@pytest.mark.parametrize(("n", "classes", "width"), [(100, 2, 50), (400, 10, 100)])
def test_a_gap_that_is_there_is_never_refuted_and_one_that_is_not_never_supported(
    n: int, classes: int, width: int
) -> None:
    strength = 0.2 if classes == 2 else 0.1
    there, absent = gaps(n, classes, width, strength, 0.0), gaps(n, classes, width, strength, strength)
    assert Outcome.REFUTED not in there and there.count(Outcome.SUPPORTED) >= 10
    assert absent.count(Outcome.SUPPORTED) <= 1


def test_the_alignment_gap_is_judged_beside_its_own_scatter() -> None:
    own, error = np.full(12, 0.3), np.full(12, 0.005)
    assert judged(gap=np.full(12, 0.1), own=own, error=error)["TC208"].outcome is Outcome.SUPPORTED
    assert judged(gap=np.full(12, 0.002), own=own, error=error)["TC208"].outcome is Outcome.REFUTED
    assert judged(gap=np.full(12, 0.1), own=own, error=np.full(12, 0.1))["TC208"].outcome is Outcome.UNDETERMINED


def test_a_readout_that_leaves_its_training_examples_equalises() -> None:
    train_fit, converging = np.full(12, 0.9), np.interp(STEP, [0, 100, 1000], [0.2, 0.3, 0.88])
    assert judged(train_fit=train_fit, heldout_fit=converging)["TC209"].outcome is Outcome.SUPPORTED
    apart = 0.3 + 0.002 * np.random.default_rng(0).normal(size=12)
    assert judged(train_fit=train_fit, heldout_fit=apart)["TC209"].outcome is Outcome.REFUTED


def test_a_readout_that_leaves_both_or_leans_the_other_way_does_not_equalise() -> None:
    start = np.interp(STEP, [0, 100, 1000], [0.1, 1.0, 1.0])
    left = judged(train_fit=start * np.linspace(0.6, 0.02, 12), heldout_fit=start * np.linspace(0.3, 0.01, 12))
    assert left["TC209"].outcome is Outcome.REFUTED
    other_way = judged(train_fit=np.linspace(0.5, 0.4, 12), heldout_fit=np.linspace(0.57, 0.8, 12))
    assert other_way["TC209"].outcome is Outcome.REFUTED


def test_features_that_move_only_after_the_rise_did_not_bring_it() -> None:
    alike = np.array([1.0] * 10 + [0.6, 0.5])
    assert judged(alike=alike)["TC210"].outcome is Outcome.REFUTED
    assert judged([0.01] * 12, alike=np.r_[alike[:9], 0.6, 0.5, 0.4])["TC210"].outcome is Outcome.SUPPORTED


def test_frozen_features_have_not_moved_and_their_rise_is_not_genuine() -> None:
    frozen, moving = judged(alike=np.full(12, 1 - 1e-6)), judged(alike=1 - np.linspace(0, 0.5, 12))
    assert frozen["TC210"].outcome is Outcome.REFUTED
    assert moving["TC210"].outcome is Outcome.SUPPORTED
    claims = {"TC201": Outcome.SUPPORTED, "TC202": Outcome.REFUTED, "TC203": Outcome.REFUTED}
    ladder = {code: Verdict(code, "", outcome) for code, outcome in claims.items()}
    assert kind_of("grokking", ladder | moving) == "genuine"
    assert kind_of("grokking", ladder | frozen) == "undetermined"


def test_constant_features_have_not_moved_anywhere() -> None:
    same = torch.ones(12, 3).double()
    dead = Moment(same, same, torch.zeros(2, 3), torch.zeros(12, 2))
    assert motion_row(dead, dead, dead) == {}
    assert judged(alike=np.full(12, np.nan))["TC210"].outcome is Outcome.NOT_APPLICABLE
