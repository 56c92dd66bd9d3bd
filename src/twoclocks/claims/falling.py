"""This file knows which share of the fall of the critical dimension comes before the onset of generalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from twoclocks.claims.answers import Answer, Finding, Part, Picture, Table
from twoclocks.claims.studies import NOT_TRAINED, Known, Measured, curves_of, each, outcome_words, present
from twoclocks.claims.words import UNKNOWN, mean_words, number, span
from twoclocks.measures.capacity import critical_dimension
from twoclocks.representation import CLASSES, DRAWS, POINTS, SEED, points_of
from twoclocks.runs import Run, onset_of
from twoclocks.series import float64, labels_of
from twoclocks.stats import t_interval
from twoclocks.trajectory import Array, Float, Snapshot

TASKS = {
    "modular-addition": "modular addition, MLP",
    "modular-addition-transformer": "modular addition, transformer",
    "s5": "S5",
    "sparse-parity": "sparse parity",
}
PUBLISHED = (0.2, 0.8)
HELDOUT = "critical_dimension(heldout)"
ONSETS = ("the fit", "a tenth of the way", "half of the way", "held-out accuracy 0.9")
START, FIT, MAXIMUM = BASELINES = ("step 0", "the first snapshot after the fit", "the maximum before the onset")
LEAST_FALL = 0.05  # of the level that the fall is counted from: a smaller one has no shares


@dataclass(frozen=True)
class Variant:
    """One way to count the share: which features, which dichotomies, whether with a bias, seed of classes, points and draws."""

    name: str
    split: str = "heldout"
    dichotomies: str = "one-versus-rest"
    bias: bool = True
    seed: int = SEED


@dataclass(frozen=True)
class Fall:
    """The critical dimension at step 0, at the last snapshot before the onset, and at the end."""

    start: float
    at_onset: float
    end: float

    @property
    def share(self) -> float | None:
        """Return the share of the fall that comes before the onset; None where it did not fall."""
        return share_between(self.start, self.at_onset, self.end)


Counted = Callable[[Measured, int], float | None]  # a share, of one run of a study
Shares = Mapping[str, Mapping[str, list[float | None]]]  # of every run of every study, by how they are counted

VARIANTS = (
    Variant("as the others: held-out features, one-versus-rest with a bias"),
    Variant("training features", split="train"),
    Variant("pairwise", dichotomies="pairwise"),
    Variant("random dichotomies through the origin", dichotomies="random", bias=False),
    Variant("one-versus-rest through the origin", bias=False),
    Variant("other classes, points and draws", seed=1),
)


def which_share_falls_before(known: Known) -> Answer:
    """Answer which share of the fall of the critical dimension comes before held-out accuracy rises."""
    studies = present(known, tuple(TASKS))
    parts = tuple(share_part(TASKS[name], known.get(name)) for name in TASKS)
    by_onset = shares_by({onset: partial(share_up_to, onset, START) for onset in ONSETS}, studies)
    by_baseline = shares_by({base: partial(share_up_to, ONSETS[1], base) for base in BASELINES}, studies)
    falls = {
        variant.name: {one.name: each(one, partial(fall_of, one, variant)) for one in studies} for variant in VARIANTS
    }
    by_variant = {name: {study: shares_of(found) for study, found in of.items()} for name, of in falls.items()}
    tables = (
        share_table("up to (counted from step 0)", by_onset, studies),
        share_table("counted from (up to a tenth of the way)", by_baseline, studies),
        variant_table(falls, studies),
    )
    return Answer(
        "a", "How much of the fall of the critical dimension comes before the onset?",
        "20–80 % of the fall of N_crit comes before the onset of generalisation, on modular addition, S5 and sparse parity "
        "(arXiv 2605.27078); an earlier work reports almost none",
        parts, found_words(studies, {"the onset": by_onset, "the baseline": by_baseline, "how N_crit is measured": by_variant}),
        tables if studies else (), (fall_picture(studies),) if studies else (),
        ("“A tenth of the way”: held-out accuracy has come a tenth of the way from chance to perfection, our onset. A share "
         f"above 1 or below 0 means that N_crit left the range between its two ends; “{UNKNOWN}” that it fell by less than "
         f"{LEAST_FALL:.0%} of where it is counted from, or that fewer than two snapshots come before.",),
    )  # fmt: skip


def share_part(task: str, measured: Measured | None) -> Part:
    """Return whether the share lies where it was published, over seeds."""
    claim, rule = f"20–80 % on {task}", "the t interval over seeds of the share (TC206) lies within 0.2 to 0.8"
    if measured is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    return Part(claim, rule, lies_within(measured.effects("TC206"), PUBLISHED), outcome_words(measured, "TC206"))


def lies_within(values: Sequence[float | None], bounds: tuple[float, float]) -> Finding:
    """Return whether the t interval of values over seeds lies within bounds; open where a seed has none.

    >>> lies_within([0.5, 0.51, 0.49], (0.2, 0.8)), lies_within([0.01, 0.02, 0.0], (0.2, 0.8)), lies_within([0.5], (0.2, 0.8))
    (<Finding.HOLDS: 'holds'>, <Finding.FAILS: 'does not hold'>, <Finding.OPEN: 'undetermined'>)
    """
    known = np.array([value for value in values if value is not None])
    if len(known) < max(2, len(values)):
        return Finding.OPEN
    low, high = t_interval(known)
    if bounds[0] <= low and high <= bounds[1]:
        return Finding.HOLDS
    return Finding.FAILS if high < bounds[0] or low > bounds[1] else Finding.OPEN


def found_words(studies: Sequence[Measured], choices: Mapping[str, Shares]) -> str:
    """Return the shares in a sentence, and a sentence for each task on which choice moves its share most."""
    if not studies:
        return "Not trained here."
    shares = "; ".join(f"{TASKS[one.name]} {mean_words(one.effects('TC206'))}" for one in studies)
    moved = (moved_words(one.name, choices) for one in studies)
    return f"Share of the fall before the onset: {shares}. What the difference comes from: {'; '.join(moved)}."


def moved_words(study: str, choices: Mapping[str, Shares]) -> str:
    """Return over which range each choice moves the mean share of a study, and which moves it most.

    >>> moved_words("s5", {"the onset": {"a": {"s5": [0.1]}, "b": {"s5": [0.9]}}, "the baseline": {"c": {"s5": [0.1]}}})
    'on S5 its mean runs from 0.1 to 0.9 with the onset, stays at 0.1 with the baseline: the onset moves it most'
    """
    ranges = {choice: range_of([of[study] for of in shares.values()]) for choice, shares in choices.items()}
    known = {choice: one for choice, one in ranges.items() if one is not None}
    if not known:
        return f"on {TASKS[study]} no way of counting gives a share"
    words = ", ".join(
        f"{'stays at' if a == b else 'runs from'} {span(a, b)} with {name}" for name, (a, b) in known.items()
    )
    most = max(known, key=lambda choice: known[choice][1] - known[choice][0])
    return f"on {TASKS[study]} its mean {words}: {most} moves it most"


def range_of(counts: Sequence[Sequence[float | None]]) -> tuple[float, float] | None:
    """Return the least and the largest mean over runs; None where no count has any share."""
    known = [[share for share in shares if share is not None] for shares in counts]
    means = [float(np.mean(shares)) for shares in known if shares]
    return (min(means), max(means)) if means else None


def shares_by(ways: Mapping[str, Counted], studies: Sequence[Measured]) -> Shares:
    """Return the share of every run of every study, counted in several ways."""
    return {name: {one.name: each(one, partial(count, one)) for one in studies} for name, count in ways.items()}


def shares_of(falls: Sequence[Fall | None]) -> list[float | None]:
    """Return the shares of falls."""
    return [None if fall is None else fall.share for fall in falls]


def share_table(what: str, shares: Shares, studies: Sequence[Measured]) -> Table:
    """Return the mean shares over seeds by how they are counted."""
    rows = tuple((name, *(mean_words(of[one.name]) for one in studies)) for name, of in shares.items())
    return Table((f"share of the fall, mean over seeds, {what}", *(TASKS[one.name] for one in studies)), rows)


def share_up_to(onset: str, baseline: str, measured: Measured, r: int) -> float | None:
    """Return the share of the fall of run r from a baseline up to the last snapshot before an onset."""
    series, run = measured.evidence.measured.get(HELDOUT), measured.courses[r]
    step = onset_step(run, onset)
    return None if series is None or step is None else share_of(series.step, series.value[r], step, run, baseline)


def share_of(step: Array, value: Float, onset: float, run: Run, baseline: str = START) -> float | None:
    """Return (baseline − last before the onset) ÷ (baseline − last of all); None where fewer than two come before it."""
    seen = np.flatnonzero(np.isfinite(value))
    before = seen[step[seen] < onset]
    if len(before) < 2:
        return None
    fit = np.inf if run.fit_step is None else run.fit_step
    after_fit = before[step[before] >= fit]
    if baseline == FIT and not len(after_fit):
        return None
    place = {START: before[0], MAXIMUM: before[value[before].argmax()], FIT: (*after_fit, before[0])[0]}[baseline]
    return share_between(float(value[place]), float(value[before[-1]]), float(value[seen[-1]]))


def share_between(start: float, at_onset: float, end: float) -> float | None:
    """Return (start − at the onset) ÷ (start − end); None where it fell by less than a twentieth, or is not finite.

    >>> share_between(10.0, 8.0, 5.0), share_between(10.0, 9.9, 9.8)
    (0.4, None)
    """
    if not np.isfinite([start, at_onset, end]).all() or start - end < LEAST_FALL * start:
        return None
    return (start - at_onset) / (start - end)


def onset_step(run: Run, onset: str) -> float | None:
    """Return the step of an onset of a run; None where it did not come."""
    heldout = run.heldout
    if onset == "the fit":
        return run.fit_step
    if heldout is None or onset == "a tenth of the way":
        return onset_of(run)
    share = 0.5 if onset == "half of the way" else heldout.share_of(0.9)
    return heldout.step_past(share)


def variant_table(falls: Mapping[str, Mapping[str, list[Fall | None]]], studies: Sequence[Measured]) -> Table:
    """Return the share up to our onset by how the critical dimension is measured, and its values at both ends."""
    rows = tuple((name, *(fall_words(of[one.name]) for one in studies)) for name, of in falls.items())
    return Table(("share before the onset (N_crit at step 0 → end)", *(TASKS[one.name] for one in studies)), rows)


def fall_words(falls: Sequence[Fall | None]) -> str:
    """Return shares over seeds, and the mean ends."""
    known = [fall for fall in falls if fall is not None]
    if not known:
        return UNKNOWN
    first, last = (float(np.mean([getattr(fall, end) for fall in known])) for end in ("start", "end"))
    return f"{mean_words(shares_of(falls))} ({number(first)} → {number(last)})"


def fall_of(measured: Measured, variant: Variant, r: int) -> Fall | None:
    """Return the fall of run r by a variant; None before an onset of which nothing was kept, or with too few examples."""
    onset, trajectory = onset_of(measured.courses[r]), measured.trajectory
    name = f"features/{variant.split}"
    kept = [snapshot for snapshot in trajectory.snapshots if name in snapshot.tensors]
    before = [snapshot for snapshot in kept if onset is not None and snapshot.step < onset]
    if len(before) < 2:
        return None
    labels = labels_of(trajectory, variant.split)
    try:
        places = points_of(labels, kept[0].tensors[name].shape[-1], variant.seed)
        moments = (kept[0], before[-1], kept[-1])
        return Fall(*(dimension_at(moment, name, r, labels, places, variant) for moment in moments))
    except ValueError:
        return None


def dimension_at(
    snapshot: Snapshot, name: str, r: int, labels: torch.Tensor, places: torch.Tensor, variant: Variant
) -> float:
    """Return the critical dimension of a variant at one snapshot."""
    features = float64(snapshot.tensors[name][r])[places]
    return critical_dimension(
        features, labels[places], dichotomies=variant.dichotomies, bias=variant.bias, draws=DRAWS,
        generator=torch.Generator().manual_seed(variant.seed),
    ).value  # fmt: skip


def fall_picture(studies: Sequence[Measured]) -> Picture:
    """Return the picture of the critical dimension over training."""
    found = [(TASKS[one.name], one.evidence.measured.get(HELDOUT)) for one in studies]
    return Picture(
        "critical-dimension", "Critical dimension of held-out features", "optimiser step (step 0 drawn at ½)", "directions",
        curves_of((name, series) for name, series in found if series is not None),
        f"One-versus-rest with a bias, {CLASSES} classes or as many as there are, {POINTS} examples in all or as many as there "
        f"are, {DRAWS} draws, one line a seed.",
        log_x=True,
    )  # fmt: skip
