"""This file knows what is trained for the claims about the two clocks, and what must be said before their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twoclocks.claims.clocks import WEIGHT_DECAYS, answers, answers_without_mirrors, split_table
from twoclocks.claims.page import Page, Section
from twoclocks.claims.setting import Setting, setting_of
from twoclocks.claims.showing import Showing
from twoclocks.errors import InputError
from twoclocks.recipes import recipe
from twoclocks.training.loop import Progress, train
from twoclocks.trajectory import Trajectory

RECIPE = "modular-addition-published"
SEEDS = 5  # from which on an interval of a median is worth reading
SWEPT = {"weight_decay": f"swept over {', '.join(f'{d:g}' for d in WEIGHT_DECAYS)}", "unordered": "set both ways"}


@dataclass(frozen=True)
class Training:
    """One training of a sweep: its weight decay, and whether the split is of unordered pairs."""

    weight_decay: float
    unordered: bool

    @property
    def name(self) -> str:
        """Return how its runs are called in legends and tables."""
        return f"λ_w = {self.weight_decay:g}" + (", no mirrors" if self.unordered else "")

    @property
    def folder(self) -> str:
        """Return the name of its run folder."""
        return f"{RECIPE}-wd{self.weight_decay:g}" + ("-unordered" if self.unordered else "")


SWEEP = (*(Training(decay, unordered=False) for decay in WEIGHT_DECAYS), Training(WEIGHT_DECAYS[0], unordered=True))


def clocks_page(runs: Path, seeds: int, settings: Mapping[str, Any], showing: Showing) -> Page:
    """Train the sweep, or take it up, and return the page of its answers."""
    for name, how in SWEPT.items():
        if name in settings:
            raise InputError(f"reproduce: {name} is {how} by the sweep itself; leave it out")
    trained = []
    for i, training in enumerate(SWEEP):
        with showing.training(f"training {i + 1} of {len(SWEEP)}: {training.name}") as bar:
            trained.append(trained_as(training, runs, seeds, settings, bar))
    with showing.measuring("measuring and judging"):
        measured = [setting_of(t.name, t.weight_decay, one) for t, one in zip(SWEEP, trained, strict=True)]
        return page_of(measured, seeds)


def trained_as(
    training: Training, runs: Path, seeds: int, settings: Mapping[str, Any], progress: Progress | None
) -> Trajectory:
    """Return the runs of one training, trained now or taken up from their folder."""
    chosen = recipe(RECIPE, {**settings, "weight_decay": training.weight_decay, "unordered": training.unordered})
    return train(chosen, seeds=range(seeds), folder=runs / training.folder, progress=progress)


def page_of(measured: Sequence[Setting], seeds: int) -> Page:
    """Return the page of a whole sweep: the seven answers, and those that the split could change."""
    *ordered, unordered = measured
    section = Section(
        "no-mirrors",
        "No mirrors held out",
        no_mirrors_preface(ordered[0]),
        split_table(ordered[0], unordered),
        answers_without_mirrors(unordered),
    )
    return Page("clocks", "Two training clocks", preface(ordered, seeds), answers(ordered), section)


def no_mirrors_preface(ordered: Setting) -> tuple[str, ...]:
    """Return why the split matters, and what was trained instead."""
    fraction = float(ordered.trajectory.settings["settings"]["train_fraction"])
    return (
        "The network sums the embeddings of a and b, so it cannot tell (a, b) from (b, a). A split of ordered "
        f"pairs, as above, therefore leaks: of a share {fraction:g} of the held-out pairs the mirror was trained "
        f"on, and they are answered as soon as the run fits. Here unordered pairs are split at {ordered.name}, so "
        "that no mirror of a training pair is held out; everything else is as above.",
    )


def preface(ordered: Sequence[Setting], seeds: int) -> tuple[str, ...]:
    """Return what must be said before the answers: what was trained, what is not known, and how outcomes come about."""
    first = ordered[0].trajectory.settings
    chosen = {n: v for n, v in first["settings"].items() if n not in SWEPT}
    words = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
    versions = ", ".join(f"{name} {value}" for name, value in first.get("versions", {}).items())
    decays = ", ".join(f"{s.weight_decay:g}" for s in ordered)
    return (
        "Written by `twoclocks reproduce clocks`; no number on this page is typed in by hand. Source of the "
        f"claims: arXiv 2606.05863, section 5 (*two training clocks*), on addition modulo {chosen['p']}.",
        f"**Trained**: recipe `{RECIPE}`, weight decay {decays} × seeds 0 to {seeds - 1} (the same initial weights "
        f"and split at each decay), {words}; {versions}. The source states neither the training fraction, nor how "
        "pairs are split, nor the hidden width: those are ours, and a claim that fails here may hold for others.",
        "**Outcomes**: a claim is taken apart into parts, each with a rule that can fail. A part holds if it does "
        "in every run, holds in part if it does in half or more, does not hold if else it fails in at least half, and "
        "is undetermined otherwise. A claim holds if all its parts do, holds in part if some part does "
        "at least in part, does not hold if none does and some fail, and is undetermined otherwise. What was asked "
        "besides is judged alike and does not count.",
        "**Numbers** are means over seeds with 95 % t intervals. Times are medians with the interval of the median "
        "(of 5 seeds: their range, 93.75 %); > marks a time not reached by the last step, which never becomes a "
        f"number: where fewer runs than all are behind one, it says so. With {seeds} seeds the smallest p of the "
        f"exact two-sided sign test is {2 / 2**seeds:g}, so it alone can never pass 0.05 with fewer than 6. TC "
        "codes are those of `docs/glossary.md`, each judged on every run by itself.",
    )
