"""This file knows how fast and how far Adam carries a logit gap on a loss that only ever asks for more of it."""

from __future__ import annotations

import math

POLE_SHARE = 1 - 1e-12  # how near to the end of its interval the velocity is looked for
STEPS = 4096  # of the interval, among which the first crossing is looked for


def adam_gap_velocity(lr: float, beta1: float, beta2: float) -> float:
    """Return the velocity ν at which Adam lets a gap grow on a logistic loss, in logits a step.

    Where the gap is γ = νt the gradient falls as e^{−νt}; the two moving averages then lag behind it by fixed factors,
    and a step is ν = lr (1 − β1) / (1 − β1 e^ν) · √((1 − β2 e^{2ν}) / (1 − β2)). The smallest root is the stable one:
    below it a step is longer than ν, and above it shorter. It is below lr where β1 ≤ β2. Lasts until weight
    decay or Adam's ε stops it. Source: arXiv 2606.05863 asks for linear growth; the equation is ours `[def]`.

    Raises:
        ValueError: lr is not positive, a β lies outside 0 ≤ β1 < 1 or 0 < β2 < 1, or no velocity is steady: the first
            average remembers longer than the second (β1² ≥ β2) and steps outgrow every pace.

    >>> round(adam_gap_velocity(1e-3, 0.9, 0.98) / 1e-3, 5)
    0.96005
    """
    from scipy.optimize import brentq

    if not (0 < lr < math.inf and 0 <= beta1 < 1 and 0 < beta2 < 1):
        raise ValueError(f"expected a positive lr, 0 <= beta1 < 1 and 0 < beta2 < 1, got {lr}, {beta1} and {beta2}")

    def excess(velocity: float) -> float:
        lag = (1 - beta1) / (1 - beta1 * math.exp(velocity))
        return lr * lag * math.sqrt(max(1 - beta2 * math.exp(2 * velocity), 0.0) / (1 - beta2)) - velocity

    end = POLE_SHARE * min(-math.log(beta2) / 2, -math.log(beta1) if beta1 else math.inf)
    below = 0.0
    for step in range(1, STEPS + 1):
        above = end * step / STEPS
        if excess(above) <= 0:
            return float(brentq(excess, below, above, xtol=1e-300, rtol=1e-14))
        below = above
    raise ValueError(
        f"beta1, beta2: expected a pair with a steady velocity at lr {lr}, got {beta1} and {beta2}; steps outgrow it"
    )


def adamw_saturation(weight_decay: float) -> float:
    """Return 1 / λ_w, the size at which decoupled decay stops a weight that AdamW always pushes the same way.

    A gradient that changes slowly gives a step of lr, whatever its size; decay takes off lr λ_w w. Reached only if the
    gradient there is still well above Adam's ε: e^{−1/λ_w} for a logistic loss. Source: Loshchilov & Hutter 2019
    (1711.05101), `[def]`.

    Raises:
        ValueError: the decay is not positive.

    >>> adamw_saturation(0.5)
    2.0
    """
    if not 0 < weight_decay < math.inf:
        raise ValueError(
            f"weight_decay: expected a positive number, got {weight_decay}; without decay nothing saturates"
        )
    return 1 / weight_decay
