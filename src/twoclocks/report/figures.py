"""This file knows how panels are drawn as static SVG: one by one for the page, or stacked as a figure for print."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from twoclocks.report.numbers import tick_label
from twoclocks.report.panels import FigureData, Line, Mark, Panel, TimeAxis, alone, thinned

# Okabe and Ito's hues, darkened until each stands out from white by 3:1. Dashes differ too, for grey print.
COLOURS = ("#d55e00", "#0072b2", "#00805e", "#a8518a", "#8f6400", "#3a8fc8", "#5b6470")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.8), (8, 1.6, 1.6, 1.6), (2.2, 1.4), (12, 1.8))
INK, MUTED, GRID = "#1b1f24", "#5a626c", "#d9dde2"
FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"

# Inches. Every panel has the same width and margins, so that moments stand above each other.
WIDTH, LEFT, RIGHT, HEIGHT, BOTTOM, ROW = 7.2, 0.52, 0.12, 1.75, 0.4, 0.14
ROWS_OF_LABELS, LEGEND_COLUMNS = 3, 4
POINTS_PRINTED = 500  # about one a point of the printed width
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "twoclocks",
    "text.parse_math": False,
    "text.color": INK,
    "path.simplify_threshold": 0.2,
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "xtick.major.width": 0.6,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "lines.scale_dashes": False,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0,
    "legend.labelspacing": 0.3,
    "legend.handlelength": 2.8,
    "legend.columnspacing": 1.6,
}


def draw_panel(figure: FigureData, panel: Panel) -> str:
    """Return one panel as an SVG element without title and legend, which the page writes beside it."""
    rows = label_rows(figure)
    height = HEIGHT + BOTTOM + strip_of(rows)
    with matplotlib.rc_context(SETTINGS):
        canvas = Figure(figsize=(WIDTH, height), facecolor="none")
        axes = add_axes(canvas, BOTTOM)
        draw(axes, figure, panel)
        write_labels(axes, figure, rows)
        write_time(axes, figure.time)
        return svg_of(canvas, panel.key)


def draw_figure(figure: FigureData) -> str:
    """Return all panels that have lines as one SVG figure over one axis of time, for print."""
    panels, rows = [panel for panel in figure.panels if panel.lines], label_rows(figure)
    heads = [0.36 + ROW * legend_rows(panel) for panel in panels]
    y = BOTTOM + sum(heads) + HEIGHT * len(panels) + strip_of(rows)
    with matplotlib.rc_context(SETTINGS):
        canvas = Figure(figsize=(WIDTH, y))
        for panel, head, letter in zip(panels, heads, ascii_lowercase, strict=False):
            first, last = panel is panels[0], panel is panels[-1]
            strip = strip_of(rows) if first else 0.0
            y -= head + strip + HEIGHT
            axes = add_axes(canvas, y)
            draw(axes, figure, panel)
            write_title(axes, panel, letter, strip, figure.runs_drawn)
            write_labels(axes, figure, rows if first else ())
            write_time(axes, figure.time, labelled=last)
        return svg_of(canvas, "figure")


def add_axes(canvas: Figure, bottom: float) -> Axes:
    """Return axes at a height given in inches, with the sides that all panels share."""
    whole = float(canvas.get_figheight())
    return canvas.add_axes((LEFT / WIDTH, bottom / whole, 1 - (LEFT + RIGHT) / WIDTH, HEIGHT / whole), facecolor="none")


def draw(axes: Axes, figure: FigureData, panel: Panel) -> None:
    """Draw a panel's lines over its marks, levels and grid."""
    axes.set_xlim(*figure.time.limits)
    axes.set_yscale("log" if panel.log else "linear")
    for mark in figure.marks:
        colour, dash = (INK, (4, 2)) if mark.kind == "clock" else (MUTED, (1, 2))
        axes.axvline(place_of(figure.time, mark.step), color=colour, linewidth=0.7, linestyle=(0, dash), zorder=1)
    for line in panel.lines:
        draw_line(axes, figure.time, thinned(line, POINTS_PRINTED))
    for level, label in panel.levels:
        axes.axhline(level, color=MUTED, linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=1)
        axes.text(
            1, level, label, transform=axes.get_yaxis_transform(), ha="right", va="bottom", color=MUTED, fontsize=7
        )
    if panel.bounds:
        axes.set_ylim(panel.bounds[0] - 0.03, panel.bounds[1] + 0.03)
    axes.set_ylim(*axes.get_ylim())
    axes.minorticks_off()
    axes.set_yticks(*value_ticks(*axes.get_ylim(), log=panel.log))
    axes.grid(axis="y")


def draw_line(axes: Axes, time: TimeAxis, line: Line) -> None:
    """Draw one line, its band, and a dot at each moment that stands alone."""
    x = time.position(line.x)
    if line.low is not None and line.high is not None:
        axes.fill_between(x, line.low, line.high, color=colour_of(line), alpha=0.16, linewidth=0)
    if line.faint:
        axes.plot(x, line.y, color=colour_of(line), alpha=0.4, linewidth=0.6)
    else:
        axes.plot(x, line.y, **look_of(line), marker="o", markersize=2.4, markevery=alone(line).tolist())


def colour_of(line: Line) -> str:
    """Return the colour of a line's style."""
    return COLOURS[line.style % len(COLOURS)]


def look_of(line: Line) -> dict[str, Any]:
    """Return colour, width and dash of a line's style."""
    dash = DASHES[line.style % len(DASHES)]
    return {"color": colour_of(line), "linewidth": 1.3, "linestyle": (0, dash) if dash else "-"}


def place_of(time: TimeAxis, step: float) -> float:
    """Return where one step stands."""
    return float(time.position(np.asarray(step)))


def label_rows(figure: FigureData) -> tuple[int | None, ...]:
    """Return the row above the panel for each mark's label so that no two overlap; None where none is free."""
    taken: list[tuple[int, float, float]] = []
    rows: list[int | None] = []
    for mark in figure.marks:
        left, right = label_span(mark, figure.time)
        free = [r for r in range(ROWS_OF_LABELS) if not any(r == q and left < b and a < right for q, a, b in taken)]
        rows.append(free[0] if free else None)
        taken += [(r, left, right) for r in free[:1]]
    return tuple(rows)


def label_span(mark: Mark, time: TimeAxis) -> tuple[float, float]:
    """Return from where to where a mark's label reaches, in shares of the panel's width; it stays inside the panel."""
    low, high = time.limits
    half = (0.062 * len(mark.label) + 0.08) / 2 / (WIDTH - LEFT - RIGHT)  # 0.062 inches: a letter of 7 points
    centre = min(max((place_of(time, mark.step) - low) / (high - low), half), 1 - half)
    return centre - half, centre + half


def strip_of(rows: Sequence[int | None]) -> float:
    """Return the height in inches that the rows of labels take."""
    return 0.06 + ROW * (1 + max((row for row in rows if row is not None), default=-1))


def write_labels(axes: Axes, figure: FigureData, rows: Sequence[int | None]) -> None:
    """Write each mark's label above the panel, in its row."""
    for mark, row in zip(figure.marks, rows, strict=False):
        if row is not None:
            colour, y = INK if mark.kind == "clock" else MUTED, 1 + (0.05 + ROW * row) / HEIGHT
            centre = sum(label_span(mark, figure.time)) / 2
            axes.text(centre, y, mark.label, transform=axes.transAxes, ha="center", fontsize=7, color=colour)


def write_title(axes: Axes, panel: Panel, letter: str, strip: float, runs_drawn: str) -> None:
    """Write above a panel its letter, title, unit and legend."""
    foot = 1 + (strip + 0.05) / HEIGHT
    y = foot + (ROW * legend_rows(panel) + 0.04) / HEIGHT
    axes.text(-0.9 * LEFT / (WIDTH - LEFT - RIGHT), y, letter, transform=axes.transAxes, weight="bold")
    axes.text(0, y, f"{panel.title} ({panel.unit})", transform=axes.transAxes)
    axes.text(1, y, runs_drawn, transform=axes.transAxes, ha="right", fontsize=7, color=MUTED)
    lines = [Line2D([], [], label=f" {line.name[:40]}", **look_of(line)) for line in panel.lines if not line.faint]
    axes.legend(handles=lines, loc="lower left", bbox_to_anchor=(0, foot), ncols=LEGEND_COLUMNS)


def legend_rows(panel: Panel) -> int:
    """Return how many rows the legend of a panel takes."""
    return -(-sum(not line.faint for line in panel.lines) // LEGEND_COLUMNS)


def write_time(axes: Axes, time: TimeAxis, *, labelled: bool = True) -> None:
    """Write the axis of time: its ticks, and where it carries labels also its name."""
    values = time_ticks(time)
    axes.set_xticks(
        [place_of(time, value) for value in values], [tick_label(value) if labelled else "" for value in values]
    )
    if labelled:
        axes.set_xlabel(f"{time.name}, logarithmic" + (" (0 set apart)" if time.from_zero else ""))


def time_ticks(time: TimeAxis) -> list[float]:
    """Return the steps that are labelled: 0 where it is drawn, and powers of ten; where these are few, also 2 and 5."""
    return [0.0] * time.from_zero + (log_ticks(time.first, time.last) or [time.first])


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return round values between two positive ones for a log axis.

    >>> log_ticks(0.5, 2000), log_ticks(30, 250)
    ([1.0, 10.0, 100.0, 1000.0], [50.0, 100.0, 200.0])
    """
    exponents = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    decades = [float(f"1e{e:.0f}") for e in exponents if low <= 10**e <= high * (1 + 1e-9)]
    if len(decades) > 2:
        return decades[:: -(-len(decades) // most)]
    return [t for e in exponents for m in (1, 2, 5) if low <= (t := float(f"{m}e{e:.0f}")) <= high * (1 + 1e-9)]


def value_ticks(low: float, high: float, *, log: bool) -> tuple[list[float], list[str]]:
    """Return the ticks of a y axis with their labels."""
    linear = [float(v) for v in MaxNLocator(5).tick_values(low, high) if low <= v <= high]
    values = (log_ticks(low, high, most=5) if log else []) or linear
    return values, [tick_label(value) for value in values]


def svg_of(canvas: Figure, name: str) -> str:
    """Return a figure as an SVG element: the same bytes for the same figure, without styles, which pages forbid."""
    FigureCanvasSVG(canvas)
    target = io.StringIO()
    with warnings.catch_warnings():
        # The browser draws the text and has the glyphs; here they are only measured.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    return plain_svg(target.getvalue(), name)


def plain_svg(svg: str, name: str) -> str:
    """Return an SVG element with attributes for styles, two decimals, ids that begin with `name`, nothing unseen."""
    svg = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL
    )
    svg = re.sub(r"<[^>]*>", lambda tag: plain_tag(tag[0], name), svg)
    head = f'<svg font-family="{FONTS}" stroke-linejoin="round" '
    return re.sub(r"\s*\n\s*", "\n", svg).replace("<svg ", head, 1).strip() + "\n"


def plain_tag(tag: str, name: str) -> str:
    """Return one tag with attributes for its styles, two decimals, and ids that begin with `name`."""
    tag = re.sub(r'style="([^"]*)"', lambda match: attributes_of(match[1]), tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    return re.sub(r'(id="|url\(#|href="#)', rf"\1{name}-", tag)


def attributes_of(style: str) -> str:
    """Return the declarations of a style attribute as attributes of their own; the font is that of the whole figure.

    >>> attributes_of("fill: #ffffff; stroke-width: 0.8; font-family: 'DejaVu Sans'")
    'fill="#ffffff" stroke-width="0.8"'
    """
    pairs = (declaration.split(":", 1) for declaration in style.split(";") if ":" in declaration)
    return " ".join(f'{key.strip()}="{value.strip()}"' for key, value in pairs if key.strip() != "font-family")
