"""This file knows the question about speeds, (f): whether the readout leads, by gradients and by updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from twoclocks.claims.answers import Answer, Curve, Finding, Part, Picture, Table, agreed, held
from twoclocks.claims.setting import Setting, by_setting, effect_words, outcome_words
from twoclocks.claims.words import UNKNOWN, listed, mean_words, number
from twoclocks.stats import t_interval
from twoclocks.trajectory import Series

GRADIENTS, UPDATES = "gradient_ratio.", "relative_speed_ratio."
WORDS: Mapping[str, str] = {GRADIENTS: "gradient", UPDATES: "relative update"}
Mean = Callable[[Setting, str, int], float | None]
FEWEST = 5  # evaluations behind a mean of a window


def who_leads(settings: Sequence[Setting]) -> Answer:
    """Answer (f): does the readout lead, by gradients and by updates."""
    return Answer(
        "f",
        "Does the readout lead?",
        "The readout leads the encoder",
        (
            lead_part(settings, GRADIENTS, "by gradients: the readout's is larger than every other block's until the fit"),
            lead_part(settings, UPDATES, "by updates: for its size, the readout moves fastest until the fit"),
        ),
        lead_words(settings),
        (verdict_table(settings), *(ratio_table(settings, prefix) for prefix in WORDS)),
        tuple(ratio_picture(settings, prefix) for prefix in WORDS),
        (
            "The parts are judged over seeds: the verdicts on single runs, which leave a lead that bends over the "
            "window open, were seen first. A mean ratio is geometric, over the evaluations of the window, which are "
            "spaced in log time. Under Adam the scale of a gradient does not reach the update, so only updates say "
            "who moves faster. TC603: the readout's share of the first-order decrease of the loss until the fit. "
            "TC604: ‖h‖ ÷ (‖B‖₂‖W‖₂‖U‖₂), least over pairs and snapshots; above 1 it certifies the lead by gradients,"
            " below 1 it says nothing.",
        ),
    )  # fmt: skip


def lead_part(settings: Sequence[Setting], prefix: str, claim: str) -> Part:
    """Return whether the readout leads every block until the fit, by its mean ratios over seeds."""
    found = [lead_finding(setting, prefix) for setting in settings]
    return Part(
        claim,
        "at one weight decay: for every block the t interval over seeds of the mean log ratio until T_fit lies above 0; "
        "fails if it lies below for some block",
        agreed(found),
        "; ".join(f"{s.name}: {one}" for s, one in zip(settings, found, strict=True)),
    )


def lead_finding(setting: Setting, prefix: str) -> Finding:
    """Return whether the readout leads every block of a setting until the fit, over its seeds."""
    bounds = []
    for block in blocks_of([setting], prefix):
        means = [until_fit(setting, prefix + block, r) for r in range(setting.runs)]
        known = [math.log(mean) for mean in means if mean is not None]
        if len(known) < 2 or len(known) < len(means):
            return Finding.OPEN
        bounds.append(t_interval(known))
    if not bounds:
        return Finding.OPEN
    if any(high < 0 for _, high in bounds):
        return Finding.FAILS
    return held(True if all(low > 0 for low, _ in bounds) else None)


def blocks_of(settings: Sequence[Setting], prefix: str) -> list[str]:
    """Return the blocks that the readout is compared with."""
    names = dict.fromkeys(name for s in settings for name in s.evidence.measured if name.startswith(prefix))
    return [name.removeprefix(prefix) for name in names]


def lead_words(settings: Sequence[Setting]) -> str:
    """Say by which ratios the readout leads until the fit, and whether it still does afterwards."""
    parts = []
    for prefix, words in WORDS.items():
        leads = [lead_of(settings, prefix, block) for block in blocks_of(settings, prefix)]
        parts.append(f"by {words} {listed(leads)}")
    return f"Readout ÷ block on average until the fit, and after it in brackets: {'; '.join(parts)}."


def lead_of(settings: Sequence[Setting], prefix: str, block: str) -> str:
    """Say what the mean ratio to one block is, over all runs, until the fit and after it."""
    until, after = (
        [value for s in settings for r in range(s.runs) if (value := mean(s, prefix + block, r)) is not None]
        for mean in (until_fit, after_fit)
    )
    return " ".join(
        form.format(number(float(np.mean(values))) if values else UNKNOWN, block)
        for form, values in (("{} × {}", until), ("({})", after))
    )


def mean_ratio_words(mean: Mean, name: str, setting: Setting) -> str:
    """Return a mean ratio over the runs of a setting."""
    return mean_words(setting.each(lambda r: mean(setting, name, r)))


def until_fit(setting: Setting, name: str, r: int) -> float | None:
    """Return the mean ratio of run r until its fit; to the end where it never fitted."""
    return mean_between(setting.evidence.measured[name], r, 0.0, fit_of(setting, r))


def after_fit(setting: Setting, name: str, r: int) -> float | None:
    """Return the mean ratio of run r after its fit."""
    return mean_between(setting.evidence.measured[name], r, fit_of(setting, r) + 1e-9, math.inf)


def fit_of(setting: Setting, r: int) -> float:
    """Return the step of the fit of run r, the last one where it never fitted."""
    fit = None if setting.clocks.fit is None else setting.clocks.fit.values[r]
    return float(setting.last if fit is None else fit)


def mean_between(series: Series, r: int, low: float, high: float) -> float | None:
    """Return the geometric mean of run r over some steps; None with too few evaluations."""
    values = series.value[r]
    chosen = (series.step >= low) & (series.step <= high) & np.isfinite(values) & (values > 0)
    return float(np.exp(np.log(values[chosen]).mean())) if int(chosen.sum()) >= FEWEST else None


def verdict_table(settings: Sequence[Setting]) -> Table:
    """Return the verdicts on the lead of the readout and their effects, with a column a setting."""
    rows: list[tuple[str, Callable[[Setting], str]]] = []
    for code, words in (
        ("TC601", "gradient ratio to the block led least"),
        ("TC602", "update ratio to the block led least"),
        ("TC603", "share of the decrease of the loss"),
        ("TC604", "certificate by the weights' sizes"),
    ):
        rows.append((f"{code}, runs", partial(outcome_words, code)))
        rows.append((f"{code}, {words}", partial(effect_words, code)))
    return by_setting("until T_fit, mean over seeds", settings, rows)


def ratio_table(settings: Sequence[Setting], prefix: str) -> Table:
    """Return the mean ratio of the readout to every block until the fit and after it, with a column a setting."""
    rows: list[tuple[str, Callable[[Setting], str]]] = [
        (
            f"÷ {block}, {words}",
            partial(mean_ratio_words, mean, prefix + block),
        )
        for block in blocks_of(settings, prefix)
        for words, mean in (("until T_fit", until_fit), ("after T_fit", after_fit))
    ]
    return by_setting(f"{WORDS[prefix]} of the readout", settings, rows)


def ratio_picture(settings: Sequence[Setting], prefix: str) -> Picture:
    """Return the picture of the readout against every block, at the largest weight decay."""
    first = settings[0]
    lines = tuple(
        Curve(f"readout ÷ {block}", one.step[one.step > 0], row[one.step > 0])
        for block in blocks_of([first], prefix)
        for one in (first.evidence.measured[prefix + block],)
        for row in one.value
    )
    return Picture(
        f"lead-{WORDS[prefix].split()[-1]}", f"Readout ÷ block: {WORDS[prefix]}, {first.name}", "optimiser step", "ratio",
        lines,
        f"Norm of the {WORDS[prefix]} of the readout ÷ that of another block (no unit) against the optimiser step, "
        "one line a run; "
        f"{first.name}, {first.runs} seeds.", log_x=True, log_y=True, levels=((1.0, "equal"),),
    )  # fmt: skip
