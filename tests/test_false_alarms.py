"""Of 200 runs of which a claim is not true, or is only just at its threshold, at most one in twenty is said to have it.

The noise is AR(1) with ρ 0, .5 and .9, a third of the runs each. So that no judge passes by never answering, the runs of
which a claim is clearly true, or clearly false, are judged too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest

from synthetic import (
    ADAMW,
    COUPLED,
    LINEAR,
    ar1,
    clocks_of,
    evidence,
    fitted_at,
    flow_time,
    growth_alone,
    log_steps,
    series,
    snapshot,
    trajectory,
)
from twoclocks.block_verdicts import judge_lead_of, judge_share
from twoclocks.conditions import Conditions, balancedness_rates, contraction_of, tail_law
from twoclocks.evidence import Evidence
from twoclocks.fast_verdicts import FLOAT32_STEP, judge_contraction, judge_growth, judge_rounding, judge_velocity
from twoclocks.fits import Fit, FitOutcome, power_relation
from twoclocks.gate_verdicts import judge_frozen
from twoclocks.measures.adam import adam_gap_velocity
from twoclocks.slow_verdicts import (
    judge_balance,
    judge_balance_decay,
    judge_order,
    judge_rest,
    judge_shrinkage,
    judge_tail_law,
)
from twoclocks.tails import Tail
from twoclocks.trajectory import Float, Int
from twoclocks.verdicts import Outcome, Verdict, over_runs

RUNS = 200
MOST = RUNS // 20
SUPPORTED, REFUTED = Outcome.SUPPORTED, Outcome.REFUTED


def noise(seed: int, count: int, size: float, runs: int = RUNS) -> Float:
    """Return AR(1) noise `[r t]` of three correlations in turn."""
    rng = np.random.default_rng(seed)
    parts = [ar1(rng, (runs, count), rho, size) for rho in (0.0, 0.5, 0.9)]
    return np.stack([parts[r % 3][r] for r in range(runs)])


def tally(judge: Callable[[Evidence, int], Verdict], of: Evidence, total: int = RUNS) -> Counter[Outcome]:
    return counted((judge(of, r) for r in range(of.trajectory.runs)), total)


def counted(verdicts: Iterable[Verdict], total: int = RUNS) -> Counter[Outcome]:
    found = Counter(verdict.outcome for verdict in verdicts)
    assert sum(found.values()) == total
    assert not found[Outcome.NOT_APPLICABLE]
    return found


STEP = log_steps(10_000, 60, first=10)
EVEN = np.linspace(50, 10_000, 60).round().astype(np.int64)
GROWING = {
    "linear": lambda t: 1 + t / 2000,
    "logarithmic": lambda t: np.log(t) - 1,
    "saturating": lambda t: 5 * -np.expm1(-t / 3000),
}


@pytest.mark.parametrize("law", list(GROWING))
def test_tc301_growth(law: str) -> None:
    found: Counter[Outcome] = Counter()
    for seed, grid in enumerate((STEP, EVEN), 1):
        course = GROWING[law](grid.astype(np.float64))
        margin = course + noise(seed, len(grid), 0.02 * course.max(), RUNS // 2)
        of = trajectory(series("train_margin_min", grid, margin), settings=ADAMW)
        found += tally(judge_growth, evidence(of, fitted=growth_alone(of)), RUNS // 2)
    wrong, right = (REFUTED, SUPPORTED) if law == "linear" else (SUPPORTED, REFUTED)
    assert found[wrong] <= MOST
    assert found[right] >= RUNS // 2


@pytest.mark.parametrize("law", ["1/t", "exponential"])
def test_tc302_contraction(law: str) -> None:
    step = EVEN if law == "exponential" else STEP
    logs = -np.log(step) if law == "1/t" else -step / 800
    of = trajectory(series("train_loss", step, np.exp(logs + noise(2, len(step), 0.1))))
    window = (float(step[0]), float(step[-1]))
    fitted = [Conditions(window=window, contraction=contraction_of(of, window, r)) for r in range(RUNS)]
    found = tally(judge_contraction, evidence(of, fitted=fitted))
    wrong, right = (SUPPORTED, REFUTED) if law == "1/t" else (REFUTED, SUPPORTED)
    assert found[wrong] <= MOST
    assert found[right] >= RUNS // 2


@pytest.mark.parametrize("quotient", [0.8, 1.0, 1.1])
def test_tc305_velocity(quotient: float) -> None:
    pace = quotient * adam_gap_velocity(1e-3, 0.9, 0.98)
    course = 1 + pace * EVEN
    of = trajectory(series("train_margin_min", EVEN, course + noise(3, len(EVEN), 0.01 * course.max())), settings=ADAMW)
    judged = evidence(of, fitted=growth_alone(of))
    found = Counter(judge_velocity(judged, r).outcome for r in range(RUNS))
    assert sum(found.values()) == RUNS  # a few are NOT_APPLICABLE, whose growth is not linear by TC301
    if quotient != 1.0:
        assert found[SUPPORTED] <= MOST
    if 0.9 <= quotient <= 1.1:
        assert found[REFUTED] <= MOST
    assert quotient in (0.9, 1.1) or found[SUPPORTED if quotient == 1.0 else REFUTED] >= RUNS // 2


@pytest.mark.parametrize(("level", "right"), [(0.3, SUPPORTED), (1.0, None), (3.0, REFUTED)])
def test_tc304_rounding(level: float, right: Outcome | None) -> None:
    loss = 10 * level * FLOAT32_STEP * np.exp(noise(4, len(STEP), 0.1))
    found = tally(judge_rounding, evidence(trajectory(series("train_loss", STEP, loss)), fitted=[]))
    assert_level(found, right)


def assert_level(found: Counter[Outcome], right: Outcome | None) -> None:
    for wrong in {SUPPORTED, REFUTED} - {right}:
        assert found[wrong] <= MOST
    assert right is None or found[right] >= RUNS // 2


@pytest.mark.parametrize(("level", "right"), [(0.2, SUPPORTED), (1.0, None), (5.0, REFUTED)])
def test_tc401_balance(level: float, right: Outcome | None) -> None:
    step = log_steps(10_000, 30)
    slack = series("relative_slack", step, 0.01 * level * np.exp(noise(5, len(step), 0.1)))
    found = tally(judge_balance, evidence(trajectory(flow_time(step, runs=RUNS)), slack, fitted=[]))
    assert_level(found, right)


@pytest.mark.parametrize("quotient", [0.8, 0.95, 1.0, 1.05, 1.25])
def test_tc402_balance_decay(quotient: float) -> None:
    step = np.arange(0, 400, 8)
    time = flow_time(step, lr=0.05, runs=RUNS)
    logs = -quotient * 2 * 0.5 * time.value + noise(6, len(step), 0.1)
    norm = series("weight_norm", step, np.tile(1e-3 * np.ones(len(step)), (RUNS, 1)))
    of, defect = trajectory(time, norm, settings=LINEAR), series("balancedness_defect.1", step, np.exp(logs))
    fitted = [Conditions(balancedness=balancedness_rates(of, {defect.name: defect}, r)) for r in range(RUNS)]
    found = tally(judge_balance_decay, evidence(of, defect, fitted=fitted))
    if quotient != 1.0:
        assert found[SUPPORTED] <= MOST
    if 0.95 <= quotient <= 1.05:
        assert found[REFUTED] <= MOST
    assert quotient in (0.95, 1.05) or found[SUPPORTED if quotient == 1.0 else REFUTED] >= RUNS // 2


@pytest.mark.parametrize(("level", "right"), [(0.3, SUPPORTED), (1.0, None), (3.0, REFUTED)])
@pytest.mark.parametrize("settings", [COUPLED, ADAMW], ids=["coupled", "AdamW"])
def test_tc404_rest(settings: dict[str, object], level: float, right: Outcome | None) -> None:
    step = log_steps(10_000, 80)
    residual = 0.1 * level * np.exp(noise(7, len(step), 0.2))
    flat = np.ones((RUNS, len(step)))
    of = trajectory(
        series("squared_gradient_norm", step, (residual * 0.5 * 3) ** 2),
        series("weight_norm", step, 3 * flat),
        series("lr", step, 1e-3 * flat),
        series("update_size.all", step, residual * 1e-3 * 0.5),
        settings=settings,
    )
    assert_level(tally(judge_rest, evidence(of, fitted=[])), right)


def pair_of_clocks(seed: int, quotient: float, runs: int) -> Evidence:
    """Return runs whose clocks strike with lognormal noise of 25 % each, T_rep = quotient · T_cls on average."""
    rng = np.random.default_rng(seed)
    step = log_steps(100_000, 200)
    of_loss, of_gap = (300 * one * rng.lognormal(0, 0.25, (runs, 1)) for one in (1.0, quotient))
    curves = (np.exp(-step / scale + noise(seed, len(step), 0.05, runs)) for scale in (of_loss, of_gap))
    loss, gap = (series(name, step, np.maximum(c, 1e-9)) for name, c in zip(("train_loss", "S"), curves, strict=True))
    of = trajectory(loss)
    return Evidence(of, clocks=clocks_of(of, gap))


def test_tc405_order_of_single_runs() -> None:
    equal, later, earlier = (tally(judge_order, pair_of_clocks(8, quotient, RUNS)) for quotient in (1.0, 6.0, 0.3))
    assert equal[SUPPORTED] <= MOST and earlier[SUPPORTED] == 0
    assert later[REFUTED] <= MOST
    assert later[SUPPORTED] >= RUNS // 2 and earlier[REFUTED] >= RUNS // 2


@pytest.mark.parametrize("group", [2, 3, 5])
def test_tc405_order_over_runs(group: int) -> None:
    of = pair_of_clocks(9, 1.0, RUNS * group)
    verdicts = [judge_order(of, r) for r in range(RUNS * group)]
    joined = [over_runs(verdicts[i : i + group]) for i in range(0, len(verdicts), group)]
    assert counted(joined)[SUPPORTED] <= MOST


@pytest.mark.parametrize("quotient", [0.7, 0.9, 1.0, 1.1, 1.4])
def test_tc406_shrinkage(quotient: float) -> None:
    gap = np.geomspace(1, 1e-6, 50)
    structure = np.exp(quotient * 0.5 * np.log(gap) + noise(10, len(gap), 0.05))
    tail = Tail("exponential", 0.5, None, "", None, (0.0, 1.0))
    fitted = [Conditions(shrinkage=power_relation(gap, one), tail=tail) for one in structure]
    found = tally(judge_shrinkage, evidence(trajectory(flow_time(np.arange(5), runs=RUNS)), fitted=fitted))
    if quotient != 1.0:
        assert found[SUPPORTED] <= MOST
    if 0.9 <= quotient <= 1.1:
        assert found[REFUTED] <= MOST
    assert quotient in (0.9, 1.1) or found[SUPPORTED if quotient == 1.0 else REFUTED] >= RUNS // 2


def test_tc406_counts_the_precision_of_theta() -> None:
    fit = Fit("power relation", {"r": 0.5}, {"r": (0.49, 0.51)}, FitOutcome.CONVERGED, 50, 50.0, (0.0, 1.0))
    outcomes = []
    for interval in (None, (0.3, 0.7)):
        tail = Tail("polynomial", 0.5, interval, "", None, (0.0, 1.0))
        of = evidence(trajectory(flow_time(np.arange(5))), fitted=[Conditions(shrinkage=fit, tail=tail)])
        outcomes.append(judge_shrinkage(of, 0).outcome)
    assert outcomes == [SUPPORTED, Outcome.UNDETERMINED]


def flipping_gates(disagreement: float, runs: int) -> Evidence:
    """Return runs with gates that flip at a constant rate from the fit on, to a true disagreement with the end."""
    rng = np.random.default_rng(11)
    step, examples, units = np.arange(0, 1000, 100), 300, 20
    on = rng.random((runs, examples, units)) < 0.9
    when = rng.random(on.shape) * step[-1] / disagreement
    moments = []
    for at in step.tolist():
        now = on ^ (when < at) & (when < step[-1])
        moments.append(snapshot(at, features__train=now.astype(np.float16)))
    of = trajectory(fitted_at(0, step, runs), snapshots=moments)
    return evidence(of, fitted=[Conditions()] * runs)


@pytest.mark.parametrize(
    ("disagreement", "right"), [(0.002, SUPPORTED), (0.0092, None), (0.01, None), (0.012, None), (0.05, REFUTED)]
)
def test_tc501_gates(disagreement: float, right: Outcome | None) -> None:
    found = tally(judge_frozen, flipping_gates(disagreement, RUNS))
    if disagreement >= 0.01:
        assert found[SUPPORTED] <= MOST
    assert right is None or found[right] >= RUNS // 2


@pytest.mark.parametrize("prefix", ["gradient_ratio.", "relative_speed_ratio."])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize(("quotient", "right"), [(1.0, None), (2.0, SUPPORTED), (0.5, REFUTED)])
def test_tc601_and_tc602_lead(prefix: str, blocks: int, quotient: float, right: Outcome | None) -> None:
    step = log_steps(300, 40)
    measured = [
        series(f"{prefix}block{i}", step, quotient * np.exp(noise(20 + i, len(step), 0.2))) for i in range(blocks)
    ]
    of = evidence(trajectory(fitted_at(1000, step, RUNS)), *measured, fitted=[])
    assert_level(tally(lambda one, r: judge_lead_of(one, r, prefix), of), right)


@pytest.mark.parametrize("decay", [0.0, 1 / 60], ids=["even", "fading"])
@pytest.mark.parametrize(("share", "right"), [(0.5, None), (0.7, SUPPORTED), (0.3, REFUTED)])
def test_tc603_share(share: float, decay: float, right: Outcome | None) -> None:
    step = log_steps(300, 40)
    total = np.exp(-decay * step) * np.exp(noise(30, len(step), 0.2))
    own = total * (share + noise(31, len(step), 0.1))
    blocks = {"readout": own, "encoder": total - own}
    of = evidence(
        trajectory(
            fitted_at(1000, step, RUNS),
            *(series(f"loss_decrease.{name}", step, value) for name, value in blocks.items()),
            *(series(f"block_norm.{name}", step, np.ones((RUNS, len(step)))) for name in blocks),
        ),
        fitted=[],
    )
    assert_level(tally(judge_share, of), right)


def judged_tails(gaps: Sequence[Float], step: Int) -> list[Verdict]:
    """Judge structural gaps of runs that fitted at the first step."""
    of = trajectory(fitted_at(step[0], step, len(gaps)), flow_time(step, runs=len(gaps)))
    gap = series("S", step, np.stack(gaps))
    clocks = clocks_of(of, gap)
    laws = [tail_law(of, {}, clocks, r) for r in range(len(gaps))]
    fitted = tuple(Conditions(tail=tail, tail_of=name) for name, tail in laws)
    whole = Evidence(of, clocks=clocks, conditions=fitted)
    return [judge_tail_law(whole, r) for r in range(len(gaps))]


def sums_of_exponentials(count: int, step: Int) -> list[Float]:
    """Return gaps of 2 to 200 exponential modes, their rates even or log-uniform over up to three decades."""
    rng, rows = np.random.default_rng(40), noise(41, len(step), 0.02, count)
    gaps = []
    for r in range(count):
        modes, fastest = int(rng.choice([2, 3, 5, 20, 200])), 10 ** rng.uniform(-2.5, 0)
        even, spread = rng.uniform(0, 1, modes), 10 ** rng.uniform(-rng.uniform(0.5, 3), 0, modes)
        rates = fastest * (even if r % 2 else spread)
        gaps.append(np.exp(-np.outer(step, rates)).mean(1) * np.exp(rows[r]) + 1e-290)
    return gaps


def powers(count: int, step: Int) -> list[Float]:
    """Return gaps that are power laws of time."""
    rng, rows = np.random.default_rng(42), noise(43, len(step), 0.02, count)
    return [(1 + step / 10 ** rng.uniform(0, 1)) ** -rng.uniform(1, 3) * np.exp(row) for row in rows]


def judged_objectives(gaps: Sequence[Float], step: Int) -> list[Verdict]:
    """Judge the objectives of flows, F_∞ + Δ, and their squared gradients −dΔ/dt."""
    flow = flow_time(step, runs=len(gaps))
    value = np.stack(gaps)
    falls = np.maximum(-np.gradient(np.log(value), np.log(step), axis=1), 0.05)
    of = trajectory(
        flow,
        series("objective", step, 1.0 + value),
        series("squared_gradient_norm", step, falls * value / step),
        settings={**COUPLED, "polish": {"objective": [1.0] * len(gaps)}},
    )
    return [judge_tail_law(one, r) for one in [evidence(of)] for r in range(len(gaps))]


def tails_are_told_apart(judge: Callable[[Sequence[Float], Int], list[Verdict]], count: int) -> None:
    step = log_steps(30_000, 60)
    sums, laws = judge(sums_of_exponentials(count, step), step), judge(powers(count, step), step)
    assert len(sums) == len(laws) == count
    assert sum(verdict.outcome is SUPPORTED for verdict in sums) <= count // 20
    assert sum(verdict.outcome is REFUTED for verdict in laws) <= count // 20
    assert sum(verdict.outcome is REFUTED for verdict in sums) >= 1
    assert sum(verdict.outcome is SUPPORTED for verdict in laws) >= count // 3


@pytest.mark.parametrize("judge", [judged_tails, judged_objectives])
def test_tc403_tails_of_few_runs(judge: Callable[[Sequence[Float], Int], list[Verdict]]) -> None:
    tails_are_told_apart(judge, 8)


@pytest.mark.slow
@pytest.mark.parametrize("judge", [judged_tails, judged_objectives])
def test_tc403_tails(judge: Callable[[Sequence[Float], Int], list[Verdict]]) -> None:
    tails_are_told_apart(judge, RUNS)


@pytest.mark.parametrize("code", ["TC101", "TC602"], ids=["number", "ratio"])
@pytest.mark.parametrize("runs", [5, 8])
def test_the_interval_over_runs_covers_the_truth(code: str, runs: int) -> None:
    rng, held, draws = np.random.default_rng(50), 0, 1000
    for _ in range(draws):
        effects = rng.normal(2, 1, runs) if code == "TC101" else 2 * rng.lognormal(0, 1, runs)
        interval = over_runs([Verdict(code, "", SUPPORTED, effect=float(one)) for one in effects]).interval
        assert interval is not None
        held += interval[0] <= 2 <= interval[1]
    assert 0.90 <= held / draws <= 0.98


def test_only_effects_of_the_same_thing_are_averaged() -> None:
    verdicts = [
        Verdict("TC601", "", Outcome.NOT_APPLICABLE),
        Verdict("TC601", "", SUPPORTED, "readout ÷ a", 4.0),
        Verdict("TC601", "", SUPPORTED, "readout ÷ b", 100.0),
        Verdict("TC601", "", SUPPORTED, "readout ÷ a", 1.0),
    ]
    joined = over_runs(verdicts)
    assert (joined.effect, joined.effect_is, joined.outcome) == (
        pytest.approx(2.0),
        "readout ÷ a",
        Outcome.SUPPORTED,  # a run to which the claim does not apply has no say
    )
