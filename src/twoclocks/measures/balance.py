"""This file knows how evenly the layers of a linear network share its map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor

from twoclocks.measures.spectrum import check_matrix, positive, schatten_energy


def balancedness_defect(weights: Sequence[Tensor]) -> Tensor:
    """Return the balancedness defects ‖W_{l+1}ᵀW_{l+1} − W_lW_lᵀ‖_F of a deep linear network, `[l-1]`.

    In squared units of the weights. Gradient flow with coupled decay λ takes every defect to 0 as e^{−2λt}, exactly;
    AdamW has no such law. Source: Arora, Cohen & Hazan 2018.

    Args:
        weights: l matrices `[d_out d_in]`, the input side first, each taking what the one before gives.

    Raises:
        ValueError: fewer than two matrices, one that is not a finite matrix, or two that do not follow each other.

    >>> balancedness_defect([torch.tensor([[2.0]]), torch.tensor([[3.0]])])
    tensor([5.], dtype=torch.float64)
    """
    return torch.stack([matrix.square().sum().sqrt() for matrix in balancedness_matrices(weights)])


def balancedness_matrices(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the matrices D_l = W_{l+1}ᵀW_{l+1} − W_lW_lᵀ of a deep linear network, `[h h]` for each hidden layer.

    In squared units of the weights. Gradient flow with coupled decay λ keeps D_l(t) = D_l(0) e^{−2λt}, entry by entry.
    Source: Arora, Cohen & Hazan 2018. Raises: as `balancedness_defect`.

    >>> balancedness_matrices([torch.tensor([[2.0], [0.0]]), torch.tensor([[3.0, 0.0]])])[0].tolist()
    [[5.0, 0.0], [0.0, 0.0]]
    """
    check_chain(weights)
    layers = [weight.detach().double() for weight in weights]
    return [after.T @ after - before @ before.T for before, after in pairwise(layers)]


def end_to_end_product(weights: Sequence[Tensor]) -> Tensor:
    """Return the end-to-end map A = W_L … W_1 of a deep linear network, `[d_out d_in]`, multiplied in float64.

    Raises: as `balancedness_defect`.

    >>> end_to_end_product([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])]).tolist()
    [[3.0, 6.0], [4.0, 8.0]]
    """
    check_chain(weights)
    first, *later = [weight.detach().double() for weight in weights]
    return reduce(lambda product, weight: weight @ product, later, first)


def schatten_slack(weights: Sequence[Tensor]) -> Tensor:
    """Return the slack N = Σ_l ‖W_l‖_F² − L Σ_i σ_i(A)^{2/L} ≥ 0 of L factors of A = W_L … W_1, in squared weights.

    How much more the factors weigh than their product needs: 0 iff they are balanced and no other weighs less. Below 0
    there is only rounding, which is returned as 0. Source: arXiv 1606.00668. Raises: as `balancedness_defect`.

    >>> schatten_slack([torch.tensor([[1.0]]), torch.tensor([[4.0]])])  # 1 + 16 − 2 · 4
    tensor(9., dtype=torch.float64)
    """
    energy = schatten_energy(end_to_end_product(weights), 2 / len(weights))
    return (squared_norm(weights) - len(weights) * energy).clamp_min(0.0)


def relative_slack(weights: Sequence[Tensor]) -> Tensor:
    """Return the slack as a share of the squared weights, N / Σ_l ‖W_l‖_F², from 0 to 1; 0 where all weights are 0 `[def]`.

    Raises: as `balancedness_defect`.

    >>> relative_slack([torch.tensor([[1.0]]), torch.tensor([[3.0]])])  # (10 − 6) / 10
    tensor(0.4000, dtype=torch.float64)
    """
    return schatten_slack(weights) / positive(squared_norm(weights))


@dataclass(frozen=True)
class FreeEnergy:
    """A loss with its weight decay: `total` F, `reduced` E and the `slack` N of the factors; F = E + (λ/2) N."""

    total: float
    reduced: float
    slack: float


def free_energy(loss: float, weights: Sequence[Tensor], *, weight_decay: float) -> FreeEnergy:
    """Return F = loss + (λ/2) Σ‖W_l‖_F², E = loss + (λL/2) Σσ_i(A)^{2/L} and the slack between them.

    F falls along gradient flow with coupled decay λ; E is a function of the end-to-end map alone, and need not fall.
    AdamW has no such F. Source: arXiv 2606.05863.

    Raises:
        ValueError: as `balancedness_defect`, the loss is not finite, or the decay is negative.

    >>> free_energy(0.5, [torch.tensor([[1.0]]), torch.tensor([[4.0]])], weight_decay=0.1)
    FreeEnergy(total=1.35, reduced=0.9, slack=9.0)
    """
    if not math.isfinite(loss) or not 0 <= weight_decay < math.inf:
        raise ValueError(f"expected a finite loss and a weight_decay of at least 0, got {loss} and {weight_decay}")
    size = float(squared_norm(weights))
    least = len(weights) * float(schatten_energy(end_to_end_product(weights), 2 / len(weights)))
    return FreeEnergy(loss + weight_decay / 2 * size, loss + weight_decay / 2 * least, max(size - least, 0.0))


def squared_norm(weights: Sequence[Tensor]) -> Tensor:
    """Return Σ_l ‖W_l‖_F²."""
    return torch.stack([weight.detach().double().square().sum() for weight in weights]).sum()


def check_chain(weights: Sequence[Tensor]) -> None:
    """Refuse matrices that cannot be multiplied one after the other."""
    if len(weights) < 2:
        raise ValueError(f"weights: expected at least two matrices, the input side first, got {len(weights)}")
    for place, weight in enumerate(weights):
        check_matrix(weight, f"weights[{place}]")
        if place and weight.shape[1] != weights[place - 1].shape[0]:
            raise ValueError(
                f"weights[{place}]: expected {weights[place - 1].shape[0]} columns, the rows of the one before, got "
                f"{list(weight.shape)}; give them with the input side first"
            )
