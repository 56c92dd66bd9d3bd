"""This file knows the questions about the slow clock: the law of its tail, (d), and its order against the fast one, (g)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from twoclocks.claims.answers import Answer, Curve, Finding, Part, Picture, Table, agreed, held
from twoclocks.claims.setting import (
    DecaySlope,
    Setting,
    by_setting,
    curves,
    judged_part,
    outcome_words,
    runs_words,
    saturation,
    slope_on_decay,
    value_at,
)
from twoclocks.claims.words import UNKNOWN, between_words, counted, listed, mean_words, number, span, time_words
from twoclocks.clocks import HittingTime, Order, OrderCell, order

CONSTANT = (-1.1, -0.9)  # slope of log T on log λ_w within which T · λ_w is called constant
SLOW = 2.0  # T_rep ÷ T_cls from which the representation clock is slow, not only later
SHOWN = (0.7, 0.5, 0.3, 0.2, 0.1, 0.01)  # the gaps that the tables show; counts are over all


def which_tail(settings: Sequence[Setting]) -> Answer:
    """Answer (d): is the tail polynomial or exponential, and is T · λ_w constant."""
    slopes = {name: decay_slope(settings, times) for name, times in clock_times(settings).items()}
    power = judged_part(settings, "TC403", "the structural gap closes as a power law, not as an exponential")
    return Answer(
        "d",
        "Is the tail polynomial or exponential, and is T · λ_w constant?",
        "The structure closes as a power law of time",
        (power,),
        tail_words(settings, slopes),
        (tail_table(settings), steps_table(settings, slopes), prefactor_table(settings, slopes)),
        (structure_picture(settings),),
        notes=(
            "Under AdamW there is no function that descends, so no exponent of one is quoted; the tail is that of "
            "the structural gap (rule residual: the share of the energy of the logits that is not a function of "
            "the right answer). A slope of log T on log λ_w is one a seed, its interval a t interval over seeds; a "
            "seed of which any time is censored is left out, the number left is then said, and nothing is judged "
            "by what is left. A start-up time that does not depend on λ_w flattens the slope of T, so the part is judged "
            "by T counted from step 0 and from the saturation of the loss.",
        ),
        asides=(no_prefactor(settings, slopes),),
    )


def clock_times(settings: Sequence[Setting]) -> dict[str, list[HittingTime]]:
    """Return the times of every clock that any run reached, by name, one entry a setting."""
    named = {f"T_gen({a:g})": [s.clocks.generalisation[a] for s in settings] for a in (0.5, 0.9, 0.99)}
    curves_of = [s.clocks.representation for s in settings]
    known = [curve for curve in curves_of if curve is not None]
    if known and len(known) == len(settings):
        named |= {f"T_rep({eta:g})": [c.times[k] for c in known] for k, eta in enumerate(known[0].thresholds)}
    return {n: times for n, times in named.items() if any(v is not None for time in times for v in time.values)}


def decay_slope(settings: Sequence[Setting], times: Sequence[HittingTime]) -> DecaySlope:
    """Return the slope of a clock on the weight decay."""
    return slope_on_decay([s.weight_decay for s in settings], times)


def no_prefactor(settings: Sequence[Setting], slopes: dict[str, DecaySlope]) -> Part:
    """Return whether the representation clock is something else than a constant over the weight decay."""
    late = {n: decay_slope(settings, from_saturation(settings, t)) for n, t in clock_times(settings).items()}
    found = [
        varies_from_both(slope, late[name])
        for name, slope in slopes.items()
        if name.startswith("T_rep") and slope.is_of_all
    ]
    return Part(
        "the rival explanation, a prefactor 1 / λ_w, is out: T_rep · λ_w is not constant",
        "at a threshold that every run reached: the slope of log T_rep on log λ_w has its whole interval outside "
        f"{number(CONSTANT[0])} to {number(CONSTANT[1])}, and so has that of T_rep − T_sat, counted from the saturation of "
        "the loss, on the same side; fails if both lie inside",
        agreed(found),
        f"{counted(found)}, over {len(found)} thresholds",
    )


def from_saturation(settings: Sequence[Setting], times: Sequence[HittingTime]) -> list[HittingTime]:
    """Return times counted from the saturation of the training loss of the same run; None where either did not come."""
    counted_from = []
    for setting, time in zip(settings, times, strict=True):
        starts = [saturation(setting.trajectory.scalars["train_loss"].of_run(r)).value for r in range(setting.runs)]
        values = tuple(
            None if value is None or start is None or value <= start else value - start
            for value, start in zip(time.values, starts, strict=True)
        )
        counted_from.append(replace(time, values=values))
    return counted_from


def varies(slope: DecaySlope) -> Finding:
    """Return whether T · λ_w varies with λ_w, by the whole interval of the slope."""
    if slope.interval is None or not slope.is_of_all:
        return Finding.OPEN
    low, high = slope.interval
    inside, outside = CONSTANT[0] <= low and high <= CONSTANT[1], high < CONSTANT[0] or low > CONSTANT[1]
    return held(False if inside else True if outside else None)


def varies_from_both(slope: DecaySlope, late: DecaySlope) -> Finding:
    """Return whether T · λ_w varies, whether T is counted from step 0 or from saturation; open where these disagree."""
    found = varies(slope)
    if found is not varies(late) or slope.interval is None or late.interval is None:
        return Finding.OPEN
    one_side = (slope.interval[0] > CONSTANT[1]) == (late.interval[0] > CONSTANT[1])
    return found if one_side or found is Finding.FAILS else Finding.OPEN


def prefactor_words(slope: DecaySlope) -> str:
    """Return whether T · λ_w is constant, in a word."""
    return {Finding.HOLDS: "no", Finding.FAILS: "yes"}.get(varies(slope), "open")


def tail_words(settings: Sequence[Setting], slopes: dict[str, DecaySlope]) -> str:
    """Say how the structural gap ends and which clocks go as 1 / λ_w."""
    verdicts = [one.tail.verdict for s in settings for one in s.evidence.conditions if one.tail is not None]
    constant = [name for name, slope in slopes.items() if varies(slope) is Finding.FAILS]
    varying = [name for name, slope in slopes.items() if varies(slope) is Finding.HOLDS]
    ends = [float(v) for s in settings if s.clocks.structure is not None for v in s.clocks.structure.value[:, -1]]
    level = f" At the last step it is still {number(min(ends))} to {number(max(ends))}." if ends else ""
    reached = [
        s.value for name, s in slopes.items() if name.startswith("T_rep") and s.is_of_all and s.value is not None
    ]
    powers = "" if not reached else f" T_rep goes as λ_w to the power {span(min(reached), max(reached))}, by threshold."
    return (
        f"The law of the tail of the structural gap: {counted(verdicts)}.{level} T · λ_w is constant (slope −1 ± "
        f"0.1) for {listed(constant)}; it is not for {listed(varying)}; it is open for the rest.{powers}"
    )


def tail_table(settings: Sequence[Setting]) -> Table:
    """Return how the structural gap closes, with a column a setting."""
    rows: list[tuple[str, Callable[[Setting], str]]] = [
        ("TC403: power law", partial(outcome_words, "TC403")),
        ("law of the tail", lambda s: counted(c.tail.verdict for c in s.evidence.conditions if c.tail is not None)),
        ("structural gap at T_fit", lambda s: mean_words(s.each(lambda r: structure_at_fit(s, r)))),
        ("structural gap at the last step", lambda s: mean_words(last_structure(s))),
    ]
    return by_setting("mean over seeds", settings, rows)


def structure_at_fit(setting: Setting, r: int) -> float | None:
    """Return the structural gap of run r at its fit."""
    structure = setting.clocks.structure
    return None if structure is None else value_at(structure, setting.clocks.fit, r)


def last_structure(setting: Setting) -> list[float | None]:
    """Return the structural gap at the last snapshot, run by run."""
    structure = setting.clocks.structure
    return [] if structure is None else [float(value) for value in structure.value[:, -1]]


def steps_table(settings: Sequence[Setting], slopes: dict[str, DecaySlope]) -> Table:
    """Return the clocks in steps by weight decay, and how they depend on it."""
    times = clock_times(settings)
    rows = tuple((name, *(time_words(time) for time in times[name]), str(slopes[name])) for name in times)
    return Table(("clock (steps)", *(s.name for s in settings), "slope of log T on log λ_w"), rows)


def prefactor_table(settings: Sequence[Setting], slopes: dict[str, DecaySlope]) -> Table:
    """Return the clocks in units of 1 / (lr λ_w), in which a prefactor would make them constant."""
    rows = []
    for name, times in clock_times(settings).items():
        scaled = [time_words(scaled_time(time, unit_of(s))) for s, time in zip(settings, times, strict=True)]
        rows.append((name, *scaled, prefactor_words(slopes[name])))
    return Table(("T · lr · λ_w", *(s.name for s in settings), "constant?"), tuple(rows))


def unit_of(setting: Setting) -> float:
    """Return lr λ_w, the share of a weight that decay takes in a step."""
    return setting.weight_decay * float(setting.trajectory.settings["settings"]["lr"])


def scaled_time(time: HittingTime, factor: float) -> HittingTime:
    """Return times in another unit."""
    values = tuple(None if value is None else value * factor for value in time.values)
    return replace(time, values=values, last=time.last * factor)


def structure_picture(settings: Sequence[Setting]) -> Picture:
    """Return the picture of the structural gap."""
    return Picture(
        "structure", "Structural gap: rule residual of the logits", "optimiser step", "share of the logits' energy",
        curves(settings, lambda s: s.clocks.structure),
        "Share of the energy of the logits on recorded pairs that is not a function of the right answer, against "
        "the optimiser "
        f"step, one line a run; {runs_words(settings)}.", log_x=True, log_y=True,
    )  # fmt: skip


def which_clock_is_later(settings: Sequence[Setting]) -> Answer:
    """Answer (g): the order and the ratio of the two clocks over the grid of thresholds."""
    orders = [(s, order(s.clocks)) for s in settings if s.clocks.classifier and s.clocks.representation]
    later = judged_part(settings, "TC405", "at equal thresholds the representation clock is later")
    return Answer(
        "g",
        "Which clock is later, and by how much?",
        "There are two clocks: the classifier's is fast, the representation's slow",
        (later, slow_by_factor(orders)),
        order_words(orders),
        (count_table(orders), *(ratio_table(s, grid) for s, grid in orders)),
        (clock_picture(settings),),
        (
            "A cell is the median over runs of T_rep(η) ÷ T_cls(ε) and, from 5 runs on, the interval of that "
            "median (of 5 runs: their range, 93.75 %). > marks a bound where the later clock had not struck by the "
            "last step, – where neither had or the order is not known. The thresholds are of different quantities, "
            "so the whole grid is shown: the order can be turned around by a small enough ε, as weight decay keeps "
            "the training loss above a floor. Nor are equal thresholds equal depths: the structural gap begins at 1, the "
            "loss at the logarithm of the number of classes.",
        ),
    )


def slow_by_factor(orders: Sequence[tuple[Setting, Order]]) -> Part:
    """Return whether the representation clock is later by a factor of 2 at equal thresholds."""
    found = [is_slow(cell) for _, grid in orders for cell in equal_cells(grid) if cell.ratio.high is not None]
    return Part(
        f"it is slower by a factor {SLOW:g} or more at equal thresholds",
        f"the median of T_rep(ε) ÷ T_cls(ε) over seeds is at least {SLOW:g} at every equal threshold that both clocks "
        "reached in most runs: one that the structure never reaches says nothing of when",
        agreed(found),
        f"{counted(found)}, over {len(found)} cells",
    )


def equal_cells(grid: Order) -> list[OrderCell]:
    """Return the cells of equal thresholds."""
    return [cell for line in grid.cells for cell in line if np.isclose(cell.loss, cell.gap, rtol=1e-9)]


def is_slow(cell: OrderCell) -> Finding:
    """Return whether the ratio of the clocks is known to be 2 or more, or less."""
    low, high = cell.ratio.low, cell.ratio.high
    return held(True if low is not None and low >= SLOW else False if high is not None and high < SLOW else None)


def order_words(orders: Sequence[tuple[Setting, Order]]) -> str:
    """Say how often which clock is later over the whole grid, and where the order is turned around."""
    cells = [cell for _, grid in orders for line in grid.cells for cell in line]
    later, earlier = sum(cell.later for cell in cells), sum(cell.earlier for cell in cells)
    undecided = sum(cell.undecidable for cell in cells)
    turned = [cell for cell in cells if cell.earlier > cell.later]
    words = (
        f"Over the whole grid of thresholds T_rep is later than T_cls in {later:,} pairs of run and cell, earlier "
        f"in {earlier:,}, and the order is not known in {undecided:,}."
    )
    if not turned:
        return words + " In no cell is T_rep the earlier in most runs."
    return words + (
        f" T_rep is the earlier in most runs only in {len(turned)} of {len(cells)} cells, all with ε ≤ "
        f"{number(max(cell.loss for cell in turned))} and η ≥ {number(min(cell.gap for cell in turned))}."
    )


def count_table(orders: Sequence[tuple[Setting, Order]]) -> Table:
    """Return the order of the clocks by setting: counts over the grid, and ratios at equal thresholds."""
    rows = []
    for setting, grid in orders:
        cells = [cell for line in grid.cells for cell in line]
        counts = (sum(getattr(cell, which) for cell in cells) for which in ("later", "earlier", "undecidable"))
        ratios = {cell.loss: between_words(cell.ratio, cell.interval) for cell in equal_cells(grid)}
        shown = [next((w for at, w in ratios.items() if np.isclose(at, e)), UNKNOWN) for e in (0.5, 0.3, 0.1)]
        rows.append((setting.name, *(f"{count:,}" for count in counts), *shown))
    head = ("runs × cells", "T_rep later", "earlier", "not known", "ratio at ε = η = 0.5", "at 0.3", "at 0.1")
    return Table(head, tuple(rows))


def ratio_table(setting: Setting, grid: Order) -> Table:
    """Return the ratios of the clocks over the grid."""
    places = [k for k, gap in enumerate(grid.gaps) if np.isclose(gap, SHOWN).any()]
    head = (f"T_rep ÷ T_cls, {setting.name}", *(f"η = {grid.gaps[k]:g}" for k in places))
    rows = tuple(
        (f"ε = {number(line[0].loss)}", *(between_words(line[k].ratio, line[k].interval) for k in places))
        for line in grid.cells
    )
    return Table(head, rows)


def clock_picture(settings: Sequence[Setting]) -> Picture:
    """Return both clocks as curves over their thresholds."""
    lines = [
        Curve(f"{name}, {s.name}", 1 / np.array(clock.thresholds), times_of(clock.times, r))
        for name, of in (("T_cls", "classifier"), ("T_rep", "representation"))
        for s in settings
        if (clock := getattr(s.clocks, of)) is not None
        for r in range(s.runs)
    ]
    return Picture(
        "clocks", "The two clocks as curves over their thresholds", "1 / threshold (ε of the loss, η of the gap)",
        "optimiser step", tuple(lines),
        "First step from which the training loss stays at or below ε (T_cls), and the structural gap at or below η "
        "(T_rep), against 1/ε and 1/η, one line a run; a line ends where its clock had not struck; "
        f"{runs_words(settings)}.",
        log_x=True, log_y=True,
    )  # fmt: skip


def times_of(times: Sequence[HittingTime], r: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the times of run r over thresholds, NaN where censored and where a logarithmic axis cannot show them."""
    return np.array([float(time.values[r] or np.nan) for time in times], np.float64)
