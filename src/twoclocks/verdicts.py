"""This file knows how one claim about a training is judged: an effect, compared with a threshold, said in words.

Codes: TC1xx need curves alone, TC2xx need features (see `ladder_verdicts`). An effect within one run comes with its
precision (evaluation noise, evaluation spacing); over several runs `over_runs` replaces it by a confidence interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from twoclocks import thresholds as at
from twoclocks.courses import Course, Dip, trend_at_end
from twoclocks.runs import Run
from twoclocks.stats import paired_difference_interval, t_interval
from twoclocks.trajectory import Float

RATIOS = frozenset({"TC304", "TC305", "TC401", "TC402", "TC404", "TC405", "TC406", "TC601", "TC602", "TC604"})
LARGEST_LOG = 700.0


class Outcome(StrEnum):
    """How a claim came out on this run."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    UNDETERMINED = "UNDETERMINED"
    NOT_APPLICABLE = "NOT_APPLICABLE"


@dataclass(frozen=True)
class Verdict:
    """One claim, judged: its stable code, the effect with an interval, the sample, thresholds and evidence.

    `effect_is` says what the effect measures and in what unit; `n` counts what it was estimated from (evaluations, examples
    or runs; `unit_of_n` says which).
    """

    code: str
    claim: str
    outcome: Outcome
    effect_is: str = ""
    effect: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 0
    unit_of_n: str = "evaluations"
    thresholds: Mapping[str, float] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    overturned_by: str = ""

    @property
    def is_settled(self) -> bool:
        """Return whether the claim is supported or refuted."""
        return self.outcome in (Outcome.SUPPORTED, Outcome.REFUTED)

    @property
    def holds(self) -> bool:
        """Return whether the claim is supported."""
        return self.outcome is Outcome.SUPPORTED


def judge_divergence(run: Run) -> Verdict:
    """Judge whether the training broke: a loss that is not finite to the end, that exploded, or a fit lost for good."""
    claim = "the training broke down"
    thresholds = {"last loss / first loss": at.EXPLODED, "last / best training share": at.FIT_LOST}
    n = 0 if run.train is None else len(run.train.step)
    if run.train_broke_at is not None:
        evidence = f"the loss is NaN or infinite from step {run.train_broke_at:g} to the end"
        return Verdict(
            "TC101",
            claim,
            Outcome.SUPPORTED,
            "last training loss ÷ first",
            None,
            None,
            n,
            "evaluations",
            thresholds,
            (evidence,),
            "a finite loss after that step",
        )
    growth, kept = run.exploded_by, None if run.train is None else end_share(run.train) / max(run.train.best, 1e-9)
    most = at.EXPLODED if run.train is not None else at.EXPLODED_HELDOUT
    exploded = growth is not None and growth > most and (kept is None or kept < at.FIT_LOST)
    learned = run.train is not None and run.train.best >= at.WELL_ABOVE_CHANCE
    lost_fit = learned and kept is not None and kept < at.FIT_LOST and len(run.train.step) >= at.FEWEST_EVALUATIONS  # type: ignore[union-attr]
    evidence_rows = [] if growth is None else [f"the last loss is {growth:.3g} times the first"]
    if kept is not None and learned:
        evidence_rows.append(f"the training share ends at {kept:.2f} of its best")
    outcome = (
        Outcome.SUPPORTED
        if exploded or lost_fit
        else Outcome.REFUTED
        if growth is not None or kept is not None
        else Outcome.NOT_APPLICABLE
    )
    return Verdict(
        "TC101",
        claim,
        outcome,
        "last training loss ÷ first",
        growth,
        None,
        n,
        "evaluations",
        thresholds,
        tuple(evidence_rows),
        "a longer log in which the fit returns",
    )


def judge_fit(run: Run) -> Verdict:
    """Judge whether the run fitted its training examples; the effect is the best training share."""
    claim = "the run fitted its training examples"
    if run.train is None:
        return inapplicable("TC102", claim, "no training loss or accuracy was recorded")
    train = run.train
    thresholds = (
        {"training accuracy": at.FIT, "nearly fitted (share)": at.NEARLY_FITTED}
        if train.is_accuracy
        else {"loss fell by (share)": at.LOSS_FELL}
    )
    reached = (
        f"it is past the fit at step {run.fit_step:g}"
        if run.fit_step is not None
        else "it never comes to the fit in this log"
    )
    best = f"best {train.title} {train.in_unit(train.best):.4g} at step {train.best_step:g} (chance {train.chance:.3g})"
    outcome = Outcome.SUPPORTED if run.fit_step is not None else Outcome.REFUTED
    return Verdict(
        "TC102",
        claim,
        outcome,
        "best training share (0 chance, 1 perfect)",
        train.best,
        noise_interval(train, train.best),
        len(train.step),
        "evaluations",
        thresholds,
        (best, reached),
        "a longer log",
    )


def judge_generalisation(run: Run) -> Verdict:
    """Judge whether held-out examples were learned well above chance; the effect is the best held-out share."""
    claim = "the run generalised: held-out examples are answered well above chance"
    heldout = run.heldout
    if heldout is None:
        return inapplicable("TC103", claim, "no held-out loss or accuracy was recorded")
    evidence = [
        f"best {heldout.title} {heldout.in_unit(heldout.best):.4g} at step {heldout.best_step:g} ({chance_words(heldout)})"
    ]
    followed = following(run)
    if followed is not None:
        evidence.append(f"on the way up the held-out share was {followed:.2f} of the training share")
    least = at.WELL_ABOVE_CHANCE if heldout.is_accuracy else at.LOSS_WELL_BELOW_START
    least_if_followed = at.FOLLOWED_AT_LEAST if heldout.is_accuracy else at.LOSS_FOLLOWED_AT_LEAST
    enough = heldout.best >= least or (
        heldout.best >= least_if_followed and followed is not None and followed >= at.FOLLOWING
    )
    thresholds = {
        "best held-out share": least,
        "... if it followed the training share": least_if_followed,
        "followed": at.FOLLOWING,
    }
    if len(heldout.step) < at.FEWEST_EVALUATIONS and not enough:
        outcome = Outcome.UNDETERMINED
    else:
        outcome = Outcome.SUPPORTED if enough else Outcome.REFUTED
    interval = noise_interval(heldout, heldout.best)
    return Verdict(
        "TC103",
        claim,
        outcome,
        "best held-out share (0 chance, 1 perfect)",
        heldout.best,
        interval,
        len(heldout.step),
        "evaluations",
        thresholds,
        tuple(evidence),
        "a longer log in which it rises",
    )


def judge_delay(run: Run) -> Verdict:
    """Judge whether held-out examples were learned clearly after the training examples; the effect is T_gen / T_fit.

    Its interval is what the spacing of the evaluations leaves open. A network whose held-out share is already close to its
    best at the fit is not late, however long the rest takes.
    """
    claim = "the generalisation came clearly after the fit"
    if run.train is None or run.heldout is None:
        return inapplicable("TC104", claim, "it takes both a training and a held-out curve")
    n = min(len(run.train.step), len(run.heldout.step))
    if run.fit_step is None or run.generalised_step is None or run.heldout_at_fit is None:
        return Verdict(
            "TC104",
            claim,
            Outcome.NOT_APPLICABLE,
            "T_gen ÷ T_fit",
            None,
            None,
            n,
            evidence=("the run did not both fit and generalise",),
        )
    fit, generalised = run.fit_step - run.first_step, run.generalised_step - run.first_step
    earliest = (run.generalised_step if run.generalised_before is None else run.generalised_before) - run.first_step
    shortest_fit = fit if run.fit_before is None else max(run.fit_before - run.first_step, 0.25 * fit)
    effect = generalised / fit if fit > 0 else float("inf")
    interval = (earliest / fit, generalised / shortest_fit) if fit > 0 and shortest_fit > 0 else None
    late = interval is not None and interval[0] >= at.DELAY and run.heldout_at_fit < at.MAIN_RISE_AFTER_FIT
    evidence = (
        f"fitted at step {run.fit_step:g}, close to the best held-out level so far at step {run.generalised_step:g}",
        f"at the fit the held-out share was {run.heldout_at_fit:.2f} of its best",
    )
    thresholds = {"T_gen / T_fit": at.DELAY, "held-out share at the fit / best": at.MAIN_RISE_AFTER_FIT}
    outcome = Outcome.SUPPORTED if late else Outcome.REFUTED
    return Verdict(
        "TC104",
        claim,
        outcome,
        "T_gen ÷ T_fit",
        effect,
        interval,
        n,
        "evaluations",
        thresholds,
        evidence,
        "evaluations closer together around the fit",
    )


def judge_double_descent(run: Run) -> Verdict:
    """Judge whether the held-out measure got worse before the fit and then better; the effect is recovered ÷ fallen."""
    claim = "the held-out measure got worse and then clearly better again while training went on"
    heldout, dip = run.heldout, run.dip
    if heldout is None:
        return inapplicable("TC105", claim, "no held-out loss or accuracy was recorded")
    thresholds = {
        "fall and rise / best": at.DIP, "fall and rise / noise": at.DIP_NOISE, "evaluations": at.DIP_EVALUATIONS,
        "first peak / best": at.DIP_FIRST, "recovered / fallen": at.DIP_RECOVERED,
    }  # fmt: skip
    if dip is None or heldout.best <= 0:
        never = ("the held-out measure never turns",)
        return Verdict(
            "TC105", claim, Outcome.REFUTED, "recovered ÷ fallen", None, None, len(heldout.step), "evaluations", thresholds,
            never, "a longer log",
        )  # fmt: skip
    effect = dip.recovery / dip.depth if dip.depth > 0 else float("inf")
    errors = errors_of(dip, heldout)
    together = 0.0 if run.train is None else run.train.at_step(dip.first_step) - run.train.at_step(dip.trough_step)
    alone = together < at.TRAINING_FELL * dip.depth
    early = dip.first_step < run.fit_step if run.fit_step is not None else dip.first < at.NEARLY_PERFECT
    shape = dip.first >= at.DIP_FIRST * heldout.best and effect >= at.DIP_RECOVERED
    order = (
        "the first peak comes before the fit" if early else "the first peak comes after the fit, as in an instability"
    )
    evidence = (
        f"{heldout.title} {heldout.in_unit(dip.first):.4g} at step {dip.first_step:g}, {heldout.in_unit(dip.trough):.4g} at "
        f"{dip.trough_step:g}, {heldout.in_unit(dip.second):.4g} at {dip.second_step:g} (smoothed)",
        order if alone else "training fell along with it",
    )
    wide = 2 * max(errors) / max(dip.depth, 1e-9)
    interval = (effect - wide, effect + wide) if np.isfinite(effect) else None
    real = stands_out(dip, heldout, errors)
    outcome = Outcome.SUPPORTED if real and early and shape and alone else Outcome.REFUTED
    return Verdict(
        "TC105", claim, outcome, "recovered ÷ fallen", effect, interval, dip.evaluations, "evaluations", thresholds,
        evidence, "another seed without the dip",
    )  # fmt: skip


def errors_of(dip: Dip, course: Course) -> tuple[float, float, float]:
    """Return the standard errors of a dip's three points, from the noise beside the dip: a sharp dip is no noise."""
    return (
        course.error_at(dip.first_step, 30, 0),
        course.error_at(dip.trough_step, 0, 0),
        course.error_at(dip.second_step, 0, 30),
    )


def stands_out(dip: Dip, course: Course, errors: tuple[float, float, float]) -> bool:
    """Return whether a dip's fall and its rise both exceed the noise and what counts as wandering, and last long enough."""
    first, trough, second = errors
    fell = dip.depth >= at.DIP_NOISE * float(np.hypot(first, trough))
    rose = dip.recovery >= at.DIP_NOISE * float(np.hypot(trough, second))
    large = min(dip.depth, dip.recovery) >= at.DIP * course.best
    return fell and rose and large and dip.evaluations >= at.DIP_EVALUATIONS


def judge_degradation(run: Run) -> Verdict:
    """Judge whether the held-out measure ends worse than its best; the effect is the share of the best that is gone."""
    claim = "the held-out measure got worse after its best and did not come back"
    heldout = run.heldout
    if heldout is None:
        return inapplicable("TC106", claim, "no held-out loss or accuracy was recorded")
    if heldout.best <= 0:
        return Verdict(
            "TC106",
            claim,
            Outcome.NOT_APPLICABLE,
            "share of the best that is gone at the end",
            None,
            None,
            len(heldout.step),
            evidence=("it was never better than chance",),
        )
    end = end_share(heldout)
    gone, error = (heldout.best - end) / heldout.best, 2 * end_error(heldout) / heldout.best
    evidence: tuple[str, ...] = (
        f"{heldout.title} was {heldout.in_unit(heldout.best):.4g} at step {heldout.best_step:g} and ends at "
        f"{heldout.in_unit(end):.4g} (smoothed)",
    )
    outcome = Outcome.SUPPORTED if gone >= max(at.WORSE, error) else Outcome.REFUTED
    if outcome is Outcome.SUPPORTED and heldout.examples is not None:
        fewer = round(abs(heldout.in_unit(heldout.best) - heldout.in_unit(end)) * heldout.examples)
        evidence = (*evidence, f"{fewer} of {heldout.examples} held-out examples fewer are right")
        if paired_difference_interval(0, fewer, heldout.examples)[1] >= 0:
            outcome = Outcome.UNDETERMINED  # other examples might not show it
    return Verdict(
        "TC106",
        claim,
        outcome,
        "share of the best that is gone at the end",
        gone,
        (gone - error, gone + error),
        len(heldout.step),
        "evaluations",
        {"gone / best": at.WORSE},
        evidence,
        "a second descent later on",
    )


def judge_loss_of_generalisation(run: Run) -> Verdict:
    """Judge whether generalisation, once there, was lost again; the effect is the share of later evaluations without it."""
    claim = "the run generalised and lost it again, for good or again and again"
    heldout = run.heldout
    if heldout is None or run.generalised_step is None:
        return inapplicable("TC107", claim, "the run did not come close to a best level and stay there")
    later = heldout.raw[heldout.step >= run.generalised_step]
    lost = float((later < at.LOST * heldout.best).mean())
    end = end_share(heldout) / heldout.best
    after_fit = (
        end < at.LOST
        if run.train is None
        else run.train.at_step(heldout.best_step) >= at.NEARLY_FITTED * run.train.best
    )
    evidence = (
        f"below {at.LOST:g} of its best at {lost:.0%} of the {len(later)} evaluations since step {run.generalised_step:g}",
        f"it ends at {end:.2f} of its best",
    )
    thresholds = {
        "lost below (of the best)": at.LOST,
        "share of evaluations": at.LOST_OFTEN,
        "lost for good below (of the best)": at.LOST_FOR_GOOD,
    }
    outcome = Outcome.SUPPORTED if after_fit and (lost >= at.LOST_OFTEN or end < at.LOST_FOR_GOOD) else Outcome.REFUTED
    error = 1.96 * float(np.sqrt(lost * (1 - lost) / len(later)))
    return Verdict(
        "TC107",
        claim,
        outcome,
        "share of later evaluations at which it is lost",
        lost,
        (max(0.0, lost - error), min(1.0, lost + error)),
        len(later),
        "evaluations",
        thresholds,
        evidence,
        "a longer log in which it returns and stays",
    )


def judge_movement(course: Course | None, split: str) -> Verdict:
    """Judge whether a course still improves at the end; the effect is its gain over the last half of the training.

    It is undetermined where the interval straddles the threshold, and where the gain of the last half was made before the
    last third began: it may have settled just now.
    """
    code, claim = (
        ("TC108" if split == "train" else "TC109"),
        f"the {'training' if split == 'train' else 'held-out'} measure is still improving at the end",
    )
    what = "gain in share over the last half of the training"
    if course is None:
        return inapplicable(code, claim, f"no {split} loss or accuracy was recorded")
    half, third = trend_at_end(course), trend_at_end(course, since=2 / 3)
    if not np.isfinite(half.standard_error):
        return Verdict(
            code,
            claim,
            Outcome.UNDETERMINED,
            what,
            None,
            None,
            half.evaluations,
            evidence=("too few evaluations in the last half of the training",),
        )
    interval = (half.gain - 2 * half.standard_error, half.gain + 2 * half.standard_error)
    evidence = (
        f"{course.title}: {half.gain:+.3g} of the way to perfection over the last half, {third.gain:+.3g} over the last third",
    )
    settled_late = np.isfinite(third.standard_error) and third.gain < at.STILL_MOVING
    outcome = compared(interval, at.STILL_MOVING)
    if outcome is Outcome.SUPPORTED and settled_late:
        outcome = Outcome.UNDETERMINED
    return Verdict(
        code,
        claim,
        outcome,
        what,
        half.gain,
        interval,
        half.evaluations,
        "evaluations",
        {"gain": at.STILL_MOVING},
        evidence,
        "a longer log",
    )


def compared(interval: tuple[float, float], threshold: float) -> Outcome:
    """Return SUPPORTED where the whole interval is past a threshold, REFUTED where none of it is, else UNDETERMINED."""
    if interval[0] > threshold:
        return Outcome.SUPPORTED
    return Outcome.REFUTED if interval[1] <= threshold else Outcome.UNDETERMINED


def compared_level(values: Float, interval: tuple[float, float], most: float) -> Outcome:
    """Return SUPPORTED where a positive level is at most `most` by its interval, REFUTED where it is above.

    The same where every value is at most half of it, or twice it or more: a course that still falls has a wide interval.

    >>> compared_level(np.array([1e-3, 1e-4, 1e-5]), (1e-7, 1.0), 0.01).name
    'SUPPORTED'
    """
    if interval[1] <= most or bool((values <= most / 2).all()):
        return Outcome.SUPPORTED
    return Outcome.REFUTED if interval[0] > most or bool((values >= 2 * most).all()) else Outcome.UNDETERMINED


def near_one(interval: tuple[float, float], margin: float) -> Outcome:
    """Return SUPPORTED where a whole interval is within a margin of 1, REFUTED where none of it is, else UNDETERMINED.

    >>> near_one((0.95, 1.02), 0.1).name, near_one((1.2, 1.3), 0.1).name, near_one((1.0, 1.3), 0.1).name
    ('SUPPORTED', 'REFUTED', 'UNDETERMINED')
    """
    low, high = interval
    if 1 - margin <= low and high <= 1 + margin:
        return Outcome.SUPPORTED
    return Outcome.REFUTED if high < 1 - margin or low > 1 + margin else Outcome.UNDETERMINED


def judge_curves(run: Run) -> dict[str, Verdict]:
    """Return every verdict that curves alone allow, by code."""
    verdicts = (
        judge_divergence(run), judge_fit(run), judge_generalisation(run), judge_delay(run), judge_double_descent(run),
        judge_degradation(run), judge_loss_of_generalisation(run),
        judge_movement(run.train, "train"), judge_movement(run.heldout, "heldout"),
    )  # fmt: skip
    judged = {verdict.code: verdict for verdict in verdicts}
    if judged["TC103"].outcome is Outcome.REFUTED:  # noise around chance has neither a delay, nor a descent, nor a loss
        for code in ("TC104", "TC105", "TC107"):
            judged[code] = inapplicable(code, judged[code].claim, "the run has not generalised")
    return judged


def over_runs(verdicts: Sequence[Verdict]) -> Verdict:
    """Join one claim judged on several runs: the outcome they agree on, the mean effect and its 95 % t interval over runs.

    The claim is UNDETERMINED where runs to which it applies disagree. Effects that are ratios (`RATIOS`) are averaged as
    logarithms, so that 2 and ½ make 1: over 5 runs that scatter by a factor e the interval of their plain mean covers it in
    81 % of cases only, that of the geometric mean in 94 %. Only effects of the same thing are averaged, as by the first run
    that has one.
    """
    if len(verdicts) == 1:
        return verdicts[0]
    first = next((verdict for verdict in verdicts if verdict.effect is not None), verdicts[0])
    outcomes = {verdict.outcome for verdict in verdicts}
    counts = ", ".join(
        f"{sum(v.outcome is one for v in verdicts)} {one.replace('_', ' ').lower()}" for one in sorted(outcomes)
    )
    same = [v.effect for v in verdicts if v.effect is not None and v.effect_is == first.effect_is]
    effect, interval = mean_effect(np.array([one for one in same if np.isfinite(one)]), is_ratio=first.code in RATIOS)
    evidence = (
        f"{len(verdicts)} runs: {counts}",
        *(f"run {i}: {v.evidence[0]}" for i, v in enumerate(verdicts) if v.evidence),
    )
    applied = outcomes - {Outcome.NOT_APPLICABLE} or outcomes
    outcome = next(iter(applied)) if len(applied) == 1 else Outcome.UNDETERMINED
    return replace(
        first, outcome=outcome, effect=effect, interval=interval, n=len(verdicts), unit_of_n="runs", evidence=evidence
    )


def mean_effect(effects: Float, *, is_ratio: bool) -> tuple[float | None, tuple[float, float] | None]:
    """Return the mean of effects over runs, of ratios the geometric one, and its interval where there are two or more.

    >>> mean_effect(np.array([0.5, 2.0]), is_ratio=True)[0]
    1.0
    """
    if not len(effects):
        return None, None
    if is_ratio and bool((effects > 0).all()):
        mean, interval = mean_effect(np.log(effects), is_ratio=False)
        ends = None if interval is None else (float(np.exp(interval[0])), float(np.exp(min(interval[1], LARGEST_LOG))))
        return None if mean is None else float(np.exp(mean)), ends
    return float(effects.mean()), t_interval(effects) if len(effects) > 1 else None


def following(run: Run) -> float | None:
    """Return held-out share ÷ training share when training was first half of the way to the best held-out share.

    A network that learns what is common to both splits follows closely (near 1); one that memorises does not (near 0).
    None where no evaluation lies on the way up.
    """
    if run.train is None or run.heldout is None or run.train.is_accuracy != run.heldout.is_accuracy:
        return None
    if run.heldout.best <= 0 or run.train.best <= 0:
        return None
    target = 0.8 * min(run.heldout.best, run.train.best)
    place = run.train.first_past(target, sustained=1)
    if place is None:
        return None
    step = float(run.train.step[run.train.at[place]])
    trained = run.train.at_step(step)
    return run.heldout.at_step(step) / trained if trained > 0 else None


def end_share(course: Course) -> float:
    """Return the share at the end: the median over the last tenth of the evaluations, at least the last three.

    Only evaluations since the best one count, so that a course on its way up is never said to have got worse; where fewer
    than three came since, the best is the end.
    """
    since = course.raw[course.step >= course.best_step]
    if len(since) < 3:
        return course.best
    count = min(len(since), max(3, len(course.raw) // 10))
    return float(np.median(since[-count:]))


def end_error(course: Course) -> float:
    """Return the standard error of `best − end_share`: of the median at the end and of the best moment's window.

    The best is the highest of many moments, which adds about one more standard error of its own.
    """
    count = min(len(course.raw), max(3, len(course.raw) // 10))
    at_end, at_best = 1.25 * course.noise / float(np.sqrt(count)), course.error_at(course.best_step)
    return float(np.hypot(at_end, 2 * at_best))


def noise_interval(course: Course, share: float) -> tuple[float, float]:
    """Return a share give or take twice the evaluation noise."""
    return share - 2 * course.noise, share + 2 * course.noise


def chance_words(course: Course) -> str:
    """Return what chance is taken to be, in words."""
    return (
        f"chance {course.chance:.3g}, as at the start"
        if course.chance_is_known
        else "chance unknown: the log starts late, counted from 0"
    )


def inapplicable(code: str, claim: str, why: str) -> Verdict:
    """Return the verdict on a claim that this log cannot carry."""
    return Verdict(code, claim, Outcome.NOT_APPLICABLE, evidence=(why,), overturned_by="recording it")


def too_few_snapshots(
    code: str, claim: str, what: str, count: int, where: str, *, closer: str = "there", least: int = at.FEWEST_SNAPSHOTS
) -> Verdict:
    """Return the verdict where too few snapshots lie in a window to read a trend from."""
    return Verdict(
        code, claim, Outcome.UNDETERMINED, what, None, None, count, "snapshots",
        evidence=(f"{count} snapshots lie {where}, and a trend takes {least}",),
        overturned_by=f"snapshots closer together {closer}",
    )  # fmt: skip
