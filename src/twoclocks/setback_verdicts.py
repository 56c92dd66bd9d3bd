"""This file knows how it is judged which part failed when held-out accuracy fell: the representation or the readout.

That features still hold the answers is shown by one probe that reads them; that they do not, only by all probes failing. A
probe that always read little shows neither. Every level is the median of three snapshots, or of all at which accuracy is
lost: a probe known at fewer can speak against an outcome, never decide one. Where one of several probes decides, its interval
is widened for their number. Where the critical dimension was measured, it must not deny that the features got worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from twoclocks import thresholds as at
from twoclocks.courses import medians_of_three
from twoclocks.ladder_verdicts import Rungs, half_width, rate_interval
from twoclocks.runs import Run, around, lost_places
from twoclocks.stats import t_interval
from twoclocks.trajectory import Array, Float, Series
from twoclocks.verdicts import Outcome, Verdict, compared, inapplicable, too_few_snapshots

if TYPE_CHECKING:
    from twoclocks.decomposition import Decomposition

Interval = tuple[float, float]
# Times the half width of its interval by which a loss between two snapshots counts: the lowest and the highest of some
# dozens of snapshots that differ in nothing but noise lie up to 1.7 apart.
STANDS_OUT = 2.0


@dataclass(frozen=True)
class Share:
    """What a probe shows, as a share of what the native readout lost, with its interval.

    `reads_more`: whether it reads more than the native readout by half of the loss. `is_trend`: whether it is known at three
    snapshots of every level. `is_refit`: whether it was fitted on the training split, as a refitted readout would be.
    """

    probe: str
    value: float
    interval: Interval
    reads_more: bool = True
    is_trend: bool = True
    is_refit: bool = False


@dataclass(frozen=True)
class Probe:
    """A probe, or what it reads above the native readout, at some places of the ladder: `value[p]`, `interval[p, 2]`."""

    name: str
    places: Array
    value: Float
    interval: Float
    is_refit: bool = False

    def within(self, window: Array) -> Probe:
        """Return the same probe at those of its places that lie in a window."""
        inside = np.isin(self.places, window)
        return Probe(self.name, self.places[inside], self.value[inside], self.interval[inside], self.is_refit)

    @property
    def is_trend(self) -> bool:
        """Return whether it is known at as many places as a trend takes."""
        return len(self.places) >= at.FEWEST_SNAPSHOTS

    @property
    def level(self) -> tuple[float, float]:
        """Return the median of its values, and the median half width of their intervals."""
        return float(np.median(self.value)), float(np.median(self.interval[:, 1] - self.interval[:, 0])) / 2


def judge_setbacks(
    rungs: Rungs,
    presets: Mapping[str, Decomposition],
    run: Run,
    r: int,
    curves: Mapping[str, Verdict],
    draws: Series | None = None,
) -> dict[str, Verdict]:
    """Return the verdicts on a dip and on a loss of generalisation of run r, given the verdicts on its curves.

    `draws` `[r t d]` are draws of the critical dimension of the held-out features, the same at every snapshot.
    """
    verdicts = (
        judge_dip(rungs, presets, run, r, happened=curves["TC105"].holds, draws=draws),
        judge_collapse(rungs, presets, run, r, happened=curves["TC107"].holds, draws=draws),
    )
    return {verdict.code: verdict for verdict in verdicts}


def judge_dip(
    rungs: Rungs,
    presets: Mapping[str, Decomposition],
    run: Run,
    r: int,
    *,
    happened: bool,
    draws: Series | None = None,
) -> Verdict:
    """Judge whether the features got worse along with the readout in a double descent.

    The effect is the fall of the held-out-fit probe ÷ that of the native readout, from the first minimum of the error to its
    peak, each the median of the three snapshots around it. Train-fit probes are not asked: with wrong training labels they
    fall with the labels. SUPPORTED where more than half of the fall is shared under every preset and the critical dimension
    does not deny it; REFUTED where under one preset less than half is, and that probe reads more than the native readout
    does at the peak by half of the fall. The effect shown is that of the preset that stays highest.
    """
    code, claim = "TC211", "in the dip the features got worse along with the readout"
    what = "fall of the held-out-fit probe ÷ fall of the native readout (medians of three snapshots)"
    dip = run.dip
    if not happened or dip is None:
        return inapplicable(code, claim, "held-out accuracy shows no double descent")
    before, during = (around(rungs.step, step) for step in (dip.first_step, dip.trough_step))
    between = int(((rungs.step >= dip.first_step) & (rungs.step <= dip.second_step)).sum())
    if between < at.FEWEST_SNAPSHOTS:
        return too_few_snapshots(code, claim, what, between, "in the dip")
    if before[-1] >= during[0]:
        where = "from the first snapshot around its start to the last around its trough, at both of which"
        return too_few_snapshots(code, claim, what, int(during[-1] - before[0] + 1), where)
    native = probe_at(rungs, "native", rungs.step, rungs.native, rungs.native_interval)
    if not stands_out(native, before, during):
        return too_few_snapshots(code, claim, what, between, "in the dip that show the native readout's fall")
    shares = [
        share_of_fall(probe, native, before, during)
        for probe in heldout_probes(rungs, presets, r)
        if known(probe, before) and known(probe, during)
    ]
    swollen, on_dimension = swelling(draws, r, rungs.step[before], rungs.step[during])
    deciding = [share for share in shares if share.is_trend]
    outcome = Outcome.UNDETERMINED
    if any(sure(share, len(deciding))[1] <= at.SHARED and share.reads_more for share in deciding):
        outcome = Outcome.REFUTED
    elif deciding and all(share.interval[0] > at.SHARED for share in shares) and swollen is not Outcome.REFUTED:
        outcome = Outcome.SUPPORTED
    reading = [share for share in deciding if share.reads_more] or deciding
    effect, interval = shown(min(reading, key=lambda share: share.value, default=None))
    evidence = (
        f"native accuracy {native.within(before).level[0]:.3f} around step {rungs.step[before[1]]:g}, "
        f"{native.within(during).level[0]:.3f} around {rungs.step[during[1]]:g}",
        *(words(share, "of the fall") for share in shares),
        *on_dimension,
    )
    return Verdict(
        code, claim, outcome, what, effect, interval, rungs.scored, "held-out examples",
        {"share of the fall": at.SHARED, "rise of the critical dimension": at.CAPACITY_CHANGED}, evidence,
        "its fall on more held-out examples" if outcome is Outcome.REFUTED else "a probe that stays high where these fell",
    )  # fmt: skip


def judge_collapse(
    rungs: Rungs,
    presets: Mapping[str, Decomposition],
    run: Run,
    r: int,
    *,
    happened: bool,
    draws: Series | None = None,
) -> Verdict:
    """Judge whether, where generalisation was lost, for a while or for good, a refitted readout still has it.

    The effect is the share of the lost accuracy that refitting on the training split restores, (p_tr − m) ÷ (highest m so
    far − m), the median over the snapshots at which m is lost; the highest m is one of medians of three. SUPPORTED where it
    is more than half under one preset or at the penalty that reads most; REFUTED where it is less under all of these, the
    held-out-fit probes read less than half of the loss too, and the critical dimension does not deny it.
    """
    code, claim = "TC212", "what was lost, a readout refitted on the training split still has: the interface failed"
    what = "share of the lost accuracy that refitting restores (median over snapshots, the probe that restores most)"
    lost, level = losses(rungs)
    if not happened and len(lost) < at.FEWEST_SNAPSHOTS:
        return inapplicable(code, claim, "held-out accuracy was not lost, not at three snapshots")
    if len(lost) < at.FEWEST_SNAPSHOTS:
        return too_few_snapshots(
            code, claim, what, len(lost), "where it is lost beyond the noise of the scored examples"
        )
    missing = level - rungs.native
    shares = [share_of_loss(probe.within(lost), missing) for probe in leads(rungs, presets, r) if known(probe, lost)]
    high = np.flatnonzero(rungs.native[: lost[0]] >= at.CLOSE_TO_BEST * level[lost[0]])
    swollen, on_dimension = swelling(draws, r, rungs.step[high], rungs.step[lost])
    refits = [share for share in shares if share.is_trend and share.is_refit]
    asked = bool(refits) and any(share.is_trend and not share.is_refit for share in shares)
    outcome = Outcome.UNDETERMINED
    if any(sure(share, len(refits))[0] > at.SHARED for share in refits):
        outcome = Outcome.SUPPORTED
    elif asked and all(share.interval[1] <= at.SHARED for share in shares) and swollen is not Outcome.REFUTED:
        outcome = Outcome.REFUTED
    effect, interval = shown(max(refits, key=lambda share: share.interval[0], default=None))
    evidence = (
        f"native accuracy had been {level[lost[0]]:.3f} and is below {at.LOST_FOR_GOOD:g} of its highest at {len(lost)} "
        f"snapshots, from step {rungs.step[lost[0]]:g} to {rungs.step[lost[-1]]:g}",
        *(words(share, "restored" if share.is_refit else "of the loss still read") for share in shares),
        *on_dimension,
    )
    return Verdict(
        code, claim, outcome, what, effect, interval, rungs.scored, "held-out examples",
        {"share of the loss": at.SHARED, "rise of the critical dimension": at.CAPACITY_CHANGED}, evidence,
        "a refit that fails on more held-out examples" if outcome is Outcome.SUPPORTED else "a probe that reads what was lost",
    )  # fmt: skip


def shown(share: Share | None) -> tuple[float | None, Interval | None]:
    """Return the effect and the interval of a share; nothing where there is none."""
    return (None, None) if share is None else (share.value, share.interval)


def sure(share: Share, among: int) -> Interval:
    """Return the interval of a share by which it decides alone, widened so that among so many no more err than of one.

    >>> [round(end, 3) for end in sure(Share("probe", 0.5, (0.4, 0.6)), 2)]
    [0.386, 0.614]
    """
    wider = NormalDist().inv_cdf(1 - 0.025 / among) / NormalDist().inv_cdf(0.975)
    return share.value - wider * (share.value - share.interval[0]), share.value + wider * (
        share.interval[1] - share.value
    )


def stands_out(native: Probe, before: Array, during: Array) -> bool:
    """Return whether the native readout is known in both windows and fell between them by more than its interval."""
    if not (native.within(before).is_trend and native.within(during).is_trend):
        return False
    fall, error = fall_of(native, before, during)
    return fall > error


def fall_of(probe: Probe, before: Array, during: Array) -> tuple[float, float]:
    """Return how far a probe fell from one window to another, and the half width of its interval."""
    (high, wide), (low, narrow) = probe.within(before).level, probe.within(during).level
    return high - low, float(np.hypot(wide, narrow))


def share_of_fall(probe: Probe, native: Probe, before: Array, during: Array) -> Share:
    """Return the fall of a probe as a share of the native readout's.

    The interval is that of fall − SHARED × whole, in units of the whole: the errors of both, exact at the threshold.
    """
    (fall, error), (whole, error_of_whole) = (fall_of(one, before, during) for one in (probe, native))
    share = fall / whole
    wide = float(np.hypot(error, at.SHARED * error_of_whole)) / whole
    more = probe.within(during).level[0] - native.within(during).level[0] > at.SHARED * whole
    is_trend = probe.within(before).is_trend and probe.within(during).is_trend
    return Share(f"held-out-fit probe ({probe.name})", share, (share - wide, share + wide), more, is_trend)


def share_of_loss(lead: Probe, missing: Float) -> Share:
    """Return what a probe reads above the native readout ÷ what that one lacks, the median over the lead's places."""
    ends = np.median(lead.interval / missing[lead.places, None], axis=0).tolist()
    value = float(np.median(lead.value / missing[lead.places]))
    return Share(lead.name, value, (ends[0], ends[1]), is_trend=lead.is_trend, is_refit=lead.is_refit)


def known(probe: Probe, window: Array) -> bool:
    """Return whether a probe is known anywhere in a window."""
    return bool(len(probe.within(window).places))


def probe_at(rungs: Rungs, name: str, step: Array, value: Float, interval: Float, *, is_refit: bool = False) -> Probe:
    """Return a probe at those of its steps that the ladder has and at which it could be fitted."""
    usable = np.isin(step, rungs.step) & np.isfinite(value)
    return Probe(name, np.searchsorted(rungs.step, step[usable]), value[usable], interval[usable], is_refit)


def heldout_probes(rungs: Rungs, presets: Mapping[str, Decomposition], r: int) -> list[Probe]:
    """Return the held-out-fit probe of every preset, where it was fitted."""
    return [
        probe_at(rungs, rungs.preset, rungs.step, rungs.heldout_probe, rungs.heldout_probe_interval),
        *(
            probe_at(rungs, name, o.step, o.heldout_probe[r], o.heldout_probe_interval[r])
            for name, o in presets.items()
        ),
    ]


def leads(rungs: Rungs, presets: Mapping[str, Decomposition], r: int) -> list[Probe]:
    """Return what every probe reads above the native readout: those fitted on training examples, and on held-out ones."""
    best = np.array([rate_interval(share, rungs.scored) for share in rungs.best_train_probe.tolist()])
    own, gaps = rungs.calibration_gap, rungs.calibration_gap_interval
    heldout = (
        (
            rungs.preset,
            rungs.step,
            rungs.heldout_probe,
            rungs.heldout_probe_interval,
            rungs.native,
            rungs.native_interval,
        ),
        *(
            (name, o.step, o.heldout_probe[r], o.heldout_probe_interval[r], o.native[r], o.native_interval[r])
            for name, o in presets.items()
        ),
    )
    refitted = (
        (f"train-fit probe ({rungs.preset})", rungs.step, own, gaps),
        (
            "train-fit probe at its best penalty", rungs.step,
            *above(rungs.best_train_probe, best, rungs.native, rungs.native_interval),
        ),
        *(
            (f"train-fit probe ({name})", o.step, o.calibration_gap[r], o.calibration_gap_interval[r])
            for name, o in presets.items()
        ),
    )  # fmt: skip
    return [
        *(probe_at(rungs, *one, is_refit=True) for one in refitted),
        *(probe_at(rungs, f"held-out-fit probe ({name})", step, *above(*of)) for name, step, *of in heldout),
    ]


def above(probe: Float, interval: Float, native: Float, native_interval: Float) -> tuple[Float, Float]:
    """Return how much a probe reads above the native readout, and the interval, both sides taken as independent."""
    lead, error = probe - native, half_width(interval, native_interval)
    return lead, np.stack([lead - error, lead + error], axis=-1)


def losses(rungs: Rungs) -> tuple[Array, Float]:
    """Return the places at which accuracy is lost beyond noise, and the highest level so far, `[t]`.

    That level is one of medians of three snapshots (step 0 stands for itself), so that no lucky snapshot sets it.
    """
    smooth = medians_of_three(np.nan_to_num(rungs.native, nan=0.0))
    level = np.maximum.accumulate(smooth)
    highest = np.maximum.accumulate(np.where(smooth >= level, np.arange(len(level)), 0))
    error = half_width(rungs.native_interval[highest], rungs.native_interval)
    lost = lost_places(rungs.native)
    beyond = np.isfinite(rungs.native[lost]) & (level[lost] - rungs.native[lost] > STANDS_OUT * error[lost])
    return lost[beyond], level


def swelling(draws: Series | None, r: int, before: Array, during: Array) -> tuple[Outcome, tuple[str, ...]]:
    """Return whether the critical dimension rose between two groups of steps, and the words for it.

    The rise is that of the mean over a group's snapshots, as a share of the first, with a t interval over the draws that all
    snapshots share; UNDETERMINED where it is not known at three snapshots of either group.
    """
    if draws is None:
        return Outcome.UNDETERMINED, ()
    finite = np.isfinite(draws.value[r]).all(axis=1)
    groups = [draws.value[r][finite & np.isin(draws.step, steps)] for steps in (before, during)]
    if min(len(group) for group in groups) < at.FEWEST_SNAPSHOTS or draws.value.shape[2] < 2:
        return Outcome.UNDETERMINED, (
            "the critical dimension is not known at three snapshots before and three during it",
        )
    first, then = (group.mean(axis=0) for group in groups)
    low, high = t_interval((then - first) / first.mean())
    means = f"critical dimension {first.mean():.1f} before, {then.mean():.1f} then"
    words_on_it = f"{means}: a rise of {low:+.2f} to {high:+.2f} of it"
    return compared((low, high), at.CAPACITY_CHANGED), (words_on_it,)


def words(share: Share, what: str) -> str:
    """Return what a probe shows, in words."""
    few = "" if share.is_trend else f", at fewer than {at.FEWEST_SNAPSHOTS} snapshots"
    return f"{share.probe}: {share.value:.2f} ({share.interval[0]:.2f} to {share.interval[1]:.2f}) {what}{few}"
