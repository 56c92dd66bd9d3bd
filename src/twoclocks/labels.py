"""This file knows the decision table: which label a run gets, in the order in which one finding overrules another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twoclocks import thresholds as at
from twoclocks.runs import Run
from twoclocks.verdicts import Outcome, Verdict, end_share, following

LABELS = (
    "ordinary learning", "grokking", "memorisation", "failure to fit", "slow learning", "diverged", "overfitting",
    "epoch-wise double descent", "collapse after generalisation", "undetermined",
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """The label of one run or of several, how sure it is, and what would overturn it."""

    name: str
    confidence: str
    overturned_by: str


def label_of(run: Run, verdicts: Mapping[str, Verdict]) -> Label:
    """Return the label of one run: the decision table, first match holds."""
    broke, fitted, generalised = (verdicts[code].holds for code in ("TC101", "TC102", "TC103"))
    late, descended, worse, lost = (verdicts[code].holds for code in ("TC104", "TC105", "TC106", "TC107"))
    moving = may_be_moving(verdicts["TC108"]) or may_be_moving(verdicts["TC109"])
    exploded = run.exploded_by is not None and run.exploded_by > at.EXPLODED
    if broke and (run.train_broke_at is not None or exploded or not generalised):
        return Label(
            "diverged", "high" if run.train_broke_at is not None else "medium", verdicts["TC101"].overturned_by
        )
    if run.heldout is None:
        stuck = (
            run.train is not None
            and not fitted
            and not moving
            and run.train.best < at.WELL_ABOVE_CHANCE
            and len(run.train.step) >= at.FEWEST_EVALUATIONS
        )
        return (
            Label("failure to fit", "low", "a held-out column")
            if stuck
            else Label("undetermined", "high", "a held-out column")
        )
    if len(run.heldout.step) < at.FEWEST_EVALUATIONS:
        return Label("undetermined", "high", f"at least {at.FEWEST_EVALUATIONS} evaluations")
    if not generalised:
        return label_without_generalisation(run, fitted, moving, verdicts)
    learning = run.train is not None and not fitted and end_share(run.train) > at.CLOSE_TO_BEST * run.train.best
    if descended:
        return Label(
            "epoch-wise double descent",
            sureness(verdicts["TC105"], at.DIP_RECOVERED, 2.0),
            verdicts["TC105"].overturned_by,
        )
    if lost and not learning and not still_fitting(run):
        return Label(
            "collapse after generalisation",
            sureness(verdicts["TC107"], at.LOST_OFTEN, 1.5),
            verdicts["TC107"].overturned_by,
        )
    if worse:
        return Label("overfitting", sureness(verdicts["TC106"], at.WORSE, 2.0), verdicts["TC106"].overturned_by)
    if late:
        return Label("grokking", sureness(verdicts["TC104"], at.DELAY, 2.0), verdicts["TC104"].overturned_by)
    return label_of_learning(run, fitted, moving, verdicts)


def still_fitting(run: Run) -> bool:
    """Return whether, with losses alone, training went on long after the held-out best: then a rise is overfitting."""
    if run.train is None or run.train.is_accuracy:
        return False
    at_best, at_end = (1.0 - share for share in (run.train.at_step(run.best_step), end_share(run.train)))
    return at_best >= 0.01 and at_end <= 0.5 * at_best


def turned_back(run: Run, worse: Verdict) -> bool:
    """Return whether a held-out loss was being learned, though not far, before it rose for good."""
    heldout, followed = run.heldout, following(run)
    if heldout is None or heldout.is_accuracy or followed is None or not worse.holds:
        return False
    learned = heldout.best >= max(at.LOSS_FOLLOWED_AT_LEAST, at.DIP_NOISE * heldout.error_at(heldout.best_step))
    return learned and followed >= at.FOLLOWING_LOOSELY


def label_without_generalisation(run: Run, fitted: bool, moving: bool, verdicts: Mapping[str, Verdict]) -> Label:
    """Return the label of a run whose held-out examples were never answered well above chance."""
    if run.train is None:
        return Label("undetermined", "high", "a training column")
    if turned_back(run, verdicts["TC106"]):
        return Label("overfitting", "medium", verdicts["TC106"].overturned_by)
    if fitted:
        rising = verdicts["TC109"].holds
        return Label(
            "memorisation",
            "medium" if rising else "high",
            "a longer log: memorisation is what every run looks like before it groks",
        )
    if moving:
        return Label("slow learning", "medium", "a longer log in which it fits, or stands still")
    return Label(
        "failure to fit",
        "high" if run.train.best < at.WELL_ABOVE_CHANCE else "medium",
        "a longer log in which the training loss falls",
    )


def may_be_moving(movement: Verdict) -> bool:
    """Return whether a course gained over the last half of the training, or too little was recorded to deny it."""
    if movement.outcome is Outcome.UNDETERMINED:
        return movement.interval is None or movement.interval[0] > 0
    return movement.holds


def label_of_learning(run: Run, fitted: bool, moving: bool, verdicts: Mapping[str, Verdict]) -> Label:
    """Return the label of a run that generalised without delay, dip or loss."""
    heldout = run.heldout
    if heldout is None:
        return Label("undetermined", "high", "a held-out column")
    if run.train is not None and not fitted and run.train.is_accuracy and run.train.best < at.WELL_ABOVE_CHANCE:
        return Label("slow learning" if moving else "failure to fit", "medium", "a longer log")
    if run.train is None:
        sudden = (heldout.step_past(at.CLOSE_TO_BEST * heldout.best) or 0) < 2 * (
            heldout.step_past(0.5 * heldout.best) or 0
        )
        if sudden and heldout.step_past(0.5 * heldout.best) not in (None, run.first_step):
            return Label(
                "undetermined", "medium", "a training column: a late jump is grokking only if the fit came first"
            )
        return Label("ordinary learning", "low", "a training column")
    if run.fit_before is None and run.fit_step is not None and float(heldout.smooth.max() - heldout.smooth[0]) < 0.05:
        return Label(
            "undetermined", "high", "the part of the log in which it learned: it starts with everything learned"
        )
    delay = verdicts["TC104"]
    maybe_late = (
        delay.interval is not None
        and delay.interval[1] >= at.DELAY
        and (run.heldout_at_fit or 1.0) < at.MAIN_RISE_AFTER_FIT
    )
    confidence = "low" if maybe_late else "high" if len(heldout.step) >= 30 and fitted else "medium"
    return Label(
        "ordinary learning", confidence, "evaluations closer together around the fit, showing a plateau before the rise"
    )


def sureness(verdict: Verdict, threshold: float, factor: float) -> str:
    """Return how sure a label is: high where its whole interval is past the threshold by a factor, low where not past it."""
    if verdict.interval is None or verdict.n < 10:
        return "medium"
    low = verdict.interval[0]
    return "high" if low >= factor * threshold else "medium" if low >= threshold else "low"


def common_label(labels: Sequence[Label]) -> Label:
    """Return the label that at least two thirds of the runs share, else "undetermined"."""
    name, count = Counter(label.name for label in labels).most_common(1)[0]
    if count == len(labels):
        return min((label for label in labels), key=lambda label: ("low", "medium", "high").index(label.confidence))
    shared = ", ".join(f"{n} × {k}" for k, n in Counter(label.name for label in labels).most_common())
    if count >= 2 / 3 * len(labels):
        return Label(name, "medium", f"more seeds; the runs disagree ({shared})")
    return Label("undetermined", "medium", f"more seeds; the runs disagree ({shared})")
