"""Damage: no bytes make a traceback, a hang or, where the format lets it be known, a wrong number.

TensorBoard and W&B keep checksums: there, and wherever a file is merely cut off, every value that is read was written at
that step. A changed digit in a text or in a database cannot be known; there, what a change within one or two lines may do
is bounded by what those lines held.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tracker_files import (
    csv_text,
    event_file,
    json_lines,
    mlflow_database,
    mlflow_folder,
    parquet_file,
    trackio_database,
    trainer_state,
    wandb_file,
)
from twoclocks.errors import InputError
from twoclocks.sources.logs import read_log
from twoclocks.trajectory import Trajectory

Rows = list[dict[str, float]]
LONGEST = 10.0  # seconds that one small file may take
CASE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def put(name: str, write: Callable[[Path, Rows], object]) -> Callable[[Path, Rows], Path]:
    """Return how rows are written to a file of a folder, the file returned."""

    def made(folder: Path, rows: Rows) -> Path:
        write(folder / name, rows)
        return folder / name

    return made


def one_metric(folder: Path, rows: Rows) -> Path:
    mlflow_folder(folder / "0" / "a", rows)
    return folder / "0" / "a" / "metrics" / "train_loss"


WRITERS: dict[str, Callable[[Path, Rows], Path]] = {
    "tensorboard": put("events.out.tfevents.1", lambda path, rows: path.write_bytes(event_file(rows, "double"))),
    "wandb": put("run-a.wandb", lambda path, rows: path.write_bytes(wandb_file(rows))),
    "trainer state": put("trainer_state.json", lambda path, rows: path.write_text(trainer_state(rows))),
    "mlflow files": one_metric,
    "mlflow database": put("mlflow.db", mlflow_database),
    "trackio": put("project.db", trackio_database),
    "parquet": put("log.parquet", parquet_file),
    "csv": put("log.csv", lambda path, rows: path.write_text(csv_text(rows))),
    "json lines": put("log.jsonl", lambda path, rows: path.write_text(json_lines(rows))),
    "json": put("log.json", lambda path, rows: path.write_text(json.dumps(rows))),
}
CHECKED = ("tensorboard", "wandb")
LINES = ("csv", "json lines", "mlflow files")
RECORDS = ("json", "trainer state", "mlflow database", "trackio")
NAN_FILLS = ("csv", "json lines", "json", "parquet")  # a NaN in a table may only fill a cell


def opened(kind: str, path: Path) -> Trajectory:
    """Read what was written: MLflow's folder by its root, everything else by its file."""
    return read_log(path.parents[3] if kind == "mlflow files" else path)


def values_of(log: Trajectory) -> dict[str, dict[float, float]]:
    return {
        name: dict(zip(series.step.tolist(), series.value[0].tolist(), strict=True))
        for name, series in log.scalars.items()
    }


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def wrong_steps(found: Mapping[str, Mapping[float, float]], written: Mapping[str, Mapping[float, float]]) -> set[float]:
    """Return the steps at which a value was read that was not written there."""
    return {
        step
        for name, column in found.items()
        for step, value in column.items()
        if step not in written.get(name, {}) or not same(written[name][step], value)
    }


NUMBERS = st.one_of(
    st.floats(0.0, 1.4, allow_nan=False), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0, 1e-300, 1e300])
)
TABLES = st.lists(
    st.fixed_dictionaries(
        {"step": st.integers(0, 10**6)}, optional={"train_loss": NUMBERS, "val_loss": NUMBERS, "energy": NUMBERS}
    ),
    min_size=2,
    max_size=12,
    unique_by=lambda row: row["step"],
)


def check_round_trip(kind: str, folder: Path, rows: Rows) -> None:
    """Check that rows, written in order of their steps and read back, are what was written."""
    rows = sorted(rows, key=lambda row: row["step"])
    written = {
        {"train_loss": "train_loss", "val_loss": "heldout_loss", "energy": "energy"}[name]: {
            row["step"]: row[name] for row in rows if name in row
        }
        for name in ("train_loss", "val_loss", "energy")
    }
    path = WRITERS[kind](folder, rows)
    if not path.exists():
        return
    try:
        found = values_of(opened(kind, path))
    except InputError:
        assert sum(len(column) for column in written.values()) == 0
        return
    if kind in NAN_FILLS:  # what is absent may only be a NaN
        for name, column in written.items():
            missing = column.keys() - found.get(name, {}).keys()
            assert all(math.isnan(column[step]) for step in missing)
    else:
        assert {name: column.keys() for name, column in found.items()} == {n: c.keys() for n, c in written.items() if c}
    assert not wrong_steps(found, written)


CLEAN: Rows = [
    {"step": s, "train_loss": 3.0 / (1 + s), "train_acc": min(1.0, 0.05 + s / 30)}
    | ({"val_loss": 4.0 - s / 64, "val_acc": 0.05 + s / 256} if s % 10 == 0 else {})
    for s in range(0, 120, 5)
]
DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "cut", "remove"]), st.floats(0, 1), st.integers(0, 255), st.integers(0, 7)
    ),
    min_size=1,
    max_size=3,
)


def damaged(content: bytes, damages: list[tuple[str, float, int, int]]) -> bytes:
    """Return bytes with some bits flipped, bytes inserted or removed, or the end cut off."""
    for what, share, byte, bit in damages:
        at = min(int(share * len(content)), max(0, len(content) - 1))
        if what == "flip" and content:
            content = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
        elif what == "insert":
            content = content[:at] + bytes([byte]) * (1 + bit) + content[at:]
        elif what == "remove":
            content = content[:at] + content[at + 1 + bit :]
        elif what == "cut":
            content = content[:at]
    return content


def truth_of(kind: str, folder: Path) -> tuple[Path, bytes, dict[str, dict[float, float]]]:
    """Write the clean table, and return its file, the bytes of it, and what is read of it undamaged."""
    path = WRITERS[kind](folder, CLEAN)
    written = values_of(opened(kind, path))
    expected = {
        {
            "train_loss": "train_loss",
            "train_acc": "train_accuracy",
            "val_loss": "heldout_loss",
            "val_acc": "heldout_accuracy",
        }[n]: {row["step"]: row[n] for row in CLEAN if n in row}
        for n in ("train_loss", "train_acc", "val_loss", "val_acc")
    }
    assert written == expected
    return path, path.read_bytes(), written


def read_damaged(kind: str, path: Path, content: bytes) -> dict[str, dict[float, float]]:
    """Read damaged bytes within the time allowed: values, none where they were refused in a sentence."""
    path.write_bytes(content)
    start = time.monotonic()
    try:
        found = values_of(opened(kind, path))
    except InputError as refusal:
        assert "\n" not in str(refusal)
        found = {}
    assert time.monotonic() - start < LONGEST
    return found


def lines_touched(clean: bytes, content: bytes) -> tuple[bool, int]:
    """Return whether damage reaches the first line, and how many lines of the damaged text are not lines of the clean one."""
    before, after = clean.split(b"\n"), content.split(b"\n")
    return before[:1] != after[:1], len(set(after) - set(before))


def check_damage(
    kind: str, path: Path, clean: bytes, written: dict[str, Any], damages: list[tuple[str, float, int, int]]
) -> None:
    content = damaged(clean, damages)
    found = read_damaged(kind, path, content)
    if kind in CHECKED:
        assert not wrong_steps(found, written)
    if kind in LINES:
        header, lines = lines_touched(clean, content)
        if not (header and kind == "csv"):
            assert len(wrong_steps(only(found, written), written)) <= 2 * lines

    if kind in RECORDS:
        assert len(wrong_steps(only(found, written), written)) <= 2 * len(damages)


def only(found: dict[str, dict[float, float]], written: dict[str, Any]) -> dict[str, dict[float, float]]:
    """Return what was read of the quantities that were written (a changed name makes a new one)."""
    return {name: column for name, column in found.items() if name in written}


def check_cut(kind: str, path: Path, clean: bytes, written: dict[str, Any], length: int) -> None:
    found = read_damaged(kind, path, clean[:length])
    wrong = wrong_steps(found, written)
    if kind == "csv" and wrong:  # the last cell of a text may be torn, and nothing tells
        assert wrong == {max(max(column) for column in found.values())}
        assert not clean[:length].endswith(b"\n")
        return
    assert not wrong


def rounds(examples: int) -> Any:
    return settings(max_examples=examples, deadline=None, suppress_health_check=CASE, derandomize=examples < 1000)


@pytest.mark.parametrize("kind", WRITERS)
@rounds(100)
@given(rows=TABLES)
def test_any_table_comes_back_as_written(tmp_path: Path, kind: str, rows: Rows) -> None:
    check_round_trip(kind, tmp_path, rows)


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_bytes_give_a_sentence_or_true_numbers(tmp_path: Path, kind: str) -> None:
    path, clean, written = truth_of(kind, tmp_path)

    @rounds(100)
    @given(damages=DAMAGES)
    def check(damages: list[tuple[str, float, int, int]]) -> None:
        check_damage(kind, path, clean, written, damages)

    check()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_is_cut_off_holds_nothing_wrong(tmp_path: Path, kind: str) -> None:
    path, clean, written = truth_of(kind, tmp_path)
    lengths = range(0, len(clean), max(1, len(clean) // 150))
    for length in lengths:
        check_cut(kind, path, clean, written, length)
    assert len(lengths) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
@rounds(2000)
@given(rows=TABLES)
def test_two_thousand_tables_come_back_as_written(tmp_path: Path, kind: str, rows: Rows) -> None:
    check_round_trip(kind, tmp_path, rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_two_thousand_damages_give_a_sentence_or_true_numbers(tmp_path: Path, kind: str) -> None:
    path, clean, written = truth_of(kind, tmp_path)
    seen = 0

    @rounds(2000)
    @given(damages=DAMAGES)
    def check(damages: list[tuple[str, float, int, int]]) -> None:
        nonlocal seen
        seen += 1
        check_damage(kind, path, clean, written, damages)

    check()
    assert seen >= 2000


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_cut_off_anywhere_holds_nothing_wrong(tmp_path: Path, kind: str) -> None:
    path, clean, written = truth_of(kind, tmp_path)
    for length in range(0, len(clean), max(1, len(clean) // 4000)):
        check_cut(kind, path, clean, written, length)


@rounds(200)
@given(
    head=st.sampled_from([b"SQLite format 3\x00", b"PAR1", b":W&B\xe1\xbe\x00", b'{"log_history": [', b""]),
    rest=st.binary(max_size=200),
)
def test_a_file_that_only_begins_like_a_log_is_refused_or_read(tmp_path: Path, head: bytes, rest: bytes) -> None:
    assume(head or rest)
    path = tmp_path / "log"
    path.write_bytes(head + rest)
    try:
        read_log(path)
    except InputError as refusal:
        assert "\n" not in str(refusal)
