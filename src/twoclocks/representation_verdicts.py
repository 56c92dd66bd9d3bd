"""This file knows how the representation's own measures are judged: did it move, simplify, get worse, fit its training data.

The baseline is the network at initialisation, step 0. Differences between moments are paired: the same classes, examples
and random draws at every snapshot, so their intervals are precision for these examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from twoclocks import thresholds as at
from twoclocks.representation import HALVINGS
from twoclocks.runs import Run, before_rise, onset_of, plateau_of
from twoclocks.stats import t_interval, t_quantile
from twoclocks.trajectory import Float, Series
from twoclocks.verdicts import Outcome, Verdict, compared, inapplicable, too_few_snapshots

if TYPE_CHECKING:
    from twoclocks.evidence import Evidence

RESAMPLES = 1000
DRAWS = "critical_dimension_draws(heldout)"
POINT_NOISE = "critical_dimension_point_noise(heldout)"
LIKENESS = "cka(train: to the start)"
NO_CAPACITY = "the critical dimension was not measured"


def judge_representation(evidence: Evidence, run: Run, r: int) -> dict[str, Verdict]:
    """Return every verdict on the representation of run r, by code."""
    measured = evidence.measured
    verdicts = (
        judge_simplification(measured.get(DRAWS), measured.get(POINT_NOISE), run, r),
        judge_swelling(measured.get(DRAWS), measured.get(POINT_NOISE), run, r),
        judge_alignment_gap(measured, run, r),
        judge_equalising(measured, run, r),
        judge_motion(measured.get(LIKENESS), run, r),
    )
    return {verdict.code: verdict for verdict in verdicts}


def judge_simplification(draws: Series | None, noise: Series | None, run: Run, r: int) -> Verdict:
    """Judge whether the critical dimension fell before held-out accuracy rose; the effect is the share of its whole fall.

    The fall is counted from step 0 to the last snapshot; "before" is up to the last snapshot at which held-out accuracy has
    not come a tenth of the way from chance to perfection. Intervals are of a bootstrap over the draws that all snapshots
    share: precision for these points. What the choice of points may add (see `point_noise`) must not bring a support down
    either, and the three snapshots before the rise must all lie below the start.
    """
    code, claim = "TC206", "the critical dimension fell before the onset of the held-out rise"
    what = "share of the whole fall of the critical dimension that comes before the onset"
    if draws is None:
        return inapplicable(code, claim, NO_CAPACITY)
    onset = onset_of(run)
    if onset is None:
        return inapplicable(code, claim, "held-out accuracy has not risen")
    value, step = draws.value[r], draws.step
    seen = np.flatnonzero(np.isfinite(value).all(axis=1))
    before = [place for place in seen if step[place] < onset]
    if len(before) < at.FEWEST_SNAPSHOTS + 1 or step[seen[0]] != 0:
        return too_few_snapshots(
            code, claim, what, len(before), "before the onset, step 0 included", least=at.FEWEST_SNAPSHOTS + 1
        )
    start, rise, end = value[seen[0]], value[before[-1]], value[seen[-1]]
    early, apart = (difference_noise(noise, r, place) for place in (int(before[-1]), int(seen[-1])))
    whole = widened(t_interval(start - end), apart * float(start.mean()))
    if whole[0] <= at.CAPACITY_CHANGED * float(start.mean()):
        return inapplicable(
            code, claim, f"the critical dimension did not fall by more than {at.CAPACITY_CHANGED:.0%} and its noise: "
            f"{start.mean():.1f} at step 0, {end.mean():.1f} at the end"
        )  # fmt: skip
    share, interval = ratio_of_means(start - rise, start - end)
    of_points = math.hypot(early, apart * share) * float(start.mean() / (start - end).mean())
    outcome = compared(interval, at.FALL_BEFORE)
    falling = all(float((start - value[place]).mean()) > 0 for place in before[-at.FEWEST_SNAPSHOTS :])
    if outcome is Outcome.SUPPORTED and not (falling and widened(interval, of_points)[0] > at.FALL_BEFORE):
        outcome = Outcome.UNDETERMINED
    evidence = (
        f"critical dimension {start.mean():.1f} at step 0, {rise.mean():.1f} at step {step[before[-1]]:g}, the last snapshot "
        f"before held-out accuracy had come a tenth of the way (step {onset:g}), {end.mean():.1f} at step {step[seen[-1]]:g}",
        f"held-out features, {value.shape[1]} draws, the same at every snapshot; other points might move it by ± {apart:.1%}",
    )
    return Verdict(
        code, claim, outcome, what, share, interval, value.shape[1], "draws", {"share": at.FALL_BEFORE}, evidence,
        "snapshots closer together before the rise, or other classes and examples",
    )  # fmt: skip


def judge_swelling(draws: Series | None, noise: Series | None, run: Run, r: int) -> Verdict:
    """Judge whether the critical dimension rose above that of the network at initialisation before the held-out rise.

    The effect is the largest rise that three snapshots in a row reach, as a share of the value at step 0, by their paired
    intervals over the draws. What the choice of points may add (see `point_noise`) must not bring a support down.
    """
    code, claim = "TC207", "before the held-out rise the critical dimension was larger than at initialisation"
    what = "rise of the critical dimension ÷ its value at step 0 (least of three snapshots in a row)"
    if draws is None:
        return inapplicable(code, claim, NO_CAPACITY)
    value, step = draws.value[r], draws.step
    seen = np.flatnonzero(np.isfinite(value).all(axis=1) & before_rise(step, run))
    if len(seen) < at.FEWEST_SNAPSHOTS + 1 or step[seen[0]] != 0:
        return too_few_snapshots(
            code, claim, what, len(seen), "before the rise, step 0 included", least=at.FEWEST_SNAPSHOTS + 1
        )
    start = value[seen[0]]
    rises = [(value[place] - start) / start.mean() for place in seen[1:]]
    lows, highs = np.array([t_interval(rise) for rise in rises]).T
    means = np.array([rise.mean() for rise in rises])
    windows = [slice(i, i + at.FEWEST_SNAPSHOTS) for i in range(len(rises) - at.FEWEST_SNAPSHOTS + 1)]
    best = max(windows, key=lambda window: float(means[window].min()))
    place = best.start + int(means[best].argmin())
    apart = difference_noise(noise, r, seen[1 + place])
    interval = (float(lows[place]), float(highs[place]))
    outcome = compared(interval, at.CAPACITY_CHANGED)
    if outcome is Outcome.SUPPORTED and not widened(interval, apart)[0] > at.CAPACITY_CHANGED:
        outcome = Outcome.UNDETERMINED
    evidence = (
        f"critical dimension {start.mean():.1f} at step 0, {value[seen[1 + place]].mean():.1f} at step "
        f"{step[seen[1 + place]]:g} (held-out features, {value.shape[1]} draws; other points might move it by ± {apart:.1%})",
    )
    return Verdict(
        code, claim, outcome, what, float(means[place]), interval, value.shape[1], "draws",
        {"share of the value at step 0": at.CAPACITY_CHANGED}, evidence, "a control with a smaller initialisation",
    )  # fmt: skip


def judge_alignment_gap(measured: Mapping[str, Series], run: Run, r: int) -> Verdict:
    """Judge whether, on the plateau, the features align with the training labels more than with the held-out ones.

    The effect is ΔA ÷ A_train, the mean over the plateau's snapshots, both at equal class counts; its interval is a t
    interval of the scatter over halves of the examples, the widest of these snapshots.
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
    wide = t_quantile(0.95, HALVINGS) * float((error.value[r][usable] / own.value[r][usable]).max())
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
    held-out features. The effect is the fall of its size from the plateau's first three snapshots to the run's last three;
    the interval is a t interval of their difference. A readout that comes to suit neither is not equalised: the cosine with
    that of held-out features must not fall.
    """
    code, claim = (
        "TC209",
        "the readout's directions equalise: it comes to suit held-out features as it does training ones",
    )
    what = "fall of the size of the readout's lean, from the fit to the end"
    train, heldout = (measured.get(f"readout_cosine({split} fit)") for split in ("train", "held-out"))
    if train is None or heldout is None:
        return inapplicable(code, claim, "the readouts were not compared")
    lean = train.value[r] - heldout.value[r]
    usable = np.isfinite(lean) & (train.step >= (np.inf if run.fit_step is None else run.fit_step))
    if int(usable.sum()) < 2 * at.FEWEST_SNAPSHOTS:
        return too_few_snapshots(code, claim, what, int(usable.sum()), "since the fit", least=2 * at.FEWEST_SNAPSHOTS)
    steps, few = train.step[usable], at.FEWEST_SNAPSHOTS
    first, last = lean[usable][:few], lean[usable][-few:]
    effect, interval = float(abs(first).mean() - abs(last).mean()), t_interval(abs(first) - abs(last))
    before, after = heldout.value[r][usable][:few], heldout.value[r][usable][-few:]
    outcome = compared(interval, at.LEAN)
    if outcome is Outcome.SUPPORTED and t_interval(after - before)[1] < 0:
        outcome = Outcome.REFUTED  # it leans less because it has left both
    evidence = (
        f"lean {first.mean():+.3f} over the first three snapshots since the fit (from step {steps[0]:g}), {last.mean():+.3f} "
        f"over the last three (to step {steps[-1]:g})",
        f"cosine with the readout of held-out features {before.mean():.3f}, then {after.mean():.3f}",
    )
    return Verdict(
        code, claim, outcome, what, effect, interval, len(steps), "snapshots", {"cosine": at.LEAN}, evidence, "a longer run",
    )  # fmt: skip


def judge_motion(likeness: Series | None, run: Run, r: int) -> Verdict:
    """Judge whether the features changed before held-out accuracy rose, other than by a shift, a rotation or a scale.

    The effect is 1 − debiased CKA of the training features with those of step 0, the largest that three snapshots in a row
    reach before held-out accuracy is half way (by the end, where it never is, or where they stand still to the end). Where
    the features stand still, whatever happens is the readout's doing. CKA is blind to a shift, which the readout's bias, or a
    threshold, could make as well.
    """
    code, claim = "TC210", "the features changed since initialisation, before the held-out rise"
    what = "1 − debiased CKA of the training features with those of step 0 (least of three snapshots in a row)"
    if likeness is None or likeness.step[0] != 0:
        return inapplicable(code, claim, "features were not kept from step 0 on")
    distance = 1.0 - likeness.value[r]
    if not np.isfinite(distance).any():
        return inapplicable(code, claim, "the training features were constant, or not finite, at step 0 or ever after")
    known = np.isfinite(distance) & (likeness.step > 0)
    still = known.sum() >= at.FEWEST_SNAPSHOTS and reached_in_a_row(distance[known]) <= at.FEATURES_MOVED
    usable = known if still else known & before_rise(likeness.step, run)
    if int(usable.sum()) < at.FEWEST_SNAPSHOTS:
        return too_few_snapshots(code, claim, what, int(usable.sum()), "between step 0 and the rise")
    values, steps = distance[usable], likeness.step[usable]
    effect = reached_in_a_row(values)
    outcome = Outcome.SUPPORTED if effect > at.FEATURES_MOVED else Outcome.REFUTED
    return Verdict(
        code, claim, outcome, what, effect, None, len(values), "snapshots", {"distance": at.FEATURES_MOVED},
        (f"at step {steps[-1]:g}, the last looked at: {values[-1]:.3g}",), "features of more examples",
    )  # fmt: skip


def difference_noise(noise: Series | None, r: int, place: int) -> float:
    """Return by how much a critical dimension may differ from that at step 0 for the points alone, 95 %, as a share of it."""
    return 0.0 if noise is None else 1.96 * float(noise.value[r][place])


def widened(interval: tuple[float, float], wide: float) -> tuple[float, float]:
    """Return an interval whose half widths are joined in quadrature with that of another source of noise.

    >>> widened((-3.0, 5.0), 0.0)
    (-3.0, 5.0)
    """
    low, high = interval
    middle, half = (low + high) / 2, math.hypot((high - low) / 2, wide)
    return middle - half, middle + half


def reached_in_a_row(values: Float) -> float:
    """Return the largest value that three in a row reach.

    >>> reached_in_a_row(np.array([9.0, 1.0, 2.0, 5.0]))
    1.0
    """
    return float(np.lib.stride_tricks.sliding_window_view(values, at.FEWEST_SNAPSHOTS).min(axis=1).max())


def ratio_of_means(part: Float, whole: Float) -> tuple[float, tuple[float, float]]:
    """Return mean(part) ÷ mean(whole) of paired draws, and its 95 % bootstrap interval.

    >>> ratio_of_means(np.array([1.0, 1.0]), np.array([2.0, 2.0]))
    (0.5, (0.5, 0.5))
    """
    chosen = np.random.default_rng(0).integers(len(part), size=(RESAMPLES, len(part)))
    ratios = part[chosen].mean(axis=1) / whole[chosen].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975]).tolist()
    return float(part.mean() / whole.mean()), (low, high)
