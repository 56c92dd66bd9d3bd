"""This file knows how a picture of an answer is drawn: an SVG of few bytes, the same for the same numbers."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from twoclocks.claims.answers import Curve, Picture
from twoclocks.trajectory import Float

COLOURS = ("#0b6e99", "#c2571a", "#3d7a3a", "#8a4fa0", "#a08a00", "#555555", "#b8336a")
POINTS = 150  # a line: a picture of 30 lines stays under 100 KB
LONG = 22  # letters of a name, of which three do not go side by side
FEW = 12  # points, from which on a line goes without marks
STYLE: dict[Any, Any] = {"svg.hashsalt": "twoclocks", "svg.fonttype": "none", "font.size": 10, "path.simplify": True}


def drawn(picture: Picture) -> bytes:
    """Return a picture as SVG on white, which is read on a dark page as on a light one."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 4.4), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        groups = list(dict.fromkeys(curve.group for curve in picture.curves))
        for group in groups:
            draw_group(
                axes, [c for c in picture.curves if c.group == group], COLOURS[groups.index(group) % len(COLOURS)]
            )
        draw_levels(axes, picture)
        name_axes(axes, picture)
        if groups:
            columns = 2 if max(map(len, groups)) > LONG else 3
            figure.legend(loc="outside lower left", ncols=min(len(groups), columns), frameon=False)
        file = BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()


def draw_group(axes: Any, lines: list[Curve], colour: str) -> None:
    """Draw the runs of a group as thin lines of one colour, named once."""
    for i, line in enumerate(lines):
        x, y = thinned(line)
        marker = "o" if len(x) <= FEW else None
        name = lines[0].group if i == 0 else None
        axes.plot(x, y, color=colour, linewidth=1.1, alpha=0.75, label=name, marker=marker, markersize=3)


def draw_levels(axes: Any, picture: Picture) -> None:
    """Draw dotted levels across, named above the line where curves seldom are: at the left of a log axis, else at the right."""
    side = 0.0 if picture.log_x else 1.0
    for level, name in picture.levels:
        axes.axhline(level, color="#444444", linewidth=0.9, linestyle=":")
        axes.annotate(
            name, (side, level), xycoords=("axes fraction", "data"), xytext=(-4 if side else 4, 2), textcoords="offset points",
            ha="right" if side else "left", va="bottom", color="#333333", fontsize=9,
        )  # fmt: skip


def name_axes(axes: Any, picture: Picture) -> None:
    """Name the axes and choose their scales: linear too where nothing positive is to be shown."""
    shown = [thinned(curve) for curve in picture.curves]
    if picture.log_x and any((x > 0).any() for x, _ in shown):
        axes.set_xscale("log")
    if picture.log_y and any((y > 0).any() for _, y in shown):
        axes.set_yscale("log")
    axes.set(xlabel=picture.x_name, ylabel=picture.y_name)
    axes.set_title(picture.title, loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.margins(y=0.08)


def thinned(curve: Curve) -> tuple[Float, Float]:
    """Return at most POINTS points of a curve, evenly spaced in the logarithm of x, and its last one."""
    usable = np.isfinite(curve.y)
    x, y = np.asarray(curve.x, np.float64)[usable], np.asarray(curve.y, np.float64)[usable]
    if len(x) > POINTS:
        wanted = np.geomspace(max(float(x[x > 0][0]), 1e-9), float(x[-1]), POINTS)
        chosen = np.unique(np.searchsorted(x, wanted).clip(0, len(x) - 1))
        x, y = x[chosen], y[chosen]
    return x, y
