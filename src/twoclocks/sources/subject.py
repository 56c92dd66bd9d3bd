"""This file knows what is looked at of a training that is not ours, and how the run folder describes it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from twoclocks.errors import InputError, nearest
from twoclocks.sources.evaluation import Look
from twoclocks.sources.examples import DRAW_SEED, Examples, check_classes, choose_examples
from twoclocks.sources.observation import Blocks, as_float32, tensors_of_moment
from twoclocks.sources.readout import find_readout
from twoclocks.sources.schedule import snapshots_until
from twoclocks.store import BATCHES, load, read_batches
from twoclocks.trajectory import Array, EvalBatch, SaveAt

MOST_BLOCKS = 12
HORIZON = 1_000_000


@dataclass(frozen=True)
class Subject:
    """What is looked at: the model in training, its readout, the fixed examples, its blocks of parameters."""

    model: nn.Module
    readout: str
    classes: int
    examples: tuple[Examples, ...]
    blocks: Blocks
    save_at: SaveAt

    @property
    def layer(self) -> nn.Linear:
        """Return the readout itself."""
        return cast(nn.Linear, self.model.get_submodule(self.readout))

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters by name, as they are now."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}


def checked_subject(
    model: nn.Module, train: Any, heldout: Any, readout: str | None, blocks: Blocks | None, save_at: SaveAt
) -> tuple[Subject, Look]:
    """Check what the user gave of model and examples; also return what the model makes of the first few."""
    check_model(model)
    examples = tuple(
        choose_examples(split, given, save_at.examples) for split, given in (("train", train), ("heldout", heldout))
    )
    name, first = find_readout(model, examples[0], readout)
    find_readout(model, examples[1], name)
    classes = first.logits.shape[1]
    check_logits(first.logits)
    check_classes(examples[0], examples[1], classes)
    chosen = default_blocks(model, name) if blocks is None else complete_blocks(model, blocks)
    return Subject(model, name, classes, examples, chosen, save_at), first


def check_logits(outputs: Tensor) -> None:
    """Refuse outputs that are probabilities: losses, margins and gaps would be of something else."""
    sums = outputs.double().sum(1)
    if outputs.shape[1] > 1 and bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        raise InputError(
            "the model returns probabilities (none is negative, and every row sums to 1) where logits are expected; return "
            "what enters the softmax, or the logarithms of the probabilities"
        )


def check_model(model: Any) -> None:
    """Refuse what is not a module with parameters that exist."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module to record, got {type(model).__name__}")
    parameters = list(model.parameters())
    if not parameters:
        raise InputError("the model has no parameters, so there is no training to record")
    if any(isinstance(parameter, UninitializedParameter) for parameter in parameters):
        raise InputError("the model has lazy layers without weights yet; run one batch through it first")


def default_blocks(model: nn.Module, readout: str) -> Blocks:
    """Return a block for each child module with parameters and one for the readout; beyond 12, encoder and readout."""
    of_readout = {id(parameter) for parameter in model.get_submodule(readout).parameters()}
    blocks: dict[str, list[str]] = {}
    encoder: list[str] = []
    for name, parameter in model.named_parameters():
        is_readout = id(parameter) in of_readout
        blocks.setdefault("readout" if is_readout else name.split(".")[0], []).append(name)
        if not is_readout:
            encoder.append(name)
    return blocks if len(blocks) <= MOST_BLOCKS else {"encoder": encoder, "readout": blocks["readout"]}


def complete_blocks(model: nn.Module, blocks: Blocks) -> Blocks:
    """Check the parameter names of the blocks given; what they leave out becomes the block `rest`."""
    left = [name for name, _ in model.named_parameters()]
    known = list(left)
    for block, names in blocks.items():
        for name in [names] if isinstance(names, str) else names:
            if name not in known:
                raise InputError(f"block {block!r}: the model has no parameter {name!r}.{nearest(name, known)}")
            if name not in left:
                raise InputError(f"block {block!r}: parameter {name!r} is in two blocks; put it into one")
            left.remove(name)
    given = {block: [names] if isinstance(names, str) else list(names) for block, names in blocks.items()}
    return given | ({"rest": left} if left else {})


def manifest_of(subject: Subject, first: Look, optimizer: Optimizer | None, budget: float) -> dict[str, Any]:
    """Return what run.json says: what identifies the training, and in `session` what may differ between its starts."""
    return {
        "kind": "recorder",
        "model": type(subject.model).__name__,
        "parameters": sum(tensor.numel() for tensor in subject.parameters.values()),
        "readout": subject.readout,
        "classes": subject.classes,
        "eval": {examples.split: eval_size(examples) for examples in subject.examples},
        "save_at": asdict(subject.save_at),
        "blocks": list(subject.blocks),
        "optimizer": None if optimizer is None else optimizer_settings(optimizer),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("twoclocks", "torch", "numpy")}
        | {"python": platform.python_version()},
        "session": {
            "budget": budget,
            "weight_decay": None
            if optimizer is None
            else [group.get("weight_decay") for group in optimizer.param_groups],
            "disk": disk_estimate(subject, first),
        },
    }


def eval_size(examples: Examples) -> dict[str, Any]:
    """Return how many examples of a split are looked at, of how many, and how they were drawn."""
    size = len(examples.labels)
    drawn = "all" if size == examples.population else f"without replacement, seed {DRAW_SEED}"
    return {"examples": size, "population": examples.population, "drawn": drawn}


def optimizer_settings(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimiser's name and the settings it was made with, which a schedule does not change."""
    plain = {name: value for name, value in optimizer.defaults.items() if isinstance(value, (bool, int, float, tuple))}
    return {"name": type(optimizer).__name__, "defaults": plain}


def disk_estimate(subject: Subject, first: Look) -> dict[str, int]:
    """Return about how many bytes a snapshot takes, and how many snapshots there are in a million steps."""
    at, wide = subject.save_at, first.features.shape[1]
    features = sum(2 * wide * len(examples.labels) for examples in subject.examples) if at.features else 0
    weights = sum(4 * tensor.numel() for tensor in subject.parameters.values()) if at.weights else 0
    size = features + weights + 4 * (wide + 1) * subject.classes
    moments = 1 + snapshots_until(HORIZON, at)
    return {"bytes_per_snapshot": size, "snapshots_in_1e6_steps": moments, "bytes_in_1e6_steps": size * moments}


def tensors_of(subject: Subject, looks: Mapping[str, Look]) -> dict[str, Array]:
    """Return the tensors to keep of one moment."""
    features = {split: seen.features for split, seen in looks.items()} if subject.save_at.features else {}
    weights = subject.parameters if subject.save_at.weights else {}
    return tensors_of_moment(features, (subject.layer.weight, subject.layer.bias), weights)


def eval_batches(subject: Subject) -> dict[str, EvalBatch]:
    """Return the examples that are looked at, as the run folder keeps them."""
    return {
        examples.split: EvalBatch(examples.split, examples.labels.cpu().numpy(), examples.population)
        for examples in subject.examples
    }


def check_same_examples(folder: Path, subject: Subject) -> None:
    """Refuse to go on in a folder whose evaluations looked at other examples."""
    held = read_batches(folder / BATCHES)
    for split, batch in eval_batches(subject).items():
        if split in held and not np.array_equal(held[split].labels, batch.labels):
            raise InputError(
                f"{folder} was recorded with other {split} examples; give the same (seed the split) or another folder"
            )


def starts_alike(folder: Path, subject: Subject) -> bool:
    """Return whether the model has the weights with which the training in the folder began, or that is not known."""
    first = next((snapshot.tensors for snapshot in load(folder).snapshots if snapshot.step == 0), {})
    return all(
        np.array_equal(first[f"weights/{name}"][0], as_float32(tensor))
        for name, tensor in subject.parameters.items()
        if f"weights/{name}" in first
    )
