"""This file knows which law a curve follows, and when no law can be told.

A fit that did not work is an outcome with a remedy, never NaN or an exception. The intervals here are from within one
run: they are called precision. Confidence needs several seeds (`stats.t_interval`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

from twoclocks.least_squares import (
    RESOLUTION,
    WORSE,
    Solution,
    after_start,
    aicc,
    finite_part,
    halves,
    independent,
    joined_words,
    least_of,
    left_out,
    positive_part,
    scaled,
    solved,
)
from twoclocks.stats import Slope, finite, hac_slope
from twoclocks.trajectory import Float

FEWEST_POINTS = 6  # a curve with three parameters and something left to judge it by
NEARLY_EVERY_STEP = 0.8
SMALLEST_KAPPA, LARGEST_KAPPA, LARGEST_SLOPE = -1.0, 0.9, 4.0  # θ from .25 (rest in finite time) to 5


class FitOutcome(StrEnum):
    """What became of a fit."""

    CONVERGED = "CONVERGED"
    FLAT = "FLAT"
    TOO_FEW_POINTS = "TOO_FEW_POINTS"
    NOT_MONOTONE = "NOT_MONOTONE"
    AT_BOUND = "AT_BOUND"


@dataclass(frozen=True)
class Fit:
    """A law, its parameters, and how precisely one run determines them (95 %).

    `window` is the first and last x that were used, `n` how many points, worth `effective_n` independent ones. `message`
    names cause and remedy where the outcome is not CONVERGED, and what was left out. No parameters where there is no fit.
    """

    law: str
    parameters: Mapping[str, float]
    precision: Mapping[str, tuple[float, float]]
    outcome: FitOutcome
    n: int
    effective_n: float
    window: tuple[float, float]
    message: str = ""
    aicc: float | None = None


@dataclass(frozen=True)
class Growth:
    """Three laws of a growing gap on the same points, and the preferred one, or "undetermined"."""

    linear: Fit
    logarithmic: Fit
    saturating: Fit
    preferred: str


def lojasiewicz_exponent(step: ArrayLike, squared_gradient_norm: ArrayLike) -> Fit:
    """Return the Łojasiewicz exponent θ of a flow from G = ‖∇F‖² `[t]` at its steps `[t]`; needs no F_∞ and no start.

    R(t) = −1 / (d log G / dt) is linear in t with slope κ, and θ = 1 / (2 (1 − κ)); convention ‖∇F‖ ~ (F − F_∞)^θ.
    Fitted as what that integrates to, log G = a − log(1 + κ (t − t_a) / R_a) / κ, because differences of G would divide
    its noise by short times; `relaxation_time` shows R itself. κ = 0 is an exponential, ½ the 1/t law. A leading step 0,
    zeros and what is not finite are left out. Source: science.md section 4 `[def]`.

    Raises:
        ValueError: lengths differ, steps do not increase, or a squared norm is negative.

    >>> step = np.geomspace(1, 1000, 30)
    >>> round(lojasiewicz_exponent(step, (1 + step) ** -4.0).parameters["theta"], 4)  # flow on |x|³ / 3
    0.6667
    """
    time, logs, note = positive_part(step, squared_gradient_norm, "squared_gradient_norm", refuses_negative=True)
    fit = relaxation_law("Łojasiewicz", *after_start(time, logs), note, LARGEST_KAPPA)
    if not fit.parameters:
        return fit
    kappa, low, high = fit.parameters["kappa"], *fit.precision["kappa"]
    theta = exponent_of(kappa), (exponent_of(low), exponent_of(high))
    return replace(
        fit,
        parameters={"kappa": kappa, "theta": theta[0]},
        precision={"kappa": (low, high), "theta": theta[1]},
    )


def relaxation_time(step: ArrayLike, squared_gradient_norm: ArrayLike) -> tuple[Float, Float]:
    """Return the midpoints `[m]` and R = −1 / (d log G / dt) `[m]` there, both in the unit of the steps.

    The derivative is the least-squares slope through three neighbouring evaluations; where G does not fall R has no
    value, and the midpoint is left out. Raises: as `lojasiewicz_exponent`.

    >>> midpoints, times = relaxation_time([1, 2, 3, 4], np.exp([-2.0, -4.0, -6.0, -8.0]))
    >>> midpoints.tolist(), times.round(9).tolist()
    ([2.0, 3.0], [0.5, 0.5])
    """
    time, logs, _ = positive_part(step, squared_gradient_norm, "squared_gradient_norm", refuses_negative=True)
    time, logs = after_start(time, logs)
    if len(time) < 3:
        return np.empty(0), np.empty(0)
    times, values = (np.lib.stride_tricks.sliding_window_view(series, 3) for series in (time, logs))
    middle = times.mean(1)
    centred = times - middle[:, None]
    slope = (centred * values).sum(1) / (centred**2).sum(1)
    return middle[slope < 0], -1 / slope[slope < 0]


def phase_exponent(gap: ArrayLike, squared_gradient_norm: ArrayLike) -> Fit:
    """Return θ as the slope of log ‖∇F‖ against log Δ, from Δ = F − F_∞ `[t]` and G = ‖∇F‖² `[t]`.

    A cross-check of `lojasiewicz_exponent` that needs F_∞. Moments where either is not positive are left out.

    Raises:
        ValueError: lengths differ.

    >>> gap = np.array([1.0, 0.5, 0.2, 0.1, 0.05, 0.02])
    >>> round(phase_exponent(gap, 4 * gap**1.5).parameters["theta"], 6)
    0.75
    """
    return relation("phase", gap, squared_gradient_norm, "theta", 0.5)


def power_relation(delta: ArrayLike, gap: ArrayLike) -> Fit:
    """Return r in S ~ Δ^r, the slope of log S (`gap` `[t]`) against log Δ (`delta` `[t]`); generically r = 1 − θ.

    Needed before a θ of Δ is quoted for the times of S. Raises: as `phase_exponent`.

    >>> delta = np.array([1.0, 0.5, 0.2, 0.1, 0.05, 0.02])
    >>> round(power_relation(delta, 3 * delta**0.5).parameters["r"], 6)
    0.5
    """
    return relation("power relation", delta, gap, "r", 1.0)


def decay_rate(time: ArrayLike, value: ArrayLike) -> Fit:
    """Return the rate of an exponential, −d log value / dt, from values `[t]` at times `[t]`, in 1 / time.

    FLAT where the precision includes 0, NOT_MONOTONE where the values rise. Source: least squares of the logarithm.

    Raises:
        ValueError: lengths differ or times do not increase.

    >>> round(decay_rate([0, 1, 2, 3, 4, 5], np.exp([0.0, -0.5, -1.0, -1.5, -2.0, -2.5])).parameters["rate"], 6)
    0.5
    """
    across, logs, note = positive_part(time, value, "value")
    if len(logs) < FEWEST_POINTS:
        return too_few("exponential", across, note)
    line = hac_slope(across, logs)
    rate = {"rate": -line.value}, {"rate": (-line.interval[1], -line.interval[0])}
    outcome, message = direction(line, logs, -1)
    return Fit("exponential", *rate, outcome, line.n, line.effective_n, ends(across), joined_words(message, note))


def clock_exponent(threshold: ArrayLike, time: Sequence[float | None]) -> Fit:
    """Return how a hitting time T(ε) `[k]` grows as its threshold ε `[k]` falls: d log T / d log(1/ε).

    "exponent" is its value over the third of the grid with the smallest ε (at least three), "change" what it gained since
    the third with the largest. A logarithmic clock, as of an exponential law, has exponents that fall to 0; a polynomial
    one keeps its exponent. Censored times (None) and times of 0 are left out and counted. Source: arXiv 2606.05863 `[def]`.

    Raises:
        ValueError: lengths differ, or a threshold is not positive.

    >>> fit = clock_exponent([0.1, 0.03, 0.01, 0.003, 0.001, 0.0003], [10, 33.3333, 100, 333.333, 1000, 3333.33])
    >>> round(fit.parameters["exponent"], 4), round(abs(fit.parameters["change"]), 4)
    (1.0, 0.0)
    """
    level = finite(threshold, "threshold")
    if len(level) != len(time) or (level <= 0).any():
        raise ValueError(f"expected as many positive thresholds as times, got {len(level)} and {len(time)}")
    known = [(-math.log(e), math.log(t)) for e, t in zip(level.tolist(), time, strict=True) if t is not None and t > 0]
    note = left_out(len(time) - len(known), "censored times or times of 0")
    grid, logs = np.array(sorted(known)).reshape(-1, 2).T
    if len(grid) < FEWEST_POINTS or np.ptp(grid) == 0:
        return too_few("clock", grid, note)
    third = max(3, len(grid) // 3)
    early, late = hac_slope(grid[:third], logs[:third]), hac_slope(grid[-third:], logs[-third:])
    change = late.value - early.value
    half = math.hypot(late.value - late.interval[0], early.value - early.interval[0])
    found = {"exponent": late.value, "change": change}
    precision = {"exponent": late.interval, "change": (change - half, change + half)}
    return Fit("clock", found, precision, FitOutcome.CONVERGED, len(grid), late.effective_n, ends(grid), note)


def fit_contraction(step: ArrayLike, loss: ArrayLike) -> Fit:
    """Return how the contraction rate −d log L / dt depends on the loss L `[t]`: slope of its logarithm on log L.

    Slope 0 is true contraction (L exponential), slope 1 the 1/t law of gradient descent. Parameters "slope" s and "rate",
    the contraction at the end of the window in 1 / step. Fitted as what the relation −d log L / dt = c L^s integrates to,
    log L = a − log(1 + s (t − t_a) / R_a) / s. Regressing rates between evaluations on the loss would put the noise of L
    on both axes, and would lose the pairs that do not decrease; these are counted, and if they are more than half, L does
    not contract: NOT_MONOTONE. Source: science.md section 3.4 `[def]`.

    Raises:
        ValueError: lengths differ, steps do not increase, or a loss is negative.

    >>> round(fit_contraction(np.arange(1, 60), 1 / np.arange(1.0, 60.0)).parameters["slope"], 4)
    1.0
    """
    time, logs, note = positive_part(step, loss, "loss", refuses_negative=True)
    rising = int((np.diff(logs) >= 0).sum())
    note = joined_words(note, f"{rising} of {len(logs) - 1} pairs do not decrease" if rising else "")
    if len(logs) >= FEWEST_POINTS and 2 * rising > len(logs) - 1:
        message = joined_words("most pairs do not decrease: take a later window, or evaluate less often", note)
        return nothing("contraction", FitOutcome.NOT_MONOTONE, time, message)
    fit = relaxation_law("contraction", time, logs, note, LARGEST_SLOPE)
    if not fit.parameters:
        return fit
    names = {"slope": "kappa", "rate": "rate"}
    return replace(
        fit,
        parameters={ours: fit.parameters[name] for ours, name in names.items()},
        precision={ours: fit.precision[name] for ours, name in names.items()},
    )


def relaxation_law(law: str, time: Float, logs: Float, note: str, largest: float) -> Fit:
    """Fit log y = a − log(1 + κ (t − t_a) / R_a) / κ, κ ≤ `largest`: parameters "kappa" and "rate", 1/R at the end."""
    if len(logs) < FEWEST_POINTS:
        return too_few(law, time, note)
    across, span = scaled(time)
    solution = solved(
        lambda at: at[0] - relaxed(at[1], across * math.exp(-at[2])) - (logs - logs[0]),
        relaxation_starts(across, logs - logs[0]),
        (-50.0, SMALLEST_KAPPA, -30.0),
        (50.0, largest, 10.0),
    )
    size = independent(solution)
    if not decays(solution, logs, size):
        return without_decay(law, time, logs, note)
    half = halves(solution, size, 3)
    kappa, constant = float(solution.at[1]), math.exp(solution.at[2])
    rate = 1 / (span * max(constant + kappa, 1e-12))
    wide = math.exp(min(float(half[2]), 300.0))
    found = {"kappa": kappa, "rate": rate}
    precision = {"kappa": (kappa - half[1], kappa + half[1]), "rate": (rate / wide, rate * wide)}
    outcome = FitOutcome.AT_BOUND if solution.is_at_bound else FitOutcome.CONVERGED
    message = "the best fit lies at the edge of what is allowed: take a later or longer window" * solution.is_at_bound
    return Fit(
        law, found, precision, outcome, len(logs), size, ends(time), joined_words(message, note),
        aicc(solution.mean_square, size, 4),
    )  # fmt: skip


def relaxed(kappa: float, age: Float) -> Float:
    """Return log(1 + κ age) / κ, and its limit, the age, at κ = 0."""
    product = kappa * age
    small = np.abs(product) < 1e-5
    safe = np.where(small, 1.0, np.maximum(product, -1 + 1e-9))
    whole: Float = np.where(small, age * (1 - product / 2), np.log1p(safe) / (kappa if kappa else 1.0))
    return whole


def relaxation_starts(across: Float, logs: Float) -> list[Float]:
    """Return the three best of a grid of κ and R_a."""
    shortest = math.log(float(np.diff(across).min()))
    grid = [
        (kappa, size)
        for kappa in (-0.3, 0.0, 0.2, 0.35, 0.5, 0.8, 1.2)
        for size in np.linspace(shortest - 2, 3, 16).tolist()
    ]
    errors = [float(np.var(logs + relaxed(kappa, across * math.exp(-size)))) for kappa, size in grid]
    best = [grid[i] for i in np.argsort(errors)[:3]]
    return [
        np.array([float((logs + relaxed(kappa, across * math.exp(-size))).mean()), kappa, size]) for kappa, size in best
    ]


def exponent_of(kappa: float) -> float:
    """Return θ = 1 / (2 (1 − κ)), kept to the κ below 1 for which it has a meaning."""
    return 1 / (2 * (1 - min(kappa, 0.99)))


def fit_growth(time: ArrayLike, gap: ArrayLike) -> Growth:
    """Return how a gap γ `[t]` grows: a + ν t, a + b log t, or c + g (1 − e^(−t/T)), and which of them is preferred.

    Linear growth of the logit gap means an exponential loss, logarithmic growth a loss of 1/t, saturation a floor. AICc on
    the same points with the effective size of the best law's residuals. Linear or logarithmic is preferred if the other is
    2 units worse and saturation not 2 units better (it contains straight lines as T → ∞); saturation if both are 2 units
    worse; else "undetermined", as where fewer than 8 points are independent. The precision of ν and b is that of
    `hac_slope`. A leading time 0 and what is not finite are left out. Source: science.md section 3.3 `[def]`.

    Raises:
        ValueError: lengths differ, times do not increase, or one is negative.

    >>> growth = fit_growth(np.arange(1, 41), 2 + 0.5 * np.arange(1, 41))
    >>> growth.preferred, round(growth.linear.parameters["slope"], 6)
    ('linear', 0.5)
    """
    across, value, note = finite_part(time, gap, "gap")
    across, value = after_start(across, value)
    if len(value) < FEWEST_POINTS or np.ptp(value) == 0:
        empty = too_few if len(value) < FEWEST_POINTS else constant
        none = [empty(name, across, note) for name in ("linear", "logarithmic", "saturating")]
        return Growth(none[0], none[1], none[2], "undetermined")
    lines = {"linear": hac_slope(across, value), "logarithmic": hac_slope(np.log(across), value)}
    axes = {"linear": across, "logarithmic": np.log(across)}
    unit = float(np.ptp(value))
    residuals = {name: (value - line.intercept - line.value * axes[name]) / unit for name, line in lines.items()}
    solution = saturation(across, value / unit)
    size = size_of_growth(residuals, solution)
    linear, logarithmic = (line_fit(name, lines[name], value, residuals[name], size, across, note) for name in lines)
    saturating = saturating_fit(solution, size, unit, across, note)
    return Growth(linear, logarithmic, saturating, preferred_growth(linear, logarithmic, saturating))


def line_fit(name: str, line: Slope, value: Float, residuals: Float, size: float, time: Float, note: str) -> Fit:
    """Return a straight line on its own axis as a law of growth."""
    outcome, message = direction(line, value, 1)
    score = aicc(max(float((residuals**2).mean()), RESOLUTION**2), size, 3)
    return Fit(
        name, {"slope": line.value, "intercept": line.intercept}, {"slope": line.interval}, outcome, line.n,
        line.effective_n, ends(time), joined_words(message, note), score,
    )  # fmt: skip


def saturation(time: Float, value: Float) -> Solution:
    """Return the least-squares c, g, log T of c + g (1 − e^(−t/T)), T up to three windows."""
    span = float(time[-1] - time[0])
    grid = np.log(np.geomspace(float(np.diff(time).min()) / 2, 3 * span, 40))
    starts = []
    for constant in grid.tolist():
        basis = np.stack([np.ones_like(time), -np.expm1(-time * math.exp(-constant))], 1)
        (level, gain), *_ = np.linalg.lstsq(basis, value, rcond=None)
        starts.append((float(((value - basis @ [level, gain]) ** 2).sum()), level, gain, constant))
    return solved(
        lambda at: at[0] - at[1] * np.expm1(-time * math.exp(-at[2])) - value,
        [np.array(start[1:]) for start in sorted(starts)[:2]],
        (-math.inf, -math.inf, float(grid[0]) - 1),
        (math.inf, math.inf, float(grid[-1]) + 1e-3),
    )


def saturating_fit(solution: Solution, size: float, unit: float, time: Float, note: str) -> Fit:
    """Return a saturation in natural units: "level" at the end of time, "gain" g, "time_constant" T."""
    half = halves(solution, size, 3)
    level, gain, log_constant = solution.at.tolist()
    wide = math.exp(min(float(half[2]), 300.0))
    constant = math.exp(log_constant)
    outcome = FitOutcome.AT_BOUND if solution.is_at_bound else FitOutcome.CONVERGED
    message = "the time constant exceeds three windows: growth shows no saturation yet" * solution.is_at_bound
    return Fit(
        "saturating",
        {"level": (level + gain) * unit, "gain": gain * unit, "time_constant": constant},
        {"time_constant": (constant / wide, constant * wide)},
        outcome, len(time), size, ends(time), joined_words(message, note), aicc(solution.mean_square, size, 4),
    )  # fmt: skip


def size_of_growth(residuals: Mapping[str, Float], solution: Solution) -> float:
    """Return the effective size by the residuals of the law that is best when all points count."""
    scores = {name: aicc(max(float((rest**2).mean()), RESOLUTION**2), len(rest), 3) for name, rest in residuals.items()}
    scores["saturating"] = aicc(solution.mean_square, len(solution.residuals), 4)
    return independent(replace(solution, residuals={**residuals, "saturating": solution.residuals}[least_of(scores)]))


def preferred_growth(linear: Fit, logarithmic: Fit, saturating: Fit) -> str:
    """Return the law that the evidence prefers, or "undetermined"."""
    a, b, c = (math.inf if fit.aicc is None else fit.aicc for fit in (linear, logarithmic, saturating))
    if saturating.effective_n < 8 or math.isinf(min(a, b)):
        return "undetermined"
    if c < min(a, b) - WORSE:
        return "saturating" if saturating.outcome is FitOutcome.CONVERGED else "undetermined"
    if a < b - WORSE:
        return "linear" if linear.outcome is FitOutcome.CONVERGED else "undetermined"
    is_logarithmic = b < min(a, c) - WORSE and logarithmic.outcome is FitOutcome.CONVERGED
    return "logarithmic" if is_logarithmic else "undetermined"


def relation(law: str, x: ArrayLike, y: ArrayLike, name: str, factor: float) -> Fit:
    """Return the slope of log y against log x, times a factor, over the moments where both are positive."""
    across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if across.ndim != 1 or across.shape != up.shape:
        raise ValueError(f"expected two series of one length, got shapes {list(across.shape)} and {list(up.shape)}")
    kept = np.isfinite(across) & np.isfinite(up) & (across > 0) & (up > 0)
    note = left_out(int((~kept).sum()), "moments that are not positive and finite in both")
    logs, values = np.log(across[kept]), np.log(up[kept])
    if len(logs) < FEWEST_POINTS:
        return too_few(law, across[kept], note)
    if np.ptp(logs) < 1e-9:
        return constant(law, across[kept], note)
    line = hac_slope(logs, values)
    found = {name: factor * line.value}, {name: (factor * line.interval[0], factor * line.interval[1])}
    outcome, message = direction(line, values[np.argsort(logs)], 1)
    used = float(across[kept].min()), float(across[kept].max())
    return Fit(law, *found, outcome, line.n, line.effective_n, used, joined_words(message, note))


def direction(line: Slope, values: Float, sign: int) -> tuple[FitOutcome, str]:
    """Return whether a line falls (sign −1) or rises (1) as it should, and what to do if it does not."""
    low, high = sorted((sign * line.interval[0], sign * line.interval[1]))
    if low > 0 or goes(values, sign):
        return FitOutcome.CONVERGED, ""
    if high < 0 or goes(values, -sign):
        return FitOutcome.NOT_MONOTONE, f"it goes the wrong way, by {line.value:.3g} per unit: take another window"
    return FitOutcome.FLAT, "no slope stands out from the noise: take a longer window"


def goes(values: Float, sign: int) -> bool:
    """Return whether nearly every step of a series goes one way: then it does, however bent it is around its line."""
    return float((sign * np.diff(values) > 0).mean()) >= NEARLY_EVERY_STEP


def decays(solution: Solution, logs: Float, size: float) -> bool:
    """Return whether a decaying law is better than a constant by AICc's margin, or nearly every step goes down."""
    size = max(size, 7.0)  # a law that misses leaves residuals that hang together; that is no sign of a flat curve
    constant_score = aicc(max(float(np.var(logs)), RESOLUTION**2), size, 2)
    score = aicc(solution.mean_square, size, 4)
    is_better = score is not None and constant_score is not None and score < constant_score - WORSE
    return is_better or goes(logs, -1)


def without_decay(law: str, time: Float, logs: Float, note: str) -> Fit:
    """Return the outcome of a curve that does not decay: FLAT, or NOT_MONOTONE where it rises."""
    line = hac_slope(time, logs)
    if line.interval[0] > 0 or goes(logs, 1):
        return nothing(law, FitOutcome.NOT_MONOTONE, time, joined_words("it rises: take another window", note))
    return constant(law, time, note)


def constant(law: str, time: Float, note: str) -> Fit:
    """Return the outcome of a curve that does not change."""
    message = "no change stands out from the noise: take a longer or an earlier window"
    return nothing(law, FitOutcome.FLAT, time, joined_words(message, note))


def too_few(law: str, time: Float, note: str) -> Fit:
    """Return the outcome of a curve of too few points."""
    message = f"a fit needs {FEWEST_POINTS} points, got {len(time)}: evaluate more often"
    return nothing(law, FitOutcome.TOO_FEW_POINTS, time, joined_words(message, note))


def nothing(law: str, outcome: FitOutcome, time: Float, message: str) -> Fit:
    """Return a fit without parameters."""
    return Fit(law, {}, {}, outcome, len(time), float(len(time)), ends(time), message)


def ends(time: Float) -> tuple[float, float]:
    """Return the first and last time; 0 and 0 of none."""
    return (float(time[0]), float(time[-1])) if len(time) else (0.0, 0.0)
