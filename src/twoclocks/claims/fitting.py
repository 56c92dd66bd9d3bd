"""This file knows the questions about fitting: when the losses fall, (a), and how the smallest gap grows, (c)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from twoclocks.claims.answers import Answer, Curve, Finding, Part, Picture, Table, agreed, held
from twoclocks.claims.setting import (
    FALL_BEGINS,
    FALL_ENDS,
    SATURATED,
    DecaySlope,
    Setting,
    by_setting,
    curves,
    effect_words,
    fall,
    fit_words,
    generalised_words,
    joint_slope,
    judged_part,
    outcome_words,
    runs_words,
    saturation,
    scalar,
    slope_on_decay,
    value_at,
)
from twoclocks.claims.words import counted, mean_words, number, span, time_words
from twoclocks.clocks import HittingTime, later
from twoclocks.trajectory import Float

SATURATES_AT, FALLS_FROM, FALLS_TO = 1500.0, 4000.0, 8500.0  # as published
NEAR = 1.5  # a factor within which a time is the published one, read off a figure without error bars
SMALLEST_GAP = "train_margin_min"
SHOWN = 2.5  # times the end of the window of growth: how far the picture of the gap reaches


@dataclass(frozen=True)
class Falls:
    """When the losses of the runs of one setting fall: the training loss, and the held-out loss from its peak."""

    saturates: HittingTime
    begins: HittingTime
    ends: HittingTime


def falls_of(setting: Setting) -> Falls:
    """Return when the losses of a setting fall."""
    scalars = setting.trajectory.scalars
    return Falls(saturation(scalars["train_loss"]), *fall(scalars["heldout_loss"]))


def when_it_fits_and_falls(settings: Sequence[Setting]) -> Answer:
    """Answer (a): the training loss saturates near step 1500, the held-out loss falls between 4000 and 8500."""
    falls = {s.name: falls_of(s) for s in settings}
    parts = [saturates_near(falls), falls_inside(falls)]
    tables = [times_table(settings, falls)]
    if len(settings) > 1:
        parts.append(falls_earlier(settings, falls))
        tables.append(order_table(settings, falls))
    return Answer(
        "a",
        "When do the losses fall?",
        "The training loss saturates near step 1500; the held-out loss falls between 4000 and 8500, earlier for "
        "larger weight decay",
        tuple(parts),
        f"The training loss is within a factor {SATURATED:g} of its final level from step "
        f"{range_of(falls, 'saturates')} on. The held-out loss is at {FALL_BEGINS:g} of its peak at step "
        f"{range_of(falls, 'begins')} and at {FALL_ENDS:g} of it at step {range_of(falls, 'ends')}, over all runs.",
        tuple(tables),
        loss_pictures(settings),
        (
            f"A loss saturates at the first evaluation from which it stays at or below {SATURATED:g} × the median "
            "of its last tenth. The fall of the held-out loss is read past its peak. T_fit: training accuracy "
            "0.99; T_gen(α): held-out accuracy α.",
        ),
    )


def saturates_near(falls: Mapping[str, Falls]) -> Part:
    """Return whether the training loss saturates at the published step in every run."""
    low, high = SATURATES_AT / NEAR, SATURATES_AT * NEAR
    found = [lies(time, r, low, high) for f in falls.values() for time in (f.saturates,) for r in range(time.runs)]
    return Part(
        "the training loss saturates near step 1500",
        f"within a factor {NEAR:g}: from step {number(low)} to {number(high)}",
        agreed(found),
        counted(found),
    )


def falls_inside(falls: Mapping[str, Falls]) -> Part:
    """Return whether the whole fall of the held-out loss lies inside the published window in every run."""
    low, high = FALLS_FROM / NEAR, FALLS_TO * NEAR
    found = []
    for f in falls.values():
        for r in range(f.ends.runs):
            ends = {lies(f.begins, r, low, high), lies(f.ends, r, low, high)}
            found.append(
                Finding.FAILS if Finding.FAILS in ends else Finding.OPEN if Finding.OPEN in ends else ends.pop()
            )
    return Part(
        "the held-out loss falls between 4000 and 8500",
        f"within a factor {NEAR:g}: from {FALL_BEGINS:g} to {FALL_ENDS:g} of its peak inside steps {number(low)} to "
        f"{number(high)}",
        agreed(found),
        counted(found),
    )


def falls_earlier(settings: Sequence[Setting], falls: Mapping[str, Falls]) -> Part:
    """Return whether the held-out loss falls earlier at larger weight decay."""
    slope = slope_on_decay([s.weight_decay for s in settings], [falls[s.name].ends for s in settings])
    return Part(
        "it falls earlier for larger weight decay",
        "the slope of log(end of the fall) on log λ_w, one a seed, has a t interval below 0",
        below_zero(slope),
        f"slope {slope}",
    )


def lies(time: HittingTime, r: int, low: float, high: float) -> Finding:
    """Return whether the time of run r lies in a window; a censored one is outside if its bound is past the window."""
    value = time.values[r]
    if value is None:
        return held(False if time.last >= high else None)
    return held(low <= value <= high)


def below_zero(slope: DecaySlope) -> Finding:
    """Return whether a slope is below 0 by its whole interval, not below it, or neither."""
    if slope.interval is None or not slope.is_of_all:
        return Finding.OPEN
    return held(True if slope.interval[1] < 0 else False if slope.interval[0] >= 0 else None)


def range_of(falls: Mapping[str, Falls], which: str) -> str:
    """Return from when to when a time lies over all runs, censored ones as a bound."""
    times: list[HittingTime] = [getattr(f, which) for f in falls.values()]
    known = [float(value) for time in times for value in time.values if value is not None]
    missing = any(value is None for time in times for value in time.values)
    last = f"> {number(max(time.last for time in times))}"
    if not known:
        return last
    return f"{number(min(known))} to {last}" if missing else span(min(known), max(known))


def times_table(settings: Sequence[Setting], falls: Mapping[str, Falls]) -> Table:
    """Return when what happens, with a column a setting."""
    rows: list[tuple[str, Callable[[Setting], str]]] = [
        ("training loss saturates at step", lambda s: time_words(falls[s.name].saturates)),
        ("last training loss (nats)", lambda s: mean_words(last_of(s, "train_loss"))),
        (f"held-out loss at {FALL_BEGINS:g} of its peak at step", lambda s: time_words(falls[s.name].begins)),
        (f"held-out loss at {FALL_ENDS:g} of its peak at step", lambda s: time_words(falls[s.name].ends)),
        ("T_fit (step)", fit_words),
        ("held-out accuracy at T_fit", lambda s: mean_words(s.each(lambda r: heldout_at_fit(s, r)))),
        *((f"T_gen({alpha:g}) (step)", partial(generalised_words, alpha)) for alpha in (0.5, 0.9, 0.99)),
        ("last held-out accuracy", lambda s: mean_words(last_of(s, "heldout_accuracy"))),
    ]
    return by_setting("median or mean over seeds", settings, rows)


def last_of(setting: Setting, name: str) -> list[float | None]:
    """Return the last value of a recorded scalar, run by run."""
    return [float(value) for value in setting.trajectory.scalars[name].value[:, -1]]


def heldout_at_fit(setting: Setting, r: int) -> float | None:
    """Return the held-out accuracy of run r at its fit."""
    return value_at(setting.trajectory.scalars["heldout_accuracy"], setting.clocks.fit, r)


def order_table(settings: Sequence[Setting], falls: Mapping[str, Falls]) -> Table:
    """Return how times depend on the weight decay: slopes, and seed by seed, in how many a smaller decay is later."""
    times: dict[str, list[HittingTime]] = {
        "training loss saturates": [falls[s.name].saturates for s in settings],
        f"held-out loss at {FALL_BEGINS:g} of its peak": [falls[s.name].begins for s in settings],
        f"held-out loss at {FALL_ENDS:g} of its peak": [falls[s.name].ends for s in settings],
        **{f"T_gen({a:g})": [s.clocks.generalisation[a] for s in settings] for a in (0.5, 0.9, 0.99)},
    }
    pairs = list(combinations(range(len(settings)), 2))
    decays = [s.weight_decay for s in settings]
    head = (
        "time",
        "slope of log T on log λ_w",
        *(f"later at {decays[j]:g} than at {decays[i]:g}" for i, j in pairs),
    )
    rows = tuple(
        (name, str(slope_on_decay(decays, of)), *(sign_words(of[i], of[j]) for i, j in pairs))
        for name, of in times.items()
    )
    return Table(head, rows)


def sign_words(earlier: HittingTime, other: HittingTime) -> str:
    """Return in how many seeds one time is known to be later than another, and the sign test's p."""
    test = later(earlier, other)
    return f"{test.statistic:.0f} of {test.n} seeds, p = {number(test.p)}"


def loss_pictures(settings: Sequence[Setting]) -> tuple[Picture, ...]:
    """Return the pictures of both losses."""
    return tuple(
        Picture(
            f"loss-{split}", f"{words} loss", "optimiser step", "nats per example",
            curves(settings, partial(scalar, f"{split}_loss")),
            f"{words} cross-entropy in nats per example against the optimiser step, one line a run; "
            f"{runs_words(settings)}.",
            log_x=True, log_y=True,
        )
        for split, words in (("train", "Training"), ("heldout", "Held-out"))
    )  # fmt: skip


def how_the_gap_grows(settings: Sequence[Setting]) -> Answer:
    """Answer (c): does the smallest gap grow linearly, and until when."""
    return Answer(
        "c",
        "Does the smallest gap grow linearly, and until when?",
        "The smallest logit gap grows linearly, and so the training loss falls exponentially",
        (
            judged_part(settings, "TC301", "the smallest gap grows linearly while it grows"),
            judged_part(settings, "TC302", "the training loss shrinks by a constant share a step"),
        ),
        growth_words(settings),
        (growth_table(settings),),
        (gap_picture(settings),),
        (
            "The window of growth runs from the first evaluation from which the smallest gap over the training "
            "pairs stays positive to where it has 0.9 of its largest value. *Linear until*: the end of the longest "
            "window from that start on which neither a logarithm nor a saturating law fits clearly better (6 AICc "
            "units) than a line. *Bend*: the slope over the last third of the window ÷ that over the first; a line "
            "has 1.",
        ),
    )  # fmt: skip


def growth_words(settings: Sequence[Setting]) -> str:
    """Say from when to when the gap grows linearly, over all runs."""
    conditions = [one for s in settings for one in s.evidence.conditions]
    starts = [one.window[0] for one in conditions if one.window is not None]
    ends = [one.window[1] for one in conditions if one.window is not None]
    linear = [one.linear_until for one in conditions if one.linear_until is not None]
    bends = [bend for s in settings for r in range(s.runs) if (bend := bend_of(s, r)) is not None]
    if not starts:
        return "In no run does the smallest gap stay positive for long enough to be fitted."
    until = "nowhere" if not linear else f"up to step {span(min(linear), max(linear))}"
    bent = (
        ""
        if not bends
        else f" Over the last third of the window it grows at {span(min(bends), max(bends))} of its first pace."
    )
    return (
        f"The smallest gap is positive from step {span(min(starts), max(starts))} on and has 0.9 of its largest "
        f"value at step {span(min(ends), max(ends))}. Linear growth is not ruled out {until} ({len(linear)} of "
        f"{len(conditions)} runs).{bent}"
    )


def growth_table(settings: Sequence[Setting]) -> Table:
    """Return how the smallest gap grows, with a column a setting."""
    rows: list[tuple[str, Callable[[Setting], str]]] = [
        ("TC301: linear over the window", partial(outcome_words, "TC301")),
        ("TC302: constant share a step", partial(outcome_words, "TC302")),
        ("d log(share of the loss a step) / d log loss", partial(effect_words, "TC302")),
        ("window of growth begins at step", lambda s: mean_words(s.each(lambda r: window_end(s, r, 0)))),
        ("window of growth ends at step", lambda s: mean_words(s.each(lambda r: window_end(s, r, 1)))),
        ("linear until step", lambda s: mean_words(s.each(lambda r: s.evidence.conditions[r].linear_until))),
        ("slope until then (logits a step)", lambda s: mean_words(s.each(lambda r: early_slope(s, r)))),
        ("slope until then (logits a step ÷ lr)", lambda s: mean_words(s.each(lambda r: slope_in_lr(s, r)))),
        ("bend", lambda s: mean_words(s.each(lambda r: bend_of(s, r)))),
        ("largest smallest gap (logits)", lambda s: mean_words(s.each(lambda r: float(gap_of(s, r).max())))),
    ]
    return by_setting("mean over seeds", settings, rows)


def gap_of(setting: Setting, r: int) -> Float:
    """Return the smallest gap of run r."""
    gap: Float = setting.trajectory.scalars[SMALLEST_GAP].value[r]
    return gap


def window_end(setting: Setting, r: int, end: int) -> float | None:
    """Return one end of the window of growth of run r: 0 its begin, 1 its end."""
    window = setting.evidence.conditions[r].window
    return None if window is None else window[end]


def slope_between(setting: Setting, r: int, low: float, high: float) -> float | None:
    """Return the slope of the smallest gap of run r over some steps, in logits a step."""
    step = setting.trajectory.scalars[SMALLEST_GAP].step
    chosen = (step >= low) & (step <= high)
    return joint_slope(step[chosen].astype(np.float64), gap_of(setting, r)[chosen])


def early_slope(setting: Setting, r: int) -> float | None:
    """Return the slope of the smallest gap from the start of its window to where growth stops being linear."""
    conditions = setting.evidence.conditions[r]
    if conditions.window is None or conditions.linear_until is None:
        return None
    return slope_between(setting, r, conditions.window[0], conditions.linear_until)


def slope_in_lr(setting: Setting, r: int) -> float | None:
    """Return the same slope in units of the learning rate."""
    slope = early_slope(setting, r)
    return None if slope is None else slope / float(setting.trajectory.settings["settings"]["lr"])


def bend_of(setting: Setting, r: int) -> float | None:
    """Return the slope over the last third of the window of growth ÷ that over its first third."""
    window = setting.evidence.conditions[r].window
    if window is None:
        return None
    third = (window[1] - window[0]) / 3
    first = slope_between(setting, r, window[0], window[0] + third)
    last = slope_between(setting, r, window[1] - third, window[1])
    return None if first is None or last is None or first <= 0 else last / first


def gap_picture(settings: Sequence[Setting]) -> Picture:
    """Return the picture of the smallest gap, on linear axes and as long as it grows."""
    ends = [one.window[1] for s in settings for one in s.evidence.conditions if one.window is not None]
    until = SHOWN * max(ends) if ends else np.inf
    whole = curves(settings, partial(scalar, SMALLEST_GAP))
    cut = tuple(Curve(one.group, one.x[one.x <= until], one.y[one.x <= until]) for one in whole)
    return Picture(
        "smallest-gap", "Smallest logit gap of the training pairs", "optimiser step", "logits", cut,
        f"Smallest logit gap over the training pairs, in logits, against the optimiser step up to {SHOWN:g} × the "
        "end of its "
        f"growth, one line a run; {runs_words(settings)}.", levels=((0.0, "answered rightly above"),),
    )  # fmt: skip
