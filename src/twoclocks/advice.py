"""This file knows what follows from a label: whether to stop, what the data cannot tell, what to measure next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from twoclocks import thresholds as at
from twoclocks.courses import Course
from twoclocks.runs import Run
from twoclocks.trajectory import Trajectory
from twoclocks.verdicts import Verdict, end_share

LOSS_ALONE = "the held-out loss stands still, and a loss alone does not say how far from perfect that is"


@dataclass(frozen=True)
class Stop:
    """Whether to stop the training now: "yes", "no" or "undetermined", and why."""

    answer: str
    why: str


def stop_of(label: str, run: Run, verdicts: Mapping[str, Verdict]) -> Stop:
    """Return whether to stop. "yes" only where the run broke, or generalised nearly perfectly, kept it and stands still."""
    moving = verdicts["TC109"].holds
    if label == "diverged" and run.train_broke_at is not None:
        return Stop(
            "yes",
            "the loss is not finite; going on from here cannot help, an earlier checkpoint with a lower learning rate can",
        )
    if label == "diverged":
        return Stop(
            "undetermined",
            "the fit is gone for now; fits lost to a spike have come back, and this log does not say whether this one will",
        )
    if label == "memorisation":
        if moving:
            return Stop("no", "it has fitted and the held-out measure is still rising")
        return Stop(
            "undetermined",
            "it has fitted and not generalised; a run that will grok looks the same, and nothing here rules that out",
        )
    if label == "slow learning":
        return Stop("no", "it is neither fitted nor flat")
    if label == "failure to fit":
        return Stop(
            "undetermined",
            "nothing is being learned; that may change after a plateau, though another setting is usually worth more",
        )
    if label == "overfitting":
        return Stop(
            "undetermined",
            f"keep the checkpoint of step {run.best_step:g}; since then it got worse, but a second descent is not ruled out",
        )
    if label == "collapse after generalisation":
        return Stop(
            "undetermined",
            f"keep the checkpoint of step {run.best_step:g}; what was lost may return, and this log does not say whether",
        )
    if label in ("ordinary learning", "grokking", "epoch-wise double descent"):
        return stop_when_finished(run, verdicts)
    return Stop("undetermined", "the log cannot carry a judgement")


def stop_when_finished(run: Run, verdicts: Mapping[str, Verdict]) -> Stop:
    """Return whether a run that generalised is finished: held-out accuracy practically perfect, and kept for long enough.

    Short of that, standing still proves nothing: plateaus at 0.85 and 0.95 have been left again.
    """
    heldout, train = run.heldout, run.train
    if heldout is None:
        return Stop("undetermined", "no held-out measure was recorded")
    if not heldout.is_accuracy:
        moving = verdicts["TC109"].holds
        return Stop("no", "the held-out loss is still falling") if moving else Stop("undetermined", LOSS_ALONE)
    level = heldout.in_unit(end_share(heldout))
    since = evaluations_since(heldout, at.FINISHED)
    if level >= at.FINISHED and since >= at.STANDS_STILL_EVALUATIONS:
        if train is None or train.best <= 0 or end_share(train) < at.CLOSE_TO_OWN_BEST * train.best:
            return Stop("undetermined", "the fit itself was not recorded, or is being lost again")
        kept = f"held-out accuracy has stayed at {at.FINISHED:g} or above for {since} evaluations"
        return Stop("yes", f"{kept}: no accuracy is left to gain, though the weights may still simplify")
    if verdicts["TC109"].holds:
        return Stop("no", "the held-out accuracy is still improving")
    if level >= at.FINISHED:
        return Stop("undetermined", f"held-out accuracy is at {level:.3g}, but only for {since} evaluations so far")
    return Stop("undetermined", f"held-out accuracy is at {level:.3g}, short of perfect; a later rise is not ruled out")


def evaluations_since(heldout: Course, accuracy: float) -> int:
    """Return for how many evaluations in a row, counted back from the end, the accuracy was kept (one in twenty may miss)."""
    kept = heldout.in_unit(heldout.smooth) >= accuracy
    first = int(np.flatnonzero(~kept)[-1]) + 1 if not kept.all() else 0
    if first >= len(kept):
        return 0
    later = heldout.raw[int(heldout.at[first]) :]
    return len(later) if float((heldout.in_unit(later) < accuracy).mean()) <= 0.05 else 0


def cannot_tell(label: str, run: Run, trajectory: Trajectory) -> tuple[str, ...]:
    """Return what this data cannot answer, and why."""
    said = []
    if not trajectory.snapshots:
        said.append("which part lags, the representation or the readout: no features were recorded")
        if label == "grokking":
            said.append(
                "whether the late rise is genuine or repairs a damage done by the recipe: that takes features from step 0"
            )
    if label == "memorisation":
        said.append(
            "whether it would generalise later: a plateau before grokking and memorisation for good look alike in curves"
        )
    if label == "overfitting":
        said.append("whether a second descent would follow: the log ends before one could be excluded")
    if run.heldout is None:
        said.append("anything about generalisation: no held-out column was found")
    elif not run.heldout.is_accuracy:
        said.append("how many held-out examples are answered rightly: a loss alone can rise from over-confidence")
    if run.heldout is not None and not run.heldout.chance_is_known:
        said.append("the level of the untrained network: the log starts after learning began")
    if trajectory.runs == 1:
        said.append("how much of this is the seed: it is one run")
    else:
        said.append(f"whether another setting does the same: these are {trajectory.runs} runs of one setting")
    if "weight_norm" not in trajectory.scalars:
        said.append(
            "whether the weights grew or shrank meanwhile, the first confounder of a delay: no weight norm was recorded"
        )
    return tuple(said)


def measure_next(label: str, run: Run, trajectory: Trajectory) -> tuple[str, ...]:
    """Return what to record so that more can be said, the most telling first."""
    wanted = []
    if not trajectory.snapshots:
        wanted.append(
            "features before the readout on fixed examples of both splits, from step 0 on (tc.Recorder: three lines)"
        )
    if run.heldout is None:
        wanted.append("held-out accuracy at the same steps as the training loss")
    elif len(run.heldout.step) < 30:
        wanted.append("more evaluations, spaced evenly in log time: 40 a decade")
    if run.fit_step is not None and run.fit_before is not None and run.fit_step > 1.5 * max(run.fit_before, 1.0):
        wanted.append("evaluations closer together around the fit, whose time is now known only to a factor")
    if label in ("memorisation", "grokking") and "weight_norm" not in trajectory.scalars:
        wanted.append("the weight norm, the learning rate and the weight decay")
    if trajectory.runs == 1:
        wanted.append("two more seeds: one run shows that it can happen, three how regularly")
    return tuple(wanted)
