"""This file knows which law a curve follows, and when no law can be told.

A fit that did not work is an outcome with a remedy, never NaN or an exception. The intervals here are from within one
run: they are called precision. Confidence needs several seeds (`stats.t_interval`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twoclocks.stats import Slope, autocorrelation, effective_size, finite, hac_slope, t_quantile

Float = NDArray[np.float64]

FEWEST_POINTS = 6  # a curve with three parameters and something left to judge it by
FEWEST_FOR_A_VERDICT = 12  # ... and seven laws to tell apart
FEWEST_EFFECTIVE = 10.0  # independent points that the seven parameters of three noisy exponentials need
MOST_EVALUATIONS = 250  # of a law; only a mode that the curve does not need takes more, and it never settles
MOST_POINTS = 80  # points on a log scale of time that a tail is judged by; more are joined
WORSE = 2.0  # AICc units from which a law counts as worse
OUT_OF_EVIDENCE = 6.0  # AICc units from which a law is out of the running: odds of about 1 to 20
RESOLUTION = 1e-4  # relative; laws that all come closer than this are equally good
DECADES_OF_TIME = 1.5
DECADES_OF_GAP = 2.0
DECADES_OF_POWER = 2.25  # of age, where the rates are unknown; see `judge_tail`
RELAXATIONS = 5.0  # relaxation times of the slowest mode after which only it is left
AT_FLOOR = 0.9  # share of the gap that is floor at the end of the window
NEARLY_EVERY_STEP = 0.8
STEADY = 0.1  # change of θ from the whole window to its later half that is not steady any more
STEEPEST = 20.0  # θ = .525: a steeper power law is not told from an exponential
SHALLOWEST = 0.05
SMALLEST_KAPPA, LARGEST_KAPPA, LARGEST_SLOPE = -1.0, 0.9, 4.0  # θ from .25 (rest in finite time) to 5
# Bounds of the logarithms of parameters; rates and ages count in windows, so a rate of e⁻⁷ is a floor
AMPLITUDE, RATE, AGE = (-800.0, 30.0), (-7.0, 14.0), (-25.0, 3.0)
POWER, SHAPE, FALL = (math.log(SHALLOWEST), math.log(STEEPEST)), (math.log(0.05), math.log(3.0)), (-7.0, 7.0)
EXPONENTIALS = ("exponential", "two exponentials", "three exponentials")


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
class Tails:
    """Every law fitted to the same logarithms, and its Akaike weight (0 where too few points are independent)."""

    fits: Mapping[str, Fit]
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Tail:
    """How a gap ends: "exponential", "polynomial", "floor reached" or "undetermined", and why.

    `theta` is the Łojasiewicz exponent: ½ of an exponential, ½ (1 + 1/p) of the power law t^−p, also where the verdict is
    "undetermined" (then it is what the power law would have); None where there is none. Its interval is precision.
    """

    verdict: str
    theta: float | None
    theta_interval: tuple[float, float] | None
    why: str
    comparison: Tails | None
    window: tuple[float, float]


@dataclass(frozen=True)
class Growth:
    """Three laws of a growing gap on the same points, and the preferred one, or "undetermined"."""

    linear: Fit
    logarithmic: Fit
    saturating: Fit
    preferred: str


@dataclass(frozen=True)
class Law:
    """The logarithm of a law of u = (t − t_a) / (t_b − t_a), with positive parameters that are fitted as logarithms.

    `units` holds one of "amplitude", "rate", "time", "number" a parameter; `low` and `high` bound the logarithms.
    """

    name: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    log_value: Callable[[Float, Float], Float]
    starts: Callable[[Float, Float], list[Float]]


@dataclass(frozen=True)
class Solution:
    """A least-squares solution: parameters, residuals, covariance for independent unit noise, and whether at a bound."""

    at: Float
    residuals: Float
    covariance: Float
    is_at_bound: bool

    @property
    def mean_square(self) -> float:
        """Return the mean squared residual, not below the resolution of logarithms."""
        return max(float((self.residuals**2).mean()), RESOLUTION**2)


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


def compare_tails(time: ArrayLike, gap: ArrayLike) -> Tails:
    """Return seven laws fitted to log Δ `[t]` on the same points, with AICc and Akaike weights.

    "exponential", "power" A (1 + (t − t_a)/age)^−p with a free age of the power law at the start t_a of the window,
    "stretched" A exp(−fall (t / t_b)^shape), "exponential + floor", "power + floor", "two exponentials", "three
    exponentials". Bounded least squares from several deterministic starts. AICc counts n_eff = n (1 − ρ)/(1 + ρ) points,
    ρ the autocorrelation of the residuals of the best law. Of more than 80 points, neighbours are joined. Gaps that are
    not positive, and time 0, are left out. No fits where fewer than 6 points are left. Source: Hurvich & Tsai 1989.

    Raises:
        ValueError: lengths differ or times do not increase.

    >>> tails = compare_tails(np.arange(1, 41), np.exp(-0.3 * np.arange(1.0, 41.0)))
    >>> max(tails.weights, key=tails.weights.get), round(tails.fits["exponential"].parameters["rate"], 6)
    ('exponential', 0.3)
    """
    across, logs, note = positive_part(time, gap, "gap")
    across, logs = thinned(*after_start(across, logs))
    return Tails({}, {}) if len(logs) < FEWEST_POINTS else compared(across, logs, note)


def compared(across: Float, logs: Float, note: str) -> Tails:
    """Return the seven laws fitted to at least 6 logarithms."""
    scale, span = scaled(across)
    laws = laws_since(float(across[0]) / span)
    solutions = {law.name: fitted(law, scale, logs - logs[0]) for law in laws}
    size = size_by_best(solutions)
    fits = {law.name: described(law, solutions[law.name], across, logs, size, note) for law in laws}
    return Tails(fits, akaike_weights(fits))


def fitted(law: Law, across: Float, logs: Float) -> Solution:
    """Return the least-squares solution of one law for scaled times and logarithms that start at 0."""
    return solved(lambda at: law.log_value(across, at) - logs, law.starts(across, logs), law.low, law.high)


def described(law: Law, solution: Solution, time: Float, logs: Float, size: float, note: str) -> Fit:
    """Return a solution in natural units."""
    span = float(time[-1] - time[0])
    unit = {"amplitude": float(np.exp(max(logs[0], -700.0))), "rate": 1 / span, "time": span, "number": 1.0}
    half = halves(solution, size, len(law.names))
    found, precision = {}, {}
    for name, kind, at, wide in zip(law.names, law.units, solution.at.tolist(), half.tolist(), strict=True):
        found[name] = math.exp(at) * unit[kind]
        precision[name] = (math.exp(max(at - wide, -700.0)) * unit[kind], math.exp(min(at + wide, 300.0)) * unit[kind])
    outcome = FitOutcome.AT_BOUND if solution.is_at_bound else FitOutcome.CONVERGED
    message = "the data ask for more than the law's bounds allow: another law fits" * solution.is_at_bound
    score = aicc(solution.mean_square, size, len(law.names) + 1)
    return Fit(
        law.name, found, precision, outcome, len(time), size, ends(time), joined_words(message, note), score
    )  # fmt: skip


def laws_since(first: float) -> tuple[Law, ...]:
    """Return the seven laws, given t_a / (t_b − t_a): only the stretched exponential knows when time began."""
    return (
        law_of("exponential", {"amplitude": AMPLITUDE, "rate": RATE}, log_exponentials, mode_starts(1, False)),
        law_of("power", {"amplitude": AMPLITUDE, "age": AGE, "exponent": POWER}, log_power, power_starts(False)),
        law_of(
            "stretched",
            {"amplitude": AMPLITUDE, "fall": FALL, "shape": SHAPE},
            lambda u, at: at[0] - np.exp(at[1] + np.exp(at[2]) * np.log((u + first) / (1 + first))),
            lambda u, logs: stretched_starts((u + first) / (1 + first), logs),
        ),
        law_of(
            "exponential + floor",
            {"amplitude": AMPLITUDE, "rate": RATE, "floor": AMPLITUDE},
            lambda u, at: np.logaddexp(log_exponentials(u, at[:2]), at[2]),
            mode_starts(1, True),
        ),
        law_of(
            "power + floor",
            {"amplitude": AMPLITUDE, "age": AGE, "exponent": POWER, "floor": AMPLITUDE},
            lambda u, at: np.logaddexp(log_power(u, at[:3]), at[3]),
            power_starts(True),
        ),
        law_of("two exponentials", modes(2), log_exponentials, mode_starts(2, False)),
        law_of("three exponentials", modes(3), log_exponentials, mode_starts(3, False)),
    )


def law_of(
    name: str,
    bounds: Mapping[str, tuple[float, float]],
    log_value: Callable[[Float, Float], Float],
    starts: Callable[[Float, Float], list[Float]],
) -> Law:
    """Return a law whose parameters' units follow from their names."""
    units = {"amplitude": "amplitude", "floor": "amplitude", "rate": "rate", "age": "time"}
    low, high = zip(*bounds.values(), strict=True)
    return Law(
        name, tuple(bounds), tuple(units.get(key.split("_")[0], "number") for key in bounds), low, high, log_value, starts
    )  # fmt: skip


def modes(count: int) -> dict[str, tuple[float, float]]:
    """Return the bounds of a sum of exponentials."""
    return {
        f"{name}_{k}": bound for k in range(1, count + 1) for name, bound in (("amplitude", AMPLITUDE), ("rate", RATE))
    }


def log_exponentials(across: Float, at: Float) -> Float:
    """Return log Σ_k exp(a_k − r_k u), at = a_1, log r_1, a_2, …"""
    parts = at[::2, None] - np.exp(at[1::2, None]) * across
    highest: Float = parts.max(0)
    total: Float = highest + np.log(np.exp(parts - highest).sum(0))
    return total


def log_power(across: Float, at: Float) -> Float:
    """Return a − p log(1 + u / age), at = a, log age, log p."""
    result: Float = at[0] - math.exp(at[2]) * np.log1p(across * math.exp(-at[1]))
    return result


def mode_starts(count: int, has_floor: bool) -> Callable[[Float, Float], list[Float]]:
    """Return a search for starts of a sum of exponentials, and of a floor: the best of all sets of rates of a grid."""

    def starts(across: Float, logs: Float) -> list[Float]:
        rates = np.geomspace(0.3, 3 / float(np.diff(across).min()), 14)
        columns = -np.append(rates, 0.0)[:, None] * across
        sets = [(*chosen, len(rates)) if has_floor else chosen for chosen in combinations(range(len(rates)), count)]
        found = []
        for chosen, weights in best_mixtures(columns, logs, sets):
            pairs = [(w, math.log(rates[i])) for i, w in zip(chosen, weights, strict=True) if i < len(rates)]
            found.append(np.array([*np.ravel(pairs), *weights[count:]]))
        return found

    return starts


def power_starts(has_floor: bool) -> Callable[[Float, Float], list[Float]]:
    """Return a search for starts of a power law, and of a floor, over a grid of ages and exponents."""

    def starts(across: Float, logs: Float) -> list[Float]:
        ages = np.geomspace(float(np.diff(across).min()) / 3, 10, 8)
        grid = [(age, p) for age in ages.tolist() for p in np.geomspace(0.3, 15, 9).tolist()]
        columns = np.array([-p * np.log1p(across / age) for age, p in grid] + [np.zeros_like(across)])
        sets = [(i, len(grid)) if has_floor else (i,) for i in range(len(grid))]
        return [
            np.array([weights[0], *np.log(grid[chosen[0]]), *weights[1:]])
            for chosen, weights in best_mixtures(columns, logs, sets)
        ]

    return starts


def stretched_starts(age: Float, logs: Float) -> list[Float]:
    """Return the two best starts of a stretched exponential over a grid of shapes."""
    found = []
    for shape in np.geomspace(0.06, 2, 10).tolist():
        centred = age**shape - (age**shape).mean()
        fall = max(-float(centred @ logs) / max(float(centred @ centred), 1e-300), 1e-2)
        level = float((logs + fall * age**shape).mean())
        error = float(((logs - level + fall * age**shape) ** 2).sum())
        found.append((error, np.array([level, math.log(fall), math.log(shape)])))
    return [start for _, start in sorted(found, key=lambda pair: pair[0])[:2]]


def best_mixtures(
    columns: Float, logs: Float, sets: Sequence[tuple[int, ...]], keep: int = 2
) -> list[tuple[tuple[int, ...], Float]]:
    """Return the sets of columns whose positive mixture comes closest to a curve, with logarithms of their weights.

    Columns `[k t]` and the curve are logarithms; errors are relative to the curve, least squares, then clipped at 0.
    """
    relative = np.exp(np.clip(columns - logs, -300, 300))
    size = np.sqrt((relative**2).sum(1))
    relative = relative / size[:, None]
    index = np.array(sets)
    gram = (relative @ relative.T)[index[:, :, None], index[:, None, :]] + 1e-9 * np.eye(index.shape[1])
    target = relative.sum(1)[index]
    weights = np.maximum(np.linalg.solve(gram, target[..., None])[..., 0], 1e-6)
    errors = np.einsum("si,sij,sj->s", weights, gram, weights) - 2 * (weights * target).sum(1)
    return [(sets[i], np.log(weights[i] / size[index[i]])) for i in np.argsort(errors, kind="stable")[:keep].tolist()]


def solved(
    residual: Callable[[Float], Float], starts: Sequence[Float], low: Sequence[float], high: Sequence[float]
) -> Solution:
    """Return the best bounded least-squares solution over several starts."""
    from scipy.optimize import least_squares  # 300 ms that reading a log does not pay

    floor, ceiling = np.array(low), np.array(high)
    inside = [np.clip(start, floor + 1e-6, ceiling - 1e-6) for start in starts]
    most = {"max_nfev": MOST_EVALUATIONS, "x_scale": "jac"}
    results = [least_squares(residual, start, bounds=(floor, ceiling), **most) for start in inside]
    best = min(results, key=lambda result: float(result.cost))
    near = (best.x - floor < 1e-3) | (ceiling - best.x < 1e-3)
    return Solution(best.x, best.fun, np.linalg.pinv(best.jac.T @ best.jac, hermitian=True), bool(near.any()))


def independent(solution: Solution) -> float:
    """Return how many independent points a solution's residuals are worth; rounding errors hang together by chance."""
    if solution.mean_square <= RESOLUTION**2:
        return float(len(solution.residuals))
    return effective_size(len(solution.residuals), max(autocorrelation(solution.residuals), 0.0))


def size_by_best(solutions: Mapping[str, Solution]) -> float:
    """Return the effective number of points by the residuals of the law that is best when all points count."""
    scores = {name: aicc(s.mean_square, len(s.residuals), len(s.at) + 1) for name, s in solutions.items()}
    return independent(solutions[least_of(scores)])


def least_of(scores: Mapping[str, float | None]) -> str:
    """Return the name of the least score; None is worse than any."""
    return min(scores, key=lambda name: math.inf if (score := scores[name]) is None else score)


def halves(solution: Solution, size: float, parameters: int) -> Float:
    """Return half the widths of the 95 % intervals of a solution's parameters, widened to `size` independent points."""
    spare = max(size - parameters, 1.0)
    variance = float((solution.residuals**2).sum()) / max(len(solution.residuals) - parameters, 1)
    widened = np.clip(np.diag(solution.covariance), 0, None) * variance * len(solution.residuals) / size
    return np.asarray(t_quantile(0.95, spare) * np.sqrt(widened))


def aicc(mean_square: float, size: float, parameters: int) -> float | None:
    """Return the corrected Akaike criterion n log σ² + 2k + 2k(k + 1)/(n − k − 1); None where n is too small for k."""
    spare = size - parameters - 1
    if spare <= 0:
        return None
    return size * math.log(mean_square) + 2 * parameters + 2 * parameters * (parameters + 1) / spare


def akaike_weights(fits: Mapping[str, Fit]) -> dict[str, float]:
    """Return exp(−Δ/2), normalised, over the fits that have a criterion."""
    scores = {name: fit.aicc for name, fit in fits.items() if fit.aicc is not None}
    least = min(scores.values(), default=0.0)
    raw = {name: math.exp(-min((scores[name] - least) / 2, 700.0)) if name in scores else 0.0 for name in fits}
    total = sum(raw.values()) or 1.0
    return {name: weight / total for name, weight in raw.items()}


def judge_tail(time: ArrayLike, gap: ArrayLike, *, rates: ArrayLike | None = None) -> Tail:
    """Judge by which law a gap Δ `[t]` ends: "exponential", "polynomial", "floor reached" or "undetermined".

    All by AICc among `compare_tails`; a law 6 units worse is out of the running.

    - "floor reached": a law with a floor is among the best, laws without one and with one time scale are out, and at the
      end of the window the floor is at least nine tenths of Δ. Needs a fall by a factor 3.
    - "exponential": Δ falls by 2 decades; the power laws are out; up to three exponentials are as good as any law; and the
      window ends after 5 relaxation times of the slowest of them. Decades of time are not asked for: an exponential has a
      time scale of its own, and from t to 2t it may fall by any number of decades.
    - "polynomial": 1.5 decades of time and 2 of Δ; every sum of up to three exponentials, the stretched one, and the one
      with a floor are out; no floor is needed; θ is the same in the later half of the window; and the power law is old
      enough. By Bernstein's theorem any power law is a mixture of exponentials, so Δ alone cannot exclude a broad
      spectrum, whose power law lasts from the fastest to the slowest relaxation time. K modes with rates up to λ spread
      evenly give ages 1/λ to K/λ, of which the ends bend: 200 modes show less than two decades. So the *age* of the fitted
      power law (t counted from its own origin, which the bend of a spectrum shifts back) and t itself must both grow by
      2.25 decades inside the window. Where `rates` are known (of single modes, positive), it is enough that the window
      ends after 5/(slowest rate), and it must.

    A spectrum whose weights themselves follow a power of the rate over more than 2.25 decades passes for polynomial unless
    its rates are given: fit single modes. Source: science.md section 4 `[def]`.

    Raises:
        ValueError: lengths differ, times do not increase, or a rate is not positive.

    >>> time = np.geomspace(1, 1000, 60)
    >>> judge_tail(time, 5 / time).verdict, round(judge_tail(time, 5 / time).theta, 3)
    ('polynomial', 1.0)
    >>> judge_tail(time, np.exp(-time / 50)).verdict
    'exponential'
    """
    slowest = None if rates is None else slowest_rate(rates)
    across, logs, note = positive_part(time, gap, "gap")
    across, logs = thinned(*after_start(across, logs))
    if len(logs) < FEWEST_FOR_A_VERDICT:
        why = f"a verdict on a tail takes {FEWEST_FOR_A_VERDICT} points, got {len(logs)}: evaluate more often"
        return Tail("undetermined", None, None, joined_words(why, note), None, ends(across))
    tails = compared(across, logs, note)
    objections = {
        "floor reached": against_floor(tails, logs),
        "exponential": against_exponential(tails, across, logs),
        "polynomial": against_polynomial(tails, across, logs, slowest),
    }
    verdict = next((name for name, objection in objections.items() if not objection), "undetermined")
    theta, interval = tail_exponent(tails.fits["power"], verdict)
    why = " / ".join(f"not {name}: {objection}" for name, objection in objections.items() if objection)
    return Tail(verdict, theta, interval, joined_words(why, note), tails, ends(across))


def against_floor(tails: Tails, logs: Float) -> str:
    """Return what speaks against a floor that has been reached, or nothing."""
    name = better_of(tails, ("exponential + floor", "power + floor"))
    if distance(tails, name) > WORSE:
        return "laws without a floor are better"
    if min(distance(tails, other) for other in ("exponential", "power", "stretched")) < OUT_OF_EVIDENCE:
        return "a law with one time scale and no floor is within the evidence"
    share = tails.fits[name].parameters["floor"] / math.exp(float(logs[-3:].mean()))
    if share < AT_FLOOR:
        return f"the floor would be {share:.0%} of the gap at the end"
    return "" if logs.max() - logs[-1] > math.log(3) else "the gap fell by less than a factor 3"


def against_exponential(tails: Tails, time: Float, logs: Float) -> str:
    """Return what speaks against an exponential tail, or nothing."""
    if short := too_short(time, logs, 0.0) or too_correlated(tails):
        return short
    name = simplest_exponential(tails)
    if distance(tails, name) >= OUT_OF_EVIDENCE:
        return f"{best_of(tails)} is better"
    for rival in ("power", "power + floor"):
        if distance(tails, rival) - distance(tails, name) < OUT_OF_EVIDENCE:
            return f"{rival} is within the evidence"
    waited = float(time[-1]) * min(rates_of(tails.fits[name]))
    if waited < RELAXATIONS:
        return f"the window ends {waited:.1f} relaxation times of its slowest mode after the start, not {RELAXATIONS:g}"
    return ""


def against_polynomial(tails: Tails, time: Float, logs: Float, slowest: float | None) -> str:
    """Return what speaks against a polynomial tail, or nothing."""
    if short := too_short(time, logs, DECADES_OF_TIME) or too_correlated(tails):
        return short
    if slowest is not None and time[-1] * slowest < RELAXATIONS:
        return f"the window ends at {time[-1]:g}, before {RELAXATIONS:g} relaxation times of its slowest mode"
    if distance(tails, "power") >= OUT_OF_EVIDENCE:
        return f"{best_of(tails)} is better"
    for rival in (*EXPONENTIALS, "stretched", "exponential + floor"):
        if distance(tails, rival) - distance(tails, "power") < OUT_OF_EVIDENCE:
            return f"{rival} is within the evidence"
    grown = decades_of_power(tails.fits["power"], time)
    if slowest is None and grown < DECADES_OF_POWER:
        return (
            f"the power law lasts for {grown:.2f} decades, and a spectrum of rates imitates it for {DECADES_OF_POWER:g}"
        )
    return unsteady(tails.fits["power"], time, logs)


def too_short(time: Float, logs: Float, decades: float) -> str:
    """Return which of the window's extents is short, or nothing."""
    of_time, of_gap = math.log10(time[-1] / time[0]), float(logs[0] - logs[-1]) / math.log(10)
    if of_time < decades:
        return f"the window spans {of_time:.2f} decades of time, not {decades:g}"
    return f"the gap falls by {of_gap:.2f} decades, not {DECADES_OF_GAP:g}" if of_gap < DECADES_OF_GAP else ""


def too_correlated(tails: Tails) -> str:
    """Return that too few points are independent for a choice among seven laws, or nothing."""
    size = tails.fits["power"].effective_n
    return f"the points are worth only {size:.1f} independent ones" if size < FEWEST_EFFECTIVE else ""


def unsteady(power: Fit, time: Float, logs: Float) -> str:
    """Return that θ moves from the whole window to its later half, or nothing."""
    later = theta_of(power_of(time[len(time) // 2 :], logs[len(time) // 2 :]))
    moved = abs(later - theta_of(power)) > STEADY
    return f"θ is {theta_of(power):.3f} over the window and {later:.3f} over its later half" * moved


def window_scan(time: ArrayLike, gap: ArrayLike) -> tuple[Float, Float]:
    """Return starts of windows `[w]` and the θ `[w]` of the power law fitted from each to the end: a flat curve is steady.

    Up to 12 starts, evenly spaced among the points, none leaving fewer than a third of them. Raises: as `judge_tail`.

    >>> starts, thetas = window_scan(np.geomspace(1, 1000, 40), np.geomspace(1, 1000, 40) ** -3.0)
    >>> len(starts), bool(np.allclose(thetas, 2 / 3))
    (12, True)
    """
    across, logs, _ = positive_part(time, gap, "gap")
    across, logs = thinned(*after_start(across, logs))
    last = len(logs) - max(len(logs) // 3, FEWEST_POINTS)
    if last < 0:
        return np.empty(0), np.empty(0)
    places = np.unique(np.linspace(0, last, 12).astype(int))
    return across[places], np.array([theta_of(power_of(across[i:], logs[i:])) for i in places.tolist()])


def power_of(time: Float, logs: Float) -> Fit:
    """Return the power law with a free age fitted to logarithms."""
    scale, span = scaled(time)
    power = next(law for law in laws_since(float(time[0]) / span) if law.name == "power")
    solution = fitted(power, scale, logs - logs[0])
    return described(power, solution, time, logs, independent(solution), "")


def theta_of(power: Fit) -> float:
    """Return θ = ½ (1 + 1/p) of a power law t^−p."""
    return 0.5 * (1 + 1 / power.parameters["exponent"])


def theta_precision(power: Fit) -> tuple[float, float]:
    """Return the precision of θ; a p without an upper bound gives ½, and no θ is above that of the shallowest law."""
    low, high = power.precision["exponent"]
    return 0.5 * (1 + 1 / high), 0.5 * (1 + 1 / max(low, SHALLOWEST))


def tail_exponent(power: Fit, verdict: str) -> tuple[float | None, tuple[float, float] | None]:
    """Return θ and its precision: ½ for an exponential, none for a floor, else that of the power law where it has one."""
    if verdict == "exponential":
        return 0.5, None
    if verdict == "floor reached" or power.outcome is not FitOutcome.CONVERGED:
        return None, None
    return theta_of(power), theta_precision(power)


def decades_of_power(power: Fit, time: Float) -> float:
    """Return by how many decades both the age of a power law and the time grow inside the window."""
    span, age = float(time[-1] - time[0]), power.parameters["age"]
    return min(math.log10(1 + span / age), math.log10(time[-1] / time[0]))


def slowest_rate(rates: ArrayLike) -> float:
    """Return the smallest of known positive rates."""
    known = finite(rates, "rates")
    if (known <= 0).any():
        raise ValueError(f"rates: expected positive rates, got {known.min():g}; a mode that stands still has none")
    return float(known.min())


def distance(tails: Tails, name: str) -> float:
    """Return how many AICc units a law is worse than the best; infinite where it has no criterion."""
    scores = {key: fit.aicc for key, fit in tails.fits.items() if fit.aicc is not None}
    return scores[name] - min(scores.values()) if name in scores else math.inf


def better_of(tails: Tails, names: Sequence[str]) -> str:
    """Return the best of some laws."""
    return min(names, key=lambda name: distance(tails, name))


def best_of(tails: Tails) -> str:
    """Return the best of all laws."""
    return better_of(tails, tuple(tails.fits))


def simplest_exponential(tails: Tails) -> str:
    """Return the sum of the fewest exponentials that is not worse than a sum of more."""
    least = min(distance(tails, name) for name in EXPONENTIALS)
    return next(name for name in EXPONENTIALS if distance(tails, name) <= least + WORSE)


def rates_of(fit: Fit) -> list[float]:
    """Return the rates of a sum of exponentials."""
    return [value for name, value in fit.parameters.items() if name.startswith("rate")]


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


def finite_part(time: ArrayLike, value: ArrayLike, name: str) -> tuple[Float, Float, str]:
    """Return times and values that are finite, and in words what was left out."""
    across, up = np.asarray(time, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if across.ndim != 1 or across.shape != up.shape:
        raise ValueError(f"{name}: expected one value a time, got shapes {list(up.shape)} and {list(across.shape)}")
    if not np.isfinite(across).all() or (np.diff(across) <= 0).any() or (across < 0).any():
        raise ValueError(f"{name}: expected finite times that increase from 0 or later, got others; sort them")
    kept = np.isfinite(up)
    return across[kept], up[kept], left_out(int((~kept).sum()), f"values of {name} that are not finite")


def positive_part(
    time: ArrayLike, value: ArrayLike, name: str, *, refuses_negative: bool = False
) -> tuple[Float, Float, str]:
    """Return times and the logarithms of values that are finite and positive, and in words what was left out."""
    across, up, note = finite_part(time, value, name)
    if refuses_negative and (up < 0).any():
        raise ValueError(f"{name}: expected no negative numbers, got {up.min():g}")
    kept = up > 0
    return across[kept], np.log(up[kept]), joined_words(note, left_out(int((~kept).sum()), f"{name} not above 0"))


def after_start(time: Float, value: Float) -> tuple[Float, Float]:
    """Return a series without a leading time 0, which has no logarithm."""
    return (time[1:], value[1:]) if len(time) and time[0] == 0 else (time, value)


def thinned(time: Float, logs: Float) -> tuple[Float, Float]:
    """Return at most 80 points: neighbours on the log scale of time are joined into their means."""
    if len(time) <= MOST_POINTS:
        return time, logs
    edges = np.geomspace(time[0], time[-1], MOST_POINTS + 1)[1:-1]
    place = np.unique(np.searchsorted(edges, time, side="right"), return_inverse=True)[1]
    count = np.bincount(place)
    return np.bincount(place, time) / count, np.bincount(place, logs) / count


def scaled(time: Float) -> tuple[Float, float]:
    """Return (t − t_a) / (t_b − t_a) and t_b − t_a."""
    span = float(time[-1] - time[0])
    return (time - time[0]) / span, span


def left_out(count: int, what: str) -> str:
    """Return in words that something was left out, or nothing."""
    return f"left out: {count} {what}" if count else ""


def joined_words(*parts: str) -> str:
    """Return the sentences that say something."""
    return "; ".join(part for part in parts if part)
