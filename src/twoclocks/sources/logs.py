"""This file knows how a log of scalars, as others write it, becomes a trajectory. It needs no torch.

Whatever was assumed on the way is said in `source.assumed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from twoclocks.errors import InputError, nearest
from twoclocks.sources.formats import open_log
from twoclocks.sources.names import CANONICAL as CANONICAL  # the command line lists them
from twoclocks.sources.names import ERROR_WORDS, TRAIN_WORDS, Meaning, words_of
from twoclocks.sources.names import meaning_of as meaning_of
from twoclocks.sources.several import as_seeds, chosen, refusal, told_apart, why_not_seeds
from twoclocks.sources.tables import Log, Table, cell_of
from twoclocks.trajectory import CANONICAL_UNITS, Array, Float, Series, Source, Trajectory


@dataclass(frozen=True)
class Reading:
    """How the table of one run is understood: what its columns mean, its rows in order of time, and what to say of it."""

    table: Table
    meanings: Mapping[str, Meaning]
    time: str
    order: Sequence[int]
    step: Array
    scale: Mapping[str, float]
    notes: Sequence[str]


def read_log(
    path: str | Path, columns: Mapping[str, str] | None = None, run: str | Sequence[str] | None = None
) -> Trajectory:
    """Read a log as a trajectory: text tables, JSON, parquet, TensorBoard, W&B, MLflow, trackio, Hugging Face's Trainer.

    Args:
        path: a file or a folder. columns: canonical name → column of the log, for what is not recognised by its name.
        run: of several runs the one to read, or several of them to read as seeds; "all" reads all of them as seeds.

    Raises:
        InputError: the path holds no log, no numbers, or several runs that are not seeds of one experiment; or `columns`
            or `run` names what is not there.
    """
    path = Path(path)
    return trajectory_of_log(open_log(path), str(path), columns or {}, run)


def read_columns(
    table: Any, columns: Mapping[str, str] | None = None, run: str | Sequence[str] | None = None
) -> Trajectory:
    """Read a table in memory (a pandas DataFrame, or a dict of equally long lists) as `read_log` reads a file."""
    names = list(table.keys())
    cells = {str(name): [cell_of(value) for value in np.asarray(table[name]).tolist()] for name in names}
    lengths = {len(column) for column in cells.values()}
    if len(lengths) != 1:
        raise InputError(f"a table needs columns of equal length, got {sorted(lengths)}; pad the short ones with None")
    log = Log("a table", {"the run": Table(cells, lengths.pop())})
    return trajectory_of_log(log, "a table in memory", columns or {}, run)


def trajectory_of_log(
    log: Log, path: str, asked: Mapping[str, str], run: str | Sequence[str] | None = None
) -> Trajectory:
    """Turn the tables of a log into a trajectory: of its one run, of the run asked for, or of its runs as seeds."""
    wanted = [run] if isinstance(run, str) else list(run or [])
    whole = told_apart(log, path)
    log = chosen(whole, wanted, path)
    if len(log.runs) > 1 and not wanted and (why := why_not_seeds(list(log.runs), log.settings)) is not None:
        raise refusal(path, list(log.runs), why)
    readings = {name: reading_of(table, of_run(path, name, log), asked) for name, table in log.runs.items()}
    scale = {name: value for reading in readings.values() for name, value in reading.scale.items()}
    trajectories = {name: trajectory_of(replace(r, scale=scale_of(r, scale)), path) for name, r in readings.items()}
    trajectory = as_seeds(trajectories, path) if len(trajectories) > 1 else next(iter(trajectories.values()))
    notes = list(log.notes)
    if len(whole.runs) > 1 and len(log.runs) == 1:
        notes.append(f"of {len(whole.runs)} runs, {next(iter(log.runs))} is read")
    return with_notes(trajectory, notes)


def of_run(path: str, name: str, log: Log) -> str:
    """Return what a refusal names: the path, and the run where there are several."""
    return f"{path}, run {name}," if len(log.runs) > 1 else path


def scale_of(reading: Reading, scale: Mapping[str, float]) -> dict[str, float]:
    """Return the columns of a run in percent: those that are so in any run, since one program wrote them all."""
    return {name: value for name, value in scale.items() if name in reading.meanings}


def with_notes(trajectory: Trajectory, notes: Sequence[str]) -> Trajectory:
    """Return a trajectory with more to say of how it was read."""
    assumed = tuple(dict.fromkeys([*notes, *trajectory.source.assumed]))
    return replace(trajectory, source=replace(trajectory.source, assumed=assumed))


def reading_of(table: Table, path: str, asked: Mapping[str, str]) -> Reading:
    """Return how the table of one run is understood."""
    numeric = [name for name in table.cells if table.is_numeric(name)]
    if table.rows == 0 or not numeric:
        raise InputError(
            f"{path} holds no numbers under its header ({', '.join(table.cells) or 'no columns'}); "
            "expected at least a loss or an accuracy"
        )
    meanings, doubts = meanings_of(numeric, table, asked)
    time, time_note, order, step = time_of(table, meanings)
    notes = [*table.notes, *time_note, *doubts]
    return Reading(table, meanings, time, order, step, accuracy_scales(table, meanings, order), notes)


def trajectory_of(reading: Reading, path: str) -> Trajectory:
    """Turn the table of one run into a trajectory, and say what was assumed."""
    table, meanings = reading.table, reading.meanings
    numeric = [name for name in table.cells if table.is_numeric(name)]
    scalars: dict[str, Series] = {}
    for name in numeric:
        meaning = meanings.get(name)
        canonical = meaning.canonical if meaning else name
        if canonical == reading.time or (meaning and canonical == "step"):
            continue
        numbers = table.numbers(name)
        values = [numbers[row] for row in reading.order]
        form = meaning.form if meaning else "as is"
        scale = reading.scale.get(name, 1.0)
        series = series_of(canonical, reading.step, values, form, scale, whole=table.exact)
        if series is not None and (meaning or canonical not in scalars):
            scalars[canonical] = series
    notes = [*reading.notes, *notes_of_forms(meanings, reading.scale), *unread(table, numeric, meanings)]
    mapped = {name: meaning.canonical for name, meaning in meanings.items()}
    return Trajectory(Source(path, "log", table.rows, reading.time, mapped, tuple(dict.fromkeys(notes))), scalars)


def meanings_of(names: Sequence[str], table: Table, asked: Mapping[str, str]) -> tuple[dict[str, Meaning], list[str]]:
    """Return what each column means; where two could mean the same, the plainer name with more values is used."""
    meanings: dict[str, Meaning] = {}
    for canonical, name in asked.items():
        if canonical not in CANONICAL:
            raise InputError(f"--map: {canonical!r} is not a canonical column.{nearest(canonical, list(CANONICAL))}")
        if name not in table.cells:
            raise InputError(f"--map: the log has no column {name!r}.{nearest(name, list(table.cells))}")
        if name not in names:
            raise InputError(f"--map: column {name!r} holds no numbers; name a column of numbers for {canonical}")
        form = "error" if canonical.endswith("accuracy") and set(words_of(name)) & ERROR_WORDS else "as is"
        meanings[name] = Meaning(canonical, form, -1)
    rivals: dict[str, list[str]] = {}
    found = {name: meaning for name in names if name not in meanings and (meaning := meaning_of(name)) is not None}
    for name, meaning in found.items():
        if meaning.canonical not in asked:
            rivals.setdefault(meaning.canonical, []).append(name)
    notes = []
    for canonical, claimants in rivals.items():
        count = {name: sum(cell is not None for cell in table.numbers(name)) for name in claimants}
        most = max(count.values())
        chosen = min(claimants, key=lambda n: (count[n] < 0.2 * most, found[n].doubt, -count[n], claimants.index(n)))
        meanings[chosen] = found[chosen]
        if len(claimants) > 1 and canonical not in ("step", "epoch", "lr", "weight_norm"):
            others = ", ".join(name for name in claimants if name != chosen)
            notes.append(f"{canonical} is read from {chosen}, not from {others}; use --map to choose otherwise")
    return meanings, notes


def time_of(table: Table, meanings: Mapping[str, Meaning]) -> tuple[str, list[str], list[int], Array]:
    """Return what time counts, what to say of it, the rows in order of time, and their times."""
    named = {m.canonical: name for name, m in meanings.items() if m.canonical in ("step", "epoch")}
    for time in ("step", "epoch"):
        if time in named:
            values = np.array([np.nan if v is None else v for v in table.numbers(named[time])], dtype=np.float64)
            usable = np.isfinite(values)
            if usable.sum() >= max(2, 0.5 * table.rows) or (usable.sum() == table.rows == 1):
                if np.all(values[usable] == values[usable][0]) and usable.sum() > 1:
                    continue
                return (
                    time,
                    *ordered(values, named[time], time, table, named.get("epoch") if time == "step" else None),
                )
    note = "no step column was found, so row numbers (from 0) count as steps; use --map step=COLUMN if there is one"
    return "row", [note], list(range(table.rows)), np.arange(table.rows, dtype=np.int64)


def ordered(values: Float, name: str, time: str, table: Table, epoch: str | None) -> tuple[list[str], list[int], Array]:
    """Return the rows in order of time, after undoing counters that start again, restarts and unsorted writing."""
    notes = [f"there is no step column, so {name} counts as time, in epochs"] if time == "epoch" else []
    rows = [int(i) for i in np.flatnonzero(np.isfinite(values))]
    if len(rows) < len(values):
        notes.append(f"{len(values) - len(rows)} rows without a {time} are left out")
    times = values[rows]
    back = np.flatnonzero(np.diff(times) < 0) + 1
    if len(back) and epoch is not None and starts_again_each_epoch(back, table.numbers(epoch), rows):
        jumps = np.zeros(len(times))
        jumps[back] = times[back - 1] + 1
        times = times + np.cumsum(jumps)
        notes.append(f"{name} starts again in every epoch, so its values were added up")
    elif len(back):
        rows, times, note = without_abandoned(rows, times, back, name)
        notes.append(note)
    order = np.argsort(times, kind="stable")
    times = times[order]
    whole = bool(np.all(times == np.round(times)) and np.abs(times).max(initial=0) < 2**53)
    return notes, [rows[i] for i in order], times.astype(np.int64) if whole else times


def starts_again_each_epoch(back: Any, epochs: Sequence[float | None], rows: Sequence[int]) -> bool:
    """Return whether the counter goes back just where the epoch goes on (and more than once)."""
    steps = [(epochs[rows[i - 1]], epochs[rows[i]]) for i in back]
    return len(steps) >= 2 and all(
        before is not None and after is not None and after > before for before, after in steps
    )


def without_abandoned(rows: list[int], times: Float, back: Any, name: str) -> tuple[list[int], Float, str]:
    """Return the rows without those that a restart wrote again; rows that are merely unsorted are all kept.

    A restart goes back to a step inside what was already written and goes on from there: the rows written before it, from
    that step on, belong to a branch that was abandoned. Many steps back, or a step before all the others, is bad order.
    """
    if len(back) > max(5, 0.02 * len(times)) or any(times[i] < times[:i].min() for i in back):
        return rows, times, f"the rows were not in order of {name} and were sorted"
    keep = np.ones(len(times), dtype=bool)
    for i in back:
        keep[:i] &= times[:i] < times[i]
    lost = int((~keep).sum())
    kept = [row for row, stays in zip(rows, keep, strict=True) if stays]
    times_back = f"{len(back)} time{'s' if len(back) > 1 else ''}"
    note = f"{name} goes back {times_back} (a restart); the {lost} rows that were written again count once, as written last"
    return kept, times[keep], note


def series_of(
    name: str, step: Array, cells: Iterable[float | None], form: str, scale: float, whole: bool
) -> Series | None:
    """Return one column as a series: absent cells left out, a step written twice counted once (as written last).

    In a column that is not `whole`, a NaN may only fill a cell in which nothing was measured.
    """
    column = {s: v for s, v in zip(step.tolist(), cells, strict=True) if v is not None}
    if not column:
        return None
    value = np.array(list(column.values()), dtype=np.float64) / scale
    if form == "error":
        value = 1.0 - value
    elif form == "perplexity":
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.log(value)
    times = np.array(list(column), dtype=step.dtype)
    times, value = (times, value) if whole else without_missing(times, value)
    return Series(name, CANONICAL_UNITS.get(name, ""), times, value[None]) if len(times) else None


def without_missing(step: Array, value: Float) -> tuple[Array, Float]:
    """Drop the NaNs that only fill a table where nothing was measured, and keep those that were.

    Tools that write tables put NaN in empty cells. Such NaNs come in stretches no longer than the column's own rhythm; a
    loss that became NaN stays NaN to the end, for longer than any stretch before.
    """
    nan = np.isnan(value)
    if not nan.any():
        return step, value
    finite = np.flatnonzero(~nan)
    if not len(finite):
        return step[:0], value[:0]
    tail = len(value) - 1 - int(finite[-1])
    longest = int(np.diff(finite).max(initial=1)) - 1 if len(finite) > 1 else int(finite[0])
    keep = ~nan
    if tail > max(2, 2 * max(longest, int(finite[0]))) or (tail >= 1 and longest == 0 and finite[0] == 0):
        keep[finite[-1] + 1 :] = True
    return step[keep], value[keep]


def accuracy_scales(table: Table, meanings: Mapping[str, Meaning], order: Sequence[int]) -> dict[str, float]:
    """Return 100 for each accuracy or error column that is in percent.

    A column that exceeds 1.5 is. One that does not may still be (0.9 % at chance): where another column is in percent, it
    is read in the unit in which both start closer together, as training and held-out accuracy do.
    """
    names = [name for name, meaning in meanings.items() if meaning.canonical.endswith("accuracy")]
    columns = {name: finite for name in names if len(finite := finite_numbers(table.numbers(name), order))}
    percent = {name for name, column in columns.items() if name in table.percent or exceeds_one(column)}
    starts = [start_of(columns[name], meanings[name].form, 100.0) for name in percent]
    for name, column in columns.items():
        if name not in percent and starts:
            apart = {scale: abs(start_of(column, meanings[name].form, scale) - starts[0]) for scale in (1.0, 100.0)}
            percent |= {name} if apart[100.0] < apart[1.0] else set()
    return dict.fromkeys(percent, 100.0)


def exceeds_one(column: Float) -> bool:
    """Return whether a column of accuracies can only be in percent.

    One or two values above 1.5 among many may be slips of the pen. Then others must exceed 1 too, or all look like chance
    in percent, which hardly varies, with the high ones at the very end, where a late rise has just begun.
    """
    above, count = column > 1.5, int((column > 1.5).sum())
    if not count or float(column.max()) > 100.5:
        return False
    if len(column) < 5 or count >= max(3, 0.05 * len(column)):
        return True
    others = column[~above]
    late = int(above[-count - 1 :].sum()) == count
    beyond = int((others > 1.0).sum()) >= max(2, 0.1 * len(others))
    return beyond or (late and float(others.max()) <= 3 * float(others.min()))


def start_of(column: Float, form: str, scale: float) -> float:
    """Return the accuracy with which a column starts, if it is to be divided by `scale`."""
    start = float(column[0]) / scale
    return 1.0 - start if form == "error" else start


def unread(table: Table, numeric: Sequence[str], meanings: Mapping[str, Meaning]) -> list[str]:
    """Return which columns say nothing known by their names, or hold no numbers, where a split was not found."""
    found = {meaning.canonical.split("_")[0] for meaning in meanings.values()}
    others = [name for name in numeric if name not in meanings]
    if {"train", "heldout"} <= found:
        return []
    notes = (
        [f"these columns were kept but say nothing known: {', '.join(others)}; name them with --map"] if others else []
    )
    texts = [name for name in table.cells if name not in numeric]
    return notes + ([f"these columns hold no numbers: {', '.join(texts)}"] if texts else [])


def finite_numbers(cells: Sequence[float | None], order: Sequence[int]) -> Float:
    """Return the finite numbers of a column, in order of time."""
    return np.array([v for row in order if (v := cells[row]) is not None and np.isfinite(v)], dtype=np.float64)


def notes_of_forms(meanings: Mapping[str, Meaning], scale: Mapping[str, float]) -> list[str]:
    """Return what was assumed of the values of columns."""
    notes = [f"{name} is in percent and was divided by 100" for name in meanings if name in scale]
    notes += [f"{name} is an error rate; accuracy is 1 − {name}" for name, m in meanings.items() if m.form == "error"]
    notes += [
        f"{name} is a perplexity; the loss is its logarithm" for name, m in meanings.items() if m.form == "perplexity"
    ]
    bare = [
        n
        for n, m in meanings.items()
        if m.canonical.startswith("train_") and not set(words_of(n)) & TRAIN_WORDS and m.doubt >= 0
    ]
    return notes + [f"{name} names no split and is taken to be of the training examples" for name in bare]
