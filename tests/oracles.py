"""This file knows every measure a second time: slow, by loops, dense decompositions and full kernels, in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def logit_gaps(logits: Array, labels: Array) -> Array:
    return np.array(
        [[row[y] - row[m] for m in range(len(row)) if m != y] for row, y in zip(logits, labels, strict=True)]
    )


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return −log softmax at the label, each example shifted by its largest logit."""
    return np.array([math.log(sum(math.exp(z - row[y]) for z in row)) for row, y in zip(logits, labels, strict=True)])


def singular_values(matrix: Array) -> Array:
    return np.linalg.svd(matrix, compute_uv=False)


def stable_rank(matrix: Array) -> float:
    return float(np.linalg.norm(matrix, "fro") ** 2 / np.linalg.norm(matrix, 2) ** 2)


def effective_rank(matrix: Array) -> float:
    shares = singular_values(matrix) / singular_values(matrix).sum()
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def entropy_rank(matrix: Array) -> float:
    squares = singular_values(matrix) ** 2
    return math.exp(-sum(p * math.log(p) for p in squares / squares.sum() if p > 0))


def participation_ratio(features: Array) -> float:
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(features.T)))
    return float(variances.sum() ** 2 / (variances**2).sum())


def schatten_norm(matrix: Array, p: float) -> float:
    values = [s for s in singular_values(matrix) if s > 1e-12 * singular_values(matrix)[0]]
    return float(max(values)) if math.isinf(p) else float(sum(s**p for s in values) ** (1 / p))


def centring(n: int) -> Array:
    return np.eye(n) - np.ones((n, n)) / n


def linear_cka(x: Array, y: Array) -> float:
    """Return the cosine of the two centred n × n kernels."""
    of_x, of_y = (centring(len(x)) @ z @ z.T @ centring(len(x)) for z in (x, y))
    return float((of_x * of_y).sum() / np.sqrt((of_x * of_x).sum() * (of_y * of_y).sum()))


def unbiased_hsic(first: Array, second: Array) -> float:
    """Return Song et al.'s estimator (2012, equation 5) from two n × n kernels."""
    n = len(first)
    first, second = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    sums = first.sum() * second.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (first @ second).sum()
    return float((np.trace(first @ second) + sums) / (n * (n - 3)))


def debiased_linear_cka(x: Array, y: Array) -> float:
    of_x, of_y = x @ x.T, y @ y.T
    return unbiased_hsic(of_x, of_y) / math.sqrt(unbiased_hsic(of_x, of_x) * unbiased_hsic(of_y, of_y))


def kernel_target_alignment(features: Array, labels: Array, mean: Array | None = None) -> float:
    phi = features - (features.mean(0) if mean is None else mean)
    kernel = phi @ phi.T
    marks = [(labels == c).astype(float) for c in np.unique(labels)]
    return float(np.mean([y @ kernel @ y / (y @ y) for y in marks]) / np.linalg.norm(kernel))


def balancedness_defect(weights: list[Array]) -> Array:
    return np.array([np.linalg.norm(b.T @ b - a @ a.T) for a, b in pairwise(weights)])


def one_hot(labels: Array, classes: int) -> Array:
    return np.array([[float(y == c) for c in range(classes)] for y in labels])


def ridge(features: Array, labels: Array, classes: int, penalty: float) -> tuple[Array, Array]:
    """Return weight and bias from the normal equations with a column of ones that is not penalised."""
    design = np.hstack([features, np.ones((len(features), 1))])
    free = penalty * np.diag([1.0] * features.shape[1] + [0.0])
    solution = np.linalg.solve(design.T @ design + free, design.T @ one_hot(labels, classes)).T
    return solution[:, :-1], solution[:, -1]


def leave_one_out_error(features: Array, labels: Array, classes: int, penalty: float) -> float:
    """Return the mean squared error of each example under the ridge fit to all the others."""
    errors = []
    for left_out in range(len(features)):
        rest = np.arange(len(features)) != left_out
        weight, bias = ridge(features[rest], labels[rest], classes, penalty)
        predicted = weight @ features[left_out] + bias
        errors.append(((one_hot(labels[left_out : left_out + 1], classes)[0] - predicted) ** 2).sum())
    return float(np.mean(errors))


def bootstrap_interval(values: Array, draws: Array) -> Array:
    """Return the 95 % interval of the mean over resamples, each a row of counts of the items."""
    means = [sum(count * value for count, value in zip(row, values, strict=True)) / len(values) for row in draws]
    return np.quantile(means, [0.025, 0.975])
