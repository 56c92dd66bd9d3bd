"""Fits: exact flows first, then noise, then what must not be told: no law where the data allow several."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from twoclocks import fits
from twoclocks.fits import FitOutcome

Array = NDArray[np.float64]


def wobble(rng: np.random.Generator, n: int, size: float, rho: float = 0.0) -> Array:
    """Return AR(1) noise of a standard deviation."""
    values = rng.normal(size=n)
    for i in range(1, n):
        values[i] = rho * values[i - 1] + math.sqrt(1 - rho**2) * values[i]
    return size * values


def flow(q: float, time: Array) -> tuple[Array, Array]:
    """Return F and ‖∇F‖² along the flow on |x|^q / q from x = 1."""
    x = np.exp(-time) if q == 2 else (1 + (q - 2) * time) ** (-1 / (q - 2))
    return x**q / q, x ** (2 * q - 2)


def mode_spectrum(time: Array, rates: Array, weights: Array | None = None) -> Array:
    with np.errstate(under="ignore"):
        decays = np.exp(-np.outer(time, rates))
        return decays.mean(1) if weights is None else decays @ weights


CASE_18 = np.arange(1, 201) / 200


@pytest.mark.parametrize(("q", "theta"), [(2, 0.5), (3, 0.6665), (4, 0.7497), (6, 0.8329)])
def test_case_5_the_exponent_of_a_flow_on_a_power(q: int, theta: float) -> None:
    step = np.geomspace(0.5, 1e4 if q > 2 else 40, 60)
    gap, squared = flow(q, step)
    fit = fits.lojasiewicz_exponent(step, squared)
    assert fit.outcome is FitOutcome.CONVERGED
    assert fit.parameters["theta"] == pytest.approx(1 - 1 / q, abs=1e-7)
    assert fit.parameters["theta"] == pytest.approx(theta, abs=5e-4)
    assert fit.parameters["kappa"] == pytest.approx((q - 2) / (2 * q - 2), abs=1e-7)
    assert fits.phase_exponent(gap, squared).parameters["theta"] == pytest.approx(1 - 1 / q, abs=1e-9)


@pytest.mark.parametrize("q", [2, 3, 4, 6])
def test_the_relaxation_time_grows_linearly_with_the_slope_of_the_fit(q: int) -> None:
    """The definition a second time: R by differences, its slope by regression of R on t, each relative to R."""
    step = np.geomspace(0.5, 1e4 if q > 2 else 40, 200)
    midpoints, times = fits.relaxation_time(step, flow(q, step)[1])
    assert len(midpoints) == 198
    design = np.stack([midpoints, np.ones_like(midpoints)], 1) / times[:, None]
    kappa, _ = np.linalg.lstsq(design, np.ones_like(times), rcond=None)[0]
    assert kappa == pytest.approx((q - 2) / (2 * q - 2), abs=2e-3)


def test_a_numerical_flow_with_a_transient_gives_its_exponent_late() -> None:
    """Gradient flow on x⁴/4 + 10 y²/2: the quadratic direction dies out, the quartic one stays."""
    step = np.geomspace(10, 1e5, 60)
    x, y = (1 + 2 * step) ** -0.5, np.exp(-10 * step)
    fit = fits.lojasiewicz_exponent(step, x**6 + 100 * y**2)
    assert fit.parameters["theta"] == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_the_precision_of_an_exponent_holds_the_truth_under_noise(rho: float) -> None:
    rng, step, hits = np.random.default_rng(0), np.geomspace(1, 1000, 60), []
    for _ in range(60):
        low, high = fits.lojasiewicz_exponent(step, flow(4, step)[1] * np.exp(wobble(rng, 60, 0.02, rho))).precision[
            "theta"
        ]
        hits.append(low <= 0.75 <= high)
        assert high - low < 0.02
    assert np.mean(hits) >= 0.83


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1e6))
@settings(max_examples=15, deadline=None)
def test_an_exponent_has_no_unit(clock: float, size: float) -> None:
    step = np.geomspace(1, 100, 30)
    squared = flow(3, step)[1] * np.exp(wobble(np.random.default_rng(1), 30, 0.02))
    one = fits.lojasiewicz_exponent(step, squared)
    other = fits.lojasiewicz_exponent(clock * step, size * squared)
    assert other.parameters["theta"] == pytest.approx(one.parameters["theta"], abs=1e-5)


@pytest.mark.parametrize(
    ("squared", "outcome"),
    [
        (np.ones(30), FitOutcome.FLAT),
        (np.arange(1.0, 31.0), FitOutcome.NOT_MONOTONE),
        (np.exp(np.arange(30) / 10 + wobble(np.random.default_rng(0), 30, 0.1)), FitOutcome.NOT_MONOTONE),
        (np.exp(wobble(np.random.default_rng(0), 30, 0.1)), FitOutcome.FLAT),
        (np.exp(-np.arange(6.0)), FitOutcome.TOO_FEW_POINTS),
        (np.zeros(30), FitOutcome.TOO_FEW_POINTS),
        (1 / np.log(2 + np.arange(30.0)), FitOutcome.AT_BOUND),
    ],
)
def test_what_does_not_relax_is_an_outcome_with_a_remedy(squared: Array, outcome: FitOutcome) -> None:
    fit = fits.lojasiewicz_exponent(np.arange(len(squared)), squared)
    assert fit.outcome is outcome
    assert fit.message
    assert bool(fit.parameters) is (outcome is FitOutcome.AT_BOUND)


def test_zeros_and_nan_are_left_out_and_said() -> None:
    step, squared = np.arange(20), np.exp(-np.arange(20.0))
    squared[[3, 7]] = math.nan
    squared[-1] = 0.0
    fit = fits.lojasiewicz_exponent(step, squared)
    assert (fit.n, fit.window) == (16, (1.0, 18.0))
    assert "2 values" in fit.message
    assert "1 squared_gradient_norm not above 0" in fit.message
    assert fit.parameters["theta"] == pytest.approx(0.5, abs=1e-9)


def test_powers_between_quantities_are_their_slopes() -> None:
    gap = np.geomspace(1, 1e-6, 20)
    relation = fits.power_relation(gap, 7 * gap ** (1 / 3))
    assert relation.parameters["r"] == pytest.approx(1 / 3, abs=1e-9)
    assert relation.outcome is FitOutcome.CONVERGED
    assert fits.power_relation(gap, 1 / gap).outcome is FitOutcome.NOT_MONOTONE
    assert fits.power_relation(gap, np.ones(20)).outcome is FitOutcome.FLAT
    assert fits.power_relation(np.ones(20), gap).outcome is FitOutcome.FLAT
    assert fits.phase_exponent(gap[:5], gap[:5]).outcome is FitOutcome.TOO_FEW_POINTS


def test_a_decay_rate_is_that_of_the_exponential() -> None:
    time, rng = np.linspace(0, 10, 50), np.random.default_rng(2)
    fit = fits.decay_rate(time, 3 * np.exp(-0.7 * time + wobble(rng, 50, 0.1, 0.5)))
    low, high = fit.precision["rate"]
    assert low < 0.7 < high
    assert high - low < 0.1
    assert fits.decay_rate(time, np.exp(time)).outcome is FitOutcome.NOT_MONOTONE
    assert fits.decay_rate(time, np.ones(50)).outcome is FitOutcome.FLAT
    assert fits.decay_rate(time[:3], np.ones(3)).outcome is FitOutcome.TOO_FEW_POINTS


def test_a_clock_is_logarithmic_or_polynomial() -> None:
    threshold = np.geomspace(0.1, 1e-12, 30)
    logarithmic = fits.clock_exponent(threshold, (np.log(1 / threshold) / 0.3).tolist())
    assert logarithmic.parameters["exponent"] == pytest.approx(1 / np.log(1 / threshold[-10:]).mean(), rel=0.05)
    assert logarithmic.parameters["change"] < -0.1
    polynomial = fits.clock_exponent(threshold, (threshold**-0.5).tolist())
    assert polynomial.parameters["exponent"] == pytest.approx(0.5, abs=1e-9)
    assert polynomial.parameters["change"] == pytest.approx(0.0, abs=1e-9)


def test_censored_times_of_a_clock_are_left_out_and_counted() -> None:
    threshold = np.geomspace(0.1, 1e-4, 10)
    times: list[float | None] = [*(1 / threshold[:7]).tolist(), None, None, None]
    fit = fits.clock_exponent(threshold, times)
    assert fit.n == 7
    assert "3 censored" in fit.message
    assert fit.parameters["exponent"] == pytest.approx(1.0)
    assert fits.clock_exponent(threshold, [None] * 10).outcome is FitOutcome.TOO_FEW_POINTS


def test_every_law_is_recovered_from_its_own_curve() -> None:
    t = np.geomspace(1, 300, 60)
    curves = {
        "exponential": (np.exp(-t / 20), {"rate": 1 / 20}),
        "power": (4 * (1 + t) ** -2.5, {"exponent": 2.5, "age": 2.0}),
        "stretched": (np.exp(-3 * t**0.3), {"shape": 0.3}),
        "exponential + floor": (np.exp(-t / 10) + 0.01, {"rate": 0.1, "floor": 0.01}),
        "power + floor": (t**-3.0 + 1e-4, {"exponent": 3.0, "floor": 1e-4}),
        "two exponentials": (np.exp(-t) + 0.1 * np.exp(-t / 30), {}),
        "three exponentials": (np.exp(-t / 2) + 0.1 * np.exp(-t / 12) + 0.01 * np.exp(-t / 80), {}),
    }
    seen = 0
    for name, (curve, expected) in curves.items():
        tails = fits.compare_tails(t, curve)
        assert max(tails.weights, key=lambda key: tails.weights[key]) == name
        assert sum(tails.weights.values()) == pytest.approx(1.0)
        for parameter, value in expected.items():
            assert tails.fits[name].parameters[parameter] == pytest.approx(value, rel=1e-3), (name, parameter)
            seen += 1
    assert seen == 8
    slow = sorted(value for key, value in tails.fits["three exponentials"].parameters.items() if "rate" in key)
    assert_allclose(slow, [1 / 80, 1 / 12, 1 / 2], rtol=1e-3)


def test_sums_of_exponentials_are_evaluated_as_written() -> None:
    u, at = np.linspace(0, 1, 7), np.array([0.3, 1.0, -2.0, 0.1])
    slow = [math.log(math.exp(0.3 - math.e * x) + math.exp(-2.0 - math.exp(0.1) * x)) for x in u]
    assert_allclose(fits.log_exponentials(u, at), slow, rtol=1e-12)


def test_case_18_a_spectrum_of_exponentials_is_undetermined_early_and_exponential_late() -> None:
    rng, seen = np.random.default_rng(0), 0
    for size in (0.0, 0.01):
        early, late = np.geomspace(5, 60, 60), np.geomspace(2000, 4000, 60)
        gap = mode_spectrum(early, CASE_18) * np.exp(wobble(rng, 60, size))
        tail = fits.judge_tail(early, gap)
        assert tail.verdict == "undetermined"
        assert tail.theta == pytest.approx(1.0, abs=0.1)  # it looks like 1/t
        assert "decades" in tail.why
        assert fits.judge_tail(early, gap, rates=CASE_18).verdict == "undetermined"
        late_gap = mode_spectrum(late, CASE_18) * np.exp(wobble(rng, 60, size))
        assert fits.judge_tail(late, late_gap).verdict == "exponential"
        seen += 1
    assert seen == 2


@pytest.mark.parametrize(("first", "last"), [(2, 200), (1, 300), (0.5, 200), (3, 1000)])
def test_the_power_law_of_a_spectrum_is_too_short_to_be_believed(first: float, last: float) -> None:
    time = np.geomspace(first, last, 60)
    gap = mode_spectrum(time, CASE_18) * np.exp(wobble(np.random.default_rng(1), 60, 0.05))
    assert fits.judge_tail(time, gap).verdict != "polynomial"


@pytest.mark.parametrize("p", [1.0, 3.0, 1.5])  # p = q / (q − 2)
def test_true_power_laws_are_polynomial(p: float) -> None:
    rng, verdicts = np.random.default_rng(int(10 * p)), Counter[str]()
    for _ in range(5):
        time = np.geomspace(2, 2 * 10 ** rng.uniform(2.5, 3.2), 60)
        tail = fits.judge_tail(time, time**-p * np.exp(wobble(rng, 60, 0.01)))
        verdicts[tail.verdict] += 1
        assert tail.theta == pytest.approx(0.5 * (1 + 1 / p), abs=0.01)
    assert verdicts["polynomial"] >= 4


def test_known_slow_rates_forbid_a_polynomial_and_known_fast_ones_allow_a_shorter_one() -> None:
    time = np.geomspace(1, 500, 60)
    assert fits.judge_tail(time, 1 / time).verdict == "polynomial"
    slow = fits.judge_tail(time, 1 / time, rates=[1.0, 0.005])
    assert slow.verdict == "undetermined"
    assert "5 relaxation times" in slow.why
    short = np.geomspace(1, 100, 60)
    assert fits.judge_tail(short, short**-2.0).verdict == "undetermined"
    assert fits.judge_tail(short, short**-2.0, rates=[0.1]).verdict == "polynomial"


def test_three_exponential_modes_are_never_polynomial() -> None:
    rng, verdicts = np.random.default_rng(4), Counter[str]()
    for _ in range(12):
        spread = 10 ** rng.uniform(1, 2)
        rates = np.array([1.0, spread**-0.5, 1 / spread])
        time = np.geomspace(10 ** rng.uniform(-1, 0.5), 5 * spread, 60)
        gap = mode_spectrum(time, rates, rates ** rng.uniform(0, 1.5))
        verdicts[fits.judge_tail(time, gap * np.exp(wobble(rng, 60, 0.02, 0.3))).verdict] += 1
    assert verdicts.total() == 12
    assert verdicts["polynomial"] == 0


def test_random_spectra_are_rarely_called_polynomial() -> None:
    verdicts = Counter[str]()
    for seed in range(16):
        rng = np.random.default_rng([9, seed])
        count = int(np.exp(rng.uniform(math.log(2), math.log(200.9))))
        rates = rng.uniform(0, 1, count) if seed % 2 else 10 ** rng.uniform(-3, 0, count)
        first = 10 ** rng.uniform(-1, 1.5)
        time = np.geomspace(first, first * 10 ** rng.uniform(0.5, 3), 60)
        gap = mode_spectrum(time, rates) * np.exp(wobble(rng, 60, 0.01, 0.5))
        verdicts[fits.judge_tail(time, gap).verdict] += 1
    assert verdicts.total() == 16
    assert verdicts["polynomial"] <= 1


@pytest.mark.parametrize("spacing", [np.linspace, np.geomspace])
def test_exponentials_are_exponential_and_floors_are_floors(spacing: Callable[[float, float, int], Array]) -> None:
    rng, time = np.random.default_rng(5), spacing(1.0, 400.0, 70)
    for rate in (0.02, 0.1):
        pure = np.exp(-rate * time)
        tail = fits.judge_tail(time, pure * np.exp(wobble(rng, 70, 0.01, 0.5)))
        assert (tail.verdict, tail.theta) == ("exponential", 0.5)
        floored = fits.judge_tail(time, (np.exp(-0.05 * time) + 1e-3) * np.exp(wobble(rng, 70, 0.01)))
        assert (floored.verdict, floored.theta) == ("floor reached", None)


def test_hard_gaps_are_undetermined_with_a_reason() -> None:
    time, rng = np.geomspace(1, 1000, 60), np.random.default_rng(6)
    hard = {
        "constant": (np.ones(60), "decades"),
        "noise": (np.exp(wobble(rng, 60, 0.1)), "decades"),
        "rising": (time, "decades"),
        "few": (np.where(np.arange(60) < 8, 1 / time, 0.0), "12 points, got 8"),
        "not positive": (-time, "12 points, got 0"),
        "nan": (np.full(60, math.nan), "12 points, got 0"),
        "levelled": (np.exp(-time / 50) + 1e-4, ""),
    }
    for name, (gap, words) in hard.items():
        tail = fits.judge_tail(time, gap)
        assert tail.verdict == ("undetermined" if words else "floor reached"), name
        assert words in tail.why, name
    assert len(hard) == 7


def test_each_objection_is_raised_where_it_alone_holds() -> None:
    time, rng = np.geomspace(1, 1000, 60), np.random.default_rng(7)
    short = np.geomspace(1, 20, 60)
    levelling = fits.judge_tail(time, np.exp(-time / 100) + 1e-4)
    assert (levelling.verdict, "% of the gap at the end" in levelling.why) == ("undetermined", True)
    brief = fits.judge_tail(short, short**-3.0, rates=[10.0])
    assert (brief.verdict, "1.30 decades of time" in brief.why) == ("undetermined", True)
    smooth = wobble(rng, 60, 0.3, 0.95)
    assert "independent" in fits.judge_tail(time, np.exp(-time / 100 + smooth)).why


def test_a_theta_that_moves_is_unsteady() -> None:
    time = np.geomspace(1, 1e4, 60)
    for logs, words in ((-2 * np.log(time), ""), (np.log(time**-3 + 1e-3 / time), "later half")):
        found = fits.unsteady(fits.power_of(time, logs), time, logs)
        assert words in found
        assert bool(found) is bool(words)


def test_the_relaxation_law_passes_smoothly_through_the_exponential() -> None:
    age = np.array([0.0, 0.5, 9.0])
    for kappa in (-1e-6, 1e-6, 1e-7):
        assert_allclose(fits.relaxed(kappa, age), [math.log1p(kappa * a) / kappa for a in age], rtol=1e-8)
    assert_allclose(fits.relaxed(0.0, age), age)


def test_more_points_than_needed_change_no_verdict() -> None:
    rng = np.random.default_rng(8)
    time = np.arange(1.0, 4001.0)
    for gap, verdict in ((time**-2, "polynomial"), (np.exp(-time / 100), "exponential")):
        tail = fits.judge_tail(time, gap * np.exp(wobble(rng, 4000, 0.05)))
        assert tail.verdict == verdict
        assert tail.comparison is not None
        assert 40 <= tail.comparison.fits["power"].n <= 80
        assert tail.window == (1.0, pytest.approx(4000, rel=0.06))


def test_joined_points_keep_their_mean() -> None:
    time = np.arange(1.0, 1001.0)
    joined, logs = fits.thinned(time, 2 * time)
    assert len(joined) <= 80
    assert_allclose(logs, 2 * joined)


def test_a_verdict_has_no_unit() -> None:
    time = np.geomspace(1, 500, 50)
    gap = time**-1.5 * np.exp(wobble(np.random.default_rng(3), 50, 0.01))
    one, other = fits.judge_tail(time, gap), fits.judge_tail(1e3 * time, 1e-9 * gap)
    assert (one.verdict, other.verdict) == ("polynomial", "polynomial")
    assert one.theta == pytest.approx(other.theta or 0.0, abs=1e-4)
    assert one.comparison is not None and other.comparison is not None
    scale = {"amplitude": 1e-9, "age": 1e3, "exponent": 1.0}
    for name, factor in scale.items():
        ours = one.comparison.fits["power"].parameters[name]
        assert other.comparison.fits["power"].parameters[name] == pytest.approx(factor * ours, rel=1e-3)


def test_a_window_scan_is_flat_for_a_power_law_and_falls_to_one_half_for_a_spectrum() -> None:
    time = np.geomspace(5, 2000, 60)
    _, steady = fits.window_scan(time, 1 / time)
    assert_allclose(steady, 1.0, atol=1e-6)
    starts, moving = fits.window_scan(time, mode_spectrum(time, CASE_18))
    assert starts[0] == 5
    assert moving[0] > 0.58 > 0.54 > moving[-1]


GROWTHS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda t: t / 1000,
    "logarithmic": lambda t: np.log(t / 10) / np.log(100),
    "saturating": lambda t: -np.expm1(-t / 200),
}


@pytest.mark.parametrize("name", GROWTHS)
@pytest.mark.parametrize("rho", [0.0, 0.5])
@pytest.mark.parametrize("spacing", [np.linspace, np.geomspace])
def test_growth_is_told_apart(name: str, rho: float, spacing: Callable[[float, float, int], Array]) -> None:
    rng, time = np.random.default_rng(11), spacing(10.0, 1000.0, 60)
    preferred = Counter(
        fits.fit_growth(time, 3 + GROWTHS[name](time) + wobble(rng, 60, 0.04, rho)).preferred for _ in range(20)
    )
    assert preferred[name] >= 15
    assert preferred[name] + preferred["undetermined"] >= 17


def test_growth_parameters_are_those_of_the_curve() -> None:
    time = np.linspace(1, 1000, 80)
    growth = fits.fit_growth(time, 2 + 5 * -np.expm1(-time / 150))
    assert growth.preferred == "saturating"
    assert growth.saturating.parameters == pytest.approx({"level": 7.0, "gain": 5.0, "time_constant": 150.0}, rel=1e-4)
    assert fits.fit_growth(time, 1 + 2 * np.log(time)).logarithmic.parameters["slope"] == pytest.approx(2.0)
    linear = fits.fit_growth(time, 1 + 0.02 * time + wobble(np.random.default_rng(0), 80, 0.1, 0.5)).linear
    low, high = linear.precision["slope"]
    assert low < 0.02 < high
    assert high - low < 2e-3


def test_growth_that_is_none_is_an_outcome() -> None:
    time = np.arange(20)
    assert fits.fit_growth(time, np.ones(20)).linear.outcome is FitOutcome.FLAT
    assert fits.fit_growth(time[:4], np.arange(4)).linear.outcome is FitOutcome.TOO_FEW_POINTS
    falling = fits.fit_growth(time, -time)
    assert falling.linear.outcome is FitOutcome.NOT_MONOTONE
    assert falling.preferred == "undetermined"
    noise = fits.fit_growth(time, wobble(np.random.default_rng(0), 20, 1.0))
    assert noise.preferred == "undetermined"


def test_contraction_is_constant_for_an_exponential_and_proportional_to_the_loss_for_1_over_t() -> None:
    time = np.linspace(0, 50, 60)
    exponential = fits.fit_contraction(time, 2 * np.exp(-0.3 * time))
    assert exponential.parameters == pytest.approx({"slope": 0.0, "rate": 0.3}, abs=1e-6)
    hyperbola = fits.fit_contraction(time, 1 / (1 + time))
    assert hyperbola.parameters == pytest.approx({"slope": 1.0, "rate": 1 / 51}, rel=1e-5)


@pytest.mark.parametrize("slope", [0.25, 0.5, 1.0, 2.0])
def test_contraction_equals_the_regression_of_rates_on_losses(slope: float) -> None:
    time = np.geomspace(1, 1000, 300)
    loss = (1 + slope * time) ** (-1 / slope)
    rates = -np.diff(np.log(loss)) / np.diff(time)
    means = (np.log(loss[1:]) + np.log(loss[:-1])) / 2
    regressed = np.polyfit(means, np.log(rates), 1)[0]
    assert fits.fit_contraction(time, loss).parameters["slope"] == pytest.approx(slope, abs=1e-5)
    assert regressed == pytest.approx(slope, abs=2e-3)


def test_case_16_gradient_descent_on_the_logistic_loss_follows_the_1_over_t_law() -> None:
    weight, losses, rate = 0.0, [], 0.5  # loss[t − 1] is the one before step t
    for _ in range(10_002):
        losses.append(math.log1p(math.exp(-weight)))
        weight += rate / (1 + math.exp(weight))
    loss = np.array(losses)
    for t, expected in ((10, 0.783), (100, 0.974), (1000, 0.9975), (10_000, 0.99975)):
        assert (1 - loss[t] / loss[t - 1]) / (rate * loss[t - 1]) == pytest.approx(expected, abs=6e-4)
    late = np.unique(np.geomspace(100, 10_000, 60).astype(int))
    assert fits.fit_contraction(late, loss[late]).parameters["slope"] == pytest.approx(1.0, abs=5e-3)
    assert fits.fit_contraction(np.arange(1, 10_000), loss[1:10_000]).parameters["slope"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("spacing", [np.linspace, np.geomspace])
@pytest.mark.parametrize("size", [0.02, 0.2])
def test_noise_around_an_exponential_gives_no_false_slope(
    size: float, spacing: Callable[[float, float, int], Array]
) -> None:
    rng, time, slopes, covered = np.random.default_rng(12), spacing(1.0, 80.0, 80), [], []
    for _ in range(40):
        fit = fits.fit_contraction(time, np.exp(-time / 20 + wobble(rng, 80, size)))
        if fit.outcome is FitOutcome.NOT_MONOTONE:  # a few series in which most pairs happen to rise
            continue
        low, high = fit.precision["slope"]
        slopes.append(fit.parameters["slope"])
        covered.append(low <= 0 <= high)
    assert len(slopes) >= 30
    assert abs(np.mean(slopes)) <= 3 * np.std(slopes) / math.sqrt(len(slopes))
    assert np.mean(covered) >= 0.85


def test_pairs_that_do_not_contract_are_counted() -> None:
    time = np.arange(40)
    loss = np.exp(-time / 10)
    loss[[10, 20]] *= 1.5
    assert "2 of 39 pairs do not decrease" in fits.fit_contraction(time, loss).message
    saw = np.exp(-0.1 * time + 0.3 * (time % 3))
    assert fits.fit_contraction(time, saw).outcome is FitOutcome.NOT_MONOTONE
    rising = fits.fit_contraction(time, np.exp(time / 10))
    assert (rising.outcome, rising.parameters) == (FitOutcome.NOT_MONOTONE, {})
    assert "39 of 39" in rising.message


@given(st.lists(st.floats(1e-300, 1e300), min_size=0, max_size=30), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_any_positive_curve_has_an_outcome(values: list[float], seed: int) -> None:
    time = np.cumsum(np.random.default_rng(seed).exponential(size=len(values)) + 1e-3)
    outcomes = [
        fits.lojasiewicz_exponent(time, values),
        fits.fit_contraction(time, values),
        fits.decay_rate(time, values),
        fits.power_relation(time, values),
        fits.fit_growth(time, np.log(np.array(values))).saturating,
    ]
    numbers = [number for fit in outcomes for number in fit.parameters.values()]
    assert all(fit.outcome in FitOutcome for fit in outcomes)
    assert np.isfinite(numbers).all()


@given(st.lists(st.floats(1e-300, 1e300), min_size=12, max_size=14))
@settings(max_examples=6, deadline=None)
def test_any_positive_gap_has_a_verdict(values: list[float]) -> None:
    verdict = fits.judge_tail(np.geomspace(1, 100, len(values)), values).verdict
    assert verdict in ("exponential", "polynomial", "floor reached", "undetermined")


def test_bad_arguments_are_refused_in_words() -> None:
    t = np.arange(1.0, 11.0)
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: fits.lojasiewicz_exponent(t, t[:-1]), "one value a time"),
        (lambda: fits.lojasiewicz_exponent(t[::-1], t), "increase"),
        (lambda: fits.lojasiewicz_exponent(t, -t), "no negative"),
        (lambda: fits.phase_exponent(t, t[:-1]), "two series of one length"),
        (lambda: fits.clock_exponent(t, [1.0]), "as many positive thresholds"),
        (lambda: fits.clock_exponent(-t, t.tolist()), "positive thresholds"),
        (lambda: fits.judge_tail(t, t, rates=[0.0, 1.0]), "positive rates"),
        (lambda: fits.judge_tail(t, t[:-1]), "one value a time"),
        (lambda: fits.fit_growth(np.zeros(10), t), "increase"),
        (lambda: fits.fit_contraction(t, -t), "no negative"),
    ]
    for call, words in bad:
        with pytest.raises(ValueError, match=words):
            call()
    assert len(bad) == 10
