"""This file knows Muon: momentum whose steps are matrices made orthogonal, so that all directions move alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # chosen by the source for the steepest rise from 0
EPSILON = 1e-7  # the source's; keeps a gradient of 0 at 0


@dataclass(frozen=True)
class Muon:
    """Muon for matrices: θ ← θ (1 − lr λ_w) − lr √max(1, rows/columns) NS(momentum) (K. Jordan 2024; arXiv 2502.16982).

    The momentum is the running mean m ← β m + (1 − β) g, with `nesterov` read ahead as β m + (1 − β) g. The decay is
    decoupled. The scale is Jordan's ("original" in torch.optim.Muon), not the 0.2 √max(rows, columns) of arXiv 2502.16982.
    """

    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool = True
    ns_steps: int = 5


def muon_update(weights: Tensor, gradient: Tensor, buffer: Tensor, rule: Muon) -> tuple[Tensor, Tensor]:
    """Return a matrix `[r c]` and its momentum `[r c]` after one update.

    A gradient of rank one moves the matrix along itself, whatever its size; 2 √2 is the step of a 2 × 1 matrix, but for
    the error of the Newton–Schulz steps, which bring 1 to 0.70:

    >>> column = torch.tensor([[1.0], [0.0]])
    >>> rule = Muon(lr=2.0, momentum=0.9, weight_decay=0.0)
    >>> muon_update(torch.zeros(2, 1), 100 * column, torch.zeros(2, 1), rule)[0] / (2 * 2**0.5)
    tensor([[-0.6964],
            [ 0.0000]])
    """
    buffer = buffer.lerp(gradient, 1 - rule.momentum)
    ahead = gradient.lerp(buffer, rule.momentum) if rule.nesterov else buffer
    rows, columns = weights.shape
    step = orthogonalised(ahead, rule.ns_steps)
    decayed = weights * (1 - rule.lr * rule.weight_decay)
    return decayed.add_(step, alpha=-rule.lr * max(1.0, rows / columns) ** 0.5), buffer


def orthogonalised(matrix: Tensor, steps: int) -> Tensor:
    """Return about UVᵀ of a matrix UΣVᵀ: singular values s ← 3.4445 s − 4.7750 s³ + 2.0315 s⁵, from Σ/‖Σ‖, so many times.

    After 5 steps those above 0.01 of the Frobenius norm lie between 0.68 and 1.14. The source computes in bfloat16, here the
    matrix keeps its own precision.

    >>> orthogonalised(torch.tensor([[5.0, 0.0], [0.0, -3.0]]), steps=1).round(decimals=3)
    tensor([[ 0.8850,  0.0000],
            [ 0.0000, -1.1950]])
    """
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (torch.linalg.matrix_norm(wide) + EPSILON)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
