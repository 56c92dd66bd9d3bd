"""This file knows how the embedding view is drawn as SVG: dots on two axes, and bars by frequency."""

from __future__ import annotations

import colorsys
import math
from functools import cache
from typing import Any

import numpy as np

from twoclocks.report.embedding import Embedding, Moment, heading, ring, spectrum_words, told
from twoclocks.report.figures import FONTS
from twoclocks.report.numbers import percent
from twoclocks.trajectory import Float

# Units of the drawings. The plane is square; the bars are as wide.
WIDTH, EDGE, FOOT = 320, 22, 24
SIDE = WIDTH - EDGE - 6
BARS, BARS_HEAD = 96, 16
FONT = 12
MOST_LABELLED = 20  # classes whose labels can still be read beside their dots


def draw_plane(view: Embedding, moment: Moment, *, titled: bool = False) -> str:
    """Return the class means of one moment as an SVG element; `titled`: every dot tells its class to the pointer."""
    dots = "".join(dot(view, i, *place, titled=titled) for i, place in enumerate(places(view, moment).tolist()))
    first, second = axis_words(moment)
    middle, radius = EDGE + SIDE / 2, SIDE / 2 / reach(view)
    return (
        f'<svg viewBox="0 0 {WIDTH} {SIDE + FOOT + 4}" font-family="{FONTS}" font-size="{FONT}" fill="var(--muted)">'
        f'<g fill="none" stroke="var(--grid)"><rect x="{EDGE}" y="2" width="{SIDE}" height="{SIDE}"/>'
        f'<path d="M{EDGE} {2 + SIDE / 2:g}h{SIDE}M{middle:g} 2v{SIDE}"/>'
        f'<circle cx="{middle:g}" cy="{2 + SIDE / 2:g}" r="{radius:.1f}" stroke="var(--muted)" stroke-dasharray="1 3"/></g>'
        f'<path class="ring" d="{ring_path(view, moment)}" fill="none" stroke="var(--muted)" stroke-width=".8"/>'
        f'<g class="dots">{dots}</g>'
        f'<text class="first" x="{middle:g}" y="{SIDE + 16}" text-anchor="middle">{first}</text>'
        f'<text class="second" transform="translate(14 {2 + SIDE / 2:g}) rotate(-90)" text-anchor="middle">{second}</text>'
        "</svg>"
    )


def dot(view: Embedding, i: int, x: float, y: float, *, titled: bool) -> str:
    """Return one class: a dot of its colour, and its label where there are few."""
    label, many = int(view.classes[i]), len(view.classes) > MOST_LABELLED
    size = 3.6 if not many else 3.0 if len(view.classes) <= 60 else 2.3
    text = "" if many else f'<text x="5" y="-4" fill="var(--ink)">{label}</text>'
    title = f"<title>{label}</title>" if titled else ""
    colour = cyclic_colours(view.modulus or len(view.classes))[label if view.modulus else i]
    return f'<g transform="translate({x:g} {y:g})"><circle r="{size}" fill="{colour}"/>{text}{title}</g>'


def draw_bars(view: Embedding, moment: Moment) -> str:
    """Return the spectrum of one moment as an SVG element; the same height means the same share at all moments."""
    count, top, foot = len(moment.spectrum), highest(view), BARS_HEAD + BARS
    ticks = sorted({1, *(round(count * part / 4) for part in (1, 2, 3)), count} - {0})
    labels = "".join(
        f'<text x="{bar_place(k, count):.1f}" y="{foot + 14}" text-anchor="middle">{k}</text>' for k in ticks
    )
    width = max(0.7 * (SIDE / (count + 1)), 0.5)
    return (
        f'<svg viewBox="0 0 {WIDTH} {foot + 34}" font-family="{FONTS}" font-size="{FONT}" fill="var(--muted)">'
        f'<path d="M{EDGE} {BARS_HEAD}h{SIDE}M{EDGE} {foot}h{SIDE}" stroke="var(--grid)"/>'
        f'<text x="{EDGE}" y="{BARS_HEAD - 4}">{percent(top)} of the energy</text>'
        f'<path class="bars" d="{bars_path(view, moment)}" stroke="var(--line-1)" stroke-width="{width:.1f}"/>{labels}'
        f'<text x="{EDGE + SIDE / 2:g}" y="{foot + 29}" text-anchor="middle">frequency</text></svg>'
    )


def draw_colours(view: Embedding) -> str:
    """Return the key of the colours of residues or of very many classes: a row from the first to the last."""
    cells = cyclic_colours(36)
    row = "".join(f'<rect x="{4 * i}" width="4.2" height="8" fill="{colour}"/>' for i, colour in enumerate(cells))
    return f'<svg class="colours" viewBox="0 0 144 8" aria-hidden="true">{row}</svg>'


def payload_of(view: Embedding) -> dict[str, Any] | None:
    """Return what the page's script shows as the slider moves; None where there is nothing to slide over."""
    if len(view.moments) < 2:
        return None
    moments = [
        {
            "at": heading(moment, view.unit),
            "points": places(view, moment).ravel().tolist(),
            "ring": ring_path(view, moment),
            "axes": axis_words(moment),
            "told": told(moment, view),
            "bars": bars_path(view, moment) if view.modulus else "",
            "spectrum": spectrum_words(moment, view) if view.modulus else "",
        }
        for moment in view.moments
    ]
    return {"moments": moments}


def reach(view: Embedding) -> float:
    """Return how far from the middle the plane goes, the same at all moments, in RMS distances."""
    return 1.08 * max(1.0, *(float(np.abs(moment.points).max()) for moment in view.moments))


def places(view: Embedding, moment: Moment) -> Float:
    """Return where the dots of a moment stand in the drawing, `[m 2]`."""
    middle = np.array([EDGE + SIDE / 2, 2 + SIDE / 2])
    return np.asarray((middle + moment.points * np.array([1, -1]) * SIDE / 2 / reach(view)).round(1))


def ring_path(view: Embedding, moment: Moment) -> str:
    """Return the line through the classes in the order of the frequency that dominates, empty where none does."""
    if view.modulus is None or moment.frequency is None or len(view.classes) != view.modulus:
        return ""
    points = places(view, moment)[ring(view.modulus, moment.frequency)]
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points.tolist()) + "Z"


def axis_words(moment: Moment) -> tuple[str, str]:
    """Return the names of both axes with the share of the scatter of the means that each holds."""
    first, second = (f"axis {i + 1}: {percent(share)} of the scatter" for i, share in enumerate(moment.share))
    return first, second


def highest(view: Embedding) -> float:
    """Return the largest share of any frequency at any moment."""
    return max(
        max((float(moment.spectrum.max()) for moment in view.moments if len(moment.spectrum)), default=0.0), 1e-9
    )


def bar_place(frequency: int, count: int) -> float:
    """Return where the bar of a frequency stands."""
    return EDGE + SIDE * frequency / (count + 1)


def bars_path(view: Embedding, moment: Moment) -> str:
    """Return all bars of a moment as one path."""
    foot, top, count = BARS_HEAD + BARS, highest(view), len(moment.spectrum)
    heights = (BARS * moment.spectrum / top).round(1).tolist()
    return "".join(
        f"M{bar_place(k, count):.1f} {foot}v{-height:g}" for k, height in enumerate(heights, 1) if height > 0
    )


def plane_words(view: Embedding, moment: Moment) -> str:
    """Return in words what a picture shows, for those who cannot see it."""
    bars = f" {spectrum_words(moment, view)}" if view.modulus else ""
    return f"{len(view.classes)} class means at {heading(moment, view.unit)}. {told(moment, view)}{bars}"


@cache
def cyclic_colours(count: int) -> tuple[str, ...]:
    """Return colours around the circle of hues, all about as bright, so that each stands out from white and from black.

    >>> cyclic_colours(2)
    ('#d34f4f', '#228989')
    """
    return tuple(hue_of(i / count) for i in range(count))


def hue_of(turn: float) -> str:
    """Return the colour of a hue at a luminance of 0.2, found by halving."""
    low, high = 0.0, 1.0
    for _ in range(12):
        value = (low + high) / 2
        low, high = (value, high) if luminance(turn, value) < 0.2 else (low, value)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in colorsys.hls_to_rgb(turn, low, 0.6))


def luminance(turn: float, lightness: float) -> float:
    """Return the relative luminance of a hue at a lightness, as contrast is told by."""
    channels = colorsys.hls_to_rgb(turn, lightness, 0.6)
    linear = [c / 12.92 if c <= 0.03928 else math.pow((c + 0.055) / 1.055, 2.4) for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
