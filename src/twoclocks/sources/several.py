"""This file knows what to do with several runs in one log: tell them apart, choose among them, or take them as seeds.

Runs are told apart by a column that names them, by the front of their columns' names (W&B's exports), or by where they lie.
They are seeds of one experiment if their settings agree but for a seed, or if nothing is known of settings and their names
differ only in the number of a seed or a run. Whatever else they may be, they are listed, and one of them must be named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from twoclocks.errors import InputError, nearest
from twoclocks.sources.names import RUN_NAMES, bare_of_split, is_split, meaning_of, snake, words_of
from twoclocks.sources.points import Point, table_of_points
from twoclocks.sources.tables import Log, Table
from twoclocks.trajectory import Series, Trajectory

ALL = "all"
MOST_NAMED = 8
REMEDY = "choose one with --run NAME, or those that agree with --run A --run B"
SHARED_STEPS = 0.5  # of the steps of the longest run: with less in common, what is read would be another log
# Settings that differ between seeds of one experiment, by a word of their name.
OF_A_SEED = frozenset(
    {"seed", "seeds", "id", "name", "dir", "path", "time", "timestamp", "created", "date", "host", "hostname", "user",
     "username", "rank", "pid", "url", "uuid", "output", "logging", "notes", "tags", "runtime", "duration"}
)  # fmt: skip
SEEDED = re.compile(r"(?<![a-z])(seed|run|rep|repeat|replicate|fold|init|s|r)(s?)[ =_.:-]*\d+(?![.\d])")
METRIC_NAMES = ("tag", "metric", "metric_name", "key", "variable")
SAMPLED = re.compile(r"__(MIN|MAX)$")


def told_apart(log: Log, path: str) -> Log:
    """Return a log with the runs that one table holds told apart, and the splits that lie apart joined."""
    log = with_splits_joined(log) if len(log.runs) > 1 else log
    if len(log.runs) != 1:
        return with_single_rows_left_out(log)
    ((name, table),) = log.runs.items()
    table = widened(table)
    refuse_summaries(table, path)
    found = by_column(table) or by_prefix(table)
    runs, settings = found or ({name: table}, log.settings)
    return replace(log, runs=runs, settings=settings)


def with_splits_joined(log: Log) -> Log:
    """Return a log whose parts named after splits of the data (train.csv, val.csv) are one run; the others stay."""
    groups: dict[str, dict[str, Table]] = {}
    for name, table in log.runs.items():
        parent, _, part = name.rpartition("/")
        if is_split(part.rsplit(".", 1)[0]):
            groups.setdefault(parent, {})[part.rsplit(".", 1)[0]] = table
    runs = {name: table for name, table in log.runs.items() if not is_split(name.rpartition("/")[2].rsplit(".", 1)[0])}
    for parent, parts in groups.items():
        runs[parent or "the run"] = joined_parts(parts) if len(parts) > 1 else next(iter(parts.values()))
    return replace(log, runs=runs) if groups else log


def joined_parts(parts: Mapping[str, Table]) -> Table:
    """Return the splits of one run as one table; names that say nothing of a split get that of their part in front."""
    times = {part: time_column(table) for part, table in parts.items()}
    points: dict[str, list[Point]] = {}
    for part, table in parts.items():
        for name in (name for name in table.cells if name != times[part]):
            points[f"{part}/{name}" if bare_of_split(name) else name] = points_of_column(table, name, times[part])
    named = sorted({time for time in times.values() if time})
    joined = table_of_points(points, time=named[0] if len(named) == 1 else "step" if named else "row")
    cells = {name: column for name, column in joined.cells.items() if named or name != "row"}
    notes = (*joined.notes, *(note for table in parts.values() for note in table.notes))
    return Table(cells, joined.rows, notes, exact=all(table.exact for table in parts.values()))


def points_of_column(table: Table, name: str, time: str) -> list[Point]:
    """Return one column as points over its table's time, or over its rows where it has none."""
    step = table.numbers(time) if time else [float(row) for row in range(table.rows)]
    cells = zip(step, table.numbers(name), strict=True)
    return [(s, 0.0, value) for s, value in cells if s is not None and value is not None and np.isfinite(s)]


def time_column(table: Table) -> str:
    """Return the column of a table that counts time, or an empty name."""
    known = {m.canonical: (m.doubt, name) for name in table.cells if (m := meaning_of(name)) is not None}
    return next((known[time][1] for time in ("step", "epoch") if time in known), "")


def with_single_rows_left_out(log: Log) -> Log:
    """Return a log without the runs of one row (such as tables of hyperparameters), where others are longer."""
    longest = max((table.rows for table in log.runs.values()), default=0)
    short = [name for name, table in log.runs.items() if table.rows < 2 <= longest // 2]
    if not short:
        return log
    kept = {name: table for name, table in log.runs.items() if name not in short}
    return replace(log, runs=kept, notes=(*log.notes, f"of a single row, and left out: {listed(short)}"))


def widened(table: Table) -> Table:
    """Return a table that holds one quantity a row (columns such as step, tag, value) with a column a quantity."""
    names = {snake(name): name for name in table.cells}
    metric = next((names[known] for known in METRIC_NAMES if known in names), None)
    if metric is None or "value" not in names or not any(isinstance(cell, str) for cell in table.cells[metric]):
        return table
    kinds = dict.fromkeys(str(cell) for cell in table.cells[metric] if cell is not None)
    rest = {name: cells for name, cells in table.cells.items() if name not in (metric, names["value"])}
    pairs = list(zip(table.cells[metric], table.cells[names["value"]], strict=True))
    taken = {kind: [v if str(m) == kind else None for m, v in pairs] for kind in kinds if kind not in rest}
    note = f"each row holds one quantity, named by {metric}"
    return Table({**rest, **taken}, table.rows, (*table.notes, note), table.percent)


def refuse_summaries(table: Table, path: str) -> None:
    """Refuse a table with one row a run, such as the export of a table of runs: there is no course in it."""
    if table.rows > 1 and not time_column(table):
        for name in table.cells:
            cells = table.cells[name]
            if names_runs(name, table) and not table.is_numeric(name) and len(set(cells)) == len(cells):
                raise InputError(
                    f"{path} holds one row a run (column {name}), not a log over steps; export a run's history"
                )


def by_column(table: Table) -> tuple[dict[str, Table], dict[str, dict[str, Any]]] | None:
    """Return the runs that columns (seed, run, name, …) tell apart, each with the settings that stay the same within it."""
    columns = sorted((name for name in table.cells if names_runs(name, table)), key=telling_first)
    keys = [tuple(table.cells[name][row] for name in columns) for row in range(table.rows)]
    keys = keys if columns and not any(None in key for key in keys) else []
    places: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        places.setdefault(key, []).append(row)
    if not 1 < len(places) <= 0.5 * table.rows:
        return None
    telling = [i for i in range(len(columns)) if len({key[i] for key in places}) > 1]
    telling = needed(telling, list(places))
    names = {key: ", ".join(f"{columns[i]}={plain(key[i])}" for i in telling) for key in places}
    runs = {names[key]: rows_of(table, rows, columns) for key, rows in places.items()}
    return runs, {name: constants_of(run) for name, run in runs.items()}


def telling_first(name: str) -> int:
    """Return the place of a column that names runs among such columns: a seed says most of what differs."""
    return (*RUN_NAMES, "name").index(snake(name))


def names_runs(name: str, table: Table) -> bool:
    """Return whether a column may name runs; `name` does so only if it holds texts."""
    return snake(name) in RUN_NAMES or (snake(name) == "name" and not table.is_numeric(name))


def needed(places: list[int], keys: list[tuple[Any, ...]]) -> list[int]:
    """Return the first place that tells all keys apart alone, or all of them."""
    return next(([i] for i in places if len({key[i] for key in keys}) == len(keys)), places)


def rows_of(table: Table, rows: Sequence[int], without: Sequence[str]) -> Table:
    """Return some rows of a table, without some columns."""
    cells = {name: [column[i] for i in rows] for name, column in table.cells.items() if name not in without}
    return Table(cells, len(rows), table.notes, table.percent, table.exact)


def constants_of(table: Table) -> dict[str, Any]:
    """Return the columns that hold one value all along, and are no measure of the training: settings of the run."""
    columns = {name: set(cells) for name, cells in table.cells.items() if table.rows > 1 and is_setting(name)}
    return {name: next(iter(values)) for name, values in columns.items() if len(values) == 1 and None not in values}


def is_setting(name: str) -> bool:
    """Return whether a column may hold a setting by its name: it is no step, loss or accuracy."""
    meaning = meaning_of(name)
    return meaning is None or meaning.canonical == "lr"


def plain(cell: Any) -> str:
    """Return a cell as a person writes it: a whole number without its point."""
    return f"{cell:g}" if isinstance(cell, float) and cell == cell and abs(cell) < 1e15 else str(cell)


def by_prefix(table: Table) -> tuple[dict[str, Table], dict[str, dict[str, Any]]] | None:
    """Return the runs of an export that has one column a run ("name - val_acc"), without its columns of extremes."""
    fronts: dict[str, list[str]] = {}
    for name in table.cells:
        front, dash, _ = name.rpartition(" - ")
        if dash and not SAMPLED.search(name):
            fronts.setdefault(front, []).append(name)
    if len(fronts) < 2:
        return None
    shared = [name for name in table.cells if " - " not in name]
    return {front: with_front_taken_off(table, shared, own) for front, own in fronts.items()}, {}


def with_front_taken_off(table: Table, shared: Sequence[str], own: Sequence[str]) -> Table:
    """Return the columns of one run of an export under their own names, in the rows in which it has values."""
    rows = [row for row in range(table.rows) if any(table.cells[name][row] is not None for name in own)]
    names = {name: name for name in shared} | {name: name.rpartition(" - ")[2] for name in own}
    names = {name: bare for name, bare in names.items() if name in own or bare not in [names[o] for o in own]}
    cells = {bare: [table.cells[name][row] for row in rows] for name, bare in names.items()}
    return Table(
        cells, len(rows), table.notes, frozenset(bare for name, bare in names.items() if name in table.percent)
    )


def chosen(log: Log, asked: Sequence[str], path: str) -> Log:
    """Return the runs that were asked for; all of them where none was, or `all` was.

    Raises:
        InputError: no run is called so, or several are.
    """
    if not asked or list(asked) == [ALL]:
        return log
    names = [name_meant(one, list(log.runs), path) for one in asked]
    runs = {name: log.runs[name] for name in dict.fromkeys(names)}
    return replace(log, runs=runs, settings={name: log.settings[name] for name in runs if name in log.settings})


def name_meant(asked: str, names: Sequence[str], path: str) -> str:
    """Return the run that a word means: its whole name, or else the end of it (after "/" or "=")."""
    fitting = [name for name in names if name == asked] or [n for n in names if n.endswith((f"/{asked}", f"={asked}"))]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InputError(f"--run: {asked!r} could be {listed(fitting)}; write the whole name")
    raise InputError(f"--run: {path} holds no run {asked!r}.{nearest(asked, list(names)) if len(names) < 50 else ''}")


def why_not_seeds(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return why runs cannot be taken as seeds of one experiment; None where they can."""
    if len(settings) == len(names) and any(settings.values()):
        differing = differing_settings([settings[name] for name in names])
        return f"they differ in {'; '.join(differing)}" if differing else None
    if len({SEEDED.sub("#", name.lower()) for name in names}) == 1:
        return None
    return "nothing says that they differ only in their seed"


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings in which runs differ, at most three, each with some of its values."""
    keys = dict.fromkeys(key for one in settings for key in one if not is_of_a_seed(key))
    values = {key: list(dict.fromkeys(plain(one.get(key, "not given")) for one in settings)) for key in keys}
    return [
        f"{key} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
        for key, found in values.items()
        if len(found) > 1
    ][:3]


def is_of_a_seed(key: str) -> bool:
    """Return whether a setting is one in which seeds of one experiment may differ."""
    return key.startswith("_") or bool(set(words_of(key)) & OF_A_SEED)


def refusal(path: str, names: Sequence[str], why: str, remedy: str = "") -> InputError:
    """Return the sentence that lists runs which cannot be taken as one experiment."""
    remedy = remedy or "choose one with --run NAME, or read several as seeds with --run A --run B or --run all"
    return InputError(f"{path} holds {len(names)} runs ({listed(names)}), and {why}; {remedy}")


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence, the first few of many.

    >>> listed(["a", "b"])
    'a, b'
    """
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def as_seeds(runs: Mapping[str, Trajectory], path: str) -> Trajectory:
    """Join runs of one log along the run axis `r`, each quantity at the steps that all of them have.

    A step that some run lacks is left out for all: a gap in one run would otherwise count as a value, and a clock reads the
    first evaluation past its threshold, which then stays right to within the steps that are left.

    Raises:
        InputError: the runs do not hold the same measures, count time differently, or have too few steps in common.
    """
    refuse_unlike(runs, path)
    notes = [f"{len(runs)} runs are read as seeds of one experiment: {listed(list(runs))}"]
    scalars: dict[str, Series] = {}
    for name in in_all(runs):
        series = on_shared_steps([run.scalars[name] for run in runs.values()])
        longest = max(len(run.scalars[name].step) for run in runs.values())
        if len(series.step) >= SHARED_STEPS * longest:
            scalars[name] = series
        elif is_measure(name):
            raise refusal(
                path,
                list(runs),
                f"only {len(series.step)} steps of {name} are common to all ({spans(runs, name)})",
                REMEDY,
            )
        if name in scalars and len(series.step) < longest:
            notes.append(f"{name} is read at the {len(series.step)} of {longest} steps that all runs have")
    sources = [run.source for run in runs.values()]
    columns = {key: value for source in reversed(sources) for key, value in source.columns.items()}
    rows, assumed = sum(source.rows for source in sources), (*notes, *notes_of_all(runs))
    return Trajectory(replace(sources[0], path=path, rows=rows, columns=columns, assumed=assumed), scalars)


def refuse_unlike(runs: Mapping[str, Trajectory], path: str) -> None:
    """Refuse runs that count time differently or do not hold the same measures."""
    if len({run.source.time for run in runs.values()}) > 1:
        times = "; ".join(f"{name} in {run.source.time}s" for name, run in runs.items())
        raise refusal(path, list(runs), f"they count time differently ({times})", REMEDY)
    held = {name: sorted(filter(is_measure, run.scalars)) for name, run in runs.items()}
    if len({tuple(own) for own in held.values()}) > 1:
        unlike = "; ".join(f"{name} has {', '.join(own) or 'none'}" for name, own in list(held.items())[:MOST_NAMED])
        raise refusal(path, list(runs), f"they do not hold the same measures ({unlike})", REMEDY)


def in_all(runs: Mapping[str, Trajectory]) -> list[str]:
    """Return the quantities that every run holds, in the order of the first."""
    first, *others = runs.values()
    return [name for name in first.scalars if all(name in run.scalars for run in others)]


def spans(runs: Mapping[str, Trajectory], name: str) -> str:
    """Return how many values of a quantity each run holds, and to which step."""
    series = {run: trajectory.scalars[name] for run, trajectory in list(runs.items())[:MOST_NAMED]}
    return ", ".join(f"{run} has {len(one.step)} to {one.step[-1]:g}" for run, one in series.items())


def notes_of_all(runs: Mapping[str, Trajectory]) -> list[str]:
    """Return what was assumed of the runs, each thing once, with the runs that it holds for where it is not all of them."""
    notes = dict.fromkeys(note for run in runs.values() for note in run.source.assumed)
    of = {note: [name for name, run in runs.items() if note in run.source.assumed] for note in notes}
    return [note if len(of[note]) == len(runs) else f"{listed(of[note])}: {note}" for note in notes]


def is_measure(name: str) -> bool:
    """Return whether a series is one that judgements rest on."""
    return name.endswith(("_loss", "_accuracy")) and name.startswith(("train_", "heldout_")) and name.count("_") == 1


def on_shared_steps(series: Sequence[Series]) -> Series:
    """Return one quantity of several runs `[r t]` at the steps that all of them have."""
    shared = series[0].step
    for one in series[1:]:
        shared = np.intersect1d(shared, one.step)
    value = np.concatenate([one.value[:, np.searchsorted(one.step, shared)] for one in series])
    return Series(series[0].name, series[0].unit, shared, value)
