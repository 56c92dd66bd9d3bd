"""This file knows everything that is measured of one trajectory before anything is judged, each thing once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from twoclocks import thresholds as at
from twoclocks.block_speeds import readout_block
from twoclocks.clocks import Clocks, read_clocks
from twoclocks.conditions import Conditions, conditions_of, is_linear, measured_conditions
from twoclocks.courses import deepest_fall
from twoclocks.errors import InputError
from twoclocks.runs import before_rise, closest, evenly, lost_places, plateau_of, run_of
from twoclocks.series import featured
from twoclocks.trajectory import Series, Trajectory

if TYPE_CHECKING:
    from twoclocks.decomposition import Decomposition, Sensitivity


@dataclass(frozen=True)
class Evidence:
    """What was measured of a trajectory.

    `ladder`: the ridge ladder at every snapshot, None where no features were kept. `presets`: the ladder under each other
    probe preset at the moments on which a claim about the readout rests. `measured`: derived series (ranks, ...), by name.
    `left_out`: what was not measured although tensors were kept, and why. `clocks`: the clocks as curves, None where
    nothing has one. `conditions`: the fits of the two clocks, one a run, for a trajectory that more than a log is known of.
    `sensitivity`: both probes over the strength of their penalty, at every snapshot.
    """

    trajectory: Trajectory
    ladder: Decomposition | None = None
    presets: Mapping[str, Decomposition] = field(default_factory=dict)
    measured: Mapping[str, Series] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    clocks: Clocks | None = None
    conditions: tuple[Conditions, ...] = ()
    sensitivity: Sensitivity | None = None

    @property
    def readout(self) -> str | None:
        """Return the name of the block that holds the readout."""
        return readout_block(self.trajectory)

    @property
    def depth(self) -> int | None:
        """Return the number of matrices of a deep linear network, None for every other."""
        if not is_linear(self.trajectory) or not self.trajectory.snapshots:
            return None
        return sum(name.startswith("weights/") for name in self.trajectory.snapshots[-1].tensors) or None


def examine_clocks(trajectory: Trajectory) -> Evidence:
    """Measure the two clocks and their conditions, and nothing of the ladder.

    A log has clocks alone: the conditions are about margins, gradients, updates, weights and features.
    """
    clocks = read_clocks(trajectory)
    if not trajectory.snapshots and "train_margin_min" not in trajectory.scalars:
        return Evidence(trajectory, clocks=clocks)
    measured = measured_conditions(trajectory)
    if clocks.structure is not None:
        measured[clocks.structure.name] = clocks.structure
    conditions = tuple(conditions_of(trajectory, measured, clocks, r) for r in range(trajectory.runs))
    return Evidence(trajectory, measured=measured, clocks=clocks, conditions=conditions)


def examine(trajectory: Trajectory) -> Evidence:
    """Measure everything that a trajectory allows: curves and clocks always, conditions, ladder and ranks where it can."""
    theory = examine_clocks(trajectory)
    if not featured(trajectory.snapshots) or "heldout" not in trajectory.batches:
        return theory
    from twoclocks.decomposition import decompose, ladder_and_strip  # torch, which a log never needs
    from twoclocks.representation import representation_of

    try:
        ladder, strip = ladder_and_strip(trajectory)
    except InputError as refusal:
        return replace(theory, left_out=(f"which part lags: {refusal}",))
    if not readout_is_the_output(trajectory, ladder):
        why = "which part lags: the recorded readout does not give the network's accuracy, so something follows it"
        return replace(theory, left_out=(why,))
    moments = telling_moments(trajectory, ladder, strip)
    presets = (
        {name: decompose(trajectory, preset=name, steps=moments) for name in ("paper", "logistic")} if moments else {}
    )
    representation = representation_of(trajectory)
    measured = {**ranks_of(trajectory), **representation.series, **theory.measured}
    return replace(
        theory,
        ladder=ladder,
        presets=presets,
        sensitivity=strip,
        measured=measured,
        left_out=(*ladder.notes, *representation.left_out),
    )


def readout_is_the_output(trajectory: Trajectory, ladder: Decomposition) -> bool:
    """Return whether features times readout give the accuracies that the network itself was recorded with.

    Half of the held-out examples stand for all, so a difference of ten points is allowed.
    """
    recorded = trajectory.scalars.get("heldout_accuracy")
    if recorded is None:
        return True
    places = np.flatnonzero(np.isin(recorded.step, ladder.step))
    own = np.flatnonzero(np.isin(ladder.step, recorded.step))
    apart = np.abs(recorded.value[:, places] - ladder.native[:, own])
    return not len(places) or not np.nanmedian(apart, axis=1).max() > 0.1


def telling_moments(trajectory: Trajectory, ladder: Decomposition, strip: Sensitivity | None = None) -> list[int]:
    """Return the snapshots at which every probe preset is fitted, since a claim rests on them.

    For each run: the last one on the plateau; the two ends of the smaller of the two probes' falls before the held-out
    rise, where both fell; the last of all, where a probe is ahead of the native readout; those closest to the first minimum
    and to the peak of a double descent; and some of those at which generalisation is lost.
    """
    moments: set[int] = set()
    train_probe = ladder.train_probe if strip is None else strip.best_train_probe
    for r in range(trajectory.runs):
        run = run_of(trajectory, r)
        moments |= set(ladder.step[plateau_of(ladder.step, run)][-1:].tolist())
        before = before_rise(ladder.step, run)
        falls = (deepest_fall(probe[r][before]) for probe in (train_probe, ladder.heldout_probe))
        high, low, fall = min(falls, key=lambda fall: fall[2])
        moments |= {int(ladder.step[high]), int(ladder.step[low])} if fall >= at.RISE else set()
        if max(ladder.train_probe[r, -1], ladder.heldout_probe[r, -1]) - ladder.native[r, -1] >= at.RISE:
            moments.add(int(ladder.step[-1]))
        if run.dip is not None and run.dip.depth >= at.RISE:
            moments |= {int(ladder.step[closest(ladder.step, s)]) for s in (run.dip.first_step, run.dip.trough_step)}
        moments |= set(ladder.step[evenly(lost_places(ladder.native[r]), most=3)].tolist())
    return sorted(moments)


def ranks_of(trajectory: Trajectory) -> dict[str, Series]:
    """Return the ranks of the end-to-end map and of the features at every snapshot."""
    from twoclocks.measures.spectrum import effective_rank, participation_ratio, stable_rank
    from twoclocks.series import measure

    series = (
        measure(trajectory, stable_rank, of="end_to_end"),
        measure(trajectory, effective_rank, of="end_to_end"),
        measure(trajectory, participation_ratio, of="features"),
    )
    return {one.name: one for one in series}
