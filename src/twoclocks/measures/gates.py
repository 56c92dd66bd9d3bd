"""This file knows which ReLU units are on, whether they stay so, and the affine map that a network is while they do.

A unit is on where its pre-activation is positive. Patterns are kept packed, eight units a byte, and compared by counting
bits. Networks are given as matrices W_1 … W_{L+1} and biases, the input side first: every layer but the last is followed
by a ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twoclocks.measures.balance import check_chain
from twoclocks.measures.spectrum import check_matrix

BYTE_BITS = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)
bits_set: Callable[..., Any] = getattr(np, "bitwise_count", BYTE_BITS.take)  # NumPy 1.26 has no such count
# A float64 dot product of d terms errs by at most d · 1.1e-16 of ‖w‖‖x‖; a certificate leaves room for d = 9000.
ROUNDING = 1e-12
GRADIENT_ENTRIES = 2**22  # how many local gradients are held at once: 32 MiB


def gate_pattern(preactivations: Tensor) -> Tensor:
    """Return which units are on, packed: `[n ceil(h/8)]` uint8, unit i in bit 7 − i mod 8 of byte i // 8, rest zeros.

    The order is that of `numpy.packbits`. On is z > 0, so a unit at exactly 0 is off, as in the gradient of a ReLU.

    Args:
        preactivations: `[n h]`, finite.

    Raises:
        ValueError: the pre-activations have not two axes, are empty, or hold NaN or infinity.

    >>> gate_pattern(torch.tensor([[1.0, -1.0, 0.0, 2.0]])).tolist()  # 1001 0000
    [[144]]
    """
    check_matrix(preactivations, "preactivations")
    return torch.from_numpy(np.packbits((preactivations.detach() > 0).cpu().numpy(), axis=1))


def unpacked_gates(pattern: Tensor, units: int) -> Tensor:
    """Return the gates of a packed pattern, `[n h]` bool: the inverse of `gate_pattern`.

    Raises:
        ValueError: the pattern is not one of that many units.

    >>> unpacked_gates(torch.tensor([[144]], dtype=torch.uint8), 4).tolist()
    [[True, False, False, True]]
    """
    check_pattern(pattern, "pattern")
    check_units(pattern, units)
    return torch.from_numpy(np.unpackbits(pattern.cpu().numpy(), axis=1, count=units).astype(bool))


def gate_agreement(a: Tensor, b: Tensor, units: int) -> Tensor:
    """Return the share of the n · h gates that are the same in two patterns, from 0 to 1; units always off agree.

    Args:
        a: `[n ceil(h/8)]`, from `gate_pattern`.
        b: the same examples and units at another moment.
        units: h, how many units a row holds.

    Raises:
        ValueError: the patterns are not packed, not of one shape, or not of that many units.

    >>> a, b = gate_pattern(torch.tensor([[1.0, 1.0, 0.0, 0.0]])), gate_pattern(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    >>> gate_agreement(a, b, 4)
    tensor(0.7500, dtype=torch.float64)
    """
    check_units(a, units)
    return 1 - gate_flips(a, b).sum() / torch.tensor(len(a) * units, dtype=torch.float64)


def gate_jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Return |on in both| / |on in either| over all gates of two patterns, from 0 to 1; 1 where nothing is ever on.

    Units that are off at both moments do not count, so dead ones cannot inflate it. Pooled over examples `[def]`.
    Source: Jaccard 1901. Raises: as `gate_flips`.

    >>> a, b = gate_pattern(torch.tensor([[1.0, 1.0, 0.0, 0.0]])), gate_pattern(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    >>> gate_jaccard(a, b)
    tensor(0.5000, dtype=torch.float64)
    """
    check_patterns(a, b)
    either = int(bits_set((a | b).cpu().numpy()).sum(dtype=np.int64))
    both = int(bits_set((a & b).cpu().numpy()).sum(dtype=np.int64))
    return torch.tensor(both / either if either else 1.0, dtype=torch.float64)


def whole_pattern_share(a: Tensor, b: Tensor) -> Tensor:
    """Return the share of examples none of whose gates differ, from 0 to 1. Raises: as `gate_flips`.

    >>> a = gate_pattern(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    >>> whole_pattern_share(a, gate_pattern(torch.tensor([[1.0, 1.0], [1.0, -1.0]])))
    tensor(0.5000, dtype=torch.float64)
    """
    return (gate_flips(a, b) == 0).double().mean()


def gate_flips(a: Tensor, b: Tensor) -> Tensor:
    """Return how many gates of each example differ between two patterns, `[n]`, whole numbers.

    Args:
        a: `[n ceil(h/8)]`, from `gate_pattern`.
        b: the same examples and units at another moment. Flips in between, there and back, are not seen.

    Raises:
        ValueError: the patterns are not packed or not of one shape.

    >>> a = gate_pattern(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    >>> gate_flips(a, gate_pattern(torch.tensor([[-1.0, -1.0], [1.0, -1.0]])))
    tensor([2, 1])
    """
    check_patterns(a, b)
    return torch.from_numpy(bits_set((a ^ b).cpu().numpy()).sum(1, dtype=np.int64))


def relu_forward(weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the logits `[n c]` of a ReLU network and the pre-activations `[n h]` of each hidden layer, in float64.

    Args:
        weights: L + 1 matrices `[d_out d_in]`, the input side first, at least two.
        biases: L + 1 vectors `[d_out]`; zeros where a layer has none.
        x: `[n d]`.

    Raises:
        ValueError: the matrices do not follow each other, a bias or x does not fit, or a value is not finite.

    >>> relu_forward([torch.eye(2), torch.ones(1, 2)], [torch.zeros(2), torch.ones(1)], torch.tensor([[3.0, -2.0]]))[0]
    tensor([[4.]], dtype=torch.float64)
    """
    check_network(weights, biases, x)
    signal, preactivations = x.detach().double(), []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        preactivations.append(signal @ weight.detach().double().T + bias.detach().double())
        signal = preactivations[-1].relu()
    return signal @ weights[-1].detach().double().T + biases[-1].detach().double(), preactivations


def local_map(weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the affine map that a ReLU network is around one input: J `[c d]` and c `[c]` of f(x) = J x + c.

    J = W_{L+1} D_L W_L … D_1 W_1 with the gates D of x; the same at every input with the same gates. In float64.

    Args:
        weights: as `relu_forward`.
        biases: as `relu_forward`.
        x: `[d]`.

    Raises:
        ValueError: as `relu_forward`.

    >>> slope, offset = local_map(
    ...     [torch.eye(2), torch.ones(1, 2)], [torch.zeros(2), torch.ones(1)], torch.tensor([3.0, -2.0])
    ... )
    >>> slope.tolist(), offset.tolist()  # the second unit is off
    ([[1.0, 0.0]], [1.0])
    """
    _, preactivations = relu_forward(weights, biases, x[None])
    slope, offset = weights[0].detach().double(), biases[0].detach().double()
    for weight, bias, values in zip(weights[1:], biases[1:], preactivations, strict=True):
        open_part = weight.detach().double() * (values > 0)
        slope, offset = open_part @ slope, open_part @ offset + bias.detach().double()
    return slope, offset


def mean_gate_product(weights: Sequence[Tensor], gates: Sequence[Tensor]) -> Tensor:
    """Return W_{L+1} D̄_L W_L … D̄_1 W_1, `[c d]`, with D̄ the share of the examples on which each unit is on `[def]`.

    One matrix for a ReLU network. It is the mean of the local maps only where gates of different layers do not depend on
    each other over the examples, and for one hidden layer always.

    Args:
        weights: L + 1 matrices, the input side first.
        gates: L tensors `[n h]` bool, which units are on (`unpacked_gates`).

    Raises:
        ValueError: the matrices do not follow each other, or the gates are not those of its hidden layers.

    >>> mean_gate_product([torch.eye(2), torch.ones(1, 2)], [torch.tensor([[True, False], [True, True]])]).tolist()
    [[1.0, 0.5]]
    """
    check_chain(weights)
    check_gates(weights, gates)
    shares = [gate.double().mean(0) for gate in gates]
    first, *later = [weight.detach().double() for weight in weights]
    return reduce(
        lambda product, layer: layer[0] @ (layer[1][:, None] * product), zip(later, shares, strict=True), first
    )


def stability_certificate(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    weights_after: Sequence[Tensor],
    biases_after: Sequence[Tensor],
    x: Tensor,
    x_after: Tensor | None = None,
) -> Tensor:
    """Return on which examples no gate can flip on the straight way between two checkpoints, `[n]` bool.

    One hidden layer: |w_i·x + b_i| > ‖Δw_i‖‖x‖ + |Δb_i| for all units i, which proves it for any other way too on which
    no row and no bias strays further. What enters a unit may move as well, by at most ρ_j in coordinate j: the inputs of
    a network of embeddings (ρ = |Δx|), or the layer before. Since |w_j| ≤ max(|w_j|, |w'_j|) all the straight way, the
    bound grows by Σ_j max(|w_ij|, |w'_ij|) ρ_j; the unit's output moves by no more than the bound, and not at all if the
    unit is certain to stay off. True is a proof, with room for rounding; False says nothing. Source: arXiv 2606.05863;
    moving inputs and depth `[def]`.

    Args:
        weights: as `relu_forward`, at the first checkpoint.
        biases: as `relu_forward`, at the first checkpoint.
        weights_after: the same at the second.
        biases_after: the same at the second.
        x: `[n d]`.
        x_after: `[n d]`, the inputs at the second checkpoint, where they move.

    Raises:
        ValueError: as `relu_forward`, or the two checkpoints are of different shapes.

    >>> w, b, x = [torch.eye(1), torch.eye(1)], [torch.zeros(1), torch.zeros(1)], torch.tensor([[1.0], [-1.0]])
    >>> stability_certificate(w, b, [1.5 * torch.eye(1), torch.eye(1)], [torch.full((1,), 0.4), torch.zeros(1)], x)
    tensor([True, True])
    >>> stability_certificate(w, b, [1.5 * torch.eye(1), torch.eye(1)], [torch.full((1,), 0.6), torch.zeros(1)], x)
    tensor([False, False])
    """
    check_network(weights_after, biases_after, x if x_after is None else x_after)
    _, preactivations = relu_forward(weights, biases, x)
    check_same_shapes([*weights, *biases, x], [*weights_after, *biases_after, x if x_after is None else x_after])
    signal = x.detach().double()
    moved = torch.zeros_like(signal) if x_after is None else (x_after.detach().double() - signal).abs()
    stable = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for layer, values in enumerate(preactivations):
        bound = movement_bound(weights[layer], weights_after[layer], biases[layer], biases_after[layer], signal, moved)
        certain = values.abs() > bound
        stable &= certain.all(1)
        signal, moved = values.relu(), bound.where(~certain | (values > 0), 0.0)
    return stable


def movement_bound(
    weight: Tensor, weight_after: Tensor, bias: Tensor, bias_after: Tensor, signal: Tensor, moved: Tensor
) -> Tensor:
    """Return by how much each pre-activation of a layer can move on the straight way, rounding included, `[n h]`."""
    before, after = weight.detach().double(), weight_after.detach().double()
    offset, offset_after = bias.detach().double(), bias_after.detach().double()
    reach = torch.linalg.vector_norm(signal, dim=1)[:, None]
    by_weights = reach * torch.linalg.vector_norm(after - before, dim=1) + (offset_after - offset).abs()
    by_inputs = moved @ torch.maximum(before.abs(), after.abs()).T
    size = reach * torch.linalg.vector_norm(before, dim=1) + offset.abs()
    bound: Tensor = by_weights + by_inputs + ROUNDING * (size + by_weights + by_inputs)
    return bound


def region_radius(weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> Tensor:
    """Return how far each input can move, in any direction, before a gate flips: `[n]`, in the unit of x.

    min_i |z_i| / ‖∇_x z_i‖ over all hidden units, with the gradient of the affine map that holds around x. The region of
    equal gates is cut out by the planes z_i = 0 of these maps, so this is its exact distance, at any depth. Infinite
    where no unit depends on the input. Source: Croce, Andriushchenko & Hein 2019.

    Args:
        weights: as `relu_forward`.
        biases: as `relu_forward`.
        x: `[n d]`.

    Raises:
        ValueError: as `relu_forward`.

    >>> weights, biases = [torch.tensor([[3.0, 4.0]]), torch.eye(1)], [torch.tensor([5.0]), torch.zeros(1)]
    >>> region_radius(weights, biases, torch.tensor([[0.0, 0.0], [3.0, 4.0]]))  # |0 + 5| / 5 and |25 + 5| / 5
    tensor([1., 6.], dtype=torch.float64)
    """
    check_network(weights, biases, x)
    widest = max(len(weight) for weight in weights) * x.shape[1]
    size = max(1, GRADIENT_ENTRIES // widest)
    parts = [x[start : start + size] for start in range(0, len(x), size)]
    return torch.cat([nearest_boundary(weights, relu_forward(weights, biases, part)[1]) for part in parts])


def nearest_boundary(weights: Sequence[Tensor], preactivations: Sequence[Tensor]) -> Tensor:
    """Return the distance to the nearest plane z_i = 0 of the local maps, `[n]`."""
    gradients = weights[0].detach().double()[None]
    distances = [distance(preactivations[0], gradients)]
    for weight, before, values in zip(weights[1:-1], preactivations, preactivations[1:], strict=False):
        gradients = weight.detach().double() @ ((before > 0)[:, :, None] * gradients)
        distances.append(distance(values, gradients))
    return torch.cat(distances, 1).amin(1)


def distance(values: Tensor, gradients: Tensor) -> Tensor:
    """Return |z| / ‖∇z‖, and infinity where the gradient is 0."""
    steepness = torch.linalg.vector_norm(gradients, dim=2)
    return torch.where(steepness > 0, values.abs() / torch.where(steepness > 0, steepness, 1.0), torch.inf)


def check_patterns(a: Tensor, b: Tensor) -> None:
    """Refuse patterns that are not of the same examples and units."""
    check_pattern(a, "a")
    check_pattern(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"b: expected the shape of a, {list(a.shape)}, got {list(b.shape)}")


def check_pattern(pattern: Tensor, name: str) -> None:
    """Refuse what is no packed pattern of at least one example."""
    if pattern.dtype != torch.uint8 or pattern.ndim != 2 or not pattern.numel():
        raise ValueError(
            f"{name}: expected packed gates [n, bytes] of uint8, got {list(pattern.shape)} of {pattern.dtype}; "
            "pack pre-activations with gate_pattern"
        )


def check_units(pattern: Tensor, units: int) -> None:
    """Refuse a number of units that a row of the pattern does not hold."""
    if pattern.ndim != 2 or not 8 * (pattern.shape[1] - 1) < units <= 8 * pattern.shape[1]:
        raise ValueError(f"units: expected a number that packs into the pattern's {list(pattern.shape)}, got {units}")


def check_network(weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> None:
    """Refuse weights, biases and inputs that do not make a network with a hidden layer."""
    check_chain(weights)
    check_matrix(x, "x")
    if x.shape[1] != weights[0].shape[1]:
        raise ValueError(f"x: expected {weights[0].shape[1]} columns, as weights[0], got {list(x.shape)}")
    got, expected = [list(bias.shape) for bias in biases], [[len(weight)] for weight in weights]
    if got != expected:
        raise ValueError(f"biases: expected one for each row of the weights, {expected}, got {got}")
    if not all(bool(bias.isfinite().all()) for bias in biases):
        raise ValueError("biases: expected finite numbers, got NaN or infinity; leave that moment out")


def check_gates(weights: Sequence[Tensor], gates: Sequence[Tensor]) -> None:
    """Refuse gates that are not those of a network's hidden layers."""
    expected = [after.shape[1] for _, after in pairwise(weights)]
    if [gate.shape[1] if gate.ndim == 2 and len(gate) else None for gate in gates] != expected:
        raise ValueError(f"gates: expected [n, h] with h = {expected}, got {[list(gate.shape) for gate in gates]}")
    if any(gate.dtype != torch.bool for gate in gates):
        raise ValueError(f"gates: expected bool, got {[str(gate.dtype) for gate in gates]}; see unpacked_gates")


def check_same_shapes(before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    """Refuse two checkpoints of different networks or examples."""
    of_before, of_after = [list(part.shape) for part in before], [list(part.shape) for part in after]
    if of_before != of_after:
        raise ValueError(f"expected the shapes of the first checkpoint, {of_before}, got {of_after}")
