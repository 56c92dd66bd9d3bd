"""This file knows the kinds of a label: genuine or spurious, which part failed, and what decides between them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from twoclocks.verdicts import Outcome, Verdict

GROKKING = ("TC201", "TC202", "TC203", "TC207", "TC210")
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
        "numerical": "TC304",
    }
)


def kind_of(label: str, verdicts: Mapping[str, Verdict]) -> str | None:
    """Return the kind of a label, from the verdicts on the ladder and the representation where there are any.

    Grokking is genuine where the features changed, were never damaged, and led or improved before the rise; spurious where
    they were damaged first. Memorisation is told apart by whether the representation improves meanwhile, double descent and
    collapse by whether the features failed along with the readout.
    """
    if label == "grokking":
        return kind_of_grokking(verdicts)
    if label == "memorisation":
        return decided(verdicts, "TC202", "representation improving", "no progress")
    if label == "epoch-wise double descent":
        return decided(verdicts, "TC211", "representation degradation", "readout misalignment")
    if label == "collapse after generalisation":
        if "TC304" in verdicts and verdicts["TC304"].holds:
            return "numerical"
        return decided(verdicts, "TC212", "interface", "representation")
    return None


def kind_of_grokking(verdicts: Mapping[str, Verdict]) -> str:
    """Return whether grokking is genuine or spurious; "undetermined" where a claim that decides it is open.

    Damage that the probes show and the critical dimension denies is not settled, nor the other way round.
    """
    damage, rose = outcome(verdicts, "TC203"), outcome(verdicts, "TC207")
    if damage is Outcome.SUPPORTED:
        return "undetermined" if rose is Outcome.REFUTED else "spurious"
    moved = outcome(verdicts, "TC210") not in (Outcome.REFUTED, Outcome.UNDETERMINED)
    better = Outcome.SUPPORTED in (outcome(verdicts, "TC201"), outcome(verdicts, "TC202"))
    undamaged = damage is Outcome.REFUTED and rose is not Outcome.SUPPORTED
    return "genuine" if undamaged and moved and better else "undetermined"


def decided(verdicts: Mapping[str, Verdict], code: str, supported: str, refuted: str) -> str | None:
    """Return one of two kinds by the outcome of a claim, None where it is open or was not judged."""
    return {Outcome.SUPPORTED: supported, Outcome.REFUTED: refuted}.get(outcome(verdicts, code))


def outcome(verdicts: Mapping[str, Verdict], code: str) -> Outcome:
    """Return how a claim came out; NOT_APPLICABLE where it was not judged."""
    return verdicts[code].outcome if code in verdicts else Outcome.NOT_APPLICABLE


def why_no_kind(label: str, kind: str | None, verdicts: Mapping[str, Verdict]) -> tuple[str, ...]:
    """Return why a run whose features were kept has no kind, naming the claims that are open."""
    if label != "grokking" or kind != "undetermined" or "TC203" not in verdicts:
        return ()
    if outcome(verdicts, "TC210") is Outcome.REFUTED:
        return ("whether the late rise is genuine or spurious: the features hardly changed, only their readout did",)
    if outcome(verdicts, "TC203") is Outcome.SUPPORTED or outcome(verdicts, "TC207") is Outcome.SUPPORTED:
        return ("whether the late rise is genuine or spurious: probes and critical dimension disagree on a damage",)
    open_claims = [
        f"{code} ({verdicts[code].n} {verdicts[code].unit_of_n})"
        for code in GROKKING
        if outcome(verdicts, code) is Outcome.UNDETERMINED
    ]
    because = f"{' and '.join(open_claims)} left open" if open_claims else "the probes neither led nor rose before it"
    return (f"whether the late rise is genuine or spurious: {because}",)
