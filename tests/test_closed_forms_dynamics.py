"""The flows whose course is known in closed form: our own training follows them, to the digits that are stated."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.special import expi

from twoclocks.clocks import hitting_time
from twoclocks.measures.balance import balancedness_defect
from twoclocks.measures.floors import expected_gap
from twoclocks.measures.spectrum import schatten_norm
from twoclocks.recipes import deep_linear, separable_logistic
from twoclocks.training.loop import train
from twoclocks.training.optimizers import GradientFlow, flow_update
from twoclocks.trajectory import SaveAt, Snapshot, Trajectory

Float = NDArray[np.float64]
# One example of norm 1 in two classes: its gap follows the scalar logistic loss, twice as fast, at half the decay.
SCALAR = {"n": 1, "heldout": 0, "d": 2, "spread": 0.0, "margin": math.sqrt(0.5), "init_scale": 0.0}


def gap_of(run: Trajectory) -> tuple[Float, Float]:
    """Return steps and the gap of the single example of a separable-logistic run."""
    series = run.scalars["train_margin_min"]
    return series.step.astype(np.float64), series.value[0]


def layers_of(snapshot: Snapshot, run: int = 0) -> list[torch.Tensor]:
    names = sorted(name for name in snapshot.tensors if name.startswith("weights/"))
    return [torch.from_numpy(snapshot.tensors[name][run]) for name in names]


def modes_of(snapshot: Snapshot) -> Float:
    """Return the singular values of the end-to-end map of the first run."""
    first, *others = layers_of(snapshot)
    for layer in others:
        first = layer @ first
    return np.asarray(torch.linalg.svdvals(first))


def two_layer_mode(s: float, u0: float, decay: float, t: Float) -> Float:
    """Return the course of one mode of a balanced two-layer network under decay, from its closed form."""
    left = s - decay
    if left == 0:
        return u0 / (1 + 2 * u0 * t)
    return left / (1 - (1 - left / u0) * np.exp(-2 * left * t))


def test_case_01_the_gap_of_the_logistic_flow() -> None:
    run = train(separable_logistic(**SCALAR, optimizer="flow", lr=0.1, steps=1000))
    step, gap = gap_of(run)
    np.testing.assert_allclose(gap + np.exp(gap), 1 + 2 * 0.1 * step, rtol=1e-7)
    w = solve_ivp(lambda _, w: 1 / (1 + np.exp(w)), (0, 1e4), [0.0], method="DOP853", rtol=1e-11, atol=1e-12).y[0, -1]
    assert w + math.exp(w) == pytest.approx(1 + 1e4, rel=1e-7)
    assert 1e4 * math.log1p(math.exp(-w)) == pytest.approx(1.00077, abs=5e-6)


def exponential_loss_flow(depth: int, beta: float, until: float) -> float:
    """Return β = w^L at a time, of a balanced net with one weight and the loss e^{−w^L}."""

    def slope(_: float, w: Float) -> Float:
        return depth * w ** (depth - 1) * np.exp(-(w**depth))

    end = solve_ivp(slope, (0, until), [beta ** (1 / depth)], method="LSODA", rtol=1e-11, atol=1e-13).y[0, -1]
    return float(end**depth)


def test_case_02_depth_2_with_the_exponential_loss() -> None:
    for until in (1.0, 30.0, 1000.0):
        assert expi(exponential_loss_flow(2, 0.5, until)) - expi(0.5) == pytest.approx(4 * until, rel=1e-7)


def test_case_03_every_depth_with_the_exponential_loss() -> None:
    found = []
    for depth in (1, 2, 3, 4):
        beta = exponential_loss_flow(depth, 1.0, 1e8)
        found.append(math.exp(-beta) * 1e8 * depth**2 * beta ** (2 - 2 / depth))
    np.testing.assert_allclose(found, [1.000, 1.048, 1.060, 1.064], atol=1e-3)


def test_case_04_the_floor_of_the_logistic_loss_under_decay() -> None:
    run = train(separable_logistic(**SCALAR, optimizer="flow", lr=0.5, weight_decay=0.02, steps=700))
    step, gap = gap_of(run)
    rest = brentq(lambda w: 0.01 * w - 1 / (1 + math.exp(w)), 0, 10, xtol=1e-14)
    assert rest == pytest.approx(3.359275, abs=1e-6)
    assert gap[-1] == pytest.approx(rest, abs=1e-9)
    loss = run.scalars["train_loss"]
    assert loss.value[0, -1] == pytest.approx(0.034170, abs=1e-6)
    late = (step >= 200) & (step <= 400)
    rate = -np.polyfit(2 * 0.5 * step[late], np.log(rest - gap[late]), 1)[0]
    assert rate == pytest.approx(0.042464, abs=1e-5)
    assert hitting_time(loss, below=0.0341).censored
    assert hitting_time(loss, below=0.0343).value is not None


def test_case_04_negative_control_without_decay_there_is_no_floor() -> None:
    run = train(separable_logistic(**SCALAR, optimizer="flow", lr=0.5, weight_decay=0.0, steps=700))
    _, gap = gap_of(run)
    assert gap[-1] > 6 and bool((np.diff(gap) > 0).all())
    assert 700 * run.scalars["train_loss"].value[0, -1] == pytest.approx(1.0, abs=0.01)
    assert "polish" not in run.settings


@pytest.mark.parametrize("q", [2, 3, 4, 6])
def test_case_05_the_state_law_of_a_power(q: int) -> None:
    times = np.geomspace(10, 1e4 if q > 2 else 30, 50)
    flow = solve_ivp(
        lambda _, x: -(np.abs(x) ** (q - 1)),
        (0, times[-1]),
        [1.0],
        method="LSODA",
        rtol=1e-11,
        atol=1e-30,
        t_eval=times,
    )
    gap, gradient = flow.y[0] ** q / q, flow.y[0] ** (q - 1)
    assert np.polyfit(np.log(gap), np.log(gradient), 1)[0] == pytest.approx(1 - 1 / q, abs=1e-9)
    if q == 2:
        np.testing.assert_allclose(gap, 0.5 * np.exp(-2 * times), rtol=1e-6)
    else:
        tail = np.polyfit(np.log(times[-10:]), np.log(gap[-10:]), 1)[0]
        assert tail == pytest.approx(-q / (q - 2), rel=1e-3)


@pytest.mark.parametrize("rotate", [False, True])
def test_case_06_the_modes_of_a_two_layer_network(rotate: bool) -> None:
    spectrum = (3.0, 1.0, 0.5, 0.2)
    run = train(
        deep_linear(width=4, init="aligned", rotate=rotate, init_scale=math.sqrt(0.1), lr=0.01, steps=2000, polish=True)
    )
    compared = 0
    for snapshot in run.snapshots:
        t = np.float64(snapshot.flow_time)
        exact = sorted((float(two_layer_mode(s, 0.1, 0.5, t)) for s in spectrum), reverse=True)
        np.testing.assert_allclose(modes_of(snapshot), exact, rtol=1e-7)
        compared += 1
    assert compared > 60
    np.testing.assert_allclose(run.settings["polish"]["singular_values"][0], [2.5, 0.5, 0, 0], atol=1e-7)
    assert run.settings["polish"]["objective"][0] == pytest.approx(1.895, abs=1e-12)


def test_case_06_the_threshold_mode_has_a_kl_exponent_of_three_quarters() -> None:
    run = train(deep_linear(width=2, init="aligned", spectrum="0.5,0.5", init_scale=1.0, lr=0.2, steps=2000))
    late = run.scalars["objective"].step > 200
    gap = run.scalars["objective"].value[0, late] - run.settings["polish"]["objective"][0]
    gradient = np.sqrt(run.scalars["squared_gradient_norm"].value[0, late])
    assert np.polyfit(np.log(gap), np.log(gradient), 1)[0] == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize("decay", [0.3, 0.0])
def test_case_07_balancedness_decays_at_twice_the_weight_decay(decay: float) -> None:
    run = train(
        deep_linear(
            depth=3, width=4, spectrum="3,1,0.5", init="random", init_scale=1.0, weight_decay=decay, lr=2e-3, steps=1000
        )
    )
    start = balancedness_defect(layers_of(run.snapshots[0]))
    assert bool((start > 0.5).all()) and len(run.snapshots) > 60
    for snapshot in run.snapshots:
        torch.testing.assert_close(
            balancedness_defect(layers_of(snapshot)),
            start * math.exp(-2 * decay * snapshot.flow_time),
            rtol=1e-9,
            atol=0,
        )


def test_case_09_the_metric_decides_between_exponential_and_polynomial() -> None:
    run = train(
        deep_linear(width=2, init="aligned", spectrum="0.5,0.5", init_scale=math.sqrt(0.1), lr=0.05, steps=2000)
    )
    times = np.array([snapshot.flow_time for snapshot in run.snapshots])
    found = np.array([modes_of(snapshot)[0] for snapshot in run.snapshots])
    np.testing.assert_allclose(found, 0.1 / (1 + 2 * 0.1 * times), rtol=1e-7)
    in_map_space = solve_ivp(lambda _, u: -(u - 0.5) - 0.5, (0, 20), [0.1], rtol=1e-11, atol=1e-14).y[0, -1]
    assert in_map_space == pytest.approx(0.1 * math.exp(-20), rel=1e-6)
    assert np.interp(20, times, found) > 1e6 * in_map_space


def test_case_10_the_saddle_node_of_depth_3() -> None:
    rest = 0.25 ** (1 / 3)
    decay = 0.75 * rest
    assert rest == pytest.approx(0.629961, abs=1e-6) and decay == pytest.approx(0.472470, abs=1e-6)
    energy = np.poly1d([0.5, 0, 0, -1, 1.5 * decay, 0, 0.5])(np.poly1d([1, rest]))  # F(w* + x)
    assert np.abs(energy.coeffs[-3:-1]).max() < 1e-15  # stationary, and without curvature: a saddle-node
    excess = np.poly1d([*energy.coeffs[:-3], 0, 0, 0])
    slope = excess.deriv() / 3
    times = np.geomspace(1, 1e5, 200)
    flow = solve_ivp(
        lambda _, x: -slope(x), (0, 1e5), [1 - rest], method="LSODA", rtol=1e-11, atol=1e-13, t_eval=times
    ).y[0]
    run = train(
        deep_linear(
            depth=3, width=1, spectrum="1,0", rotate=False, init="aligned", init_scale=1.0, weight_decay=decay,
            lr=0.1, steps=2000, polish=False,
        )
    )  # fmt: skip
    at = [snapshot.flow_time for snapshot in run.snapshots[1:] if snapshot.flow_time >= 1]
    ours = [float(s.tensors["weights/layer.2"][0, 0, 0]) - rest for s in run.snapshots[1:] if s.flow_time >= 1]
    theirs = np.exp(np.interp(np.log(at), np.log(times), np.log(flow)))
    assert len(at) > 60
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    gap = excess(flow)
    assert gap[-1] ** (-1 / 3) / 1e5 == pytest.approx(0.4444 ** (-1 / 3), rel=1e-3)
    assert np.polyfit(np.log(gap[-40:]), np.log(np.abs(slope(flow[-40:]))), 1)[0] == pytest.approx(2 / 3, abs=1e-3)


def test_case_16_one_step_of_gradient_descent_contracts_by_its_own_loss() -> None:
    found = []
    for step in (10, 100, 1000, 10_000):
        recipe = separable_logistic(**SCALAR, lr=0.25, steps=step)
        run = train(replace(recipe, save_at=SaveAt(per_decade=0, every=step - 1, snapshots_per_decade=0)))
        loss = run.scalars["train_loss"]
        assert loss.step.tolist() == [0, step - 1, step]
        found.append((1 - loss.value[0, 2] / loss.value[0, 1]) / (0.5 * loss.value[0, 1]))
    np.testing.assert_allclose(found, [0.783, 0.974, 0.9975, 0.99975], atol=5e-4)


def test_case_17_at_rest_the_pull_of_the_gaps_equals_the_decay() -> None:
    recipe = deep_linear(
        loss="cross-entropy", p=5, width=6, init="random", init_scale=0.5, weight_decay=0.05, lr=1.0, steps=800
    )
    run = train(recipe, seeds=[0, 1])
    assert run.runs == 2
    for r in range(2):
        layers = layers_of(run.snapshots[-1], r)
        norm, end_to_end = float(sum(layer.square().sum() for layer in layers)), layers[1] @ layers[0]
        assert norm > 1
        assert 2 * float(expected_gap(end_to_end.T, torch.arange(5))) == pytest.approx(0.05 * norm, rel=1e-9)
        torch.testing.assert_close(balancedness_defect(layers), torch.zeros(1).double(), atol=1e-9, rtol=0)
        assert norm == pytest.approx(2 * float(schatten_norm(end_to_end, 1.0)), rel=1e-9)


def test_case_18_many_exponential_modes_look_like_a_power_law_at_first() -> None:
    rates = np.arange(1, 201) / 200

    def exponent(start: float, end: float) -> tuple[float, float]:
        t = np.geomspace(start, end, 40)
        log_gap = np.log(np.exp(-np.outer(t, rates)).sum(1))
        return -np.polyfit(np.log(t), log_gap, 1)[0], -np.polyfit(t, log_gap, 1)[0]

    power, _ = exponent(5, 60)
    assert 0.5 * (1 + 1 / power) == pytest.approx(1.0, abs=0.05)
    _, rate = exponent(2000, 4000)
    assert rate == pytest.approx(rates[0], rel=1e-4)


def test_case_20_shrinkage_alone_ends_in_map_space_and_never_in_factors() -> None:
    decay, depth, start = 0.3, 3, 2.0
    p = 2 / depth
    extinction = start ** (2 - p) / (decay * p * (2 - p))

    def slope(_: float, s: Float) -> Float:
        return -decay * p * s ** (p - 1)

    def tiny(_: float, s: Float) -> float:
        return float(s[0]) - 1e-6

    tiny.terminal = True  # type: ignore[attr-defined]
    flow = solve_ivp(slope, (0, 2 * extinction), [start], method="DOP853", rtol=1e-10, atol=1e-14, events=tiny)
    assert flow.t_events[0][0] == pytest.approx(extinction, rel=1e-6)
    weights = torch.full((depth,), start ** (1 / depth), dtype=torch.float64)
    for _ in range(200):
        weights = flow_update(weights, torch.zeros_like(weights), GradientFlow(0.05, decay), torch.zeros_like)
    assert float(weights.prod()) == pytest.approx(start * math.exp(-depth * decay * 10), rel=1e-7)
