"""This file knows everything that is measured of one trajectory before anything is judged, each thing once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from twoclocks.decomposition import Decomposition
from twoclocks.trajectory import Series, Trajectory


@dataclass(frozen=True)
class Evidence:
    """What was measured of a trajectory.

    `ladder`: the ridge ladder at every snapshot, None where no features were kept. `presets`: the ladder under each
    probe preset at a few moments. `measured`: derived series (ranks, ...), by name.
    """

    trajectory: Trajectory
    ladder: Decomposition | None = None
    presets: Mapping[str, Decomposition] = field(default_factory=dict)
    measured: Mapping[str, Series] = field(default_factory=dict)
