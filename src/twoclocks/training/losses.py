"""This file knows the gradient of a loss by the logits, where rounding decides whether a fitted network goes on learning.

With gaps Γ_m = z_y − z_m the cross-entropy's gradient is p_m for a wrong class m and −Σ_{m≠y} p_m for the right one, where
p_m = e^{−Γ_m} / (1 + Σ_{k≠y} e^{−Γ_k}). The right one's entry can be had as p_y − 1, which loses it where p_y rounds to 1,
or as that sum, which never does. Gradients are of the mean over the n examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

LogitGradient = Callable[[Tensor, Tensor], Tensor]


def cross_entropy_gradient_faithful(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean cross-entropy by the logits, (softmax − one-hot) / n, `[n c]`, as autograd has it.

    p_y − 1 is a multiple of half the spacing of numbers at 1 (2⁻²⁴ in float32) and 0 where Σ_{m≠y} e^{−Γ_m} is below it:
    with one wrong class from Γ = ln 2²⁴ = 16.64 in float32, ln 2⁵³ = 36.74 in float64. Past that the right logit is no
    longer raised, while the wrong ones are lowered on: the row no longer sums to 0. They reach 0 themselves at Γ = 103.97
    in float32 and 745.1 in float64, where e^{−Γ} does. Source: arXiv 2501.04697 ("softmax collapse"); the gaps `[def]`.

    >>> cross_entropy_gradient_faithful(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([[ 0.5000, -0.5000]])
    >>> cross_entropy_gradient_faithful(torch.tensor([[17.0, 0.0]]), torch.tensor([0]))
    tensor([[0.0000e+00, 4.1399e-08]])
    """
    gradient = torch.softmax(logits, dim=1)
    gradient[torch.arange(len(labels)), labels] -= 1
    return gradient.div_(len(labels))


def cross_entropy_gradient_stable(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean cross-entropy by the logits, the right one's as −Σ_{m≠y} softmax_m, `[n c]`.

    The same function; a sum of positive numbers keeps their relative precision, so every row sums to 0 and float32 is
    accurate to 1e-5 up to Γ = 92, where e^{−Γ} / n has left the range of full precision (2⁻¹²⁶, Γ = 87.3). `[def]`

    >>> cross_entropy_gradient_stable(torch.tensor([[17.0, 0.0]]), torch.tensor([0]))
    tensor([[-4.1399e-08,  4.1399e-08]])
    """
    return balanced(torch.softmax(logits, dim=1), labels).div_(len(labels))


def stablemax_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of `stablemax_cross_entropy` by the logits, (q − one-hot) / (1 + |z|) / n, `[n c]`.

    For s of that loss, s'(z) / s(z) = 1 / (1 + |z|) on both sides of 0. The right class's q_y − 1 is taken as −Σ_{m≠y} q_m.

    >>> stablemax_gradient(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([[ 0.5000, -0.5000]])
    >>> stablemax_gradient(torch.tensor([[3.0, -3.0]]), torch.tensor([0]))  # s = 4 and 1/4, q = 16/17 and 1/17
    tensor([[-0.0147,  0.0147]])
    """
    return balanced(stablemax(logits), labels).div_(len(labels)).div_(1 + logits.abs())


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of −log q_y with q = s(z) / Σ s(z), in nats: a loss of which no logits make the gradient vanish fast.

    s(z) = 1 + z from 0 up and 1 / (1 − z) below: 1 − q_y falls like 1/Γ², not e^{−Γ}. Unlike the softmax it depends on where
    the logits lie, not on their differences alone. Source: arXiv 2501.04697 (StableMax).

    >>> stablemax_cross_entropy(torch.tensor([[3.0, -3.0]], dtype=torch.float64), torch.tensor([0])).exp()  # 17/16
    tensor(1.0625, dtype=torch.float64)
    """
    wrong = stablemax(logits).scatter(1, labels[:, None], 0.0).sum(1)
    return -torch.log1p(-wrong).mean()


def stablemax(logits: Tensor) -> Tensor:
    """Return q = s(z) / Σ s(z), `[n c]`; rows sum to 1.

    >>> stablemax(torch.tensor([[1.0, 1.0, -1.0]]))  # s = 2, 2 and 1/2
    tensor([[0.4444, 0.4444, 0.1111]])
    """
    size = 1 + logits.abs()
    s = torch.where(logits < 0, 1 / size, size)
    return s / s.sum(1, keepdim=True)


def balanced(shares: Tensor, labels: Tensor) -> Tensor:
    """Return shares `[n c]` with −Σ_{m≠y} in place of the right class's own, so that each row sums to 0.

    >>> balanced(torch.tensor([[0.25, 0.5, 0.25]]), torch.tensor([1]))
    tensor([[ 0.2500, -0.5000,  0.2500]])
    """
    wrong = shares.scatter(1, labels[:, None], 0.0)
    return wrong.scatter(1, labels[:, None], -wrong.sum(1, keepdim=True))


GRADIENTS: Mapping[str, LogitGradient] = MappingProxyType(
    {
        "faithful": cross_entropy_gradient_faithful,
        "stable": cross_entropy_gradient_stable,
        "stablemax": stablemax_gradient,
    }
)
