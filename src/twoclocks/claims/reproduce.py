"""This file knows the sets of published claims, and how one is measured from nothing: train or take up, measure, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twoclocks.claims import clocks_sweep, representation_studies
from twoclocks.claims.clocks_sweep import clocks_page
from twoclocks.claims.page import Page, write_claims
from twoclocks.claims.representation_studies import representation_page
from twoclocks.claims.showing import Showing
from twoclocks.errors import InputError, nearest

FEWEST_SEEDS = 2  # of which an interval can be made
SILENT = Showing()


@dataclass(frozen=True)
class ClaimSet:
    """A set of claims: what makes its page, how many seeds are worth reading, whether a part trains within minutes."""

    page: Callable[[Path, int, Mapping[str, Any], bool, Showing], Page]
    seeds: int
    has_cheap: bool


def all_of_clocks(runs: Path, seeds: int, settings: Mapping[str, Any], cheap: bool, showing: Showing) -> Page:
    """Return the page about the clocks, of which no part is cheap."""
    return clocks_page(runs, seeds, settings, showing)


CLAIMS: Mapping[str, ClaimSet] = MappingProxyType(
    {
        "clocks": ClaimSet(all_of_clocks, clocks_sweep.SEEDS, has_cheap=False),
        "representation": ClaimSet(representation_page, representation_studies.SEEDS, has_cheap=True),
    }
)


def reproduce(
    claim: str,
    *,
    runs: Path = Path("runs/reproduce"),
    out: Path = Path("docs/claims.md"),
    seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    cheap: bool = False,
    showing: Showing = SILENT,
) -> Path:
    """Measure a set of published claims and write its part of the page that says what was found.

    Interrupted, the same call goes on. Parts of the page about other sets of claims stay as they are.

    Args:
        claim: "clocks" or "representation".
        runs: the folder of the run folders, one a training.
        out: the page; its pictures lie beside it.
        seeds: how many, from 0 on; as many as the set needs if left out.
        settings: changes of what is trained, for trials.
        cheap: only what trains within minutes; what that leaves open says so.
        showing: what shows each training and each measuring.

    Raises:
        InputError: the claim is unknown or has no cheap part, there are fewer than two seeds, or a setting is unusable.
    """
    check_claim(claim, cheap)
    chosen = CLAIMS[claim]
    count = chosen.seeds if seeds is None else seeds
    if count < FEWEST_SEEDS:
        raise InputError(
            f"reproduce: an interval over seeds takes at least {FEWEST_SEEDS} of them ({chosen.seeds} to be worth "
            f"reading), got {count}"
        )
    return write_claims(out, chosen.page(runs, count, settings or {}, cheap, showing))


def chosen_claims(named: Sequence[str], settings: Mapping[str, Any], *, cheap: bool = False) -> list[str]:
    """Return the sets of claims to measure: those named, else all (with `cheap`, those that have a cheap part).

    Everything is refused here that else would be after hours of training another set.

    Raises:
        InputError: a set is unknown, named twice, or has no cheap part, or settings are given for several sets.

    >>> chosen_claims([], {}), chosen_claims([], {}, cheap=True)
    (['clocks', 'representation'], ['representation'])
    """
    chosen = list(named) or [name for name, one in CLAIMS.items() if one.has_cheap or not cheap]
    for name in chosen:
        check_claim(name, cheap)
    if len(set(chosen)) < len(chosen):
        raise InputError(f"reproduce: a set of claims is named twice; name each of {', '.join(CLAIMS)} once")
    if settings and len(chosen) > 1:
        raise InputError(f"reproduce: settings change the trainings of one set; name one of {', '.join(CLAIMS)}")
    return chosen


def check_claim(claim: str, cheap: bool) -> None:
    """Refuse a set of claims that does not exist, and one without a cheap part where that is wanted."""
    if claim not in CLAIMS:
        raise InputError(f"there is no claim '{claim}'.{nearest(claim, list(CLAIMS))}")
    if cheap and not CLAIMS[claim].has_cheap:
        raise InputError(f"reproduce: the claims about the {claim} have no cheap part; use --set steps=… for a trial")
