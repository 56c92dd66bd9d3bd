"""This file knows which linear layer of a model is its readout."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from twoclocks.errors import InputError, nearest
from twoclocks.sources.evaluation import Look, device_of, first_input, one_line, undisturbed
from twoclocks.sources.examples import Examples

ROWS_TO_TRY = 4


@dataclass(frozen=True)
class LinearCall:
    """One linear layer at work in a forward pass: its name, what went in, what came out."""

    name: str
    features: Tensor
    output: Tensor


def find_readout(model: nn.Module, examples: Examples, named: str | None) -> tuple[str, Look]:
    """Find the readout, by its name or as the last linear layer, and what the model makes of the first few examples.

    Raises:
        InputError: the model cannot be run, does not give one row of logits an example, or has no such readout.
    """
    if named is not None:
        check_readout_name(model, named)
    calls, output = linear_calls(model, examples)
    check_output(output, min(ROWS_TO_TRY, len(examples.labels)))
    call = last_linear(calls, output) if named is None else only_call(calls, named)
    if call.features.ndim != 2 or call.output.shape != output.shape:
        shapes = " and ".join(str(list(tensor.shape)) for tensor in (call.features, call.output))
        raise InputError(
            f"readout {call.name!r} takes and gives {shapes}, the model gives {list(output.shape)}; expected a readout "
            "that takes [n, d] and gives [n, c] as the model does"
        )
    return call.name, Look(call.features, output)


def check_readout_name(model: nn.Module, named: str) -> None:
    """Refuse a name that no linear layer of the model has."""
    linear = linear_names(model)
    if named in linear:
        return
    layers = dict(model.named_modules())
    if named in layers:
        kind, known = type(layers[named]).__name__, ", ".join(linear) or "none"
        raise InputError(f"readout {named!r} is a {kind}; expected one of the linear layers (here: {known})")
    raise InputError(f"the model has no layer {named!r}.{nearest(named, linear)}")


def linear_calls(model: nn.Module, examples: Examples) -> tuple[list[LinearCall], Any]:
    """Run the model on a few examples and note every linear layer as it is called."""
    few = tuple(tensor[:ROWS_TO_TRY].to(device_of(model)) for tensor in examples.inputs)
    calls: list[LinearCall] = []
    with ExitStack() as stack:
        for name in linear_names(model):
            layer = model.get_submodule(name)

            def note(_: nn.Module, args: Any, kwargs: Any, output: Tensor, name: str = name) -> None:
                calls.append(LinearCall(name, first_input(args, kwargs), output))

            stack.callback(layer.register_forward_hook(note, with_kwargs=True).remove)
        stack.enter_context(undisturbed(model))
        try:
            output = model(*few)
        except Exception as error:
            raise InputError(f"the model cannot be run on the {examples.split} inputs: {one_line(error)}") from error
    return calls, output


def check_output(output: Any, rows: int) -> None:
    """Refuse a model whose output is not one row of logits an example."""
    if not isinstance(output, Tensor):
        raise InputError(
            f"the model returns a {type(output).__name__}; expected one tensor of logits: wrap the model in a module "
            "that returns its logits alone"
        )
    if output.ndim != 2 or len(output) != rows or output.shape[1] < 2:
        raise InputError(
            f"the model returns shape {list(output.shape)} for {rows} examples; expected [{rows}, c] logits of c >= 2 "
            "classes (of two classes, give it two outputs)"
        )


def last_linear(calls: list[LinearCall], output: Tensor) -> LinearCall:
    """Return the last linear layer that was called, if what it gave is the model's output."""
    if calls and (calls[-1].output is output or torch.equal(calls[-1].output, output)):
        return calls[-1]
    names = ", ".join(dict.fromkeys(repr(call.name) for call in calls))
    raise InputError(
        "the model's output does not come straight out of a linear layer; name its readout with readout= "
        f"(linear layers, in the order of use: {names or 'none, so it has no readout that can be recorded'})"
    )


def only_call(calls: list[LinearCall], named: str) -> LinearCall:
    """Return the one call of the layer named as the readout."""
    found = [call for call in calls if call.name == named]
    if len(found) != 1:
        raise InputError(f"readout {named!r} is called {len(found)} times in one forward pass; expected once")
    return found[0]


def linear_names(model: nn.Module) -> list[str]:
    """Return the names of the model's linear layers."""
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
