"""Kinds on ladders drawn by hand: what keeps a run from generalising, what rounding explains, and why there is no kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twoclocks.decomposition import Decomposition
from twoclocks.diagnosis import common_kind
from twoclocks.kinds import DECIDING, OVERTURNED_BY, kind_of, kind_overturned_by, precision_of, why_no_kind
from twoclocks.ladder_verdicts import judge_ladder, rungs_of
from twoclocks.runs import run_of
from twoclocks.sources.logs import read_columns
from twoclocks.stats import wilson_interval
from twoclocks.trajectory import EvalBatch, Series, Snapshot, Source, Trajectory
from twoclocks.verdicts import Outcome, Verdict, judge_curves

Values = np.ndarray[Any, Any]
STEP = np.array([0, 10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 1000])
RISING = np.linspace(0.1, 0.95, 12)
CODES = {"S": Outcome.SUPPORTED, "R": Outcome.REFUTED, "U": Outcome.UNDETERMINED, "N": Outcome.NOT_APPLICABLE}
COLLAPSE, DESCENT = "collapse after generalisation", "epoch-wise double descent"


def claims(**outcomes: str) -> dict[str, Verdict]:
    """Return verdicts with these outcomes, by code."""
    return {
        code: Verdict(code, "", CODES[one], n=9, overturned_by=f"what overturns {code}")
        for code, one in outcomes.items()
    }


def flat(level: float) -> Values:
    return np.full(len(STEP), level)


def memorising(train: Values, heldout: Values, native: Values | None = None, scored: int = 2000) -> dict[str, Verdict]:
    """Return the verdicts on the curves and the ladder of a run that fits by step 100 and never generalises."""
    native = flat(0.01) if native is None else native
    log = {"step": STEP.tolist(), "train_acc": [0.01, 0.2, 0.9] + [1.0] * 9, "test_acc": [0.01] * 12}
    run = run_of(read_columns(log))

    def interval(values: Values) -> Values:
        return np.array([wilson_interval(round(one * scored), scored) for one in values.tolist()])

    def apart(one: Values, two: Values) -> Values:
        wide = np.hypot(*(np.ptp(interval(values), axis=1) for values in (one, two))) / 2
        return np.stack([one - two - wide, one - two + wide], -1)

    ridge = Decomposition(
        "ridge", STEP, native[None], train[None], heldout[None], (train - native)[None], (heldout - train)[None],
        interval(native)[None], interval(train)[None], interval(heldout)[None],
        apart(train, native)[None], apart(heldout, train)[None],
        scored=scored, fitted_on_train=3000, fitted_on_heldout=2000,
    )  # fmt: skip
    return judge_curves(run) | judge_ladder(rungs_of(ridge, run, 0), {}, run, 0) | claims(TC210="S")


# Memorisation, row by row


@pytest.mark.parametrize(
    ("train", "heldout", "kind"),
    [
        (flat(0.9), flat(0.9), None),
        (flat(0.3), flat(0.9), None),
        (flat(0.01), RISING, "representation improving"),
        (RISING, RISING, "representation improving"),
        (np.interp(STEP, [0, 100, 1000], [0.9, 0.2, 0.32]), np.interp(STEP, [0, 100, 1000], [0.9, 0.2, 0.32]),
         None),
        (flat(0.02), flat(0.02), "no progress"),
    ],
)  # fmt: skip
def test_memorisation_is_told_apart_by_level_motion_and_start(train: Values, heldout: Values, kind: str | None) -> None:
    assert kind_of("memorisation", memorising(train, heldout)) == kind


def test_what_the_critical_dimension_or_the_motion_deny_is_open() -> None:
    damaged, gaining = {"TC201": "S", "TC202": "S", "TC203": "S"}, {"TC201": "S", "TC202": "S", "TC203": "R"}
    cases = [
        (damaged | {"TC207": "S", "TC210": "S"}, None), (damaged | {"TC207": "R"}, None),
        (damaged | {"TC210": "R"}, None), (gaining, "representation improving"), (gaining | {"TC210": "R"}, None),
        (gaining | {"TC207": "S"}, None), ({"TC201": "S", "TC202": "R", "TC203": "R"}, None),
        ({"TC201": "U", "TC202": "R", "TC203": "R"}, "no progress"), ({"TC201": "R", "TC202": "R", "TC203": "U"}, None),
        ({"TC201": "R", "TC202": "R", "TC203": "R"}, "no progress"),
    ]  # fmt: skip
    for outcomes, kind in cases:
        assert kind_of("memorisation", claims(**outcomes)) == kind, outcomes


def test_a_damage_of_features_that_stood_still_is_no_spurious_delay() -> None:
    assert kind_of("grokking", claims(TC203="S", TC210="S")) == "spurious"
    assert kind_of("grokking", claims(TC203="S", TC210="R")) == "undetermined"


def test_noisy_probes_that_stand_still_are_rarely_called_anything_else() -> None:
    rng = np.random.default_rng(0)
    # With 100 examples no change of 0.05 can be ruled out, so that nothing is called "no progress" there but by luck.
    for level, scored, truth in ((0.8, 100, None), (0.01, 100, "no progress"), (0.01, 2000, "no progress")):
        kinds: Counter[str | None] = Counter()
        for _ in range(200):
            train, heldout = rng.binomial(scored, level, (2, 12)) / scored
            kinds[kind_of("memorisation", memorising(train, heldout, scored=scored))] += 1
        assert kinds[truth] >= 100 or (truth, scored) == ("no progress", 100), kinds  # the judgement is reached
        assert sum(count for kind, count in kinds.items() if kind not in (truth, None)) <= 10, kinds


# The floor of float32


def test_a_stall_at_the_floor_is_numerical_in_float32_alone() -> None:
    stalled = claims(TC304="S", TC109="R", TC202="R", TC201="R", TC203="R")
    assert kind_of("memorisation", stalled, "float32") == "numerical"
    for precision in ("float64", None):
        assert kind_of("memorisation", stalled, precision) == "no progress"
    assert kind_of("memorisation", claims(TC304="S", TC202="R"), "float32") == "numerical"
    for change in (claims(TC109="S"), claims(TC109="U"), claims(TC304="R"), claims(TC304="U")):
        assert kind_of("memorisation", stalled | change, "float32") == "no progress"


def test_features_that_improve_at_chance_are_no_stall_and_accuracy_that_stopped_above_it_is() -> None:
    stalled = claims(TC304="S", TC109="R", TC202="S", TC103="R")
    at_chance = stalled | {"TC103": replace(stalled["TC103"], effect=0.02, interval=(0.0, 0.04))}
    stopped = stalled | {"TC103": replace(stalled["TC103"], effect=0.4, interval=(0.38, 0.42))}
    assert kind_of("memorisation", at_chance, "float32") == "representation improving"
    assert kind_of("memorisation", stopped, "float32") == "numerical"
    assert kind_of("memorisation", stopped, "float64") == "representation improving"


@pytest.mark.parametrize(
    ("refit", "precision", "kind"),
    [
        ("S", "float32", "interface"), ("S", "float64", "interface"), ("R", "float32", "numerical"),
        ("U", "float32", "numerical"), ("R", "float64", "representation"), ("R", None, "representation"),
        ("U", "float64", None),
    ],
)  # fmt: skip
def test_a_proven_failure_of_the_interface_comes_before_the_floor(
    refit: str, precision: str | None, kind: str | None
) -> None:
    assert kind_of(COLLAPSE, claims(TC304="S", TC212=refit), precision) == kind


def snapshots(weight: Values) -> tuple[Snapshot, ...]:
    return (Snapshot(0, None, {"readout/weight": weight}), Snapshot(5, None, {}))


def test_the_precision_is_that_of_the_recorded_readout() -> None:
    log = Trajectory(Source("x", "run folder", 0), {})
    assert precision_of(log) is None
    for name in ("float32", "float64"):
        assert precision_of(replace(log, snapshots=snapshots(np.zeros((1, 2, 3), name)))) == name


def turning_readout(steps: Values, dtype: str) -> Trajectory:
    """Return a run whose features keep four classes while its readout turns to what single examples have, at tiny losses."""
    rng = np.random.default_rng(0)
    classes, n, own = 4, 240, 400
    y, one = np.arange(n) % classes, np.eye(classes)
    of_class = [one[y] + 0.1 * rng.normal(size=(n, classes)) for _ in range(2)]
    of_example = [0.3 * rng.choice([-1, 1], size=(n, own)) for _ in range(2)]
    train, heldout = (np.concatenate(pair, axis=1) for pair in zip(of_class, of_example, strict=True))
    fitting = np.linalg.lstsq(of_example[0], one[y] - 1 / classes, rcond=None)[0].T
    good = np.concatenate([60 * one - 15, np.zeros((classes, own))], axis=1)
    bad = np.concatenate([-3 * one, 600 * fitting], axis=1)
    curves: dict[str, list[float]] = {"train_accuracy": [], "heldout_accuracy": [], "train_loss": []}
    kept = []
    for step in steps.tolist():
        turned = np.clip(np.log(max(step, 1) / 300) / np.log(3), 0, 1)
        weight = 0.035 * min(step / 20, 1.0) * ((1 - turned) * good + turned * bad) + 1e-3 * rng.normal(size=good.shape)
        logits = train @ weight.T
        gaps = logits[np.arange(n), y][:, None] - logits
        others = np.exp(-gaps).sum(axis=1) - 1.0
        curves["train_loss"].append(float(np.log1p(np.maximum(others, 0.0)).mean()))
        curves["train_accuracy"].append(float((logits.argmax(1) == y).mean()))
        curves["heldout_accuracy"].append(float(((heldout @ weight.T).argmax(1) == y).mean()))
        tensors = {"features/train": train, "features/heldout": heldout, "readout/weight": weight}
        kept.append(Snapshot(step, None, {name: tensor[None].astype(dtype) for name, tensor in tensors.items()}))
    batches = {name: EvalBatch(name, y, n) for name in ("train", "heldout")}
    scalars = {name: Series(name, "", steps, np.array(values)[None]) for name, values in curves.items()}
    settings = {"settings": {"loss": "cross-entropy", "dtype": dtype}}
    return Trajectory(Source("x", "run folder", 0), scalars, tuple(kept[::5]), batches, settings=settings)


def test_a_readout_that_turns_away_in_float64_is_a_failure_of_the_interface_however_small_the_loss() -> None:
    from twoclocks.diagnosis import judge
    from twoclocks.evidence import examine

    steps = np.concatenate([[0], np.unique(np.geomspace(1, 3000, 80).round().astype(int))])
    diagnosis = judge(examine(turning_readout(steps, "float64")))
    outcomes = {verdict.code: verdict.outcome for verdict in diagnosis.verdicts}
    assert (outcomes["TC304"], outcomes["TC212"]) == (Outcome.SUPPORTED, Outcome.SUPPORTED)
    assert (diagnosis.label, diagnosis.kind) == (COLLAPSE, "interface")


# What would overturn a kind, and why there is none


def test_every_kind_names_what_would_overturn_it() -> None:
    verdicts = claims(**dict.fromkeys(DECIDING.values(), "S"))
    for kind, code in DECIDING.items():
        assert kind_overturned_by(kind, verdicts) == f"what overturns {code}"
    assert set(OVERTURNED_BY) == {"numerical"}
    assert str(kind_overturned_by("numerical", {})).startswith("a float64 rerun")
    assert kind_overturned_by(None, verdicts) is None
    assert kind_overturned_by("undetermined", verdicts) is None


GENUINE = {"TC201": "S", "TC202": "S", "TC203": "R", "TC210": "S"}
SPURIOUS = {"TC201": "S", "TC202": "S", "TC203": "S", "TC210": "S"}


@pytest.mark.parametrize("first", [GENUINE, SPURIOUS])
def test_runs_that_disagree_are_said_to_disagree(first: dict[str, str]) -> None:
    kinds = [kind_of("grokking", claims(**one)) for one in (GENUINE, SPURIOUS, GENUINE)]
    kind = common_kind(kinds)
    assert kind == "undetermined"
    question = "whether the late rise is genuine or spurious"
    assert why_no_kind("grokking", kind, claims(**first), kinds) == (
        f"{question}: the runs disagree (2 × genuine, 1 × spurious)",
    )
    assert why_no_kind("grokking", kind, claims(**first)) == (f"{question}: the runs disagree",)
    unsettled = claims(**GENUINE | {"TC203": "U"})
    (why,) = why_no_kind("grokking", kind, unsettled, ["undetermined", "genuine"])
    assert why.endswith("the runs disagree (1 × undetermined, 1 × genuine)")


def test_a_reason_is_given_only_where_it_holds() -> None:
    cases = [
        ("grokking", {**GENUINE, "TC203": "S", "TC207": "R"}, "probes and critical dimension disagree on a damage"),
        ("grokking", {**GENUINE, "TC207": "S"}, "probes and critical dimension disagree on a damage"),
        ("grokking", {**GENUINE, "TC203": "U", "TC207": "S"}, "TC203 (9 evaluations) left open"),
        ("grokking", {**GENUINE, "TC201": "R", "TC202": "R"}, "the probes neither led nor rose before it"),
        ("grokking", {**GENUINE, "TC201": "N", "TC202": "N"}, "TC201 and TC202 could not be judged"),
        ("grokking", {**GENUINE, "TC210": "R"}, "the features hardly changed, only their readout did"),
        ("memorisation", {"TC201": "U", "TC202": "U", "TC203": "R"},
         "TC201 (9 evaluations) and TC202 (9 evaluations) left open"),
        ("memorisation", {"TC201": "S", "TC202": "R", "TC203": "R"},
         "the features gain nothing, but hold more than the readout uses (TC201)"),
        ("memorisation", {"TC201": "S", "TC202": "S", "TC203": "R", "TC207": "S"},
         "probes and critical dimension disagree on a damage"),
        (DESCENT, {"TC203": "R", "TC211": "U"}, "TC211 (9 evaluations) left open"),
        (COLLAPSE, {"TC203": "R", "TC212": "N"}, "TC212 could not be judged"),
    ]  # fmt: skip
    for label, outcomes, reason in cases:
        verdicts = claims(**outcomes)
        kind = kind_of(label, verdicts)
        assert kind in (None, "undetermined")
        (why,) = why_no_kind(label, kind, verdicts)
        assert why.endswith(f": {reason}"), why


def test_no_reason_is_given_where_there_is_a_kind_or_nothing_to_tell_it_by() -> None:
    assert why_no_kind("grokking", "genuine", claims(**GENUINE)) == ()
    assert why_no_kind("grokking", "undetermined", {}) == ()
    assert why_no_kind("ordinary learning", None, claims(**GENUINE)) == ()
