"""This file knows how a model is looked at without leaving a trace: fixed examples in, features and logits out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from twoclocks.sources.examples import Examples

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Look:
    """What a model makes of some examples: the exact input of its readout `[n d]`, and its output `[n c]`."""

    features: Tensor
    logits: Tensor


def look(model: nn.Module, readout: str, examples: Sequence[Examples]) -> dict[str, Look]:
    """Run the model over the examples of each split, in pieces, undisturbed, and catch what goes into its readout."""
    caught: list[Tensor] = []
    hook = model.get_submodule(readout).register_forward_pre_hook(
        lambda _, args, kwargs: caught.append(first_input(args, kwargs).detach().clone()), with_kwargs=True
    )
    looks: dict[str, Look] = {}
    try:
        with undisturbed(model):
            for batch in examples:
                caught.clear()
                logits = torch.cat([model(*piece) for piece in pieces(batch, device_of(model))])
                looks[batch.split] = Look(torch.cat(caught), logits)
    finally:
        hook.remove()
    return looks


def pieces(examples: Examples, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Cut the examples into pieces of about equal size and bring each to the device."""
    count = -(-len(examples.labels) // ROWS_AT_ONCE)
    for piece in zip(*(tensor.tensor_split(count) for tensor in examples.inputs), strict=True):
        yield tuple(tensor.to(device) for tensor in piece)


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what a linear layer was called with."""
    features: Tensor = args[0] if args else kwargs["input"]
    return features


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's first parameter lies."""
    return next(model.parameters()).device


def one_line(error: BaseException) -> str:
    """Return the kind and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Look at a model in evaluation mode, without gradients or autocast; leave it and all generators as they were.

    Hooks of others stay where they are, and run, as they do in any forward pass.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device_of(model).type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(kept_generators())
        stack.enter_context(kept_buffers(model))
        stack.enter_context(kept_modes(model))
        yield


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode, then each back into its own.

    The flags are set directly: models override `train()` and `eval()` with effects of their own, such as frozen layers.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Put back every buffer that a forward pass changes or replaces, as a counter or a moving average does."""
    kept = [(module, name, buffer, buffer.clone()) for module, name, buffer in buffers_of(model)]
    try:
        yield
    finally:
        for module, name, buffer, content in kept:
            module._buffers[name] = buffer
            if not torch.equal(buffer, content):
                buffer.copy_(content)


def buffers_of(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Return every buffer with the module that holds it and its name there."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield module, name, buffer


@contextmanager
def kept_generators() -> Iterator[None]:
    """Put back the random number generators of Python, numpy and torch, on the CPU and on every CUDA device in use."""
    ours, theirs, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 the global one
    cuda = torch.cuda.get_rng_state_all() if cuda_in_use() else None
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)  # noqa: NPY002
        torch.set_rng_state(torchs)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def cuda_in_use() -> bool:
    """Return whether this process has begun to use CUDA; asking does not begin it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
