"""Stats: closed forms first, then slow second definitions, then how often intervals hold the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from twoclocks import stats

Array = NDArray[np.float64]


def noise(rng: np.random.Generator, n: int, rho: float) -> Array:
    """Return stationary AR(1) noise of unit innovations."""
    values = rng.normal(size=n)
    values[0] /= math.sqrt(1 - rho**2)
    for i in range(1, n):
        values[i] += rho * values[i - 1]
    return values


def share_covered(draws: int, covers: Callable[[np.random.Generator], bool]) -> float:
    rng = np.random.default_rng(7)
    hits = [covers(rng) for _ in range(draws)]
    assert len(hits) == draws
    return float(np.mean(hits))


def test_an_exact_line_has_no_error() -> None:
    line = stats.hac_slope(np.arange(12.0), 4.0 - 0.25 * np.arange(12.0))
    assert (line.value, line.intercept) == pytest.approx((-0.25, 4.0), abs=1e-12)
    assert line.error == pytest.approx(0.0, abs=1e-12)
    assert (line.n, line.interval) == (12, pytest.approx((-0.25, -0.25), abs=1e-12))
    flat = stats.hac_slope([0, 1, 2, 3], [5, 5, 5, 5])
    assert (flat.value, flat.error, flat.interval, flat.effective_n) == (0.0, 0.0, (0.0, 0.0), 4.0)


def test_without_correlation_the_error_is_the_textbook_one() -> None:
    x, y = np.arange(4.0), np.array([0.0, 1.0, -1.0, 0.0])  # residuals alternate: ρ is taken as 0
    line = stats.hac_slope(x, y)
    residuals = y - y.mean() - line.value * (x - x.mean())
    assert line.error >= math.sqrt(float(residuals @ residuals) / 2 / 5) - 1e-12
    assert line.value == pytest.approx(-0.2)


@given(st.integers(0, 10_000), st.floats(0, 0.9), st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_the_energy_of_correlated_weights_equals_the_full_matrix(seed: int, rho: float, n: int) -> None:
    weights = np.random.default_rng(seed).normal(size=n)
    matrix = [[rho ** abs(i - j) for j in range(n)] for i in range(n)]
    assert stats.correlated_energy(weights, rho) == pytest.approx(float(weights @ np.array(matrix) @ weights), abs=1e-9)


def test_the_bartlett_sum_equals_a_loop() -> None:
    scores = noise(np.random.default_rng(3), 60, 0.6)
    alpha = sum(scores[i] * scores[i + 1] for i in range(59)) / sum(s * s for s in scores)
    bandwidth = min(1.1447 * (4 * alpha**2 / (1 - alpha**2) ** 2 * 60) ** (1 / 3), 15)
    slow = sum(max(0.0, 1 - abs(i - j) / bandwidth) * scores[i] * scores[j] for i in range(60) for j in range(60))
    assert bandwidth > 2
    assert stats.long_run_energy(scores) == pytest.approx(slow, rel=1e-9)


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_a_slope_follows_its_units(seed: int, factor: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(0, 10, 30)), noise(rng, 30, 0.5)
    one, other = stats.hac_slope(x, y), stats.hac_slope(factor * x + shift, 3 * y - shift)
    assert_allclose(other.value * factor, 3 * one.value, rtol=1e-6, atol=1e-9)
    assert_allclose(other.error * factor, 3 * one.error, rtol=1e-5)


@pytest.mark.parametrize(
    ("rho", "n", "least"), [(0.0, 40, 0.92), (0.5, 40, 0.90), (0.5, 80, 0.90), (0.9, 80, 0.87), (0.9, 200, 0.90)]
)
@pytest.mark.parametrize("spacing", [np.linspace, np.geomspace])
def test_the_interval_of_a_slope_holds_the_truth_under_autocorrelation(
    rho: float, n: int, least: float, spacing: Callable[[float, float, int], Array]
) -> None:
    x = spacing(1.0, 1000.0, n)

    def covers(rng: np.random.Generator) -> bool:
        low, high = stats.hac_slope(x, 0.01 * x + noise(rng, n, rho)).interval
        return low <= 0.01 <= high

    assert least <= share_covered(300, covers) <= 1.0


def test_the_error_shrinks_to_the_textbook_one_and_the_interval_is_not_vacuous() -> None:
    rng, x = np.random.default_rng(0), np.linspace(0, 1, 400)
    errors = [stats.hac_slope(x, rng.normal(size=400)).error for _ in range(50)]
    assert float(np.median(errors)) == pytest.approx(1 / math.sqrt(400 / 12), rel=0.15)


@pytest.mark.parametrize(("rho", "n"), [(0.0, 30), (0.5, 30), (0.5, 100), (0.8, 100)])
def test_the_autocorrelation_of_residuals_is_not_biased_low(rho: float, n: int) -> None:
    rng, x = np.random.default_rng(1), np.arange(float(n))
    found = []
    for _ in range(400):
        y = noise(rng, n, rho)
        found.append(stats.autocorrelation(y - np.polyval(np.polyfit(x, y, 1), x)))
    assert float(np.mean(found)) == pytest.approx(rho, abs=0.05)


def test_effective_sizes() -> None:
    assert stats.effective_size(100, 0.0) == 100
    assert stats.effective_size(100, 0.9) == pytest.approx(100 / 19)
    assert stats.effective_size(100, -0.5) == 100
    assert stats.effective_size(3, 0.97) == 1
    assert stats.autocorrelation([0.0, 0.0, 0.0]) == 0.0


def test_a_median_of_uncensored_times_is_the_middle_one() -> None:
    median = stats.kaplan_meier_median([5, 1, 4, 2, 3], [False] * 5)
    assert (median.value, median.interval, median.n, median.events) == (3.0, (1.0, None), 5, 5)
    assert stats.kaplan_meier_median([1, 2, 3, 4], [False] * 4).value == 2.0
    six = stats.kaplan_meier_median([1, 2, 3, 4, 5, 6], [False] * 6)
    assert six.interval[1] == 6.0  # all six before the median: 2^−6 < 2.5 %


def test_a_published_kaplan_meier_table_is_reproduced() -> None:
    """Freireich et al. 1963, 6-mercaptopurine: remission median 23 weeks, log-log interval from 13 on, unbounded."""
    weeks = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    censored = [week in (9, 11, 17, 19, 20, 25, 32, 34, 35) for week in weeks]
    censored[3] = censored[7] = True
    steps = stats.survival(*stats.events_of(weeks, censored))
    shares = {at: round(share, 4) for at, share, _ in steps}
    assert shares == {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378, 23: 0.4482}
    assert round(math.sqrt(steps[0][2]) * steps[0][1], 4) == 0.0764
    median = stats.kaplan_meier_median(weeks, censored)
    assert (median.value, median.interval, median.events) == (23.0, (13.0, None), 9)
    placebo = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
    assert stats.kaplan_meier_median(placebo, [False] * 21).value == 8.0
    assert stats.kaplan_meier_median(placebo, [False] * 21).interval == (4.0, 11.0)
    test = stats.log_rank(weeks, censored, placebo, [False] * 21)
    assert test.statistic == pytest.approx(16.79, abs=0.01)
    assert test.p == pytest.approx(4.17e-5, rel=0.01)


def test_a_median_beyond_the_last_time_is_no_number() -> None:
    median = stats.kaplan_meier_median([10, 50, 50, 50], [False, True, True, True])
    assert (median.value, median.interval[1], median.events) == (None, None, 1)
    nothing = stats.kaplan_meier_median([50, 50], [True, True])
    assert (nothing.value, nothing.interval, nothing.events) == (None, (None, None), 0)


@pytest.mark.parametrize("law", ["exponential", "lognormal"])
@pytest.mark.parametrize("n", [5, 8, 20])
@pytest.mark.parametrize("until", [0.6, 0.85, 1.0])
def test_the_interval_of_a_median_holds_the_truth_under_censoring(law: str, n: int, until: float) -> None:
    """`until`: the share of runs that come before the end of the training."""

    def covers(rng: np.random.Generator) -> bool:
        score = rng.normal(size=n) if law == "lognormal" else rng.exponential(size=n)
        truth = 0.0 if law == "lognormal" else math.log(2)
        end = math.inf if until == 1.0 else float(quantile(until, law))
        time, censored = np.minimum(score, end), score > end
        low, high = stats.kaplan_meier_median(time.tolist(), censored.tolist()).interval
        return (low is None or low <= truth) and (high is None or truth <= high)

    assert share_covered(600, covers) >= 0.92


def quantile(share: float, law: str) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share) if law == "lognormal" else -math.log(1 - share)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_order_of_runs_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time, censored = rng.integers(1, 9, 12).astype(float), rng.random(12) < 0.4
    order = rng.permutation(12)
    assert stats.kaplan_meier_median(time.tolist(), censored.tolist()) == stats.kaplan_meier_median(
        time[order].tolist(), censored[order].tolist()
    )
    one = stats.log_rank(time[:5].tolist(), censored[:5].tolist(), time[5:].tolist(), censored[5:].tolist())
    other = stats.log_rank(time[5:].tolist(), censored[5:].tolist(), time[:5].tolist(), censored[:5].tolist())
    assert one.statistic == pytest.approx(other.statistic, abs=1e-9)


def test_the_log_rank_test_rarely_tells_equal_groups_apart_and_often_different_ones() -> None:
    def told(factor: float) -> Callable[[np.random.Generator], bool]:
        def one(rng: np.random.Generator) -> bool:
            a, b = rng.exponential(size=20), factor * rng.exponential(size=20)
            end = 2.0
            args = [(np.minimum(t, end).tolist(), (t > end).tolist()) for t in (a, b)]
            return stats.log_rank(*args[0], *args[1]).p <= 0.05

        return one

    assert share_covered(400, told(1.0)) <= 0.08
    assert share_covered(200, told(4.0)) >= 0.8


def test_a_log_rank_test_without_events_says_nothing() -> None:
    test = stats.log_rank([9, 9], [True, True], [9], [True])
    assert (test.statistic, test.p, test.n) == (0.0, 1.0, 3)


def test_a_sign_test_counts_the_orders_of_fair_coins() -> None:
    for n in range(1, 8):
        for signs in itertools.islice(itertools.product([1, -1], repeat=n), 40):
            test = stats.paired_sign_test([5.0] * n, [5.0 + s for s in signs], [False] * n, [False] * n)
            count = sum(s > 0 for s in signs)
            extreme = [sum(k) for k in itertools.product([0, 1], repeat=n)]
            p = sum(abs(k - n / 2) >= abs(count - n / 2) for k in extreme) / 2**n
            assert (test.statistic, test.n) == (count, n)
            assert test.p == pytest.approx(p)


def test_a_censored_time_has_a_say_only_where_it_must_be_later() -> None:
    cases = {
        ((10, False), (50, True)): (1, 1),  # came, and the other had not by 50
        ((50, False), (50, True)): (1, 1),
        ((50, True), (10, False)): (0, 1),
        ((20, True), (30, False)): (0, 0),  # cut before the other came
        ((30, False), (20, True)): (0, 0),
        ((50, True), (50, True)): (0, 0),
        ((30, False), (30, False)): (0, 0),
    }
    seen = 0
    for (first, second), expected in cases.items():
        test = stats.paired_sign_test([first[0]], [second[0]], [first[1]], [second[1]])
        assert (test.statistic, test.n) == expected, (first, second)
        seen += 1
    assert seen == 7
    assert stats.paired_sign_test([5], [5], [True], [True]).p == 1.0


@pytest.mark.parametrize("seeds", [5, 6, 8])
def test_a_t_interval_over_seeds_holds_the_truth(seeds: int) -> None:
    def covers(rng: np.random.Generator) -> bool:
        low, high = stats.t_interval(rng.normal(3.0, 2.0, seeds))
        return low <= 3.0 <= high

    assert 0.93 <= share_covered(1500, covers) <= 0.97


def test_a_t_interval_is_that_of_a_table() -> None:
    low, high = stats.t_interval([1.0, 2.0, 3.0, 4.0, 5.0])  # t(4, .975) = 2.776445
    assert (low, high) == pytest.approx((3 - 2.776445 * math.sqrt(0.5), 3 + 2.776445 * math.sqrt(0.5)), abs=1e-6)


def test_wilson_bounds_solve_their_equation() -> None:
    z, seen = 1.959963984540054, 0
    for n in (1, 5, 40):
        for successes in range(n + 1):
            for bound in stats.wilson_interval(successes, n):
                gap = abs(successes / n - bound)
                assert gap == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), abs=1e-9)
                seen += 1
    assert seen == 2 * (2 + 6 + 41)
    assert stats.wilson_interval(0, 7)[0] == 0.0
    assert stats.wilson_interval(7, 7)[1] == 1.0


def test_bad_arguments_are_refused_in_words() -> None:
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: stats.hac_slope([1, 2], [1, 2]), "at least 3 pairs"),
        (lambda: stats.hac_slope([1, 1, 1], [1, 2, 3]), "two different numbers"),
        (lambda: stats.hac_slope([1, 2, 3], [1, 2, math.nan]), "finite"),
        (lambda: stats.kaplan_meier_median([], []), "at least one number"),
        (lambda: stats.kaplan_meier_median([1, 2], [True]), "one mark a time"),
        (lambda: stats.paired_sign_test([1], [1, 2], [False], [False] * 2), "as many runs"),
        (lambda: stats.t_interval([1.0]), "at least 2 runs"),
        (lambda: stats.t_interval([1.0, 2.0], level=95), "between 0 and 1"),
        (lambda: stats.wilson_interval(3, 2), "successes"),
        (lambda: stats.effective_size(0, 0.0), "at least 1"),
    ]
    for call, words in bad:
        with pytest.raises(ValueError, match=words):
            call()
    assert len(bad) == 10


def score_of(gains: int, losses: int, n: int, difference: float) -> float:
    """Return the score statistic of a paired difference, its likeliest share of losses found on a grid."""
    losing = np.linspace(1e-9, 1, 400_001)
    winning, tied = losing + difference, 1 - 2 * losing - difference
    possible = (winning >= 0) & (tied >= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [np.where(k, k * np.log(np.maximum(share, 0)), 0.0) for k, share in ((gains, winning), (losses, losing))]
        logs.append(np.where(n - gains - losses, (n - gains - losses) * np.log(np.maximum(tied, 0)), 0.0))
    likeliest = losing[int(np.where(possible, sum(logs), -np.inf).argmax())]
    variance = n * (2 * likeliest + difference * (1 - difference))
    return (gains - losses - n * difference) / math.sqrt(variance)


def test_the_ends_of_a_paired_difference_are_where_a_score_test_on_a_grid_rejects() -> None:
    cases = ((12, 3, 50), (0, 5, 30), (20, 20, 60), (1, 0, 44))
    for gains, losses, n in cases:
        low, high = stats.paired_difference_interval(gains, losses, n)
        assert score_of(gains, losses, n, high) == pytest.approx(-1.959964, abs=2e-3)
        if gains or not losses:  # below, the likeliest share of losses is at its bound and the grid's statistic differs
            assert score_of(losses, gains, n, -low) == pytest.approx(-1.959964, abs=2e-3)
    assert len(cases) == 4


def test_a_paired_difference_mirrors_and_narrows() -> None:
    low, high = stats.paired_difference_interval(7, 2, 40)
    assert stats.paired_difference_interval(2, 7, 40) == pytest.approx((-high, -low))
    assert low < 5 / 40 < high
    wider = stats.paired_difference_interval(7, 2, 40, level=0.99)
    assert wider[0] < low and high < wider[1]
    assert stats.paired_difference_interval(70, 20, 400)[1] < high
    assert stats.paired_difference_interval(20, 0, 20)[1] == 1.0
    assert stats.paired_difference_interval(0, 20, 20)[0] == -1.0


def test_few_differing_pairs_are_covered_as_often_as_stated() -> None:
    """Exact: every table of gains and losses, weighed by its chance. The nominal 95 % may be missed by two points."""
    seen = 0
    for n, winning, losing in ((20, 0.05, 0.0), (20, 0.2, 0.2), (20, 0.9, 0.02), (50, 0.02, 0.0), (50, 0.3, 0.05)):
        covered = 0.0
        for gains, losses in itertools.product(range(n + 1), repeat=2):
            rest = n - gains - losses
            if rest < 0 or (losses and not losing):
                continue
            chance = math.comb(n, gains) * math.comb(n - gains, losses) * winning**gains * losing**losses
            chance *= (1 - winning - losing) ** rest
            if chance < 1e-9:
                continue
            low, high = stats.paired_difference_interval(gains, losses, n)
            covered += chance * (low <= winning - losing <= high)
        assert covered > 0.93, (n, winning, losing)
        seen += 1
    assert seen == 5


def test_counts_that_are_no_pairs_are_refused() -> None:
    for gains, losses, n in ((1, 1, 1), (-1, 0, 5), (0, 0, 0)):
        with pytest.raises(ValueError, match="counts of at most n together"):
            stats.paired_difference_interval(gains, losses, n)
    with pytest.raises(ValueError, match="level"):
        stats.paired_difference_interval(1, 1, 9, level=1.0)
