"""This file knows by which law a gap ends, and when no law can be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from twoclocks.fits import FEWEST_POINTS, Fit, FitOutcome, ends
from twoclocks.least_squares import (
    WORSE,
    Law,
    Solution,
    after_start,
    aicc,
    fitted,
    halves,
    independent,
    joined_words,
    law_of,
    least_of,
    positive_part,
    scaled,
    thinned,
)
from twoclocks.stats import finite
from twoclocks.trajectory import Float

FEWEST_FOR_A_VERDICT = 12  # points: seven laws to tell apart
FEWEST_EFFECTIVE = 10.0  # independent points that the seven parameters of three noisy exponentials need
OUT_OF_EVIDENCE = 6.0  # AICc units from which a law is out of the running: odds of about 1 to 20
DECADES_OF_TIME = 1.5
DECADES_OF_GAP = 2.0
DECADES_OF_POWER = 2.25  # of age, where the rates are unknown; see `judge_tail`
RELAXATIONS = 5.0  # relaxation times of the slowest mode after which only it is left
AT_FLOOR = 0.9  # share of the gap that is floor at the end of the window
STEADY = 0.1  # change of θ from the whole window to its later half that is not steady any more
STEEPEST = 20.0  # θ = .525: a steeper power law is not told from an exponential
SHALLOWEST = 0.05
# Bounds of the logarithms of parameters; rates and ages count in windows, so a rate of e⁻⁷ is a floor
AMPLITUDE, RATE, AGE = (-800.0, 30.0), (-7.0, 14.0), (-25.0, 3.0)
POWER, SHAPE, FALL = (math.log(SHALLOWEST), math.log(STEEPEST)), (math.log(0.05), math.log(3.0)), (-7.0, 7.0)
EXPONENTIALS = ("exponential", "two exponentials", "three exponentials")


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


def size_by_best(solutions: Mapping[str, Solution]) -> float:
    """Return the effective number of points by the residuals of the law that is best when all points count."""
    scores = {name: aicc(s.mean_square, len(s.residuals), len(s.at) + 1) for name, s in solutions.items()}
    return independent(solutions[least_of(scores)])


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
