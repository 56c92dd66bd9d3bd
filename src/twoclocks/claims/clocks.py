"""This file knows the seven questions about the two clocks on modular addition, and what they are asked of.

The published run (arXiv 2606.05863, section 5) is trained at several weight decays with the same seeds, and once more on a
split without mirrors. Nothing in here is looked up: every number is measured from the recorded runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from twoclocks.claims.answers import Answer, Table
from twoclocks.claims.closing import which_clock_is_later, which_tail
from twoclocks.claims.fitting import falls_of, heldout_at_fit, how_the_gap_grows, when_it_fits_and_falls
from twoclocks.claims.gates import whether_gates_freeze
from twoclocks.claims.leading import who_leads
from twoclocks.claims.ranks import which_rank_falls
from twoclocks.claims.setting import Setting, by_setting, fit_words, generalised_words
from twoclocks.claims.words import mean_words, time_words

WEIGHT_DECAYS = (1.0, 0.8, 0.6)


def answers(settings: Sequence[Setting]) -> tuple[Answer, ...]:
    """Return the answers to the seven questions, from runs at several weight decays, the largest first."""
    ordered = sorted(settings, key=lambda setting: -setting.weight_decay)
    questions = (
        when_it_fits_and_falls, which_rank_falls, how_the_gap_grows, which_tail, whether_gates_freeze, who_leads,
        which_clock_is_later,
    )  # fmt: skip
    return tuple(ask(ordered) for ask in questions)


def answers_without_mirrors(setting: Setting) -> tuple[Answer, ...]:
    """Return the answers that the split could change, (a) and (g), from runs in which no mirror is held out."""
    return when_it_fits_and_falls([setting]), which_clock_is_later([setting])


def split_table(ordered: Setting, unordered: Setting) -> Table:
    """Return what the split changes at one weight decay."""
    both = (ordered, unordered)
    rows: list[tuple[str, Callable[[Setting], str]]] = [
        ("held-out accuracy at T_fit", lambda s: mean_words(s.each(lambda r: heldout_at_fit(s, r)))),
        ("T_fit (step)", fit_words),
        ("held-out loss at 0.9 of its peak at step", lambda s: time_words(falls_of(s).begins)),
        ("held-out loss at 0.01 of its peak at step", lambda s: time_words(falls_of(s).ends)),
        *((f"T_gen({alpha:g}) (step)", partial(generalised_words, alpha)) for alpha in (0.5, 0.9, 0.99)),
    ]
    return by_setting("median or mean over seeds", both, rows)
