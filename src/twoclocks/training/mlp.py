"""This file knows ReLU networks of plain layers: as a module, and as the same function with its backward pass by hand.

What autograd spends on its graph, and on a gradient by the inputs that nobody reads, is saved; the function and its
gradient are exactly those of the plain module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor, nn

from twoclocks.training.models import cross_entropy_gradient
from twoclocks.training.recipe import Problem, Weights

READOUT = "readout"


class MLP(nn.Module):
    """Layers of the given widths, inputs and classes included, with a bias each and ReLU between: widths[0] → … → classes.

    Initial values are PyTorch's own, uniform within ±1/√(inputs), all of them times `scale`, biases too (arXiv 2210.01117
    and its code). This is the definition; what trains is `mlp_gradient`, tested equal to it.
    """

    def __init__(self, widths: Sequence[int], scale: float = 1.0) -> None:
        super().__init__()  # nn.Module demands it
        for name, (inputs, outputs) in zip(layer_names(widths), pairwise(widths), strict=True):
            self.add_module(name, nn.Linear(inputs, outputs))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(scale)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits `[n c]` of inputs `[n d]`."""
        *hidden, readout = self.children()
        for layer in hidden:
            inputs = layer(inputs).relu()
        logits: Tensor = readout(inputs)
        return logits


def layer_names(widths: Sequence[int]) -> list[str]:
    """Return the names of the layers of an MLP, first to last.

    >>> layer_names([784, 200, 200, 10])
    ['hidden1', 'hidden2', 'readout']
    """
    return [*(f"hidden{number}" for number in range(1, len(widths) - 1)), READOUT]


def mlp_weights(widths: Sequence[int], scale: float, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights of a new MLP after `torch.manual_seed(seed)`, by name; drawn in float32, then of `dtype`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: w.detach().to(dtype) for name, w in MLP(widths, scale).named_parameters()}


def mlp(
    inputs: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    *,
    widths: Sequence[int],
    scale: float = 1.0,
    loss: str = "cross-entropy",
    batches: Callable[[int, int], Tensor] | None = None,
) -> Problem:
    """Return an MLP set on examples `[n d]` with labels `[n]`, by split; `loss` is "squared" or "cross-entropy".

    The squared loss is the mean over examples and classes of (logit − one-hot)². Weights have the inputs' dtype.

    Raises:
        ValueError: the widths do not begin with the inputs' width, or a label is no class, or there is no such loss.
    """
    check(inputs, labels, widths, loss)
    gradient_of_loss = LOSS_GRADIENTS[loss]
    names = layer_names(widths)

    def gradient(weights: Weights, rows: Tensor | None) -> tuple[Tensor, Weights]:
        x, y = inputs["train"], labels["train"]
        return mlp_gradient(weights, *((x, y) if rows is None else (x[rows], y[rows])), gradient_of_loss)

    return Problem(
        labels=labels,
        blocks={name: (f"{name}.weight", f"{name}.bias") for name in names},
        readout=(f"{READOUT}.weight", f"{READOUT}.bias"),
        initial=lambda seed: mlp_weights(widths, scale, seed, inputs["train"].dtype),
        forward=lambda weights, split: mlp_forward(weights, inputs[split]),
        gradient=gradient,
        batches=batches,
        loss=(lambda logits: squared_loss(logits, labels["train"])) if loss == "squared" else None,
    )


def check(inputs: Mapping[str, Tensor], labels: Mapping[str, Tensor], widths: Sequence[int], loss: str) -> None:
    """Refuse what cannot be an MLP on these examples."""
    if loss not in LOSS_GRADIENTS:
        raise ValueError(f"loss must be one of {', '.join(LOSS_GRADIENTS)}, got {loss!r}")
    for split, x in inputs.items():
        if x.ndim != 2 or x.shape[1] != widths[0] or len(x) != len(labels[split]):
            raise ValueError(
                f"{split}: expected inputs [n {widths[0]}] with n labels, got {list(x.shape)} and {len(labels[split])}"
            )
        if bool((labels[split] < 0).any()) or bool((labels[split] >= widths[-1]).any()):
            raise ValueError(f"{split}: expected labels from 0 to {widths[-1] - 1}, got {int(labels[split].max())}")


def layers_of(weights: Weights) -> list[tuple[Tensor, Tensor]]:
    """Return weight and bias of each layer, first to last."""
    tensors = list(weights.values())
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def mlp_forward(weights: Weights, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last hidden layer's outputs `[n h]`, which enter the readout, and the logits `[n c]`."""
    *hidden, (weight, bias) = layers_of(weights)
    features = entering(hidden, inputs)[-1]
    return features, torch.addmm(bias, features, weight.T)


def entering(hidden: Sequence[tuple[Tensor, Tensor]], inputs: Tensor) -> list[Tensor]:
    """Return what enters each hidden layer, first to last, and what enters the readout."""
    found = [inputs]
    for weight, bias in hidden:
        found.append(torch.addmm(bias, found[-1], weight.T).relu_())
    return found


def mlp_gradient(
    weights: Weights, inputs: Tensor, labels: Tensor, gradient_of_loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits `[n c]` of some examples, and by name the gradient of their mean loss."""
    layers = layers_of(weights)
    *hidden, (weight, bias) = layers
    inputs_of = entering(hidden, inputs)
    logits = torch.addmm(bias, inputs_of[-1], weight.T)
    by_layers = backward(layers, inputs_of, gradient_of_loss(logits, labels))
    return logits, dict(zip(weights, [part for pair in by_layers for part in pair], strict=True))


def backward(
    layers: Sequence[tuple[Tensor, Tensor]], inputs: Sequence[Tensor], by_outputs: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return the gradient by weight and bias of each layer, given the layers' inputs and the gradient by the logits."""
    gradients = []
    for number in range(len(layers) - 1, -1, -1):
        gradients.append((by_outputs.T @ inputs[number], by_outputs.sum(0)))
        if number:
            below = by_outputs @ layers[number][0]
            by_outputs = torch.ops.aten.threshold_backward.grad_input(below, inputs[number], 0, grad_input=below)
    return gradients[::-1]


def squared_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over examples and classes of (logit − one-hot)², as torch.nn.MSELoss takes it.

    >>> squared_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    tensor(2.)
    """
    return residual(logits, labels).square().mean()


def squared_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the squared loss by the logits, 2 (logit − one-hot) / (n c), `[n c]`.

    >>> squared_gradient(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    tensor([[0., 2.]])
    """
    return residual(logits, labels).mul_(2 / logits.numel())


def residual(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits less the one-hot labels, `[n c]`."""
    away = logits.clone()
    away[torch.arange(len(labels)), labels] -= 1
    return away


LOSS_GRADIENTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"cross-entropy": cross_entropy_gradient, "squared": squared_gradient}
)
