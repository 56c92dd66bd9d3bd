"""This file knows how low a cross-entropy can go: given its margin, under weight decay, and in float32."""

from __future__ import annotations

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from twoclocks.measures.margins import logit_gaps

SMALLEST_LOG_LOSS = -690.0  # of 1e-300, about the smallest number of full precision
FLOAT32_STEP = 2.0**-23  # spacing of float32 numbers above 1, where log-softmax rounds


def cross_entropy_bracket(margin: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the least and greatest cross-entropy that a margin allows, two `[n]` in nats.

    log(1 + e^{−γ}) ≤ CE ≤ log(1 + (C − 1) e^{−γ}): one wrong class at the margin, or all of them.

    Raises:
        ValueError: fewer than two classes.

    >>> least, greatest = cross_entropy_bracket(torch.tensor([0.0]), 4)
    >>> round(float(least.exp()), 12), round(float(greatest.exp()), 12)
    (2.0, 4.0)
    """
    if classes < 2:
        raise ValueError(f"classes: expected at least 2, got {classes}")
    gap = margin.detach().double()
    log1p_exp = torch.nn.Softplus(threshold=700.0)
    return log1p_exp(-gap), log1p_exp(math.log(classes - 1) - gap)


def expected_gap(logits: Tensor, labels: Tensor) -> Tensor:
    """Return mean_a Σ_m p_{a,m} Γ_{a,m}, the logit gaps weighed by the softmax, in nats.

    It is how hard the loss pulls the weights outwards. For a bias-free network whose logits scale as ‖θ‖^L, a
    stationary point of loss + (λ_w / 2) ‖θ‖² has L · expected_gap = λ_w ‖θ‖² (coupled decay, not AdamW); above it the
    weights still grow. Source: Euler's theorem on homogeneous functions.

    Raises:
        ValueError: as `logit_gaps`, or there are no examples.

    >>> expected_gap(torch.log(torch.tensor([[3.0, 1.0]])), torch.tensor([0]))  # p = 1/4 of a gap of log 3
    tensor(0.2747, dtype=torch.float64)
    """
    gaps = logit_gaps(logits, labels)
    if not len(gaps):
        raise ValueError("logits: expected at least one example, got none")
    odds = torch.cat([torch.zeros_like(gaps[:, :1]), -gaps], 1)
    return (torch.softmax(odds, 1)[:, 1:] * gaps).sum(1).mean()


def weight_decay_loss_floor(*, depth: int, weight_decay: float, squared_norm: float, classes: int) -> float:
    """Return the least mean cross-entropy, in nats, of a stationary point with this ‖θ‖² under weight decay `[def]`.

    At loss ℓ the error mass is q = 1 − e^{−ℓ}, and Σ_m p_m Γ_m ≤ h(ℓ) = q log((C − 1)(1 − q) / q), with equality where
    all wrong classes tie. h is concave, so λ_w ‖θ‖² / L = `expected_gap` ≤ h(mean loss), which is solved for the loss.
    Infinite where no stationary point has so large a norm. A run at rest there has T_cls(ε) = ∞ for every ε below.

    Raises:
        ValueError: fewer than two classes, a depth below 1, or a negative decay or norm.

    >>> round(weight_decay_loss_floor(depth=1, weight_decay=0.01, squared_norm=3.359275**2, classes=2), 6)  # λw = σ(−w)
    0.03417
    """
    if classes < 2 or depth < 1 or weight_decay < 0 or squared_norm < 0:
        raise ValueError(
            "expected at least 2 classes, a depth of at least 1, and weight_decay and squared_norm of at least 0, got "
            f"{classes}, {depth}, {weight_decay} and {squared_norm}"
        )
    needed = weight_decay * squared_norm / depth

    def pull(log_loss: float) -> float:
        loss = math.exp(log_loss)
        return -math.expm1(-loss) * (math.log(classes - 1) - math.log(math.expm1(loss)))

    def slope(log_loss: float) -> float:
        loss = math.exp(log_loss)
        return math.exp(-loss) * (math.log(classes - 1) - math.log(math.expm1(loss))) - 1.0

    peak = float(brentq(slope, SMALLEST_LOG_LOSS, math.log(math.log(classes) + 1.0)))
    if needed >= pull(peak):
        return math.inf
    if needed <= pull(SMALLEST_LOG_LOSS):
        return 0.0
    return math.exp(brentq(lambda log_loss: pull(log_loss) - needed, SMALLEST_LOG_LOSS, peak, xtol=1e-13))


def is_at_numerical_floor(loss: Tensor, *, factor: float = 10.0) -> Tensor:
    """Return whether a float32 loss sits within `factor` of its quantisation 2⁻²³ ≈ 1.2e-7, shaped as `loss`.

    There it measures float32 and not the network: compute it from gaps (`cross_entropy_from_gaps`).

    >>> is_at_numerical_floor(torch.tensor([1e-5, 1e-6, 0.0]))
    tensor([False,  True,  True])
    """
    return loss <= factor * FLOAT32_STEP
