"""This file knows W&B's transaction files (run-*.wandb): blocks with checksums, and the history and settings in them.

A file is a header and blocks of 32 KiB; a block holds pieces of records, each with a checksum (CRC-32), a length and
whether it is a whole record or the first, a middle or the last piece. A damaged piece costs its record, and the reader
goes on with the next block.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twoclocks.errors import InputError
from twoclocks.sources.protobuf import double, fields_of, message, signed, text, zigzag
from twoclocks.sources.tables import Log, Table, flat, table_of_records

HEAD, BLOCK, PIECE = b":W&B", 32768, 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
LARGEST_FILE = 2_000_000_000
OWN_CLOCKS = ("_timestamp", "_runtime", "_wandb/runtime")
OWN_STEPS = ("trainer/global_step", "train/global_step", "global_step")


@dataclass(frozen=True)
class History:
    """What one file holds of a run: its key and displayed name, its rows, and its settings."""

    key: str
    name: str
    rows: list[dict[str, Any]]
    config: dict[str, Any]


def wandb_log(files: Iterable[Path], root: Path) -> Log:
    """Read W&B's files as runs, named as they are displayed; a run that was resumed goes on in its next file.

    Raises:
        InputError: no file holds history.
    """
    said: list[str] = []
    histories: dict[tuple[str, str], History] = {}
    for path in sorted(files, key=lambda path: (path.parent.name, path.name)):
        found = history_of_file(path, said)
        run = (found.key, found.name)
        before = histories.get(run, History(*run, [], {}))
        if not found.rows:
            said.append(f"{path.name} holds no history")
        elif before.rows:
            said.append(f"{found.name} was resumed; its files are read as one run")
        if found.rows:
            histories[run] = History(*run, before.rows + found.rows, before.config | found.config)
    if not histories:
        raise InputError(
            f"{root} holds no history of a W&B run ({said[0]}); log numbers with run.log, or name another log"
        )
    names: dict[str, History] = {}
    for one in histories.values():
        names[one.name if one.name not in names else f"{one.name} ({one.key})"] = one
    runs = {name: table_of_history(one.rows) for name, one in names.items()}
    return Log("W&B", runs, {name: one.config for name, one in names.items()}, tuple(dict.fromkeys(said)))


def table_of_history(records: list[dict[str, Any]]) -> Table:
    """Join history into a table; where the run logged its own count of steps, W&B's count of calls is left out."""
    table = replace(table_of_records(records, []), exact=True)
    for name in OWN_STEPS:
        counted = sum(cell is not None for cell in table.cells.get(name, ()))
        if counted >= 0.9 * table.rows:
            cells = {key: cells for key, cells in table.cells.items() if key != "_step"}
            note = f"{name} counts as time, not W&B's own _step, which counts calls"
            return replace(table, cells=cells, notes=(note,))
    return table


def history_of_file(path: Path, said: list[str]) -> History:
    """Return what one file holds of a run."""
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} is larger than 2 GB; export its history as CSV and name that")
    content = path.read_bytes()
    if not content.startswith(HEAD):
        raise InputError(f"{path} is no file of W&B (it does not begin with {HEAD.decode()}); name the run's own file")
    key = path.stem.removeprefix("run-")
    found, lost = History(key, key, [], {}), 0
    for record in records_of(content, path.name, said):
        try:
            found = with_record(found, record)
        except (ValueError, RecursionError):
            lost += 1
    if lost:
        said.append(f"{lost} records of {path.name} cannot be read and are left out")
    return found


def with_record(history: History, record: bytes) -> History:
    """Return what is known of a run after one more record: a row of history (added in place), settings, or its name."""
    for number, value in fields_of(record):
        if number == 2:
            row = {name: cell for name, cell in history_of(message(value)).items() if name not in OWN_CLOCKS}
            history.rows.extend([row] if row.keys() - {"_step"} else [])
        elif number == 5:
            history = replace(history, config=history.config | settings_of(items_of(message(value), 1)))
        elif number == 17:
            name, config = run_of_record(message(value), history.name)
            history = replace(history, name=name, config=history.config | settings_of(config))
    return history


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return settings by flat names, W&B's own entries left out."""
    return {name: cell for name, cell in flat(config).items() if name.partition("/")[0] != "_wandb"}


def run_of_record(record: bytes, name: str) -> tuple[str, dict[str, Any]]:
    """Return the displayed name and the settings with which a run began."""
    config: dict[str, Any] = {}
    for number, value in fields_of(record):
        if number == 8:
            name = text(value) or name
        elif number == 4:
            config |= items_of(message(value), 1)
    return name, config


def history_of(record: bytes) -> dict[str, Any]:
    """Return one row of history: the scalars by name, and W&B's step."""
    row = items_of(record, 1)
    for number, value in fields_of(record):
        if number == 2:
            row.setdefault("_step", next((signed(n) for m, n in fields_of(message(value)) if m == 1), 0))
    return row


def items_of(record: bytes, wanted: int) -> dict[str, Any]:
    """Return what the items of a record say, nested keys and objects flattened with slashes."""
    found: dict[str, Any] = {}
    for number, value in fields_of(record):
        if number == wanted:
            key, content = item_of(message(value))
            found |= flat({key: content}) if key else {}
    return found


def item_of(item: bytes) -> tuple[str, Any]:
    """Return key and content of one item: as JSON text, or typed (boolean, whole number, number, text, JSON)."""
    key, nested, content = "", [], None
    for number, value in fields_of(item):
        if number == 1:
            key = text(value)
        elif number == 2:
            nested.append(text(value))
        elif number in (8, 16):
            content = json.loads(text(value))
        elif number == 4:
            content = bool(signed(value))
        elif number == 5:
            content = zigzag(value)
        elif number == 6:
            content = double(value)
        elif number == 7:
            content = text(value)
    return key or "/".join(nested), content


def records_of(content: bytes, name: str, said: list[str]) -> Iterator[bytes]:
    """Yield the records whose checksums hold; what is damaged is left out, and what is lost is said."""
    whole: list[bytes] = []
    damaged = 0
    for kind, piece in pieces_of(content):
        if kind is None:
            damaged += 1
            whole = []
        elif kind == WHOLE:
            yield piece
            whole = []
        elif kind == FIRST:
            whole = [piece]
        elif whole:
            whole.append(piece)
            if kind == LAST:
                yield b"".join(whole)
                whole = []
    if damaged:
        said.append(
            f"{name} is damaged or cut off in {damaged} place{'s' if damaged > 1 else ''}; the records there are left out"
        )


def pieces_of(content: bytes) -> Iterator[tuple[int | None, bytes]]:
    """Yield the pieces of records in order; (None, b"") where one is damaged, and the rest of its block with it."""
    place = len(HEAD) + 3
    while place < len(content):
        left = BLOCK - place % BLOCK
        if left < PIECE:
            place += left
            continue
        if place + PIECE > len(content):
            yield None, b""
            return
        crc, length, kind = struct.unpack("<IHB", content[place : place + PIECE])
        piece = content[place + PIECE : place + PIECE + length]
        if (
            PIECE + length > left
            or len(piece) < length
            or not WHOLE <= kind <= LAST
            or zlib.crc32(bytes([kind]) + piece) != crc
        ):
            yield None, b""
            place += left
            continue
        yield kind, piece
        place += PIECE + length
