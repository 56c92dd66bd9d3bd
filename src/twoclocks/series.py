"""This file knows how a measure becomes a series: one function of one moment, mapped over all runs and moments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from twoclocks.errors import InputError, nearest
from twoclocks.trajectory import Array, Float, Series, Snapshot, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = ("matrix", "features", "logits", "labels", "weights")
MAPS = ("end_to_end", "features", "readout", "weights/<name>")
SPLITS = ("train", "heldout")
FEATURED = ("features/train", "features/heldout", "readout/weight")


def measure(
    trajectory: Trajectory, quantity: Callable[..., Tensor], *, of: str = "end_to_end", split: str = "train"
) -> Series:
    """Measure a quantity of every run at every snapshot that holds what it needs.

    The names of the quantity's arguments without a default say what it is given, of one run at one moment, in float64:
    `matrix`, the one that `of` names; `features` [n d], `logits` [n c] and `labels` [n] of the examples of `split`;
    `weights`, every recorded weight matrix in the natural order of the names.

    Args:
        trajectory: with snapshots.
        quantity: a measure such as `stable_rank`; its number or vector becomes `value[r, t, ...]`.
        of: "end_to_end": the logits of all recorded examples, training then held-out, `[n c]`, centred over classes,
            because a shift common to all classes changes no prediction. "features": `[n d]` of `split`. "readout": its
            weight `[c d]`. "weights/<name>": a recorded weight; a convolution's kernel is flattened to `[out, rest]`.
        split: "train" or "heldout".

    Returns:
        A series without unit, named "stable_rank(end_to_end: logits on recorded examples)" or alike. Moments that lack
        the tensors are absent. A run whose tensors were not finite at a moment, because it diverged, has NaN there.

    Raises:
        InputError: the quantity takes an argument of another name, `of` or `split` is unknown, no snapshot holds what
            the quantity needs, or the quantity refuses it.
    """
    needs = needs_of(quantity, of, split)
    required = {name for need in needs for name in names_of(need, of, split)}
    moments = [snapshot for snapshot in trajectory.snapshots if required <= held_by(snapshot)]
    if not moments:
        raise InputError(missing(trajectory, quantity, required))
    labels = labels_of(trajectory, split) if "labels" in needs else None
    label = f"{name_of(quantity)}({subject(needs, of, split)})"
    values = []
    for snapshot in moments:
        given = {need: inputs_of(snapshot, need, of, split) for need in needs if need != "labels"}
        runs = len(next(iter(given.values()))) if given else 0
        inputs = [{need: one[run] for need, one in given.items()} for run in range(runs)]
        values.append([value_at(quantity, one, labels, f"{label} at step {snapshot.step}") for one in inputs])
    return Series(label, "", np.array([snapshot.step for snapshot in moments], np.int64), joined(values))


def needs_of(quantity: Callable[..., Tensor], of: str, split: str) -> tuple[str, ...]:
    """Return the names of the arguments that a quantity must be given, and refuse what cannot be given."""
    parameters = inspect.signature(quantity).parameters.values()
    needs = tuple(
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    )
    unknown = [need for need in needs if need not in NEEDS]
    if unknown or not set(needs) - {"labels"}:
        raise InputError(
            f"{name_of(quantity)} takes {', '.join(needs) or 'no arguments'}, but a measure is given its arguments by "
            f"name and only {', '.join(NEEDS)} are known; fix any other with functools.partial"
        )
    if of not in MAPS[:3] and not of.startswith("weights/"):
        raise InputError(f"unknown matrix '{of}'.{nearest(of, list(MAPS))}")
    if "matrix" not in needs and of not in ("end_to_end", *needs):
        raise InputError(
            f"{name_of(quantity)} takes {', '.join(needs)} and no matrix, so it cannot be measured of '{of}'"
        )
    if split not in SPLITS:
        raise InputError(f"unknown split '{split}'.{nearest(split, list(SPLITS))}")
    return needs


def names_of(need: str, of: str, split: str) -> tuple[str, ...]:
    """Return the tensors that a snapshot must hold for an argument of a quantity."""
    if need == "matrix" and of.startswith("weights/"):
        return (of,)
    return {
        "end_to_end": ("features/train", "readout/weight"),
        "readout": ("readout/weight",),
        "features": (f"features/{split}",),
        "logits": (f"features/{split}", "readout/weight"),
        "weights": ("weights",),
    }.get(of if need == "matrix" else need, ())


def held_by(snapshot: Snapshot) -> set[str]:
    """Return the names of what a snapshot holds, with "weights" if it holds any."""
    names = set(snapshot.tensors)
    return names | {"weights"} if any(name.startswith("weights/") for name in names) else names


def inputs_of(snapshot: Snapshot, need: str, of: str, split: str) -> Sequence[Any]:
    """Return what a quantity is given for one of its arguments, one item a run."""
    if need == "weights":
        names = sorted((name for name in snapshot.tensors if name.startswith("weights/")), key=natural_order)
        matrices = [array for array in (snapshot.tensors[name] for name in names) if array.ndim == 3]
        return list(zip(*(float64(array) for array in matrices), strict=True))
    if need != "matrix":
        return list(logits_of(snapshot, split) if need == "logits" else float64(snapshot.tensors[f"features/{split}"]))
    if of == "end_to_end":
        return list(end_to_end(snapshot))
    array = snapshot.tensors[names_of(need, of, split)[0]]
    return list(float64(array.reshape(*array.shape[:2], -1) if array.ndim > 3 else array))


def featured(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Return the snapshots that hold features of both splits and the readout."""
    return [snapshot for snapshot in snapshots if set(FEATURED) <= set(snapshot.tensors)]


def end_to_end(snapshot: Snapshot) -> Tensor:
    """Return the logits of all recorded examples, training then held-out, `[r n c]`, centred over classes."""
    import torch  # only where tensors are measured: the log path reads series without it

    recorded = [split for split in SPLITS if f"features/{split}" in held_by(snapshot)]
    logits = torch.cat([logits_of(snapshot, split) for split in recorded], 1)
    return logits - logits.mean(2, keepdim=True)


def logits_of(snapshot: Snapshot, split: str) -> Tensor:
    """Return the logits φWᵀ + b of a split, `[r n c]`, from the features and the readout of a snapshot."""
    logits = float64(snapshot.tensors[f"features/{split}"]) @ float64(snapshot.tensors["readout/weight"]).mT
    if "readout/bias" in held_by(snapshot):
        logits = logits + float64(snapshot.tensors["readout/bias"])[:, None]
    return logits


def labels_of(trajectory: Trajectory, split: str) -> Tensor:
    """Return the labels of a split, `[n]`."""
    import torch  # only where tensors are measured: the log path reads series without it

    if split not in trajectory.batches:
        raise InputError(f"no labels of the {split} examples are recorded in {trajectory.source.path}; record them")
    return torch.from_numpy(np.array(trajectory.batches[split].labels, np.int64))


def value_at(
    quantity: Callable[..., Tensor], given: Mapping[str, Any], labels: Tensor | None, what: str
) -> Float | None:
    """Return a quantity of one run at one moment, or None where its tensors were not finite."""
    tensors = [one for item in given.values() for one in (item if isinstance(item, tuple) else (item,))]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        return None
    try:
        value = quantity(**given) if labels is None else quantity(**given, labels=labels)
    except ValueError as refusal:
        raise InputError(f"cannot measure {what}: {refusal}") from None
    return np.asarray(value, np.float64)


def joined(values: Sequence[Sequence[Float | None]]) -> Float:
    """Return values `[t][r]` as one array `[r t ...]`, with NaN for those that could not be measured."""
    shapes = {value.shape for row in values for value in row if value is not None}
    if len(shapes) > 1:
        raise InputError(f"the quantity changes its shape between moments or runs: {sorted(shapes)}; it must keep one")
    absent = np.full(shapes.pop() if shapes else (), np.nan)
    return np.array([[absent if value is None else value for value in row] for row in values]).swapaxes(0, 1)


def float64(array: Array) -> Tensor:
    """Return an array as a float64 tensor of its own memory."""
    import torch  # only where tensors are measured: the log path reads series without it

    return torch.from_numpy(np.array(array, np.float64))


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts "layers.10" after "layers.2".

    >>> sorted(["layers.10", "layers.2"], key=natural_order)
    ['layers.2', 'layers.10']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def subject(needs: Sequence[str], of: str, split: str) -> str:
    """Return what is measured, in the words of the series' name."""
    if "matrix" in needs:
        named = {"end_to_end": "end_to_end: logits on recorded examples", "features": f"features: {split}"}
        return named.get(of, of)
    return ", ".join(need if need == "weights" else f"{need}: {split}" for need in needs if need != "labels")


def name_of(quantity: Callable[..., Any]) -> str:
    """Return the name of a quantity, also where some of its arguments are fixed by functools.partial."""
    return name_of(quantity.func) if isinstance(quantity, partial) else str(getattr(quantity, "__name__", quantity))


def missing(trajectory: Trajectory, quantity: Callable[..., Any], required: set[str]) -> str:
    """Say why no snapshot can be measured."""
    if not trajectory.snapshots:
        return f"{trajectory.source.path} holds no snapshots, which {name_of(quantity)} is measured of; record some"
    held = sorted({name for snapshot in trajectory.snapshots for name in snapshot.tensors})
    absent = [name for name in sorted(required) if name not in held] or sorted(required)
    return f"no snapshot holds {' and '.join(absent)}, which {name_of(quantity)} needs; recorded are {', '.join(held)}"
