"""This file knows the way from a source to a diagnosis: open, measure, judge, and put together what is said of the run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from twoclocks import thresholds as at
from twoclocks.advice import Stop, cannot_tell, measure_next, stop_of
from twoclocks.block_verdicts import judge_blocks
from twoclocks.clocks import FEWEST_RUNS, ClockCurve, HittingTime, Step, censored_times, reported_time
from twoclocks.errors import InputError
from twoclocks.evidence import Evidence, examine
from twoclocks.fast_verdicts import judge_fast
from twoclocks.gate_verdicts import judge_gates
from twoclocks.kinds import kind_of, kind_overturned_by, precision_of, why_no_kind
from twoclocks.labels import Label, common_label, label_of
from twoclocks.ladder_verdicts import judge_ladder, rungs_of
from twoclocks.representation_verdicts import DRAWS, judge_representation
from twoclocks.runs import Run, run_of
from twoclocks.setback_verdicts import judge_setbacks
from twoclocks.slow_verdicts import judge_slow
from twoclocks.sources.logs import read_columns, read_log
from twoclocks.stats import kaplan_meier_median
from twoclocks.store import MANIFEST, load
from twoclocks.text import as_text
from twoclocks.trajectory import Event, Source, Trajectory
from twoclocks.verdicts import Verdict, judge_curves, over_runs
from twoclocks.wording import summary_of

SCHEMA = 1


@dataclass(frozen=True)
class Clock:
    """A hitting time as it is reported: the first sustained crossing of a threshold, or censored.

    `value` is the median over runs (None where most runs are censored), `per_run` one time a run (None: censored), `last`
    the last evaluation: a censored time is later than that. `interval` is the 95 % Kaplan–Meier interval of the median over
    runs, None for fewer than five, whose range does not reach 95 %; a bound that is None lies beyond the last evaluation.
    """

    name: str
    of: str
    threshold: float
    sustained: int
    unit: str
    value: Step | None
    censored: bool
    resolution: Step | None
    lost_at: Step | None
    last: Step
    per_run: tuple[Step | None, ...]
    interval: tuple[float | None, float | None] | None = None


@dataclass(frozen=True)
class Offer:
    """Something that could be done now, with the held-out accuracy it would give instead of the present one."""

    what: str
    heldout_accuracy: float
    now: float
    interval: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on a run, why, how sure, and what would overturn it."""

    source: Source
    label: str
    kind: str | None
    confidence: str
    summary: str
    overturned_by: str
    stop: Stop
    clocks: tuple[Clock, ...]
    verdicts: tuple[Verdict, ...]
    offers: tuple[Offer, ...]
    events: tuple[Event, ...]
    cannot_tell: tuple[str, ...]
    measure_next: tuple[str, ...]
    runs: int = 1
    descent: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """Return the diagnosis as one JSON document (schema 1); a number that is not finite becomes null."""
        fields = {"schema": SCHEMA} | msgspec.to_builtins(self)
        if self.descent is None:
            del fields["descent"]
        return msgspec.json.format(msgspec.json.encode(fields)).decode()

    def __str__(self) -> str:
        """Return the diagnosis as plain text, without colours."""
        return as_text(msgspec.to_builtins(self))


def diagnose(
    source: Any, *, columns: Mapping[str, str] | None = None, run: str | Sequence[str] | None = None
) -> Diagnosis:
    """Diagnose a run folder, a log (file or folder), a trajectory, or a table of scalars (dict of lists, pandas).

    Args:
        source: a path, a Trajectory or a table. columns: canonical name → column of a log, for odd names. run: of several
            runs in a log the one to read, or several to read as seeds ("all": all of them).

    Raises:
        InputError: the source cannot be read.
    """
    return judge(examine(open_source(source, columns, run)))


def open_source(
    source: Any, columns: Mapping[str, str] | None = None, run: str | Sequence[str] | None = None
) -> Trajectory:
    """Return the trajectory that a path, a table or a trajectory stands for."""
    if isinstance(source, Trajectory):
        return source
    if isinstance(source, (str, Path)):
        path = Path(source)
        is_run_folder = path.name == MANIFEST or (path / MANIFEST).exists()
        if is_run_folder and run:
            raise InputError(f"--run chooses among the runs of a log, but {path} is a run folder; leave it out")
        return load(path) if is_run_folder else read_log(path, columns, run)
    if hasattr(source, "keys"):
        return read_columns(source, columns, run)
    raise InputError(f"diagnose: expected a path, a Trajectory or a table of scalars, got {type(source).__name__}")


def judge(evidence: Evidence) -> Diagnosis:
    """Judge everything that was measured of a trajectory."""
    trajectory = evidence.trajectory
    runs = [run_of(trajectory, r) for r in range(trajectory.runs)]
    judged = [judge_run(evidence, run, r) for r, run in enumerate(runs)]
    labels = [label_of(run, verdicts) for run, verdicts in zip(runs, judged, strict=True)]
    label = common_label(labels)
    agreeing = [r for r, one in enumerate(labels) if one.name == label.name]
    shown = agreeing[0] if agreeing else 0
    run, verdicts = runs[shown], {code: over_runs([one[code] for one in judged]) for code in judged[0]}
    in_time = partial(in_unit_of_time, unit=trajectory.source.time)
    clocks = clocks_of(evidence)
    kinds = [kind_of(label.name, judged[r], precision_of(trajectory)) for r in agreeing]
    kind = common_kind(kinds)
    return Diagnosis(
        source=trajectory.source,
        label=label.name,
        kind=kind,
        confidence=label.confidence,
        summary=summary_of(label.name, run, trajectory, len(agreeing)),
        overturned_by=overturned_by(label, kind, judged[shown]),
        stop=Stop((stop := stop_of(label.name, run, judged[shown])).answer, in_time(stop.why)),
        clocks=clocks,
        verdicts=tuple(plain(replace(v, evidence=tuple(map(in_time, v.evidence)))) for v in verdicts.values()),
        offers=offers_of(evidence, judged[shown], shown),
        events=condensed([*trajectory.events, *events_of(clocks, trajectory)]),
        cannot_tell=(
            *evidence.left_out,
            *why_no_kind(label.name, kind, judged[shown], kinds),
            *cannot_tell(label.name, run, trajectory),
        ),
        measure_next=measure_next(label.name, run, trajectory),
        runs=trajectory.runs,
        descent=descent_of(label.name, run),
    )


def plain(verdict: Verdict) -> Verdict:
    """Return a verdict whose numbers are Python's own, ready to be written; one that is not finite becomes None."""
    effect = None if verdict.effect is None or not math.isfinite(verdict.effect) else float(verdict.effect)
    interval = None if verdict.interval is None else (float(verdict.interval[0]), float(verdict.interval[1]))
    return replace(verdict, effect=effect, interval=interval, n=int(verdict.n))


def judge_run(evidence: Evidence, run: Run, r: int) -> dict[str, Verdict]:
    """Return every verdict on one run: on its curves, on its ladder where features were kept, and on its two clocks."""
    verdicts = judge_curves(run)
    if evidence.ladder is not None:
        rungs = rungs_of(evidence.ladder, run, r, evidence.sensitivity)
        presets = evidence.presets_of_run(r)
        verdicts |= judge_setbacks(rungs, presets, run, r, verdicts, evidence.measured.get(DRAWS))
        verdicts |= judge_ladder(rungs, presets, run, r)
        verdicts |= judge_representation(evidence, run, r)
    return dict(sorted((verdicts | judge_conditions(evidence, r)).items()))


def judge_conditions(evidence: Evidence, r: int) -> dict[str, Verdict]:
    """Return every verdict on the conditions of the two clocks of run r; none of a log, which knows too little of them."""
    if not evidence.conditions:
        return {}
    return judge_fast(evidence, r) | judge_slow(evidence, r) | judge_gates(evidence, r) | judge_blocks(evidence, r)


def in_unit_of_time(text: str, unit: str) -> str:
    """Return a text with its steps called by what they count.

    >>> in_unit_of_time("fitted at step 5, one step later", "epoch")
    'fitted at epoch 5, one step later'
    """
    return re.sub(r"\bstep(?= \d)", unit, text)


def overturned_by(label: Label, kind: str | None, verdicts: Mapping[str, Verdict]) -> str:
    """Return what would overturn the label and, where the ladder gave it a kind, what would overturn that."""
    of_kind = kind_overturned_by(kind, verdicts)
    return label.overturned_by if of_kind is None else f"{label.overturned_by}; the kind: {of_kind}"


def common_kind(kinds: Sequence[str | None]) -> str | None:
    """Return the kind on which the runs that share the label agree, "undetermined" where they do not."""
    return None if not kinds else kinds[0] if len(set(kinds)) == 1 else "undetermined"


def offers_of(evidence: Evidence, verdicts: Mapping[str, Verdict], r: int) -> tuple[Offer, ...]:
    """Return the offer to refit the readout, where it would help."""
    ladder = evidence.ladder
    if ladder is None or not verdicts["TC204"].holds:
        return ()
    low, high = ladder.train_probe_interval[r, -1].tolist()
    what = f"refit the readout on the training split ({ladder.preset})"
    return (Offer(what, float(ladder.train_probe[r, -1]), float(ladder.native[r, -1]), (low, high), ladder.scored),)


def clocks_of(evidence: Evidence) -> tuple[Clock, ...]:
    """Return T_fit and T_gen where accuracies were recorded, then T_cls over losses and T_rep over structural gaps."""
    trajectory = evidence.trajectory
    wanted = [
        ("T_fit", "train_accuracy", at.FIT),
        *((f"T_gen_{alpha:g}", "heldout_accuracy", alpha) for alpha in at.GENERALISED_AT),
    ]
    unit = trajectory.source.time
    clocks = [
        clock_of(name, of, threshold, reported_time(trajectory.scalars[of], above=threshold), unit)
        for name, of, threshold in wanted
        if of in trajectory.scalars
    ]
    curves = () if evidence.clocks is None else (evidence.clocks.classifier, evidence.clocks.representation)
    return (*clocks, *(clock for curve in curves if curve is not None for clock in clocks_on(curve, unit)))


def clocks_on(curve: ClockCurve, unit: str) -> tuple[Clock, ...]:
    """Return one clock for each threshold of a curve; of those that no run reached, only the first."""
    times = list(zip(curve.thresholds, curve.times, strict=True))
    unreached = [threshold for threshold, time in times if all(value is None for value in time.values)]
    last = min(unreached, default=0.0) if len(unreached) < 2 else max(unreached)
    return tuple(
        clock_of(f"{curve.name}_{threshold:g}", curve.of, threshold, time, unit)
        for threshold, time in times
        if threshold >= last
    )


def clock_of(name: str, of: str, threshold: float, time: HittingTime, unit: str) -> Clock:
    """Return a hitting time as it is reported; of five runs or more with the interval of their median."""
    interval = None if time.runs < FEWEST_RUNS else kaplan_meier_median(*censored_times(time)).interval
    return Clock(
        name, of, threshold, time.sustained, unit, time.value, time.censored, time.resolution, time.lost_at, time.last,
        time.values, interval,
    )  # fmt: skip


def descent_of(label: str, run: Run) -> Mapping[str, Any] | None:
    """Return the turning points of a double descent, as held-out error (or loss), None for every other label."""
    heldout, dip = run.heldout, run.dip
    if label != "epoch-wise double descent" or heldout is None or dip is None:
        return None

    def point(share: float, step: float) -> dict[str, float]:
        value = heldout.in_unit(share)
        return {
            "step": int(step) if step == int(step) else step,
            "value": 1.0 - value if heldout.is_accuracy else value,
        }

    return {
        "of": "heldout_error" if heldout.is_accuracy else "heldout_loss",
        "first_minimum": point(dip.first, dip.first_step),
        "peak": point(dip.trough, dip.trough_step),
        "second_minimum": point(dip.second, dip.second_step),
    }


def events_of(clocks: Sequence[Clock], trajectory: Trajectory) -> list[Event]:
    """Return what happened on the way: clocks lost again, values that were not finite."""
    events = [
        Event(int(c.lost_at), f"{c.name} (reached at {c.value}) was lost again")
        for c in clocks
        if c.lost_at is not None and c.name.startswith(("T_fit", "T_gen"))
    ]
    for name, series in trajectory.scalars.items():
        broken = np.flatnonzero(~np.isfinite(series.value).reshape(series.runs, len(series.step), -1).all(axis=(0, 2)))
        if len(broken):
            events.append(
                Event(
                    int(series.step[broken[0]]),
                    f"{name} is not finite at {len(broken)} of {len(series.step)} evaluations",
                )
            )
    return events


def condensed(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return the events in order of step, those that differ in nothing but numbers told once, with how many there were."""
    alike: dict[str, list[Event]] = {}
    for event in sorted(events, key=lambda event: -1 if event.step is None else event.step):
        alike.setdefault(re.sub(r"\d[\d.,]*", "#", event.what), []).append(event)
    return tuple(
        same[0]
        if len(same) == 1
        else Event(same[0].step, f"{same[0].what} (and {len(same) - 1} more like it, the last at step {same[-1].step})")
        for same in alike.values()
    )
