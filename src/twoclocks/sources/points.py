"""This file knows how points, written one quantity at a time (TensorBoard, MLflow), become one table with a row a step.

Each quantity has an order of writing of its own: a step that goes back is a restart of that quantity alone, and quantities
may count differently (one in steps, one in epochs), which only the clock on the wall can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twoclocks.sources.tables import Table

Point = tuple[float, float, float]  # step, seconds on the wall (0: unknown), value
FEWEST_TO_COMPARE = 3
Float = NDArray[np.float64]


def table_of_points(points: Mapping[str, Sequence[Point]], time: str = "step") -> Table:
    """Join quantities into a table with one row a step, restarts undone, other counters translated.

    >>> table_of_points({"loss": [(0, 0.0, 3.0), (10, 0.0, 2.0)], "acc": [(10, 0.0, 0.5)]}).cells
    {'step': [0.0, 10.0], 'loss': [3.0, 2.0], 'acc': [None, 0.5]}
    """
    columns = {name: np.array(column, dtype=np.float64) for name, column in points.items() if len(column)}
    if is_uncounted(columns.values()):
        return table_of_places(columns)
    notes: list[str] = []
    kept = {name: without_abandoned(name, column, notes) for name, column in columns.items()}
    kept = on_one_counter(kept, notes)
    steps = np.unique(np.concatenate([column[:, 0] for column in kept.values()])) if kept else np.empty(0)
    cells: dict[str, list[Any]] = {time: steps.tolist()}
    for name, column in kept.items():
        cells[name if name != time else f"{name} (logged)"] = placed(steps, column)
    return Table(cells, len(steps), tuple(notes), exact=True)


def placed(steps: Float, column: Float) -> list[Any]:
    """Return one quantity at the steps of a table, None where it was not written; of a step written twice, the last."""
    cells: list[Any] = [None] * len(steps)
    for place, value in zip(np.searchsorted(steps, column[:, 0]).tolist(), column[:, 2].tolist(), strict=True):
        cells[place] = value
    return cells


def is_uncounted(columns: Any) -> bool:
    """Return whether no quantity was given steps: each was written several times, and always at the same one."""
    long = [column for column in columns if len(column) > 1]
    return bool(long) and all(bool((column[:, 0] == column[0, 0]).all()) for column in long)


def table_of_places(columns: Mapping[str, Float]) -> Table:
    """Join quantities that were written without steps: the n-th values of all stand in one row."""
    rows = max(len(column) for column in columns.values())
    cells = {name: column[:, 2].tolist() + [None] * (rows - len(column)) for name, column in columns.items()}
    note = "the values were written without steps, so the n-th values of all stand together"
    return Table(cells, rows, (note,), exact=True)


def without_abandoned(name: str, column: Float, notes: list[str]) -> Float:
    """Return one quantity without the points that a restart wrote again; points merely out of order all stay."""
    step = column[:, 0]
    back = np.flatnonzero(np.diff(step) < 0) + 1
    if not len(back):
        return column
    if len(back) > max(5, 0.02 * len(step)) or any(step[i] < step[:i].min() for i in back):
        notes.append(f"{name} was not written in order of its steps and was sorted")
        return column[np.argsort(step, kind="stable")]
    keep = np.ones(len(step), dtype=bool)
    for i in back:
        keep[:i] &= step[:i] < step[i]
    lost, times = int((~keep).sum()), f"{len(back)} time{'s' if len(back) > 1 else ''}"
    notes.append(f"{name} goes back {times} (a restart); {lost} values that were written again count as written last")
    return column[keep]


def on_one_counter(columns: Mapping[str, Float], notes: list[str]) -> dict[str, Float]:
    """Return the quantities at steps of one counter, where the clock on the wall shows that some count otherwise."""
    long = [name for name, column in columns.items() if len(column) >= FEWEST_TO_COMPARE]
    if not long:
        return dict(columns)
    leader = max(long, key=lambda name: columns[name][-1, 0])
    return {name: translated(name, column, leader, columns[leader], notes) for name, column in columns.items()}


def translated(name: str, column: Float, leader: str, leading: Float, notes: list[str]) -> Float:
    """Return one quantity at the leader's steps, if it counts 0, 1, 2, … while the leader counts on evenly and much faster."""
    step, wall = column[:, 0], column[:, 1]
    if len(step) < FEWEST_TO_COMPARE or not (np.diff(step) == 1).all() or step[-1] > 0.5 * leading[-1, 0]:
        return column
    if not (np.diff(leading[:, 1]) >= 0).all() or leading[0, 1] <= 0 or wall[0] <= 0:
        return column
    place = np.searchsorted(leading[:, 1], wall, side="right") - 1
    there = leading[np.maximum(place, 0), 0]
    gaps = np.diff(there)
    if not (gaps > 1).all() or gaps.max() > 3 * np.median(gaps) or there[-1] < 2 * step[-1] + 2:
        return column
    notes.append(
        f"{name} counts {step[0]:g} to {step[-1]:g} while {leader} counts to {leading[-1, 0]:g}, so each of its values "
        f"stands at the last step of {leader} before it was written"
    )
    return np.column_stack([there, wall, column[:, 2]])
