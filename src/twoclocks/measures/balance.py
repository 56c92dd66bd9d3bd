"""This file knows how evenly the layers of a linear network share its map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from twoclocks.measures.spectrum import check_matrix


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
    check_chain(weights)
    layers = [weight.detach().double() for weight in weights]
    differences = [after.T @ after - before @ before.T for before, after in pairwise(layers)]
    return torch.stack([difference.square().sum().sqrt() for difference in differences])


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
