"""This file knows how sure a number is: slopes of autocorrelated series, times that may be censored, means over runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
HIGHEST_CORRELATION = 0.98  # a corrected correlation of 1 would be a random walk, whose slope no window determines
CORRECTED_FROM = 8  # residuals: below, the correction for bias is larger than what it corrects
FEWEST_EFFECTIVE = 4  # independent evaluations behind a t interval: with 2 degrees of freedom it is wide enough


@dataclass(frozen=True)
class Slope:
    """A straight line through evaluations: slope, its standard error and 95 % interval, all in units of y per x.

    `effective_n` is how many independent evaluations the `n` are worth.
    """

    value: float
    error: float
    interval: tuple[float, float]
    intercept: float
    n: int
    effective_n: float


@dataclass(frozen=True)
class MedianTime:
    """The median of times over `n` runs and its interval; None means later than the last time.

    `events` is how many of the runs reached it.
    """

    value: float | None
    interval: tuple[float | None, float | None]
    n: int
    events: int


@dataclass(frozen=True)
class Test:
    """A test: its statistic, its two-sided p-value, and the number of runs or pairs that had a say."""

    __test__: ClassVar[bool] = False  # its name would make pytest look for tests in it
    statistic: float
    p: float
    n: int


def hac_slope(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> Slope:
    """Return the least-squares slope of y `[t]` on x `[t]` with an error that allows for autocorrelation.

    Newey–West (Bartlett weights) of the scores, after the residuals are prewhitened by their bias-corrected lag-one
    correlation ρ, bandwidth by Andrews 1991 (AR(1) plug-in, 1.1447 (α n)^(1/3)). The prewhitened part has its exact
    finite-sample form, error² = σ² w′Rw with R_ij = ρ^|i−j|, because recolouring by 1/(1 − ρ)² is far off below some
    200 evaluations; what Newey–West finds beyond it only widens. The interval is a t interval with effective_n − 2
    degrees of freedom. Evaluations may be unevenly spaced: ρ is from one to the next. Source: Newey & West 1987,
    Andrews & Monahan 1992; the finite-sample form `[def]`.

    Raises:
        ValueError: lengths differ, fewer than 3 evaluations, a number is not finite, or all x are equal.

    >>> line = hac_slope([0, 1, 2, 3], [1, 3, 5, 7])
    >>> round(line.value, 9), round(line.intercept, 9), round(line.error, 9)
    (2.0, 1.0, 0.0)
    """
    across, up = paired(x, y)
    unit = float(np.abs(up).max()) or 1.0  # so that squares neither overflow nor vanish
    centred, scaled = across - across.mean(), up / unit
    slope = float(centred @ scaled) / float(centred @ centred)
    residuals = scaled - scaled.mean() - slope * centred
    rho = max(autocorrelation(residuals), 0.0)
    size = max(effective_size(len(up), rho), min(float(len(up)), FEWEST_EFFECTIVE))
    error = unit * slope_error(centred, residuals, rho)
    half = t_quantile(level, max(size - 2.0, 1.0)) * error
    value, mean = unit * slope, unit * float(scaled.mean())
    interval = value - half, value + half
    return Slope(value, error, interval, mean - value * float(across.mean()), len(up), size)


def slope_error(centred: Float, residuals: Float, rho: float) -> float:
    """Return the standard error of a slope: σ² w′Rw, widened where the whitened scores are correlated or uneven."""
    spread = float(centred @ centred)
    lost = correlated_energy(np.ones(len(centred)), rho) / len(centred) + correlated_energy(centred, rho) / spread
    variance = float(residuals @ residuals) / max(len(centred) - lost, 1e-9)
    white = residuals[1:] - rho * residuals[:-1]
    plain = float((centred[1:] ** 2).mean() * (white @ white))
    widening = long_run_energy(centred[1:] * white) / plain if plain > 0 else 1.0
    return math.sqrt(variance * correlated_energy(centred, rho) * max(widening, 1.0)) / spread


def correlated_energy(weights: Float, rho: float) -> float:
    """Return w′Rw with R_ij = ρ^|i−j|, by recursion."""
    total = carried = 0.0
    for weight in weights.tolist():
        total += weight * (weight + 2 * carried)
        carried = rho * (carried + weight)
    return total


def long_run_energy(scores: Float) -> float:
    """Return Σ_l (1 − |l| / b) Σ_i u_i u_{i+l} over |l| < b, the Bartlett sum with Andrews' bandwidth b."""
    energy = float(scores @ scores)
    alpha = float(scores[1:] @ scores[:-1]) / energy if energy > 0 else 0.0
    alpha = min(max(alpha, -HIGHEST_CORRELATION), HIGHEST_CORRELATION)
    bandwidth = min(1.1447 * (4 * alpha**2 / (1 - alpha**2) ** 2 * len(scores)) ** (1 / 3), len(scores) / 4)
    for lag in range(1, math.ceil(bandwidth)):
        energy += 2 * (1 - lag / bandwidth) * float(scores[lag:] @ scores[:-lag])
    return max(energy, 0.0)


def autocorrelation(residuals: ArrayLike) -> float:
    """Return the lag-one autocorrelation of residuals `[t]` around a fitted line, between −0.98 and 0.98.

    r = Σ e_i e_{i+1} / Σ e_i², and from 8 residuals on (n r + 2) / (n − 4), which undoes the bias −(2 + 4ρ) / n that
    fitting a line brings. Residuals that are all 0 have none. Source: Kendall 1954. Raises: as `hac_slope`.

    >>> autocorrelation([1, -1, 1, -1])
    -0.75
    """
    rest = finite(residuals, "residuals")
    energy = float(rest @ rest)
    if energy == 0:
        return 0.0
    plain = float(rest[1:] @ rest[:-1]) / energy
    corrected = (len(rest) * plain + 2) / (len(rest) - 4) if len(rest) >= CORRECTED_FROM else plain
    return min(max(corrected, -HIGHEST_CORRELATION), HIGHEST_CORRELATION)


def effective_size(n: int, rho: float) -> float:
    """Return how many independent evaluations n correlated ones are worth: n (1 − ρ) / (1 + ρ), between 1 and n.

    Source: Bartlett 1946, for AR(1) noise.

    Raises:
        ValueError: n is below 1, or ρ is not between −1 and 1.

    >>> effective_size(90, 0.5)
    30.0
    """
    if n < 1 or not -1 < rho < 1:
        raise ValueError(f"expected n of at least 1 and rho between −1 and 1, got {n} and {rho}")
    return min(max(n * (1 - rho) / (1 + rho), 1.0), float(n))


def kaplan_meier_median(times: Sequence[float], censored: Sequence[bool], level: float = 0.95) -> MedianTime:
    """Return the median of times over runs, some of them censored (not reached by then), with its interval.

    The median is the first time at which the Kaplan–Meier share of runs still waiting is at most one half (of an even
    number of runs, the earlier middle one). The interval holds the times at which that share is compatible with one half
    on the log(−log) scale. Where every run has come the scale ends; the last time is a bound if the chance that all
    events precede the median, 2^−events, allows it (6 of them at 95 %). A time that was reached already at a run's first
    evaluation is an upper bound; it is counted as an event at that time, so the median is then an upper bound too.
    Source: Brookmeyer & Crowley 1982.

    Raises:
        ValueError: no runs, lengths differ, or a time is not finite.

    >>> kaplan_meier_median([10, 20, 30, 40, 40], [False, False, False, True, True])
    MedianTime(value=30.0, interval=(10.0, None), n=5, events=3)
    """
    time, event = events_of(times, censored)
    steps = survival(time, event)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    low = next((at for at, share, spread in steps if lowest_share(share, spread, z) <= 0.5), None)
    high = next((at for at, share, spread in steps if highest_share(share, spread, z) <= 0.5), None)
    if high is None and steps and steps[-1][1] == 0 and 0.5 ** int(event.sum()) <= (1 - level) / 2:
        high = steps[-1][0]
    middle = next((at for at, share, _ in steps if share <= 0.5 + 1e-12), None)
    return MedianTime(middle, (low, high), len(time), int(event.sum()))


def survival(time: Float, event: NDArray[np.bool_]) -> list[tuple[float, float, float]]:
    """Return (time, share of runs still waiting after it, Greenwood's Σ d / (n (n − d))) at every time of an event."""
    share, spread, steps = 1.0, 0.0, []
    for at in np.unique(time[event]).tolist():
        waiting, came = int((time >= at).sum()), int((time[event] == at).sum())
        share *= 1 - came / waiting
        spread = spread + came / (waiting * (waiting - came)) if waiting > came else math.inf
        steps.append((at, share, spread))
    return steps


def lowest_share(share: float, spread: float, z: float) -> float:
    """Return the lower limit of a Kaplan–Meier share on the log(−log) scale."""
    return 0.0 if share == 0 else share ** math.exp(z * math.sqrt(spread) / -math.log(share))


def highest_share(share: float, spread: float, z: float) -> float:
    """Return the upper limit of a Kaplan–Meier share on the log(−log) scale; 1, no limit, where no run is left."""
    return 1.0 if share == 0 else share ** math.exp(-z * math.sqrt(spread) / -math.log(share))


def log_rank(
    times_a: Sequence[float], censored_a: Sequence[bool], times_b: Sequence[float], censored_b: Sequence[bool]
) -> Test:
    """Return the log-rank test of equal times in two groups of runs: (observed − expected)² / variance, two-sided p.

    p is that of χ² with one degree of freedom. Groups without any event say nothing: p = 1. Source: Mantel 1966.
    Raises: as `kaplan_meier_median`, in either group.

    >>> round(log_rank([1, 2, 3], [False] * 3, [4, 5, 6], [False] * 3).statistic, 4)  # (3 − 1.15)² / 0.6775
    5.0517
    """
    (a, event_a), (b, event_b) = events_of(times_a, censored_a), events_of(times_b, censored_b)
    surplus = variance = 0.0
    for at in np.unique(np.concatenate([a[event_a], b[event_b]])).tolist():
        in_a, waiting = int((a >= at).sum()), int((a >= at).sum() + (b >= at).sum())
        came_a = int((a[event_a] == at).sum())
        came = came_a + int((b[event_b] == at).sum())
        surplus += came_a - came * in_a / waiting
        if waiting > 1:
            variance += came * (waiting - came) * in_a * (waiting - in_a) / (waiting**2 * (waiting - 1))
    statistic = surplus**2 / variance if variance > 0 else 0.0
    return Test(statistic, math.erfc(math.sqrt(statistic / 2)), len(a) + len(b))


def paired_sign_test(
    earlier: Sequence[float],
    later: Sequence[float],
    censored_earlier: Sequence[bool],
    censored_later: Sequence[bool],
) -> Test:
    """Return the exact two-sided sign test that, run by run, neither of two times tends to come later.

    The statistic counts the runs in which `later` came later, of the `n` that tell. A run tells nothing if the times tie,
    if both are censored, or if one is censored before the other came; a time censored at or after an event is later than
    it. p is 2 P(at least so many of n fair coins agree), at most 1. Source: Conover 1999, chapter 3.4.

    Raises:
        ValueError: as `kaplan_meier_median`, or the two have different numbers of runs.

    >>> paired_sign_test([1, 2, 3, 4, 5], [2, 9, 9, 9, 9], [False] * 5, [False, False, True, True, True])
    Test(statistic=5.0, p=0.0625, n=5)
    """
    (first, came_first), (second, came_second) = events_of(earlier, censored_earlier), events_of(later, censored_later)
    if len(first) != len(second):
        raise ValueError(f"paired times: expected as many runs in both, got {len(first)} and {len(second)}")
    after = came_first & ((second > first) | (~came_second & (second == first)))
    before = came_second & ((first > second) | (~came_first & (first == second)))
    n, count = int((after | before).sum()), int(after.sum())
    most = max(count, n - count)
    tail = sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n
    return Test(float(count), min(1.0, 2 * tail), n)


def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the t interval of a mean over runs, mean ∓ t_{n−1} s / √n, in the unit of the values `[r]`.

    Source: Student 1908.

    Raises:
        ValueError: fewer than 2 values, or one is not finite.

    >>> [round(bound, 4) for bound in t_interval([1.0, 2.0, 3.0])]  # 2 ∓ 4.3027 / √3
    [-0.4841, 4.4841]
    """
    runs = finite(values, "values")
    if len(runs) < 2:
        raise ValueError(f"values: expected at least 2 runs, got {len(runs)}; one run has no interval over runs")
    half = t_quantile(level, len(runs) - 1.0) * float(runs.std(ddof=1)) / math.sqrt(len(runs))
    return float(runs.mean()) - half, float(runs.mean()) + half


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share, from `successes` out of `n`.

    (p + z²/2n ∓ z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n). Source: Wilson 1927.

    Raises:
        ValueError: n is below 1, or successes are not between 0 and n.

    >>> [round(bound, 4) for bound in wilson_interval(5, 10)]
    [0.2366, 0.7634]
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected n of at least 1 and between 0 and n successes, got {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, extra = successes / n, z**2 / n
    half = z * math.sqrt(share * (1 - share) / n + extra / (4 * n))
    low, high = (share + extra / 2 - half) / (1 + extra), (share + extra / 2 + half) / (1 + extra)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def t_quantile(level: float, degrees: float) -> float:
    """Return the two-sided quantile of Student's t."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share between 0 and 1, got {level}")
    from scipy.special import stdtrit  # 40 ms that a reader of one number does not pay

    return float(stdtrit(degrees, 0.5 + level / 2))


def finite(values: ArrayLike, name: str) -> Float:
    """Return values in float64, refusing what is not one axis of finite numbers."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"{name}: expected one axis and at least one number, got shape {list(numbers.shape)}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity; leave that evaluation out")
    return numbers


def paired(x: ArrayLike, y: ArrayLike) -> tuple[Float, Float]:
    """Return two series in float64, refusing those through which no line can be fitted."""
    across, up = finite(x, "x"), finite(y, "y")
    if len(across) != len(up) or len(up) < 3:
        raise ValueError(f"a slope needs at least 3 pairs, got {len(across)} x and {len(up)} y")
    if np.ptp(across) == 0:
        raise ValueError(f"x: expected at least two different numbers, got {len(across)} times {across[0]:g}")
    return across, up


def events_of(times: Sequence[float], censored: Sequence[bool]) -> tuple[Float, NDArray[np.bool_]]:
    """Return times and which of them are events, refusing what does not match."""
    time = finite(times, "times")
    event = ~np.asarray(censored, dtype=bool)
    if event.shape != time.shape:
        raise ValueError(f"censored: expected one mark a time, got {event.size} marks for {len(time)} times")
    return time, event


def paired_difference_interval(gains: int, losses: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Tango's score interval of the difference of two shares that are measured on the same `n` examples.

    Of the examples `gains` are right only the second time and `losses` only the first; the difference (gains − losses) / n
    lies inside. Its ends are the δ at which (gains − losses − n δ)² = z² n (2 q + δ (1 − δ)), q being the likeliest share of
    losses were the difference δ. Its coverage is kept where few examples differ, or none. Source: Tango 1998.

    Raises:
        ValueError: n is below 1, or gains and losses are not counts of distinct examples out of n.

    >>> [round(bound, 4) for bound in paired_difference_interval(0, 0, 16)]  # ∓ z² / (n + z²) = 3.8415 / 19.8415
    [-0.1936, 0.1936]
    """
    if n < 1 or min(gains, losses) < 0 or gains + losses > n:
        raise ValueError(f"expected n of at least 1 and counts of at most n together, got {gains}, {losses} of {n}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share between 0 and 1, got {level}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return -highest_difference(losses, gains, n, z), highest_difference(gains, losses, n, z)


def highest_difference(gains: int, losses: int, n: int, z: float) -> float:
    """Return the largest difference that a score test does not reject, by halving."""
    low, high = (gains - losses) / n, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        away = n * middle - gains + losses
        kept = away <= z * math.sqrt(n * (2 * likeliest_losses(gains, losses, n, middle) + middle * (1 - middle)))
        low, high = (middle, high) if kept else (low, middle)
    return low


def likeliest_losses(gains: int, losses: int, n: int, difference: float) -> float:
    """Return the likeliest share of losses if the share of gains exceeds it by `difference`."""
    linear = (2 * n - gains + losses) * difference - gains - losses
    constant = -losses * difference * (1 - difference)
    return max(0.0, (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n))
