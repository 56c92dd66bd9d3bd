"""This file knows how a law is fitted by least squares: on which points, within which bounds, and how surely."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from twoclocks.stats import autocorrelation, effective_size, t_quantile
from twoclocks.trajectory import Float

MOST_EVALUATIONS = 250  # of a law; only a mode that the curve does not need takes more, and it never settles
MOST_POINTS = 80  # points on a log scale of time that a law is fitted to; more are joined
WORSE = 2.0  # AICc units from which a law counts as worse
RESOLUTION = 1e-4  # relative; laws that all come closer than this are equally good


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


def fitted(law: Law, across: Float, logs: Float) -> Solution:
    """Return the least-squares solution of one law for scaled times and logarithms that start at 0."""
    return solved(lambda at: law.log_value(across, at) - logs, law.starts(across, logs), law.low, law.high)


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
