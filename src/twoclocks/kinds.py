"""This file knows the kinds of a label: genuine or spurious, which part failed, and what decides between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from twoclocks import thresholds as at
from twoclocks.verdicts import Outcome, Verdict

if TYPE_CHECKING:
    from twoclocks.trajectory import Trajectory

SUPPORTED, REFUTED = Outcome.SUPPORTED, Outcome.REFUTED
OPEN = (None, "undetermined")
# The claim on which a kind rests: what would overturn it overturns the kind.
DECIDING: Mapping[str, str] = MappingProxyType(
    {
        "genuine": "TC203",
        "spurious": "TC203",
        "representation improving": "TC202",
        "no progress": "TC202",
        "representation degradation": "TC211",
        "readout misalignment": "TC211",
        "interface": "TC212",
        "representation": "TC212",
    }
)
# A kind that rests on no claim alone, and what would overturn it.
OVERTURNED_BY: Mapping[str, str] = MappingProxyType({"numerical": "a float64 rerun that fails in the same way"})
QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "grokking": "whether the late rise is genuine or spurious",
        "memorisation": "whether the representation improves",
        "epoch-wise double descent": "which part made the dip",
        "collapse after generalisation": "which part lost it",
    }
)
RESTS_ON: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "grokking": ("TC201", "TC202", "TC203", "TC210"),
        "memorisation": ("TC201", "TC202", "TC203"),
        "epoch-wise double descent": ("TC211",),
        "collapse after generalisation": ("TC212",),
    }
)
MAY_BE_UNKNOWN = ("TC210",)  # where it was not measured, the others decide


def kind_of(label: str, verdicts: Mapping[str, Verdict], precision: str | None = None) -> str | None:
    """Return the kind of a label, from the verdicts on the ladder and the representation where there are any.

    Grokking is genuine where the features changed, were never damaged, and led or improved before the rise; spurious where
    they were damaged first. Memorisation is told apart by whether the features improve meanwhile, double descent and
    collapse by whether the features failed along with the readout. `precision` is what the run was trained in (see
    `precision_of`): only float32 has the floor that a numerical kind speaks of.
    """
    if label == "grokking":
        return kind_of_grokking(verdicts)
    if label == "memorisation":
        return "numerical" if stalls_at_the_floor(verdicts, precision) else kind_of_memorisation(verdicts)
    if label == "epoch-wise double descent":
        return decided(verdicts, "TC211", "representation degradation", "readout misalignment")
    if label == "collapse after generalisation":
        if is_at_the_floor(verdicts, precision) and outcome(verdicts, "TC212") is not SUPPORTED:
            return "numerical"
        return decided(verdicts, "TC212", "interface", "representation")
    return None


def kind_of_grokking(verdicts: Mapping[str, Verdict]) -> str:
    """Return whether grokking is genuine or spurious; "undetermined" where a claim that decides it is open.

    Damage that the probes show and the critical dimension denies is not settled, nor the other way round, nor a damage of
    features that stood still.
    """
    damage, rose, motion = (outcome(verdicts, code) for code in ("TC203", "TC207", "TC210"))
    if damage is SUPPORTED:
        return "undetermined" if REFUTED in (rose, motion) else "spurious"
    moved = motion not in (REFUTED, Outcome.UNDETERMINED)
    better = SUPPORTED in (outcome(verdicts, "TC201"), outcome(verdicts, "TC202"))
    undamaged = damage is REFUTED and rose is not SUPPORTED
    return "genuine" if undamaged and moved and better else "undetermined"


def kind_of_memorisation(verdicts: Mapping[str, Verdict]) -> str | None:
    """Return whether the representation of a fitted run improves meanwhile; None where that is open, or not the point.

    It is not the point where the features were better before, or hold what the readout does not use and gain nothing: the
    verdicts say so. A gain that the critical dimension denies, or of features that stood still, is open.
    """
    damage, rose, motion = (outcome(verdicts, code) for code in ("TC203", "TC207", "TC210"))
    lead, gain = (outcome(verdicts, code) for code in ("TC201", "TC202"))
    if gain is SUPPORTED and SUPPORTED not in (damage, rose) and motion is not REFUTED:
        return "representation improving"
    still = gain is REFUTED and damage is REFUTED
    return "no progress" if still and SUPPORTED not in (lead, rose) else None


def is_at_the_floor(verdicts: Mapping[str, Verdict], precision: str | None) -> bool:
    """Return whether a run was trained in float32 until its loss measured nothing but rounding."""
    return precision == "float32" and outcome(verdicts, "TC304") is SUPPORTED


def stalls_at_the_floor(verdicts: Mapping[str, Verdict], precision: str | None) -> bool:
    """Return whether held-out accuracy stands still at the floor of float32, where gradients are rounded away.

    Features that still improve while held-out accuracy is at chance are no stall but the plateau of a run that may grok;
    once accuracy had left chance and stopped, it is one whatever the probes gained before.
    """
    still = outcome(verdicts, "TC109") not in (SUPPORTED, Outcome.UNDETERMINED)
    best = verdicts["TC103"].interval if "TC103" in verdicts else None
    left_chance = best is not None and best[0] >= at.ONSET
    waiting = outcome(verdicts, "TC202") is SUPPORTED and not left_chance
    return is_at_the_floor(verdicts, precision) and still and not waiting


def precision_of(trajectory: Trajectory) -> str | None:
    """Return the number format a run was trained in, by its recorded readout; None where no snapshot has one.

    Recording keeps float64 and float32 as they are, and makes float32 of anything shorter.
    """
    recorded = (snapshot.tensors.get("readout/weight") for snapshot in reversed(trajectory.snapshots))
    return next((str(weight.dtype) for weight in recorded if weight is not None), None)


def decided(verdicts: Mapping[str, Verdict], code: str, supported: str, refuted: str) -> str | None:
    """Return one of two kinds by the outcome of a claim, None where it is open or was not judged."""
    return {SUPPORTED: supported, REFUTED: refuted}.get(outcome(verdicts, code))


def outcome(verdicts: Mapping[str, Verdict], code: str) -> Outcome:
    """Return how a claim came out; NOT_APPLICABLE where it was not judged."""
    return verdicts[code].outcome if code in verdicts else Outcome.NOT_APPLICABLE


def kind_overturned_by(kind: str | None, verdicts: Mapping[str, Verdict]) -> str | None:
    """Return the measurement that would overturn a kind; None where there is no kind.

    >>> kind_overturned_by("numerical", {})
    'a float64 rerun that fails in the same way'
    """
    code = DECIDING.get(kind or "", "")
    return verdicts[code].overturned_by if code in verdicts else OVERTURNED_BY.get(kind or "")


def why_no_kind(
    label: str, kind: str | None, verdicts: Mapping[str, Verdict], kinds: Sequence[str | None] = ()
) -> tuple[str, ...]:
    """Return why runs whose features were kept have no kind: that they disagree, or what one of them leaves open.

    `kind` is what the runs agree on, `verdicts` are those of one run, `kinds` the kind of each run, where there are several.
    """
    if kind not in OPEN or label not in QUESTIONS or "TC203" not in verdicts:
        return ()
    if runs_disagree(label, kind, verdicts, kinds):
        counts = ", ".join(f"{count} × {one or 'none'}" for one, count in Counter(kinds).most_common())
        return (f"{QUESTIONS[label]}: the runs disagree{f' ({counts})' if counts else ''}",)
    return (f"{QUESTIONS[label]}: {why_open(label, verdicts)}",)


def runs_disagree(label: str, kind: str | None, verdicts: Mapping[str, Verdict], kinds: Sequence[str | None]) -> bool:
    """Return whether runs have no kind in common, although one of them may have one."""
    return len(set(kinds)) > 1 or (kind == "undetermined" and kind_of(label, verdicts) != kind)


def why_open(label: str, verdicts: Mapping[str, Verdict]) -> str:
    """Return why the verdicts on one run do not settle its kind."""
    of_features = label in ("grokking", "memorisation")
    claimed = label == "grokking" or SUPPORTED in (outcome(verdicts, "TC202"), outcome(verdicts, "TC203"))
    if of_features and claimed and outcome(verdicts, "TC210") is REFUTED:
        return "the features hardly changed, only their readout did"
    if of_features and {outcome(verdicts, "TC203"), outcome(verdicts, "TC207")} == {SUPPORTED, REFUTED}:
        return "probes and critical dimension disagree on a damage"
    if label == "memorisation" and outcome(verdicts, "TC203") is SUPPORTED:
        return "the features were better before (TC203)"
    if label == "memorisation" and outcome(verdicts, "TC201") is SUPPORTED:
        return "the features gain nothing, but hold more than the readout uses (TC201)"
    codes = RESTS_ON[label]
    left_open = [code for code in codes if outcome(verdicts, code) is Outcome.UNDETERMINED]
    if left_open:
        return f"{' and '.join(f'{c} ({verdicts[c].n} {verdicts[c].unit_of_n})' for c in left_open)} left open"
    unjudged = [c for c in codes if outcome(verdicts, c) is Outcome.NOT_APPLICABLE and c not in MAY_BE_UNKNOWN]
    if unjudged:
        return f"{' and '.join(unjudged)} could not be judged"
    return "the probes neither led nor rose before it"
