"""This file knows where a training with coupled decay was going: the stationary point of F of its basin, found exactly.

F = loss + (λ_w / 2) ‖θ‖². Its limit F_∞ is never the last sample of a run, from which a tail exponent would be wrong:
it is the value that L-BFGS and then Newton reach from the last weights, in float64. The Hessian is that of differences
of the exact gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from twoclocks.trajectory import Float

LARGEST_DENSE = 2000  # weights up to which the Hessian is formed, 4 gradients a column
STATIONARY = 1e-12  # of the gradients that cancel, the loss's and the decay's, where polishing begins
FLAT = 1e-8  # of the largest curvature: below it a direction counts as flat
SPACING = 1e-3  # of the differences, relative to the weights; exact for gradients of degree 4
NEWTON_STEPS = 60  # in a quartic valley each takes two thirds of the distance

Gradient = Callable[[Float], Float]


@dataclass(frozen=True)
class Objective:
    """F of a weight vector `[p]`, and its gradient; `force` is the size of what cancels in it at a stationary point."""

    value: Callable[[Float], float]
    gradient: Gradient
    force: float


@dataclass(frozen=True)
class Polished:
    """A stationary point of F: where polishing began and ended, and how curved F is there.

    `gradient_norm` is ‖∇F‖ at the end. `smallest_curvature` and `slowest_rate` are the smallest eigenvalue of the Hessian
    and the smallest positive one that is not flat; `flat_directions` counts |eigenvalue| ≤ 1e-8 of the largest. A network
    with hidden layers has flat directions by symmetry: a rotation of hidden units changes nothing. The three are None
    where the Hessian is too large to form.
    """

    weights: Float
    objective_at_start: float
    objective: float
    gradient_norm: float
    smallest_curvature: float | None
    slowest_rate: float | None
    flat_directions: int | None


def polished(objective: Objective, start: Float) -> Polished:
    """Return the stationary point that L-BFGS and Newton reach from `start`; the weights are `[p]`, float64.

    A quartic valley, whose curvature vanishes at its bottom, is followed too:

    >>> valley = Objective(lambda w: float(w @ w) ** 2, lambda w: 4 * (w @ w) * w, 1.0)
    >>> polished(valley, np.ones(2)).objective < 1e-16
    True
    """
    weights = newton_descent(objective, quasi_newton_descent(objective, start))
    gradient_norm = float(np.linalg.norm(objective.gradient(weights)))
    curvatures = curvatures_at(objective.gradient, weights)
    return Polished(weights, objective.value(start), objective.value(weights), gradient_norm, *curvatures)


def quasi_newton_descent(objective: Objective, start: Float) -> Float:
    """Return where L-BFGS comes to rest, which is where float64 can no longer tell F's values apart."""
    from scipy.optimize import minimize  # a quarter of a second to import, and few trainings polish

    options = {"maxiter": 20_000, "maxfun": 40_000, "maxcor": 30, "ftol": 0.0, "gtol": 1e-15}
    found = minimize(objective.value, start, jac=objective.gradient, method="L-BFGS-B", options=options)
    is_lower = np.isfinite(found.x).all() and found.fun <= objective.value(start)
    return np.asarray(found.x if is_lower else start, np.float64)


def newton_descent(objective: Objective, weights: Float) -> Float:
    """Return the weights after Newton steps outside the flat directions, as long as each halves the gradient."""
    if len(weights) > LARGEST_DENSE:
        return weights
    gradient = objective.gradient(weights)
    for _ in range(NEWTON_STEPS):
        if np.linalg.norm(gradient) <= STATIONARY * objective.force:
            break
        moved = weights - newton_step(hessian(objective.gradient, weights), gradient)
        after = objective.gradient(moved)
        if not np.linalg.norm(after) < 0.5 * np.linalg.norm(gradient):
            break
        weights, gradient = moved, after
    return weights


def newton_step(curvature: Float, gradient: Float) -> Float:
    """Return H⁻¹g on the directions that are not flat, with |H|: downhill on every one of them.

    >>> newton_step(np.diag([2.0, 0.0]), np.array([1.0, 1.0]))
    array([0.5, 0. ])
    """
    values, directions = np.linalg.eigh(curvature)
    stiff = np.abs(values) > FLAT * np.abs(values).max()
    return np.asarray(directions[:, stiff] @ ((gradient @ directions[:, stiff]) / np.abs(values[stiff])))


def hessian(gradient: Gradient, weights: Float) -> Float:
    """Return the Hessian `[p p]` from differences of the gradient at four points a column, exact to its degree 4.

    >>> hessian(lambda w: w**3, np.array([1.0, 2.0])).round(9)
    array([[ 3.,  0.],
           [ 0., 12.]])
    """
    step = SPACING * max(1.0, float(np.abs(weights).max()))
    columns = []
    for direction in np.eye(len(weights)):
        near = gradient(weights + step * direction) - gradient(weights - step * direction)
        far = gradient(weights + 2 * step * direction) - gradient(weights - 2 * step * direction)
        columns.append((8 * near - far) / (12 * step))
    square = np.stack(columns)
    return np.asarray((square + square.T) / 2)


def curvatures_at(gradient: Gradient, weights: Float) -> tuple[float | None, float | None, int | None]:
    """Return the smallest eigenvalue of the Hessian, its smallest positive one that is not flat, how many are flat."""
    if len(weights) > LARGEST_DENSE:
        return None, None, None
    values = np.linalg.eigvalsh(hessian(gradient, weights))
    flat = FLAT * np.abs(values).max()
    rates = values[values > flat]
    return float(values[0]), float(rates[0]) if len(rates) else None, int((np.abs(values) <= flat).sum())
