"""This file knows what the answer to a published claim is: its parts, how each came out, numbers over seeds, pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from twoclocks.trajectory import Array, Float
from twoclocks.verdicts import Outcome, Verdict


class Finding(StrEnum):
    """How a claim, or a part of it, came out over runs."""

    HOLDS = "holds"
    FAILS = "does not hold"
    PARTLY = "holds in part"
    OPEN = "undetermined"


@dataclass(frozen=True)
class Table:
    """Rows of words under a head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Curve:
    """A line of a picture: y over x; `group` decides its colour, and several of a group are thin lines of one colour."""

    group: str
    x: Array
    y: Float


@dataclass(frozen=True)
class Picture:
    """What is drawn for an answer: curves on two named axes, each linear or logarithmic, and levels across.

    `caption` says of what, in which units, and how many runs.
    """

    key: str
    title: str
    x_name: str
    y_name: str
    curves: tuple[Curve, ...]
    caption: str
    log_x: bool = False
    log_y: bool = False
    levels: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Part:
    """One part of a claim: what is claimed, when it counts as holding, how it came out and by which numbers."""

    claim: str
    rule: str
    finding: Finding
    found: str


@dataclass(frozen=True)
class Answer:
    """One published claim in its parts, what came out in a sentence or two, and the numbers.

    `asides` are judged like parts, but belong to the question and not to the claim: they do not count for its finding.
    """

    letter: str
    question: str
    claim: str
    parts: tuple[Part, ...]
    found: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    asides: tuple[Part, ...] = ()

    @property
    def finding(self) -> Finding:
        """Return how the claim came out as a whole."""
        return joined(part.finding for part in self.parts)


def joined(parts: Iterable[Finding]) -> Finding:
    """Return how a claim came out of which all parts are claimed.

    It holds if every part does, in part if some part does at least in part; else it fails if any part fails `[def]`.

    >>> joined([Finding.HOLDS, Finding.FAILS]), joined([Finding.FAILS, Finding.OPEN])
    (<Finding.PARTLY: 'holds in part'>, <Finding.FAILS: 'does not hold'>)
    """
    found = set(parts)
    if found == {Finding.HOLDS}:
        return Finding.HOLDS
    if found & {Finding.HOLDS, Finding.PARTLY}:
        return Finding.PARTLY
    return Finding.FAILS if Finding.FAILS in found else Finding.OPEN


def agreed(runs: Iterable[Finding]) -> Finding:
    """Return how one claim came out over runs, or over whatever else it is judged on one by one.

    It holds if it does on all, in part if it does, at least in part, on half or more; else it fails if it fails on at least
    half `[def]`. A few runs that support a claim among many that do not are no part of it: so many come by chance.

    >>> agreed([Finding.FAILS, Finding.FAILS, Finding.OPEN]), agreed([Finding.FAILS, Finding.OPEN, Finding.OPEN])
    (<Finding.FAILS: 'does not hold'>, <Finding.OPEN: 'undetermined'>)
    """
    found = list(runs)
    if found and set(found) == {Finding.HOLDS}:
        return Finding.HOLDS
    if found and 2 * sum(one in (Finding.HOLDS, Finding.PARTLY) for one in found) >= len(found):
        return Finding.PARTLY
    return Finding.FAILS if found and 2 * found.count(Finding.FAILS) >= len(found) else Finding.OPEN


def finding_of(verdict: Verdict) -> Finding:
    """Return a verdict on one run as a finding; a claim that is not applicable is open."""
    found = {Outcome.SUPPORTED: Finding.HOLDS, Outcome.REFUTED: Finding.FAILS}
    return found.get(verdict.outcome, Finding.OPEN)


def held(holds: bool | None) -> Finding:
    """Return whether something holds, or that it is not known, as a finding.

    >>> held(None)
    <Finding.OPEN: 'undetermined'>
    """
    return Finding.OPEN if holds is None else Finding.HOLDS if holds else Finding.FAILS
