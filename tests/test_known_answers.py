"""This file knows the closed-form cases of the science: numbers that no implementation of ours produced."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize
from torch import Tensor
from torch.testing import assert_close

from twoclocks.measures.balance import balancedness_defect
from twoclocks.measures.floors import cross_entropy_bracket, expected_gap, weight_decay_loss_floor
from twoclocks.measures.margins import cross_entropy_from_gaps, margin
from twoclocks.measures.spectrum import (
    effective_rank,
    entropy_rank,
    participation_ratio,
    schatten_norm,
    singular_values,
    stable_rank,
)


def fourier_logits(p: int, frequencies: int) -> Tensor:
    """Return Σ_k cos(2πk(a + b − c)/p) for k = 1 to `frequencies`: [p² p], one row a pair (a, b)."""
    a, b, c = torch.meshgrid(*[torch.arange(p, dtype=torch.float64)] * 3, indexing="ij")
    phase = 2 * math.pi * ((a + b - c).view(p * p, p) % p) / p
    return sum((torch.cos(k * phase) for k in range(1, frequencies + 1)), torch.zeros_like(phase))


def test_case_4_the_floor_of_a_decayed_logistic_loss() -> None:
    assert weight_decay_loss_floor(depth=1, weight_decay=0.01, squared_norm=3.359275**2, classes=2) == pytest.approx(
        0.034170, abs=1e-6
    )


def test_case_7_balancedness_decays_at_twice_the_weight_decay() -> None:
    generator, decay, target = torch.Generator().manual_seed(0), 0.3, torch.diag(torch.tensor([3.0, 1.0, 0.5])).double()
    start = torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)

    def flow(_: float, flat: object) -> object:
        first, second = torch.as_tensor(flat).view(2, 3, 3)
        slope = second @ first - target
        return -torch.stack([second.T @ slope + decay * first, slope @ first.T + decay * second]).view(-1).numpy()

    end = solve_ivp(flow, (0, 2), start.view(-1).numpy(), method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    first, second = torch.from_numpy(end.copy()).view(2, 3, 3)
    assert_close(
        balancedness_defect([first, second]), balancedness_defect(list(start)) * math.exp(-4 * decay), rtol=1e-8, atol=0
    )


def test_case_8_balanced_factors_attain_the_schatten_energy_and_others_exceed_it() -> None:
    target, depth = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)), 3
    energy = depth * float(schatten_norm(target, 2 / depth)) ** (2 / depth)
    assert energy == pytest.approx(9.240251, abs=1e-6)
    root = target.pow(1 / depth)
    assert float(depth * root.square().sum()) == pytest.approx(energy, rel=1e-12)
    gauge = torch.tensor([[1.1, 0.2], [0.0, 0.9]], dtype=torch.float64)
    others = [gauge @ root, root @ gauge.inverse(), root]
    assert_close(others[2] @ others[1] @ others[0], target)
    assert float(sum(other.square().sum() for other in others)) > energy + 1e-3


def test_case_13_the_cross_entropy_lies_between_the_bounds_of_its_margin() -> None:
    logits = 8 * torch.randn(500, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 7, (500,), generator=torch.Generator().manual_seed(1))
    loss, gap = cross_entropy_from_gaps(logits, labels), margin(logits, labels)
    least, greatest = cross_entropy_bracket(gap, 7)
    assert bool((least <= loss).all()) and bool((loss <= greatest).all())
    assert bool((greatest <= 6 * torch.exp(-gap)).all())
    assert_close(cross_entropy_bracket(gap, 2)[0], cross_entropy_bracket(gap, 2)[1], rtol=0, atol=0)
    tied = torch.tensor([[5.0, 2.0, 2.0, 2.0]])
    assert_close(cross_entropy_from_gaps(tied, torch.tensor([0])), cross_entropy_bracket(torch.tensor([3.0]), 4)[1])


def test_case_15_fourier_logits_of_all_frequencies() -> None:
    p = 113
    row = torch.stack([torch.roll(fourier_row(p, 56), shift) for shift in range(p)])
    assert_close(margin(row, torch.arange(p)), torch.full((p,), 56.5, dtype=torch.float64))
    assert int((singular_values(row) > 1e-6).sum()) == 112


def fourier_row(p: int, frequencies: int) -> Tensor:
    """Return the logits of one pair with a + b = 0."""
    c = torch.arange(p, dtype=torch.float64)
    return torch.stack([torch.cos(2 * math.pi * k * c / p) for k in range(1, frequencies + 1)]).sum(0)


@pytest.mark.parametrize("frequencies", [1, 3, 6])
def test_case_15_every_rank_of_m_fourier_pairs_is_2m(frequencies: int) -> None:
    logits = fourier_logits(13, frequencies)
    for rank in (stable_rank, effective_rank, entropy_rank, participation_ratio):
        assert float(rank(logits)) == pytest.approx(2 * frequencies, rel=1e-9), rank.__name__


def test_case_17_at_a_stationary_point_the_pull_of_the_gaps_equals_the_decay() -> None:
    generator, decay = torch.Generator().manual_seed(0), 0.05
    x = torch.randn(12, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (12,), generator=generator)

    def objective(flat: object) -> tuple[float, object]:
        weights = torch.as_tensor(flat).requires_grad_()
        logits = x @ weights[:16].view(4, 4).T @ weights[16:].view(3, 4).T
        value = torch.nn.functional.cross_entropy(logits, labels) + decay / 2 * weights.square().sum()
        return value.item(), torch.autograd.grad(value, weights)[0].numpy()

    start = torch.randn(28, dtype=torch.float64, generator=generator).numpy()
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-11, "ftol": 0, "maxiter": 5000})
    theta = torch.from_numpy(found.x)
    first, second = theta[:16].view(4, 4), theta[16:].view(3, 4)
    norm, logits = float(theta.square().sum()), x @ first.T @ second.T
    assert norm > 1
    assert 2 * float(expected_gap(logits, labels)) == pytest.approx(decay * norm, rel=1e-7)
    assert_close(balancedness_defect([first, second]), torch.zeros(1, dtype=torch.float64), atol=1e-7, rtol=0)
    assert norm == pytest.approx(2 * float(schatten_norm(second @ first, 1.0)), rel=1e-7)
    floor = weight_decay_loss_floor(depth=2, weight_decay=decay, squared_norm=norm, classes=3)
    assert 0 < floor < float(cross_entropy_from_gaps(logits, labels).mean())


def test_case_19_a_float32_cross_entropy_vanishes_beyond_a_gap_of_16_64() -> None:
    for gap, vanishes in [(16.0, False), (16.63, False), (16.65, True), (40.0, True)]:
        logits, label = torch.tensor([[gap, 0.0]]), torch.tensor([0])
        assert (float(torch.nn.functional.cross_entropy(logits, label)) == 0.0) is vanishes
        exact = math.log1p(math.exp(-float(logits[0, 0])))
        assert float(cross_entropy_from_gaps(logits, label)) == pytest.approx(exact, rel=1e-12)
