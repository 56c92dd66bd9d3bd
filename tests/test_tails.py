"""Tails: every law from its own curve first, then noise, then spectra that imitate a power law, and no verdict on them."""

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
from twoclocks import tails
from twoclocks.least_squares import thinned

Array = NDArray[np.float64]


def wobble(rng: np.random.Generator, n: int, size: float, rho: float = 0.0) -> Array:
    """Return AR(1) noise of a standard deviation."""
    return ar1(rng, (1, n), rho, size)[0]


def mode_spectrum(time: Array, rates: Array, weights: Array | None = None) -> Array:
    with np.errstate(under="ignore"):
        decays = np.exp(-np.outer(time, rates))
        return decays.mean(1) if weights is None else decays @ weights


CASE_18 = np.arange(1, 201) / 200


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
        compared = tails.compare_tails(t, curve)
        assert max(compared.weights, key=lambda key: compared.weights[key]) == name
        assert sum(compared.weights.values()) == pytest.approx(1.0)
        for parameter, value in expected.items():
            assert compared.fits[name].parameters[parameter] == pytest.approx(value, rel=1e-3), (name, parameter)
            seen += 1
    assert seen == 8
    slow = sorted(value for key, value in compared.fits["three exponentials"].parameters.items() if "rate" in key)
    assert_allclose(slow, [1 / 80, 1 / 12, 1 / 2], rtol=1e-3)


def test_sums_of_exponentials_are_evaluated_as_written() -> None:
    u, at = np.linspace(0, 1, 7), np.array([0.3, 1.0, -2.0, 0.1])
    slow = [math.log(math.exp(0.3 - math.e * x) + math.exp(-2.0 - math.exp(0.1) * x)) for x in u]
    assert_allclose(tails.log_exponentials(u, at), slow, rtol=1e-12)


def test_case_18_a_spectrum_of_exponentials_is_undetermined_early_and_exponential_late() -> None:
    rng, seen = np.random.default_rng(0), 0
    for size in (0.0, 0.01):
        early, late = np.geomspace(5, 60, 60), np.geomspace(2000, 4000, 60)
        gap = mode_spectrum(early, CASE_18) * np.exp(wobble(rng, 60, size))
        tail = tails.judge_tail(early, gap)
        assert tail.verdict == "undetermined"
        assert tail.theta == pytest.approx(1.0, abs=0.1)  # it looks like 1/t
        assert "decades" in tail.why
        assert tails.judge_tail(early, gap, rates=CASE_18).verdict == "undetermined"
        late_gap = mode_spectrum(late, CASE_18) * np.exp(wobble(rng, 60, size))
        assert tails.judge_tail(late, late_gap).verdict == "exponential"
        seen += 1
    assert seen == 2


@pytest.mark.parametrize(("first", "last"), [(2, 200), (1, 300), (0.5, 200), (3, 1000)])
def test_the_power_law_of_a_spectrum_is_too_short_to_be_believed(first: float, last: float) -> None:
    time = np.geomspace(first, last, 60)
    gap = mode_spectrum(time, CASE_18) * np.exp(wobble(np.random.default_rng(1), 60, 0.05))
    assert tails.judge_tail(time, gap).verdict != "polynomial"


@pytest.mark.parametrize("p", [1.0, 3.0, 1.5])  # p = q / (q − 2)
def test_true_power_laws_are_polynomial(p: float) -> None:
    rng, verdicts = np.random.default_rng(int(10 * p)), Counter[str]()
    for _ in range(5):
        time = np.geomspace(2, 2 * 10 ** rng.uniform(2.5, 3.2), 60)
        tail = tails.judge_tail(time, time**-p * np.exp(wobble(rng, 60, 0.01)))
        verdicts[tail.verdict] += 1
        assert tail.theta == pytest.approx(0.5 * (1 + 1 / p), abs=0.01)
    assert verdicts["polynomial"] >= 4


def test_known_slow_rates_forbid_a_polynomial_and_known_fast_ones_allow_a_shorter_one() -> None:
    time = np.geomspace(1, 500, 60)
    assert tails.judge_tail(time, 1 / time).verdict == "polynomial"
    slow = tails.judge_tail(time, 1 / time, rates=[1.0, 0.005])
    assert slow.verdict == "undetermined"
    assert "5 relaxation times" in slow.why
    short = np.geomspace(1, 100, 60)
    assert tails.judge_tail(short, short**-2.0).verdict == "undetermined"
    assert tails.judge_tail(short, short**-2.0, rates=[0.1]).verdict == "polynomial"


def test_three_exponential_modes_are_never_polynomial() -> None:
    rng, verdicts = np.random.default_rng(4), Counter[str]()
    for _ in range(12):
        spread = 10 ** rng.uniform(1, 2)
        rates = np.array([1.0, spread**-0.5, 1 / spread])
        time = np.geomspace(10 ** rng.uniform(-1, 0.5), 5 * spread, 60)
        gap = mode_spectrum(time, rates, rates ** rng.uniform(0, 1.5))
        verdicts[tails.judge_tail(time, gap * np.exp(wobble(rng, 60, 0.02, 0.3))).verdict] += 1
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
        verdicts[tails.judge_tail(time, gap).verdict] += 1
    assert verdicts.total() == 16
    assert verdicts["polynomial"] <= 1


@pytest.mark.parametrize("spacing", [np.linspace, np.geomspace])
def test_exponentials_are_exponential_and_floors_are_floors(spacing: Callable[[float, float, int], Array]) -> None:
    rng, time = np.random.default_rng(5), spacing(1.0, 400.0, 70)
    for rate in (0.02, 0.1):
        pure = np.exp(-rate * time)
        tail = tails.judge_tail(time, pure * np.exp(wobble(rng, 70, 0.01, 0.5)))
        assert (tail.verdict, tail.theta) == ("exponential", 0.5)
        floored = tails.judge_tail(time, (np.exp(-0.05 * time) + 1e-3) * np.exp(wobble(rng, 70, 0.01)))
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
        tail = tails.judge_tail(time, gap)
        assert tail.verdict == ("undetermined" if words else "floor reached"), name
        assert words in tail.why, name
    assert len(hard) == 7


def test_each_objection_is_raised_where_it_alone_holds() -> None:
    time, rng = np.geomspace(1, 1000, 60), np.random.default_rng(7)
    short = np.geomspace(1, 20, 60)
    levelling = tails.judge_tail(time, np.exp(-time / 100) + 1e-4)
    assert (levelling.verdict, "% of the gap at the end" in levelling.why) == ("undetermined", True)
    brief = tails.judge_tail(short, short**-3.0, rates=[10.0])
    assert (brief.verdict, "1.30 decades of time" in brief.why) == ("undetermined", True)
    smooth = wobble(rng, 60, 0.3, 0.95)
    assert "independent" in tails.judge_tail(time, np.exp(-time / 100 + smooth)).why


def test_a_theta_that_moves_is_unsteady() -> None:
    time = np.geomspace(1, 1e4, 60)
    for logs, words in ((-2 * np.log(time), ""), (np.log(time**-3 + 1e-3 / time), "later half")):
        found = tails.unsteady(tails.power_of(time, logs), time, logs)
        assert words in found
        assert bool(found) is bool(words)


def test_more_points_than_needed_change_no_verdict() -> None:
    rng = np.random.default_rng(8)
    time = np.arange(1.0, 4001.0)
    for gap, verdict in ((time**-2, "polynomial"), (np.exp(-time / 100), "exponential")):
        tail = tails.judge_tail(time, gap * np.exp(wobble(rng, 4000, 0.05)))
        assert tail.verdict == verdict
        assert tail.comparison is not None
        assert 40 <= tail.comparison.fits["power"].n <= 80
        assert tail.window == (1.0, pytest.approx(4000, rel=0.06))


def test_joined_points_keep_their_mean() -> None:
    time = np.arange(1.0, 1001.0)
    joined, logs = thinned(time, 2 * time)
    assert len(joined) <= 80
    assert_allclose(logs, 2 * joined)


def test_a_verdict_has_no_unit() -> None:
    time = np.geomspace(1, 500, 50)
    gap = time**-1.5 * np.exp(wobble(np.random.default_rng(3), 50, 0.01))
    one, other = tails.judge_tail(time, gap), tails.judge_tail(1e3 * time, 1e-9 * gap)
    assert (one.verdict, other.verdict) == ("polynomial", "polynomial")
    assert one.theta == pytest.approx(other.theta or 0.0, abs=1e-4)
    assert one.comparison is not None and other.comparison is not None
    scale = {"amplitude": 1e-9, "age": 1e3, "exponent": 1.0}
    for name, factor in scale.items():
        ours = one.comparison.fits["power"].parameters[name]
        assert other.comparison.fits["power"].parameters[name] == pytest.approx(factor * ours, rel=1e-3)


def test_a_window_scan_is_flat_for_a_power_law_and_falls_to_one_half_for_a_spectrum() -> None:
    time = np.geomspace(5, 2000, 60)
    _, steady = tails.window_scan(time, 1 / time)
    assert_allclose(steady, 1.0, atol=1e-6)
    starts, moving = tails.window_scan(time, mode_spectrum(time, CASE_18))
    assert starts[0] == 5
    assert moving[0] > 0.58 > 0.54 > moving[-1]


@given(st.lists(st.floats(1e-300, 1e300), min_size=12, max_size=14))
@settings(max_examples=6, deadline=None)
def test_any_positive_gap_has_a_verdict(values: list[float]) -> None:
    verdict = tails.judge_tail(np.geomspace(1, 100, len(values)), values).verdict
    assert verdict in ("exponential", "polynomial", "floor reached", "undetermined")


def test_bad_arguments_are_refused_in_words() -> None:
    t = np.arange(1.0, 11.0)
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: tails.judge_tail(t, t, rates=[0.0, 1.0]), "positive rates"),
        (lambda: tails.judge_tail(t, t[:-1]), "one value a time"),
    ]
    for call, words in bad:
        with pytest.raises(ValueError, match=words):
            call()
    assert len(bad) == 2
