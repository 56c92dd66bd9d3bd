"""This file knows TensorBoard's event files: records with checksums, and the scalars of the events in them.

A file is a sequence of records: length (8 bytes), checksum of the length (4), the event (a protobuf message), checksum of
the event (4). A record that a writer has not finished, or whose bytes were changed, is left out and said; nothing is read
of a record before its checksum holds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from twoclocks.errors import InputError
from twoclocks.sources.names import bare_of_split, is_split
from twoclocks.sources.points import Point, table_of_points
from twoclocks.sources.protobuf import double, fields_of, message, signed, single, text, varint_at
from twoclocks.sources.tables import Log, Table

LARGEST_RECORD = 1 << 20  # a scalar takes a hundred bytes; a larger record is a picture, a graph or a histogram
FLOAT, DOUBLE, INT32, INT64, BFLOAT16, HALF = 1, 2, 3, 9, 14, 19
STORED = {FLOAT: "<f4", DOUBLE: "<f8", INT32: "<i4", INT64: "<i8", HALF: "<f2"}
MASK = 0xFFFFFFFF


def crc_table() -> list[int]:
    """Return the checksums (CRC-32C) of single bytes."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC = crc_table()


def masked_crc(content: bytes) -> int:
    """Return the checksum of a record: CRC-32C, rotated and shifted as TFRecord has it.

    >>> hex(masked_crc(b"123456789"))  # CRC-32C 0xe3069283
    '0xc78ab0e5'
    """
    crc = MASK
    for byte in content:
        crc = CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= MASK
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & MASK


def is_events(head: bytes) -> bool:
    """Return whether a file begins as an event file does: with a length and its checksum."""
    return len(head) >= 12 and masked_crc(head[:8]) == struct.unpack("<I", head[8:12])[0]


def tensorboard_log(files: Iterable[Path], root: Path) -> Log:
    """Read event files as runs: one a folder, but the folders of splits (`train`, `validation`) join their parent's run.

    Raises:
        InputError: no file holds a scalar.
    """
    points: dict[str, dict[str, list[Point]]] = {}
    said: list[str] = []
    for path in sorted(files, key=lambda path: (str(path.parent), path.name)):
        folder = path.parent.relative_to(root).as_posix() if path != root else ""
        run, prefix = run_and_prefix("" if folder == "." else folder)
        for wall, step, tag, value in scalars_of_file(path, said):
            name = f"{prefix}/{tag}" if prefix and bare_of_split(tag) else tag
            points.setdefault(run, {}).setdefault(name, []).append((step, wall, value))
    if not points:
        why = f" ({said[0]})" if said else ""
        raise InputError(
            f"{root} holds TensorBoard events but no scalars{why}; write some with add_scalar, or name a log"
        )
    runs = {run or root.name: table_of_tags(tags) for run, tags in points.items()}
    return Log("TensorBoard", runs, notes=tuple(said))


def run_and_prefix(folder: str) -> tuple[str, str]:
    """Return the run that a folder belongs to, and the split that it stands for, if it does.

    >>> run_and_prefix("seed0/validation"), run_and_prefix("seed0")
    (('seed0', 'validation'), ('seed0', ''))
    """
    parent, _, name = folder.rpartition("/")
    return (parent, name) if is_split(name) else (folder, "")


def table_of_tags(tags: Mapping[str, list[Point]]) -> Table:
    """Join the tags of one run; where each is of Keras' epochs, time is counted in epochs."""
    in_epochs = all(tag.rsplit("/", 1)[-1].startswith("epoch_") for tag in tags)
    return table_of_points(tags, time="epoch" if in_epochs else "step")


def scalars_of_file(path: Path, said: list[str]) -> Iterator[tuple[float, int, str, float]]:
    """Yield (wall time, step, tag, value) for every scalar of one event file."""
    lost = 0
    with path.open("rb") as file:
        for content, crc in records_of(file, path, said):
            try:
                scalars = list(scalars_of_event(content))
            except ValueError:
                lost += 1
                continue
            if scalars and masked_crc(content) != crc:
                lost += 1
                continue
            yield from scalars
    if lost:
        said.append(f"{lost} records of {path.name} are damaged and left out")


def records_of(file: BinaryIO, path: Path, said: list[str]) -> Iterator[tuple[bytes, int]]:
    """Yield the events of a file with their checksums, as far as the lengths of the records can be trusted."""
    size = path.stat().st_size
    while (start := file.tell()) < size:
        head = file.read(12)
        if len(head) < 12:
            said.append(f"{path.name} ends within a record, which is left out")
            return
        if not is_events(head):
            said.append(f"{path.name} is damaged at byte {start} of {size}; what follows is left out")
            return
        length = struct.unpack("<Q", head[:8])[0]
        if start + 16 + length > size:
            said.append(f"{path.name} ends within a record, which is left out")
            return
        if length > LARGEST_RECORD:
            file.seek(length + 4, 1)
            continue
        content = file.read(length)
        yield content, struct.unpack("<I", file.read(4))[0]


def scalars_of_event(content: bytes) -> Iterator[tuple[float, int, str, float]]:
    """Yield (wall time, step, tag, value) for the scalars of one event."""
    wall, step, summaries = 0.0, 0, []
    for number, value in fields_of(content):
        if number == 1:
            wall = double(value)
        elif number == 2:
            step = signed(value)
        elif number == 5:
            summaries.append(message(value))
    for summary in summaries:
        for number, value in fields_of(summary):
            if number == 1 and (found := scalar_of(message(value))) is not None:
                yield wall, step, *found


def scalar_of(content: bytes) -> tuple[str, float] | None:
    """Return tag and number of one value of a summary; None where it is no scalar."""
    tag, plugin, number_found = "", "scalars", None
    for number, value in fields_of(content):
        if number == 1:
            tag = text(value)
        elif number == 2:
            number_found = single(value)
        elif number == 8:
            number_found = number_of_tensor(message(value))
        elif number == 9:
            plugin = plugin_of(message(value)) or plugin
    return (tag, number_found) if number_found is not None and plugin == "scalars" else None


def plugin_of(content: bytes) -> str:
    """Return the name of the plugin that a summary's metadata names."""
    names = [text(name) for n, data in fields_of(content) if n == 1 for m, name in fields_of(message(data)) if m == 1]
    return names[-1] if names else ""


def number_of_tensor(content: bytes) -> float | None:
    """Return the one number of a tensor; None where it holds several, or none."""
    kind, shape, stored, listed = 0, [], b"", []
    for number, value in fields_of(content):
        if number == 1:
            kind = signed(value)
        elif number == 2:
            shape = [
                signed(n)
                for m, dim in fields_of(message(value))
                if m == 2
                for k, n in fields_of(message(dim))
                if k == 1
            ]
        elif number == 4:
            stored = message(value)
        elif number in (5, 6, 7, 10, 13):
            listed.append((number, value))
    if math.prod(shape) != 1 or len(listed) > 1:
        return None
    return number_stored(kind, stored) if stored else number_listed(*listed[0], kind) if listed else None


def number_stored(kind: int, stored: bytes) -> float | None:
    """Return the number that a tensor's bytes stand for."""
    if kind == BFLOAT16:
        kind, stored = FLOAT, b"\0\0" + stored
    if kind not in STORED or len(stored) != np.dtype(STORED[kind]).itemsize:
        return None
    return float(np.frombuffer(stored, STORED[kind])[0])


def number_listed(number: int, value: int | bytes, kind: int) -> float | None:
    """Return the number that a tensor lists: in one of its fields float_val, double_val, int_val, int64_val, half_val."""
    if number == 5:
        return single(value)
    if number == 6:
        return double(value)
    entries = [value] if isinstance(value, int) else list(varints_of(value))
    if len(entries) != 1:
        return None
    if number == 13:
        bits = int(entries[0]).to_bytes(8, "little")[:2]
        return number_stored(kind, bits)
    return float(signed(entries[0]))


def varints_of(packed: bytes) -> Iterator[int]:
    """Yield the whole numbers of a packed field."""
    place = 0
    while place < len(packed):
        value, place = varint_at(packed, place)
        yield value
