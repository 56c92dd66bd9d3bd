"""This file knows how checkpoints lie on disk, and how one is read without running anything that is in it.

A checkpoint is a file of `torch.save` (`.pt .pth .ckpt .bin`), a safetensors file, the shards that an index names, or a
folder that holds one of these, as Hugging Face's `checkpoint-100` does. Files of torch are read with `weights_only=True`
and, where they can be, mapped into memory: what is not looked at is not read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from twoclocks.errors import InputError
from twoclocks.store import MANIFEST, told

TORCH_SUFFIXES, SAFETENSORS, INDEX = (".pt", ".pth", ".ckpt", ".bin", ".pth.tar"), ".safetensors", ".index.json"
USUAL_FILES = ("model.safetensors", "pytorch_model.bin", "model.pt", "pytorch_model.pt")
STATE_ENTRIES = ("state_dict", "model_state_dict", "model", "module", "net")
STEP_ENTRIES, EPOCH_ENTRIES = ("global_step", "step", "iteration", "iter"), ("epoch",)
BESIDE_WEIGHTS = re.compile(
    r"((lr_?)?sched(uler)?|(grad_?)?scaler|optim(i[sz]er)?|rng_state|random_states?|training_args|sampler)([-_.\d]|$)"
    r"|.*optim_states",
    re.IGNORECASE,
)
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
HISTORY = "trainer_state.json"
ZIP = b"PK\x03\x04"
SMALL_FILE, SAMPLES, SAMPLE = 1 << 20, 64, 1 << 12


@dataclass(frozen=True)
class Entry:
    """One checkpoint on disk: what it is called in its folder, its file of weights, and its folder if it has its own."""

    name: str
    path: Path
    folder: Path | None = None

    @property
    def stem(self) -> str:
        """Return the name without what says the kind of file."""
        return stem_of(self.name)

    @property
    def is_index(self) -> bool:
        """Return whether the weights lie in shards which the file names."""
        return self.path.name.endswith(INDEX)


@dataclass(frozen=True)
class Contents:
    """What one checkpoint holds: tensors by name, the entry they were under, and the step and epoch that it states."""

    tensors: Mapping[str, Tensor]
    entry: str | None = None
    step: int | None = None
    epoch: int | None = None


class Unreadable(Exception):
    """Why a file is no checkpoint that can be read safely, in a few words that can follow its name."""


def entries_of(folder: Path) -> tuple[list[Entry], list[str]]:
    """Return the checkpoints of a folder in natural order, and what of it was left out.

    Raises:
        InputError: it is no folder, holds no checkpoints, is a run folder, or torch.distributed.checkpoint wrote it.
    """
    with told(f"read the folder {folder}"):
        check_folder(folder)
        paths = list(folder.iterdir())
        found = [entry for path in paths if (entry := entry_of(path)) is not None]
        others = [Entry(path.name, path) for path in paths if is_beside_weights(path)]
    found, linked = without_links(without_shards(found))
    found, beside = without_files_beside_folders(found)
    if not found:
        kinds = ", ".join(f"*{suffix}" for suffix in (*TORCH_SUFFIXES, SAFETENSORS))
        raise InputError(
            f"{folder} holds no checkpoints; expected {kinds}, or folders such as checkpoint-100 with model.safetensors"
        )
    reasons = ((linked, "links to others"), (beside, "beside the folders"), (others, "not weights, by their names"))
    return in_natural_order(found), [note for entries, why in reasons for note in left_out(entries, why)]


def check_folder(folder: Path) -> None:
    """Refuse what is no folder of checkpoints, with the way that leads on."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; give the folder that holds the checkpoints")
    if (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is a run folder already; `twoclocks diagnose {folder}` reads it")
    check_not_distributed(folder)


def check_not_distributed(folder: Path) -> None:
    """Refuse a folder of torch.distributed.checkpoint, whose index is a pickle."""
    if (folder / ".metadata").is_file() or next(folder.glob("*.distcp"), None) is not None:
        raise InputError(
            f"{folder} was written by torch.distributed.checkpoint, whose index cannot be read without running code; "
            f"convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} {folder.name}.pt"
        )


def entry_of(path: Path) -> Entry | None:
    """Return the checkpoint that a file or folder is, or None where it is none."""
    if path.name.startswith("."):
        return None
    if path.is_dir():
        return entry_of_folder(path)
    return Entry(path.name, path) if holds_weights(path) else None


def entry_of_folder(folder: Path) -> Entry | None:
    """Return the checkpoint that a folder of its own holds: its index, its one file of weights, or the usual one."""
    check_not_distributed(folder)
    if (folder / MANIFEST).exists():
        return None
    files = [path for path in folder.iterdir() if not path.name.startswith(".") and holds_weights(path)]
    indices = sorted(path for path in files if path.name.endswith(INDEX))
    usual = [folder / name for name in USUAL_FILES if folder / name in files]
    whole = [path for path in files if not path.name.endswith(INDEX) and not SHARD.search(stem_of(path.name))]
    chosen = [*usual, *indices[::-1], *(whole if len(whole) == 1 else [])]  # of two indices, that of safetensors
    return Entry(folder.name, chosen[0], folder) if chosen else None


def holds_weights(path: Path) -> bool:
    """Return whether a file may hold weights, by its name: optimisers, schedulers and the like lie beside them."""
    kinds = (*TORCH_SUFFIXES, SAFETENSORS, *(f"{suffix}{INDEX}" for suffix in (*TORCH_SUFFIXES, SAFETENSORS)))
    return path.name.endswith(kinds) and not BESIDE_WEIGHTS.match(path.name) and path.is_file()


def is_beside_weights(path: Path) -> bool:
    """Return whether a file is of a kind that holds weights but is named after what lies beside them."""
    return path.name.endswith((*TORCH_SUFFIXES, SAFETENSORS)) and bool(BESIDE_WEIGHTS.match(path.name))


def without_shards(entries: Sequence[Entry]) -> list[Entry]:
    """Leave out the shards of which an index is there too."""
    indexed = {entry.stem for entry in entries if entry.is_index}
    return [entry for entry in entries if SHARD.sub("", entry.stem) not in indexed or not SHARD.search(entry.stem)]


def without_links(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Leave out names, such as `latest.pt`, that are links to other checkpoints of the folder."""
    real = {entry.folder or entry.path for entry in entries if not (entry.folder or entry.path).is_symlink()}
    targets = {path.resolve() for path in real}
    linked = [e for e in entries if (e.folder or e.path) not in real and (e.folder or e.path).resolve() in targets]
    return [entry for entry in entries if entry not in linked], linked


def without_files_beside_folders(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Where there are folders `checkpoint-100`, leave out the final weights that Hugging Face writes beside them."""
    folders = [entry for entry in entries if entry.folder is not None]
    final = [entry for entry in entries if entry.folder is None and entry.stem in ("model", "pytorch_model")]
    return ([entry for entry in entries if entry not in final], final) if folders else (list(entries), [])


def left_out(entries: Sequence[Entry], why: str) -> list[str]:
    """Return in words what was left out and why."""
    return [f"{', '.join(e.name for e in in_natural_order(entries))}: left out ({why})"] if entries else []


def in_natural_order(entries: Iterable[Entry]) -> list[Entry]:
    """Sort by name, numbers in it as numbers."""
    return sorted(entries, key=lambda entry: natural(entry.name))


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts the numbers in a name as numbers.

    >>> sorted(["step_100", "step_20", "step_3"], key=natural)
    ['step_3', 'step_20', 'step_100']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def stem_of(name: str) -> str:
    """Return a name without what says the kind of file.

    >>> stem_of("model.safetensors.index.json"), stem_of("epoch=3-step=400.ckpt"), stem_of("checkpoint-100")
    ('model', 'epoch=3-step=400', 'checkpoint-100')
    """
    name = name.removesuffix(INDEX)
    return name.removesuffix(next((s for s in (*TORCH_SUFFIXES, SAFETENSORS) if name.endswith(s)), ""))


def read_contents(entry: Entry) -> Contents:
    """Read what one checkpoint holds; its tensors are read from the disk when they are first used.

    Raises:
        Unreadable: it is damaged, is no checkpoint, or could be read only by running code that is in it.
    """
    try:
        contents = merged_shards(entry) if entry.is_index else contents_of_file(entry.path)
    except OSError as error:
        raise Unreadable(f"cannot be opened ({os.strerror(error.errno or errno.EIO).lower()})") from None
    if contents.step is None and entry.folder is not None:
        return replace(contents, step=step_of_history(entry.folder))
    return contents


def contents_of_file(path: Path) -> Contents:
    """Read one file of weights."""
    if path.stat().st_size == 0:
        raise Unreadable("is empty")
    if SHARD.search(stem_of(path.name)):
        raise Unreadable(f"is a shard without its index {SHARD.sub('', stem_of(path.name))}*{INDEX}")
    return contents_of_safetensors(path) if path.name.endswith(SAFETENSORS) else contents_of_torch(path)


def contents_of_safetensors(path: Path) -> Contents:
    """Read a safetensors file, and what its metadata say of the step."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            said = {name: whole_number(text) for name, text in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
    except SafetensorError as error:
        raise Unreadable(f"is truncated or damaged: {first_line(error)}") from None
    return Contents(tensors, None, first_of(said, STEP_ENTRIES), first_of(said, EPOCH_ENTRIES))


def contents_of_torch(path: Path) -> Contents:
    """Read a file of `torch.save`."""
    loaded = loaded_safely(path)
    if not isinstance(loaded, Mapping):
        raise Unreadable(f"holds a {type(loaded).__name__}, not a state dict")
    numbers = {name: whole_number(loaded.get(name)) for name in (*STEP_ENTRIES, *EPOCH_ENTRIES)}
    entry, tensors = state_in(loaded)
    if not tensors:
        held = ", ".join(map(str, list(loaded)[:5])) or "nothing"
        raise Unreadable(f"holds no weights by name or under {' or '.join(STATE_ENTRIES)}, only {held}")
    return Contents(tensors, entry, first_of(numbers, STEP_ENTRIES), first_of(numbers, EPOCH_ENTRIES))


def loaded_safely(path: Path) -> Any:
    """Return what a file of `torch.save` holds; it runs no code, and tensors of any device come to the CPU."""
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise Unreadable(words_of_refusal(str(error))) from None
    except Exception as error:  # damaged bytes give errors of every kind, a KeyError and an EOFError among them
        if "TorchScript" in str(error):
            raise Unreadable("is a TorchScript archive; save its state_dict instead") from None
        raise Unreadable("is truncated, damaged or not a file of torch.save") from None


def words_of_refusal(told: str) -> str:
    """Return in words why torch would not unpickle a file.

    >>> words_of_refusal("Trying to load unsupported GLOBAL posix.system whose module posix is blocked.")
    'holds a pickled posix.system, and reading that could run code (save the state_dict alone, or ...)'
    """
    named = re.search(r"GLOBAL ([\w.]+)", told)
    if named is None:
        return "was not written by torch.save, or is damaged; no plain pickle is read, since that could run code"
    return (
        f"holds a pickled {named[1]}, and reading that could run code (save the state_dict alone, or allow what you trust "
        "by torch.serialization.add_safe_globals in the file of the model function)"
    )


def state_in(loaded: Mapping[Any, Any]) -> tuple[str | None, dict[str, Tensor]]:
    """Return the entry under which the weights lie (None: none) and the weights."""
    for name in STATE_ENTRIES:
        inner = loaded.get(name)
        if isinstance(inner, Mapping):
            deeper, tensors = state_in(inner)
            if tensors:
                return f"{name}.{deeper}" if deeper else name, tensors
    return None, {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}


def merged_shards(entry: Entry) -> Contents:
    """Read the tensors of all shards that an index names."""
    shards = shards_of(entry.path)
    tensors: dict[str, Tensor] = {}
    for shard in dict.fromkeys(shards.values()):
        path = entry.path.parent / shard
        if not path.is_file():
            raise Unreadable(f"lacks its shard {shard}")
        try:
            tensors |= (contents_of_safetensors if shard.endswith(SAFETENSORS) else contents_of_torch)(path).tensors
        except Unreadable as error:
            raise Unreadable(f"has a shard {shard} that {error}") from None
    lacking = [name for name in shards if name not in tensors]
    if lacking:
        raise Unreadable(f"lacks {lacking[0]}, which its index promises")
    return Contents({name: tensors[name] for name in shards})


def shards_of(index: Path) -> dict[str, str]:
    """Return which shard, a file beside the index, holds each tensor."""
    try:
        shards = dict(json.loads(index.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError):
        raise Unreadable(f"has a damaged index {index.name}") from None
    outside = [shard for shard in shards.values() if not isinstance(shard, str) or Path(shard).name != shard]
    if outside or not shards:
        raise Unreadable(f"has an index {index.name} that names no files beside it")
    return shards


def step_of_history(folder: Path) -> int | None:
    """Return the step that Hugging Face's trainer states in a checkpoint folder."""
    return whole_number(read_history(folder).get("global_step"))


def read_history(folder: Path) -> Mapping[str, Any]:
    """Return the trainer's state of a checkpoint folder; empty where there is none that can be read."""
    try:
        state = json.loads((folder / HISTORY).read_bytes())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def whole_number(value: Any) -> int | None:
    """Return a count as a whole number, also out of a tensor or a text; None where it is none.

    >>> whole_number("400"), whole_number(400.0), whole_number(torch.tensor(400)), whole_number(0.5), whole_number(True)
    (400, 400, 400, None, None)
    """
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**63 and value == int(value):
        return int(value)
    return None


def first_of(numbers: Mapping[str, int | None], names: Sequence[str]) -> int | None:
    """Return the first of some numbers that is known."""
    return next((number for name in names if (number := numbers.get(name)) is not None), None)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def fingerprint(entry: Entry) -> str:
    """Return a hash of a checkpoint's bytes: of all of them to 1 MiB a file, beyond that of 64 pieces spread over it.

    Training changes weights everywhere, so that pieces tell two states apart; copying changes no byte.
    """
    digest = hashlib.sha256()
    for path in files_of(entry):
        for piece in pieces_of(path):
            digest.update(piece)
    return digest.hexdigest()[:16]


def files_of(entry: Entry) -> list[Path]:
    """Return all files that hold a checkpoint's weights."""
    shards = sorted(set(shards_of(entry.path).values())) if entry.is_index else []
    return [entry.path, *(entry.path.parent / shard for shard in shards)]


def pieces_of(path: Path) -> Iterator[bytes]:
    """Return the pieces of a file that stand for it, its size first."""
    size = path.stat().st_size
    yield str(size).encode()
    with path.open("rb") as file:
        if size <= SMALL_FILE:
            yield file.read()
            return
        for piece in range(SAMPLES):
            file.seek(piece * (size - SAMPLE) // (SAMPLES - 1))
            yield file.read(SAMPLE)
