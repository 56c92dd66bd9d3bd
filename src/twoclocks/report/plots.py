"""This file knows what is drawn of the two clocks' conditions: plots with axes of their own and one table, as records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twoclocks.clocks import Between, ClockCurve, Clocks, HittingTime, OrderCell, order
from twoclocks.conditions import RESOLVED, ROUNDING, Conditions, in_flow_time, positive
from twoclocks.evidence import Evidence
from twoclocks.fits import Fit, FitOutcome, Growth, relaxation_time
from twoclocks.report.numbers import count, number, sentence, tick_label, time_words
from twoclocks.report.plans import NO_MARGINS, NO_OBJECTIVE, NO_STRUCTURE
from twoclocks.trajectory import Float, Series

POINTS_A_CURVE = 240
OTHER_RUNS = 12  # thin curves behind the one that is told about
ROWS_OF_CELLS, COLUMNS_OF_CELLS = 8, 8
BEYOND = 0.25  # share of a window that is shown after its end
FIRST, SECOND = 1, 3  # styles that differ in colour, dash and marker


@dataclass(frozen=True)
class Curve:
    """Points (`x`, `y`) drawn as a "line", as "points", "joined" points, or as a fitted "law".

    `low` and `high` are the ends of each point's interval, NaN where it has none. `open` marks censored points: the value
    is larger than drawn. `faint`: one run of several.
    """

    name: str
    style: int
    x: Float
    y: Float
    kind: str = "line"
    low: Float | None = None
    high: Float | None = None
    open: NDArray[np.bool_] | None = None
    faint: bool = False


@dataclass(frozen=True)
class Plot:
    """Curves over an axis of their own, and what must be said of them. Without curves, `absent` says what to record.

    `levels` are horizontal lines with their labels.
    """

    key: str
    title: str
    x_name: str
    y_name: str
    log_x: bool
    log_y: bool
    curves: tuple[Curve, ...]
    levels: tuple[tuple[float, str], ...] = ()
    notes: tuple[str, ...] = ()
    absent: str = ""


@dataclass(frozen=True)
class Cell:
    """One number of a table and what stands below it; `side` is "later", "earlier" or "open", as it says of the clocks."""

    text: str
    below: tuple[str, ...]
    side: str


@dataclass(frozen=True)
class CellTable:
    """Numbers over two lists of thresholds. Without cells, `absent` says what to record."""

    key: str
    title: str
    x_name: str
    y_name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()
    absent: str = ""


def plots_of(evidence: Evidence) -> tuple[Plot, ...]:
    """Return the plots of the two clocks' conditions, drawn or absent."""
    return growth_plot(evidence), clock_plot(evidence), kappa_plot(evidence), phase_plot(evidence)


# The gaps ------------------------------------------------------------------------------------------------------------

GAPS = {"train_margin_min": ("smallest gap", FIRST), "train_margin_q01": ("1 % quantile of the gaps", SECOND)}


def growth_plot(evidence: Evidence) -> Plot:
    """Return the smallest training gaps over time, with the preferred law of their growth over its window."""
    plot = Plot(
        "growth", "Gap growth", time_words(evidence.trajectory.source.time), "logit gap, logits", False, False, ()
    )
    scalars = evidence.trajectory.scalars
    found = {name: scalars[name] for name in GAPS if name in scalars and has_values(scalars[name])}
    if not found:
        return replace(plot, absent=NO_MARGINS)
    shown = shown_run(evidence, lambda one: any(growth.preferred in LAWS for growth in one.growth.values()))
    window = None if (one := conditions_of_run(evidence, shown)) is None else one.window
    last = math.inf if window is None else window[1] + BEYOND * (window[1] - window[0])
    curves = [curve for name, s in found.items() for curve in gap_curves(s, *GAPS[name], shown, last)]
    laws = [law for name in found if (law := growth_law(growth_of(evidence, shown, name))) is not None]
    notes = (
        *growth_notes(evidence, tuple(found), shown),
        *linear_words(conditions_of_run(evidence, shown), plot.x_name),
        *([] if last == math.inf else [f"Drawn up to {plot.x_name} {count(round(last))}, a little past the window."]),
        *which_run(evidence, shown),
    )
    return replace(plot, curves=(*curves, *laws), notes=notes)


def gap_curves(series: Series, name: str, style: int, shown: int, last: float) -> Iterator[Curve]:
    """Yield the curve of every run up to a step, the one told about last, so that it lies on top."""
    others = [r for r in range(series.runs) if r != shown][:OTHER_RUNS]
    for run in (*others, shown):
        kept = np.isfinite(series.value[run]) & (series.step <= last)
        x, y = series.step[kept].astype(np.float64), series.value[run][kept]
        if len(x):
            yield sparse(Curve(name, style, x, y, faint=run != shown))


LAWS: dict[str, Callable[[Float, Fit], Float]] = {
    "linear": lambda t, fit: fit.parameters["intercept"] + fit.parameters["slope"] * t,
    "logarithmic": lambda t, fit: fit.parameters["intercept"] + fit.parameters["slope"] * np.log(t),
    "saturating": lambda t, fit: (
        fit.parameters["level"] - fit.parameters["gain"] * np.exp(-t / fit.parameters["time_constant"])
    ),
}


def growth_law(growth: Growth | None) -> Curve | None:
    """Return the preferred law over its window, None where none is preferred."""
    if growth is None or growth.preferred not in LAWS:
        return None
    fit = fits_of(growth)[growth.preferred]
    if not fit.parameters:
        return None
    x = np.linspace(max(fit.window[0], 1e-9), fit.window[1], 60)
    return Curve("preferred law, over its window", 0, x, LAWS[growth.preferred](x, fit), "law")


def growth_notes(evidence: Evidence, names: Sequence[str], shown: int) -> Iterator[str]:
    """Say which law each gap follows, how much worse the others are, and how the runs agree."""
    for name in names:
        growth, said = growth_of(evidence, shown, name), GAPS[name][0]
        if growth is None:
            yield f"{sentence(said)}: no law was fitted, as its growth has no window of enough evaluations."
            continue
        axis = time_words(evidence.trajectory.source.time)
        preferred = [one.preferred for r in range(evidence.trajectory.runs) if (one := growth_of(evidence, r, name))]
        agree = "" if len(preferred) == 1 else f" ({preferred.count(growth.preferred)} of {len(preferred)} runs)"
        yield f"{sentence(said)}: {law_words(growth, axis)}{agree}."


def linear_words(conditions: Conditions | None, axis: str) -> Iterator[str]:
    """Say up to when the smallest gap is as good as linear, where that is known."""
    if conditions is not None and conditions.linear_until is not None:
        end = count(round(conditions.linear_until))
        yield f"Up to {axis} {end} no other law fits the smallest gap clearly better than a line."


def law_words(growth: Growth, axis: str) -> str:
    """Return in words which law of growth is preferred, with its number, window and the distances of the others."""
    fits = fits_of(growth)
    scores = {name: fit.aicc for name, fit in fits.items() if fit.aicc is not None}
    apart = ", ".join(f"{name} {number(score - min(scores.values()))}" for name, score in scores.items())
    compared = f"; AICc above the best: {apart}" if scores else ""
    if growth.preferred not in fits:
        return f"no law is preferred{compared}; {sample_words(growth.linear, axis)}{remedy(growth.linear)}"
    fit = fits[growth.preferred]
    unknown = ("time_constant", "time constant") if growth.preferred == "saturating" else ("slope", "slope")
    return f"{growth.preferred} law, {parameter_words(fit, *unknown)}, {sample_words(fit, axis)}{compared}"


def fits_of(growth: Growth) -> dict[str, Fit]:
    """Return the three laws by name."""
    return {"linear": growth.linear, "logarithmic": growth.logarithmic, "saturating": growth.saturating}


def growth_of(evidence: Evidence, run: int, name: str) -> Growth | None:
    """Return the laws of one gap of one run, where they were fitted."""
    conditions = conditions_of_run(evidence, run)
    return None if conditions is None else conditions.growth.get(name)


# The clocks ----------------------------------------------------------------------------------------------------------


def clock_plot(evidence: Evidence) -> Plot:
    """Return both clocks as curves: the time at which loss and structural gap are last above each threshold."""
    unit = time_words(evidence.trajectory.source.time)
    plot = Plot("clocks", "The two clocks", "1 / threshold", f"T, {unit}", True, True, ())
    clocks = evidence.clocks
    read = [] if clocks is None else [(n, c) for n, c in ((CLS, clocks.classifier), (REP, clocks.representation)) if c]
    drawn = [clock_curve(name, curve) for name, curve in read]
    if clocks is None or not any(len(one.x) for one in drawn):
        absent = (
            "No clock could be read as a curve. T_cls needs the training loss; T_rep needs features or weights at several "
            "snapshots, which a Recorder keeps."
        )
        return replace(plot, absent=absent)
    notes = (
        *(f"{name.split(' ')[0]} is of {curve.of}." for name, curve in read),
        *([] if len(read) == 2 else [f"Only {read[0][0].split(' ')[0]} could be read."]),
        *(note for name, curve in read for note in censored_words(name, curve)),
        *clock_notes(evidence, clocks),
    )
    return replace(plot, curves=tuple(c for c in drawn if len(c.x)), levels=tuple(clock_levels(clocks)), notes=notes)


CLS, REP = "T_cls (training loss ≤ ε)", "T_rep (structural gap ≤ η)"


def clock_curve(name: str, curve: ClockCurve) -> Curve:
    """Return one clock's median over runs at each threshold, with its interval; censored ones at the last step."""
    thresholds = np.asarray(curve.thresholds, np.float64)
    medians = [curve.median(k) for k in range(len(thresholds))]
    last = np.array([float(time.last) for time in curve.times])
    known = [m.interval if m.value is not None and m.n > 1 else (None, None) for m in medians]
    ends = np.array(known, np.float64).reshape(-1, 2)
    times = np.array([at if m.value is None else m.value for m, at in zip(medians, last, strict=True)], np.float64)
    drawn = Curve(
        name,
        FIRST if name == CLS else SECOND,
        1 / thresholds,
        times,
        "joined",
        ends[:, 0],
        np.where(np.isnan(ends[:, 1]), times, ends[:, 1]),
        np.array([m.value is None for m in medians]),
    )
    return chosen(drawn, drawn.y > 0)


def censored_words(name: str, curve: ClockCurve) -> Iterator[str]:
    """Say how many thresholds were not reached, and how many were reached at the start."""
    medians, short = [curve.median(k).value for k in range(len(curve.thresholds))], name.split(" ")[0]
    if unreached := sum(m is None for m in medians):
        yield f"{short}: {unreached} of {len(medians)} thresholds are not reached; their triangles stand at the last step."
    if at_start := sum(m is not None and m <= 0 for m in medians):
        yield f"{short}: {at_start} of {len(medians)} are met at step 0, which a log axis cannot show."


def clock_notes(evidence: Evidence, clocks: Clocks) -> Iterator[str]:
    """Say how each clock grows as its threshold falls."""
    for name in ("T_cls", "T_rep"):
        fits = [fit for one in evidence.conditions if (fit := one.clock_exponents.get(name)) is not None]
        if fits:
            fit = next((fit for fit in fits if is_fitted(fit)), fits[0])
            in_thresholds = replace(fit, window=(math.exp(fit.window[0]), math.exp(fit.window[1])))
            what = f"{name}, clock law (T ~ threshold^−a at small thresholds)"
            yield told(what, in_thresholds, "exponent", "a", "1/threshold")
            yield from per_run(f"a of {name}", [parameter(fit, "exponent") for fit in fits])
    runs = max(curve.times[0].runs for curve in (clocks.classifier, clocks.representation) if curve is not None)
    if runs > 1:
        yield f"Points: medians over {runs} runs. Bars: 95 % intervals; one that ends at its point has no upper end."


def clock_levels(clocks: Clocks) -> Iterator[tuple[float, str]]:
    """Yield T_fit and the T_gen that were reached."""
    for label, time in named_times(clocks):
        if time.value is not None and time.value > 0:
            yield float(time.value), label


def named_times(clocks: Clocks) -> Iterator[tuple[str, HittingTime]]:
    """Yield the clocks of accuracy by name."""
    if clocks.fit is not None:
        yield "T_fit", clocks.fit
    for alpha, time in clocks.generalisation.items():
        yield f"T_gen {alpha:g}", time


# The tail ------------------------------------------------------------------------------------------------------------


def kappa_plot(evidence: Evidence) -> Plot:
    """Return the relaxation time R(t) of ‖∇F‖² with the fitted line of slope κ."""
    unit = "flow time" if "flow_time" in evidence.trajectory.scalars else time_words(evidence.trajectory.source.time)
    plot = Plot(
        "kappa", "κ plot: relaxation time of ‖∇F‖²", unit, f"R = −1 / (d log ‖∇F‖² / dt), {unit}", False, False, ()
    )
    shown = shown_run(evidence, lambda one: is_fitted(one.kappa))
    norms = positive(evidence.trajectory.scalars.get("squared_gradient_norm"), shown, ROUNDING)
    if norms is None:
        return replace(plot, absent=NO_OBJECTIVE)
    x, y = relaxation_time(*increasing(*in_flow_time(evidence.trajectory, *norms, shown)))
    if not len(x):
        return replace(plot, absent="‖∇F‖² does not fall over three evaluations, so it has no relaxation time.")
    fit = None if (one := conditions_of_run(evidence, shown)) is None else one.kappa
    line = None if fit is None else fitted_line(x, y, fit, "kappa", "fitted slope κ")
    points, cut = in_view(Curve("R at neighbouring evaluations", FIRST, x, y, "points"), line)
    notes = (
        *([] if fit is None else [told("Łojasiewicz law (R linear in t)", fit, "kappa", "κ", unit), *theta_words(fit)]),
        *per_run("θ", [parameter(one.kappa, "theta") for one in evidence.conditions]),
        *cut,
        *which_run(evidence, shown),
    )
    return replace(plot, curves=tuple(curve for curve in (sparse(points), line) if curve is not None), notes=notes)


def increasing(time: Float, values: Float) -> tuple[Float, Float]:
    """Return a series without moments at which time stands still, as where the learning rate is 0."""
    later = np.concatenate([[True], np.diff(time) > 0])
    return time[later], values[later]


def fitted_line(x: Float, y: Float, fit: Fit, slope: str, name: str) -> Curve | None:
    """Return the line of a fitted slope over its window, at the median height of the points, as fits tell slopes alone."""
    within = (x >= fit.window[0]) & (x <= fit.window[1])
    if not is_fitted(fit) or not within.any():
        return None
    ends = np.array(fit.window, np.float64)
    return Curve(
        name, 0, ends, np.median((y - fit.parameters[slope] * x)[within]) + fit.parameters[slope] * ends, "law"
    )


def in_view(points: Curve, line: Curve | None) -> tuple[Curve, list[str]]:
    """Return the points up to the end of the line and not far above the others, and how many were left out."""
    near = points.x <= (math.inf if line is None else line.x[-1] * (1 + BEYOND / 5))
    highest = 2 * float(np.quantile(points.y[near], 0.9)) if near.any() else math.inf
    top = highest if line is None else max(highest, 1.3 * float(line.y.max()))
    kept = near & (points.y <= top)
    counts = {f"R above {number(top)}": int((near & ~kept).sum()), "R after the window": int((~near).sum())}
    return chosen(points, kept), [f"Not drawn: {n:,} {what}." for what, n in counts.items() if n]


def theta_words(fit: Fit) -> Iterator[str]:
    """Say what κ means for the exponent θ."""
    if is_fitted(fit):
        yield f"{parameter_words(fit, 'theta', 'θ = 1 / (2 (1 − κ))')}; an exponential has ½."


def phase_plot(evidence: Evidence) -> Plot:
    """Return ‖∇F‖ against F − F_∞ with the fitted slope θ."""
    plot = Plot("phase", "Phase plot: ‖∇F‖ against Δ", "Δ = F − F_∞, nats per example", "‖∇F‖", True, True, ())
    shown = shown_run(evidence, lambda one: is_fitted(one.phase))
    norms = positive(evidence.trajectory.scalars.get("squared_gradient_norm"), shown, ROUNDING)
    gap = positive(evidence.measured.get("objective gap"), shown, RESOLVED)
    if norms is None:
        return replace(plot, absent=NO_OBJECTIVE)
    if gap is None:
        absent = (
            "F_∞ is not known. Let the run be polished to its limit at its end; the last sample cannot stand for it."
        )
        return replace(plot, absent=absent)
    _, of_gap, of_norms = np.intersect1d(gap[0], norms[0], return_indices=True)
    x, y = gap[1][of_gap], np.sqrt(norms[1][of_norms])
    if not len(x):
        return replace(plot, absent="F − F_∞ and ‖∇F‖ are above rounding at no common evaluation.")
    fit = None if (one := conditions_of_run(evidence, shown)) is None else one.phase
    logs = None if fit is None else replace(fit, window=(math.log(fit.window[0] or 1), math.log(fit.window[1] or 1)))
    line = None if logs is None else fitted_line(np.log(x), np.log(y), logs, "theta", "fitted slope θ")
    curves = [Curve("evaluations, later ones to the left", FIRST, x, y, "points")]
    curves += [] if line is None else [replace(line, x=np.exp(line.x), y=np.exp(line.y))]
    notes = (
        *([] if fit is None else [told("Phase law (‖∇F‖ ~ Δ^θ)", fit, "theta", "θ", "Δ")]),
        *per_run("θ", [parameter(one.phase, "theta") for one in evidence.conditions]),
        *which_run(evidence, shown),
    )
    return replace(plot, curves=tuple(sparse(curve) for curve in curves), notes=notes)


# The order of the clocks ---------------------------------------------------------------------------------------------


def order_table(evidence: Evidence) -> CellTable:
    """Return T_rep ÷ T_cls at every pair of thresholds: what is censored as a bound, what is undecidable as a dash."""
    table = CellTable("order", "Order of the clocks: T_rep ÷ T_cls", "loss ≤ ε", "gap ≤ η", (), ())
    clocks = evidence.clocks
    if clocks is None or clocks.classifier is None or clocks.representation is None:
        has_structure = clocks is not None and clocks.representation is not None
        return replace(
            table, absent="The order of the clocks needs the training loss." if has_structure else NO_STRUCTURE
        )
    if clocks.classifier.times[0].runs != clocks.representation.times[0].runs:
        return replace(table, absent="The training loss and the structural gap are of different numbers of runs.")
    read = order(clocks)
    columns, rows = evenly(len(read.losses), COLUMNS_OF_CELLS), evenly(len(read.gaps), ROWS_OF_CELLS)
    thin = len(columns) * len(rows) < len(read.losses) * len(read.gaps)
    many = clocks.classifier.times[0].runs > 1
    notes = (
        "Above 1 the representation clock strikes later. “>” and “<” are bounds, as one clock was not reached or was met at "
        "the first evaluation; “–”: neither is known.",
        *(
            ["Medians over runs, their 95 % intervals, and in how many runs T_rep is known to be later."]
            if many
            else []
        ),
        *([f"{len(columns)} × {len(rows)} of {len(read.losses)} × {len(read.gaps)} pairs are shown."] if thin else []),
    )
    return replace(
        table,
        columns=tuple(tick_label(read.losses[i]) for i in columns),
        rows=tuple((tick_label(read.gaps[j]), tuple(cell_of(read.cells[i][j]) for i in columns)) for j in rows),
        notes=notes,
    )


def evenly(size: int, most: int) -> list[int]:
    """Return at most `most` places of a list, evenly chosen, its ends among them."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int)).tolist()  # type: ignore[no-any-return]


def cell_of(cell: OrderCell) -> Cell:
    """Return how one pair of thresholds is written."""
    runs = cell.later + cell.earlier + cell.undecidable
    lines = [] if cell.interval is None else [f"[{bound(cell.interval.low, '0')}, {bound(cell.interval.high, '∞')}]"]
    lines += [f"{cell.later} of {runs}"] if runs > 1 else []
    return Cell(ratio_words(cell.ratio), tuple(lines), side_of(cell.ratio))


def ratio_words(ratio: Between) -> str:
    """Return a ratio that may be known from one side only.

    >>> [ratio_words(Between(*ends)) for ends in ((4.0, 4.0), (4.0, None), (None, 0.5), (1.0, 2.0), (None, None))]
    ['4', '> 4', '< 0.5', '1–2', '–']
    """
    low, high = ratio.low or None, ratio.high
    if low is None or high is None:
        return f"> {number(low)}" if low is not None else f"< {number(high)}" if high is not None else "–"
    return number(low) if low == high else f"{number(low)}–{number(high)}"


def bound(value: float | None, otherwise: str) -> str:
    """Return one end of an interval."""
    return otherwise if value is None else number(value)


def side_of(ratio: Between) -> str:
    """Return which clock a ratio of medians says comes later, where its bounds allow to say."""
    if ratio.low is not None and ratio.low > 1:
        return "later"
    return "earlier" if ratio.high is not None and ratio.high < 1 else "open"


# Words and points ----------------------------------------------------------------------------------------------------


def shown_run(evidence: Evidence, has: Callable[[Conditions], bool]) -> int:
    """Return the first run that has what a plot shows, else the first."""
    return next((run for run, one in enumerate(evidence.conditions) if has(one)), 0)


def conditions_of_run(evidence: Evidence, run: int) -> Conditions | None:
    """Return the fits of one run, None where nothing was fitted."""
    return evidence.conditions[run] if run < len(evidence.conditions) else None


def which_run(evidence: Evidence, shown: int) -> Iterator[str]:
    """Say which of several runs is drawn."""
    if evidence.trajectory.runs > 1:
        yield f"The run told of is number {shown} of 0 to {evidence.trajectory.runs - 1}, the first that could be fitted."


def is_fitted(fit: Fit | None) -> bool:
    """Return whether there is a fit that can be drawn."""
    return fit is not None and bool(fit.parameters)


def parameter(fit: Fit | None, name: str) -> float | None:
    """Return a parameter of a fit, where it has one."""
    return None if fit is None else fit.parameters.get(name)


def told(what: str, fit: Fit, name: str, symbol: str, axis: str) -> str:
    """Return a fit in words: its number with its precision, the window and the sample, and what is wrong."""
    told_number = f"{parameter_words(fit, name, symbol)}, " if is_fitted(fit) else "no fit "
    return f"{what}: {told_number}{sample_words(fit, axis)}{remedy(fit)}."


def parameter_words(fit: Fit, name: str, symbol: str) -> str:
    """Return one parameter of a fit with its precision."""
    said = f"{symbol} = {number(fit.parameters[name])}"
    if name not in fit.precision:
        return said
    low, high = fit.precision[name]
    return f"{said} [{number(low)}, {number(high)}]"


def sample_words(fit: Fit, axis: str = "") -> str:
    """Return over which window a fit was made, of how many points, and how many independent ones these are worth."""
    low, high = (number(end) for end in fit.window)
    return f"over {axis} {low} to {high}, n = {fit.n} (effective {number(fit.effective_n)})".replace("  ", " ")


def remedy(fit: Fit) -> str:
    """Return what a fit says of itself, and that it is not one where it did not converge."""
    outcome = "" if fit.outcome is FitOutcome.CONVERGED else fit.outcome.value.replace("_", " ").lower()
    said = ": ".join(part for part in (outcome, fit.message) if part)
    return f"; {said}" if said else ""


def per_run(symbol: str, values: Sequence[float | None]) -> Iterator[str]:
    """Say what each of several runs gives."""
    if len(values) > 1 and any(value is not None for value in values):
        each = ", ".join(number(value) for value in values[:OTHER_RUNS])
        yield f"{symbol} of each run: {each}{' …' if len(values) > OTHER_RUNS else ''}."


def has_values(series: Series) -> bool:
    """Return whether a series has one number a run and moment, and a finite one somewhere."""
    return series.value.ndim == 2 and bool(np.isfinite(series.value).any())


def chosen(curve: Curve, kept: NDArray[np.bool_]) -> Curve:
    """Return some of a curve's points."""
    low, high, is_open = (None if v is None else v[kept] for v in (curve.low, curve.high, curve.open))
    return replace(curve, x=curve.x[kept], y=curve.y[kept], low=low, high=high, open=is_open)  # type: ignore[arg-type]


def sparse(curve: Curve, limit: int = POINTS_A_CURVE) -> Curve:
    """Return a curve with at most `limit` points: the smallest and the largest of each of equal shares of its points."""
    if len(curve.x) <= limit:
        return curve
    kept = np.zeros(len(curve.x), bool)
    for places in np.array_split(np.arange(len(curve.x)), limit // 2):
        kept[places[[curve.y[places].argmin(), curve.y[places].argmax()]]] = True
    return chosen(curve, kept)
