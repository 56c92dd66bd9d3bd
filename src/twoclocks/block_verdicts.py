"""This file knows how it is judged whether the readout leads the other blocks: by gradients, by updates, by their effect.

Under Adam the ratio of gradients says who is pulled harder and only the ratio of updates who moves faster. The window is
from the start to the fit, where the fast clock runs, or to the end of a run that never fitted; evaluations are spaced in
log time, so each decade counts alike. A ratio has a trend, so what counts is at how many of the evaluations the readout
leads, and that its mean is beyond what noise makes of equal speeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twoclocks import thresholds as at
from twoclocks.conditions import Level, level_of, level_on_trend
from twoclocks.trajectory import Array, Float, Series
from twoclocks.verdicts import Outcome, Verdict, compared, inapplicable

if TYPE_CHECKING:
    from twoclocks.evidence import Evidence

FEWEST = 20  # evaluations of a ratio: of fewer, correlated at .9, too many stay on one side by chance
FEWEST_STEPS = 8  # evaluations of a decrease
LEVEL = 0.95
CLAIMS = {
    "gradient_ratio.": ("TC601", "until the fit the readout's gradient is larger than every other block's", "gradient"),
    "relative_speed_ratio.": (
        "TC602",
        "until the fit the readout moves faster than every other block, for its size",
        "update",
    ),
}


@dataclass(frozen=True)
class Lead:
    """At which share of `n` evaluations the readout leads a block, its mean ratio with an interval, nine tenths of them.

    The mean is geometric; `range` holds nine tenths of the evaluations.
    """

    share: float
    mean: float
    interval: tuple[float, float]
    range: tuple[float, float]
    n: int


def judge_blocks(evidence: Evidence, r: int) -> dict[str, Verdict]:
    """Return every verdict on the speeds of the blocks of run r, by code."""
    verdicts = (
        *(judge_lead_of(evidence, r, prefix) for prefix in CLAIMS),
        judge_share(evidence, r),
        judge_certificate(evidence, r),
    )
    return {verdict.code: verdict for verdict in verdicts}


def judge_lead_of(evidence: Evidence, r: int, prefix: str) -> Verdict:
    """Judge whether the readout leads every block at nearly all evaluations until the fit, or some block at nearly all.

    SUPPORTED where it leads every block at 95 % of the evaluations, and by the interval of its mean ratio; REFUTED where
    some block leads it so. The effect is the geometric mean of its ratio to the block that it leads least often, with a t
    interval of that mean that allows for a trend and for autocorrelation, at 1 − .05 / blocks. Of 200 synthetic runs
    whose true ratios are 1, with lognormal AR(1) noise, at most 5 % are SUPPORTED and at most 5 % REFUTED.
    """
    code, claim, what = CLAIMS[prefix]
    ratios = {name.removeprefix(prefix): s for name, s in evidence.measured.items() if name.startswith(prefix)}
    if not ratios:
        return inapplicable(code, claim, f"the {what}s of the readout and of another block were not recorded")
    level = 1 - (1 - LEVEL) / len(ratios)
    leads = {block: lead_of(s.step, s.value[r], *window_of(evidence, r), level) for block, s in ratios.items()}
    known = {block: lead for block, lead in leads.items() if lead is not None}
    if not known:
        return inapplicable(code, claim, f"fewer than {FEWEST} evaluations of a ratio lie before the fit")
    least = min(known, key=lambda block: (known[block].share, known[block].mean))
    lead = known[least]
    return Verdict(
        code, claim, lead_outcome(list(known.values()), is_complete=len(known) == len(leads)),
        effect_is=f"readout ÷ {least}, geometric mean of the {what} ratio", effect=lead.mean, interval=lead.interval,
        n=lead.n, thresholds={"share of evaluations": at.LEADS_AT, "mean ratio": 1.0},
        evidence=(
            *(lead_words(block, one) for block, one in leads.items()),
            later_words(evidence, r, ratios[least].step, ratios[least].value[r], least),
            window_words(evidence, r),
        ),
        overturned_by="a window that begins or ends elsewhere, or another grouping of the parameters",
    )  # fmt: skip


def lead_outcome(leads: list[Lead], *, is_complete: bool) -> Outcome:
    """Return REFUTED where the readout trails a block, SUPPORTED where it leads all of them and all are known."""
    if any(lead.share <= 1 - at.LEADS_AT and lead.interval[1] < 1 for lead in leads):
        return Outcome.REFUTED
    is_ahead = all(lead.share >= at.LEADS_AT and lead.interval[0] > 1 for lead in leads)
    return Outcome.SUPPORTED if is_ahead and is_complete else Outcome.UNDETERMINED


def judge_share(evidence: Evidence, r: int) -> Verdict:
    """Judge whether the readout's own updates take most of the loss away until the fit; the effect is its share.

    The share is the sum of the readout's first-order decreases over the sum of all. An evaluated step stands for the steps
    half way to its neighbours, so that the sums are those over all steps. The t interval of the quotient allows for
    autocorrelation and for the few steps that most of the decrease falls on. Of 200 synthetic runs whose true share is ½,
    with AR(1) noise, at most 5 % are SUPPORTED and at most 5 % REFUTED.
    """
    code, claim = "TC603", "until the fit the readout's updates take more than half of the loss away"
    decreases = {n: s for n, s in evidence.trajectory.scalars.items() if n.startswith("loss_decrease.")}
    lead = f"loss_decrease.{evidence.readout}"
    if lead not in decreases or len(decreases) < 2:
        return inapplicable(code, claim, "the first-order decreases of the readout and another block were not recorded")
    step, values = decreases_until(decreases, r, *window_of(evidence, r))
    total = np.sum(list(values.values()), axis=0)
    if len(step) < FEWEST_STEPS or total.sum() <= 0:
        return inapplicable(
            code, claim, f"fewer than {FEWEST_STEPS} evaluated steps lie before the fit, or they do not lower the loss"
        )
    level = level_of(values[lead], total)
    shares = {name.removeprefix("loss_decrease."): value.sum() / total.sum() for name, value in values.items()}
    return Verdict(
        code, claim, compared(level.interval, at.MOST_OF_IT),
        effect_is="readout's share of the first-order loss decrease", effect=level.mean, interval=level.interval,
        n=level.n, thresholds={"share": at.MOST_OF_IT},
        evidence=(
            ", ".join(f"{block} {value:.3f}" for block, value in shares.items()),
            f"steps {step[0]:g} to {step[-1]:g}, worth {level.effective_n:.1f} independent evaluations",
            window_words(evidence, r),
        ),
        overturned_by="evaluations at every step of the window",
    )  # fmt: skip


def decreases_until(decreases: dict[str, Series], r: int, low: float, high: float) -> tuple[Array, dict[str, Float]]:
    """Return the steps in a window at which all decreases are known, and the decreases times the steps each stands for."""
    step = next(iter(decreases.values())).step
    for series in decreases.values():
        finite = series.step[np.isfinite(series.value[r])]
        step = np.intersect1d(step, finite[(finite >= low) & (finite <= high)])
    spacing = np.gradient(step.astype(np.float64)) if len(step) > 1 else np.ones(len(step))
    return step, {name: spacing * s.value[r][np.isin(s.step, step)] for name, s in decreases.items()}


def judge_certificate(evidence: Evidence, r: int) -> Verdict:
    """Judge by the bound of the two gradients whether the readout must lead; the effect is the bound's value.

    ‖h‖ / (‖B‖₂ ‖W‖₂ ‖U‖₂) > 1 makes ‖∇_U ℓ‖ larger than ‖∇_E ℓ‖ for the example whatever its error. The least over
    training examples, and over the snapshots until the fit, decides. It is a proof at these, but for the rounding of
    recorded features, for which the threshold leaves room: there are no false alarms. Between snapshots it is silent. It
    certifies or says nothing: it is never REFUTED.
    """
    code, claim = (
        "TC604",
        "until the fit the weights' sizes alone certify, for the loss of every single example, that the readout's gradient is "
        "larger than the embedding's",
    )
    series = evidence.measured.get("readout_lead_certificate(least)")
    if series is None:
        return inapplicable(
            code, claim, "it is known for an embedding, one hidden layer and a readout, with weights kept"
        )
    low, high = window_of(evidence, r)
    inside = (series.step >= low) & (series.step <= high) & np.isfinite(series.value[r])
    if not inside.any():
        return inapplicable(code, claim, "no snapshot with finite weights that are not 0 lies before the fit")
    values, step = series.value[r][inside], series.step[inside]
    is_certain = bool(values.min() > at.CERTIFIED)
    return Verdict(
        code, claim, Outcome.SUPPORTED if is_certain else Outcome.UNDETERMINED,
        effect_is="‖h‖ ÷ (‖B‖₂ ‖W‖₂ ‖U‖₂), least example of the least snapshot", effect=float(values.min()),
        interval=(float(values.min()), float(values.max())), n=len(values), unit_of_n="snapshots",
        thresholds={"value": at.CERTIFIED},
        evidence=(
            f"{values[0]:.3g} at step {step[0]:g}, {values[-1]:.3g} at step {step[-1]:g}",
            "a value below 1 certifies nothing: it does not say that the readout lags",
            window_words(evidence, r),
        ),
        overturned_by="the gradients themselves (TC601)",
    )  # fmt: skip


def window_of(evidence: Evidence, r: int) -> tuple[float, float]:
    """Return the first step and the fit of run r; to the end where it never fitted."""
    fit = None if evidence.clocks is None or evidence.clocks.fit is None else evidence.clocks.fit.values[r]
    return 0.0, float(evidence.trajectory.last_step if fit is None else fit)


def window_words(evidence: Evidence, r: int) -> str:
    """Say where the window ends."""
    clocks = evidence.clocks
    if clocks is None or clocks.fit is None:
        return "no training accuracy was recorded: the window is the whole run"
    fit = clocks.fit.values[r]
    return "the run never fitted: the window is the whole run" if fit is None else f"the window ends at step {fit:g}"


def lead_of(step: Array, values: Float, low: float, high: float, level: float) -> Lead | None:
    """Return how the readout leads a block over a window of steps; None with too few evaluations."""
    inside = (step >= low) & (step <= high) & np.isfinite(values) & (values > 0)
    ratios = values[inside]
    if len(ratios) < FEWEST:
        return None
    bounds = np.quantile(ratios, [0.05, 0.95])
    mean: Level = level_on_trend(np.log(ratios), level)
    ends = (math.exp(mean.interval[0]), math.exp(min(mean.interval[1], 700.0)))
    return Lead(
        float((ratios > 1).mean()), math.exp(mean.mean), ends, (float(bounds[0]), float(bounds[1])), len(ratios)
    )


def lead_words(block: str, lead: Lead | None) -> str:
    """Say how far the readout is ahead of a block."""
    if lead is None:
        return f"readout ÷ {block}: fewer than {FEWEST} evaluations before the fit"
    return (
        f"readout ÷ {block}: {lead.mean:.3g} on average, above 1 at {lead.share:.0%} of {lead.n} evaluations, nine tenths "
        f"of them between {lead.range[0]:.3g} and {lead.range[1]:.3g}"
    )


def later_words(evidence: Evidence, r: int, step: Array, values: Float, block: str) -> str:
    """Say what the ratio is after the window."""
    later = lead_of(step, values, window_of(evidence, r)[1], math.inf, LEVEL)
    if later is None:
        return f"after the fit readout ÷ {block} is not known"
    return f"after the fit readout ÷ {block} is {later.mean:.3g} on average, above 1 at {later.share:.0%} of {later.n}"
