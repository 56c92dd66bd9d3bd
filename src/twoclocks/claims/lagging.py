"""This file knows whether the readout is biased to its training examples before onset, and how gaps depend on the probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from twoclocks.claims.answers import Answer, Part, Table, agreed, held
from twoclocks.claims.falling import TASKS
from twoclocks.claims.studies import NOT_TRAINED, Known, Measured, each, moment_of_run, present, verdict_part
from twoclocks.claims.words import mean_words, number, span
from twoclocks.decomposition import PRESETS, decompose, probe_sensitivity
from twoclocks.runs import plateau_of

UNITS = {"ridge": "mean eigenvalues", "logistic": "penalty", "paper": "weight decay"}
MIDDLE, END = 0.5, 1.0  # of the plateau
WIDE = 0.1  # of accuracy: a gap that the choice of the probe moves by so much says little by itself
NO_PLATEAU = "no snapshot lies between the fit and the held-out rise"
Gaps = Mapping[str, Sequence[tuple[float, float]]]  # penalty and p_tr − native, by family


def whether_the_readout_is_train_biased(known: Known) -> Answer:
    """Answer whether, before onset, a readout fitted on training examples reads less than one fitted on held-out ones."""
    studies = present(known, tuple(TASKS))
    parts = tuple(verdict_part(f"train-biased on {TASKS[name]}", "TC205", known.get(name)) for name in TASKS)
    rows = [
        (label, *(mean_words(one.effects(code)) for one in studies))
        for code, label in (
            ("TC205", "largest p_or − p_tr on the plateau (ridge)"),
            ("TC201", "largest p_or − native on the plateau (ridge)"),
            ("TC208", "ΔA ÷ A_train on the plateau"),
        )
    ]
    biases = {preset: [each(one, partial(bias_at, one, preset)) for one in studies] for preset in PRESETS}
    rows += [
        (f"p_or − p_tr at the middle of the plateau ({preset})", *map(mean_words, of)) for preset, of in biases.items()
    ]
    return Answer(
        "b", "Is the readout biased to its training examples before the onset?",
        "before the onset a probe fitted on training examples reads less than one fitted on held-out examples", parts,
        bias_words(studies, biases), (Table(("mean over seeds", *(TASKS[one.name] for one in studies)), tuple(rows)),),
        notes=("A part is open where the presets disagree, or where too few snapshots lie on the plateau. The held-out-fit "
               "probe sees half of the held-out examples, or as many of them as there are training examples, whichever is "
               "fewer.",),
    )  # fmt: skip


def bias_words(studies: Sequence[Measured], biases: Mapping[str, Sequence[Sequence[float | None]]]) -> str:
    """Return over which range the presets move the mean bias of each task, in a sentence."""
    words = []
    for i, one in enumerate(studies):
        known = [[bias for bias in of[i] if bias is not None] for of in biases.values()]
        means = [float(np.mean(of_preset)) for of_preset in known if of_preset]
        words.append(f"{TASKS[one.name]} {span(min(means), max(means)) if means else NO_PLATEAU}")
    return (
        f"Mean p_or − p_tr at the middle of the plateau, over presets: {'; '.join(words)}."
        if words
        else "Not trained here."
    )


def on_plateau(measured: Measured, share: float, r: int) -> int | None:
    """Return the snapshot closest to a share of the plateau of run r, in steps from the fit to the held-out rise."""
    ladder = measured.evidence.ladder
    if ladder is None:
        return None
    steps = ladder.step[plateau_of(ladder.step, measured.courses[r])]
    return int(steps[np.abs(steps - (steps[0] + share * (steps[-1] - steps[0]))).argmin()]) if len(steps) else None


def bias_at(measured: Measured, preset: str, r: int) -> float | None:
    """Return the train bias of run r by a preset at the middle of its plateau."""
    step = on_plateau(measured, MIDDLE, r)
    if step is None:
        return None
    return float(decompose(moment_of_run(measured, step, r), preset=preset, resamples=1).train_bias[0, 0])


def how_gaps_depend_on_the_probe(known: Known) -> Answer:
    """Answer how the gap between a refitted and the native readout depends on how the probe is fitted."""
    studies = present(known, ("modular-addition-transformer", "modular-addition"))
    gaps = {one.name: each(one, partial(gaps_of, one)) for one in studies}
    parts = tuple(part for name in gaps for part in spread_parts(TASKS[name], gaps[name])) or spread_parts("", None)
    return Answer(
        "f", "How much does the gap depend on the probe?",
        "on one frozen representation the gap p_tr − m runs from −0.02 (AdamW, decay 1) to +0.24 (ridge)", parts,
        "One representation, that of each run's last snapshot before held-out accuracy is half of the way to perfection; "
        "all is scored on the same held-out half."
        if studies else "Not trained here.",
        tuple(gap_table(one, gaps[one.name]) for one in studies),
    )  # fmt: skip


def spread_parts(task: str, gaps: Sequence[Gaps | None] | None) -> tuple[Part, Part]:
    """Return whether the gap of a task depends on the probe, and whether even its sign does, run by run."""
    ranges = [None if one is None else gap_range(one) for one in gaps or ()]
    wide = agreed(held(None if one is None else one[1] - one[0] >= WIDE) for one in ranges)
    signs = agreed(held(None if one is None else one[0] < 0 < one[1]) for one in ranges)
    seen = [span(*one) for one in ranges if one is not None]
    words = NOT_TRAINED if gaps is None else "; ".join(seen) or NO_PLATEAU
    of = f", {task}" if task else ""
    return (
        Part(f"the gap depends on the probe{of}", f"its range over presets and penalties is at least {WIDE:g} in every run",
             wide, words),
        Part(f"even its sign does{of}", "in every run some fits give a negative and some a positive gap", signs, words),
    )  # fmt: skip


def gap_range(gaps: Gaps) -> tuple[float, float]:
    """Return the least and the largest gap over all fits.

    >>> gap_range({"ridge": [(0.1, 0.24), (1.0, 0.1)], "paper": [(1.0, -0.02)]})
    (-0.02, 0.24)
    """
    found = [gap for of_family in gaps.values() for _, gap in of_family]
    return min(found), max(found)


def gaps_of(measured: Measured, r: int) -> Gaps | None:
    """Return p_tr − native of run r at the end of its plateau, under every penalty of every family."""
    step = on_plateau(measured, END, r)
    return None if step is None else {family: strip_at(measured, family, step, r) for family in PRESETS}


def strip_at(measured: Measured, family: str, step: int, r: int) -> list[tuple[float, float]]:
    """Return every penalty of a family and p_tr − native under it, of run r at a snapshot."""
    strip = probe_sensitivity(moment_of_run(measured, step, r), family=family)
    gaps = strip.train_probe[0, 0] - strip.native[0, 0]
    return list(zip(strip.penalty.tolist(), gaps.tolist(), strict=True))


def gap_table(measured: Measured, gaps: Sequence[Gaps | None]) -> Table:
    """Return the mean gap over seeds by family and penalty, each at the end of the plateau of its run."""
    known = [one for one in gaps if one is not None]
    penalties = {family: [penalty for penalty, _ in strip] for family, strip in known[0].items()} if known else {}
    rows = tuple(
        (family, UNITS[family], number(penalty), mean_words([one[family][k][1] for one in known]))
        for family, of_family in penalties.items()
        for k, penalty in enumerate(of_family)
    )
    scored = "" if measured.evidence.ladder is None else f", {measured.evidence.ladder.scored:,} examples scored"
    steps = ", ".join(
        "–" if step is None else f"{step:,}" for step in each(measured, partial(on_plateau, measured, END))
    )
    return Table(
        (f"{TASKS[measured.name]} at steps {steps}{scored}", "in", "strength", "p_tr − native, mean over seeds"), rows
    )
