"""This file knows how weights follow a gradient. All weights of a run are one flat vector `[p]`."""

from __future__ import annotations

from collections.abc import Callable
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
class GradientDescent:
    """Plain gradient descent with coupled decay: θ ← θ − lr (∇loss + λ_w θ), so F = loss + (λ_w / 2) ‖θ‖² descends."""

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class GradientFlow:
    """Gradient flow of F = loss + (λ_w / 2) ‖θ‖², followed by fourth-order Runge–Kutta steps of length lr."""

    lr: float
    weight_decay: float


Rule = AdamW | GradientDescent | GradientFlow


@dataclass(frozen=True)
class Moments:
    """Running means of the gradient and of its square, each `[p]`; empty where the rule keeps none."""

    first: Tensor
    second: Tensor


def zero_moments(weights: Tensor, rule: Rule) -> Moments:
    """Return the moments before the first update."""
    if not isinstance(rule, AdamW):
        return Moments(weights.new_zeros(0), weights.new_zeros(0))
    return Moments(torch.zeros_like(weights), torch.zeros_like(weights))


def is_coupled(rule: Rule) -> bool:
    """Return whether the decay is part of the gradient, so that F = loss + (λ_w / 2) ‖θ‖² is what descends."""
    return not isinstance(rule, AdamW)


def updated(
    weights: Tensor,
    gradient: Tensor,
    moments: Moments,
    update: int,
    rule: Rule,
    gradient_at: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Moments]:
    """Return weights and moments after one update; `gradient_at` gives the loss's gradient elsewhere, for flows."""
    if isinstance(rule, AdamW):
        return adamw_update(weights, gradient, moments, update, rule)
    if isinstance(rule, GradientDescent):
        return weights - rule.lr * (gradient + rule.weight_decay * weights), moments
    return flow_update(weights, gradient, rule, gradient_at), moments


def flow_update(
    weights: Tensor, gradient: Tensor, rule: GradientFlow, gradient_at: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the weights one Runge–Kutta step of length lr further along the flow.

    On loss 0 with decay 1 the flow is e^{−t}, which a step of 0.1 meets to 1e-7:

    >>> rest = torch.zeros(1, dtype=torch.float64)
    >>> flow_update(rest + 1, rest, GradientFlow(0.1, 1.0), lambda w: rest) - torch.tensor(-0.1).double().exp() < 1e-7
    tensor([True])
    """
    h, decay = rule.lr, rule.weight_decay

    def velocity(at: Tensor) -> Tensor:
        return -(gradient_at(at) + decay * at)

    k1 = -(gradient + decay * weights)
    k2 = velocity(weights + 0.5 * h * k1)
    k3 = velocity(weights + 0.5 * h * k2)
    k4 = velocity(weights + h * k3)
    return weights + (h / 6) * (k1 + 2 * k2 + 2 * k3 + k4)


def adamw_update(
    weights: Tensor, gradient: Tensor, moments: Moments, update: int, rule: AdamW
) -> tuple[Tensor, Moments]:
    """Return weights and moments after the update of number `update`, counted from 1.

    The first update moves every weight by lr against the sign of its gradient:

    >>> w = torch.tensor([1.0, 1.0])
    >>> rule = AdamW(0.1, 0.9, 0.98, weight_decay=0.0)
    >>> adamw_update(w, torch.tensor([3.0, -5.0]), zero_moments(w, rule), 1, rule)[0]
    tensor([0.9000, 1.1000])
    """
    first = moments.first.lerp(gradient, 1 - rule.beta1)
    second = (moments.second * rule.beta2).addcmul_(gradient, gradient, value=1 - rule.beta2)
    unbiased = (1 - rule.beta1**update, (1 - rule.beta2**update) ** 0.5)
    size = second.sqrt().div_(unbiased[1]).add_(rule.epsilon)
    decayed = weights * (1 - rule.lr * rule.weight_decay)
    return decayed.addcdiv_(first, size, value=-rule.lr / unbiased[0]), Moments(first, second)
