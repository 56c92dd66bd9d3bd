"""This file knows how the fast clock's conditions are judged on one run: linear gaps, contraction, floors, velocity.

Linear growth of the smallest gap is the same as exponential decay of the training loss: that equivalence is the
fast-clock theorem (arXiv 2606.05863). A gap like log t belongs to a loss like 1/t, a saturating one to a floor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from twoclocks import thresholds as at
from twoclocks.clocks import is_cross_entropy
from twoclocks.conditions import log_level
from twoclocks.optimiser_of import adam_of, is_decay_coupled, weight_decay_of
from twoclocks.verdicts import Outcome, Verdict, compared_level, inapplicable, near_one

if TYPE_CHECKING:
    from twoclocks.evidence import Evidence
    from twoclocks.fits import Growth
    from twoclocks.trajectory import Trajectory

FLOAT32_STEP = 2.0**-23  # spacing of float32 numbers above 1, where log-softmax rounds
OTHER_LOSS = "the claim is of the cross-entropy, and this run minimises another loss"
SMALLEST_GAP = "train_margin_min"
LAST = 8  # evaluations at the end, of which a level is taken: so many carry an interval
LAST_SNAPSHOTS = 3  # snapshots at the end at which the Euler identity must hold: a trend takes three


def judge_fast(evidence: Evidence, r: int) -> dict[str, Verdict]:
    """Return every verdict on the fast clock of run r, by code."""
    verdicts = (
        judge_growth(evidence, r),
        judge_contraction(evidence, r),
        judge_loss_floor(evidence, r),
        judge_rounding(evidence, r),
        judge_velocity(evidence, r),
    )
    return {verdict.code: verdict for verdict in verdicts}


def judge_growth(evidence: Evidence, r: int) -> Verdict:
    """Judge whether the smallest logit gap grows linearly; the effect is its slope, with an autocorrelation-robust error.

    Of 200 synthetic runs with AR(1) noise at most 5 % are SUPPORTED where the gap grows as log t or saturates, and at most
    5 % REFUTED where it grows linearly (tests/test_false_alarms.py).
    """
    code, claim = (
        "TC301",
        "from the fit on the smallest logit gap grows linearly, so the training loss decays exponentially",
    )
    if not is_cross_entropy(evidence.trajectory):
        return inapplicable(code, claim, OTHER_LOSS)
    conditions = evidence.conditions[r]
    growth = conditions.growth.get(SMALLEST_GAP)
    if growth is None or conditions.window is None:
        return inapplicable(code, claim, why_no_growth(evidence, r))
    fits = {"linear": growth.linear, "logarithmic": growth.logarithmic, "saturating": growth.saturating}
    scores = {name: fit.aicc for name, fit in fits.items() if fit.aicc is not None}
    best = min(scores.values(), default=0.0)
    low, high = conditions.window
    evidence_rows = [
        f"from step {low:g} to {high:g}, where the gap reaches {at.GROWN:.0%} of its largest value: "
        + (", ".join(f"{name} ΔAICc {score - best:.1f}" for name, score in scores.items()) or "no law could be fitted"),
        "no window from the fit is fitted as well by a line as by the other laws"
        if conditions.linear_until is None
        else f"from the fit until step {conditions.linear_until:g} neither other law is clearly better than a line",
    ]
    lower = conditions.growth.get("train_margin_q01")
    if lower is not None:
        evidence_rows.append(f"the 1 % quantile of the gaps: {lower.preferred}")
    outcome = growth_outcome(growth)
    slope = growth.linear.parameters.get("slope")
    interval = growth.linear.precision.get("slope")
    return Verdict(
        code, claim, outcome,
        effect_is="slope of the smallest gap (logits per step)", effect=slope, interval=interval,
        n=growth.linear.n,
        thresholds={"window ends at this share of the largest gap": at.GROWN, "AICc units": at.OUT_OF_EVIDENCE},
        evidence=(f"preferred law: {growth.preferred}", *evidence_rows),
        overturned_by="more evaluations before the floor, by which another law fits better",
    )  # fmt: skip


def why_no_growth(evidence: Evidence, r: int) -> str:
    """Return why the growth of the smallest gap of run r was not fitted."""
    margin = evidence.trajectory.scalars.get(SMALLEST_GAP)
    if margin is None or not np.isfinite(margin.value[r]).any():
        return "the margins were not recorded"
    if evidence.conditions[r].window is None:
        return "the run never fitted: the smallest gap never stayed positive for long enough"
    return "the smallest gap came to most of its largest value within a few evaluations of the fit"


def growth_outcome(growth: Growth) -> Outcome:
    """Return whether linear growth is supported: the log law out by 6 AICc units, saturation no better by 2, slope positive.

    It is refuted where the best of the other laws beats it by 6 units, or where the gap does not grow.
    """
    linear, interval = growth.linear.aicc, growth.linear.precision.get("slope")
    if linear is None or interval is None or growth.logarithmic.aicc is None:
        return Outcome.UNDETERMINED
    saturating = math.inf if growth.saturating.aicc is None else growth.saturating.aicc
    if interval[1] <= 0 or min(growth.logarithmic.aicc, saturating) <= linear - at.OUT_OF_EVIDENCE:
        return Outcome.REFUTED
    stands = growth.logarithmic.aicc >= linear + at.OUT_OF_EVIDENCE and saturating > linear - 2
    return Outcome.SUPPORTED if stands and interval[0] > 0 else Outcome.UNDETERMINED


def judge_contraction(evidence: Evidence, r: int) -> Verdict:
    """Judge whether each step takes a constant share of the training loss; the effect is d log μ / d log loss.

    Slope 0 is a true contraction, slope 1 the 1/t law of plain gradient descent on separable data, 1/p any t^−p. What
    decides is by what factor the share changes over the window, (first ÷ last loss)^slope, because a small slope over many
    decades is a large change. Of 200 synthetic runs
    with AR(1) noise at most 5 % are SUPPORTED where the loss is 1/t, and at most 5 % REFUTED where it is exponential.
    """
    code, claim = "TC302", "before its floor the training loss shrinks by a constant share a step"
    fit = evidence.conditions[r].contraction
    if not is_cross_entropy(evidence.trajectory):
        return inapplicable(code, claim, OTHER_LOSS)
    if fit is None:
        return inapplicable(code, claim, "no training loss was recorded while the smallest gap grew")
    slope, bounds = fit.parameters.get("slope"), fit.precision.get("slope")
    interval = None if bounds is None else (float(bounds[0]), float(bounds[1]))
    span = log_span(evidence.trajectory, fit.window, r)
    bound = math.log(at.CONSTANT_SHARE)
    outcome = Outcome.UNDETERMINED
    if interval is not None and max(-interval[0], interval[1]) * span <= bound:
        outcome = Outcome.SUPPORTED
    elif interval is not None and max(interval[0], -interval[1]) * span > bound:
        outcome = Outcome.REFUTED
    change = (
        ""
        if slope is None
        else f"over it the loss falls by e^{span:.3g} and the share by a factor {math.exp(slope * span):.3g}"
    )
    return Verdict(
        code, claim, outcome,
        effect_is="d log(share of the loss taken a step) / d log loss", effect=slope, interval=interval, n=fit.n,
        thresholds={"factor by which the share changes": at.CONSTANT_SHARE},
        evidence=tuple(filter(None, (f"from step {fit.window[0]:g} to {fit.window[1]:g}", change, fit.message))),
        overturned_by="evaluations closer together before the floor",
    )  # fmt: skip


def log_span(trajectory: Trajectory, window: tuple[float, float], r: int) -> float:
    """Return the logarithm of the first training loss of a window over its last."""
    loss = trajectory.scalars["train_loss"]
    chosen = (loss.step >= window[0]) & (loss.step <= window[1]) & (loss.value[r] > 0)
    values = loss.value[r][chosen]
    return max(float(np.log(values[0] / values[-1])), 0.0) if len(values) else 0.0


def judge_loss_floor(evidence: Evidence, r: int) -> Verdict:
    """Judge whether weight decay holds the training loss above a floor, by the Euler identity at a stationary point.

    A bias-free network whose logits scale as ‖θ‖^L has L · mean Σ p Γ = λ_w ‖θ‖² at a stationary point of F. That is only
    ⟨θ, ∇F⟩ = 0, and holds too where ‖θ‖ turns round, so ‖∇F‖ itself must be small against λ_w ‖θ‖. The effect is the left
    side over the right one, minus 1, and its interval the range over the last three snapshots, at all of which it must
    hold. A run that has not come to its floor yet is UNDETERMINED: nothing refutes that there is one.
    """
    code, claim = "TC303", "weight decay holds the training loss at a floor: T_cls(ε) is infinite below it"
    trajectory = evidence.trajectory
    if why := why_no_floor(evidence):
        return inapplicable(code, claim, why)
    decay, depth = weight_decay_of(trajectory) or 0.0, evidence.depth or 1
    pull, norm = evidence.measured["expected_gap(logits: train)"], trajectory.scalars["weight_norm"]
    step, of_pull, of_norm = np.intersect1d(pull.step, norm.step, return_indices=True)
    pulls, squares = (one[-LAST_SNAPSHOTS:] for one in (pull.value[r, of_pull], norm.value[r, of_norm] ** 2))
    if len(step) < LAST_SNAPSHOTS or not bool((np.isfinite(pulls) & np.isfinite(squares)).all()):
        return inapplicable(code, claim, f"it takes finite weights at {LAST_SNAPSHOTS} snapshots, the last ones")
    if float(squares[-1]) == 0:
        return inapplicable(code, claim, "all weights are 0, where both sides of the identity are 0")
    from twoclocks.measures.floors import weight_decay_loss_floor

    residuals = depth * pulls / (decay * squares) - 1.0
    classes = trajectory.snapshots[-1].tensors["readout/weight"].shape[1]
    floor = weight_decay_loss_floor(
        depth=depth, weight_decay=decay, squared_norm=float(squares[-1]), classes=max(classes, 2)
    )
    is_at_rest = float(np.abs(residuals).max()) <= at.EULER_HOLDS and stands_still(trajectory, decay, r)
    loss = trajectory.scalars["train_loss"].value[r, -1]
    return Verdict(
        code, claim, Outcome.SUPPORTED if is_at_rest else Outcome.UNDETERMINED,
        effect_is="L · mean Σ p Γ ÷ (λ_w ‖θ‖²) − 1 at the end", effect=float(residuals[-1]),
        interval=(float(residuals.min()), float(residuals.max())), n=LAST_SNAPSHOTS, unit_of_n="snapshots",
        thresholds={"relative residual": at.EULER_HOLDS},
        evidence=(
            f"at step {step[-1]:g} the loss is {loss:.4g} nats; no stationary point of this norm has less than {floor:.4g}",
            f"T_cls(ε) = ∞ below {floor:.4g} nats" if is_at_rest else "the run is not at a stationary point yet",
        ),
        overturned_by="a longer run that leaves this point",
    )  # fmt: skip


def stands_still(trajectory: Trajectory, decay: float, r: int) -> bool:
    """Return whether ‖∇F‖ is small against the pull of the decay, λ_w ‖θ‖, at the last evaluations that know both."""
    gradient, norm = trajectory.scalars.get("squared_gradient_norm"), trajectory.scalars["weight_norm"]
    if gradient is None:
        return False
    _, of_gradient, of_norm = np.intersect1d(gradient.step, norm.step, return_indices=True)
    forces = np.sqrt(gradient.value[r, of_gradient][-LAST_SNAPSHOTS:])
    return bool((forces <= at.EULER_HOLDS * decay * norm.value[r, of_norm][-LAST_SNAPSHOTS:]).all())


def why_no_floor(evidence: Evidence) -> str:
    """Return why the Euler identity cannot be asked of a trajectory, or nothing."""
    decay, coupled = weight_decay_of(evidence.trajectory), is_decay_coupled(evidence.trajectory)
    if decay is None:
        return "the weight decay is not known"
    if decay == 0:
        return "there is no weight decay, so there is no floor and no finite limit"
    if coupled is None:
        return "it is not known whether the decay is part of the gradient, which the identity needs"
    if not coupled:
        return "the identity needs decay that is part of the gradient; AdamW has no function that descends"
    if "expected_gap(logits: train)" not in evidence.measured or "weight_norm" not in evidence.trajectory.scalars:
        return "the identity needs snapshots of a bias-free homogeneous network trained with cross-entropy"
    return ""


def judge_rounding(evidence: Evidence, r: int) -> Verdict:
    """Judge whether a float32 loss would measure its own rounding here; the effect is loss ÷ 2⁻²³, with its interval.

    The loss is the geometric mean of the last 8 evaluations. Of 200 synthetic runs whose loss is at the threshold, with
    AR(1) noise, at most 5 % are SUPPORTED and at most 5 % REFUTED.
    """
    code, claim = "TC304", "the training loss is so small that a float32 loss measures its rounding"
    loss = evidence.trajectory.scalars.get("train_loss")
    values = np.empty(0) if loss is None else loss.value[r][np.isfinite(loss.value[r])]
    if not is_cross_entropy(evidence.trajectory):
        return inapplicable(code, claim, OTHER_LOSS)
    if len(values) < LAST:
        return inapplicable(code, claim, f"fewer than {LAST} finite training losses were recorded")
    late = values[-LAST:] / FLOAT32_STEP
    level = log_level(late)
    outcome = compared_level(late, level.interval, at.FLOAT32_FLOOR)
    return Verdict(
        code, claim, outcome, effect_is=f"training loss ÷ 2⁻²³ (geometric mean of the last {LAST} evaluations)",
        effect=level.mean, interval=level.interval, n=LAST, thresholds={"times 2⁻²³": at.FLOAT32_FLOOR},
        evidence=(f"the last training loss is {values[-1]:.3g} nats",), overturned_by="a longer run",
    )  # fmt: skip


def judge_velocity(evidence: Evidence, r: int) -> Verdict:
    """Judge whether the gap grows as fast as Adam would push a single weight; the effect is measured ÷ predicted velocity.

    Of 200 synthetic runs with AR(1) noise at most 5 % are SUPPORTED where the true quotient is off 1 by the threshold, and
    at most 5 % REFUTED where it is 1.
    """
    code, claim = "TC305", "the smallest gap grows at the velocity of Adam on a single logistic weight"
    rule, growth = adam_of(evidence.trajectory), evidence.conditions[r].growth.get(SMALLEST_GAP)
    if not is_cross_entropy(evidence.trajectory):
        return inapplicable(code, claim, OTHER_LOSS)
    if rule is None:
        return inapplicable(code, claim, "the optimiser is not Adam, or its settings are not known")
    if growth is None or "slope" not in growth.linear.precision:
        return inapplicable(code, claim, "the growth of the gap could not be fitted")
    if growth_outcome(growth) is Outcome.REFUTED:
        return inapplicable(code, claim, "the gap does not grow linearly (TC301), so it has no one velocity")
    if not is_constant_lr(evidence.trajectory, evidence.conditions[r].window, r):
        return inapplicable(code, claim, "the learning rate changes while the gap grows, and the velocity with it")
    from twoclocks.measures.adam import adam_gap_velocity

    lr, beta1, beta2 = rule
    try:
        predicted = float(adam_gap_velocity(lr, beta1, beta2))
    except ValueError as refusal:
        return inapplicable(code, claim, f"Adam has no steady velocity at these settings: {refusal}")
    measured, (low, high) = growth.linear.parameters["slope"], growth.linear.precision["slope"]
    interval = (low / predicted, high / predicted)
    return Verdict(
        code, claim, near_one(interval, at.VELOCITY_MATCHES),
        effect_is="measured ÷ predicted velocity of the smallest gap", effect=measured / predicted,
        interval=interval, n=growth.linear.n, thresholds={"off 1 by": at.VELOCITY_MATCHES},
        evidence=(
            f"measured {measured / lr:.3g} lr a step, predicted {predicted / lr:.3g} lr for one weight on one example",
            "in a network a gap moves with all its weights at once, by their velocity times the gap's own slope",
        ),
        overturned_by="a window of linear growth that starts later",
    )  # fmt: skip


def is_constant_lr(trajectory: Trajectory, window: tuple[float, float] | None, r: int) -> bool:
    """Return whether the learning rate, where it was recorded, stays the same over a window of steps."""
    lr = trajectory.scalars.get("lr")
    if lr is None or window is None:
        return True
    values = lr.value[r][(lr.step >= window[0]) & (lr.step <= window[1])]
    values = values[np.isfinite(values)]
    return not len(values) or bool(np.ptp(values) <= at.SAME_LR * values.max())
