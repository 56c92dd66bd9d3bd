"""This file knows the question about gates, (e): whether they freeze, and over which window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from twoclocks.claims.answers import Answer, Finding, Part, Picture, Table, agreed, held
from twoclocks.claims.setting import (
    UNCHANGED,
    Setting,
    by_setting,
    curves,
    frozen_since,
    judged_part,
    outcome_words,
    runs_words,
)
from twoclocks.claims.words import UNKNOWN, counted, mean_words, number, time_words
from twoclocks.trajectory import Series

AGREEMENT, JACCARD = "gate_agreement(last)", "gate_jaccard(last)"
WHOLE, FLIPS = "whole_pattern_share(last)", "gate_flips_per_step(previous)"
LAST_PART = 0.9  # of the training: gates that stand still from there on at least froze at the end


def whether_gates_freeze(settings: Sequence[Setting]) -> Answer:
    """Answer (e): do gates freeze, and over which window."""
    from_fit = judged_part(settings, "TC501", "the gates stand still from the fit to the end")
    return Answer(
        "e",
        "Do the gates freeze, and over which window?",
        "The gates of the ReLU layer freeze, so that the network is linear over the slow window",
        (from_fit, freezes_at_last(settings)),
        frozen_words(settings),
        (window_table(settings),),
        (gate_picture(settings),),
        (
            "Gates are those of the one hidden layer on the recorded pairs, compared with the last snapshot. "
            "*Agreement*: the share of gates that are equal; units that are always off inflate it. *Jaccard*: "
            "gates on at both ÷ gates on at either. *Whole patterns*: pairs none of whose gates differ. A flip "
            "there and back between snapshots is not seen.",
        ),
    )


def freezes_at_last(settings: Sequence[Setting]) -> Part:
    """Return whether the gates stand still over the last tenth of the training at least."""
    found = [frozen_at_last(s, r) for s in settings for r in range(s.runs)]
    return Part(
        "they stand still at least over the last tenth of the training",
        f"the Jaccard share of the last snapshot's gates is {UNCHANGED:g} or more at every snapshot from "
        f"{LAST_PART:g} of the steps on",
        agreed(found),
        counted(found),
    )


def frozen_at_last(setting: Setting, r: int) -> Finding:
    """Return whether the gates of run r stand still over the last tenth of the training."""
    unchanged = setting.evidence.measured.get(JACCARD)
    if unchanged is None:
        return Finding.OPEN
    since = frozen_since(unchanged).values[r]
    return held(since is not None and since <= LAST_PART * setting.last)


def frozen_words(settings: Sequence[Setting]) -> str:
    """Say from when on gates stand still, if they do, and how much they change late in training."""
    known = [(s, one) for s in settings if (one := s.evidence.measured.get(JACCARD)) is not None]
    if not known:
        return "The gates were not recorded at enough snapshots."
    since = [value for _, one in known for value in frozen_since(one).values if value is not None]
    total = sum(s.runs for s, _ in known)
    late = [float(v) for s, one in known for v in one.value[:, (one.step >= s.last / 2).argmax()]]
    frozen = "at no snapshot before the last one" if not since else f"from step {number(min(since))} on at the earliest"
    return (
        f"The gates that are on are the last snapshot's to {UNCHANGED:g} {frozen} ({len(since)} of {total} runs "
        f"before the last snapshot). At half of the training the share is {number(min(late))} to {number(max(late))}."
    )


def window_table(settings: Sequence[Setting]) -> Table:
    """Return the least agreement with the end over windows that begin later and later, with a column a setting."""
    rows: list[tuple[str, Callable[[Setting], str]]] = [
        ("TC501: frozen from T_fit to the end", partial(outcome_words, "TC501"))
    ]
    starts: dict[str, Callable[[Setting, int], float | None]] = {
        "T_fit": lambda s, r: None if s.clocks.fit is None else s.clocks.fit.values[r],
        "T_gen(0.99)": lambda s, r: s.clocks.generalisation[0.99].values[r],
        "half of the steps": lambda s, r: 0.5 * s.last,
        f"{LAST_PART:g} of the steps": lambda s, r: LAST_PART * s.last,
    }
    for start, step_of in starts.items():
        for words, name in (("agreement", AGREEMENT), ("Jaccard", JACCARD)):
            rows.append((f"least {words} since {start}", least_words(name, step_of)))
    rows += [
        ("most whole patterns since T_fit, but the last snapshot", most_whole),
        (f"Jaccard of {UNCHANGED:g} or more from step", since_words),
        ("flips a pair and step, at the end", last_flips),
    ]
    return by_setting("median or mean over seeds", settings, rows)


def least_words(name: str, step_of: Callable[[Setting, int], float | None]) -> Callable[[Setting], str]:
    """Return what says the least value of a gate series since a step, over the runs of a setting."""

    def words(setting: Setting) -> str:
        series = setting.evidence.measured.get(name)
        return (
            UNKNOWN
            if series is None
            else mean_words(setting.each(lambda r: extreme(series, r, step_of(setting, r), min)))
        )

    return words


def extreme(series: Series, r: int, since: float | None, which: Callable[[list[float]], float]) -> float | None:
    """Return the least or largest value of run r from a step on, the last snapshot left out; None where there is none."""
    if since is None:
        return None
    chosen = (series.step >= since) & (series.step < series.step[-1]) & np.isfinite(series.value[r])
    return which(series.value[r][chosen].tolist()) if chosen.any() else None


def most_whole(setting: Setting) -> str:
    """Say the largest share of pairs whose whole pattern is that of the end, since the fit."""
    series, fit = setting.evidence.measured.get(WHOLE), setting.clocks.fit
    if series is None or fit is None:
        return UNKNOWN
    return mean_words(setting.each(lambda r: extreme(series, r, fit.values[r], max)))


def since_words(setting: Setting) -> str:
    """Say from when on the gates stand still."""
    unchanged = setting.evidence.measured.get(JACCARD)
    return UNKNOWN if unchanged is None else time_words(frozen_since(unchanged))


def last_flips(setting: Setting) -> str:
    """Say how many gates flip, a pair and step, between the last two snapshots."""
    flips = setting.evidence.measured.get(FLIPS)
    return UNKNOWN if flips is None else mean_words(flips.value[:, -1].tolist())


def gate_picture(settings: Sequence[Setting]) -> Picture:
    """Return the picture of the gates against those of the last snapshot."""
    return Picture(
        "gates", "Gates against those of the last snapshot", "optimiser step", "Jaccard share",
        curves(settings, lambda s: s.evidence.measured.get(JACCARD)),
        "Gates on at both ÷ gates on at either, against the last snapshot (which is 1 by definition), one line a "
        "run; "
        f"{runs_words(settings)}.", log_x=True, levels=((UNCHANGED, f"{UNCHANGED:g}"),),
    )  # fmt: skip
