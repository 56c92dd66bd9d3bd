"""This file knows the least-squares combination of given vectors with weights that may not be negative, many at a time.

Everything is in float64 and in Gram form, so that the length of the vectors does not matter. One set of vectors serves a
batch of problems, which differ in their target and in the signs that the vectors take.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from twoclocks.measures.spectrum import check_matrix, positive

RIDGE = 1e-12  # on a Gram matrix of unit vectors: what makes every choice of vectors, also repeated ones, solvable
TOLERANCE = 1e-10  # of the largest inner product with a target: a gradient below it is none
EAGERNESS = 0.7  # vectors enter with the best one if their gradient is this share of its own,
MOST_ENTERING = 4  # and at most so many: in clusters each vector that enters in vain makes the next rounds dearer
ROUNDS = 3  # times the number of vectors: far more than any problem took, so that what is inconsistent also ends


@dataclass(frozen=True)
class Nonnegative:
    """Weights z `[b n]` ≥ 0, and how far each problem is from its optimum, `[b]`, relative to its largest moment."""

    weights: Tensor
    violation: Tensor


@dataclass(frozen=True)
class Search:
    """Where the search of every problem stands, `[b]` or `[b n]`; `settled`: the weights are optimal for the chosen."""

    row: Tensor
    targets: Tensor
    signs: Tensor
    weights: Tensor
    chosen: Tensor
    barred: Tensor
    settled: Tensor


def nonnegative_least_squares(gram: Tensor, moments: Tensor, signs: Tensor) -> Nonnegative:
    """Return argmin_{z ≥ 0} ‖Σ_j z_j s_j v_j − t‖² for each problem of a batch, given v_i · v_j and v_j · t.

    The active-set method of Lawson & Hanson 1974, except that all vectors enter together whose gradient is near the best:
    the error falls at every move, so that no set comes back. A ridge of 1e-12 on unit vectors chooses among the weights
    where vectors depend on each other; what is less than about 1e-6 of a vector's length apart counts as the same. The
    violation is the largest of |gradient| where a vector is used and of gradient where it is not: 0 at the optimum.

    Args:
        gram: `[n n]`, the inner products v_i · v_j, positive semidefinite.
        moments: `[b n]`, the inner products v_j · t of every problem.
        signs: `[b n]`, each −1, 0 or 1; 0 leaves a vector out.

    Raises:
        ValueError: the shapes do not fit each other, or a value is not finite.

    >>> target = torch.tensor([[3.0, -4.0]])
    >>> nonnegative_least_squares(torch.eye(2), target, torch.ones(1, 2)).weights.round(decimals=9)
    tensor([[3., 0.]], dtype=torch.float64)
    >>> nonnegative_least_squares(torch.eye(2), target, -torch.ones(1, 2)).weights.round(decimals=9)
    tensor([[0., 4.]], dtype=torch.float64)
    """
    check_problems(gram, moments, signs)
    gram, moments, signs = gram.detach().double(), moments.detach().double(), signs.detach().double()
    length = gram.diagonal().clamp_min(0.0).sqrt()
    unit = gram / positive(length)[:, None] / positive(length)
    targets = signs * moments / positive(length)
    size = positive(targets.abs().amax(1, keepdim=True))
    weights = searched(unit, begun(targets / size, signs))
    rising = gradient(unit, targets / size, signs, weights)
    violation = torch.where(weights > 0, rising.abs(), rising.clamp_min(0.0)).amax(1)
    return Nonnegative(weights * size / positive(length), violation)


def searched(unit: Tensor, search: Search) -> Tensor:
    """Return the optimal weights; each problem leaves the search when no vector has a gradient left."""
    weights = torch.zeros_like(search.targets)
    for _ in range(ROUNDS * len(unit)):
        rising = gradient(unit, search.targets, search.signs, search.weights)
        rising = rising.masked_fill(search.chosen | search.barred, 0.0)
        best = rising.amax(1, keepdim=True)
        weights[search.row] = search.weights
        going = ~search.settled | (best[:, 0] > TOLERANCE)
        if not bool(going.any()):
            break
        least = torch.maximum(EAGERNESS * best, rising.topk(min(MOST_ENTERING, len(unit)), 1).values[:, -1:])
        entering = search.settled[:, None] & (rising > TOLERANCE) & (rising >= least)
        search = only(replaced(search, chosen=search.chosen | entering), going)
        search = moved(search, restricted(unit, search.targets * search.signs, search.chosen) * search.signs)
    return weights


def begun(targets: Tensor, signs: Tensor) -> Search:
    """Return the search at weights 0."""
    rows = torch.arange(len(targets), device=targets.device)
    never = torch.zeros_like(targets, dtype=torch.bool)
    settled = torch.ones_like(rows, dtype=torch.bool)
    return Search(rows, targets, signs, torch.zeros_like(targets), never, never, settled)


def moved(search: Search, trial: Tensor) -> Search:
    """Return the search after a move towards the trial weights, as far as they stay positive.

    A newcomer whose trial weight is not positive would stop the move at its start, so it is sent away first. Where only
    rounding let all newcomers in, they are barred until the next move.
    """
    useless = search.chosen & (search.weights == 0) & (trial <= 0)
    held = useless.any(1)
    hopeless = held & ~(search.chosen & (search.weights == 0) & ~useless).any(1)
    falling = search.chosen & (trial <= 0) & ~held[:, None]
    reach = torch.where(falling, search.weights / positive(search.weights - trial), 1.0)
    share = reach.amin(1, keepdim=True).masked_fill(held[:, None], 0.0)
    emptied = falling & (reach <= share)
    weights = torch.where(emptied, 0.0, search.weights + share * (trial - search.weights))
    arrived = ~held & ~falling.any(1)
    barred = (search.barred | (useless & hopeless[:, None])) & ~arrived[:, None]
    chosen = search.chosen & ~emptied & ~useless
    return replaced(search, weights=weights, chosen=chosen, barred=barred, settled=arrived | hopeless)


def restricted(unit: Tensor, right: Tensor, chosen: Tensor) -> Tensor:
    """Return the unconstrained least-squares weights of the chosen vectors, 0 elsewhere, by Cholesky factors."""
    widest = int(chosen.sum(1).max())
    order = torch.argsort(chosen.to(torch.int8), dim=1, descending=True, stable=True)[:, :widest]
    held = chosen.gather(1, order)
    block = unit[order[:, :, None], order[:, None, :]] * (held[:, :, None] & held[:, None, :])
    block.diagonal(dim1=1, dim2=2).add_(torch.where(held, RIDGE, 1.0))
    factor, failed = torch.linalg.cholesky_ex(block)
    wanted = (right.gather(1, order) * held)[:, :, None]
    inner = torch.cholesky_solve(wanted, factor)
    inner = inner + torch.cholesky_solve(wanted - block @ inner + RIDGE * inner, factor)  # takes the ridge's pull back
    inner = torch.where((failed == 0)[:, None] & held, inner[:, :, 0].nan_to_num(0.0, 0.0, 0.0), 0.0)
    return torch.zeros_like(right).scatter_(1, order, inner)


def gradient(unit: Tensor, targets: Tensor, signs: Tensor, weights: Tensor) -> Tensor:
    """Return s_j v_j · (t − Σ z s v) for every vector."""
    return targets - signs * ((signs * weights) @ unit)


def replaced(search: Search, **changes: Tensor) -> Search:
    """Return the search with some of its tensors changed."""
    return Search(**{field.name: changes.get(field.name, getattr(search, field.name)) for field in fields(Search)})


def only(search: Search, rows: Tensor) -> Search:
    """Return the search of some of its problems."""
    return Search(**{field.name: getattr(search, field.name)[rows] for field in fields(Search)})


def check_problems(gram: Tensor, moments: Tensor, signs: Tensor) -> None:
    """Refuse a Gram matrix, moments and signs that do not fit each other."""
    check_matrix(gram, "gram")
    check_matrix(moments, "moments")
    if gram.shape[0] != gram.shape[1] or moments.shape[1] != gram.shape[0]:
        raise ValueError(f"moments: expected [b n] for a gram of [n n], got {[*moments.shape]} and {[*gram.shape]}")
    if signs.shape != moments.shape or not bool(((signs == 0) | (signs.abs() == 1)).all()):
        raise ValueError(f"signs: expected −1, 0 or 1 in the shape of moments, {[*moments.shape]}")
