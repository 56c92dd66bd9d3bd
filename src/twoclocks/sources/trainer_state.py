"""This file knows trainer_state.json, in which the Trainer of Hugging Face keeps the history of the run so far."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from twoclocks.errors import InputError
from twoclocks.sources.tables import Log, Table, flat, read_text, table_of_records

NAME = "trainer_state.json"
CHECKPOINT = re.compile(r"checkpoint-\d+")


def trainer_log(files: Iterable[Path], root: Path) -> Log:
    """Read trainer states as runs: of the states of one output folder, the one that got furthest holds the whole history.

    Raises:
        InputError: none can be read.
    """
    best: dict[str, tuple[tuple[float, int], Table]] = {}
    refused: list[str] = []
    for path in sorted(files):
        try:
            reached, table = state_of(path)
        except InputError as refusal:
            refused.append(str(refusal))
            continue
        run = run_named(path, root)
        if run not in best or reached >= best[run][0]:
            best[run] = reached, table
    if not best:
        raise InputError(refused[0])
    notes = (f"{len(refused)} states were left out ({refused[0]})",) if refused else ()
    return Log("Hugging Face Trainer", {run: table for run, (_, table) in best.items()}, notes=notes)


def run_named(path: Path, root: Path) -> str:
    """Return the name of the run that a state belongs to: its output folder's."""
    folder = path.parent.parent if CHECKPOINT.fullmatch(path.parent.name) and path.parent != root else path.parent
    return folder.relative_to(root).as_posix() if folder != root and folder.is_relative_to(root) else folder.name


def state_of(path: Path) -> tuple[tuple[float, int], Table]:
    """Return how far a state got (step, entries), and its history as a table."""
    try:
        state = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not valid JSON ({error}); it may be cut off: name an earlier checkpoint") from None
    return content_of(state, path)


def log_of_state(state: Any, path: Path) -> Log:
    """Return the run that one state holds."""
    return Log("Hugging Face Trainer", {path.parent.name: content_of(state, path)[1]})


def content_of(state: Any, path: Path) -> tuple[tuple[float, int], Table]:
    """Return how far the state in a file got (step, entries), and its history as a table."""
    if not is_state(state) or not state["log_history"]:
        raise InputError(f"{path} has no log_history; name a checkpoint that was written after something was logged")
    table = table_of_history(state["log_history"])
    reached = state.get("global_step")
    return (float(reached) if isinstance(reached, (int, float)) else 0.0, table.rows), table


def is_state(content: Any) -> bool:
    """Return whether JSON content is the state of a trainer."""
    history = content.get("log_history") if isinstance(content, dict) else None
    return isinstance(history, list) and all(isinstance(row, dict) for row in history)


def table_of_history(history: list[dict[str, Any]]) -> Table:
    """Join a history into a table; the summary at its end gives the mean loss of the whole training, which is no row of it."""
    rows = [{k: v for k, v in row.items() if not ("train_runtime" in row and k == "train_loss")} for row in history]
    return replace(table_of_records([flat(row) for row in rows], []), exact=True)
