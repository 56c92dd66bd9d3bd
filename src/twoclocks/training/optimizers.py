"""This file knows how weights follow a gradient. All weights of a run are one flat vector `[p]`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay on every weight (arXiv 1711.05101), as torch.optim.AdamW computes it."""

    lr: float
    beta1: float
    beta2: float
    weight_decay: float
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Moments:
    """Running means of the gradient and of its square, each `[p]`."""

    first: Tensor
    second: Tensor


def zero_moments(weights: Tensor) -> Moments:
    """Return the moments before the first update."""
    return Moments(torch.zeros_like(weights), torch.zeros_like(weights))


def adamw_update(
    weights: Tensor, gradient: Tensor, moments: Moments, update: int, rule: AdamW
) -> tuple[Tensor, Moments]:
    """Return weights and moments after the update of number `update`, counted from 1.

    The first update moves every weight by lr against the sign of its gradient:

    >>> w = torch.tensor([1.0, 1.0])
    >>> adamw_update(w, torch.tensor([3.0, -5.0]), zero_moments(w), 1, AdamW(0.1, 0.9, 0.98, weight_decay=0.0))[0]
    tensor([0.9000, 1.1000])
    """
    first = moments.first.lerp(gradient, 1 - rule.beta1)
    second = (moments.second * rule.beta2).addcmul_(gradient, gradient, value=1 - rule.beta2)
    unbiased = (1 - rule.beta1**update, (1 - rule.beta2**update) ** 0.5)
    size = second.sqrt().div_(unbiased[1]).add_(rule.epsilon)
    decayed = weights * (1 - rule.lr * rule.weight_decay)
    return decayed.addcdiv_(first, size, value=-rule.lr / unbiased[0]), Moments(first, second)
