"""This file knows how a trajectory is written for other tools: one table, as CSV, as parquet or as TensorBoard's events.

The table has one row a step (of each run) and one column a series, under its canonical name. What was not recorded is
absent in it, and a NaN that was recorded is there. Nothing is overwritten unasked, and nothing is ever half written.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import struct
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twoclocks.errors import InputError, nearest
from twoclocks.sources.tensorboard import LARGEST_RECORD, masked_crc
from twoclocks.store import MANIFEST, replace_file, told
from twoclocks.trajectory import Array, Float, Int, Series, Trajectory, all_steps, apart_from

if TYPE_CHECKING:
    from twoclocks.evidence import Evidence

ENDINGS: Mapping[str, str] = MappingProxyType({"csv": ".csv", "parquet": ".parquet", "tensorboard": "-tensorboard"})
MOST_NUMBERS = 64  # of one series at one moment that become columns of their own
LADDER = ("native", "train_probe", "heldout_probe", "calibration_gap", "train_bias")
EVENTS = "events.out.tfevents.0000000000.twoclocks"
VERSION = b"brain.Event:2"


@dataclass(frozen=True)
class Column:
    """One column of the table: `value[rows]`, and which of its cells were recorded; a NaN may have been."""

    name: str
    unit: str
    value: Float
    present: NDArray[np.bool_]

    @property
    def cells(self) -> list[float | None]:
        """Return the cells as Python's numbers, None for what was not recorded."""
        return [v if there else None for v, there in zip(self.value.tolist(), self.present.tolist(), strict=True)]


@dataclass(frozen=True)
class Sheet:
    """The table of a trajectory: the run and the step of each row, its columns, and what to say of them."""

    runs: int
    time: str
    run: Int
    step: Array
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> dict[str, Array]:
        """Return the columns that say which row it is: the run where there are several, and the step or epoch."""
        return ({"run": self.run} if self.runs > 1 else {}) | {self.time: self.step}

    def of_run(self, run: int) -> Sheet:
        """Return the rows of one run."""
        rows = self.run == run
        cut = tuple(replace(c, value=c.value[rows], present=c.present[rows]) for c in self.columns)
        return replace(self, runs=1, run=self.run[rows], step=self.step[rows], columns=cut)


@dataclass(frozen=True)
class Exported:
    """What was written where, and what to know of it."""

    path: Path
    to: str
    rows: int
    runs: int
    columns: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def described(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {**vars(self), "path": str(self.path)}


def export(trajectory: Trajectory, to: str, out: str | Path, *, force: bool = False) -> Exported:
    """Write the scalars of a trajectory to a file (csv, parquet) or a folder (tensorboard), whole or not at all.

    Numbers in CSV and parquet are the recorded ones bit for bit; TensorBoard holds single precision. Absent cells are
    empty (CSV), null (parquet) or not written (TensorBoard); NaN and infinities are `nan`, `inf` and `-inf` in CSV.

    Args:
        to: "csv", "parquet" or "tensorboard" (a folder; of several runs one folder in it each, `run0`, `run1`, …).
        force: replace what an earlier export wrote there.

    Raises:
        InputError: `out` exists or cannot be written, pyarrow is absent, there are no scalars, or TensorBoard cannot count
            the steps, because they are fractions of an epoch.
    """
    out = Path(out)
    check_export(to, out, Path(trajectory.source.path) if trajectory.source.path else out.parent / "-", force=force)
    sheet = sheet_of(trajectory)
    notes = list(sheet.notes)
    if to == "tensorboard":
        notes += precision_notes(sheet)
        replace_folder(out, events_of(sheet))
    else:
        replace_file(out, csv_of(sheet) if to == "csv" else parquet_of(sheet, trajectory))
    names = tuple(column.name for column in sheet.columns)
    return Exported(out, to, len(sheet.step), sheet.runs, (*sheet.keys, *names), tuple(notes))


def target_of(source: Path, to: str) -> Path:
    """Return where an export goes if nothing is said: `analysis/` of a run folder, beside a log.

    >>> str(target_of(Path("logs/seed0.csv"), "csv"))
    'logs/seed0-export.csv'
    """
    check_format(to)
    if (source / MANIFEST).exists():
        return source / "analysis" / f"export{ENDINGS[to]}"
    place = source if source.name not in ("", "..") else source.resolve()
    return place.with_name(f"{place.stem or 'log'}-export{ENDINGS[to]}")


def with_measured(evidence: Evidence) -> Trajectory:
    """Return a trajectory with the derived series of its diagnosis (ranks, ladder, critical dimension, …) among its own."""
    measured = dict(evidence.measured)
    if (ladder := evidence.ladder) is not None:
        for rung in LADDER:
            name = f"ladder/{rung}"
            measured[name] = Series(name, "share of examples", ladder.step, getattr(ladder, rung))
    scalars = evidence.trajectory.scalars
    return replace(
        evidence.trajectory, scalars={**scalars, **{n: one for n, one in measured.items() if n not in scalars}}
    )


# What may be written where


def check_export(to: str, out: Path, source: Path, *, force: bool) -> None:
    """Refuse a format or a target before any work is done."""
    check_format(to)
    if to == "parquet":
        arrow()
    with told(f"write {out}"):
        check_target(to, out, source, force)


def check_format(to: str) -> None:
    """Refuse a format that is not known."""
    if to not in ENDINGS:
        raise InputError(f"--to: {to!r} is not a format.{nearest(to, list(ENDINGS))}")


def check_target(to: str, out: Path, source: Path, force: bool) -> None:
    """Refuse a target that is no name, has no folder to lie in, or exists and may not be replaced."""
    if not out.name or out.name == "..":
        raise InputError(f"cannot write to {str(out)!r}: it names no file; give one such as table{ENDINGS[to]}")
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: the folder {out.parent} does not exist; make it first")
    if not os.path.lexists(out):
        return
    if not force:
        raise InputError(
            f"{out} exists and is left as it is; choose another name with --out, or replace it with --force"
        )
    if to == "tensorboard" and not is_folder_of_events(out):
        raise InputError(f"{out} is not a folder that an export wrote, so it is not replaced; choose another name")
    if to != "tensorboard" and not (out.is_file() or out.is_symlink()):
        raise InputError(f"{out} is not a file, so it is not replaced; choose a file name")
    if is_part_of(out, source):
        raise InputError(f"{out} is part of what is exported, so it is not replaced; choose another name")


def is_part_of(out: Path, source: Path) -> bool:
    """Return whether a target is the source, holds it, or lies in it elsewhere than in a run folder's `analysis/`."""
    target, origin = out.resolve(), source.resolve()
    if target in (origin, *origin.parents):
        return True
    return origin in target.parents and not ((origin / MANIFEST).exists() and (origin / "analysis") in target.parents)


def is_folder_of_events(folder: Path) -> bool:
    """Return whether a folder holds what `replace_folder` writes and nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return bool(found) and all(path.name == EVENTS for path in found)


def replace_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files whole or not at all; one that is in its place makes room once the new one is complete."""
    new, old = (out.with_name(f".{out.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    with told(f"write {out}"):
        try:
            for name, content in files.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                replace_file(new / name, content)
            if out.exists():
                out.rename(old)
            new.rename(out)
        except BaseException:
            if old.exists() and not out.exists():
                old.rename(out)
            shutil.rmtree(new, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


# The table


def sheet_of(trajectory: Trajectory) -> Sheet:
    """Return the table of a trajectory: every step at which a run has anything, and every series with a value.

    Raises:
        InputError: there is no series.
    """
    series, notes = single_columns(trajectory)
    if not series:
        raise InputError(f"{trajectory.source.path} holds no scalars, so there is nothing to export")
    time = "epoch" if trajectory.source.time == "epoch" else "step"
    if trajectory.source.time == "row":
        notes.append("the log names no time, so its rows are counted as steps")
    step, runs = all_steps(series), max(one.runs for one in series)
    names = distinct([one.name for one in series], ("run", time))
    columns = [column_of(one, name, step, runs) for one, name in zip(series, names, strict=True)]
    kept = np.any([column.present for column in columns], axis=0)
    cut = tuple(replace(c, value=c.value[kept], present=c.present[kept]) for c in columns)
    return Sheet(runs, time, np.repeat(np.arange(runs), len(step))[kept], np.tile(step, runs)[kept], cut, tuple(notes))


def single_columns(trajectory: Trajectory) -> tuple[list[Series], list[str]]:
    """Return the series with one number a moment; of several numbers a moment each is one, `name[0]`, `name[1]`, …"""
    found: list[Series] = []
    long: list[str] = []
    for name, one in trajectory.scalars.items():
        shape = one.value.shape[2:]
        if int(np.prod(shape)) > MOST_NUMBERS:
            long.append(name)
        elif len(one.step):
            flat = one.value.reshape(*one.value.shape[:2], int(np.prod(shape)))
            ends = ["".join(f"[{i}]" for i in place) for place in product(*map(range, shape))]
            found += [replace(one, name=f"{name}{end}", value=flat[:, :, i]) for i, end in enumerate(ends)]
    return found, ([f"of more than {MOST_NUMBERS} numbers a moment, and left out: {', '.join(long)}"] if long else [])


def column_of(series: Series, name: str, step: Array, runs: int) -> Column:
    """Return a series as a column over all runs and steps, run by run."""
    value, present = np.full((runs, len(step)), np.nan), np.zeros((runs, len(step)), dtype=bool)
    places = np.searchsorted(step, series.step)
    value[: series.runs, places] = series.value
    present[: series.runs, places] = True
    return Column(name, series.unit, value.ravel(), present.ravel())


def distinct(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return names that fit on one line and differ from each other and from those taken.

    >>> distinct(["loss", "step", "loss ", "a\\nb"], ["step"])
    ['loss', 'step (logged)', 'loss (2)', 'a b']
    """
    found: list[str] = []
    for name in names:
        bare = apart_from(on_one_line(name) or "unnamed", taken)
        number, unique = 2, bare
        while unique in found:
            number, unique = number + 1, f"{bare} ({number})"
        found.append(unique)
    return found


def on_one_line(name: str) -> str:
    """Return a name without line ends, control characters and what no text file can hold."""
    blank = " ".join(name.split())
    return "".join(letter for letter in blank if unicodedata.category(letter) not in ("Cc", "Cs")).strip()


# CSV and parquet


def csv_of(sheet: Sheet) -> bytes:
    """Return the table as CSV: UTF-8, a header, numbers in the fewest digits that give them back."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*sheet.keys, *(column.name for column in sheet.columns)])
    keys = [key.tolist() for key in sheet.keys.values()]
    writer.writerows(zip(*keys, *(column.cells for column in sheet.columns), strict=True))
    return text.getvalue().encode()


def parquet_of(sheet: Sheet, trajectory: Trajectory) -> bytes:
    """Return the table as parquet: whole runs and steps, double precision, null for what is absent, units as metadata."""
    pa, parquet = arrow()
    fields = [pa.field(name, pa.from_numpy_dtype(key.dtype), nullable=False) for name, key in sheet.keys.items()]
    fields += [pa.field(c.name, pa.float64(), metadata={"unit": c.unit}) for c in sheet.columns]
    said = {"schema": 1, "source": trajectory.source.path, "time": sheet.time, "assumed": trajectory.source.assumed}
    schema = pa.schema(fields, metadata={"twoclocks": json.dumps(said)})
    arrays = [pa.array(key) for key in sheet.keys.values()]
    arrays += [pa.array(c.value, mask=~c.present, from_pandas=False) for c in sheet.columns]
    content = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), content, write_page_checksum=True)
    return content.getvalue()


def arrow() -> tuple[Any, Any]:
    """Return pyarrow and its parquet module, or refuse where it is not installed."""
    try:
        import pyarrow  # an extra, not a dependency
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "writing parquet needs pyarrow; install it with pip install 'twoclocks[parquet]', or export to csv"
        ) from None
    return pyarrow, pyarrow.parquet


# TensorBoard


def events_of(sheet: Sheet) -> dict[str, bytes]:
    """Return the event files by their places in the folder: one, or one a run in a folder of its own.

    Raises:
        InputError: the steps are not whole numbers.
    """
    if not np.all(sheet.step == np.round(sheet.step)):
        raise InputError(
            "TensorBoard counts in whole steps, and this log in fractions of an epoch; export to csv or parquet"
        )
    if sheet.runs == 1:
        return {EVENTS: event_file(sheet)}
    return {f"run{run}/{EVENTS}": event_file(sheet.of_run(run)) for run in range(sheet.runs)}


def event_file(sheet: Sheet) -> bytes:
    """Return one run as an event file: a record that names the version, then the scalars of each step as simple values.

    The times of day are 0, so that equal trajectories give equal files.
    """
    with np.errstate(over="ignore", under="ignore"):
        singles = [column.value.astype("<f4").tobytes() for column in sheet.columns]
    fronts = [front_of_value(column.name) for column in sheet.columns]
    records = [record(clock() + field(3, VERSION))]
    present = np.array([column.present for column in sheet.columns])
    for row, step in enumerate(sheet.step.tolist()):
        values = [fronts[i] + singles[i][4 * row : 4 * row + 4] for i in np.flatnonzero(present[:, row]).tolist()]
        records += [record(clock() + b"\x10" + varint(int(step)) + field(5, part)) for part in parts_of(values)]
    return b"".join(records)


def front_of_value(tag: str) -> bytes:
    """Return a value of a summary up to its four bytes: field 1, holding a tag (field 1) and a simple value (field 2)."""
    inner = field(1, tag.encode()) + b"\x15"
    return b"\x0a" + varint(len(inner) + 4) + inner


def parts_of(values: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the values of one step joined, in parts that no reader takes for a picture."""
    part = bytearray()
    for value in values:
        if part and len(part) + len(value) > LARGEST_RECORD // 2:
            yield bytes(part)
            part.clear()
        part += value
    yield bytes(part)


def record(content: bytes) -> bytes:
    """Return a record: length, its checksum, content, its checksum.

    >>> record(b"")[:8] == bytes(8), len(record(b"abc"))
    (True, 19)
    """
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked_crc(length)) + content + struct.pack("<I", masked_crc(content))


def clock() -> bytes:
    """Return the time of day of an event (field 1)."""
    return b"\x09" + struct.pack("<d", 0.0)


def field(number: int, content: bytes) -> bytes:
    """Return a field of bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Return a whole number (64 bits) as protobuf writes it, seven bits a byte.

    >>> varint(150), len(varint(-1))
    (b'\\x96\\x01', 10)
    """
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def precision_notes(sheet: Sheet) -> list[str]:
    """Return what single precision does to the table: it rounds, and what is too large or too small is lost."""
    value = np.concatenate([column.value[column.present] for column in sheet.columns])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single = value.astype(np.float32)
    lost = {
        "too large for it and written as infinite": np.isinf(single) & np.isfinite(value),
        "too small for it and written as 0": (single == 0) & (value != 0),
    }
    notes = ["TensorBoard holds numbers in single precision, about 7 digits; csv and parquet hold all"]
    notes += [f"{int(which.sum())} numbers are {words}" for words, which in lost.items() if which.any()]
    return notes + (["TensorBoard counts these epochs as steps"] if sheet.time == "epoch" else [])
