"""This file knows how the representation's own measures are judged: did it move, simplify, get worse, fit its training data.

The baseline is the network at initialisation, step 0. Differences between moments are paired: the same classes, examples
and random draws at every snapshot, so their intervals are precision for these examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from twoclocks import thresholds as at
from twoclocks.runs import Run, before_rise, onset_of, plateau_of
from twoclocks.stats import t_interval
from twoclocks.trajectory import Float, Series
from twoclocks.verdicts import Outcome, Verdict, compared, inapplicable, too_few_snapshots

if TYPE_CHECKING:
    from twoclocks.evidence import Evidence

RESAMPLES = 1000
DRAWS = "critical_dimension_draws(heldout)"
MOVED = "kernel_distance(train: to the start)"
NO_CAPACITY = "the critical dimension was not measured"


def judge_representation(evidence: Evidence, run: Run, r: int) -> dict[str, Verdict]:
    """Return every verdict on the representation of run r, by code."""
    measured = evidence.measured
    verdicts = (
        judge_simplification(measured.get(DRAWS), run, r),
        judge_swelling(measured.get(DRAWS), run, r),
        judge_alignment_gap(measured, run, r),
        judge_equalising(measured, run, r),
        judge_motion(measured.get(MOVED), run, r),
    )
    return {verdict.code: verdict for verdict in verdicts}


def judge_simplification(draws: Series | None, run: Run, r: int) -> Verdict:
    """Judge whether the critical dimension fell before held-out accuracy rose; the effect is the share of its whole fall.

    The fall is counted from step 0 to the last snapshot; "before" is up to the last snapshot at which held-out accuracy has
    not come a tenth of the way from chance to perfection. Intervals are of a bootstrap over the draws that all snapshots
    share. The three snapshots before the rise must all lie below the start.
    """
    code, claim = "TC206", "the critical dimension fell before the held-out rise"
    what = "share of the whole fall of the critical dimension that comes before the rise"
    if draws is None:
        return inapplicable(code, claim, NO_CAPACITY)
    onset = onset_of(run)
    if onset is None:
        return inapplicable(code, claim, "held-out accuracy has not risen")
    value, step = draws.value[r], draws.step
    seen = np.flatnonzero(np.isfinite(value).all(axis=1))
    before = [place for place in seen if step[place] < onset]
    if len(before) < at.FEWEST_SNAPSHOTS + 1 or step[seen[0]] != 0:
        return too_few_snapshots(code, claim, what, len(before), "before the rise, step 0 included")
    start, rise, end = value[seen[0]], value[before[-1]], value[seen[-1]]
    whole = t_interval(start - end)
    if whole[0] <= at.CAPACITY_CHANGED * float(start.mean()):
        return inapplicable(
            code, claim, "the critical dimension did not fall: it was no larger at step 0 than at the end"
        )
    share, interval = ratio_of_means(start - rise, start - end)
    outcome = compared(interval, at.FALL_BEFORE)
    falling = all(float((start - value[place]).mean()) > 0 for place in before[-at.FEWEST_SNAPSHOTS :])
    if outcome is Outcome.SUPPORTED and not falling:
        outcome = Outcome.UNDETERMINED
    evidence = (
        f"critical dimension {start.mean():.1f} at step 0, {rise.mean():.1f} at step {step[before[-1]]:g}, the last snapshot "
        f"before held-out accuracy had come a tenth of the way (step {onset:g}), {end.mean():.1f} at step {step[seen[-1]]:g}",
        f"held-out features, {value.shape[1]} draws, the same at every snapshot",
    )
    return Verdict(
        code, claim, outcome, what, share, interval, value.shape[1], "draws", {"share": at.FALL_BEFORE}, evidence,
        "snapshots closer together before the rise, or other classes and examples",
    )  # fmt: skip


def judge_swelling(draws: Series | None, run: Run, r: int) -> Verdict:
    """Judge whether the critical dimension rose above that of the network at initialisation before the held-out rise.

    The effect is the largest rise that three snapshots in a row reach, as a share of the value at step 0, by their paired
    intervals over the draws.
    """
    code, claim = "TC207", "before the held-out rise the critical dimension was larger than at initialisation"
    what = "rise of the critical dimension ÷ its value at step 0 (least of three snapshots in a row)"
    if draws is None:
        return inapplicable(code, claim, NO_CAPACITY)
    value, step = draws.value[r], draws.step
    seen = np.flatnonzero(np.isfinite(value).all(axis=1) & before_rise(step, run))
    if len(seen) < at.FEWEST_SNAPSHOTS + 1 or step[seen[0]] != 0:
        return too_few_snapshots(code, claim, what, len(seen), "before the rise, step 0 included")
    start = value[seen[0]]
    rises = [(value[place] - start) / start.mean() for place in seen[1:]]
    lows, highs = np.array([t_interval(rise) for rise in rises]).T
    means = np.array([rise.mean() for rise in rises])
    windows = [slice(i, i + at.FEWEST_SNAPSHOTS) for i in range(len(rises) - at.FEWEST_SNAPSHOTS + 1)]
    best = max(windows, key=lambda window: float(means[window].min()))
    place = best.start + int(means[best].argmin())
    interval = (float(lows[place]), float(highs[place]))
    evidence = (
        f"critical dimension {start.mean():.1f} at step 0, {value[seen[1 + place]].mean():.1f} at step "
        f"{step[seen[1 + place]]:g} (held-out features, {value.shape[1]} draws)",
    )
    return Verdict(
        code, claim, compared(interval, at.CAPACITY_CHANGED), what, float(means[place]), interval, value.shape[1], "draws",
        {"share of the value at step 0": at.CAPACITY_CHANGED}, evidence, "a control with a smaller initialisation",
    )  # fmt: skip


def judge_alignment_gap(measured: Mapping[str, Series], run: Run, r: int) -> Verdict:
    """Judge whether, on the plateau, the features align with the training labels more than with the held-out ones.

    The effect is ΔA ÷ A_train, the mean over the plateau's snapshots, both at equal class counts; its interval is that of
    the scatter over subsamples of the examples, the widest of these snapshots.
    """
    code, claim = (
        "TC208",
        "on the plateau the features align with their labels on training examples more than on held-out",
    )
    what = "alignment gap ÷ alignment on training examples (mean over the plateau)"
    gap, own, error = (measured.get(name) for name in ("alignment_gap", "alignment(train)", "alignment_gap_error"))
    if gap is None or own is None or error is None:
        return inapplicable(code, claim, "the alignment was not measured")
    usable = plateau_of(gap.step, run) & np.isfinite(gap.value[r]) & (own.value[r] > 0)
    if int(usable.sum()) < at.FEWEST_SNAPSHOTS:
        return too_few_snapshots(code, claim, what, int(usable.sum()), "on the plateau")
    relative = gap.value[r][usable] / own.value[r][usable]
    wide = 1.96 * float((error.value[r][usable] / own.value[r][usable]).max())
    effect = float(relative.mean())
    interval = (effect - wide, effect + wide)
    steps = gap.step[usable]
    evidence = (
        f"alignment on training examples {own.value[r][usable].mean():.3f}, gap {gap.value[r][usable].mean():+.3f}, over "
        f"{len(steps)} snapshots from step {steps[0]:g} to {steps[-1]:g}",
    )
    return Verdict(
        code, claim, compared(interval, at.ALIGNMENT_GAP), what, effect, interval, len(steps), "snapshots",
        {"share": at.ALIGNMENT_GAP}, evidence, "more examples a class",
    )  # fmt: skip


def judge_equalising(measured: Mapping[str, Series], run: Run, r: int) -> Verdict:
    """Judge whether the readout stops leaning to its training examples `[def]`.

    The lean is the cosine of the native readout with the ridge readout of the training features, minus that with the one of
    held-out features. The effect is its fall from the plateau's first three snapshots to the run's last three; the interval
    is a t interval of their difference.
    """
    code, claim = (
        "TC209",
        "the readout's directions equalise: it comes to suit held-out features as it does training ones",
    )
    what = "fall of the readout's lean to its training examples, from the fit to the end"
    train, heldout = (measured.get(f"readout_cosine({split} fit)") for split in ("train", "held-out"))
    if train is None or heldout is None:
        return inapplicable(code, claim, "the readouts were not compared")
    lean = train.value[r] - heldout.value[r]
    usable = np.isfinite(lean) & (train.step >= (np.inf if run.fit_step is None else run.fit_step))
    if int(usable.sum()) < 2 * at.FEWEST_SNAPSHOTS:
        return too_few_snapshots(
            code, claim, what, int(usable.sum()), "since the fit, and it takes three at either end"
        )
    values, steps = lean[usable], train.step[usable]
    first, last = values[: at.FEWEST_SNAPSHOTS], values[-at.FEWEST_SNAPSHOTS :]
    effect, interval = float(first.mean() - last.mean()), t_interval(first - last)
    evidence = (
        f"lean {first.mean():+.3f} over the first three snapshots since the fit (from step {steps[0]:g}), {last.mean():+.3f} "
        f"over the last three (to step {steps[-1]:g})",
    )
    return Verdict(
        code, claim, compared(interval, at.LEAN), what, effect, interval, len(values), "snapshots", {"cosine": at.LEAN},
        evidence, "a longer run",
    )  # fmt: skip


def judge_motion(distance: Series | None, run: Run, r: int) -> Verdict:
    """Judge whether the features changed at all since initialisation, other than by a rotation and a scale.

    The effect is the kernel distance of the training features from step 0, the largest that three snapshots in a row reach.
    Where the features stand still, whatever happens is the readout's doing.
    """
    code, claim = "TC210", "the features changed since initialisation"
    what = "kernel distance of the training features from step 0 (least of three snapshots in a row)"
    if distance is None or distance.step[0] != 0:
        return inapplicable(code, claim, "features were not kept from step 0 on")
    values = distance.value[r][1:]
    values = values[np.isfinite(values)]
    if len(values) < at.FEWEST_SNAPSHOTS:
        return too_few_snapshots(code, claim, what, len(values), "after step 0")
    effect = float(lowest_in_a_row(values, at.FEWEST_SNAPSHOTS).max())
    outcome = Outcome.SUPPORTED if effect > at.FEATURES_MOVED else Outcome.REFUTED
    return Verdict(
        code, claim, outcome, what, effect, None, len(values), "snapshots", {"distance": at.FEATURES_MOVED},
        (f"last snapshot: {values[-1]:.3g}",), "features of more examples",
    )  # fmt: skip


def lowest_in_a_row(values: Float, length: int) -> Float:
    """Return the lowest of every so many values in a row.

    >>> lowest_in_a_row(np.array([3.0, 1.0, 2.0, 5.0]), 2).tolist()
    [1.0, 1.0, 2.0]
    """
    return np.asarray(np.lib.stride_tricks.sliding_window_view(values, length).min(axis=1))


def ratio_of_means(part: Float, whole: Float) -> tuple[float, tuple[float, float]]:
    """Return mean(part) ÷ mean(whole) of paired draws, and its 95 % bootstrap interval.

    >>> ratio_of_means(np.array([1.0, 1.0]), np.array([2.0, 2.0]))
    (0.5, (0.5, 0.5))
    """
    chosen = np.random.default_rng(0).integers(len(part), size=(RESAMPLES, len(part)))
    ratios = part[chosen].mean(axis=1) / whole[chosen].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975]).tolist()
    return float(part.mean() / whole.mean()), (low, high)
