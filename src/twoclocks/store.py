"""This file knows how a training lies on disk: the run folder, written by one process while others read it.

    runs/<name>/
    ├── run.json            schema version, what is recorded, resolved settings, versions, seeds
    ├── events.jsonl        append-only journal: one record a line, one write() a record
    ├── eval.safetensors    labels of the evaluation batches
    ├── snapshots/          step-000001500.safetensors, run axis first
    ├── state/              the training state to resume from
    └── analysis/           derived, deletable

A record is acknowledged when `append` returns; from then on no kill loses it. A torn last line is ignored by readers and
cut off by the next writer. Every other file is replaced whole (temporary file, then rename), so readers see old or new.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors

from twoclocks.errors import InputError
from twoclocks.trajectory import CANONICAL_UNITS, Array, EvalBatch, Event, Series, Snapshot, Source, Trajectory

SCHEMA = 1
MANIFEST, JOURNAL, BATCHES, LOCK = "run.json", "events.jsonl", "eval.safetensors", "writer.lock"
NON_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
# Only these may differ when a run is taken up again: they describe the machine of the day, not what is trained.
NOT_IDENTITY = ("created", "versions", "machine")


@dataclass(frozen=True)
class RunWriter:
    """The one process that may write to a run folder. Made by `open_writer`; close it when done."""

    folder: Path
    journal: int
    lock: int

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record to the journal; when this returns, no kill of this process loses it."""
        line = encode_record(record) + b"\n"
        size = os.lseek(self.journal, 0, os.SEEK_END)
        with told(f"append to {self.folder / JOURNAL}"):
            written = os.write(self.journal, line)
            if written < len(line):  # a full disk takes a part of the line; the rest would join the next record
                os.ftruncate(self.journal, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def append_scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Append the scalars of one step: each value is one number, or one number a run."""
        vectors = {name: np.atleast_1d(np.asarray(value, dtype=np.float64)).tolist() for name, value in values.items()}
        self.append({"record": "scalars", "step": int(step), "values": vectors})

    def append_event(self, step: int | None, what: str) -> None:
        """Append something worth telling that happened at a step."""
        self.append({"record": "event", "step": step, "what": what})

    def write_batches(self, batches: Mapping[str, EvalBatch]) -> None:
        """Write the labels of the evaluation batches, once, before the first snapshot."""
        tensors = {f"labels/{name}": np.asarray(batch.labels, np.int64) for name, batch in batches.items()}
        sizes = {name: str(batch.population) for name, batch in batches.items()}
        replace_file(self.folder / BATCHES, save_tensors(tensors, metadata=sizes))

    def write_snapshot(self, step: int, tensors: Mapping[str, Array], flow_time: float | None = None) -> None:
        """Write the tensors of one moment, whole or not at all."""
        metadata = {"step": str(step)} | ({} if flow_time is None else {"flow_time": repr(flow_time)})
        content = save_tensors({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata=metadata)
        replace_file(self.folder / "snapshots" / f"step-{step:09d}.safetensors", content)

    def write_state(self, step: int, tensors: Mapping[str, Array]) -> None:
        """Replace the state to resume from (weights, optimiser moments, generator state) by that of `step`."""
        content = save_tensors({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata={"step": str(step)})
        replace_file(self.folder / "state" / "latest.safetensors", content)

    def close(self) -> None:
        """Flush the journal to the disk and let go of the folder."""
        os.fsync(self.journal)
        os.close(self.journal)
        os.close(self.lock)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class LazyTensors(Mapping[str, Array]):
    """The tensors of one safetensors file, each read when it is asked for."""

    path: Path
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> Array:
        if name not in self.names:
            raise KeyError(name)
        with opened_tensors(self.path) as file:
            tensor: Array = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class State:
    """A training state: the step it was taken after, and its tensors."""

    step: int
    tensors: Mapping[str, Array]


def open_writer(folder: Path, manifest: Mapping[str, Any]) -> RunWriter:
    """Make `folder` a run folder described by `manifest`, or take up the run it holds, as its only writer.

    Raises:
        InputError: the folder holds another run or other files, another process writes to it, or it cannot be written.
    """
    with told(f"make the run folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
        try:
            claim_folder(folder, manifest)
            for part in ("snapshots", "state", "analysis"):
                (folder / part).mkdir(exist_ok=True)
            journal = os.open(folder / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            cut_torn_line(journal)
        except BaseException:
            os.close(lock)
            raise
    return RunWriter(folder, journal, lock)


def load(folder: str | Path) -> Trajectory:
    """Read a run folder, also one that is being written: scalars at once, tensors when they are asked for.

    Raises:
        InputError: it is not a run folder, it was written by another schema version, or a file in it is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    scalars, events, rows = read_journal(folder / JOURNAL)
    return Trajectory(
        source=Source(str(folder), "run folder", rows),
        scalars=scalars,
        snapshots=tuple(read_snapshot(path) for path in sorted((folder / "snapshots").glob("step-*.safetensors"))),
        batches=read_batches(folder / BATCHES),
        events=tuple(events),
        settings={key: value for key, value in manifest.items() if key != "schema"},
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read run.json and check that this version can read the folder."""
    path = folder / MANIFEST
    if not folder.exists():
        raise InputError(f"{folder} does not exist; give a run folder or a log file")
    if not path.is_file():
        raise InputError(f"{folder} is not a run folder: it has no {MANIFEST}; name the folder that a recorder or `twoclocks run` wrote")
    try:
        manifest = json.loads(path.read_bytes())
        schema = manifest["schema"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged: expected a JSON object with a schema version; restore it from a copy") from None
    if schema != SCHEMA:
        raise InputError(f"{folder} has schema version {schema!r}, this twoclocks reads {SCHEMA}; install the version that wrote it")
    return dict(manifest)


def read_state(folder: Path) -> State | None:
    """Read the latest training state of a run folder; None where none was written yet."""
    path = folder / "state" / "latest.safetensors"
    if not path.is_file():
        return None
    with opened_tensors(path) as file:
        return State(int(file.metadata()["step"]), {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def read_journal(path: Path) -> tuple[dict[str, Series], list[Event], int]:
    """Read the journal: one series a scalar, the events, and the number of records.

    A step written twice (by a run that was resumed) counts once: the last record of it holds.
    """
    table: dict[str, dict[int, list[float]]] = {}
    events: list[Event] = []
    records = read_records(path)
    for record in records:
        if record["record"] == "scalars":
            for name, values in record["values"].items():
                table.setdefault(name, {})[record["step"]] = [NON_FINITE.get(v, v) for v in values]
        elif record["record"] == "event":
            event = Event(record["step"], record["what"])
            if event not in events:
                events.append(event)
    return {name: as_series(name, column) for name, column in table.items()}, events, len(records)


def as_series(name: str, column: Mapping[int, list[float]]) -> Series:
    """Return one series from {step: one value a run}."""
    steps = sorted(column)
    value = np.array([column[step] for step in steps], dtype=np.float64).T
    return Series(name, CANONICAL_UNITS.get(name, ""), np.array(steps, dtype=np.int64), value)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read every whole record of a journal; what follows the last newline was never acknowledged."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    decoder = msgspec.json.Decoder(dict[str, Any])
    try:
        return [decoder.decode(line) for line in lines]
    except msgspec.DecodeError:
        number = next(i for i, line in enumerate(lines, 1) if not is_json(line))
        raise InputError(f"{path} is damaged in line {number}: expected one JSON record; delete that line to go on without it") from None


def read_snapshot(path: Path) -> Snapshot:
    """Read the names and the time of one snapshot, not yet its tensors."""
    with opened_tensors(path) as file:
        metadata, names = file.metadata() or {}, tuple(file.keys())
    flow_time = metadata.get("flow_time")
    return Snapshot(int(metadata["step"]), None if flow_time is None else float(flow_time), LazyTensors(path, names))


def read_batches(path: Path) -> dict[str, EvalBatch]:
    """Read the labels of the evaluation batches, where a run has any."""
    if not path.is_file():
        return {}
    with opened_tensors(path) as file:
        return {
            name: EvalBatch(name, file.get_tensor(f"labels/{name}"), int(population))
            for name, population in sorted(file.metadata().items())
        }


def opened_tensors(path: Path) -> Any:
    """Open a safetensors file for reading, refusing a truncated or foreign one in one sentence."""
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it to go on without that moment") from None


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Encode a record as one line of JSON, with NaN and infinities as the strings "NaN", "Infinity", "-Infinity"."""
    return msgspec.json.encode(tag_non_finite(record))


def tag_non_finite(value: Any) -> Any:
    """Replace every NaN and infinity by its name, at any depth."""
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {key: tag_non_finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tag_non_finite(item) for item in value]
    return value


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with told(f"write {path}"):
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def lock_folder(folder: Path) -> int:
    """Take the folder's lock, which the system lets go of when this process ends, however it ends."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InputError(f"{folder} is being written by another process; wait for it, or choose another folder") from None
    return lock


def claim_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write run.json into an empty folder, or check that the folder holds this very run."""
    wanted = json.loads(encode_record({"schema": SCHEMA, **manifest}))
    if (folder / MANIFEST).exists():
        held = read_manifest(folder)
        differing = [k for k in sorted({*held, *wanted} - {*NOT_IDENTITY}) if held.get(k) != wanted.get(k)]
        if differing:
            raise InputError(
                f"{folder} holds another run (it differs in: {', '.join(differing)}); choose another folder or delete this one"
            )
        return
    foreign = [p.name for p in folder.iterdir() if p.name != LOCK and not p.name.startswith(f".{MANIFEST}.")]
    if foreign:
        raise InputError(f"{folder} is not empty and not a run folder (it holds {foreign[0]}); choose another folder")
    replace_file(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(wanted)) + b"\n")


def cut_torn_line(journal: int) -> None:
    """Cut off what follows the last newline: a record that a killed writer never finished."""
    size = os.lseek(journal, 0, os.SEEK_END)
    os.lseek(journal, 0, os.SEEK_SET)
    with os.fdopen(os.dup(journal), "rb") as file:
        whole = file.read().rfind(b"\n") + 1
    if whole < size:
        os.ftruncate(journal, whole)


def is_json(line: bytes) -> bool:
    """Return whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


@dataclass(frozen=True)
class told:
    """Turn an error of the operating system into one sentence that says what could not be done and what to do."""

    deed: str

    REMEDIES = {  # noqa: RUF012 a constant table, not a field
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
        errno.EROFS: "it is on a read-only file system; choose a folder that can be written",
        errno.EACCES: "permission is denied; choose a folder that can be written",
        errno.EPERM: "permission is denied; choose a folder that can be written",
        errno.ENOTDIR: "a part of that path is a file; choose another folder",
        errno.EEXIST: "a file of that name is in the way; choose another folder",
    }

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            remedy = self.REMEDIES.get(error.errno or 0, f"{os.strerror(error.errno or errno.EIO).lower()}")
            raise InputError(f"cannot {self.deed}: {remedy}") from None


