"""This file knows how one claim about a training is judged: an effect, compared with a threshold, said in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """How a claim came out on this run."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    UNDETERMINED = "UNDETERMINED"
    NOT_APPLICABLE = "NOT_APPLICABLE"


@dataclass(frozen=True)
class Verdict:
    """One claim, judged: its stable code, the effect with an interval, the sample, thresholds and evidence.

    `n` counts what the effect was estimated from (evaluations, examples or runs; `unit_of_n` says which).
    """

    code: str
    claim: str
    outcome: Outcome
    effect: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 0
    unit_of_n: str = "evaluations"
    thresholds: Mapping[str, float] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    overturned_by: str = ""
