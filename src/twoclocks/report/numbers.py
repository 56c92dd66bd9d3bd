"""This file knows how numbers and sentences are written on the page and along axes."""

from __future__ import annotations

import numpy as np


def number(value: float | None) -> str:
    """Return a measured value in three significant digits.

    >>> number(0.98765), number(-12345.6), number(1.62e-5), number(999.9), number(None)
    ('0.988', '−12,346', '1.62×10⁻⁵', '1,000', '–')
    """
    if value is None:
        return "–"
    digits, _, exponent = (f"{value:,.0f}" if 999.5 <= abs(value) < 1e7 else f"{value:.3g}").partition("e")
    return digits.replace("-", "−") + (f"×10{raised(int(exponent))}" if exponent else "")


def count(value: float) -> str:
    """Return a step, a row or an epoch in full.

    >>> count(10017), count(2.5)
    ('10,017', '2.5')
    """
    return f"{value:,.10g}" if value < 1e10 else f"{value:g}"


def percent(share: float) -> str:
    """Return a share in whole per cent.

    >>> percent(0.295), percent(0.001)
    ('30 %', '0 %')
    """
    return f"{100 * share:.0f} %"


def tick_label(value: float) -> str:
    """Return how a tick is written: plainly, or as a power of ten where that is shorter.

    >>> tick_label(0.01), tick_label(2000.0), tick_label(1e-6), tick_label(-0.5)
    ('0.01', '2,000', '10⁻⁶', '−0.5')
    """
    exponent = np.log10(value) if value > 0 else 0.0
    if exponent == round(exponent) and not -3 <= exponent <= 3:
        return f"10{raised(exponent)}"
    return f"{value:,.6g}".replace("-", "−")


def raised(exponent: float) -> str:
    """Return a whole exponent in raised digits."""
    return f"{exponent:.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def sentence(text: str) -> str:
    """Return a text with a capital at its front.

    >>> sentence("the run fitted")
    'The run fitted'
    """
    return text[:1].upper() + text[1:]


def time_words(unit: str) -> str:
    """Return what the steps of a source count.

    >>> time_words("step"), time_words("epoch")
    ('optimiser step', 'epoch')
    """
    return {"step": "optimiser step", "row": "row of the log"}.get(unit, unit)
