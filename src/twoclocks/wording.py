"""This file knows how a diagnosis is said in one sentence."""

from __future__ import annotations

from twoclocks import thresholds as at
from twoclocks.runs import Run
from twoclocks.trajectory import Trajectory
from twoclocks.verdicts import end_share


def summary_of(label: str, run: Run, trajectory: Trajectory, agreeing: int) -> str:
    """Return the diagnosis in one sentence about `run`, preceded by how many of the runs it holds for."""
    words = sentence_of(label, run, trajectory.source.time, trajectory)
    if trajectory.runs == 1:
        return words
    return f"{agreeing} of {trajectory.runs} runs agree. The first of them: {words[0].lower()}{words[1:]}"


def sentence_of(label: str, run: Run, unit: str, trajectory: Trajectory) -> str:
    """Return the sentence of one label for one run."""
    train = run.train
    fit = "" if run.fit_step is None else f"at {unit} {run.fit_step:g}"
    last = f"{unit} {trajectory.last_step:g}"
    best, end = best_words(run), end_words(run)
    if label == "diverged":
        return f"The training broke down: {breakdown_words(run)}."
    if label == "grokking" and is_rising(run):
        return f"It fitted {fit}, and its held-out measure rose only long after and is still rising: {best} so far ({last})."
    if label == "grokking":
        late = f"only at {unit} {run.generalised_step:g}, {delay_words(run)} as late"
        return f"It fitted {fit} and generalised {late}; best {best}."
    if label == "ordinary learning":
        return f"It learned what generalises along with the fit: best {best}, {end} at the end ({last})."
    if label == "memorisation":
        return f"It fitted {fit} and has not generalised by {last}: best {best}."
    if label == "failure to fit" and train is not None:
        return f"It did not fit: best {train.title} {train.in_unit(train.best):.3g} by {last}."
    if label == "slow learning":
        return f"It is still learning at {last}, neither fitted nor flat: best {best}."
    if label == "overfitting":
        return f"It was best at {unit} {run.best_step:g} ({best}) and got worse while it went on fitting: {end} at the end."
    if label == "epoch-wise double descent":
        return f"It got better, worse and better again: {descent_words(run, unit)}."
    if label == "collapse after generalisation":
        return f"It generalised ({best} at {unit} {run.best_step:g}) and lost it again: {end} at the end."
    return (
        f"This {'log' if trajectory.source.kind == 'log' else 'run'} cannot carry a diagnosis: {why_undetermined(run)}."
    )


def is_rising(run: Run) -> bool:
    """Return whether the best held-out share is that of the last evaluations, so that it may not be the last word."""
    heldout = run.heldout
    return (
        heldout is not None
        and heldout.best < at.FINISHED
        and run.best_step >= float(heldout.step[-min(3, len(heldout.step))])
    )


def best_words(run: Run) -> str:
    """Return the best held-out measure."""
    return "" if run.heldout is None else f"{run.heldout.title} {run.heldout.in_unit(run.heldout.best):.3g}"


def end_words(run: Run) -> str:
    """Return the held-out measure at the end."""
    return "" if run.heldout is None else f"{run.heldout.in_unit(end_share(run.heldout)):.3g}"


def breakdown_words(run: Run) -> str:
    """Return what broke, in words."""
    if run.train_broke_at is not None:
        return f"the loss is NaN or infinite from step {run.train_broke_at:g}"
    if run.exploded_by is not None and run.exploded_by > at.EXPLODED:
        return f"the loss grew to {run.exploded_by:.3g} times its first value"
    return "the fit was lost for good before anything generalised"


def delay_words(run: Run) -> str:
    """Return how late it generalised, as a factor."""
    assert run.generalised_step is not None and run.fit_step is not None
    fit = run.fit_step - run.first_step
    return f"{(run.generalised_step - run.first_step) / fit:.1f} times" if fit > 0 else "many times"


def why_undetermined(run: Run) -> str:
    """Return what is missing."""
    if run.heldout is None:
        return "it has no held-out loss or accuracy"
    if len(run.heldout.step) < at.FEWEST_EVALUATIONS:
        return (
            f"it has {len(run.heldout.step)} held-out evaluations, and a trend takes at least {at.FEWEST_EVALUATIONS}"
        )
    if run.train is None:
        return "without a training curve nothing says what came first"
    return "the runs do not agree"


def descent_words(run: Run, unit: str) -> str:
    """Return the three turning points of a double descent."""
    heldout, dip = run.heldout, run.dip
    if heldout is None or dip is None:
        return "no dip was found"
    points = ((dip.first, dip.first_step), (dip.trough, dip.trough_step), (dip.second, dip.second_step))
    return f"{heldout.title} " + ", ".join(f"{heldout.in_unit(share):.3g} at {unit} {step:g}" for share, step in points)
