"""This file knows how the ladder is judged: which part lags, and whether training damaged the features before a late rise.

The baseline of every judgement is the network at initialisation, because random features are often good features. Each rule
reads at least three snapshots; a difference between moments counts only if its interval, over the scored examples, does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twoclocks import thresholds as at
from twoclocks.courses import deepest_fall
from twoclocks.runs import Run, before_rise, plateau_of
from twoclocks.stats import wilson_interval
from twoclocks.trajectory import Array, Float
from twoclocks.verdicts import Outcome, Verdict, compared, too_few_snapshots

if TYPE_CHECKING:
    from twoclocks.decomposition import Decomposition, Sensitivity


Bounded = tuple[float, float]  # an effect and its lower bound


@dataclass(frozen=True)
class Rungs:
    """The ladder of one run, its plateau (see `runs.plateau_of`) marked."""

    step: Array
    native: Float
    train_probe: Float
    heldout_probe: Float
    native_interval: Float
    train_probe_interval: Float
    heldout_probe_interval: Float
    calibration_gap: Float
    calibration_gap_interval: Float
    train_bias: Float
    train_bias_interval: Float
    best_train_probe: Float
    plateau: Array
    scored: int
    fitted: tuple[int, int]
    preset: str


def rungs_of(ladder: Decomposition, run: Run, r: int, strip: Sensitivity | None = None) -> Rungs:
    """Return the ladder of run r, with its plateau marked; without a strip its tuned train-fit probe is the best there is."""
    step = ladder.step
    best = ladder.train_probe[r] if strip is None else strip.best_train_probe[r]
    return Rungs(
        step, ladder.native[r], ladder.train_probe[r], ladder.heldout_probe[r], ladder.native_interval[r],
        ladder.train_probe_interval[r], ladder.heldout_probe_interval[r], ladder.calibration_gap[r],
        ladder.calibration_gap_interval[r], ladder.train_bias[r], ladder.train_bias_interval[r], best, plateau_of(step, run),
        ladder.scored, (ladder.fitted_on_train, ladder.fitted_on_heldout), ladder.preset,
    )  # fmt: skip


def judge_ladder(rungs: Rungs, presets: Mapping[str, Decomposition], run: Run, r: int) -> dict[str, Verdict]:
    """Return every verdict that the ladder of run r allows, by code."""
    verdicts = (
        judge_lead(rungs, presets, r),
        judge_progress(rungs),
        judge_damage(rungs, run, presets, r),
        judge_refit(rungs, presets, r),
        judge_train_bias(rungs, presets, r),
    )
    return {verdict.code: verdict for verdict in verdicts}


def judge_lead(rungs: Rungs, presets: Mapping[str, Decomposition], r: int) -> Verdict:
    """Judge whether, before the rise, the features held more than the network's own readout took from them.

    The effect is the held-out-fit probe minus the native readout at the plateau's snapshot where it is largest; at least
    three snapshots must show it, and every other probe preset, beyond its interval, at those of the plateau's moments at which
    it was fitted (its last snapshot always).
    """
    claim = "before the held-out rise the features held more than the readout used: the readout lagged"
    thresholds = {"accuracy": at.LEAD, "snapshots": float(at.FEWEST_SNAPSHOTS)}
    code, what = "TC201", "held-out-fit probe − native accuracy (largest on the plateau)"
    if int(rungs.plateau.sum()) < at.FEWEST_SNAPSHOTS:
        return too_few(code, claim, what, int(rungs.plateau.sum()))
    lead = rungs.heldout_probe - rungs.native
    error = half_width(rungs.heldout_probe_interval, rungs.native_interval)
    place = int(np.where(rungs.plateau, lead, -np.inf).argmax())
    showing = int((rungs.plateau & (lead - error > 0)).sum())
    by_preset = {name: lead_of(other, rungs, r) for name, other in presets.items()}
    evidence = [
        f"at step {rungs.step[place]:g}: native {rungs.native[place]:.3f}, train-fit probe {rungs.train_probe[place]:.3f}, "
        f"held-out-fit probe {rungs.heldout_probe[place]:.3f} ({rungs.preset}, fitted on {rungs.fitted[0]} training and "
        f"{rungs.fitted[1]} held-out examples)",
        f"{showing} of {int(rungs.plateau.sum())} snapshots on the plateau show it",
        *said_by_presets(by_preset),
    ]
    interval = (float(lead[place] - error[place]), float(lead[place] + error[place]))
    outcome = compared(interval, at.LEAD)
    if outcome is Outcome.SUPPORTED and (denied_by(by_preset) or showing < at.FEWEST_SNAPSHOTS):
        outcome = Outcome.UNDETERMINED
    return Verdict(
        code, claim, outcome, what, float(lead[place]), interval, rungs.scored, "held-out examples", thresholds,
        tuple(evidence), "a probe preset under which the lead vanishes",
    )  # fmt: skip


def judge_progress(rungs: Rungs) -> Verdict:
    """Judge whether the representation improved while the run sat on its plateau; the effect is the gain of a probe.

    It is the larger gain of the two probes whose trend is the features' (see `untuned_probes`), from the plateau's first
    snapshot to its last (each the mean of up to three).
    """
    claim = "the representation improved between the fit and the held-out rise"
    code, what = "TC202", "gain in probe accuracy over the plateau"
    count = int(rungs.plateau.sum())
    if count < at.FEWEST_SNAPSHOTS:
        return too_few(code, claim, what, count)
    width = min(3, count // 2)
    gains = {}
    for name, values, intervals in untuned_probes(rungs):
        on_plateau, errors = values[rungs.plateau], intervals[rungs.plateau]
        gains[name] = (
            float(on_plateau[-width:].mean() - on_plateau[:width].mean()),
            float(half_width(errors[-width:], errors[:width]).mean()),
        )
    name, (gain, error) = max(gains.items(), key=lambda item: item[1][0])
    steps = rungs.step[rungs.plateau]
    evidence = tuple(
        f"{probe}: {value:+.3f} ± {wide:.3f} from step {steps[0]:g} to {steps[-1]:g}"
        for probe, (value, wide) in gains.items()
    )
    interval = (gain - error, gain + error)
    return Verdict(
        code, claim, compared(interval, at.RISE), f"{what} ({name})", gain, interval, rungs.scored, "held-out examples",
        {"accuracy": at.RISE}, evidence, "a longer plateau",
    )  # fmt: skip


def judge_damage(rungs: Rungs, run: Run, presets: Mapping[str, Decomposition], r: int) -> Verdict:
    """Judge whether training damaged the features: both probes were once higher, step 0 included, and fell before the rise.

    The effect is the smaller of the falls of two probes, each from the highest to the lowest later level; both sides are the
    median of three snapshots, but for step 0, which stands for itself. The train-fit probe is the best over the strip of its
    penalties: the one tuned on memorised features falls by itself, as its leave-one-out error vanishes with its penalty. The
    held-out-fit probe shows what is there for the taking. A fall counts if it is a fair part of the best the probe ever
    reaches, and if every probe preset fitted at its two ends shows it beyond its interval.
    """
    claim = "training made the features worse than they had been (step 0 included) before the held-out rise"
    code, what = "TC203", "smaller fall of the two probes below an earlier level"
    before = before_rise(rungs.step, run)
    if int(before.sum()) < at.FEWEST_SNAPSHOTS:
        return too_few(code, claim, what, int(before.sum()))
    falls = {
        name: fall_of(rungs.step[before], values[before], intervals[before])
        for name, values, intervals in untuned_probes(rungs)
    }
    name, (fall, error, high, low) = min(falls.items(), key=lambda item: item[1][0])
    evidence = [
        f"{probe}: fell by {f:.3f} ± {e:.3f} from step {a:g} to {b:g}" if a != b else f"{probe}: never fell"
        for probe, (f, e, a, b) in falls.items()
    ]
    by_preset = {preset: preset_fall(other, high, low, r) for preset, other in presets.items()}
    evidence += [
        f"held-out-fit probe ({p}) fell by {f[0]:+.3f} between these, lower bound {f[1]:+.3f}"
        for p, f in by_preset.items()
        if f is not None
    ]
    if rungs.step[0] != 0:
        evidence.append(f"step 0 was not recorded; the first snapshot is step {rungs.step[0]:g}")
    interval = (fall - error, fall + error)
    outcome = compared(interval, max(at.RISE, at.DAMAGED * best_level(rungs, name)))
    if (outcome is Outcome.SUPPORTED and denied_by(by_preset)) or (outcome is Outcome.REFUTED and rungs.step[0] != 0):
        outcome = Outcome.UNDETERMINED  # another preset denies it; or the baseline, the untrained network, was not seen
    return Verdict(
        code, claim, outcome, f"{what} ({name})", fall, interval, rungs.scored, "held-out examples",
        {"accuracy": at.RISE, "of the best level": at.DAMAGED}, tuple(evidence),
        "a control with another init scale in which probes fall where these did not, or do not fall where these did",
    )  # fmt: skip


def judge_refit(rungs: Rungs, presets: Mapping[str, Decomposition], r: int) -> Verdict:
    """Judge whether refitting only the readout on the training split would help now; the effect is the calibration gap."""
    claim = "refitting only the readout on the training split would raise held-out accuracy now"
    gap, (low, high) = float(rungs.calibration_gap[-1]), rungs.calibration_gap_interval[-1].tolist()
    last = rungs.step[-1]
    others = {name: float(o.calibration_gap_interval[r, -1, 0]) for name, o in presets.items() if o.step[-1] == last}
    evidence = [
        f"at step {last:g}: train-fit probe {rungs.train_probe[-1]:.3f}, native {rungs.native[-1]:.3f} ({rungs.preset})"
    ]
    evidence += [f"lower bound with the {name} probe: {bound:+.3f}" for name, bound in others.items()]
    outcome = compared((low, high), at.RISE)
    denied = outcome is Outcome.SUPPORTED and not all(bound > 0 for bound in others.values())
    affirmed = outcome is Outcome.REFUTED and any(bound > at.RISE for bound in others.values())
    if denied or affirmed:  # the presets disagree, and a gap that depends on the probe is not called
        outcome = Outcome.UNDETERMINED
    return Verdict(
        "TC204", claim, outcome, "train-fit probe − native accuracy at the end", gap, (low, high),
        rungs.scored, "held-out examples", {"accuracy": at.RISE}, tuple(evidence),
        "a probe preset under which the gap vanishes",
    )  # fmt: skip


def judge_train_bias(rungs: Rungs, presets: Mapping[str, Decomposition], r: int) -> Verdict:
    """Judge whether, before the rise, a readout fitted on training examples reads less than one fitted on held-out ones.

    The effect is the train bias, held-out-fit − train-fit probe, at the plateau's snapshot where it is largest; at least
    three snapshots must show it, and every other probe preset, beyond its interval, at those of the plateau's moments at which
    it was fitted (its last snapshot always).
    """
    claim = "before the held-out rise a readout fitted on the training examples was biased towards them"
    thresholds = {"accuracy": at.LEAD, "snapshots": float(at.FEWEST_SNAPSHOTS)}
    code, what = "TC205", "held-out-fit probe − train-fit probe (largest on the plateau)"
    if int(rungs.plateau.sum()) < at.FEWEST_SNAPSHOTS:
        return too_few(code, claim, what, int(rungs.plateau.sum()))
    place = int(np.where(rungs.plateau, rungs.train_bias, -np.inf).argmax())
    low, high = rungs.train_bias_interval[place].tolist()
    showing = int((rungs.plateau & (rungs.train_bias_interval[:, 0] > 0)).sum())
    by_preset = {
        name: largest_on_plateau(other, other.train_bias[r], other.train_bias_interval[r, :, 0], rungs)
        for name, other in presets.items()
    }
    evidence = (
        f"at step {rungs.step[place]:g}: train-fit probe {rungs.train_probe[place]:.3f}, held-out-fit probe "
        f"{rungs.heldout_probe[place]:.3f} ({rungs.preset}, fitted on {rungs.fitted[0]} training and {rungs.fitted[1]} "
        "held-out examples)",
        f"{showing} of {int(rungs.plateau.sum())} snapshots on the plateau show it",
        *said_by_presets(by_preset),
    )
    outcome = compared((low, high), at.LEAD)
    if outcome is Outcome.SUPPORTED and (denied_by(by_preset) or showing < at.FEWEST_SNAPSHOTS):
        outcome = Outcome.UNDETERMINED
    return Verdict(
        code, claim, outcome, what, float(rungs.train_bias[place]), (low, high), rungs.scored, "held-out examples",
        thresholds, evidence, "a probe preset under which the bias vanishes, or as many held-out as training examples",
    )  # fmt: skip


def fall_of(step: Array, values: Float, intervals: Float) -> tuple[float, float, float, float]:
    """Return the deepest fall below an earlier level, its error, and the steps of the high and the low."""
    high, low, fall = deepest_fall(values)
    return fall, float(half_width(intervals[high], intervals[low])), float(step[high]), float(step[low])


def preset_fall(other: Decomposition, high: float, low: float, r: int) -> Bounded | None:
    """Return how far the held-out-fit probe of another preset fell between two steps, if it was fitted at both."""
    places = [np.flatnonzero(other.step == step) for step in (high, low)]
    if not all(len(place) for place in places):
        return None
    first, last = (int(place[0]) for place in places)
    fall = float(other.heldout_probe[r, first] - other.heldout_probe[r, last])
    return fall, fall - float(half_width(*(other.heldout_probe_interval[r, place] for place in (first, last))))


def best_level(rungs: Rungs, probe: str) -> float:
    """Return the best level that a probe ever reaches."""
    levels = next(values for name, values, _ in untuned_probes(rungs) if name == probe)
    return float(np.max(levels[np.isfinite(levels)], initial=0.0))


def untuned_probes(rungs: Rungs) -> tuple[tuple[str, Float, Float], ...]:
    """Return the probes whose trend is the features': the best train-fit probe over its strip, and the held-out-fit probe.

    The tuned train-fit probe also moves with the penalty that memorised training examples ask for.
    """
    best = rungs.best_train_probe
    intervals = np.array([rate_interval(share, rungs.scored) for share in best.tolist()])
    return (
        ("train-fit probe at its best penalty", best, intervals),
        ("held-out-fit probe", rungs.heldout_probe, rungs.heldout_probe_interval),
    )


def rate_interval(share: float, scored: int) -> tuple[float, float]:
    """Return the Wilson interval of an accuracy on so many examples; NaN where it is not known."""
    return wilson_interval(round(share * scored), scored) if np.isfinite(share) else (np.nan, np.nan)


def lead_of(other: Decomposition, rungs: Rungs, r: int) -> Bounded | None:
    """Return the largest lead of another preset's held-out-fit probe over the native readout on the plateau."""
    lead = other.heldout_probe[r] - other.native[r]
    return largest_on_plateau(
        other, lead, lead - half_width(other.heldout_probe_interval[r], other.native_interval[r]), rungs
    )


def largest_on_plateau(other: Decomposition, values: Float, lows: Float, rungs: Rungs) -> Bounded | None:
    """Return the largest of some values at another preset's moments on the plateau, with its lower bound; None without one."""
    places = np.flatnonzero(np.isin(other.step, rungs.step[rungs.plateau]) & np.isfinite(values))
    if not len(places):
        return None
    place = int(places[values[places].argmax()])
    return float(values[place]), float(lows[place])


def denied_by(by_preset: Mapping[str, Bounded | None]) -> bool:
    """Return whether a preset does not show a difference beyond its own interval."""
    return any(value is not None and value[1] <= 0 for value in by_preset.values())


def said_by_presets(by_preset: Mapping[str, Bounded | None]) -> list[str]:
    """Return what each other preset shows at those of the plateau's moments at which it was fitted."""
    return [
        f"largest with the {name} probe: {value[0]:+.3f}, lower bound {value[1]:+.3f}"
        for name, value in by_preset.items()
        if value is not None
    ]


def half_width(*intervals: Float) -> Float:
    """Return the half width of the interval of a difference, from the intervals of its two sides taken as independent."""
    widths = [(interval[..., 1] - interval[..., 0]) / 2 for interval in intervals]
    root: Float = np.sqrt(np.sum(np.square(widths), axis=0))
    return root


def too_few(code: str, claim: str, what: str, count: int) -> Verdict:
    """Return the verdict where a trend over three snapshots cannot be read, or there is no plateau to read it on."""
    if count == 0:
        return Verdict(
            code,
            claim,
            Outcome.NOT_APPLICABLE,
            what,
            evidence=("no snapshot lies between the fit and the held-out rise",),
        )
    return too_few_snapshots(code, claim, what, count, "in the window", closer="after the fit")
