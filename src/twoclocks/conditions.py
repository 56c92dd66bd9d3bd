"""This file knows what is measured and fitted of the two clocks' conditions: series over training, and laws of one run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from twoclocks import thresholds as at
from twoclocks.block_speeds import block_speeds
from twoclocks.clocks import SUSTAINED, Clocks, is_cross_entropy
from twoclocks.courses import first_run
from twoclocks.fits import (
    Fit,
    Growth,
    clock_exponent,
    decay_rate,
    fit_contraction,
    fit_growth,
    lojasiewicz_exponent,
    phase_exponent,
    power_relation,
)
from twoclocks.gate_series import gate_series
from twoclocks.optimiser_of import is_decay_coupled, weight_decay_of
from twoclocks.series import measure
from twoclocks.stats import autocorrelation, correlated_energy, finite, t_quantile
from twoclocks.tails import Tail, judge_tail
from twoclocks.trajectory import Array, Float, Series, Snapshot, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

OBJECTIVE = "F − F_∞"
MARGINS = ("train_margin_min", "train_margin_q01")
FEWEST = 8  # evaluations in a window of growth
SMALLEST, LARGEST_LOG = 1e-300, 700.0  # of a positive number; a value of 0 counts as the smallest
NEGLIGIBLE = 1e-3  # of the largest weight: what has less has no say in how evaluations hang together
FEWEST_INDEPENDENT = 3.0  # evaluations behind a t interval of a level; with fewer it is as good as unbounded
MODES = 3  # single modes that are fitted, those with the largest gap left at the end: the tail is theirs
ROUNDING = 1e-20  # of its largest value: a squared gradient below it is rounding
RESOLVED = 1e-11  # of the objective: below it a rounding of the limit by 1e-15 bends the gap by more than 1e-4
UNBALANCED = 1e-6  # of ‖θ‖²: a balancedness defect below it may be the rounding of weights kept in float32
TAIL_FALLEN = 0.1  # of its first value: an objective's gap or squared gradient below it has left the transient
LATER_TAILS = (
    1e-3,
    1e-5,
)  # ... and, where no law is told from there, has left all that is faster than the slowest mode
TAIL_BEGINS = 0.5  # of its largest value after the fit: a structural gap below it has begun to close


@dataclass(frozen=True)
class Conditions:
    """The fits of one run; None where the run lacks what a fit needs.

    `growth`: by series name ("train_margin_min", "train_margin_q01"), the laws of its growth over `window`, the steps from
    where the smallest gap stays positive until it has grown to most of its largest value. `linear_until`: the end of the
    longest window from the fit on which neither a logarithm nor saturation fits the smallest gap clearly better than a
    line. `contraction`: of the training loss, over the same window. `kappa`: θ from ‖∇F‖² alone, over a tail in which that
    falls by e^`relaxations`; `phase`: θ from ‖∇F‖ against F − F_∞. `tail`: the law by which `tail_of` ends; `modes`: the
    same of single singular values of a linear network. `shrinkage`: r in S ≍ Δ^r. `balancedness`: by layer pair, the
    exponential rate of its defect in 1 / flow time. `clock_exponents`: of "T_cls" and "T_rep".
    """

    window: tuple[float, float] | None = None
    linear_until: float | None = None
    growth: Mapping[str, Growth] = field(default_factory=dict)
    contraction: Fit | None = None
    kappa: Fit | None = None
    relaxations: float = 0.0
    phase: Fit | None = None
    tail: Tail | None = None
    tail_of: str = ""
    modes: tuple[Tail, ...] = ()
    shrinkage: Fit | None = None
    balancedness: Mapping[str, Fit] = field(default_factory=dict)
    clock_exponents: Mapping[str, Fit] = field(default_factory=dict)


@dataclass(frozen=True)
class Level:
    """The level that a noisy course keeps: its mean, an interval of it, from `n` evaluations worth `effective_n`."""

    mean: float
    interval: tuple[float, float]
    n: int
    effective_n: float


def level_of(part: ArrayLike, whole: ArrayLike | None = None, confidence: float = 0.95) -> Level:
    """Return Σ part / Σ whole over evaluations `[t]`, the mean of `part` where `whole` is not given, with a t interval.

    The error of the quotient, linearised, is Σe²·w′Rw/(Σw²(1 − w′Rw)): e = (part − mean · whole) / Σ whole, w = |whole| /
    Σ whole, R_ij = ρ^|i−j| with the bias-corrected lag-one correlation ρ of e / w. Degrees of freedom from the effective number
    of evaluations, (1 − ρ) / ((1 + ρ) Σw²), at least 3 if there are as many. Source: as `stats.hac_slope`; Kish 1965.

    Raises:
        ValueError: fewer than 3 evaluations, one is not finite, lengths differ, or Σ whole is not positive.

    >>> level = level_of([1.0, 2.0, 3.0])  # 2 ∓ 4.3027 / √3
    >>> level.mean, [round(bound, 4) for bound in level.interval]
    (2.0, [-0.4841, 4.4841])
    """
    above = finite(part, "part")
    below = np.ones(len(above)) if whole is None else finite(whole, "whole")
    if len(above) < 3 or len(below) != len(above) or below.sum() <= 0:
        raise ValueError(
            f"a level needs 3 evaluations or more and a whole above 0, got {len(above)} and {below.sum():g}"
        )
    mean = float(above.sum() / below.sum())
    errors, weights = (above - mean * below) / below.sum(), np.abs(below) / below.sum()
    counts = weights > NEGLIGIBLE * weights.max()
    rho = max(autocorrelation(errors[counts] / weights[counts]), 0.0)
    own, together = float(weights @ weights), correlated_energy(weights, rho)
    size = max((1 - rho) / (1 + rho) / own, min(1 / own, FEWEST_INDEPENDENT))
    variance = float(errors @ errors) * together / own / max(1 - together, 1e-9)
    half = t_quantile(confidence, max(size - 1, 0.5)) * math.sqrt(variance)
    return Level(mean, (mean - half, mean + half), len(above), size)


def level_on_trend(values: ArrayLike, confidence: float = 0.95) -> Level:
    """Return the mean of a course `[t]` that may have a straight trend, with the t interval of its noise about the trend.

    As `level_of`, with the residuals of the line. The mean is that of the line: what the trend makes of it is no error.

    Raises:
        ValueError: fewer than 4 evaluations, or one is not finite.

    >>> level_on_trend([1.0, 2.0, 3.0, 4.0]).interval
    (2.5, 2.5)
    """
    course = finite(values, "values")
    if len(course) < 4:
        raise ValueError(f"a level on a trend needs 4 evaluations or more, got {len(course)}")
    place: Float = np.arange(len(course), dtype=np.float64) - (len(course) - 1) / 2
    errors = course - course.mean() - place * float(place @ course) / float(place @ place)
    rho = max(autocorrelation(errors), 0.0)
    together = correlated_energy(np.full(len(course), 1 / len(course)), rho)
    lost = len(course) * together + correlated_energy(place, rho) / float(place @ place)
    size = max(len(course) * (1 - rho) / (1 + rho), FEWEST_INDEPENDENT + 1)
    variance = float(errors @ errors) / max(len(course) - lost, 1e-9) * together
    mean, half = float(course.mean()), t_quantile(confidence, size - 2) * math.sqrt(variance)
    return Level(mean, (mean - half, mean + half), len(course), size)


def log_level(values: Float) -> Level:
    """Return the level of positive values by their logarithms: the geometric mean and its interval.

    >>> round(log_level(np.array([1.0, 10.0, 100.0])).mean, 9)
    10.0
    """
    level = level_of(np.log(np.maximum(values, SMALLEST)))
    low, high = (math.exp(min(bound, LARGEST_LOG)) for bound in level.interval)
    return Level(math.exp(level.mean), (low, high), level.n, level.effective_n)


def measured_conditions(trajectory: Trajectory) -> dict[str, Series]:
    """Return every series that the conditions are judged by, as far as the trajectory allows."""
    series = block_speeds(trajectory) | objective_gap(trajectory)
    if is_linear(trajectory):
        return series | linear_series(trajectory)
    return series | gate_series(trajectory) | certificate_of(trajectory)


def conditions_of(trajectory: Trajectory, measured: Mapping[str, Series], clocks: Clocks, r: int) -> Conditions:
    """Return the fits of run r."""
    window = growth_window(trajectory, r)
    tail_of, tail = tail_law(trajectory, measured, clocks, r)
    gradient = positive(trajectory.scalars.get("squared_gradient_norm"), r, ROUNDING)
    begins = None if tail is None or tail_of != OBJECTIVE else tail.window[0]
    late = None if gradient is None else tail_from(trajectory, gradient, begins, r)
    gap = positive(measured.get("objective gap"), r, RESOLVED)
    return Conditions(
        window=window,
        linear_until=linear_until(trajectory, window, r),
        growth={name: growth for name in MARGINS if (growth := growth_of(trajectory, name, window, r)) is not None},
        contraction=contraction_of(trajectory, window, r),
        kappa=None if late is None else lojasiewicz_exponent(*in_flow_time(trajectory, *late, r)),
        relaxations=0.0 if late is None else float(np.log(late[1][0] / late[1][-1])),
        phase=phase_of(gap, late),
        tail=tail,
        tail_of=tail_of,
        modes=mode_tails(trajectory, measured, r),
        shrinkage=shrinkage_of(gap, clocks, r),
        balancedness=balancedness_rates(trajectory, measured, r),
        clock_exponents=exponents_of(clocks, r),
    )


def growth_window(trajectory: Trajectory, r: int) -> tuple[float, float] | None:
    """Return the steps on which the smallest gap grows: from where it stays positive until it reaches 0.9 of its largest.

    It stays positive from the first of five such evaluations in a row after which it is never lost for five in a row, from
    which on every training example is answered rightly; before that no theorem speaks. The end is read from medians of
    three.
    """
    margin = trajectory.scalars.get(MARGINS[0])
    if margin is None:
        return None
    known = np.isfinite(margin.value[r])
    step, values = margin.step[known], margin.value[r][known]
    begin = after_last_run(values <= 0, SUSTAINED)
    first = first_run(values[begin:] > 0, SUSTAINED)
    first = None if first is None else begin + first
    if first is None or len(step) - first < FEWEST:
        return None
    after = values[first:]
    smooth = np.array([np.median(after[max(0, i - 1) : i + 2]) for i in range(len(after))])
    grown = int((smooth >= at.GROWN * smooth.max()).argmax())
    return float(step[first]), float(step[first + grown])


def after_last_run(met: Array, length: int) -> int:
    """Return the place after the last run of `length` true values, 0 where there is none.

    >>> after_last_run(np.array([True, True, False, True]), 2)
    2
    """
    ends = [i + length for i in range(len(met) - length + 1) if met[i : i + length].all()]
    return ends[-1] if ends else 0


def growth_of(trajectory: Trajectory, name: str, window: tuple[float, float] | None, r: int) -> Growth | None:
    """Return the laws of one margin's growth over the window."""
    series = trajectory.scalars.get(name)
    if series is None or window is None:
        return None
    step, values = inside(series, r, *window)
    return fit_growth(step, values) if len(step) >= FEWEST else None


def linear_until(trajectory: Trajectory, window: tuple[float, float] | None, r: int) -> float | None:
    """Return the end of the longest window from the fit on which no other law of the smallest gap is clearly better."""
    margin = trajectory.scalars.get(MARGINS[0])
    if margin is None or window is None:
        return None
    step, values = inside(margin, r, *window)
    for end in np.linspace(len(step), FEWEST, 10).round().astype(int) if len(step) >= FEWEST else ():
        growth = fit_growth(step[:end], values[:end])
        scores = [law.aicc for law in (growth.logarithmic, growth.saturating) if law.aicc is not None]
        if growth.linear.aicc is not None and min(scores, default=np.inf) > growth.linear.aicc - at.OUT_OF_EVIDENCE:
            return float(step[end - 1])
    return None


def contraction_of(trajectory: Trajectory, window: tuple[float, float] | None, r: int) -> Fit | None:
    """Return how the share of the training loss that a step takes depends on the loss, over the window of growth."""
    loss = trajectory.scalars.get("train_loss")
    if loss is None or window is None:
        return None
    step, values = inside(loss, r, *window)
    usable = values > 0
    return fit_contraction(step[usable], values[usable]) if int(usable.sum()) >= FEWEST else None


def objective_gap(trajectory: Trajectory) -> dict[str, Series]:
    """Return F − F_∞, where the limit was found by polishing; never from the last sample.

    A gap below 1e-11 of F is too close to rounding, and NaN.
    """
    limits, objective = polish_of(trajectory).get("objective"), trajectory.scalars.get("objective")
    if limits is None or objective is None or len(limits) != objective.runs:
        return {}
    limit = np.array([np.nan if one is None else one for one in limits], np.float64)[:, None]
    gap = np.where(np.isfinite(objective.value), objective.value, np.nan) - limit
    gap[~(gap > RESOLVED * np.abs(limit))] = np.nan
    return {"objective gap": Series("objective gap", "of the objective", objective.step, gap)}


def tail_law(trajectory: Trajectory, measured: Mapping[str, Series], clocks: Clocks, r: int) -> tuple[str, Tail | None]:
    """Return what has a tail and its law: the objective's gap where its limit is known, else the structural gap.

    Time is flow time where it was recorded. The tail of the objective begins where it has fallen to a tenth of its first
    value or, if no law can be told of that, to 1e-3 or 1e-5 of it; that of a structural gap where it has fallen to half of
    its largest value after the fit.
    """
    gap = positive(measured.get("objective gap"), r, RESOLVED)
    if gap is not None and len(gap[0]) >= FEWEST:
        rates = polish_of(trajectory).get("slowest_rate")
        slowest = None if not rates or rates[r] is None else [rates[r]]
        return OBJECTIVE, first_told(
            judge_tail(*in_flow_time(trajectory, *late, r), rates=slowest)
            for share in (TAIL_FALLEN, *LATER_TAILS)
            if len((late := closing_tail(*gap, share))[0]) >= FEWEST
        )
    structure = clocks.structure
    if structure is None or clocks.fit is None or clocks.fit.values[r] is None:
        return "", None
    closing = closing_part(structure, r, float(clocks.fit.values[r] or 0.0))
    return structure.name, None if closing is None else judge_tail(*in_flow_time(trajectory, *closing, r))


def closing_part(structure: Series, r: int, fit: float) -> tuple[Array, Float] | None:
    """Return the structural gap from where it has fallen to half of its largest value after the fit."""
    after = (structure.step >= fit) & np.isfinite(structure.value[r]) & (structure.value[r] > 0)
    step, values = structure.step[after], structure.value[r][after]
    if not len(values):
        return None
    highest = int(values.argmax())
    low = np.flatnonzero((np.arange(len(values)) > highest) & (values <= TAIL_BEGINS * values[highest]))
    return (step[low[0] :], values[low[0] :]) if len(low) and len(values) - low[0] >= FEWEST else None


def first_told(tails: Iterable[Tail]) -> Tail | None:
    """Return the first tail of which a law is told, or the first one; they are judged only as far as it takes."""
    first = None
    for tail in tails:
        if tail.verdict != "undetermined":
            return tail
        first = first or tail
    return first


def closing_tail(step: Array, values: Float, share: float = TAIL_FALLEN) -> tuple[Array, Float]:
    """Return a series from where it has fallen to a share of its first value for good, or all of it if it never does."""
    if not len(values):
        return step, values
    fallen = np.flatnonzero(np.maximum.accumulate(values[::-1])[::-1] <= share * values[0])
    first = int(fallen[0]) if len(fallen) and len(values) - fallen[0] >= FEWEST else 0
    return step[first:], values[first:]


def tail_from(
    trajectory: Trajectory, gradient: tuple[Array, Float], begins: float | None, r: int
) -> tuple[Array, Float]:
    """Return the squared gradient from where the objective's tail begins, so that all estimates of θ share a window.

    Where no tail of the objective is known it is from where the squared gradient itself has fallen to a tenth.
    """
    if begins is not None:
        chosen = in_flow_time(trajectory, *gradient, r)[0] >= begins
        if int(chosen.sum()) >= FEWEST:
            return gradient[0][chosen], gradient[1][chosen]
    return closing_tail(*gradient)


def phase_of(gap: tuple[Array, Float] | None, gradient: tuple[Array, Float] | None) -> Fit | None:
    """Return θ from the phase plot, at the steps at which the objective's gap and its gradient's tail are both known."""
    if gap is None or gradient is None:
        return None
    _, of_gap, of_gradient = np.intersect1d(gap[0], gradient[0], return_indices=True)
    if len(of_gap) < FEWEST:
        return None
    return phase_exponent(gap[1][of_gap], gradient[1][of_gradient])


def mode_tails(trajectory: Trajectory, measured: Mapping[str, Series], r: int) -> tuple[Tail, ...]:
    """Return the law by which single singular values of a linear network's map approach their polished values.

    Of the three that are farthest from them at the end: what is left of the tail is theirs.
    """
    values, limits = measured.get("singular_values(weights)"), polish_of(trajectory).get("singular_values")
    if values is None or not limits or limits[r] is None:
        return ()
    limit = np.asarray(limits[r], np.float64)
    gaps = np.abs(values.value[r] - limit[None, : values.value.shape[2]])
    usable = gaps > RESOLVED * max(float(limit[0]), 1e-300)  # also False for NaN
    slowest = sorted(range(gaps.shape[1]), key=lambda i: -last_of(gaps[usable[:, i], i]))[:MODES]
    return tuple(
        judge_tail(*in_flow_time(trajectory, *closing_tail(values.step[usable[:, i]], gaps[usable[:, i], i]), r))
        for i in slowest
        if int(usable[:, i].sum()) >= FEWEST
    )


def last_of(values: Float) -> float:
    """Return the last value, 0 of none."""
    return float(values[-1]) if len(values) else 0.0


def shrinkage_of(gap: tuple[Array, Float] | None, clocks: Clocks, r: int) -> Fit | None:
    """Return r in S ≍ Δ^r, at the snapshots whose objective is known."""
    structure = clocks.structure
    if gap is None or structure is None:
        return None
    known = positive(structure, r, 0.0)
    if known is None:
        return None
    step, of_gap, of_structure = np.intersect1d(gap[0], known[0], return_indices=True)
    chosen = np.isin(step, closing_tail(step, gap[1][of_gap])[0])
    if int(chosen.sum()) < FEWEST:
        return None
    return power_relation(gap[1][of_gap][chosen], known[1][of_structure][chosen])


def balancedness_rates(trajectory: Trajectory, measured: Mapping[str, Series], r: int) -> dict[str, Fit]:
    """Return the exponential rate of each balancedness defect in 1 / flow time, over what is more than rounding of it.

    Empty without flow time, in which alone the rate is 2 λ_w.
    """
    norm = trajectory.scalars.get("weight_norm")
    if norm is None or "flow_time" not in trajectory.scalars:
        return {}
    rates = {}
    for name, series in measured.items():
        if not name.startswith("balancedness_defect."):
            continue
        squared = np.interp(series.step, norm.step, norm.value[r]) ** 2
        usable = np.isfinite(series.value[r]) & (series.value[r] > UNBALANCED * squared)  # False where that is NaN
        if int(usable.sum()) >= FEWEST:
            rates[name.removeprefix("balancedness_defect.")] = decay_rate(
                *in_flow_time(trajectory, series.step[usable], series.value[r][usable], r)
            )
    return rates


def exponents_of(clocks: Clocks, r: int) -> dict[str, Fit]:
    """Return d log T / d log(1/threshold) of both clock curves, where at least three thresholds were reached."""
    exponents = {}
    for curve in (clocks.classifier, clocks.representation):
        if curve is not None and sum(time.values[r] is not None for time in curve.times) >= 3:
            exponents[curve.name] = clock_exponent(curve.thresholds, [time.values[r] for time in curve.times])
    return exponents


def linear_series(trajectory: Trajectory) -> dict[str, Series]:
    """Return, of a deep linear network at every snapshot, its slack, its defects and the singular values of its map."""
    from twoclocks.measures.balance import balancedness_defect, relative_slack

    matrices = [
        sum(name.startswith("weights/") and tensor.ndim == 3 for name, tensor in snapshot.tensors.items())
        for snapshot in trajectory.snapshots
    ]
    if max(matrices, default=0) < 2:  # one matrix shares its map with none
        return {}
    slack, defects = measure(trajectory, relative_slack), measure(trajectory, balancedness_defect)
    layers = {
        f"balancedness_defect.{i + 1}": Series(f"balancedness_defect.{i + 1}", "", defects.step, defects.value[..., i])
        for i in range(defects.value.shape[2])
    }
    series = {"relative_slack": Series("relative_slack", "share of Σ‖W‖²", slack.step, slack.value)}
    series |= layers | {"singular_values(weights)": measure(trajectory, singular_values_of_map)}
    return series | pull_of(trajectory) | reduced_objective(trajectory)


def reduced_objective(trajectory: Trajectory) -> dict[str, Series]:
    """Return the slack N, and E − F_∞ with E = F − (λ_w / 2) N: what F would be if the layers shared their map evenly.

    F = E + (λ_w / 2) N, and at a stationary point that is balanced E_∞ = F_∞. Empty where F, λ_w or F_∞ is not known.
    """
    from twoclocks.measures.balance import schatten_slack

    gap, decay = objective_gap(trajectory).get("objective gap"), weight_decay_of(trajectory)
    if gap is None or not decay:
        return {}
    slack = measure(trajectory, schatten_slack)
    step, of_gap, of_slack = np.intersect1d(gap.step, slack.step, return_indices=True)
    reduced = gap.value[:, of_gap] - 0.5 * decay * slack.value[:, of_slack]
    return {
        "slack": Series("slack", "squared weights", slack.step, slack.value),
        "schatten objective gap": Series("schatten objective gap", "of the objective", step, reduced),
    }


def pull_of(trajectory: Trajectory) -> dict[str, Series]:
    """Return mean Σ_m p_m Γ_m on the training examples, where the loss is the cross-entropy of recorded logits."""
    from twoclocks.measures.floors import expected_gap

    has_bias = any("readout/bias" in snapshot.tensors for snapshot in trajectory.snapshots)
    if (
        not is_cross_entropy(trajectory)
        or has_bias
        or not is_decay_coupled(trajectory)
        or "train" not in trajectory.batches
    ):
        return {}
    series = measure(trajectory, expected_gap)
    return {series.name: series}


def singular_values_of_map(weights: list[Tensor]) -> Tensor:
    """Return the singular values of W_L … W_1, by a float64 SVD, because the smallest ones are of interest."""
    import torch

    from twoclocks.measures.balance import end_to_end_product

    values: Tensor = torch.linalg.svdvals(end_to_end_product(weights))
    return values


def certificate_of(trajectory: Trajectory) -> dict[str, Series]:
    """Return the least and the median over training examples of ‖h‖ / (‖B‖₂‖W‖₂‖U‖₂), for an embedding and one hidden layer.

    B has norm √2 where two embeddings are concatenated and 2 where they are summed, the largest over pairs (of a symbol
    with itself), so the certificate is sound for all. Only for a network of these weights and no others.
    """
    moments = [snapshot for snapshot in trajectory.snapshots if is_embedding_network(snapshot)]
    if not moments:
        return {}
    values = np.array([certificates_at(snapshot) for snapshot in moments])
    step = np.array([snapshot.step for snapshot in moments], np.int64)
    return {
        name: Series(name, "ratio", step, values[:, :, i].T)
        for i, name in enumerate(("readout_lead_certificate(least)", "readout_lead_certificate(median)"))
    }


def is_embedding_network(snapshot: Snapshot) -> bool:
    """Return whether a snapshot keeps the features and weights of a table of embeddings, a hidden layer and a readout."""
    weights = {name.removeprefix("weights/") for name in snapshot.tensors if name.startswith("weights/")}
    matrices = {"embedding.weight", "hidden.weight", "readout.weight"}
    if not matrices <= weights <= matrices | {"hidden.bias", "readout.bias"}:
        return False
    if not {"features/train", "readout/weight"} <= set(snapshot.tensors):
        return False
    width, inputs = (snapshot.tensors[f"weights/{name}.weight"].shape[2] for name in ("embedding", "hidden"))
    return bool(inputs in (width, 2 * width))


def certificates_at(snapshot: Snapshot) -> list[tuple[float, float]]:
    """Return the least and the median certificate over examples, run by run; NaN where a tensor is not finite."""
    import torch

    from twoclocks.measures.motion import gain

    hidden, readout = snapshot.tensors["weights/hidden.weight"], snapshot.tensors["readout/weight"]
    is_summed = snapshot.tensors["weights/embedding.weight"].shape[2] == hidden.shape[2]
    mixing, found = 2.0 if is_summed else 2.0**0.5, []
    for first, second, rows in zip(hidden, readout, snapshot.tensors["features/train"], strict=True):
        sizes = torch.from_numpy(np.array(rows)).float().norm(dim=1).double()
        if not (np.isfinite(first).all() and np.isfinite(second).all() and bool(sizes.isfinite().all())):
            found.append((math.nan, math.nan))
            continue
        limit = mixing * float(gain(torch.from_numpy(np.array(first)), torch.from_numpy(np.array(second))))
        certificate = torch.where(sizes > 0, sizes / limit, 0.0) if limit > 0 else torch.full_like(sizes, math.nan)
        found.append((float(certificate.min()), float(certificate.median())))
    return found


def is_linear(trajectory: Trajectory) -> bool:
    """Return whether the network is known to be a product of matrices."""
    return bool(trajectory.settings.get("map") == "linear")


def polish_of(trajectory: Trajectory) -> Mapping[str, Any]:
    """Return the record of the stationary points that the runs were polished to, empty where there is none."""
    record = trajectory.settings.get("polish")
    return record if isinstance(record, Mapping) else {}


def positive(series: Series | None, r: int, resolution: float) -> tuple[Array, Float] | None:
    """Return the steps and values of run r that are finite and above `resolution` of the largest."""
    if series is None:
        return None
    values = series.value[r]
    finite = np.isfinite(values)
    if not finite.any():
        return None
    usable = finite & (values > resolution * np.abs(values[finite]).max())
    return (series.step[usable], values[usable]) if usable.any() else None


def inside(series: Series, r: int, low: float, high: float) -> tuple[Array, Float]:
    """Return the finite evaluations of run r in a window of steps."""
    chosen = (series.step >= low) & (series.step <= high) & np.isfinite(series.value[r])
    return series.step[chosen], series.value[r][chosen]


def in_flow_time(trajectory: Trajectory, step: Array, values: Float, r: int) -> tuple[Float, Float]:
    """Return flow times and values at some steps; the steps themselves where flow time was not recorded.

    A moment outside what was recorded of flow time is left out, and so is one at which it has not grown since the moment
    before: while the learning rate is 0 no time passes.
    """
    flow = trajectory.scalars.get("flow_time")
    if flow is None:
        return np.asarray(step, np.float64), values
    of_run = flow.value[min(r, flow.runs - 1)]
    known = np.isfinite(of_run)
    if not known.any():
        return np.asarray(step, np.float64), values
    inside_flow = (step >= flow.step[known][0]) & (step <= flow.step[known][-1])
    time, values = np.interp(step[inside_flow], flow.step[known], of_run[known]), values[inside_flow]
    passes = np.diff(np.maximum.accumulate(time), prepend=-np.inf) > 0
    return time[passes], values[passes]
