"""This file knows which reader a path takes: files by their content where it tells, folders by what lies in them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twoclocks.errors import InputError
from twoclocks.sources import parquet, tensorboard, trackers, trainer_state, wandb_runs
from twoclocks.sources.several import listed
from twoclocks.sources.tables import Log, Table, read_text, table_of_json, table_of_text
from twoclocks.store import MANIFEST

MOST_FILES = 200_000
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
JSON_NAMES = ("history", "metrics", "log", "logs", "results", "scalars", "train_log", "training_log", "all_results")
DATABASES = (".db", ".sqlite", ".sqlite3")
EXPECTED = "TensorBoard events, W&B, MLflow or trackio runs, trainer_state.json, CSV, JSON lines or parquet"
Reader = Callable[[Iterable[Path], Path], Log]


def open_log(path: Path) -> Log:
    """Return what lies at a path, a table a run.

    Raises:
        InputError: nothing there can be read as a log.
    """
    try:
        return log_of_folder(path) if path.is_dir() else log_of_file(path)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}; check the path and its permissions"
        ) from None


def log_of_file(path: Path) -> Log:
    """Return what one file holds, recognised by its first bytes, or else by its name, or else read as text."""
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(64)
    if head.startswith(trackers.SQLITE) or (head and path.suffix in DATABASES):
        return trackers.database_log(path)
    if head.startswith(parquet.MAGIC) or (head and path.suffix == ".parquet"):
        return Log("parquet", {path.stem: parquet.parquet_table(path)})
    if head.startswith(wandb_runs.HEAD) or (head and path.suffix == ".wandb"):
        return wandb_runs.wandb_log([path], path)
    if tensorboard.is_events(head) or (head and "tfevents" in path.name):
        return tensorboard.tensorboard_log([path], path)
    if head and path.name == trainer_state.NAME:
        return trainer_state.trainer_log([path], path.parent)
    return log_of_text(path)


def log_of_text(path: Path) -> Log:
    """Return what a text file holds: a table, or JSON that holds several runs, or the splits of one, by name."""
    text = read_text(path)  # once only: it may be a pipe
    content = object_of(text)
    if trainer_state.is_state(content):
        return trainer_state.log_of_state(content, path)
    parts = parts_of_json(content)
    if parts:
        return Log("JSON", {name: table_of_part(part, name, path) for name, part in parts.items()})
    return Log("a table", {path.stem: named_by_file(table_of_text(text, path), path)})


def object_of(text: str) -> Any:
    """Return the content of JSON text that writes one object, None for every other."""
    if text.lstrip()[:1] != "{":
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def parts_of_json(content: Any) -> dict[str, Any]:
    """Return the runs or splits that a JSON object holds by name: lists of records, or objects of lists with equal keys."""
    if not isinstance(content, dict):
        return {}
    logs = {name: part for name, part in content.items() if is_records(part)}
    if len(logs) > 1:
        return logs
    columns = all(
        isinstance(part, dict) and any(isinstance(c, list) for c in part.values()) for part in content.values()
    )
    return (
        content if columns and len(content) > 1 and len({tuple(sorted(part)) for part in content.values()}) == 1 else {}
    )


def is_records(part: Any) -> bool:
    """Return whether a part of JSON content is a list of records."""
    return isinstance(part, list) and bool(part) and all(isinstance(row, dict) for row in part)


def table_of_part(part: Any, name: str, path: Path) -> Table:
    """Return the table of one run or split in a JSON file."""
    return table_of_json(json.dumps(part), path / name)


def named_by_file(table: Table, path: Path) -> Table:
    """Return a table downloaded from TensorBoard (Wall time, Step, Value) with its value named as the file says."""
    if list(table.cells) != ["Wall time", "Step", "Value"]:
        return table
    name = path.stem.rsplit("tag-", 1)[-1]
    return replace(table, cells={"Step": table.cells["Step"], name: table.cells["Value"]})


def log_of_folder(folder: Path) -> Log:
    """Return the runs of a folder: those of the first kind of log found in it, in the order of `families_of`.

    Raises:
        InputError: it holds no log, or none that can be read.
    """
    found = [(kind, files, read) for kind, files, read in families_of(list(files_in(folder))) if files]
    if not found:
        within = [path.parent.name for path in sorted(folder.glob(f"*/{MANIFEST}"))]
        hint = f"name one of the run folders in it ({listed(within)})" if within else f"expected {EXPECTED}"
        raise InputError(f"{folder} is not a run folder (it has no {MANIFEST}) and holds no log; {hint}")
    (_, files, read), others = found[0], found[1:]
    log = read(files, folder)
    also = [
        f"{folder} also holds {kind}, which is not read ({more[0].relative_to(folder)}); name that to read it"
        for kind, more, _ in others
    ]
    return replace(log, notes=(*log.notes, *also))


def families_of(files: Sequence[Path]) -> Iterator[tuple[str, list[Path], Reader]]:
    """Yield each kind of log with the files of it and its reader; what tells most of a run comes first."""
    named = [path for path in files if path.name == trainer_state.NAME]
    yield "trainer_state.json", named, trainer_state.trainer_log
    yield "W&B", [path for path in files if path.suffix == ".wandb"], wandb_runs.wandb_log
    metas = [path for path in files if path.name == "meta.yaml" and trackers.is_run_of_mlflow(path)]
    yield "MLflow", metas, trackers.mlflow_log
    yield "a database", [p for p in files if p.suffix in DATABASES and begins_with(p, trackers.SQLITE)], databases_log
    yield "TensorBoard", [path for path in files if "tfevents" in path.name], tensorboard.tensorboard_log
    tables = [p for p in files if p.suffix in TABLES or (p.suffix == ".json" and p.stem in JSON_NAMES)]
    yield "tables", tables, tables_log


def files_in(folder: Path) -> Iterator[Path]:
    """Yield the files under a folder in order; hidden folders, links to folders and run folders are left out."""
    count = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if MANIFEST not in names else []
        names = [] if MANIFEST in names else names
        for name in sorted(names):
            count += 1
            if count > MOST_FILES:
                raise InputError(f"{folder} holds more than {MOST_FILES} files; name the folder of the log itself")
            yield Path(parent, name)


def begins_with(path: Path, magic: bytes) -> bool:
    """Return whether a file begins with some bytes."""
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def databases_log(files: Iterable[Path], root: Path) -> Log:
    """Read a folder's database; several are listed, since each is a project of its own."""
    files = list(files)
    if len(files) > 1:
        raise InputError(
            f"{root} holds {len(files)} databases ({listed([str(p.relative_to(root)) for p in files])}); name one"
        )
    return trackers.database_log(files[0])


def tables_log(files: Iterable[Path], root: Path) -> Log:
    """Read the tables of a folder as runs, each named by where it lies; hparams.yaml beside one holds its settings.

    Raises:
        InputError: none can be read.
    """
    runs: dict[str, Table] = {}
    settings: dict[str, dict[str, Any]] = {}
    refused: list[str] = []
    names = names_of_files(list(files), root)
    for path, name in names.items():
        try:
            log = log_of_file(path)
        except InputError as refusal:
            refused.append(str(refusal))
            continue
        hparams = path.parent / "hparams.yaml"
        for part, table in log.runs.items():
            run = name if len(log.runs) == 1 else f"{name}/{part}"
            runs[run] = table
            settings[run] = dict(trackers.plain_yaml(hparams)) if hparams.is_file() else {}
    if not runs:
        raise InputError(refused[0])
    notes = tuple(f"not read: {why}" for why in refused[:3])
    return Log("tables", runs, settings if all(settings.values()) else {}, notes)


def names_of_files(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """Return a name for each file: its folder's where all files are called alike, its own else, with its ending if needed."""
    if len(files) > 1 and len({path.name for path in files}) == 1:
        return {path: path.relative_to(root).parent.as_posix() for path in files}
    bare = [path.relative_to(root).with_suffix("").as_posix() for path in files]
    return {
        path: name if bare.count(name) == 1 else path.relative_to(root).as_posix()
        for path, name in zip(files, bare, strict=True)
    }
