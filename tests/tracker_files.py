"""This file knows how the trackers' files are laid out: a second definition of each, written from their specifications."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, float]]  # each with its step and what was logged there


def crc32c(content: bytes) -> int:
    """CRC-32C bit by bit, by long division of the reflected polynomial."""
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ 0x82F63B78 * (register & 1)
    return register ^ 0xFFFFFFFF


def masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | int) -> bytes:
    """One field: a varint for a number, length and bytes for bytes."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def fixed(number: int, layout: str, value: float) -> bytes:
    return varint(number << 3 | (1 if layout == "<d" else 5)) + struct.pack(layout, value)


def tfrecord(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + masked(length) + content + masked(content)


def scalar_event(step: int, tag: str, value: float, wall: float = 1.0, form: str = "simple") -> bytes:
    """One event with one scalar: a simple value, or a tensor in one of its forms."""
    shape = field(2, b"")
    tensor = {
        "simple": lambda: fixed(2, "<f", value),
        "content": lambda: field(8, field(1, 1) + shape + field(4, struct.pack("<f", value))),
        "double": lambda: field(8, field(1, 2) + shape + field(4, struct.pack("<d", value))),
        "listed": lambda: field(8, field(1, 1) + shape + field(5, struct.pack("<f", value))),
        "half": lambda: field(8, field(1, 19) + shape + field(13, varint(int(np.float16(value).view(np.uint16))))),
        "whole": lambda: field(8, field(1, 9) + shape + field(10, varint(int(value)))),
        "bfloat16": lambda: field(8, field(1, 14) + shape + field(4, struct.pack("<f", value)[2:])),
    }[form]()
    plugin = b"" if form == "simple" else field(9, field(1, field(1, b"scalars")))
    summary = field(1, field(1, tag.encode()) + tensor + plugin)
    return fixed(1, "<d", wall) + field(2, step) + field(5, summary)


def event_file(rows: Rows, form: str = "simple") -> bytes:
    version = tfrecord(fixed(1, "<d", 1.0) + field(3, b"brain.Event:2"))
    return version + b"".join(
        tfrecord(scalar_event(int(row["step"]), tag, value, 1.0, form))
        for row in rows
        for tag, value in row.items()
        if tag != "step"
    )


def wandb_item(key: str, value: Any, form: str) -> bytes:
    """One item of history: JSON text under a nested key or under a key, or a typed number."""
    if form == "typed":
        return field(1, key.encode()) + fixed(6, "<d", value)
    return field(2 if form == "nested" else 1, key.encode()) + field(16, json.dumps(value).encode())


def wandb_file(rows: Rows, form: str = "nested", name: str = "run-a") -> bytes:
    records = [field(1, 1) + field(17, field(1, b"id") + field(8, name.encode()))]
    for row in rows:
        items = b"".join(field(1, wandb_item(k, v, form)) for k, v in row.items() if k != "step")
        records.append(field(2, items + field(2, field(1, int(row["step"])))))
    return leveldb(records)


def leveldb(records: Iterable[bytes]) -> bytes:
    out = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        rest, first = record, True
        while first or rest:
            left = 32768 - len(out) % 32768
            if left < 7:
                out += b"\0" * left
                continue
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if first else 4) if not rest else (2 if first else 3)
            out += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
    return bytes(out)


def mlflow_folder(folder: Path, rows: Rows, name: str = "run-a") -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "params").mkdir(parents=True)
    (folder / "meta.yaml").write_text(f"lifecycle_stage: active\nrun_id: {name}\nrun_name: {name}\nstart_time: 1\n")
    for metric in sorted({key for row in rows for key in row if key != "step"}):
        path = folder / "metrics" / metric
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{1000 + i} {row[metric]} {int(row['step'])}\n" for i, row in enumerate(rows) if metric in row]
        path.write_text("".join(lines))


def mlflow_database(path: Path, rows: Rows) -> None:
    database = fresh(path)
    database.execute("CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, name TEXT, lifecycle_stage TEXT)")
    database.execute("CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT)")
    database.execute(
        "CREATE TABLE metrics (key TEXT, value FLOAT, timestamp BIGINT, run_uuid TEXT, step BIGINT, is_nan BOOL)"
    )
    database.execute("INSERT INTO runs VALUES ('a', 'run-a', 'active')")
    for i, row in enumerate(rows):
        for key, value in row.items():
            if key != "step":
                bounded = 0.0 if math.isnan(value) else max(-1.7976931348623157e308, min(1.7976931348623157e308, value))
                at = (key, bounded, 1000 + i, "a", int(row["step"]), math.isnan(value))
                database.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", at)
    database.commit()
    database.close()


def trackio_database(path: Path, rows: Rows) -> None:
    database = fresh(path)
    database.execute(
        "CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT)"
    )
    for row in rows:
        logged = {k: spelt(v) for k, v in row.items() if k != "step"}
        at = ("2026-01-01T00:00:00", "run-a", int(row["step"]), json.dumps(logged))
        database.execute("INSERT INTO metrics (timestamp, run_name, step, metrics) VALUES (?, ?, ?, ?)", at)
    database.commit()
    database.close()


def spelt(value: float) -> float | str:
    return value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def fresh(path: Path) -> sqlite3.Connection:
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.execute("PRAGMA page_size = 512")
    database.execute("PRAGMA journal_mode = MEMORY")
    database.execute("PRAGMA synchronous = OFF")
    return database


def trainer_state(rows: Rows) -> str:
    history = [dict(row) for row in rows]
    return json.dumps({"global_step": history[-1]["step"] if history else 0, "log_history": history})


def parquet_file(path: Path, rows: Rows) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    names = dict.fromkeys(name for row in rows for name in row)
    table = arrow.table({n: arrow.array([row.get(n) for row in rows], arrow.float64()) for n in names})
    parquet.write_table(table, path, write_page_checksum=True)


def csv_text(rows: Rows) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(repr(row[n]) if n in row else "" for n in names) for row in rows]
    return "\n".join([",".join(names), *lines]) + "\n"


def json_lines(rows: Rows) -> str:
    return "".join(json.dumps(dict(row)) + "\n" for row in rows)
