"""This file knows how the weights of a checkpoint are put into a model: under which names, and whether all of them fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from twoclocks.errors import InputError

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
MOST_STRIPPED = 4
COMPILED = "_orig_mod."
SOME = 5
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Renaming:
    """How the names in a checkpoint become those of the model: prefixes stripped, one put in front, and what it is in words."""

    stripped: tuple[str, ...] = ()
    added: str = ""
    compiled: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """Return in words what was assumed of the names."""
        stripped = [*self.stripped, *([COMPILED] if self.compiled else [])]
        first = [f"the prefix {''.join(stripped)!r} of the weights' names is stripped"] if stripped else []
        return (*first, *([f"the weights are those of the model's part {self.added[:-1]!r}"] if self.added else []))

    def of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under the model's names."""
        renamed = dict(tensors)
        for prefix in self.stripped:
            renamed = {name.removeprefix(prefix): value for name, value in renamed.items()}
        if self.compiled:
            renamed = {name.replace(COMPILED, ""): value for name, value in renamed.items()}
        return {f"{self.added}{name}": value for name, value in renamed.items()}


@dataclass(frozen=True)
class Misfit:
    """What keeps weights out of a model: names it lacks, names it does not know, other shapes (theirs, the model's)."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Return how many names do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    @property
    def words(self) -> str:
        """Return the counts and at most five names of each kind.

        >>> Misfit(("fc.bias",), (), ("fc.weight is [3, 4] there and [2, 4] in the model",)).words
        '1 missing (fc.bias), 1 of another shape (fc.weight is [3, 4] there and [2, 4] in the model)'
        """
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.reshaped))
        return ", ".join(f"{len(names)} {kind} ({shortened(names)})" for kind, names in kinds if names)


def renaming_for(model: nn.Module, tensors: Mapping[str, Tensor], name: str) -> Renaming:
    """Return the plainest renaming with which all weights of a checkpoint fit the model, and leave them in the model.

    Raises:
        InputError: none does; the sentence tells of the one that comes nearest.
    """
    nearest: Misfit | None = None
    for renaming in renamings(model, tensors):
        renamed = renaming.of(tensors)
        if len(renamed) < len(tensors):
            continue  # two names became one
        misfit = misfit_of(model, renamed)
        if misfit.size == 0:
            return renaming
        nearest = misfit if nearest is None or misfit.size < nearest.size else nearest
    assert nearest is not None
    raise InputError(
        f"{name} does not fit the model {type(model).__name__}: {nearest.words}; give the function that builds the model "
        "of which these checkpoints were saved"
    )


def renamings(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[Renaming]:
    """Return the renamings to try, the plainest first: none, prefixes that wrappers put in front, a wrapper of the user's."""
    names, found = list(tensors), [Renaming()]
    while len(found) <= MOST_STRIPPED:
        prefix = next((known for known in PREFIXES if any(name.startswith(known) for name in names)), None)
        if prefix is None:
            break
        names = [name.removeprefix(prefix) for name in names]
        found.append(Renaming((*found[-1].stripped, prefix)))
    yield from found
    if any(COMPILED in name for name in names):
        yield Renaming(found[-1].stripped, compiled=True)
    children = {name.split(".")[0] for name in model.state_dict()}
    if len(children) == 1:
        wrapper = f"{children.pop()}."
        yield from (replace(renaming, added=wrapper) for renaming in found)


def misfit_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> Misfit:
    """Put weights into the model as far as they fit, and return what does not.

    One name of a tensor that the model uses twice is enough, and torch itself forgives a counter of batches left out.
    """
    wanted = shapes_of(model)
    reshaped = tuple(
        f"{name} is {list(value.shape)} there and {list(wanted[name])} in the model"
        for name, value in tensors.items()
        if name in wanted and not same_shape(value, wanted[name])
    )
    if reshaped:
        missing, unexpected = [n for n in wanted if n not in tensors], [n for n in tensors if n not in wanted]
    else:
        result = model.load_state_dict(dict(tensors), strict=False)
        missing, unexpected = list(result.missing_keys), list(result.unexpected_keys)
    shared = {name for names in shared_names(model) if any(n in tensors for n in names) for name in names}
    return Misfit(tuple(name for name in missing if name not in shared), tuple(unexpected), reshaped)


def put_into(model: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Put the weights of a checkpoint, under the model's names, into the model, whose type of numbers they take on.

    Raises:
        InputError: they do not fit, or the model holds once what the checkpoint holds as two different tensors.
    """
    misfit = misfit_of(model, tensors)
    if misfit.size:
        raise InputError(f"{name} does not fit the model {type(model).__name__}: {misfit.words}")
    for names in shared_names(model):
        held = [n for n in names if n in tensors]
        for other in held[1:]:
            if not equal(tensors[held[0]], tensors[other]):
                raise InputError(
                    f"{name} holds {held[0]} and {other} with different values, and the model has one tensor for both; "
                    "build the model without that tie"
                )


def equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same, NaN being equal to NaN."""
    return one.data_ptr() == other.data_ptr() or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def shapes_of(model: nn.Module) -> Shapes:
    """Return the shape of everything that a checkpoint of the model holds."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def same_shape(value: Tensor, wanted: tuple[int, ...]) -> bool:
    """Return whether a tensor has a shape; torch takes a vector of one for a number."""
    return tuple(value.shape) == wanted or (tuple(value.shape) == (1,) and wanted == ())


def shared_names(model: nn.Module) -> list[list[str]]:
    """Return the groups of names under which the model holds one and the same tensor, as tied weights do."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.numel():
            groups.setdefault((value.data_ptr(), value.shape, value.stride()), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def plain_model(built: Any) -> tuple[nn.Module, list[str]]:
    """Return a model ready to take weights on the device it was built on, in float32 or float64, and what was assumed.

    Raises:
        InputError: it is no module, or its weights lie on the meta device, where nothing can be computed.
    """
    notes = []
    if not isinstance(built, nn.Module):
        raise InputError(f"the model function must return a torch.nn.Module, got {type(built).__name__}")
    while isinstance(inner := getattr(built, "_orig_mod", None), nn.Module):
        built = inner  # what torch.compile wrapped: compiling would cost more than the evaluations
    kinds = {tensor.dtype for tensor in built.state_dict().values() if isinstance(tensor, Tensor)}
    if any(tensor.is_meta for tensor in (*built.parameters(), *built.buffers())):
        raise InputError("the model function builds on the meta device, without weights; build the model on the CPU")
    if small := sorted(str(kind).removeprefix("torch.") for kind in kinds if is_small(kind)):
        built = built.float()
        notes.append(f"the model is built in {' and '.join(small)} and evaluated in float32")
    return built, notes


def is_small(kind: torch.dtype) -> bool:
    """Return whether numbers of a type are floating and shorter than float32."""
    return kind.is_floating_point and kind.itemsize < 4


def rounding_words(kinds: Sequence[torch.dtype], model: nn.Module) -> list[str]:
    """Return what is to be said of checkpoints in other types of numbers than the model."""
    own = {parameter.dtype for parameter in model.parameters()}
    small = sorted({str(kind).removeprefix("torch.") for kind in kinds if is_small(kind)})
    notes = [f"checkpoints in {' and '.join(small)} are evaluated in float32"] if small else []
    if torch.float64 in kinds and torch.float64 not in own:
        notes.append(
            "checkpoints in float64 are rounded to float32, as the model is built; build it in float64 to keep them"
        )
    return notes


def shortened(names: Sequence[str]) -> str:
    """Return at most five names."""
    return ", ".join(names[:SOME]) + (", …" if len(names) > SOME else "")
