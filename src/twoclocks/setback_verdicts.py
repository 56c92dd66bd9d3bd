"""This file knows how it is judged which part failed when held-out accuracy fell: the representation or the readout.

That features still hold the answers is shown by one probe that reads them; that they do not, only by all probes failing. A
probe that always read little shows neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twoclocks import thresholds as at
from twoclocks.ladder_verdicts import Rungs, half_width
from twoclocks.runs import Run, closest, lost_places
from twoclocks.trajectory import Array, Float
from twoclocks.verdicts import Outcome, Verdict, inapplicable, too_few_snapshots

if TYPE_CHECKING:
    from twoclocks.decomposition import Decomposition

Interval = tuple[float, float]


@dataclass(frozen=True)
class Share:
    """What a probe shows, as a share of what the native readout lost: its interval, and whether it reads more than that."""

    probe: str
    value: float
    interval: Interval
    reads_more: bool = True


def judge_setbacks(
    rungs: Rungs, presets: Mapping[str, Decomposition], run: Run, r: int, curves: Mapping[str, Verdict]
) -> dict[str, Verdict]:
    """Return the verdicts on a dip and on a loss of generalisation of run r, given the verdicts on its curves."""
    verdicts = (
        judge_dip(rungs, presets, run, r, happened=curves["TC105"].holds),
        judge_collapse(rungs, presets, run, r, happened=curves["TC107"].holds),
    )
    return {verdict.code: verdict for verdict in verdicts}


def judge_dip(rungs: Rungs, presets: Mapping[str, Decomposition], run: Run, r: int, *, happened: bool) -> Verdict:
    """Judge whether the features got worse along with the readout in a double descent.

    The effect is the fall of the held-out-fit probe ÷ that of the native readout, between the snapshots closest to the first
    minimum of the error and to its peak. Train-fit probes are not asked: with wrong training labels they fall with the
    labels. SUPPORTED where more than half of the fall is shared under every preset; REFUTED where under one preset less
    than half is, and that probe reads more than the native readout does at the peak by half of the fall.
    """
    code, claim = "TC211", "in the dip the features got worse along with the readout"
    what = "fall of the held-out-fit probe ÷ fall of the native readout"
    dip = run.dip
    if not happened or dip is None:
        return inapplicable(code, claim, "held-out accuracy shows no double descent")
    first, trough = (closest(rungs.step, step) for step in (dip.first_step, dip.trough_step))
    between = int(((rungs.step >= dip.first_step) & (rungs.step <= dip.second_step)).sum())
    if first == trough or between < at.FEWEST_SNAPSHOTS:
        return too_few_snapshots(code, claim, what, between, "in the dip")
    fall = float(rungs.native[first] - rungs.native[trough])
    if fall <= float(half_width(rungs.native_interval[first], rungs.native_interval[trough])):
        return too_few_snapshots(code, claim, what, between, "in the dip that show the native readout's fall")
    shares = [
        Share(
            f"held-out-fit probe ({name})",
            float(probe[first] - probe[trough]) / fall,
            bounds(float(probe[first] - probe[trough]) / fall, intervals[first], intervals[trough], fall),
            bool(probe[trough] - rungs.native[trough] > at.SHARED * fall),
        )
        for name, probe, intervals in heldout_probes(rungs, presets, r, (first, trough))
    ]
    outcome = Outcome.UNDETERMINED
    if all(share.interval[0] > at.SHARED for share in shares):
        outcome = Outcome.SUPPORTED
    elif any(share.interval[1] <= at.SHARED and share.reads_more for share in shares):
        outcome = Outcome.REFUTED
    evidence = (
        f"native accuracy {rungs.native[first]:.3f} at step {rungs.step[first]:g}, {rungs.native[trough]:.3f} at "
        f"{rungs.step[trough]:g}",
        *(words(share, "of the fall") for share in shares),
    )
    return Verdict(
        code, claim, outcome, what, shares[0].value, shares[0].interval, rungs.scored, "held-out examples",
        {"share of the fall": at.SHARED}, evidence, "a probe that stays high where these fell, or falls where these stayed",
    )  # fmt: skip


def judge_collapse(rungs: Rungs, presets: Mapping[str, Decomposition], run: Run, r: int, *, happened: bool) -> Verdict:
    """Judge whether, where generalisation was lost, for a while or for good, a refitted readout still has it.

    The effect is the share of the lost accuracy that refitting on the training split restores, (p_tr − m) ÷ (highest m so
    far − m), the median over the snapshots at which m is lost. SUPPORTED where it is more than half under one preset,
    REFUTED where it is less under all.
    """
    code, claim = "TC212", "what was lost, a readout refitted on the training split still has: the interface failed"
    what = "share of the lost accuracy that refitting the readout restores (median over snapshots)"
    lost = lost_places(rungs.native)
    if not happened and len(lost) < at.FEWEST_SNAPSHOTS:
        return inapplicable(code, claim, "held-out accuracy was not lost, not at three snapshots")
    if len(lost) < at.FEWEST_SNAPSHOTS:
        return too_few_snapshots(code, claim, what, len(lost), "where it is lost")
    highest = np.maximum.accumulate(rungs.native)
    missing = highest - rungs.native
    shares = [
        Share(
            f"train-fit probe ({name})",
            float(np.median(gap / missing[places])),
            (float(np.median(low / missing[places])), float(np.median(high / missing[places]))),
        )
        for name, places, gap, low, high in refits(rungs, presets, r, lost)
    ]
    outcome = Outcome.UNDETERMINED
    if any(share.interval[0] > at.SHARED for share in shares):
        outcome = Outcome.SUPPORTED
    elif all(share.interval[1] <= at.SHARED for share in shares):
        outcome = Outcome.REFUTED
    evidence = (
        f"native accuracy had been {highest[lost[0]]:.3f} and is below {at.LOST_FOR_GOOD:g} of its highest at {len(lost)} "
        f"snapshots, from step {rungs.step[lost[0]]:g} to {rungs.step[lost[-1]]:g}",
        *(words(share, "restored") for share in shares),
    )
    return Verdict(
        code, claim, outcome, what, shares[0].value, shares[0].interval, rungs.scored, "held-out examples",
        {"share restored": at.SHARED}, evidence, "a probe that reads what these could not",
    )  # fmt: skip


def heldout_probes(
    rungs: Rungs, presets: Mapping[str, Decomposition], r: int, places: tuple[int, int]
) -> list[tuple[str, Float, Float]]:
    """Return the held-out-fit probe of every preset that was fitted at both places: name, values, intervals."""
    found = [(rungs.preset, rungs.heldout_probe, rungs.heldout_probe_interval)]
    for name, other in presets.items():
        if set(rungs.step[list(places)].tolist()) <= set(other.step.tolist()):
            own = np.searchsorted(other.step, rungs.step).clip(0, len(other.step) - 1)
            found.append((name, other.heldout_probe[r][own], other.heldout_probe_interval[r][own]))
    return found


def refits(
    rungs: Rungs, presets: Mapping[str, Decomposition], r: int, lost: Array
) -> list[tuple[str, Array, Float, Float, Float]]:
    """Return for every preset the places among `lost` at which it was fitted, and p_tr − m there with its interval."""
    gaps = rungs.calibration_gap_interval[lost]
    found = [(rungs.preset, lost, rungs.calibration_gap[lost], gaps[:, 0], gaps[:, 1])]
    for name, other in presets.items():
        fitted = np.flatnonzero(np.isin(other.step, rungs.step[lost]))
        if len(fitted):
            places = np.flatnonzero(np.isin(rungs.step, other.step[fitted]))
            low, high = other.calibration_gap_interval[r][fitted].T
            found.append((name, places, other.calibration_gap[r][fitted], low, high))
    return found


def bounds(share: float, first: Float, last: Float, fall: float) -> Interval:
    """Return the interval of a fall as a share of another, from the intervals of its two ends."""
    wide = float(half_width(first, last)) / fall
    return share - wide, share + wide


def words(share: Share, what: str) -> str:
    """Return what a probe shows, in words."""
    return f"{share.probe}: {share.value:.2f} ({share.interval[0]:.2f} to {share.interval[1]:.2f}) {what}"
