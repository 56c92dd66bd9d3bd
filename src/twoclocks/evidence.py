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
from twoclocks.runs import Run, around, before_rise, evenly, lost_places, plateau_of, run_of
from twoclocks.series import featured, labels_of
from twoclocks.trajectory import Series, Trajectory

if TYPE_CHECKING:
    from twoclocks.decomposition import Decomposition, Sensitivity


@dataclass(frozen=True)
class Evidence:
    """What was measured of a trajectory.

    `ladder`: the ridge ladder at every snapshot, None where no features were kept. `presets`: the ladder under each other
    probe preset that can be fitted, at the moments and for the runs on which a claim about the readout rests (else NaN).
    `measured`: derived series (ranks, ...), by name. `left_out`: what was not measured although tensors were kept, and why.
    `clocks`: the clocks as curves, None where nothing has one. `conditions`: the fits of the two clocks, one a run, for a
    trajectory that more than a log is known of. `sensitivity`: both probes over the strength of their penalty, at every
    snapshot.
    """

    trajectory: Trajectory
    ladder: Decomposition | None = None
    presets: Mapping[str, Decomposition] = field(default_factory=dict)
    measured: Mapping[str, Series] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    clocks: Clocks | None = None
    conditions: tuple[Conditions, ...] = ()
    sensitivity: Sensitivity | None = None

    def presets_of_run(self, r: int) -> dict[str, Decomposition]:
        """Return the presets at the moments at which they were fitted to run r."""
        cut = {name: preset.at(np.isfinite(preset.native[r])) for name, preset in self.presets.items()}
        return {name: preset for name, preset in cut.items() if len(preset.step)}

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
    from twoclocks.decomposition import ladder_and_strip  # torch, which a log never needs
    from twoclocks.representation import representation_of

    try:
        ladder, strip = ladder_and_strip(trajectory)
    except InputError as refusal:
        return replace(theory, left_out=(f"which part lags: {refusal}",))
    if not readout_is_the_output(trajectory):
        why = "which part lags: the recorded readout does not give the network's accuracy, so something follows it"
        return replace(theory, left_out=(why,))
    presets, unfitted = presets_of(trajectory, telling_moments(trajectory, ladder, strip))
    representation = representation_of(trajectory)
    measured = {**ranks_of(trajectory), **representation.series, **theory.measured}
    return replace(
        theory,
        ladder=ladder,
        presets=presets,
        sensitivity=strip,
        measured=measured,
        left_out=(*ladder.notes, *unfitted, *representation.left_out),
    )


def presets_of(
    trajectory: Trajectory, moments: Mapping[int, set[int]]
) -> tuple[dict[str, Decomposition], tuple[str, ...]]:
    """Return the ladder under every preset but ridge, at some steps of some runs, and of those that cannot be fitted why.

    A preset may ask for more than another: the logistic one for a class of two examples, to cross-validate with.
    """
    from twoclocks.decomposition import decompose  # torch, which a log never needs

    presets, unfitted = {}, []
    for name in ("paper", "logistic") if moments else ():
        try:
            presets[name] = decompose(trajectory, preset=name, steps=list(moments), runs=moments)
        except InputError as refusal:
            unfitted.append(f"what the {name} probe reads: {refusal}")
    return presets, tuple(unfitted)


def readout_is_the_output(trajectory: Trajectory) -> bool:
    """Return whether features times readout give the held-out accuracies that the network itself was recorded with.

    Both are taken over all the held-out examples that were kept, those of any class and of either half of the ladder: the
    recorded accuracy is of the same examples, so that chance has no part in it, and they agree to within half an example
    and rounding (`native_bounds`). Where examples were kept of a larger population, the accuracy may have been recorded of
    all of those; three standard errors of a draw without replacement are then allowed, √(p (1 − p) / n · (N − n) / (N − 1))
    each. The median over the moments of each run is judged, since at a single one a resumed or a repaired run may differ.
    """
    from twoclocks.decomposition import native_bounds  # torch, which a log never needs

    recorded = trajectory.scalars.get("heldout_accuracy")
    moments = [] if recorded is None else [s for s in featured(trajectory.snapshots) if s.step in recorded.step]
    if recorded is None or not moments:
        return True
    kept, labels = trajectory.batches["heldout"], labels_of(trajectory, "heldout")
    low, high = np.stack([native_bounds(snapshot, labels) for snapshot in moments], 1).transpose(2, 0, 1)
    seen = recorded.value[:, np.isin(recorded.step, [snapshot.step for snapshot in moments])].clip(0.0, 1.0)
    n, population = len(labels), max(kept.population, len(labels))
    drawn = np.sqrt(seen * (1 - seen) / n * (population - n) / max(population - 1, 1))
    apart = np.maximum(low - seen, seen - high) - 3 * drawn
    return all(float(np.median(run[np.isfinite(run)])) <= 0.5 / n for run in apart if np.isfinite(run).any())


def telling_moments(
    trajectory: Trajectory, ladder: Decomposition, strip: Sensitivity | None = None
) -> dict[int, set[int]]:
    """Return the snapshots at which every probe preset is fitted, since a claim rests on them, and the runs that ask for it.

    For each run: the last one on the plateau; the two ends of the smaller of the two probes' falls before the held-out
    rise, where both fell; the last of all, where a probe is ahead of the native readout; the three around the first minimum
    and around the peak of a double descent; and some of those at which generalisation is lost.
    """
    moments: dict[int, set[int]] = {}
    for r in range(trajectory.runs):
        for step in telling_of_run(run_of(trajectory, r), ladder, r, strip):
            moments.setdefault(step, set()).add(r)
    return dict(sorted(moments.items()))


def telling_of_run(run: Run, ladder: Decomposition, r: int, strip: Sensitivity | None) -> set[int]:
    """Return the snapshots on which a claim about run r rests."""
    places = set(np.flatnonzero(plateau_of(ladder.step, run))[-1:].tolist())
    before = before_rise(ladder.step, run)
    train_probe = ladder.train_probe if strip is None else strip.best_train_probe
    if before.any():
        falls = (deepest_fall(probe[r][before]) for probe in (train_probe, ladder.heldout_probe))
        high, low, fall = min(falls, key=lambda fall: fall[2])
        places |= {high, low} if fall >= at.RISE else set()
    if max(ladder.train_probe[r, -1], ladder.heldout_probe[r, -1]) - ladder.native[r, -1] >= at.RISE:
        places.add(len(ladder.step) - 1)
    if run.dip is not None and run.dip.depth >= at.RISE:
        ends = (run.dip.first_step, run.dip.trough_step)
        places |= {int(place) for step in ends for place in around(ladder.step, step)}
    places |= set(evenly(lost_places(ladder.native[r]), most=3).tolist())
    return {int(ladder.step[place]) for place in places}


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
