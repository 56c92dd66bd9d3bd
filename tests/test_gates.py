import itertools
import time

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import oracles
from contracts import Case, check_contract
from twoclocks.measures import gates
from twoclocks.measures.gates import (
    gate_agreement,
    gate_flips,
    gate_jaccard,
    gate_pattern,
    local_map,
    mean_gate_product,
    region_radius,
    relu_forward,
    stability_certificate,
    unpacked_gates,
    whole_pattern_share,
)

WIDTHS = ((5, 7, 3), (4, 9, 6, 3), (3, 8, 8, 5, 2))
Network = tuple[list[Tensor], list[Tensor]]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(seed: int, widths: tuple[int, ...], scale: float = 1.0) -> Network:
    pairs = list(itertools.pairwise(widths))
    weights = [scale * normal(seed + 10 * i, after, before) for i, (before, after) in enumerate(pairs)]
    return weights, [scale * normal(seed + 10 * i + 5, after) for i, (_, after) in enumerate(pairs)]


def pattern_of(net: Network, x: Tensor) -> Tensor:
    """Return all gates of all hidden layers, [n h] bool."""
    return torch.cat(relu_forward(*net, x)[1], 1) > 0


def moved(net: Network, step: Network, share: float = 1.0) -> Network:
    weights, biases = (
        [part + share * change for part, change in zip(parts, changes, strict=True)]
        for parts, changes in zip(net, step, strict=True)
    )
    return weights, biases


@pytest.mark.parametrize("units", [1, 7, 8, 9, 64, 65])
def test_comparisons_of_packed_gates_equal_those_of_booleans(units: int) -> None:
    first, second = normal(units, 11, units), normal(units + 1, 11, units)
    second[:4] = first[:4]
    a, b = gate_pattern(first), gate_pattern(second)
    assert a.shape == (11, -(-units // 8))
    assert_close(unpacked_gates(a, units), first > 0, rtol=0, atol=0)
    expected = oracles.gate_comparison((first > 0).numpy(), (second > 0).numpy())
    measured = [gate_agreement(a, b, units), gate_jaccard(a, b), whole_pattern_share(a, b)]
    assert [float(value) for value in measured] == pytest.approx(expected[:3], rel=1e-12)
    assert gate_flips(a, b).tolist() == expected[3]


def test_bits_are_counted_alike_with_and_without_numpys_own_count(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = gate_pattern(normal(0, 20, 50)), gate_pattern(normal(1, 20, 50))
    flips, jaccard = gate_flips(a, b), gate_jaccard(a, b)
    monkeypatch.setattr(gates, "bits_set", gates.BYTE_BITS.take)
    assert gates.BYTE_BITS.tolist() == [bin(byte).count("1") for byte in range(256)]
    assert_close(gate_flips(a, b), flips, rtol=0, atol=0)
    assert_close(gate_jaccard(a, b), jaccard, rtol=0, atol=0)


def test_dead_units_inflate_agreement_but_not_the_jaccard_index() -> None:
    first, second = normal(0, 30, 8), normal(1, 30, 8)
    dead = -torch.ones(30, 72, dtype=torch.float64)
    small = [gate_pattern(first), gate_pattern(second)]
    large = [gate_pattern(torch.cat([part, dead], 1)) for part in (first, second)]
    assert_close(gate_jaccard(*large), gate_jaccard(*small), rtol=0, atol=0)
    assert float(gate_agreement(*large, 80)) == pytest.approx(1 - (1 - float(gate_agreement(*small, 8))) / 10)
    nothing = gate_pattern(dead)
    assert float(gate_jaccard(nothing, nothing)) == 1.0


def test_a_unit_at_exactly_zero_is_off() -> None:
    assert gate_pattern(torch.tensor([[0.0, -0.0, 1e-300]], dtype=torch.float64)).tolist() == [[0b00100000]]


def test_comparing_many_patterns_is_quick() -> None:
    a, b = gate_pattern(normal(0, 3763, 512)), gate_pattern(normal(1, 3763, 512))
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        gate_agreement(a, b, 512)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 5e-3  # about 0.3 ms; ten times that still catches a comparison that unpacks


@pytest.mark.parametrize("widths", WIDTHS)
def test_a_network_is_its_local_map_wherever_the_gates_are_the_same(widths: tuple[int, ...]) -> None:
    net, x = network(1, widths), normal(2, 20, widths[0])
    logits, _ = relu_forward(*net, x)
    assert_close(logits, torch.from_numpy(oracles.relu_network(*arrays(net), x.numpy())), rtol=1e-12, atol=1e-12)
    seen = 0
    for point, value in zip(x, logits, strict=True):
        slope, offset = local_map(*net, point)
        assert_close(slope @ point + offset, value, rtol=1e-12, atol=1e-12)
        near = point + 1e-3 * normal(3, 30, len(point))
        near = near[(pattern_of(net, near) == pattern_of(net, point[None])).all(1)]
        assert_close(near @ slope.T + offset, relu_forward(*net, near)[0] if len(near) else near @ slope.T + offset)
        seen += len(near)
    assert seen > 300


def arrays(net: Network) -> tuple[list[np.ndarray], list[np.ndarray]]:
    weights, biases = ([part.numpy() for part in parts] for parts in net)
    return weights, biases


def test_the_slope_of_the_local_map_is_the_jacobian() -> None:
    net, x = network(3, (3, 8, 8, 5, 2)), normal(4, 3)
    jacobian = torch.func.jacrev(lambda point: plain_network(net, point))(x)
    assert_close(local_map(*net, x)[0], jacobian, rtol=1e-12, atol=1e-12)


def plain_network(net: Network, point: Tensor) -> Tensor:
    for weight, bias in list(zip(*net, strict=True))[:-1]:
        point = torch.relu(weight @ point + bias)
    return net[0][-1] @ point + net[1][-1]


def test_the_mean_gate_product_is_the_mean_local_map_of_one_hidden_layer() -> None:
    net, x = network(5, (5, 7, 3)), normal(6, 40, 5)
    product = mean_gate_product(net[0], [relu_forward(*net, x)[1][0] > 0])
    assert_close(product, torch.stack([local_map(*net, point)[0] for point in x]).mean(0), rtol=1e-12, atol=1e-12)


def test_with_every_gate_open_the_mean_gate_product_is_the_product() -> None:
    weights, _ = network(7, (3, 8, 8, 5, 2))
    opened = [torch.ones(4, h, dtype=torch.bool) for h in (8, 8, 5)]
    assert_close(mean_gate_product(weights, opened), weights[3] @ weights[2] @ weights[1] @ weights[0])
    half = mean_gate_product(weights, [torch.arange(4)[:, None].expand(4, h) % 2 == 0 for h in (8, 8, 5)])
    assert_close(half, weights[3] @ weights[2] @ weights[1] @ weights[0] / 8)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("inputs_move", [False, True])
def test_no_gate_flips_on_the_way_between_certified_checkpoints(widths: tuple[int, ...], inputs_move: bool) -> None:
    certified = refused = 0
    for seed in range(80):
        before, x = network(1000 + seed, widths), normal(seed, 12, widths[0])
        size = 10.0 ** -(1 + seed % 4)
        step, shift = network(5000 + seed, widths, size), size * normal(seed + 1, *x.shape) * inputs_move
        sure = stability_certificate(*before, *moved(before, step), x, x + shift if inputs_move else None)
        gates_on_the_way = [
            pattern_of(moved(before, step, share), x + share * shift) for share in torch.linspace(0, 1, 25).tolist()
        ]
        flips = torch.stack([(now != gates_on_the_way[0]).any(1) for now in gates_on_the_way]).any(0)
        assert not bool((flips & sure).any())
        certified, refused = certified + int(sure.sum()), refused + int((~sure).sum())
    assert certified > 200 and refused > 200


def adversary(net: Network, x: Tensor, size: float) -> Network:
    """Return the checkpoint a given row distance away that pushes every first pre-activation of x to its other side."""
    signs = -torch.sign(relu_forward(*net, x[None])[1][0][0])
    weights = [net[0][0] + size * signs[:, None] * x / x.norm(), *net[0][1:]]
    return weights, [net[1][0] + size * signs, *net[1][1:]]


def test_the_certificate_is_sharp_against_the_worst_step() -> None:
    for seed in range(200):
        net, x = network(seed, (4, 6, 2)), normal(seed + 1, 4)
        values = relu_forward(*net, x[None])[1][0][0].abs()
        limit = float(values.min()) / (float(x.norm()) + 1)
        near, far = adversary(net, x, limit * (1 - 1e-6)), adversary(net, x, limit * (1 + 1e-6))
        assert bool(stability_certificate(*net, *near, x[None])) and not bool(
            stability_certificate(*net, *far, x[None])
        )
        assert bool((pattern_of(net, x[None]) == pattern_of(near, x[None])).all())
        assert not bool((pattern_of(net, x[None]) == pattern_of(far, x[None])).all())


def test_moving_inputs_need_the_larger_of_the_two_rows() -> None:
    """z(s) = (1 − s)(1 − 4s) + 0.3 is on at both ends and off at s = 0.625; ‖Δw‖‖x‖ + ‖w'‖‖Δx‖ = 1 would not see it."""
    weights, biases, x = [torch.eye(1), torch.eye(1)], [torch.tensor([0.3]), torch.zeros(1)], torch.tensor([[1.0]])
    after = [torch.zeros(1, 1), torch.eye(1)]
    assert not bool(stability_certificate(weights, biases, after, biases, x, torch.tensor([[-3.0]])))
    assert bool(stability_certificate(weights, biases, after, biases, x, torch.tensor([[0.8]])))


def test_a_deep_certificate_lets_units_that_stay_off_pass_nothing_on() -> None:
    weights = [torch.tensor([[-1.0], [1.0]]), torch.tensor([[1e6, 1.0]]), torch.eye(1)]
    biases = [torch.zeros(2), torch.zeros(1), torch.zeros(1)]
    after = [torch.tensor([[-1.1], [1.1]]), *weights[1:]]
    assert bool(stability_certificate(weights, biases, after, biases, torch.tensor([[1.0]])))
    weights[1] = after[1] = torch.tensor([[1.0, 1e6]])
    biases[1] = torch.tensor([-1e6 + 5e4])
    assert not bool(stability_certificate(weights, biases, after, biases, torch.tensor([[1.0]])))


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_region_radius_is_the_distance_at_which_the_first_gate_flips(widths: tuple[int, ...]) -> None:
    net, x = network(20, widths), normal(21, 30, widths[0])
    radius = region_radius(*net, x)
    assert bool((radius > 0).all())
    for point, reach in zip(x, radius.tolist(), strict=True):
        directions = torch.nn.functional.normalize(normal(22, 200, len(point)), dim=1)
        inside = point + 0.999999 * reach * directions
        assert bool((pattern_of(net, inside) == pattern_of(net, point[None])).all())
        away = towards_nearest(net, point)
        assert bool((pattern_of(net, (point + (1 - 1e-6) * reach * away)[None]) == pattern_of(net, point[None])).all())
        assert not bool(
            (pattern_of(net, (point + (1 + 1e-6) * reach * away)[None]) == pattern_of(net, point[None])).all()
        )


def towards_nearest(net: Network, point: Tensor) -> Tensor:
    """Return the unit vector to the nearest plane, from gradients that autograd takes one unit at a time."""
    variable = point.clone().requires_grad_()
    signal, steps = variable, []
    for weight, bias in list(zip(*net, strict=True))[:-1]:
        values = weight @ signal + bias
        for value in values:
            gradient = torch.autograd.grad(value, variable, retain_graph=True)[0]
            if steepness := gradient.norm().item():
                steps.append((abs(value.item()) / steepness, -gradient * value.detach().sign() / steepness))
        signal = values.relu()
    return min(steps, key=lambda step: step[0])[1]


def test_the_region_radius_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(30, (3, 8, 8, 2)), normal(31, 17, 3)
    whole = region_radius(*net, x)
    monkeypatch.setattr(gates, "GRADIENT_ENTRIES", 5 * 24)
    assert_close(region_radius(*net, x), whole, rtol=1e-12, atol=0)


def test_the_region_radius_keeps_its_contract() -> None:
    weights, biases = network(30, (3, 8, 8, 2))
    given, others = {"x": normal(31, 17, 3)}, {"weights": weights, "biases": biases}
    check_contract(Case(region_radius, given, by_example=True, others=others))


def test_a_network_that_ignores_its_input_has_an_infinite_region() -> None:
    weights = [torch.zeros(2, 3), torch.ones(1, 2)]
    assert region_radius(weights, [torch.ones(2), torch.zeros(1)], torch.ones(4, 3)).tolist() == [torch.inf] * 4


def test_what_does_not_fit_is_refused_in_words() -> None:
    net, x = network(0, (3, 4, 2)), normal(1, 5, 3)
    pattern = gate_pattern(normal(2, 5, 12))
    refusals = [
        (lambda: gate_pattern(torch.ones(3)), "two axes"),
        (lambda: gate_flips(pattern, pattern[:4]), "expected the shape of a"),
        (lambda: gate_flips(pattern, pattern.float()), "packed gates"),
        (lambda: gate_agreement(pattern, pattern, 17), "units: expected"),
        (lambda: unpacked_gates(pattern, 8), "units: expected"),
        (lambda: relu_forward(*net, x[:, :2]), "x: expected 3 columns"),
        (lambda: relu_forward(net[0], net[1][:1], x), "biases: expected one"),
        (lambda: relu_forward(net[0], [net[1][0], net[1][1] / 0], x), "biases: expected finite"),
        (lambda: stability_certificate(*net, *network(0, (3, 5, 2)), x), "shapes of the first checkpoint"),
        (lambda: stability_certificate(*net, *net, x, x[:4]), "shapes of the first checkpoint"),
        (lambda: mean_gate_product(net[0], [torch.ones(5, 3, dtype=torch.bool)]), "gates: expected"),
        (lambda: mean_gate_product(net[0], [torch.ones(5, 4)]), "gates: expected bool"),
    ]
    for refused, words in refusals:
        with pytest.raises(ValueError, match=words):
            refused()
    assert len(refusals) == 12
