import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import oracles
from contracts import Case, check_contract
from twoclocks.measures.balance import (
    balancedness_defect,
    balancedness_matrices,
    end_to_end_product,
    free_energy,
    relative_slack,
    schatten_slack,
)


def chain(*widths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(after, before, dtype=torch.float64, generator=generator) for before, after in pairwise(widths)]


def test_defects_equal_their_oracle() -> None:
    weights = chain(6, 4, 7, 3)
    expected = oracles.balancedness_defect([weight.numpy() for weight in weights])
    assert len(expected) == 2
    assert_close(balancedness_defect(weights), torch.from_numpy(expected))


def test_balanced_factors_have_no_defect_and_another_gauge_has() -> None:
    root = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64).pow(1 / 3))
    assert_close(balancedness_defect([root, root, root]), torch.zeros(2, dtype=torch.float64))
    assert bool((balancedness_defect([2 * root, root, root / 2]) > 0.1).all())


def test_defects_ignore_rotations_of_the_hidden_layers() -> None:
    first, second = chain(6, 4, 3)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).Q
    assert_close(balancedness_defect([turn @ first, second @ turn.T]), balancedness_defect([first, second]))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([torch.eye(2)], "at least two matrices"),
        ([torch.ones(3, 2), torch.ones(2, 4)], "expected 3 columns"),
        ([torch.eye(2), torch.full((2, 2), torch.nan)], r"weights\[1\]: expected finite"),
    ],
)
def test_what_is_no_chain_is_refused_in_words(weights: list[torch.Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        balancedness_defect(weights)


def test_the_matrices_are_symmetric_and_have_the_defects_as_norms() -> None:
    weights = chain(6, 4, 7, 3)
    matrices = balancedness_matrices(weights)
    assert [list(d.shape) for d in matrices] == [[4, 4], [7, 7]]
    for d in matrices:
        assert_close(d, d.T)
    assert_close(torch.stack([d.norm() for d in matrices]), balancedness_defect(weights))
    assert_close(matrices[0], weights[1].T @ weights[1] - weights[0] @ weights[0].T)


def test_the_end_to_end_product_is_what_the_network_does() -> None:
    weights = chain(6, 4, 7, 3)
    x = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert_close(end_to_end_product(weights) @ x, weights[2] @ (weights[1] @ (weights[0] @ x)))


@pytest.mark.parametrize("widths", [(6, 4, 3), (6, 4, 7, 3), (5, 5, 5, 5, 5)])
def test_slacks_equal_their_oracle(widths: tuple[int, ...]) -> None:
    weights = chain(*widths)
    expected = oracles.schatten_slack([weight.numpy() for weight in weights])
    assert expected > 0.1
    assert float(schatten_slack(weights)) == pytest.approx(expected, rel=1e-9)
    size = sum(float(weight.square().sum()) for weight in weights)
    assert float(relative_slack(weights)) == pytest.approx(expected / size, rel=1e-9)


def balanced(target: torch.Tensor, depth: int) -> list[torch.Tensor]:
    """Return the factors of least norm of a square matrix: U S^{1/L}, S^{1/L}, …, S^{1/L} Vᵀ, the input side first."""
    u, values, vh = torch.linalg.svd(target)
    root = values.pow(1 / depth).diag()
    return [root @ vh, *[root] * (depth - 2), u @ root]


@given(st.integers(0, 10_000), st.integers(2, 5), st.floats(1e-2, 2.0))
@settings(max_examples=40, deadline=None)
def test_every_gauge_but_the_balanced_one_has_slack(seed: int, depth: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    factors = balanced(torch.randn(3, 3, dtype=torch.float64, generator=generator), depth)
    assert float(relative_slack(factors)) < 1e-12
    assert float(balancedness_defect(factors).max()) < 1e-12
    for place in range(depth - 1):
        noise = torch.randn(3, 3, dtype=torch.float64, generator=generator)
        gauge = torch.linalg.matrix_exp(size * noise / noise.norm())
        other = list(factors)
        other[place], other[place + 1] = gauge @ factors[place], factors[place + 1] @ gauge.inverse()
        assert_close(end_to_end_product(other), end_to_end_product(factors), rtol=1e-8, atol=1e-10)
        unbalance = float(balancedness_defect(other).max())
        assert float(schatten_slack(other)) >= 0
        assert unbalance < 1e-6 or float(relative_slack(other)) > 0


def test_the_slack_of_unequal_scales_is_the_square_of_their_difference() -> None:
    for a, b in [(1.0, 4.0), (3.0, 3.0), (0.5, 10.0)]:
        factors = [a * torch.eye(3, dtype=torch.float64), b * torch.eye(3, dtype=torch.float64)]
        assert float(schatten_slack(factors)) == pytest.approx(3 * (a - b) ** 2, abs=1e-12)


def test_weights_of_zero_have_no_slack() -> None:
    nothing = [torch.zeros(4, 3), torch.zeros(2, 4)]
    assert float(schatten_slack(nothing)) == 0.0 and float(relative_slack(nothing)) == 0.0


def test_free_energies_are_the_loss_with_its_decay_and_apart_by_the_slack() -> None:
    weights = chain(6, 4, 7, 3)
    found = free_energy(1.7, weights, weight_decay=0.3)
    size = sum(float(weight.square().sum()) for weight in weights)
    values = oracles.singular_values(end_to_end_product(weights).numpy())
    assert found.total == pytest.approx(1.7 + 0.15 * size, rel=1e-12)
    assert found.reduced == pytest.approx(1.7 + 0.45 * sum(values ** (2 / 3)), rel=1e-9)
    assert found.total == pytest.approx(found.reduced + 0.15 * found.slack, rel=1e-12)
    assert free_energy(1.7, weights, weight_decay=0.0).total == 1.7


@pytest.mark.parametrize(("loss", "decay"), [(math.nan, 0.1), (math.inf, 0.1), (1.0, -0.1), (1.0, math.nan)])
def test_what_has_no_free_energy_is_refused(loss: float, decay: float) -> None:
    with pytest.raises(ValueError, match="expected a finite loss"):
        free_energy(loss, chain(3, 3, 3), weight_decay=decay)


@pytest.mark.parametrize("measure", [end_to_end_product, schatten_slack, relative_slack], ids=lambda m: m.__name__)
def test_measures_of_a_chain_keep_their_contract(measure: object) -> None:
    weights = [weight / 4 for weight in chain(6, 4, 3)]
    check_contract(Case(measure, {"weights": weights}))
