"""This file knows how the sensitivity strip is drawn as SVG: as wide as its column, over the time that all panels share.

Places along time are per cent, so that letters keep their size on every page and moments stand below those of the panels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from twoclocks.report.figures import place_of, time_ticks
from twoclocks.report.numbers import tick_label
from twoclocks.report.panels import FigureData, TimeAxis
from twoclocks.report.strips import EDGES, Heat, Strip
from twoclocks.trajectory import Float

ROW, FOOT = 16, 34  # pixels: of one penalty, and of the axis of time
ZERO = len(EDGES) // 2  # the level around 0
LABELS_APART = 6.0  # per cent of the width, the least between two labels of time
# Below 0 the cells are dashed too: in grey print the two ends of the scale are equally dark.
DASHES = (
    f'<defs><pattern id="below" width="10" height="{ROW}" patternUnits="userSpaceOnUse">'
    f'<path d="M3 {ROW / 2:g}h4" stroke="var(--ink)"/></pattern></defs>'
)


def draw_heat(figure: FigureData, strip: Strip, heat: Heat) -> str:
    """Return the cells of one gap as an SVG element, with the clocks' marks and rings at the penalties chosen."""
    height = ROW * len(strip.penalty)
    parts = (*cells(figure.time, strip, heat), *clock_lines(figure), *rings(figure.time, strip, heat))
    return f'<svg width="100%" height="{height}" fill="none">{DASHES}{"".join(parts)}</svg>'


def cells(time: TimeAxis, strip: Strip, heat: Heat) -> Iterator[str]:
    """Yield a rectangle for every stretch of neighbouring cells of one colour, and dashes for those below 0."""
    edges = share_of_width(time, edges_of(time, strip))
    for level in range(len(EDGES) + 1):
        for k, first, after in stretches(heat.level == level):
            yield rectangle(strip, k, edges[first], edges[after], f"var(--heat-{level})")
    for k, first, after in stretches((heat.level >= 0) & (heat.level < ZERO)):
        yield rectangle(strip, k, edges[first], edges[after], "url(#below)")


def rectangle(strip: Strip, k: int, left: float, right: float, fill: str) -> str:
    """Return a stretch of cells of penalty k; the smallest penalty is at the foot."""
    y = ROW * (len(strip.penalty) - 1 - k)
    return f'<rect x="{left:.2f}%" y="{y}" width="{right - left:.2f}%" height="{ROW}" fill="{fill}"/>'


def stretches(inside: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Return (row, first place, place after the last) of every unbroken stretch of true cells.

    >>> stretches(np.array([[True, True, False], [False, False, True]]))
    [(0, 0, 2), (1, 2, 3)]
    """
    padded = np.pad(inside, ((0, 0), (1, 1))).astype(int)
    (rows, first), (_, after) = np.nonzero(np.diff(padded) == 1), np.nonzero(np.diff(padded) == -1)
    return list(zip(rows.tolist(), first.tolist(), after.tolist(), strict=True))


def edges_of(time: TimeAxis, strip: Strip) -> Float:
    """Return where the cells of the moments meet, half way between them; the outer ones reach as far out as in."""
    centres = time.position(strip.step)
    between = (centres[1:] + centres[:-1]) / 2
    ends = [2 * centres[0] - between[0], 2 * centres[-1] - between[-1]] if len(between) else time.limits
    return np.asarray(np.clip(np.concatenate([[ends[0]], between, [ends[1]]]), *time.limits))


def share_of_width(time: TimeAxis, position: Float) -> Float:
    """Return positions on the axis of time in per cent of its width."""
    low, high = time.limits
    return np.asarray(100 * (position - low) / (high - low))


def clock_lines(figure: FigureData) -> Iterator[str]:
    """Yield a dashed line where each clock strikes."""
    for mark in figure.marks:
        if mark.kind == "clock":
            x = float(share_of_width(figure.time, np.array(place_of(figure.time, mark.step))))
            yield f'<line x1="{x:.2f}%" x2="{x:.2f}%" y2="100%" stroke="var(--ink)" stroke-dasharray="5 3"/>'


def rings(time: TimeAxis, strip: Strip, heat: Heat) -> Iterator[str]:
    """Yield a ring at the penalty that the probe chose at each moment."""
    for x, k in zip(share_of_width(time, time.position(strip.step)), heat.tuned, strict=True):
        if k >= 0:
            y = ROW * (len(strip.penalty) - k - 0.5)
            yield f'<circle cx="{x:.2f}%" cy="{y:g}" r="3.2" fill="var(--paper)" stroke="var(--ink)"/>'


def draw_time(figure: FigureData) -> str:
    """Return the axis of time as an SVG element: a tick at every round step, a label where there is room for it."""
    ticks, last = [], -np.inf
    for value in time_ticks(figure.time):
        x = float(share_of_width(figure.time, np.array(place_of(figure.time, value))))
        ticks.append(f'<line x1="{x:.2f}%" x2="{x:.2f}%" y2="4" stroke="var(--rule)"/>')
        if x >= last + LABELS_APART or value == 0:
            ticks.append(f'<text x="{x:.2f}%" y="16" text-anchor="middle">{tick_label(value)}</text>')
            last = x
    name = f'<text x="50%" y="{FOOT - 3}" text-anchor="middle">{figure.time.name}</text>'
    return f'<svg width="100%" height="{FOOT}" fill="var(--muted)" overflow="visible">{"".join(ticks)}{name}</svg>'
