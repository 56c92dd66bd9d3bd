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

from synthetic import ar1
from twoclocks import fits
from twoclocks.fits import FitOutcome

Array = NDArray[np.float64]


def wobble(rng: np.random.Generator, n: int, size: float, rho: float = 0.0) -> Array:
    """Return AR(1) noise of a standard deviation."""
    return ar1(rng, (1, n), rho, size)[0]


def flow(q: float, time: Array) -> tuple[Array, Array]:
    """Return F and ‖∇F‖² along the flow on |x|^q / q from x = 1."""
    x = np.exp(-time) if q == 2 else (1 + (q - 2) * time) ** (-1 / (q - 2))
    return x**q / q, x ** (2 * q - 2)


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


def test_the_relaxation_law_passes_smoothly_through_the_exponential() -> None:
    age = np.array([0.0, 0.5, 9.0])
    for kappa in (-1e-6, 1e-6, 1e-7):
        assert_allclose(fits.relaxed(kappa, age), [math.log1p(kappa * a) / kappa for a in age], rtol=1e-8)
    assert_allclose(fits.relaxed(0.0, age), age)


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


def test_bad_arguments_are_refused_in_words() -> None:
    t = np.arange(1.0, 11.0)
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: fits.lojasiewicz_exponent(t, t[:-1]), "one value a time"),
        (lambda: fits.lojasiewicz_exponent(t[::-1], t), "increase"),
        (lambda: fits.lojasiewicz_exponent(t, -t), "no negative"),
        (lambda: fits.phase_exponent(t, t[:-1]), "two series of one length"),
        (lambda: fits.clock_exponent(t, [1.0]), "as many positive thresholds"),
        (lambda: fits.clock_exponent(-t, t.tolist()), "positive thresholds"),
        (lambda: fits.fit_growth(np.zeros(10), t), "increase"),
        (lambda: fits.fit_contraction(t, -t), "no negative"),
    ]
    for call, words in bad:
        with pytest.raises(ValueError, match=words):
            call()
    assert len(bad) == 8
