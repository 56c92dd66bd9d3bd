"""This file knows how a plot with axes of its own is drawn as static SVG, for a column half as wide as the page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twoclocks.report.figures import COLOURS, DASHES, INK, MUTED, SETTINGS, svg_of, value_ticks
from twoclocks.report.plots import Curve, Plot

# Inches and points. At 22 rem, the least width on the page, 8 points are 9 pixels.
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 4.3, 2.9, 0.62, 0.14, 0.46, 0.12
LABELS = 0.62  # beside the axes, where levels have labels
ROW = 0.14  # between two labels
FONT = 8
MARKERS = {1: ("o", 3.2), 3: ("s", 3.2)}
LARGER = 2.4  # the larger of two triangles at one place leaves the smaller one seen


def draw_plot(plot: Plot) -> str:
    """Return a plot as an SVG element without title and legend, which the page writes beside it."""
    right = LABELS if plot.levels else RIGHT
    place = (LEFT / WIDTH, BOTTOM / HEIGHT, 1 - (LEFT + right) / WIDTH, 1 - (BOTTOM + TOP) / HEIGHT)
    with matplotlib.rc_context(SETTINGS):
        canvas = Figure(figsize=(WIDTH, HEIGHT), facecolor="none")
        axes = canvas.add_axes(place, facecolor="none")
        axes.set_xscale("log" if plot.log_x else "linear")
        axes.set_yscale("log" if plot.log_y else "linear")
        for curve in plot.curves:
            draw_curve(axes, curve)
        for level, _ in plot.levels:
            axes.axhline(level, color=MUTED, linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=1)
        write_axes(axes, plot)
        write_levels(axes, plot.levels)
        return svg_of(canvas, plot.key)


def draw_curve(axes: Axes, curve: Curve) -> None:
    """Draw one curve: a line, a fitted law over the others, or points with intervals, hollow where they are censored."""
    if curve.kind == "law":
        axes.plot(curve.x, curve.y, color=INK, linewidth=1.4, linestyle=(0, (4, 2.4)), zorder=4)
    elif curve.kind == "line":
        width, alpha = (0.6, 0.4) if curve.faint else (1.4, 1.0)
        axes.plot(curve.x, curve.y, color=colour_of(curve), linewidth=width, alpha=alpha, linestyle=dash_of(curve))
    else:
        draw_points(axes, curve)


def draw_points(axes: Axes, curve: Curve) -> None:
    """Draw points, where asked for joined, and their intervals."""
    look: dict[str, Any] = {"color": colour_of(curve), "linestyle": "none"}
    marker, size = MARKERS[curve.style]
    known = np.ones(len(curve.x), bool) if curve.open is None else ~curve.open
    if curve.kind == "joined":
        axes.plot(curve.x[known], curve.y[known], color=colour_of(curve), linewidth=1.0, linestyle=dash_of(curve))
    if curve.low is not None and curve.high is not None:
        barred = known & np.isfinite(curve.low) & np.isfinite(curve.high)
        axes.vlines(curve.x[barred], curve.low[barred], curve.high[barred], color=colour_of(curve), linewidth=0.9)
    axes.plot(curve.x[known], curve.y[known], marker=marker, markersize=size, markeredgewidth=0, **look)
    larger = LARGER * size if marker == "s" else 1.5 * size
    axes.plot(curve.x[~known], curve.y[~known], marker="^", markersize=larger, markerfacecolor="none", **look)


def colour_of(curve: Curve) -> str:
    """Return the colour of a curve's style."""
    return COLOURS[curve.style % len(COLOURS)]


def dash_of(curve: Curve) -> Any:
    """Return the dash of a curve's style; the first is solid, since only fitted laws are dashed as laws are."""
    dash = () if curve.style == 1 else DASHES[curve.style % len(DASHES)]
    return (0, dash) if dash else "-"


def write_axes(axes: Axes, plot: Plot) -> None:
    """Write names, round ticks and the grid of both axes."""
    axes.margins(0.04)
    axes.set_xlim(*axes.get_xlim())
    axes.set_ylim(*axes.get_ylim())
    axes.minorticks_off()
    axes.set_xticks(*value_ticks(*axes.get_xlim(), log=plot.log_x))
    axes.set_yticks(*value_ticks(*axes.get_ylim(), log=plot.log_y))
    axes.set_xlabel(plot.x_name + (", logarithmic" if plot.log_x else ""), fontsize=FONT)
    axes.set_ylabel(plot.y_name + (", logarithmic" if plot.log_y else ""), fontsize=FONT)
    axes.yaxis.set_label_coords(-(LEFT - 0.1) / (axes.get_position().width * WIDTH), 0.5)
    axes.grid(axis="both")


def write_levels(axes: Axes, levels: Sequence[tuple[float, str]]) -> None:
    """Write the labels of levels beside the axes, each at its height or as little above it as leaves the others free."""
    ordered = sorted(levels)
    heights = [float(axes.transAxes.inverted().transform(axes.transData.transform((1, y)))[1]) for y, _ in ordered]
    for y, (_, label) in zip(apart(heights, ROW / (HEIGHT - BOTTOM - TOP)), ordered, strict=True):
        axes.text(1.02, y, label, transform=axes.transAxes, va="center", fontsize=FONT, color=MUTED)


def apart(heights: Sequence[float], least: float) -> list[float]:
    """Return rising heights moved so far up, and then down from 1, that neighbours lie at least so far apart.

    >>> apart([0.5, 0.5, 0.9], 0.25), apart([0.9, 1.0], 0.25)
    ([0.5, 0.75, 1.0], [0.75, 1.0])
    """
    moved = list(heights)
    for i, _ in enumerate(pairwise(heights), 1):
        moved[i] = max(moved[i], moved[i - 1] + least)
    for i in range(len(moved) - 1, -1, -1):
        moved[i] = min(moved[i], 1.0 - least * (len(moved) - 1 - i))
    return moved
