"""This file knows every measure a second time: slow, by loops, dense decompositions and full kernels, in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize, nnls

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


def kernel_target_alignment(features: Array, labels: Array) -> float:
    phi = features - features.mean(0)
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


def gate_comparison(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float, float, list[int]]:
    """Return agreement, Jaccard index over all gates, share of equal rows, and flips of each row, by loops."""
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(first, second, strict=True)]
    flips = [sum(bool(a != b) for a, b in row) for row in pairs]
    flat = [pair for row in pairs for pair in row]
    either = sum(bool(a or b) for a, b in flat)
    jaccard = sum(bool(a and b) for a, b in flat) / either if either else 1.0
    return 1 - sum(flips) / len(flat), jaccard, sum(count == 0 for count in flips) / len(flips), flips


def relu_network(weights: list[Array], biases: list[Array], x: Array) -> Array:
    """Return the logits, one example and one unit at a time."""
    rows = []
    for row in x:
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            row = np.array([sum(w * h for w, h in zip(unit, row, strict=True)) for unit in weight]) + bias
            row = row if layer == len(weights) - 1 else np.where(row > 0, row, 0.0)
        rows.append(row)
    return np.array(rows)


def scatters(features: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return the centres minus their mean, Σ_W and Σ_B, every class weighing the same, by outer products."""
    classes = np.unique(labels)
    centres = np.array([features[labels == c].mean(0) for c in classes])
    spreads = [features[labels == c] - m for c, m in zip(classes, centres, strict=True)]
    within = [np.mean([np.outer(row, row) for row in spread], 0) for spread in spreads]
    out = centres - centres.mean(0)
    return out, np.mean(within, 0), np.mean([np.outer(m, m) for m in out], 0)


def nc1(features: Array, labels: Array) -> float:
    centres, within, between = scatters(features, labels)
    return float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(centres))


def nc2(features: Array, labels: Array) -> tuple[float, float]:
    """Return the coefficient of variation of the lengths, and the mean distance of the cosines from −1/(C − 1)."""
    centres, _, _ = scatters(features, labels)
    lengths = [math.sqrt(sum(m * m)) for m in centres]
    pairs = [(i, j) for i in range(len(centres)) for j in range(len(centres)) if i != j]
    cosines = [float(centres[i] @ centres[j]) / lengths[i] / lengths[j] for i, j in pairs]
    return float(np.std(lengths) / np.mean(lengths)), float(np.mean([abs(c + 1 / (len(centres) - 1)) for c in cosines]))


def nc3(features: Array, labels: Array, weight: Array) -> float:
    centres, _, _ = scatters(features, labels)
    return float(np.linalg.norm(weight / np.linalg.norm(weight) - centres / np.linalg.norm(centres)))


def nc4(features: Array, labels: Array, logits: Array) -> float:
    classes = np.unique(labels)
    centres = [features[labels == c].mean(0) for c in classes]
    nearest = [classes[int(np.argmin([np.linalg.norm(f - m) for m in centres]))] for f in features]
    return float(np.mean([near != int(np.argmax(z)) for near, z in zip(nearest, logits, strict=True)]))


def within_between_scatter(features: Array, labels: Array) -> float:
    _, within, between = scatters(features, labels)
    return float(np.trace(within) / np.trace(between))


def rule_residual(logits: Array, labels: Array) -> float:
    z = logits - logits.mean(1, keepdims=True)
    inside = sum(((row - z[labels == y].mean(0)) ** 2).sum() for row, y in zip(z, labels, strict=True))
    return float(inside / ((z - z.mean(0)) ** 2).sum())


def fourier_energies(table: Array) -> Array:
    """Return the energies from the projections on the cosines and sines themselves."""
    p = len(table)
    energies = []
    for k in range(p // 2 + 1):
        waves = [np.cos(2 * np.pi * k * np.arange(p) / p), np.sin(2 * np.pi * k * np.arange(p) / p)]
        energies.append(sum(((w @ table) ** 2).sum() / (w @ w) for w in waves if w @ w > 0.25))
    return np.array(energies)


def mean_logit_by_residue(logits: Array, labels: Array) -> Array:
    p = logits.shape[1]
    return np.array([np.mean([z[(y - r) % p] for z, y in zip(logits, labels, strict=True)]) for r in range(p)])


def schatten_slack(weights: list[Array]) -> float:
    """Return Σ‖W_l‖² − L Σσ^{2/L} of the product."""
    product = np.linalg.multi_dot(weights[::-1])
    values = [s for s in singular_values(product) if s > 1e-12 * singular_values(product)[0]]
    return float(sum((w**2).sum() for w in weights) - len(weights) * sum(s ** (2 / len(weights)) for s in values))


def kernel_change(x: Array, y: Array) -> float:
    """Return ‖YYᵀ − XXᵀ‖_F / ‖XXᵀ‖_F from the explicit n × n kernels."""
    return float(np.linalg.norm(y @ y.T - x @ x.T) / np.linalg.norm(x @ x.T))


def kernel_distance(x: Array, y: Array) -> float:
    """Return one minus the cosine of the explicit n × n kernels."""
    of_x, of_y = x @ x.T, y @ y.T
    return float(1 - (of_x * of_y).sum() / np.linalg.norm(of_x) / np.linalg.norm(of_y))


def relu_network_gradients(weights: list[Array], biases: list[Array | None], x: Array) -> tuple[Array, Array]:
    """Return the gradients of every logit of every example, by the encoder and by the readout, `[n c p]` each."""
    classes = len(weights[-1])
    rows = [[relu_logit_gradient(weights, biases, one, c) for c in range(classes)] for one in x]
    return np.array([[of[0] for of in row] for row in rows]), np.array([[of[1] for of in row] for row in rows])


def relu_logit_gradient(weights: list[Array], biases: list[Array | None], x: Array, c: int) -> tuple[Array, Array]:
    """Return ∂f_c/∂θ of one example by outer products, layer by layer: that of the encoder, then that of the readout."""
    entering = [x]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        entering.append(np.maximum(weight @ entering[-1] + (0.0 if bias is None else bias), 0.0))
    signal, parts = one_hot(np.array([c]), len(weights[-1]))[0], []
    for layer in reversed(range(len(weights))):
        own = [np.outer(signal, entering[layer]).ravel(), *([] if biases[layer] is None else [signal])]
        parts.append(np.concatenate(own))
        signal = (weights[layer].T @ signal) * (entering[layer] > 0)
    return np.concatenate([np.zeros(0), *parts[1:]]), parts[0]


def inter_intra_distance_ratio(features: Array, labels: Array) -> float:
    centres = {c: features[labels == c].mean(0) for c in np.unique(labels)}
    outside = [float(np.linalg.norm(a - b)) for i, a in centres.items() for j, b in centres.items() if i != j]
    inside = [np.mean([np.linalg.norm(row - m) for row in features[labels == c]]) for c, m in centres.items()]
    return float(np.mean(outside) / np.mean(inside))


def with_bias(features: Array) -> Array:
    """Return the features with one more coordinate, the root mean square length of a point."""
    size = math.sqrt(np.mean([row @ row for row in features]))
    return np.hstack([features, np.full((len(features), 1), size)])


def cone_projection(points: Array, target: Array) -> Array:
    """Return the projection of the target on the cone of the points: what the polar cone {w: x · w ≤ 0} leaves of it."""
    found = minimize(
        lambda w: 0.5 * ((w - target) ** 2).sum(),
        np.zeros_like(target),
        jac=lambda w: w - target,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda w: -points @ w, "jac": lambda w: -points},
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    return np.array(target - found.x)


def is_separable(points: Array) -> bool:
    """Return whether some w has x · w ≥ 1 for all points, by linear programming."""
    return bool(linprog(np.zeros(points.shape[1]), -points, -np.ones(len(points)), bounds=(None, None)).status == 0)


def manifold_geometry(
    points: Array, labels: Array, signs: Array, targets: Array, extra: int
) -> tuple[float, float, float, float]:
    """Return radius, dimension, centre and axis alignment, a draw and a class at a time; the last `extra` columns: bias."""
    anchors = []
    for y, t in zip(signs, targets, strict=True):
        duals = nnls((points * y[:, None]).T, t)[0]
        totals = {int(c): duals[labels == c].sum() for c in np.unique(labels)}
        anchors.append({c: duals[labels == c] @ points[labels == c] / z for c, z in totals.items() if z > 0})
    centres = {int(c): np.mean([s[c] for s in anchors if c in s], 0) for c in np.unique(labels)}
    spread = touching = 0.0
    cosines = []
    for found, t in zip(anchors, targets, strict=True):
        middle = np.array([centres[c] for c in found])
        axes = np.array([s - centres[c] for c, s in found.items()])
        pull = axes @ t
        spread += pull @ np.linalg.pinv(axes @ axes.T, rcond=1e-12) @ pull
        touching += pull @ np.linalg.pinv(middle @ middle.T + axes @ axes.T, rcond=1e-12) @ pull
        cosines += off_diagonal_cosines(axes)
    plain = np.array([m[: len(m) - extra] for m in centres.values()])
    count = sum(len(found) for found in anchors)
    radius = math.sqrt(touching / (spread - touching))
    return radius, spread / count, float(np.mean(off_diagonal_cosines(plain))), float(np.mean(cosines))


def off_diagonal_cosines(rows: Array) -> list[float]:
    units = [row / np.linalg.norm(row) for row in rows]
    return [abs(float(a @ b)) for i, a in enumerate(units) for j, b in enumerate(units) if i != j]
