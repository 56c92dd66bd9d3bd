"""This file knows what the sensitivity strip shows: gaps between probes and readout over penalty and time, as records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from twoclocks.evidence import Evidence
from twoclocks.report.numbers import count, number, sentence, tick_label, time_words
from twoclocks.report.panels import over_runs
from twoclocks.report.plans import NO_FEATURES
from twoclocks.trajectory import Array, Float, Int

if TYPE_CHECKING:
    from twoclocks.decomposition import Sensitivity

TOLD = 0.05  # accuracy by which a gap must differ from 0 to be coloured: what counts as a rise elsewhere
EDGES = (-0.4, -0.2, -0.1, -TOLD, TOLD, 0.1, 0.2, 0.4)  # the same on all pages, so that pages can be compared
SCALES = {"ridge": "penalty, in tr ΦᵀΦ / d", "logistic": "penalty λ", "paper": "weight decay"}
TITLE = "How the gaps depend on the probe’s penalty"


@dataclass(frozen=True)
class Heat:
    """One gap over penalty and time: `gap[k, t]`, its `level[k, t]` between EDGES (−1: not finite), `tuned[t]`: the row."""

    title: str
    gap: Float
    level: Int
    tuned: Int


@dataclass(frozen=True)
class Strip:
    """Both gaps of one family of probes at the moments `step[t]`. Without heats, `absent` says what to record."""

    family: str
    scale: str
    step: Array
    penalty: Float
    heats: tuple[Heat, ...]
    notes: tuple[str, ...] = ()
    title: str = TITLE
    absent: str = ""


def strip_of(evidence: Evidence) -> Strip:
    """Return the strip of a run; of several runs the medians over them."""
    given = evidence.sensitivity
    if given is None or not len(given.step) or not np.isfinite(given.train_probe).any():
        nothing = np.zeros(0)
        return Strip("", "", nothing, nothing, (), absent=NO_FEATURES)
    heats = (
        heat_of("train-fit probe − native readout", given, given.train_probe, given.train_penalty),
        heat_of("held-out-fit probe − native readout", given, given.heldout_probe, given.heldout_penalty),
    )
    unit = time_words(evidence.trajectory.source.time)
    notes = (reading(given), *(note for heat in heats for note in heat_words(heat, given, unit)))
    return Strip(
        given.family, SCALES.get(given.family, "penalty"), given.step, given.penalty, heats, notes=notes, title=TITLE
    )


def heat_of(title: str, given: Sensitivity, probe: Float, tuned: Float) -> Heat:
    """Return one gap: the median over runs at every penalty and moment, and the row of the median penalty chosen."""
    gap = np.stack([over_runs(np.nanmedian, one) for one in np.moveaxis(probe - given.native[:, :, None], 2, 0)])
    penalty = over_runs(np.nanmedian, tuned)
    rows = [-1 if np.isnan(p) else int(np.abs(given.penalty - p).argmin()) for p in penalty]
    level = np.where(np.isfinite(gap), np.digitize(gap, EDGES), -1)
    return Heat(title, gap, level, np.array(rows, np.int64))


def reading(given: Sensitivity) -> str:
    """Say what rows, rings and dashes are, and of how many examples."""
    runs = len(given.native)
    return (
        f"Rows: {len(given.penalty)} penalties of the {given.family} probe; rings: the one it chooses itself. Dashes: the "
        f"probe is worse than the network’s own readout. Scored on {count(given.scored)} held-out examples"
        f"{f', medians over {runs} runs' if runs > 1 else ''}."
    )


def heat_words(heat: Heat, given: Sensitivity, unit: str) -> Iterator[str]:
    """Say where the penalty matters most, and at how many moments the sign of the gap hangs on it."""
    seen = np.flatnonzero(np.isfinite(heat.gap).all(0))
    if not len(seen):
        return
    low, high = heat.gap[:, seen].min(0), heat.gap[:, seen].max(0)
    widest = int((high - low).argmax())
    t = seen[widest]
    ends = [
        f"{signed(heat.gap[k, t])} (penalty {tick_label(given.penalty[k])})"
        for k in (int(heat.gap[:, t].argmin()), int(heat.gap[:, t].argmax()))
    ]
    chosen = "" if heat.tuned[t] < 0 else f"; {signed(heat.gap[heat.tuned[t], t])} at the chosen one"
    yield (
        f"{sentence(heat.title)}: the penalty matters most at {unit} {count(given.step[t])}, from {ends[0]} to "
        f"{ends[1]}{chosen}. Of {len(seen)} moments the gap is above {TOLD:g} at every penalty in {int((low > TOLD).sum())}, "
        f"below −{TOLD:g} at every penalty in {int((high < -TOLD).sum())}, and on either side, as the penalty has it, in "
        f"{int(((low < -TOLD) & (high > TOLD)).sum())}."
    )


def signed(value: float) -> str:
    """Return a gap with its sign.

    >>> signed(0.25), signed(-0.5)
    ('+0.25', '−0.5')
    """
    return f"+{number(float(f'{value:.2g}'))}" if value > 0 else number(float(f"{value:.2g}"))


def level_words() -> list[str]:
    """Return what each colour stands for, the lowest first.

    >>> level_words()[0], level_words()[4], level_words()[-1]
    ('below −0.4', '−0.05 to 0.05', 'above 0.4')
    """
    between = [f"{number(low)} to {number(high)}" for low, high in pairwise(EDGES)]
    return [f"below {number(EDGES[0])}", *between, f"above {number(EDGES[-1])}"]
