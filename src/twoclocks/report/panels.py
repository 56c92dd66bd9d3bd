"""This file knows what is drawn of a run: panels of lines over one axis of time, as plain records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twoclocks.courses import course_of
from twoclocks.diagnosis import Clock, Diagnosis
from twoclocks.evidence import Evidence
from twoclocks.report.numbers import number, time_words
from twoclocks.report.plans import ERRORS, HELDOUT, OTHER, PLANS, SAID, SPLIT_LOOKS, SPLITS, TRAIN, Plan
from twoclocks.trajectory import Array, Float, Int, Series, Trajectory

POINTS = 1200
# A page holds about this many lines at full resolution within 1 MB; when there are more, all lines get fewer points.
FULL_LINES = 25
LINES_A_PANEL = 12
RUNS_DRAWN_SINGLY = 6
EVENTS_MARKED = 12
DOTTED = 60
ERRORS_DRAWN = 2
MOVED, ROUNDING = ("kernel_change", "kernel_velocity"), 1e-12
NEAR = 0.5  # how far a quotient that is nearly a share is drawn beyond 0 and 1


@dataclass(frozen=True)
class Line:
    """One drawn line: `y` over steps `x`, with a band `low` to `high` if there is one.

    `faint`: one run of several. `is_error`: the band is of standard errors.
    """

    name: str
    unit: str
    style: int
    x: Array
    y: Float
    low: Float | None = None
    high: Float | None = None
    faint: bool = False
    is_error: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at a step, with a short label for the figure; `kind` is "clock" or "event"."""

    step: float
    label: str
    kind: str


@dataclass(frozen=True)
class Panel:
    """Lines on one y axis, and what must be said of them. Without lines, `absent` says why, and what to record."""

    key: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    log: bool
    bounds: tuple[float, float] | None
    levels: tuple[tuple[float, str], ...]
    notes: tuple[str, ...]
    absent: str
    group: str = ""


@dataclass(frozen=True)
class TimeAxis:
    """The axis of time that all panels share: log steps from `first` to `last`, and step 0 at a place left of `first`.

    >>> TimeAxis("step", 10.0, 1000.0, from_zero=True).position(np.array([0, 10, 1000])).tolist()
    [0.84, 1.0, 3.0]
    """

    unit: str
    first: float
    last: float
    from_zero: bool

    @property
    def name(self) -> str:
        """Return what the axis counts, in words."""
        return time_words(self.unit)

    @property
    def origin(self) -> float:
        """Return where step 0 stands, in decades."""
        return float(np.log10(self.first) - max(0.08 * np.log10(self.last / self.first), 0.1))

    @property
    def limits(self) -> tuple[float, float]:
        """Return the first and the last position drawn, in decades."""
        low, high = self.origin if self.from_zero else float(np.log10(self.first)), float(np.log10(self.last))
        margin = 0.02 * (high - low) if high > low else 0.5
        return low - margin, high + margin

    def position(self, step: Array) -> Float:
        """Return log10(step), and for what is not positive the place of step 0."""
        return np.where(step > 0, np.log10(np.maximum(step, 1e-300)), self.origin)


@dataclass(frozen=True)
class FigureData:
    """Everything that is drawn of a trajectory. `flow_time`: (steps, sum of learning rates) where it was recorded."""

    time: TimeAxis
    panels: tuple[Panel, ...]
    marks: tuple[Mark, ...]
    flow_time: tuple[Array, Float] | None
    runs_drawn: str
    not_drawn: tuple[str, ...]


def figure_data(evidence: Evidence, diagnosis: Diagnosis, *, points: int = POINTS) -> FigureData:
    """Return what is drawn of a run, with at most `points` moments a line (extremes and gaps are kept)."""
    groups = [quantities_of(plan, evidence) for plan in PLANS]
    lines = [line for group in groups for quantity in spread(group) for line in quantity]
    limit = min(points, points * FULL_LINES // max(len(lines), 1))
    chance = chance_level(evidence.trajectory)
    levels = {
        "accuracy": chance,
        "ladder": chance,
        "margins": ((0.0, "0"),),
        "leads": ((1.0, "readout leads above"),),
        "alignment": ((0.0, "0"),),
    }
    names = recorded(evidence)
    return FigureData(
        time=time_axis(evidence.trajectory, lines),
        panels=tuple(panel_of(p, group, limit, levels.get(p.key, ())) for p, group in zip(PLANS, groups, strict=True)),
        marks=(*clock_marks(diagnosis.clocks), *descent_marks(diagnosis.descent), *event_marks(diagnosis)),
        flow_time=flow_time_of(evidence.trajectory),
        runs_drawn=runs_drawn(evidence.trajectory.runs),
        not_drawn=by_block([n for n in names if not is_seen(n, names) and not any(p.belongs(n) for p in PLANS)]),
    )


def panel_of(plan: Plan, quantities: list[list[Line]], limit: int, levels: tuple[tuple[float, str], ...]) -> Panel:
    """Return one panel: its lines thinned to `limit` moments, and what must be said of what is not seen."""
    full = [line for quantity in spread(quantities) for line in quantity]
    shown = [line for line in full if np.isfinite(line.y).any()]
    log = is_log(plan.scale, shown)
    lines = tuple(thinned(line, limit) for line in shown)
    absent = (
        ""
        if lines
        else (
            plan.absent
            if not full
            else f"It was recorded, but none of its {sum(len(line.y) for line in full):,} values is finite."
        )
    )
    bounds = bounds_of(plan.scale, shown)
    notes = (
        *([plan.reading] if plan.reading and lines else []),
        *errors_told(lines),
        *left_out(plan, quantities),
        *(cut for line in shown if bounds for cut in cut_off(line, bounds)),
        *(gap for line in full for gap in gaps_of(line, log)),
        *thinning_of(full, lines),
    )
    return Panel(
        plan.key, plan.title, plan.unit, lines, log, bounds, levels if lines else (), notes, absent, plan.group
    )


def errors_told(lines: Sequence[Line]) -> Iterator[str]:
    """Say what a band means that is neither the ladder's nor a range over runs."""
    if any(line.is_error for line in lines):
        yield f"Shaded: {ERRORS_DRAWN} standard errors to either side."


def left_out(plan: Plan, quantities: list[list[Line]]) -> Iterator[str]:
    """Say what a panel does not show: a split that was not recorded, or quantities beyond LINES_A_PANEL."""
    names = {quantity[0].name for quantity in quantities}
    if plan.key in ("accuracy", "loss") and len(names) == 1:
        yield f"Only {names.pop()} {plan.key} was recorded."
    if len(quantities) > LINES_A_PANEL:
        yield f"{len(quantities)} were recorded; {LINES_A_PANEL} are drawn, evenly chosen."


def spread(quantities: list[list[Line]]) -> list[list[Line]]:
    """Return at most LINES_A_PANEL quantities, evenly chosen from first to last (as blocks lie in depth)."""
    chosen = np.unique(np.linspace(0, len(quantities) - 1, min(len(quantities), LINES_A_PANEL)).round().astype(int))
    return [quantities[i] for i in chosen]


def is_log(scale: str, lines: list[Line]) -> bool:
    """Return whether y is logarithmic: where asked for and possible, or where positive values span a factor of 50."""
    values = [line.y[np.isfinite(line.y)] for line in lines]
    smallest, largest = min((v.min() for v in values), default=0.0), max((v.max() for v in values), default=0.0)
    return bool(largest > 0) if scale == "log" else bool(scale == "auto" and smallest > 0 and largest > 50 * smallest)


def within(lines: list[Line], low: float, high: float) -> bool:
    """Return whether every finite value lies in [low, high]."""
    return all(bool(((line.y >= low) & (line.y <= high) | ~np.isfinite(line.y)).all()) for line in lines)


def bounds_of(scale: str, lines: list[Line]) -> tuple[float, float] | None:
    """Return the ends of a y axis that are not those of the values: of shares, and of quotients that are nearly so."""
    if scale == "share" and within(lines, 0.0, 1.0):
        return 0.0, 1.0
    if scale not in ("near share", "cosine") or not lines:
        return None
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
    if scale == "cosine":
        return min(float(values.min()), 0.0), 1.0
    return max(min(float(values.min()), 0.0), -NEAR), min(max(float(values.max()), 1.0), 1.0 + NEAR)


def cut_off(line: Line, bounds: tuple[float, float]) -> Iterator[str]:
    """Say how many values of a line lie beyond the drawn part of the axis."""
    beyond = int(((line.y < bounds[0]) | (line.y > bounds[1])).sum())
    if beyond and not line.faint:
        drawn = f"{number(bounds[0])} to {number(bounds[1])}"
        yield f"{line.name}: {beyond:,} of {len(line.y):,} values lie beyond the drawn {drawn}."


def gaps_of(line: Line, log: bool) -> Iterator[str]:
    """Say which values of a line cannot be drawn: those not finite, and on a log axis those not positive."""
    unseen = {"NaN or infinite": ~np.isfinite(line.y), "0 or less, which a log axis cannot show": log & (line.y <= 0)}
    for what, bad in unseen.items():
        if bad.any() and not line.faint:
            first = f"the first at {line.x[bad.argmax()]:,}"
            yield f"{line.name}: {bad.sum():,} of {len(bad):,} values are {what}; {first}."


def thinning_of(full: list[Line], lines: tuple[Line, ...]) -> Iterator[str]:
    """Say that lines were thinned, where they were."""
    before, after = max((len(line.x) for line in full), default=0), max((len(line.x) for line in lines), default=0)
    if after < before:
        yield f"Thinned for drawing: {after:,} of {before:,} moments a line; extremes and gaps are kept."


def thinned(line: Line, limit: int) -> Line:
    """Return a line with at most `limit` moments: first, last, and in equal bins of log step the extremes and the gaps.

    >>> spike = np.zeros(10_000); spike[5000] = 1.0
    >>> short = thinned(Line("loss", "", 0, np.arange(10_000), spike), 300)
    >>> len(short.x) <= 300, short.y.max().item(), short.x[-1].item()
    (True, 1.0, 9999)
    """
    if len(line.x) <= limit:
        return line
    bands = [values for values in (line.low, line.high) if values is not None]
    bins = max((limit - 2) // (3 + 2 * len(bands)), 1)
    ends = [np.array([0, len(line.x) - 1])]
    keep = np.unique(np.concatenate(ends + [extremes(line.x, values, bins) for values in (line.y, *bands)]))
    low, high = (None if values is None else values[keep] for values in (line.low, line.high))
    return replace(line, x=line.x[keep], y=line.y[keep], low=low, high=high)


def extremes(x: Array, y: Float, bins: int) -> Int:
    """Return where, in each of `bins` equal bins of log x, y is smallest, largest, and first not finite."""
    place = np.log10(np.maximum(x - min(x[0], 0), 0) + max(float(np.diff(x).min()), 1e-9))
    bin_of = np.minimum(((place - place[0]) / (place[-1] - place[0]) * bins).astype(np.int64), bins - 1)
    finite, bad = np.flatnonzero(np.isfinite(y)), np.flatnonzero(~np.isfinite(y))
    order = finite[np.lexsort((y[finite], bin_of[finite]))]
    change = np.flatnonzero(np.diff(bin_of[order])) + 1
    starts = np.concatenate([[0], change]).astype(np.int64) if len(order) else np.zeros(0, np.int64)
    stops = np.concatenate([change, [len(order)]]).astype(np.int64)[: len(starts)] - 1
    gaps = bad[np.unique(bin_of[bad], return_index=True)[1]]
    return np.concatenate([order[starts], order[stops], gaps])


def alone(line: Line) -> Int:
    """Return which moments need a dot: all if they are few, else those without a finite neighbour to draw a line to."""
    finite = np.concatenate([[False], np.isfinite(line.y), [False]])
    lonely = finite[1:-1] & ~finite[:-2] & ~finite[2:]
    return np.flatnonzero(finite[1:-1] if len(line.y) <= DOTTED else lonely)


def lines_of(series: Series, name: str, style: int) -> list[Line]:
    """Return the lines of one quantity: one run as it is; several as their median, with each run or their range."""
    if series.runs == 1:
        return [Line(name, series.unit, style, series.step, series.value[0])]
    finite = np.where(np.isfinite(series.value), series.value, np.nan)
    middle, low, high = (over_runs(f, finite) for f in (np.nanmedian, np.nanmin, np.nanmax))
    if series.runs > RUNS_DRAWN_SINGLY:
        return [Line(name, series.unit, style, series.step, middle, low, high)]
    singly = [Line(name, series.unit, style, series.step, run, faint=True) for run in series.value]
    return [*singly, Line(name, series.unit, style, series.step, middle)]


def runs_drawn(runs: int) -> str:
    """Say how several runs are drawn, for the legends; nothing where there is one."""
    if runs == 1:
        return ""
    return f"bold: median of {runs} runs; {'thin: each run' if runs <= RUNS_DRAWN_SINGLY else 'shaded: their range'}"


def over_runs(summary: Callable[..., Float], value: Float) -> Float:
    """Return a summary over runs at each moment, NaN where no run has a value."""
    seen = ~np.isnan(value).all(axis=0)
    result = np.full(value.shape[1], np.nan)
    result[seen] = summary(value[:, seen], axis=0)
    return result


def recorded(evidence: Evidence) -> dict[str, Series]:
    """Return every series with one number a run and moment: what was recorded, then what was measured."""
    series = {**evidence.trajectory.scalars, **evidence.measured}
    return {name: s for name, s in series.items() if s.value.ndim == 2 and len(s.step)}


def by_block(names: Iterable[str]) -> tuple[str, ...]:
    """Return names, those of several blocks as one.

    >>> by_block(["gradient_norm.embed", "lr", "gradient_norm.readout"])
    ('gradient_norm.<block> (2)', 'lr')
    """
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.split(".")[0], []).append(name)
    return tuple(same[0] if len(same) == 1 else f"{family}.<block> ({len(same)})" for family, same in families.items())


def quantities_of(plan: Plan, evidence: Evidence) -> list[list[Line]]:
    """Return the lines of each quantity that a panel shows."""
    if plan.key == "ladder":
        return ladder_lines(evidence)
    series = recorded(evidence)
    found = {name: series[name] for name in [*SPLITS, *series] if name in series and plan.belongs(name)}
    return [
        with_errors(lines_of(from_rounding(one), *look_of(name, i)), series.get(errors_of(name)))
        for i, (name, one) in enumerate(found.items())
    ]


def from_rounding(series: Series) -> Series:
    """Return how far a kernel has moved with 0 for what is rounding: a log axis would reach down to it."""
    if not series.name.startswith(MOVED):
        return series
    return replace(series, value=np.where(np.abs(series.value) < ROUNDING, 0.0, series.value))


def errors_of(name: str) -> str:
    """Return the name of the series that holds the standard errors of another.

    >>> errors_of("critical_dimension(heldout)")
    'critical_dimension_error(heldout)'
    """
    beginning, bracket, of = name.partition("(")
    return f"{beginning}{ERRORS}{bracket}{of}"


def with_errors(lines: list[Line], errors: Series | None) -> list[Line]:
    """Return the line of a single run with a band of its standard errors, where they were measured at the same steps."""
    if errors is None or len(lines) > 1 or lines[0].low is not None or not np.array_equal(errors.step, lines[0].x):
        return lines
    half = ERRORS_DRAWN * errors.value[0]
    return [replace(lines[0], low=lines[0].y - half, high=lines[0].y + half, is_error=True)]


def is_seen(name: str, names: Iterable[str]) -> bool:
    """Return whether a series is seen on the page though it has no line of its own: as an axis, or as a band."""
    return name == "flow_time" or any(errors_of(one) == name for one in names)


def look_of(name: str, place: int) -> tuple[str, int]:
    """Return how a series is called in its panel, and its style."""
    known = SPLITS | SPLIT_LOOKS
    if name in known:
        return known[name]
    for beginning, said in SAID.items():
        if name.startswith(beginning):
            rest = name.removeprefix(beginning).strip(" :").replace("(heldout", "(held-out")
            bare = rest[1:-1] if rest.startswith("(") and not said else f"{said}{rest}"
            return bare.strip() or name, OTHER + place
    return name, OTHER + place


def ladder_lines(evidence: Evidence) -> list[list[Line]]:
    """Return the three rungs; of one run each with its bootstrap band."""
    ladder = evidence.ladder
    if ladder is None or not len(ladder.step):
        return []
    rungs = (
        ("native readout", ladder.native, ladder.native_interval, HELDOUT),
        ("train-fit probe", ladder.train_probe, ladder.train_probe_interval, TRAIN),
        ("held-out-fit probe", ladder.heldout_probe, ladder.heldout_probe_interval, OTHER),
    )
    unit, step = "share of examples", ladder.step
    if len(ladder.native) > 1:
        return [lines_of(Series(name, unit, step, value), name, style) for name, value, _, style in rungs]
    return [[Line(name, unit, style, step, value[0], *band[0].T)] for name, value, band, style in rungs]


def time_axis(trajectory: Trajectory, lines: Iterable[Line]) -> TimeAxis:
    """Return the axis that holds every step of every line."""
    steps = np.concatenate([np.zeros(0), *(line.x for line in lines)])
    positive = steps[steps > 0]
    first, last = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    return TimeAxis(trajectory.source.time, first, last, bool((steps <= 0).any()))


def flow_time_of(trajectory: Trajectory) -> tuple[Array, Float] | None:
    """Return (steps, sum of learning rates), the median over runs, where it was recorded and grows."""
    series = trajectory.scalars.get("flow_time")
    if series is None or series.value.ndim != 2:
        return None
    value = over_runs(np.nanmedian, np.where(np.isfinite(series.value), series.value, np.nan))
    seen = ~np.isnan(value)
    step, flow_time = series.step[seen], value[seen]
    if len(step) and step[0] > 0:  # no learning rate has been summed before the first step
        step, flow_time = np.concatenate([[0], step]), np.concatenate([[0.0], flow_time])
    grows = len(step) > 1 and bool((np.diff(flow_time) >= 0).all()) and flow_time[-1] > 0
    return (step, flow_time) if grows else None


def chance_level(trajectory: Trajectory) -> tuple[tuple[float, str], ...]:
    """Return the accuracy of guessing where it is known: from the classes held out, or from the start of the log."""
    batch, course = trajectory.batches.get("heldout"), course_of(trajectory, "heldout")
    if batch is not None and len(batch.labels):
        chance = 1.0 / len(np.unique(batch.labels))
    elif course is not None and course.is_accuracy and course.chance_is_known:
        chance = course.chance
    else:
        return ()
    return ((chance, f"chance {chance:.2g}"),)


def clock_marks(clocks: Iterable[Clock]) -> Iterator[Mark]:
    """Return a mark where each clock strikes, and where what it tells was lost again."""
    for clock in clocks:
        if not clock.name.startswith(("T_fit", "T_gen")):
            continue  # the curves T_cls and T_rep have many values; they stand in the table
        if clock.value is not None:
            yield Mark(clock.value, clock.name, "clock")
        if clock.lost_at is not None:
            yield Mark(clock.lost_at, f"{clock.name} lost", "clock")


def descent_marks(descent: Mapping[str, object] | None) -> Iterator[Mark]:
    """Return a mark at each turning point of a double descent."""
    for name in ("first_minimum", "peak", "second_minimum"):
        point = (descent or {}).get(name)
        if isinstance(point, Mapping) and isinstance(point.get("step"), (int, float)):
            yield Mark(float(point["step"]), name.replace("_", " "), "clock")


def event_marks(diagnosis: Diagnosis) -> Iterator[Mark]:
    """Return a mark at each of the first events, labelled by its number in the list of events."""
    for place, event in enumerate(diagnosis.events[:EVENTS_MARKED], 1):
        if event.step is not None:
            yield Mark(event.step, str(place), "event")
