"""This file knows how a long measurement shows that it is alive: a bar for each training, a word for each measuring."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from twoclocks.training.loop import Progress


def nothing(title: str) -> AbstractContextManager[None]:
    """Show nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Showing:
    """What shows each training, by its title, and each measuring, of which no steps are known."""

    training: Callable[[str], AbstractContextManager[Progress | None]] = nothing
    measuring: Callable[[str], AbstractContextManager[None]] = nothing
