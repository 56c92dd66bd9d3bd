"""This file knows what a recorded training is: the nouns that every source fills and every measure reads.

Axes, in this order: `r` runs, `t` recorded moments, `n` examples, `d` features, `c` classes. A single run has r = 1.
Nothing here imports torch, so that a log can be read without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twoclocks.errors import InputError

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Array = NDArray[Any]

CANONICAL_UNITS: Mapping[str, str] = MappingProxyType(
    {
        "epoch": "epochs",
        "flow_time": "sum of learning rates",
        "train_loss": "nats per example",
        "heldout_loss": "nats per example",
        "train_accuracy": "share of examples",
        "heldout_accuracy": "share of examples",
        "lr": "per step",
        "weight_norm": "Frobenius norm",
    }
)


@dataclass(frozen=True)
class Series:
    """One quantity over training: `value[r, t, ...]` seen at `step[t]`, with its unit.

    Steps increase strictly; they are whole numbers unless the only time a log has is a fractional epoch. A moment that was
    not recorded is absent; a value that *was* recorded as NaN or infinite stays so, because a NaN loss is an observation.
    """

    name: str
    unit: str
    step: Array
    value: Float

    def __post_init__(self) -> None:
        if self.value.ndim < 2 or self.value.shape[1] != len(self.step):
            raise ValueError(f"series {self.name}: expected value[r, {len(self.step)}, ...], got {self.value.shape}")
        if len(self.step) > 1 and not bool(np.all(np.diff(self.step) > 0)):
            raise ValueError(f"series {self.name}: steps must increase strictly; sort and merge repeated steps first")

    @property
    def runs(self) -> int:
        """Return the number of runs r."""
        return int(self.value.shape[0])

    def of_run(self, run: int) -> Series:
        """Return the same series for one run, its run axis kept."""
        return Series(self.name, self.unit, self.step, self.value[run : run + 1])


@dataclass(frozen=True)
class EvalBatch:
    """The fixed examples that every evaluation looks at: their labels `[n]`, and how many there were to choose from."""

    name: str
    labels: Int
    population: int


@dataclass(frozen=True)
class Snapshot:
    """The tensors of one moment, each with the run axis first, read from disk only when asked for.

    Names: `features/train`, `features/heldout` [r n d]; `readout/weight` [r c d], `readout/bias` [r c];
    `weights/<parameter>` [r ...].
    """

    step: int
    flow_time: float | None
    tensors: Mapping[str, Array]


@dataclass(frozen=True)
class Event:
    """Something worth telling that happened at a step: a stretched schedule, an error of the recorder, a restart."""

    step: int | None
    what: str


@dataclass(frozen=True)
class Source:
    """Where a trajectory came from: `columns` maps the file's names to ours, `assumed` lists what was taken as read.

    `time` is what its steps count: "step" (optimiser steps), "epoch", or "row" where the file names no time at all.
    """

    path: str
    kind: str
    rows: int
    time: str = "step"
    columns: Mapping[str, str] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trajectory:
    """Everything recorded of r runs of one setting."""

    source: Source
    scalars: Mapping[str, Series]
    snapshots: tuple[Snapshot, ...] = ()
    batches: Mapping[str, EvalBatch] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        """Return the number of runs r."""
        return max((series.runs for series in self.scalars.values()), default=1)

    @property
    def last_step(self) -> int:
        """Return the last step at which anything was recorded."""
        return max((int(series.step[-1]) for series in self.scalars.values() if len(series.step)), default=0)

    def of_run(self, run: int) -> Trajectory:
        """Return the scalars of one run as a trajectory of its own (snapshots keep all runs and are left out)."""
        if not 0 <= run < self.runs:
            raise InputError(f"run {run} was asked for, but this trajectory holds runs 0 to {self.runs - 1}")
        scalars = {name: series.of_run(run) for name, series in self.scalars.items()}
        return Trajectory(self.source, scalars, (), self.batches, self.events, self.settings)

    def to_pandas(self) -> Any:
        """Return one row per (run, step) with a column per scalar; needs pandas (`pip install 'twoclocks[pandas]'`).

        What was not recorded is NaN, as a NaN that was recorded is.
        """
        pandas = extra("pandas", "to_pandas")
        frames = [
            pandas.Series(
                s.value.ravel(),
                index=pandas.MultiIndex.from_arrays(
                    [np.repeat(np.arange(s.runs), len(s.step)), np.tile(s.step, s.runs)], names=("run", "step")
                ),
                name=name,
            )
            for name, s in self.scalars.items()
            if s.value.ndim == 2
        ]
        if not frames:
            index = pandas.MultiIndex.from_arrays([np.empty(0, np.int64), np.empty(0, np.int64)], names=("run", "step"))
            return pandas.DataFrame(index=index)
        return pandas.concat(frames, axis=1).sort_index()

    def to_xarray(self) -> Any:
        """Return a dataset of dims `run` and `step`, a variable per series; needs xarray (`'twoclocks[xarray]'`).

        Units are in `attrs["units"]`. Every step of any series is there: where one was not recorded it is NaN, as a NaN
        that was recorded is. A series with more numbers a moment has dims of its own for them. The tensors of snapshots are
        not included.
        """
        xarray = extra("xarray", "to_xarray")
        held = {apart_from(name, ("run", "step")): one for name, one in self.scalars.items()}
        step = all_steps(list(held.values()))
        variables = {}
        for name, one in held.items():
            value = np.full((self.runs, len(step), *one.value.shape[2:]), np.nan)
            value[: one.runs, np.searchsorted(step, one.step)] = one.value
            own = [f"{name}, axis {axis}" for axis in range(one.value.ndim - 2)]
            variables[name] = (["run", "step", *own], value, {"units": one.unit} if one.unit else {})
        coordinates = {"run": np.arange(self.runs), "step": ("step", step, {"units": self.source.time})}
        return xarray.Dataset(variables, coordinates, {"source": self.source.path})


def all_steps(series: Sequence[Series]) -> Array:
    """Return every step at which any of some series has a value, rising."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *(one.step for one in series)]))


def apart_from(name: str, taken: Sequence[str]) -> str:
    """Return the name of a series so that it differs from those of the axes.

    >>> apart_from("run", ["run", "step"]), apart_from("lr", ["run", "step"])
    ('run (logged)', 'lr')
    """
    return f"{name} (logged)" if name in taken else name


def extra(package: str, wanted_by: str) -> Any:
    """Return a package that is an extra, not a dependency, or refuse where it is not installed."""
    try:
        return import_module(package)
    except ImportError:
        raise InputError(f"{wanted_by} needs {package}; install it with pip install 'twoclocks[{package}]'") from None


@dataclass(frozen=True)
class SaveAt:
    """Which optimiser steps are recorded: a log-spaced grid, a regular grid, or both; step 0 always is.

    `per_decade` log-spaced steps for each factor of ten, and every `every`-th step (0: no regular grid) are evaluated:
    scalars only. `snapshots_per_decade` and `snapshot_every` choose the moments of which tensors are kept too, each of
    which is evaluated as well. At most `examples` examples of each batch have their features kept.

    >>> [step for step in range(30) if SaveAt(per_decade=4, every=10, snapshots_per_decade=0).evaluates(step)]
    [0, 1, 2, 3, 6, 10, 18, 20]
    """

    per_decade: int = 40
    every: int = 0
    snapshots_per_decade: int = 8
    snapshot_every: int = 0
    weights: bool = True
    features: bool = True
    examples: int = 2048

    def __post_init__(self) -> None:
        for name in ("per_decade", "every", "snapshots_per_decade", "snapshot_every"):
            if getattr(self, name) < 0:
                raise InputError(f"SaveAt: {name} must be 0 or more, got {getattr(self, name)}")
        if self.examples < 2:
            raise InputError(f"SaveAt: examples must be at least 2, got {self.examples}")

    def evaluates(self, step: int) -> bool:
        """Return whether the scalars of this step are recorded."""
        return on_grid(step, self.per_decade, self.every) or self.keeps(step)

    def keeps(self, step: int) -> bool:
        """Return whether the tensors of this step are kept."""
        return on_grid(step, self.snapshots_per_decade, self.snapshot_every)


def on_grid(step: int, per_decade: int, every: int) -> bool:
    """Return whether `step` is 0, a multiple of `every`, or one of round(10^(j / per_decade))."""
    return step == 0 or (step > 0 and next_on_grid(step - 1, per_decade, every) == step)


def next_on_grid(step: int, per_decade: int, every: int) -> float:
    """Return the first step after `step` that is a multiple of `every` or one of round(10^(j / per_decade)).

    >>> [next_on_grid(step, 4, 10) for step in (0, 3, 6, 10, 18)]
    [1, 6, 10, 18, 20]
    """
    regular = (step // every + 1) * every if every else math.inf
    if not per_decade:
        return regular
    first = max(0, math.floor(per_decade * math.log10(max(step, 1))) - 1)
    return min(regular, next(at for at in (round(10 ** (j / per_decade)) for j in count(first)) if at > step))
