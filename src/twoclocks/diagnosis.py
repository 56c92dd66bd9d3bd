"""This file knows what is said of a whole run: the label, its kind, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

from twoclocks.trajectory import Event, Source
from twoclocks.verdicts import Verdict


@dataclass(frozen=True)
class Stop:
    """Whether to stop the training now: "yes", "no" or "undetermined", and why."""

    answer: str
    why: str


@dataclass(frozen=True)
class Clock:
    """A hitting time as it is reported: the first sustained crossing of a threshold, or censored.

    `value` is the median over runs (None where most runs are censored), `per_run` one time a run (None: censored).
    """

    name: str
    of: str
    threshold: float
    sustained: int
    unit: str
    value: int | None
    censored: bool
    resolution: int | None
    lost_at: int | None
    last: int
    per_run: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Offer:
    """Something that could be done now, with the held-out accuracy it would give instead of the present one."""

    what: str
    heldout_accuracy: float
    now: float
    interval: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on a run, why, how sure, and what would overturn it."""

    source: Source
    label: str
    kind: str | None
    confidence: str
    summary: str
    overturned_by: str
    stop: Stop
    clocks: tuple[Clock, ...]
    verdicts: tuple[Verdict, ...]
    offers: tuple[Offer, ...]
    events: tuple[Event, ...]
    cannot_tell: tuple[str, ...]
    measure_next: tuple[str, ...]
    runs: int = 1
    descent: dict[str, object] | None = None
