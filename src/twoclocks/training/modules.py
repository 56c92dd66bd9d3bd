"""This file knows how any plain PyTorch module becomes a problem to train: by autograd, one copy of it a thread.

Calling a module with other weights swaps its parameters for the time of the call, so two threads must never share one.
Each thread therefore calls a copy of its own, made when it first needs one; the weights themselves are arguments.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from twoclocks.errors import InputError
from twoclocks.training.optimizers import Rule
from twoclocks.training.recipe import Problem, Weights

Tensors = tuple[Tensor, ...]
Loss = Callable[[Tensor, Tensor], Tensor]
ROWS_AT_ONCE = 512  # of an evaluation
ROWS_TRIED = 3  # before a training begins


def module_problem(
    build: Callable[[int], nn.Module],
    inputs: Mapping[str, Tensors],
    labels: Mapping[str, Tensor],
    *,
    readout: str,
    blocks: Mapping[str, tuple[str, ...]],
    loss: Loss | None = None,
    batches: Callable[[int, int], Tensor] | None = None,
    rules: Mapping[str, Rule] | None = None,
    schedule: Callable[[int], float] | None = None,
    prepare: Callable[..., Tensors] | None = None,
) -> Problem:
    """Return a module set on examples: its features are the exact input of its readout, its gradient is autograd's.

    Every parameter is trained, in its own dtype, to which inputs that are floating point are brought. Evaluations run in
    pieces of at most 512 examples; a gradient is taken of all its examples at once.

    Args:
        build: makes the module of a seed; torch's generator is seeded for it, and put back afterwards.
        inputs, labels: of each split, the module's arguments `[n ...]` and class numbers `[n]`.
        readout: the name of the nn.Linear that gives the logits. blocks: names of parameters.
        loss: mean over examples of the logits `[b c]` against labels `[b]`; None: the cross-entropy.
        batches, rules, schedule: as `Problem` has them.
        prepare: turns the arguments of some examples into what the module takes, e.g. bytes into numbers from 0 to 1.

    Raises:
        InputError: splits, labels, blocks or readout do not fit, or the module is no fixed function of weights and inputs.

    >>> rows, labels = torch.eye(2), torch.tensor([0, 1])
    >>> network = module_problem(lambda seed: nn.Sequential(nn.Linear(2, 2, bias=False)), {"train": (rows,)},
    ...     {"train": labels}, readout="0", blocks={"readout": ("0.weight",)})
    >>> network.gradient({"0.weight": torch.zeros(2, 2)}, None)[1]["0.weight"]
    tensor([[-0.2500,  0.2500],
            [ 0.2500, -0.2500]])
    """
    module = built(build, 0)
    check_examples(inputs, labels)
    check_names(module, readout, blocks)
    own, of_batch = per_thread(module), loss or F.cross_entropy

    def arguments(weights: Weights, split: str, rows: Tensor | slice) -> Tensors:
        chosen = tuple(tensor[rows] for tensor in inputs[split])
        return in_dtype(prepare(*chosen) if prepare else chosen, next(iter(weights.values())).dtype)

    def forward(weights: Weights, split: str) -> tuple[Tensor, Tensor]:
        pieces = [seen(own(), weights, arguments(weights, split, rows), readout) for rows in slices(len(labels[split]))]
        return torch.cat([features for features, _ in pieces]), torch.cat([logits for _, logits in pieces])

    def gradient(weights: Weights, rows: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = slice(None) if rows is None else rows
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        logits = functional_call(own(), leaves, arguments(weights, "train", chosen))
        value = of_batch(logits, labels["train"][chosen])
        found = torch.autograd.grad(value, tuple(leaves.values()), allow_unused=True, materialize_grads=True)
        return logits.detach(), dict(zip(leaves, found, strict=True))

    check_function(own(), arguments(weights_of(module), "train", slice(ROWS_TRIED)), readout)
    return Problem(
        labels=labels,
        blocks=blocks,
        readout=(f"{readout}.weight", None if module.get_submodule(readout).bias is None else f"{readout}.bias"),
        initial=lambda seed: weights_of(built(build, seed)),
        forward=forward,
        gradient=gradient,
        batches=batches,
        loss=None if loss is None else lambda logits: loss(logits, labels["train"]),
        rules=rules,
        schedule=schedule,
    )


def built(build: Callable[[int], nn.Module], seed: int) -> nn.Module:
    """Return the module of a seed, leaving torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(seed)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name."""
    return {name: weight.detach() for name, weight in module.named_parameters()}


def per_thread(module: nn.Module) -> Callable[[], nn.Module]:
    """Return a function that gives each thread a copy of the module of its own, always the same one."""
    kept = threading.local()

    def own() -> nn.Module:
        if not hasattr(kept, "module"):
            kept.module = copy.deepcopy(module)
        found: nn.Module = kept.module
        return found

    return own


def in_dtype(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """Return tensors of floating point in that dtype, any other as it is."""
    return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors)


def slices(count: int) -> Iterator[slice]:
    """Cut `count` rows into pieces of bounded size.

    >>> [(piece.start, piece.stop) for piece in slices(600)]
    [(0, 512), (512, 1024)]
    """
    for start in range(0, count, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)


def seen(module: nn.Module, weights: Weights, arguments: Tensors, readout: str) -> tuple[Tensor, Tensor]:
    """Return the features `[n d]` and logits `[n c]` of some examples, without a gradient; the module is no one else's."""
    with torch.no_grad(), inputs_caught(module.get_submodule(readout)) as caught:
        logits = functional_call(module, dict(weights), arguments)
    return caught[-1], logits


@contextmanager
def inputs_caught(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what goes into a layer inside."""
    caught: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        yield caught
    finally:
        hook.remove()


def check_examples(inputs: Mapping[str, Tensors], labels: Mapping[str, Tensor]) -> None:
    """Refuse splits without inputs or labels, and inputs that are not one a label."""
    if inputs.keys() != labels.keys() or "train" not in labels:
        raise InputError(
            f"inputs and labels must have the same splits, 'train' one of them, got {[*inputs]}, {[*labels]}"
        )
    for split, of_split in labels.items():
        counts = [len(tensor) for tensor in inputs[split]]
        if len(of_split) == 0 or set(counts) != {len(of_split)}:
            raise InputError(
                f"{split}: there must be one input a label, at least one, got {counts} and {len(of_split)}"
            )


def check_names(module: nn.Module, readout: str, blocks: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a readout that is no linear layer of the module, and blocks of parameters that it does not have."""
    layers, parameters = dict(module.named_modules()), dict(module.named_parameters())
    if not isinstance(layers.get(readout), nn.Linear):
        linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
        raise InputError(f"the readout must be a linear layer of the module ({', '.join(linear)}), got {readout!r}")
    shared = [
        f"{readout}.{name}" for name, _ in layers[readout].named_parameters() if f"{readout}.{name}" not in parameters
    ]
    if shared:
        raise InputError(f"the readout must have weights of its own, got {', '.join(shared)} shared with another layer")
    unknown = [name for names in blocks.values() for name in names if name not in parameters]
    if unknown:
        raise InputError(
            f"blocks must name parameters of the module ({', '.join(parameters)}), got {', '.join(unknown)}"
        )


def check_function(module: nn.Module, arguments: Tensors, readout: str) -> None:
    """Refuse a module whose logits are not its readout's, or that is not the same function at every call."""
    weights, buffers = weights_of(module), {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        (features, logits), (_, again) = (seen(module, weights, arguments, readout) for _ in range(2))
    if any(not torch.equal(buffer, buffers[name]) for name, buffer in module.named_buffers()):
        raise InputError("the module changes its own buffers, as batch normalisation does; use one that does not")
    if not torch.allclose(logits, again, rtol=0, atol=0, equal_nan=True):
        raise InputError("the module gives other logits at every call, as dropout does; use one that does not")
    layer = module.get_submodule(readout)
    if features.ndim != 2 or not torch.equal(layer(features), logits):
        raise InputError(
            f"the logits must be the output [n c] of the readout {readout}, called on features [n d], got features "
            f"{list(features.shape)} and logits {list(logits.shape)}"
        )


def shuffled_batches(n: int, size: int) -> Callable[[int, int], Tensor]:
    """Return the batches of epochs, each in a fresh order: the rows `[b]` of n examples for a seed and a step.

    The order is a function of (seed, epoch) alone. The last batch of an epoch is shorter where `size` does not divide n; it
    is kept.

    Raises:
        InputError: n or size is below 1.

    >>> batches = shuffled_batches(5, 2)
    >>> [len(batches(0, step)) for step in range(4)], torch.cat([batches(0, step) for step in range(3)]).sort().values
    ([2, 2, 1, 2], tensor([0, 1, 2, 3, 4]))
    """
    if n < 1 or size < 1:
        raise InputError(f"batches need at least one example and a size of at least 1, got n = {n} and size = {size}")
    steps = -(-n // size)

    def batch(seed: int, step: int) -> Tensor:
        epoch, place = divmod(step, steps)
        return epoch_order(n, seed, epoch)[place * size : (place + 1) * size]

    return batch


@lru_cache(maxsize=64)
def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the numbers below n in an order drawn for a seed and an epoch."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n))
