"""This file knows the closed-form cases of the science that need no flow: one test a case, numbered as in its section 9."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.testing import assert_close

from twoclocks.measures.adam import adam_gap_velocity, adamw_saturation
from twoclocks.measures.balance import balancedness_matrices, end_to_end_product, free_energy, schatten_slack
from twoclocks.measures.floors import cross_entropy_bracket, expected_gap
from twoclocks.measures.fourier import fourier_energies, fourier_logits, logit_frequencies, surviving_frequencies
from twoclocks.measures.gates import local_map, relu_forward
from twoclocks.measures.margins import cross_entropy_from_gaps, margin
from twoclocks.measures.motion import gradient_bounds
from twoclocks.measures.spectrum import entropy_rank, participation_ratio, schatten_energy, singular_values, stable_rank


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_case_08_balanced_factors_attain_the_schatten_energy_and_any_other_gauge_exceeds_it() -> None:
    target, depth = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)), 3
    least = depth * float(schatten_energy(target, 2 / depth))
    assert least == pytest.approx(9.240251, abs=5e-7)
    root = target.pow(1 / depth)
    assert sum(float(factor.square().sum()) for factor in [root] * 3) == pytest.approx(least, rel=1e-14)
    assert float(schatten_slack([root] * 3)) < 1e-14
    for seed in range(200):
        first, second = torch.eye(2) + 0.5 * normal(seed, 2, 2), torch.eye(2) + 0.5 * normal(seed + 1000, 2, 2)
        factors = [first @ root, second @ root @ first.inverse(), root @ second.inverse()]
        weight = sum(float(factor.square().sum()) for factor in factors)
        assert weight > least
        assert float(schatten_slack(factors)) == pytest.approx(weight - least, rel=1e-6)
    energy = free_energy(0.0, [root] * 3, weight_decay=2.0)
    assert (energy.total, energy.reduced) == pytest.approx((least, least), rel=1e-14)


@pytest.mark.parametrize(
    ("lr", "beta2", "steps", "expected"),
    [(1e-3, 0.98, 60_000, 0.96005), (1e-3, 0.999, 100_000, 0.41484), (1e-2, 0.98, 8_000, 0.64249)],
)
def test_case_11_adam_on_the_logistic_loss(lr: float, beta2: float, steps: int, expected: float) -> None:
    assert adam_gap_velocity(lr, 0.9, beta2) / lr == pytest.approx(expected, abs=5e-6)
    path = adamw_path(steps, lr, 0.9, beta2)
    assert (path[-1] - path[-1001]) / 1000 / lr == pytest.approx(expected, abs=1e-5)


def test_case_12_adamw_saturates_at_one_over_the_decay() -> None:
    assert adamw_saturation(1.0) == 1.0
    assert adamw_path(20_000, 1e-3, 0.9, 0.98, weight_decay=1.0, epsilon=1e-8)[-1] == pytest.approx(1.0, abs=1e-6)


def adamw_path(
    steps: int, lr: float, beta1: float, beta2: float, *, weight_decay: float = 0.0, epsilon: float = 0.0
) -> np.ndarray:
    """Return the scalar weight after each step of AdamW on log(1 + e^{−w}), from 0."""
    weight, first, second, path = 0.0, 0.0, 0.0, np.empty(steps)
    for step in range(steps):
        gradient = -1 / (1 + math.exp(weight))
        first, second = beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient**2
        mean, size = first / (1 - beta1 ** (step + 1)), math.sqrt(second / (1 - beta2 ** (step + 1)))
        weight = weight * (1 - lr * weight_decay) - lr * mean / (size + epsilon)
        path[step] = weight
    return path


def test_case_13_the_cross_entropy_bracket_is_attained_at_both_ends() -> None:
    for gap in (-3.0, 0.0, 2.0, 20.0, 60.0):
        one_rival = torch.tensor([[gap, 0.0, -1e4, -1e4]], dtype=torch.float64)
        all_rivals = torch.tensor([[gap, 0.0, 0.0, 0.0]], dtype=torch.float64)
        least, greatest = cross_entropy_bracket(torch.tensor([gap], dtype=torch.float64), 4)
        label = torch.tensor([0])
        assert_close(cross_entropy_from_gaps(one_rival, label), least, rtol=1e-12, atol=0)
        assert_close(cross_entropy_from_gaps(all_rivals, label), greatest, rtol=1e-12, atol=0)
        assert float(least) == pytest.approx(math.log1p(math.exp(-gap)), rel=1e-12)
        assert float(greatest) == pytest.approx(math.log1p(3 * math.exp(-gap)), rel=1e-12)
        assert float(greatest) <= 3 * math.exp(-gap)


def test_case_14_a_relu_net_is_its_local_map_and_the_readout_gradient_has_a_closed_norm() -> None:
    weights, biases = (
        [normal(0, 16, 6), normal(1, 12, 16), normal(2, 5, 12)],
        [normal(3, 16), normal(4, 12), normal(5, 5)],
    )
    readout = weights[2].clone().requires_grad_()
    x, seen = normal(6, 25, 6), 0
    logits, preactivations = relu_forward(weights, biases, x)
    for place, point in enumerate(x):
        slope, offset = local_map(weights, biases, point)
        assert float((slope @ point + offset - logits[place]).norm() / logits[place].norm()) < 1e-12
        features = preactivations[1][place].relu()
        loss = torch.nn.functional.cross_entropy(readout @ features + biases[2], torch.tensor(place % 5))
        error = torch.softmax(logits[place], 0) - torch.nn.functional.one_hot(torch.tensor(place % 5), 5)
        bounds = gradient_bounds(
            error[None], features[None], features[None], readout=readout, hidden=torch.eye(12), mixing=torch.eye(12)
        )
        assert float(torch.autograd.grad(loss, readout)[0].norm()) == pytest.approx(float(bounds.readout), rel=1e-12)
        seen += 1
    assert seen == 25


def test_case_15_fourier_logits_of_all_frequencies_and_of_m() -> None:
    p = 113
    logits, labels = fourier_logits(p, range(1, 57)), torch.cartesian_prod(torch.arange(p), torch.arange(p)).sum(1) % p
    assert_close(margin(logits, labels), torch.full((p * p,), 56.5, dtype=torch.float64), rtol=1e-12, atol=0)
    values = singular_values(logits)
    assert int((values > 1e-6 * values[0]).sum()) == 112
    for m, frequencies in [(1, [7]), (4, [5, 20, 33, 41])]:
        some = fourier_logits(p, frequencies)
        for rank in (stable_rank, entropy_rank, participation_ratio):
            assert float(rank(some)) == pytest.approx(2 * m, rel=1e-9), rank.__name__
        energies = logit_frequencies(some, labels, p)
        assert energies[frequencies].tolist() == pytest.approx([p / 2] * m, rel=1e-9)
        assert float(energies.sum()) == pytest.approx(m * p / 2, rel=1e-9)
        table = some[torch.arange(p) * p]
        assert sorted(surviving_frequencies(table, share=1.0)) == frequencies
        assert float(fourier_energies(table).sum()) == pytest.approx(m * p * p / 2, rel=1e-9)


def test_case_17_a_decayed_linear_network_at_rest_obeys_eulers_identity() -> None:
    decay, widths = 0.05, (5, 6, 4)
    x, labels = normal(1, 15, 5), torch.randint(0, 4, (15,), generator=torch.Generator().manual_seed(2))

    def factors(flat: Tensor) -> list[Tensor]:
        cut = widths[1] * widths[0]
        return [flat[:cut].view(widths[1], widths[0]), flat[cut:].view(widths[2], widths[1])]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(flat.copy()).requires_grad_()
        first, second = factors(theta)
        loss = torch.nn.functional.cross_entropy(x @ first.T @ second.T, labels)
        value = loss + decay / 2 * theta.square().sum()
        return value.item(), torch.autograd.grad(value, theta)[0].numpy()

    start = normal(3, widths[1] * (widths[0] + widths[2])).numpy()
    options = {"gtol": 1e-12, "ftol": 0.0, "maxiter": 20_000, "maxfun": 20_000}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    assert np.abs(objective(found.x)[1]).max() < 1e-8
    rest = factors(torch.from_numpy(found.x))
    size, product = float(found.x @ found.x), end_to_end_product(rest)
    assert size > 1
    assert 2 * float(expected_gap(x @ product.T, labels)) == pytest.approx(decay * size, rel=1e-7)
    assert_close(balancedness_matrices(rest)[0], torch.zeros(6, 6, dtype=torch.float64), rtol=0, atol=1e-7)
    assert size == pytest.approx(2 * float(schatten_energy(product, 1.0)), rel=1e-6)
    loss = float(cross_entropy_from_gaps(x @ product.T, labels).mean())
    energy = free_energy(loss, rest, weight_decay=decay)
    assert energy.total == pytest.approx(float(found.fun), rel=1e-12)
    assert energy.reduced == pytest.approx(energy.total, rel=1e-7)


def test_case_19_a_float32_cross_entropy_is_exactly_zero_beyond_16_64() -> None:
    limit = math.log(2.0**24)
    assert limit == pytest.approx(16.64, abs=5e-3)
    for gap in np.arange(15.0, 18.0, 0.01):
        logits, label = torch.tensor([[gap, 0.0]], dtype=torch.float32), torch.tensor([0])
        loss = float(torch.nn.functional.cross_entropy(logits, label))
        if abs(gap - limit) > 0.01:
            assert (loss == 0.0) is bool(gap > limit)
        exact = math.log1p(math.exp(-float(logits[0, 0])))
        assert float(cross_entropy_from_gaps(logits, label)) == pytest.approx(exact, rel=1e-12)
        assert loss * 2**23 == pytest.approx(round(loss * 2**23), abs=1e-5)
