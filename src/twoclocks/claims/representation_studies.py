"""This file knows the seven questions about representation and readout, and how their page comes about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twoclocks.claims.answers import Answer, Table
from twoclocks.claims.falling import which_share_falls_before
from twoclocks.claims.lagging import how_gaps_depend_on_the_probe, whether_the_readout_is_train_biased
from twoclocks.claims.page import Page
from twoclocks.claims.repairing import whether_the_features_are_damaged_and_repaired
from twoclocks.claims.setbacks import whether_the_interface_collapses, whether_the_softmax_collapses, which_part_dips
from twoclocks.claims.showing import Showing
from twoclocks.claims.studies import STUDIES, Known, Measured, Study, measured_of, recipe_of, trained
from twoclocks.claims.words import UNKNOWN, counted, number
from twoclocks.errors import InputError
from twoclocks.recipes import recipe
from twoclocks.stats import t_quantile
from twoclocks.training.images import image_set, read_images

SEEDS = 3


def representation_page(
    runs: Path,
    seeds: int,
    settings: Mapping[str, Any],
    cheap: bool,
    showing: Showing,
    studies: Sequence[Study] = STUDIES,
) -> Page:
    """Train every study, or take it up, measure it, and return the page of the answers."""
    chosen = [study for study in studies if study.cheap or not cheap]
    check(settings, chosen)
    check_images(chosen, settings)
    known: dict[str, Measured] = {}
    for i, study in enumerate(chosen):
        with showing.training(f"training {i + 1} of {len(chosen)}: {study.name}") as bar:
            trajectory = trained(study, runs, seeds, settings, bar)
        with showing.measuring(f"measuring {study.name}"):
            known[study.name] = measured_of(study, trajectory)
    with showing.measuring("comparing"):
        return Page(
            "representation",
            "Representation and readout",
            preface(known, seeds, studies, settings),
            answers(known),
            tables=(costs(known, settings),),
        )


def check(settings: Mapping[str, Any], studies: Sequence[Study]) -> None:
    """Refuse settings that no recipe has, and those that a study sets itself."""
    for name in settings:
        if any(name in study.settings for study in studies):
            raise InputError(f"reproduce: {name} is set by the studies themselves; leave it out")
        if not any(name in recipe(study.recipe).settings for study in studies):
            raise InputError(f"reproduce: no recipe of these studies has a setting '{name}'")


def check_images(studies: Sequence[Study], settings: Mapping[str, Any]) -> None:
    """Refuse images that are not there before anything is trained, not hours later."""
    for name in {recipe_of(study, settings).settings.get("images") for study in studies} - {None}:
        read_images(image_set(str(name)))


def answers(known: Known) -> tuple[Answer, ...]:
    """Return the answers to the seven questions, from the studies that were trained."""
    return (
        which_share_falls_before(known),
        whether_the_readout_is_train_biased(known),
        whether_the_features_are_damaged_and_repaired(known),
        which_part_dips(known),
        whether_the_interface_collapses(known),
        how_gaps_depend_on_the_probe(known),
        whether_the_softmax_collapses(known),
    )


def preface(
    known: Known, seeds: int, studies: Sequence[Study], settings: Mapping[str, Any] = MappingProxyType({})
) -> tuple[str, ...]:
    """Return what must be said before the answers; changed settings make them a trial."""
    changed = ", ".join(f"{name} {value}" for name, value in settings.items())
    trial = (f"**A trial, not a measurement of the claims**: trained with {changed}.",) if changed else ()
    left_out = [study.name for study in studies if study.name not in known]
    absent = f" Not trained here: {', '.join(left_out)}; what rests on them is undetermined." if left_out else ""
    return (
        *trial,
        "Written by `twoclocks reproduce representation`; no number on this page is typed in by hand. Source of the claims "
        "but (e) and (g): arXiv 2605.27078 (*two speeds of learning*).",
        f"**Trained**: seeds 0 to {seeds - 1} of each recipe below; numbers are means over seeds with 95 % t intervals, which "
        f"for {seeds} seeds are wide: {t_quantile(0.95, seeds - 1):.3g} standard errors to either side.{absent}",
        "**Costs** as recorded are seconds on the clock, summed over the recipe's runs, which share the cores with each other "
        "and with whatever else the machine was doing; the recipe's own figure is for one run on an idle core.",
        "**Outcomes**: a claim is taken apart into parts, each with a rule that can fail. A part holds if it does in every "
        "run, holds in part if it does in half or more, does not hold if else it fails in at least half, and is undetermined "
        "otherwise. A claim holds if all its parts do, holds in part if some part does at least in part, does not hold if "
        "none does and some fail, and is undetermined otherwise. What was asked besides is judged alike and does not count. "
        "TC codes are those of `docs/glossary.md`, each judged on every run by itself.",
        "**p_tr**, **p_or**, **m**: accuracies of a probe fitted on the training examples, of one fitted on the other held-out "
        "half, and of the network's own readout, all on the same held-out half. **N_crit**: critical dimension.",
    )


def costs(known: Known, settings: Mapping[str, Any]) -> Table:
    """Return what was trained: labels, kinds and cost of every study."""
    rows = [
        (
            one.name,
            ", ".join(f"{name} {value}" for name, value in changed_in(one.study, settings).items())
            or "the recipe's own",
            counted(one.labels),
            counted(kind or "none" for kind in one.kinds),
            number(recipe_of(one.study, settings).cost),
            UNKNOWN if one.seconds is None else number(one.seconds),
        )
        for one in known.values()
    ]
    head = (
        "study",
        "settings",
        "labels",
        "kinds",
        "s a run, idle core, as its recipe states",
        "s as recorded, all seeds",
    )
    return Table(head, tuple(rows))


def changed_in(study: Study, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a study that are not its recipe's own."""
    own = recipe(study.recipe).settings
    return {name: value for name, value in recipe_of(study, settings).settings.items() if value != own[name]}
