"""This file knows the local stores of MLflow (folders of text files, or SQLite) and of trackio (SQLite)."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twoclocks.errors import InputError
from twoclocks.sources.points import Point, table_of_points
from twoclocks.sources.tables import Log, Table, flat, read_text, table_of_records

SQLITE = b"SQLite format 3\x00"
LARGEST_DOUBLE = 1.7976931348623157e308  # MLflow's databases write it for an infinite number
SYSTEM = "system/"  # MLflow's own measurements of the machine


def mlflow_log(metas: Iterable[Path], root: Path) -> Log:
    """Read runs of an MLflow store of files, given by their meta.yaml, without those that were deleted.

    Raises:
        InputError: no run holds metrics.
    """
    runs: dict[str, Table] = {}
    settings: dict[str, dict[str, Any]] = {}
    said: list[str] = []
    abouts = {meta: plain_yaml(meta) for meta in metas}
    for meta in sorted(abouts, key=lambda meta: (abouts[meta].get("start_time", ""), meta)):
        about = abouts[meta]
        points = metrics_of_folder(meta.parent / "metrics", said)
        if not points or about.get("lifecycle_stage") == "deleted":
            continue
        name = unlike(about.get("run_name") or meta.parent.name, meta.parent.name, runs)
        runs[name], settings[name] = table_of_points(points), texts_of_folder(meta.parent / "params")
    return checked(Log("MLflow", runs, settings, tuple(said)), root)


def checked(log: Log, root: Path) -> Log:
    """Return a log of a store, unless it is empty."""
    if log.runs:
        return log
    why = f" ({log.notes[0]})" if log.notes else ""
    raise InputError(f"{root} holds no run of {log.form} with numbers{why}; deleted runs are not read")


def unlike(name: str, key: str, taken: Mapping[str, Any]) -> str:
    """Return a name that no other run has."""
    return name if name not in taken else f"{name} ({key[:8]})"


def metrics_of_folder(folder: Path, said: list[str]) -> dict[str, list[Point]]:
    """Return the metrics of a run: one file each, a line a value (milliseconds, value, step)."""
    points: dict[str, list[Point]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(SYSTEM) and path.stat().st_size:
            lines = read_text(path).split("\n")
            found = [point for line in lines[:-1] if (point := point_of(line)) is not None]
            if lines[-1].strip():
                said.append(f"the last line of {name} does not end and is left out")
            if len(found) < sum(bool(line.strip()) for line in lines[:-1]):
                said.append(f"{name} holds lines that are not 'time value step'; they are left out")
            points |= {name: found} if found else {}
    return points


def point_of(line: str) -> Point | None:
    """Return the point that a line of a metric's file writes, None where it writes none.

    >>> point_of("1700000000000 0.5 10"), point_of("0.5")
    ((10.0, 1700000000.0, 0.5), None)
    """
    cells = line.split()
    if len(cells) not in (2, 3):
        return None
    try:
        wall, value, step = int(cells[0]), float(cells[1]), int(cells[2]) if len(cells) == 3 else 0
    except ValueError:
        return None
    return (float(step), wall / 1000, value) if abs(step) < 2**63 and abs(wall) < 2**63 else None


def texts_of_folder(folder: Path) -> dict[str, str]:
    """Return the parameters of a run: one file each."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_text(errors="replace").strip() for p in files}


def plain_yaml(path: Path) -> dict[str, str]:
    """Return the top level of a YAML file that holds one text a line, as MLflow and Lightning write them."""
    lines = (
        line.partition(":") for line in path.read_text(errors="replace").splitlines() if line[:1] not in (" ", "-", "#")
    )
    return {key.strip(): value.strip().strip("'\"") for key, colon, value in lines if colon}


def is_run_of_mlflow(meta: Path) -> bool:
    """Return whether a meta.yaml describes a run (and not an experiment)."""
    return (meta.parent / "metrics").is_dir() and bool({"run_id", "run_uuid"} & plain_yaml(meta).keys())


def database_log(path: Path) -> Log:
    """Read a SQLite file of MLflow or of trackio.

    Raises:
        InputError: it is damaged, or of neither.
    """
    try:
        if not is_whole(path):
            raise sqlite3.DatabaseError("it does not end with a whole page, so it was cut off")
        with closing(opened(path)) as database:
            check = database.execute("PRAGMA quick_check(1)").fetchone()
            if check is None or check[0] != "ok":
                raise sqlite3.DatabaseError("a check of its structure failed")
            return log_of_database(database, path)
    except (sqlite3.Error, UnicodeError) as error:  # a damaged name can make its own message unreadable
        raise InputError(
            f"{path} is a SQLite file that cannot be read ({error}); restore it with `sqlite3 {path.name} .recover`"
        ) from None


def is_whole(path: Path) -> bool:
    """Return whether a database ends with a whole page: of a page cut off, SQLite would read the rest as zeros."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:18], "big")
    return size > 0 and path.stat().st_size % (65536 if size == 1 else size) == 0


def opened(path: Path) -> sqlite3.Connection:
    """Open a database to read only; where nothing waits in its journal, without any file beside it."""
    waiting = path.with_name(path.name + "-wal")
    mode = "mode=ro" if waiting.exists() and waiting.stat().st_size else "immutable=1"
    database = sqlite3.connect(f"file:{quote(str(path.absolute()))}?{mode}", uri=True)
    database.text_factory = lambda content: content.decode("utf-8", errors="replace")
    return database


def log_of_database(database: sqlite3.Connection, path: Path) -> Log:
    """Return the runs of a database, by what its table of metrics looks like."""
    columns = {row[1] for row in database.execute("PRAGMA table_info(metrics)")}
    if {"run_uuid", "key", "value", "step"} <= columns:
        return checked(mlflow_database(database, columns), path)
    if {"run_name", "step", "metrics"} <= columns:
        return checked(trackio_database(database, columns), path)
    raise InputError(f"{path} is a SQLite file of neither MLflow nor trackio; export its table as CSV and name that")


def mlflow_database(database: sqlite3.Connection, columns: set[str]) -> Log:
    """Return the runs of MLflow's tables, without those that were deleted."""
    about = {
        key: name or key for key, name, stage in database.execute("SELECT run_uuid, name, lifecycle_stage FROM runs")
        if stage != "deleted"
    }  # fmt: skip
    points: dict[str, dict[str, list[Point]]] = {}
    is_nan = "is_nan" if "is_nan" in columns else "0"
    asked = f"SELECT run_uuid, key, value, step, timestamp, {is_nan} FROM metrics ORDER BY timestamp, rowid"
    for run, key, value, step, wall, nan in database.execute(asked):
        if (
            run in about
            and not str(key).startswith(SYSTEM)
            and all(isinstance(n, (int, float)) for n in (value, step, wall))
        ):
            point = (float(step), wall / 1000, math.nan if nan else unbounded(float(value)))
            points.setdefault(run, {}).setdefault(str(key), []).append(point)
    settings: dict[str, dict[str, Any]] = {run: {} for run in points}
    for run, key, value in database.execute("SELECT run_uuid, key, value FROM params"):
        if run in settings:
            settings[run][key] = value
    names: dict[str, str] = {}
    for run in points:
        names[unlike(about[run], run, names)] = run
    tables = {name: table_of_points(points[run]) for name, run in names.items()}
    return Log("MLflow", tables, {name: settings[run] for name, run in names.items()})


def unbounded(value: float) -> float:
    """Return a number as it was logged: the largest double stands for infinity."""
    return math.copysign(math.inf, value) if abs(value) >= LARGEST_DOUBLE else value


def trackio_database(database: sqlite3.Connection, columns: set[str]) -> Log:
    """Return the runs of trackio's tables: a row a call, its numbers as JSON."""
    key = "run_id" if "run_id" in columns else "run_name"
    rows: dict[str, list[dict[str, Any]]] = {}
    called: dict[str, str] = {}
    lost = 0
    for run, name, step, content in database.execute(f"SELECT {key}, run_name, step, metrics FROM metrics ORDER BY id"):
        record = json_object(content)
        if record is None:
            lost += 1
            continue
        called[str(run)] = str(name)
        rows.setdefault(str(run), []).append({**record, "step": step})
    configs = dict(configs_of(database, key))
    names: dict[str, str] = {}
    for run in rows:
        names[unlike(called[run], run, names)] = run
    tables = {
        name: replace(table_of_records([flat(row) for row in rows[run]], []), exact=True) for name, run in names.items()
    }
    said = (f"{lost} rows hold no JSON object and are left out",) if lost else ()
    return Log("trackio", tables, {name: configs.get(run, {}) for name, run in names.items()}, said)


def configs_of(database: sqlite3.Connection, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the settings of the runs of trackio, where there are any."""
    columns = {row[1] for row in database.execute("PRAGMA table_info(configs)")}
    if {key, "config"} <= columns:
        for run, content in database.execute(f"SELECT {key}, config FROM configs"):
            yield str(run), flat(json_object(content) or {})


def json_object(content: Any) -> dict[str, Any] | None:
    """Return the object that JSON text (or bytes) writes, None where it writes none."""
    try:
        found = json.loads(content)
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
