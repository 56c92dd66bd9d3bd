"""This file knows invented trajectories of which the truth is known, as evidence on the conditions of the two clocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from twoclocks.clocks import Clocks, decades, read_clocks
from twoclocks.conditions import Conditions, conditions_of, growth_of, growth_window, measured_conditions
from twoclocks.evidence import Evidence
from twoclocks.trajectory import EvalBatch, Float, Int, Series, Snapshot, Source, Trajectory

SOURCE = Source("synthetic", "run folder", 0)
COUPLED: Mapping[str, Any] = {"decay": "coupled", "settings": {"weight_decay": 0.5}}
ADAMW: Mapping[str, Any] = {
    "decay": "decoupled",
    "settings": {"weight_decay": 0.5, "lr": 1e-3, "beta1": 0.9, "beta2": 0.98},
}
LINEAR: Mapping[str, Any] = {**COUPLED, "map": "linear"}


def ar1(rng: np.random.Generator, shape: tuple[int, int], rho: float, size: float) -> Float:
    """Return stationary AR(1) noise `[r t]` of a standard deviation."""
    fresh = rng.normal(0, size, shape)
    noise = fresh.copy()
    for t in range(1, shape[1]):
        noise[:, t] = rho * noise[:, t - 1] + np.sqrt(1 - rho**2) * fresh[:, t]
    return noise


def log_steps(last: int, count: int, first: int = 1) -> Int:
    """Return about `count` whole steps, evenly spaced in their logarithms."""
    return np.unique(np.geomspace(first, last, count).round().astype(np.int64))


def series(name: str, step: Sequence[float] | Int | Float, value: Any, unit: str = "") -> Series:
    return Series(name, unit, np.asarray(step), np.atleast_2d(np.asarray(value, np.float64)))


def trajectory(
    *recorded: Series,
    settings: Mapping[str, Any] = COUPLED,
    snapshots: Sequence[Snapshot] = (),
    batches: Mapping[str, EvalBatch] | None = None,
) -> Trajectory:
    return Trajectory(
        SOURCE, {one.name: one for one in recorded}, tuple(snapshots), batches or {}, settings=dict(settings)
    )


def evidence(
    of: Trajectory, *measured: Series, structure: Series | None = None, fitted: Sequence[Conditions] | None = None
) -> Evidence:
    """Return what is measured of a trajectory, with further measured series, a structural gap, or fits as given."""
    clocks = clocks_of(of, structure)
    known = {**measured_conditions(of), **{one.name: one for one in measured}}
    if fitted is None:
        fitted = [conditions_of(of, known, clocks, r) for r in range(of.runs)]
    return Evidence(of, measured=known, clocks=clocks, conditions=tuple(fitted))


def clocks_of(of: Trajectory, structure: Series | None) -> Clocks:
    return read_clocks(of, loss=decades(-1, -6), gap=decades(-1, -3), structure=structure)


def growth_alone(of: Trajectory) -> list[Conditions]:
    """Return the fits of the smallest gap's growth, and nothing else, of every run."""
    windows = [growth_window(of, r) for r in range(of.runs)]
    name = "train_margin_min"
    return [
        Conditions(window=window, growth={} if (law := growth_of(of, name, window, r)) is None else {name: law})
        for r, window in enumerate(windows)
    ]


def fitted_at(step: float, steps: Int, runs: int = 1) -> Series:
    """Return a training accuracy that is 1 from a step on."""
    return series("train_accuracy", steps, np.tile(np.where(steps >= step, 1.0, 0.1), (runs, 1)))


def flow_time(steps: Int, lr: float = 1.0, runs: int = 1) -> Series:
    return series("flow_time", steps, np.tile(lr * steps.astype(np.float64), (runs, 1)))


def snapshot(step: int, **tensors: Any) -> Snapshot:
    """Return a snapshot; "__" in a name stands for "/", and "_" before weight or bias for "."."""
    names = {name.replace("__", "/").replace("_weight", ".weight").replace("_bias", ".bias"): name for name in tensors}
    return Snapshot(step, None, {name: tensors[key] for name, key in names.items()})
