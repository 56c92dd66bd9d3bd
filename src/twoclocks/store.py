"""This file knows how a training lies on disk: the run folder, written by one process while others read it.

    runs/<name>/
    ├── run.json            schema version, what is recorded, resolved settings, versions, seeds
    ├── events.jsonl        append-only journal: one record a line, one write() a record
    ├── eval.safetensors    labels of the evaluation batches
    ├── snapshots/          step-000001500.safetensors, run axis first
    ├── state/              the training state to resume from
    ├── analysis/           derived, deletable
    └── writer.lock         empty; locked while a process writes

A record is acknowledged when `append` returns; from then on no kill loses it. A torn last line is ignored by readers
and cut off by the next writer. Every other file is replaced whole (temporary file, rename): readers see old or new.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors

from twoclocks.errors import InputError
from twoclocks.trajectory import CANONICAL_UNITS, Array, EvalBatch, Event, Series, Snapshot, Source, Trajectory

SCHEMA = 1
SAID = "twoclocks"  # the one entry of a tensor file's metadata
MANIFEST, JOURNAL, BATCHES, LOCK = "run.json", "events.jsonl", "eval.safetensors", "writer.lock"
BLOCK = 1 << 16
# Only these may differ when a run is taken up again: they describe one start of it, or are words about it.
NOT_IDENTITY = ("created", "versions", "machine", "session", "title", "reference", "expected")
MOST_DIFFERENCES, LONGEST_VALUE = 3, 40
ACCOUNTS = ("cost", "polish")  # records of which the last one holds, found again in a trajectory's settings


@dataclass(frozen=True)
class RunWriter:
    """The one process that may write to a run folder. Made by `open_writer`; close it when done."""

    folder: Path
    journal: FileIO
    lock: FileIO

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record to the journal; when this returns, no kill of this process loses it."""
        line = encode_record(record) + b"\n"
        with told(f"append to {self.folder / JOURNAL}"):
            append_whole(self.journal, line)

    def append_scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Append the scalars of one step: each value is one number, or one number a run."""
        vectors = {name: as_vector(name, value) for name, value in values.items()}
        self.append({"record": "scalars", "step": check_step(step), "values": vectors})

    def append_event(self, step: int | None, what: str) -> None:
        """Append something worth telling that happened at a step."""
        self.append({"record": "event", "step": step, "what": what})

    def append_restart(self, step: int) -> None:
        """Append that the training went on from before `step`: what was recorded from there on no longer counts."""
        self.append({"record": "restart", "step": check_step(step)})

    def write_batches(self, batches: Mapping[str, EvalBatch]) -> None:
        """Write the labels of the evaluation batches, once, before the first snapshot."""
        tensors = {f"labels/{name}": np.asarray(batch.labels, np.int64) for name, batch in batches.items()}
        populations = {name: batch.population for name, batch in batches.items()}
        replace_file(self.folder / BATCHES, encode_tensors(tensors, {"populations": populations}))

    def write_snapshot(
        self, step: int, tensors: Mapping[str, Array], flow_time: float | None = None, restarts: int = 0
    ) -> None:
        """Write the tensors of one moment, whole or not at all, after so many restarts in the journal."""
        step = check_step(step)
        moment = {"step": step, "flow_time": None if flow_time is None else float(flow_time)}
        moment |= {"restarts": restarts} if restarts else {}
        replace_file(self.folder / "snapshots" / f"step-{step:09d}.safetensors", encode_tensors(tensors, moment))

    def write_state(self, step: int, tensors: Mapping[str, Array]) -> None:
        """Replace the state to resume from (weights, optimiser moments, generator state) by that of `step`."""
        content = encode_tensors(tensors, {"step": check_step(step)})
        replace_file(self.folder / "state" / "latest.safetensors", content)

    def close(self) -> None:
        """Flush the journal to the disk and let go of the folder; a second call does nothing."""
        if self.journal.closed:
            return
        with told(f"flush {self.folder / JOURNAL}"):
            try:
                os.fsync(self.journal.fileno())
            finally:
                self.journal.close()
                self.lock.close()

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


class Record(msgspec.Struct):
    """One line of the journal: `scalars` fill step and values, an `event` step and what, a `restart` step.

    `cost` and `polish` have entries of their own.
    """

    record: str
    step: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    values: dict[str, list[float | str]] = {}
    what: str = ""

    def __post_init__(self) -> None:
        if self.record in ("scalars", "restart") and self.step is None:
            raise ValueError(f"{self.record}: a step is missing")


@dataclass(frozen=True)
class Journal:
    """What a journal tells: series, events, the steps of its restarts, the last records of cost and polish, its length."""

    scalars: Mapping[str, Series]
    events: tuple[Event, ...]
    restarts: tuple[int, ...]
    accounts: Mapping[str, Mapping[str, Any]]
    rows: int

    @property
    def cost(self) -> Mapping[str, Any]:
        """Return what recording cost, empty where the journal does not say."""
        return self.accounts.get("cost", {})


def open_writer(folder: Path, manifest: Mapping[str, Any]) -> RunWriter:
    """Make `folder` a run folder described by `manifest`, or take up the run it holds, as its only writer.

    Raises:
        InputError: the folder holds another run or other files, another process writes to it, or it cannot be written.
    """
    wanted = json.loads(encode_record({"schema": SCHEMA, **manifest}))
    with told(f"make the run folder {folder}"):
        check_claim(folder, wanted)  # before the lock too, so that a folder that is refused is left as it was
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
        try:
            check_claim(folder, wanted)
            return RunWriter(folder, prepare_folder(folder, wanted), lock)
        except BaseException:
            lock.close()
            raise


def load(folder: str | Path) -> Trajectory:
    """Read a run folder, also one that is being written: scalars at once, tensors when they are asked for.

    What a restart made obsolete is left out. What recording cost is in `settings["cost"]`, and the stationary point that
    the run was polished to in `settings["polish"]`, where the run says so.

    Raises:
        InputError: it is not a run folder, it was written by another schema version, or a file in it is damaged.
    """
    folder = Path(folder)
    with told(f"read the run folder {folder}"):
        manifest = read_manifest(folder)
        journal = read_journal(folder / JOURNAL)
        snapshots = read_snapshots(folder / "snapshots", journal.restarts)
        batches = read_batches(folder / BATCHES)
    settings = {key: value for key, value in manifest.items() if key != "schema"}
    assumed = (manifest.get("session") or {}).get("assumed", ())
    return Trajectory(
        source=Source(str(folder), "run folder", journal.rows, manifest.get("time", "step"), {}, tuple(assumed)),
        scalars=journal.scalars,
        snapshots=snapshots,
        batches=batches,
        events=journal.events,
        settings=settings | dict(journal.accounts),
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read run.json and check that this version can read the folder."""
    path = folder / MANIFEST
    if not folder.exists():
        raise InputError(f"{folder} does not exist; give a run folder or a log file")
    if not path.is_file():
        raise InputError(
            f"{folder} is not a run folder: it has no {MANIFEST}; name the folder of a recorder or of `twoclocks run`"
        )
    try:
        manifest = json.loads(path.read_bytes())
        schema = manifest["schema"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} is damaged: expected a JSON object with a schema version; restore it from a copy"
        ) from None
    if schema != SCHEMA:
        raise InputError(
            f"{folder} has schema version {schema!r}, this twoclocks reads {SCHEMA}; install the version that wrote it"
        )
    return dict(manifest)


def read_state(folder: Path) -> State | None:
    """Read the latest training state of a run folder; None where none was written yet."""
    path = folder / "state" / "latest.safetensors"
    if not path.is_file():
        return None
    with opened_tensors(path) as file:
        return State(about(file, path)["step"], {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def read_journal(path: Path) -> Journal:
    """Read the journal: one series a scalar, the events, the restarts, the accounts, the number of records.

    A step written twice (by a run that was resumed) counts once: the last record of it holds. A restart at a step drops
    the scalars recorded before it at that step and later ones. Records of a kind that is not known here are passed over.
    """
    table: dict[str, dict[Any, list[float | str]]] = {}
    events: dict[Event, None] = {}
    restarts: list[int] = []
    accounts: dict[str, Mapping[str, Any]] = {}
    lines, records = read_records(path)
    for line, record in zip(lines, records, strict=True):
        if record.record == "scalars":
            for name, values in record.values.items():
                table.setdefault(name, {})[record.step] = values
        elif record.record == "event":
            events[Event(record.step, record.what)] = None
        elif record.record == "restart" and record.step is not None:
            restarts.append(record.step)
            table = {name: before(record.step, column) for name, column in table.items()}
        elif record.record in ACCOUNTS:
            entries = msgspec.json.decode(line)
            accounts[record.record] = {name: value for name, value in entries.items() if name != "record"}
    scalars = {name: as_series(name, column, path) for name, column in table.items() if column}
    return Journal(scalars, tuple(events), tuple(restarts), accounts, len(records))


def before(step: int, column: Mapping[int, list[float | str]]) -> dict[int, list[float | str]]:
    """Return the part of a column of scalars that lies before a step."""
    return {known: values for known, values in column.items() if known < step}


def as_series(name: str, column: Mapping[int, list[float | str]], path: Path) -> Series:
    """Return one series from {step: one value a run}."""
    steps = sorted(column)
    try:  # numpy reads "NaN", "Infinity" and "-Infinity" as the numbers they name
        value = np.array([column[step] for step in steps], dtype=np.float64).T
    except ValueError:
        raise InputError(
            f"{path} is damaged: {name} should be one number a run, as many at every step; restore it from a copy"
        ) from None
    return Series(name, CANONICAL_UNITS.get(name, ""), np.array(steps, dtype=np.int64), value)


def read_records(path: Path) -> tuple[list[bytes], list[Record]]:
    """Read every whole line of a journal and its record; what follows the last newline was never acknowledged."""
    if not path.is_file():
        return [], []
    lines = path.read_bytes().split(b"\n")[:-1]
    decoder = msgspec.json.Decoder(Record)
    records: list[Record] = []
    try:
        for line in lines:
            records.append(decoder.decode(line))  # noqa: PERF401 its length is the number of the line that fails
    except ValueError:
        number = len(records) + 1
        raise InputError(
            f"{path} is damaged in line {number}: expected one JSON record; delete that line to go on without it"
        ) from None
    return lines, records


def read_snapshots(folder: Path, restarts: Sequence[int]) -> tuple[Snapshot, ...]:
    """Read the snapshots of a folder in their order, but for those that a later restart made obsolete."""
    found = (read_dated_snapshot(path) for path in folder.glob("step-*.safetensors"))
    valid = [snapshot for snapshot, seen in found if all(snapshot.step < step for step in restarts[seen:])]
    return tuple(sorted(valid, key=lambda snapshot: snapshot.step))


def read_snapshot(path: Path) -> Snapshot:
    """Read the names and the time of one snapshot, not yet its tensors."""
    return read_dated_snapshot(path)[0]


def read_dated_snapshot(path: Path) -> tuple[Snapshot, int]:
    """Read one snapshot, not yet its tensors, and how many restarts came before it was written."""
    with opened_tensors(path) as file:
        moment, names = about(file, path), tuple(file.keys())
    return Snapshot(moment["step"], moment.get("flow_time"), LazyTensors(path, names)), moment.get("restarts", 0)


def read_batches(path: Path) -> dict[str, EvalBatch]:
    """Read the labels of the evaluation batches, where a run has any."""
    if not path.is_file():
        return {}
    with opened_tensors(path) as file:
        return {
            name: EvalBatch(name, file.get_tensor(f"labels/{name}"), population)
            for name, population in sorted(about(file, path, "populations")["populations"].items())
        }


def opened_tensors(path: Path) -> Any:
    """Open a safetensors file for reading, refusing a truncated or foreign one in one sentence."""
    with told(f"read {path}"):
        try:
            return safe_open(path, framework="numpy")
        except SafetensorError as error:
            raise InputError(f"{path} is damaged ({error}); delete it to go on without it") from None


def about(file: Any, path: Path, key: str = "step") -> dict[str, Any]:
    """Return what a tensor file of ours says of itself."""
    try:
        said = json.loads((file.metadata() or {})[SAID])
        said[key]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} is damaged (it does not say its {key}); delete it to go on without it") from None
    return dict(said)


def encode_tensors(tensors: Mapping[str, Array], said: Mapping[str, Any]) -> bytes:
    """Encode tensors as a safetensors file, their shapes kept (a number has none) and their memory in order.

    What the file says of itself is one entry, because the order of several is not fixed and equal files have equal bytes.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    return bytes(save_tensors(arrays, {SAID: json.dumps(said)}))


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Encode a record as one line of JSON, with NaN and infinities as the strings "NaN", "Infinity", "-Infinity"."""
    return msgspec.json.encode(tag_non_finite(record))


def tag_non_finite(value: Any) -> Any:
    """Replace every NaN and infinity by its name, and numpy's numbers by Python's, at any depth."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {key: tag_non_finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tag_non_finite(item) for item in value]
    return value


def as_vector(name: str, value: Any) -> list[float]:
    """Return one number, or one number a run, as a list."""
    vector = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if vector.ndim != 1:
        raise InputError(
            f"scalar {name}: expected one number, or one number a run, got an array of shape {list(vector.shape)}"
        )
    return list(vector.tolist())


def check_step(step: int) -> int:
    """Return a step as a whole number, refusing a negative one."""
    step = operator.index(step)
    if step < 0:
        raise InputError(f"a step is the number of optimiser updates done so far, 0 or more, got {step}")
    return step


def append_whole(journal: FileIO, line: bytes) -> None:
    """Write one line at the end of the journal, whole or not at all."""
    size = journal.seek(0, os.SEEK_END)
    written = 0
    try:
        while written < len(line):  # once, unless the disk fills up in the middle of the line
            written += journal.write(line[written:])
    except BaseException:
        if written:  # the part that did go in would join the next record
            journal.truncate(size)
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` whole or not at all, even where the machine goes down."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with told(f"write {path}"):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def lock_folder(folder: Path) -> FileIO:
    """Take the folder's lock, which the system lets go of when this process ends, however it ends."""
    lock = FileIO(folder / LOCK, "a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise InputError(
            f"{folder} is being written by another process; wait for it, or choose another folder"
        ) from None
    return lock


def check_claim(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Check that the folder is absent, empty, or holds this very run."""
    if (folder / MANIFEST).exists():
        held, ours = (
            {key: value for key, value in manifest.items() if key not in NOT_IDENTITY}
            for manifest in (read_manifest(folder), wanted)
        )
        found = differences(held, ours)
        if found:
            rest = len(found) - MOST_DIFFERENCES
            told_of = [*found[:MOST_DIFFERENCES], *([f"and {rest} more"] if rest > 0 else [])]
            raise InputError(f"{folder} holds another run (it differs in {'; '.join(told_of)}); choose another folder")
    elif folder.is_dir():
        foreign = sorted(p.name for p in folder.iterdir() if p.name != LOCK and not p.name.startswith(f".{MANIFEST}."))
        if foreign:
            raise InputError(
                f"{folder} is not empty and not a run folder (it holds {foreign[0]}); choose another folder"
            )


def differences(there: Mapping[str, Any], here: Mapping[str, Any], within: str = "") -> list[str]:
    """Name every setting in which two manifests differ, with both values.

    >>> differences({"recipe": "a", "settings": {"p": 59, "lr": 0.1}}, {"recipe": "a", "settings": {"p": 97, "lr": 0.1}})
    ['settings.p: 59 there, 97 here']
    """
    found: list[str] = []
    for key in sorted({*there, *here}):
        one, other = there.get(key), here.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{within}{key}.")
        elif one != other:
            found.append(f"{within}{key}: {shown(one)} there, {shown(other)} here")
    return found


def shown(value: Any) -> str:
    """Return a value of a manifest as a few words on one line.

    >>> shown(None), shown("AdamW"), shown([1, 2])
    ('nothing', 'AdamW', '[1, 2]')
    """
    text = "nothing" if value is None else " ".join((value if isinstance(value, str) else json.dumps(value)).split())
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def prepare_folder(folder: Path, wanted: Mapping[str, Any]) -> FileIO:
    """Make what a run folder needs, clear away what a killed writer left half done, and return the journal, open."""
    if not (folder / MANIFEST).exists():
        replace_file(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(wanted)) + b"\n")
    for part in ("snapshots", "state", "analysis"):
        (folder / part).mkdir(exist_ok=True)
    for pattern in (".*.tmp", "snapshots/.*.tmp", "state/.*.tmp"):
        for leftover in folder.glob(pattern):
            leftover.unlink()
    journal = FileIO(folder / JOURNAL, "a+")
    try:
        cut_torn_line(journal)
    except BaseException:
        journal.close()
        raise
    return journal


def cut_torn_line(journal: FileIO) -> None:
    """Cut off what follows the last newline: a record that a killed writer never finished."""
    size = journal.seek(0, os.SEEK_END)
    start, newline = size, -1
    while start > 0 and newline < 0:
        start = max(0, start - BLOCK)
        newline = os.pread(journal.fileno(), BLOCK, start).rfind(b"\n")
    whole = start + newline + 1
    if whole < size:
        journal.truncate(whole)


@dataclass(frozen=True)
class told:
    """Turn an error of the operating system into one sentence that says what could not be done and what to do."""

    deed: str

    REMEDIES = {  # noqa: RUF012 a constant table, not a field
        errno.EFBIG: "the file would pass its size limit (`ulimit -f`); raise it and run the same command again",
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
        errno.EROFS: "it is on a read-only file system; choose a folder that can be written",
        errno.EACCES: "permission is denied; choose a folder that you may use",
        errno.EPERM: "permission is denied; choose a folder that you may use",
        errno.ENOTDIR: "a part of that path is a file; choose another folder",
        errno.EEXIST: "a file of that name is in the way; choose another folder",
    }

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            remedy = self.REMEDIES.get(error.errno or 0, f"{os.strerror(error.errno or errno.EIO).lower()}")
            raise InputError(f"cannot {self.deed}: {remedy}") from None
