"""This file knows how it is judged whether a ReLU network has become linear: whether its gates stand still.

The reduction of a ReLU network to a linear one holds on a window over which no gate flips (arXiv 2606.05863). Snapshots
see only the window's sampled moments: gates that flip and flip back in between are not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twoclocks import thresholds as at
from twoclocks.trajectory import Array, Float
from twoclocks.verdicts import Outcome, Verdict, inapplicable

if TYPE_CHECKING:
    from twoclocks.evidence import Evidence

FEWEST = 3  # snapshots between the fit and the last one: a trend takes three
WIDE = 1.96  # standard errors over examples on either side
CLAIM = "from the fit to the end the gates of the last hidden layer stand still"


def judge_gates(evidence: Evidence, r: int) -> dict[str, Verdict]:
    """Return the verdict on the gates of run r, by code."""
    verdict = judge_frozen(evidence, r)
    return {verdict.code: verdict}


def judge_frozen(evidence: Evidence, r: int) -> Verdict:
    """Judge whether the gates stand still from the fit to the end; the effect is their least agreement with the end.

    SUPPORTED where the least agreement and the least Jaccard share are both at least .99 by 1.96 standard errors over
    examples, REFUTED where one is below by as much. Of 200 runs whose gates flip at a constant rate, to a true agreement
    of exactly .99, at most 5 % are SUPPORTED (tests/test_false_alarms.py).
    """
    measured, clocks = evidence.measured, evidence.clocks
    series = measured.get("gate_agreement(last)")
    if series is None:
        return inapplicable("TC501", CLAIM, "the features were not kept at three snapshots, or are not a ReLU's")
    fit = None if clocks is None or clocks.fit is None else clocks.fit.values[r]
    if fit is None:
        return inapplicable("TC501", CLAIM, "the run never fitted, so the slow window never began")
    if not np.isfinite(series.value[r, -1]):
        return inapplicable("TC501", CLAIM, "the features at the end are not finite")
    window = (series.step >= fit) & (series.step < series.step[-1]) & np.isfinite(series.value[r])
    if int(window.sum()) < FEWEST:
        return inapplicable("TC501", CLAIM, f"fewer than {FEWEST} snapshots lie between the fit and the last one")
    step, agreement = series.step[window], series.value[r][window]
    bounds = [
        least_bounds(measured[f"{name}(last)"].value[r][window], measured[f"{name}_error(last)"].value[r][window])
        for name in ("gate_agreement", "gate_jaccard")
    ]
    jaccard, whole = (
        float(measured[f"{n}(last)"].value[r][window].min()) for n in ("gate_jaccard", "whole_pattern_share")
    )
    place = int(agreement.argmin())
    return Verdict(
        "TC501", CLAIM, outcome_of(bounds), effect_is="least share of gates equal to the last snapshot's",
        effect=float(agreement[place]), interval=bounds[0], n=len(step), unit_of_n="snapshots",
        thresholds={"agreement and Jaccard": at.FROZEN},
        evidence=(
            f"from step {step[0]:g} to {series.step[-1]:g}: least agreement {agreement[place]:.4f} at step {step[place]:g}, "
            f"least Jaccard share of gates that are on {jaccard:.4f}, least share of whole patterns unchanged {whole:.3f}",
            since_words(step, agreement),
            "flips there and back between snapshots are not seen; `stability_certificate` excludes them for given weights",
        ),
        overturned_by="a window that begins later",
    )  # fmt: skip


def outcome_of(bounds: list[tuple[float, float]]) -> Outcome:
    """Return SUPPORTED where all intervals are at or above the threshold, REFUTED where one is below."""
    if all(low >= at.FROZEN for low, _ in bounds):
        return Outcome.SUPPORTED
    return Outcome.REFUTED if any(high < at.FROZEN for _, high in bounds) else Outcome.UNDETERMINED


def least_bounds(share: Float, error: Float) -> tuple[float, float]:
    """Return the interval, over examples, of the least of some shares."""
    place = int(share.argmin())
    half = WIDE * float(error[place])
    return float(share[place]) - half, min(float(share[place]) + half, 1.0)


def since_words(step: Array, agreement: Float) -> str:
    """Say from which snapshot on the gates agree with the last one."""
    moved = np.flatnonzero(agreement < at.FROZEN)
    first = int(moved[-1]) + 1 if len(moved) else 0
    if first == len(step):
        return f"the agreement is below {at.FROZEN:g} even at the last snapshot but one"
    return f"the agreement is at least {at.FROZEN:g} from step {step[first]:g} on"
