"""This file knows linear networks: products of matrices without bias, on inputs of three kinds, all in float64.

A step multiplies the weights first, A = W_L … W_1, and takes the loss's gradient by A before it goes down the layers:
its cost does not depend on the number of examples but for the loss itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from twoclocks.errors import InputError
from twoclocks.training.models import cross_entropy_gradient, lookup_of
from twoclocks.training.recipe import Problem, Weights
from twoclocks.training.tasks import Pairs


@dataclass(frozen=True)
class Inputs:
    """The inputs x_n of a split, known by what a matrix does to them.

    `through(M)` gives Mx_n for every example, `[n k]` of a matrix `[k d]`; `gathered(B)` gives Σ_n b_n x_nᵀ, `[k d]` of
    rows `[n k]`.
    """

    through: Callable[[Tensor], Tensor]
    gathered: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Target:
    """What a linear network is trained to: the gradient of its loss by the training logits, and that loss.

    `loss` is None for the mean cross-entropy.
    """

    gradient: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor], Tensor] | None = None


def one_hot_inputs() -> Inputs:
    """Return the inputs e_1, e_2, …: what a matrix does to them are its columns.

    >>> one_hot_inputs().through(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[1., 3.],
            [2., 4.]])
    """
    return Inputs(lambda matrix: matrix.T, lambda rows: rows.T)


def pair_inputs(pairs: Pairs, symbols: int) -> Inputs:
    """Return the inputs of pairs of symbols, each two ones among 2p places, one for the left and one for the right."""
    lookup = lookup_of(pairs, symbols)
    return Inputs(
        lambda matrix: F.embedding_bag(lookup.rows, matrix.T.contiguous(), mode="sum"),
        lambda rows: F.embedding_bag(lookup.pairs, rows, lookup.starts, mode="sum").T,
    )


def dense_inputs(examples: Tensor) -> Inputs:
    """Return the inputs that are the rows of a matrix `[n d]`."""
    return Inputs(lambda matrix: examples @ matrix.T, lambda rows: rows.T @ examples)


def cross_entropy_target(labels: Tensor) -> Target:
    """Return the mean cross-entropy of the logits `[n c]` against labels `[n]`."""
    return Target(lambda logits: cross_entropy_gradient(logits, labels))


def square_target(matrix: Tensor) -> Target:
    """Return ½‖A − S‖_F² for a target S `[c d]`, on one-hot inputs, whose logits are the rows of Aᵀ.

    >>> float(square_target(torch.zeros(2, 2)).loss(torch.ones(2, 2)))
    2.0
    """
    return Target(lambda logits: logits - matrix.T, lambda logits: 0.5 * (logits - matrix.T).square().sum())


def layer_names(depth: int) -> tuple[str, ...]:
    """Return the names of the weights, the input side first.

    >>> layer_names(2)
    ('layer.1', 'layer.2')
    """
    return tuple(f"layer.{number}" for number in range(1, depth + 1))


def linear_network(
    inputs: Mapping[str, Inputs],
    labels: Mapping[str, Tensor],
    target: Target,
    initial: Callable[[int], Sequence[Tensor]],
    depth: int,
) -> Problem:
    """Return a network of `depth` matrices set on examples; the last matrix is its readout.

    Args:
        inputs, labels: of each split. target: what it is trained to. initial: its matrices of a seed, the input side
            first.
    """
    names = layer_names(depth)

    def matrices(weights: Weights) -> list[Tensor]:
        return [weights[name] for name in names]

    def forward(weights: Weights, split: str) -> tuple[Tensor, Tensor]:
        *below, last = matrices(weights)
        features = inputs[split].through(product(below) if below else torch.eye(last.shape[1], dtype=last.dtype))
        return features, features @ last.T

    def gradient(weights: Weights, rows: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        if rows is not None:
            raise InputError("a linear network is trained on all examples at once, it has no gradient of some of them")
        layers = matrices(weights)
        logits = inputs["train"].through(product(layers))
        by_map = inputs["train"].gathered(target.gradient(logits))
        return logits, dict(zip(names, gradients_by_layer(layers, by_map), strict=True))

    return Problem(
        labels=labels,
        blocks={name: (name,) for name in names},
        readout=(names[-1], None),
        initial=lambda seed: dict(zip(names, initial(seed), strict=True)),
        forward=forward,
        gradient=gradient,
        loss=target.loss,
        end_to_end=lambda weights: product(matrices(weights)),
    )


def product(layers: Sequence[Tensor]) -> Tensor:
    """Return W_L … W_1 of matrices given with the input side first.

    >>> product([torch.tensor([[2.0]]), torch.tensor([[3.0], [4.0]])])
    tensor([[6.],
            [8.]])
    """
    return partial_products(layers)[-1]


def partial_products(layers: Sequence[Tensor]) -> list[Tensor]:
    """Return W_1, W_2W_1, …, W_L…W_1."""
    return list(accumulate(layers, lambda below, layer: layer @ below))


def gradients_by_layer(layers: Sequence[Tensor], by_map: Tensor) -> list[Tensor]:
    """Return the gradient by each layer, (W_L…W_{l+1})ᵀ G (W_{l−1}…W_1)ᵀ, given G, that by the end-to-end map `[c d]`.

    >>> gradients_by_layer([torch.tensor([[2.0]]), torch.tensor([[3.0]])], torch.tensor([[1.0]]))
    [tensor([[3.]]), tensor([[2.]])]
    """
    below = partial_products(layers[:-1]) if len(layers) > 1 else []
    gradients: list[Tensor] = []
    for layer, under in zip(reversed(layers[1:]), reversed(below), strict=True):
        gradients.insert(0, by_map @ under.T)
        by_map = layer.T @ by_map
    return [by_map, *gradients]


def balanced_layers(left: Tensor, right: Tensor, depth: int, width: int, scale: float) -> list[Tensor]:
    """Return `depth` matrices with W_lW_lᵀ = W_{l+1}ᵀW_{l+1} whose product is scale^L · left rightᵀ.

    `left` [c k] and `right` [d k] have orthonormal columns, of which the first `width` are used where there are more.

    >>> first, second = balanced_layers(torch.eye(2), torch.eye(2), depth=2, width=3, scale=0.5)
    >>> bool((first @ first.T == second.T @ second).all()), (second @ first).tolist()
    (True, [[0.25, 0.0], [0.0, 0.25]])
    """
    if depth == 1:
        return [scale * left @ right.T]
    modes = min(width, left.shape[1])
    frame = torch.eye(width, modes, dtype=left.dtype)
    inner = [scale * frame @ frame.T for _ in range(depth - 2)]
    return [scale * frame @ right[:, :modes].T, *inner, scale * left[:, :modes] @ frame.T]


def random_layers(sizes: Sequence[int], scale: float, generator: torch.Generator) -> list[Tensor]:
    """Return matrices of normal entries with variance scale² / width, the width of the hidden layers.

    `sizes`: inputs, width of each hidden layer, classes.
    """
    spread = scale / max(sizes[1], 1) ** 0.5
    return [
        spread * torch.randn(after, before, dtype=torch.float64, generator=generator)
        for before, after in pairwise(sizes)
    ]


def random_rotation(size: int, generator: torch.Generator) -> Tensor:
    """Return an orthogonal matrix of determinant 1, uniform among them.

    >>> round(float(random_rotation(3, torch.Generator().manual_seed(0)).det()), 12)
    1.0
    """
    turned, triangle = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    turned = turned * triangle.diagonal().sign()
    signs = torch.ones(size, dtype=torch.float64)
    signs[0] = turned.det().sign()
    return torch.as_tensor(turned * signs)
