"""This file knows how a log of scalars, as others write it, becomes a trajectory. It needs no torch.

Names are recognised by their words, not by a list of whole names: a split (train, or one of test, val, valid, validation,
eval, dev, heldout) and a quantity (loss, accuracy or error). Whatever was assumed on the way is said in `source.assumed`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twoclocks.errors import InputError, nearest
from twoclocks.sources.tables import Table, cell_of, read_table
from twoclocks.trajectory import CANONICAL_UNITS, Array, Float, Series, Source, Trajectory

CANONICAL = ("step", "epoch", "train_loss", "train_accuracy", "heldout_loss", "heldout_accuracy", "lr", "weight_norm")
STEP_NAMES = (
    "step", "steps", "_step", "global_step", "globalstep", "iteration", "iterations", "iter", "iters", "it", "update",
    "updates", "num_updates", "optimizer_step", "optimizer_steps", "opt_step", "training_step", "train_step", "batch", "t",
)  # fmt: skip
EPOCH_NAMES = ("epoch", "epochs", "_epoch", "ep")
LR_NAMES = ("lr", "learning_rate", "learningrate")
NORM_NAMES = ("weight_norm", "wn", "wn_total", "param_norm", "parameter_norm", "weights_norm", "l2_norm", "norm")
RUN_NAMES = ("seed", "run", "run_id", "run_name", "trial")
TRAIN_WORDS = frozenset({"train", "training", "trn", "tr"})
HELDOUT_WORDS = (
    "heldout",
    "held",
    "holdout",
    "val",
    "valid",
    "validation",
    "test",
    "testing",
    "eval",
    "evaluation",
    "dev",
)
LOSS_WORDS = frozenset({"loss", "nll", "ce", "xent", "crossentropy", "mse", "risk", "cost", "objective"})
ACCURACY_WORDS = frozenset({"acc", "accuracy", "accuracies", "top1"})
ERROR_WORDS = frozenset({"error", "err", "errors"})
PERPLEXITY_WORDS = frozenset({"perplexity", "ppl"})
IDLE_WORDS = frozenset(
    {"out", "set", "split", "mean", "avg", "average", "epoch", "step", "rate", "cross", "entropy", "categorical", "sparse",
     "binary", "metrics", "metric", "history", "total", "running", "score", "the", "of", "on", "1", "top", "full", "final"}
)  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """What a column was taken to be: the canonical name, how its values become ours, and how sure the name is."""

    canonical: str
    form: str  # "as is", "error" (1 − value) or "perplexity" (log value)
    doubt: int  # words of the name that carry no meaning here; the least doubtful column of a kind is used


def read_log(path: str | Path, columns: Mapping[str, str] | None = None) -> Trajectory:
    """Read a log file (CSV, TSV, JSON lines, a JSON list) as a trajectory of one run.

    Args:
        path: the file. columns: canonical name → column of the file, for what is not recognised by its name.

    Raises:
        InputError: the file cannot be read as a table, holds no numbers, or `columns` names what is not there.
    """
    path = Path(path)
    return trajectory_of_table(read_table(path), str(path), columns or {})


def read_columns(table: Any, columns: Mapping[str, str] | None = None) -> Trajectory:
    """Read a table in memory (a pandas DataFrame, or a dict of equally long lists) as a trajectory of one run."""
    names = list(table.keys())
    cells = {str(name): [cell_of(value) for value in np.asarray(table[name]).tolist()] for name in names}
    lengths = {len(column) for column in cells.values()}
    if len(lengths) != 1:
        raise InputError(f"a table needs columns of equal length, got {sorted(lengths)}; pad the short ones with None")
    return trajectory_of_table(Table(cells, lengths.pop()), "a table in memory", columns or {})


def trajectory_of_table(table: Table, path: str, asked: Mapping[str, str]) -> Trajectory:
    """Turn a table of cells into a trajectory, and say what was assumed."""
    table, notes = one_run_of(table)
    numeric = [name for name in table.cells if table.is_numeric(name)]
    if table.rows == 0 or not numeric:
        raise InputError(
            f"{path} holds no numbers under its header ({', '.join(table.cells) or 'no columns'}); "
            "expected at least a loss or an accuracy"
        )
    meanings, doubts = meanings_of(numeric, table, asked)
    time, time_note, order, step = time_of(table, meanings)
    scale = accuracy_scales(table, meanings, order)
    scalars: dict[str, Series] = {}
    for name in numeric:
        meaning = meanings.get(name)
        canonical = meaning.canonical if meaning else name
        if canonical == time or (meaning and canonical == "step"):
            continue
        numbers = table.numbers(name)
        values = [numbers[row] for row in order]
        series = series_of(canonical, step, values, meaning.form if meaning else "as is", scale.get(name, 1.0))
        if series is not None and (meaning or canonical not in scalars):
            scalars[canonical] = series
    notes = [
        *table.notes,
        *notes,
        *time_note,
        *doubts,
        *notes_of_forms(meanings, scale),
        *unread(table, numeric, meanings),
    ]
    mapped = {name: meaning.canonical for name, meaning in meanings.items()}
    return Trajectory(Source(path, "log", table.rows, time, mapped, tuple(dict.fromkeys(notes))), scalars)


def one_run_of(table: Table) -> tuple[Table, list[str]]:
    """Return the rows of the longest run where a column tells several runs apart."""
    for name in table.cells:
        if snake(name) in RUN_NAMES:
            keys = [str(cell) for cell in table.cells[name]]
            runs = {key: keys.count(key) for key in dict.fromkeys(keys)}
            if 1 < len(runs) <= 0.5 * table.rows:
                chosen = max(runs, key=lambda key: runs[key])
                rows = [i for i, key in enumerate(keys) if key == chosen]
                cells = {n: [column[i] for i in rows] for n, column in table.cells.items()}
                which = chosen.removesuffix(".0")
                note = (
                    f"the file holds {len(runs)} runs (column {name}); {name} = {which} is read, the longest or first"
                )
                return Table(cells, len(rows), table.notes, table.percent), [note]
    return table, []


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


def meaning_of(name: str) -> Meaning | None:
    """Return what a column is by its name, or None where the name says nothing known.

    >>> meaning_of("Val Acc").canonical, meaning_of("test_error").form, meaning_of("loss").canonical, meaning_of("beta")
    ('heldout_accuracy', 'error', 'train_loss', None)
    """
    name = name.rsplit(" - ", 1)[-1]  # some exports put the run's name in front
    plain, words = snake(name), words_of(name)
    for canonical, known in (
        ("step", STEP_NAMES),
        ("epoch", EPOCH_NAMES),
        ("lr", LR_NAMES),
        ("weight_norm", NORM_NAMES),
    ):
        tail = "_".join(words[1:]) if len(words) > 1 and words[0] in {"train", "trainer", "optim"} else plain
        if plain in known or tail in known:
            return Meaning(
                canonical, "as is", 0 if plain == canonical else 1 + known.index(plain if plain in known else tail)
            )
    kind = next(
        (
            (quantity, form, group)
            for group, quantity, form in (
                (ACCURACY_WORDS, "accuracy", "as is"),
                (LOSS_WORDS, "loss", "as is"),
                (ERROR_WORDS, "accuracy", "error"),
                (PERPLEXITY_WORDS, "loss", "perplexity"),
            )
            if set(words) & group
        ),
        None,
    )
    if kind is None and {"cross", "entropy"} <= set(words):
        kind = ("loss", "as is", LOSS_WORDS)
    if kind is None:
        return None
    quantity, form, group = kind
    splits = [
        "heldout" if word in HELDOUT_WORDS else "train"
        for word in words
        if word in HELDOUT_WORDS or word in TRAIN_WORDS
    ]
    idle = [word for word in words if word not in group and word not in HELDOUT_WORDS and word not in TRAIN_WORDS]
    if len(set(splits)) > 1 or any(word not in IDLE_WORDS for word in idle):
        return None
    doubt = len(idle) + (0 if splits else 1) + (2 if form == "perplexity" else 0) + (1 if form == "error" else 0)
    return Meaning(f"{splits[0] if splits else 'train'}_{quantity}", form, doubt)


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


def series_of(name: str, step: Array, cells: Iterable[float | None], form: str, scale: float) -> Series | None:
    """Return one column as a series: absent cells left out, a step written twice counted once (as written last)."""
    column = {s: v for s, v in zip(step.tolist(), cells, strict=True) if v is not None}
    if not column:
        return None
    value = np.array(list(column.values()), dtype=np.float64) / scale
    if form == "error":
        value = 1.0 - value
    elif form == "perplexity":
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.log(value)
    times, value = without_missing(np.array(list(column), dtype=step.dtype), value)
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
    percent = {name for name, column in columns.items() if name in table.percent or 1.5 < column.max() <= 100.5}
    starts = [start_of(columns[name], meanings[name].form, 100.0) for name in percent]
    for name, column in columns.items():
        if name not in percent and starts:
            apart = {scale: abs(start_of(column, meanings[name].form, scale) - starts[0]) for scale in (1.0, 100.0)}
            percent |= {name} if apart[100.0] < apart[1.0] else set()
    return dict.fromkeys(percent, 100.0)


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


def words_of(name: str) -> list[str]:
    """Return the lower-case words of a column name, camel case and digits split off.

    >>> words_of("trainLoss"), words_of("Eval/held-out Acc@1")
    (['train', 'loss'], ['eval', 'held', 'out', 'acc', '1'])
    """
    name = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return re.findall(r"top1|[a-z]+|\d+", name.lower())


def snake(name: str) -> str:
    """Return a name in lower case with every run of other characters as one underscore."""
    return re.sub(r"[^a-z0-9_]+", "_", re.sub(r"([a-z])([A-Z])", r"\1_\2", name.strip()).lower()).strip("_") or name
