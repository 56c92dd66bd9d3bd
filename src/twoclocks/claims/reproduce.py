"""This file knows how a set of claims is measured from nothing: train what it needs, or take it up, measure, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twoclocks.claims.clocks import WEIGHT_DECAYS, answers, answers_without_mirrors, split_table
from twoclocks.claims.page import Page, Section, write_claims
from twoclocks.claims.setting import Setting, setting_of
from twoclocks.errors import InputError, nearest
from twoclocks.recipes import recipe
from twoclocks.training.loop import Progress, train
from twoclocks.trajectory import Trajectory

RECIPE = "modular-addition-published"
CLAIMS = ("clocks",)
FEWEST_SEEDS = 2  # of which an interval can be made; from 5 on it is worth reading
SEEDS = 5
SWEPT = {"weight_decay": f"swept over {', '.join(f'{d:g}' for d in WEIGHT_DECAYS)}", "unordered": "set both ways"}
Bar = Callable[[str], AbstractContextManager[Progress | None]]


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


def no_bar(title: str) -> AbstractContextManager[None]:
    """Show nothing."""
    return nullcontext()


def reproduce(
    claim: str,
    *,
    runs: Path = Path("runs/reproduce"),
    out: Path = Path("docs/claims.md"),
    seeds: int = SEEDS,
    settings: Mapping[str, Any] | None = None,
    progress: Bar = no_bar,
    measuring: Callable[[str], AbstractContextManager[None]] = no_bar,
) -> Path:
    """Measure published claims and write the page that says what was found; interrupted, the same call goes on.

    Args:
        claim: "clocks". runs: the folder of the run folders, one a training. out: the page; its pictures lie beside it.
            seeds: how many, from 0 on. settings: changes of the recipe, for trials. progress: what shows each training,
            by its title. measuring: the same of the measuring afterwards, of which no steps are known.

    Raises:
        InputError: the claim is unknown, there are fewer than two seeds, or a setting is unusable.
    """
    check(claim, seeds, settings or {})
    trained = []
    for i, training in enumerate(SWEEP):
        with progress(f"training {i + 1} of {len(SWEEP)}: {training.name}") as bar:
            trained.append(trained_as(training, runs, seeds, settings or {}, bar))
    with measuring("measuring and judging"):
        measured = [setting_of(t.name, t.weight_decay, one) for t, one in zip(SWEEP, trained, strict=True)]
        return write_claims(out, page_of(measured, seeds))


def check(claim: str, seeds: int, settings: Mapping[str, Any]) -> None:
    """Refuse what cannot be measured."""
    if claim not in CLAIMS:
        raise InputError(f"there is no claim '{claim}'.{nearest(claim, list(CLAIMS))}")
    if seeds < FEWEST_SEEDS:
        raise InputError(
            f"reproduce: an interval over seeds takes at least {FEWEST_SEEDS} of them ({SEEDS} to be worth "
            f"reading), got {seeds}"
        )
    for name, how in SWEPT.items():
        if name in settings:
            raise InputError(f"reproduce: {name} is {how} by the sweep itself; leave it out")


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
    return Page("Published claims, measured again", preface(ordered, seeds), answers(ordered), section)


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
