"""This file knows whether the gates of the last hidden ReLU layer stand still, as series over the snapshots.

A ReLU's output is positive exactly where its gate is on, so the gates are read from the recorded features themselves.
They are of the layer in front of the readout alone; a deeper network has others, which are not seen here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twoclocks.trajectory import Array, Series, Snapshot, Trajectory

SPLITS = ("features/train", "features/heldout")
FEWEST_SNAPSHOTS = 3
INFINITE_HALF = 0x7C00  # the bits of an infinite float16, above which only NaN lies
Pattern = NDArray[np.uint8]
SERIES = (
    ("gate_agreement(last)", "share of gates"),
    ("gate_jaccard(last)", "share of gates on"),
    ("whole_pattern_share(last)", "share of examples"),
    ("gate_agreement_error(last)", "share of gates"),
    ("gate_jaccard_error(last)", "share of gates on"),
    ("gate_agreement(previous)", "share of gates"),
    ("gate_jaccard(previous)", "share of gates on"),
    ("gate_flips_per_step(previous)", "flips an example and step"),
)


@dataclass(frozen=True)
class Change:
    """How the gates of n examples differ between two moments; the errors are standard errors over examples."""

    agreement: float
    jaccard: float
    whole: float
    agreement_error: float
    jaccard_error: float
    flips: float


NOTHING = Change(*(math.nan,) * 6)


def gate_series(trajectory: Trajectory) -> dict[str, Series]:
    """Return, by name, how much the gates at each snapshot are those of the last snapshot, and of the one before.

    `gate_agreement(last)`: share of all gates that are equal; units that are always off count as agreeing.
    `gate_jaccard(last)`: gates on at both ÷ gates on at either, which dead units cannot inflate.
    `gate_agreement_error(last)`, `gate_jaccard_error(last)`: their standard errors, by the spread over examples `[def]`.
    `whole_pattern_share(last)`: share of examples none of whose gates differ.
    `gate_agreement(previous)` and `gate_jaccard(previous)`: the same between neighbouring snapshots.
    `gate_flips_per_step(previous)`: flips an example and step between them: at least so many, as there may be more unseen.

    Examples are the recorded ones, training and held-out. Empty where features were not kept at three snapshots or where
    they are not a ReLU's (see `are_gated`). A run has NaN at a moment at which its features are not finite; where they
    are not at the last one, it has nothing to be compared with.
    """
    held = [name for name in SPLITS if any(name in snapshot.tensors for snapshot in trajectory.snapshots)]
    moments = [snapshot for snapshot in trajectory.snapshots if held and set(held) <= set(snapshot.tensors)]
    if len(moments) < FEWEST_SNAPSHOTS or not are_gated(moments[-1], held):
        return {}
    patterns = [patterns_of(snapshot, held) for snapshot in moments]
    step = np.array([snapshot.step for snapshot in moments], np.int64)
    units = moments[0].tensors[held[0]].shape[2]
    rows = [row_of([at[run] for at in patterns], step, units) for run in range(len(patterns[0]))]
    return {
        name: Series(
            name, unit, step[1:] if name.endswith("(previous)") else step, np.array([row[name] for row in rows])
        )
        for name, unit in SERIES
    }


def are_gated(snapshot: Snapshot, held: Sequence[str]) -> bool:
    """Return whether features can be a ReLU's outputs: none negative, some 0 and some not, in every run that is finite."""
    features = np.asarray(snapshot.tensors[held[0]])
    finite = [run for run in features if np.isfinite(run).all()]
    return bool(finite) and all(bool((run >= 0).all() and (run == 0).any() and (run > 0).any()) for run in finite)


def patterns_of(snapshot: Snapshot, held: Sequence[str]) -> list[Pattern | None]:
    """Return the packed gates of every run on all recorded examples, None for a run whose features are not finite."""
    splits = [[packed_gates(run) for run in np.asarray(snapshot.tensors[name])] for name in held]
    return [
        None if any(part is None for part in parts) else np.concatenate([part for part in parts if part is not None])
        for parts in zip(*splits, strict=True)
    ]


def packed_gates(features: Array) -> Pattern | None:
    """Return which features are positive, packed as by `gate_pattern`, `[n ceil(h/8)]`; None where one is not finite.

    Half precision is compared by its bits, whose order is that of the numbers: comparing the numbers takes ten times as
    long.

    >>> packed_gates(np.array([[1.0, 0.0, 0.0, 2.0]], np.float16))  # 1001 0000
    array([[144]], dtype=uint8)
    """
    if features.dtype != np.float16:
        return np.packbits(features > 0, axis=1) if np.isfinite(features).all() else None
    bits = np.ascontiguousarray(features).view(np.int16)
    return np.packbits(bits > 0, axis=1) if int((bits & 0x7FFF).max()) < INFINITE_HALF else None


def row_of(patterns: Sequence[Pattern | None], step: NDArray[np.int64], units: int) -> dict[str, list[float]]:
    """Return every gate series of one run, from its patterns at all moments."""
    last = [change(pattern, patterns[-1], units) for pattern in patterns]
    previous = [change(*pair, units) for pair in zip(patterns[1:], patterns[:-1], strict=True)]
    return {
        "gate_agreement(last)": [one.agreement for one in last],
        "gate_jaccard(last)": [one.jaccard for one in last],
        "whole_pattern_share(last)": [one.whole for one in last],
        "gate_agreement_error(last)": [one.agreement_error for one in last],
        "gate_jaccard_error(last)": [one.jaccard_error for one in last],
        "gate_agreement(previous)": [one.agreement for one in previous],
        "gate_jaccard(previous)": [one.jaccard for one in previous],
        "gate_flips_per_step(previous)": [
            one.flips / float(gap) for one, gap in zip(previous, np.diff(step), strict=True)
        ],
    }


def change(a: Pattern | None, b: Pattern | None, units: int) -> Change:
    """Return how two patterns differ: the numbers of `measures.gates`, from one count of the bits.

    The error of Jaccard's share is that of a quotient of two sums, linearised.

    >>> one = change(np.array([[0b11000000]], np.uint8), np.array([[0b10000000]], np.uint8), 4)
    >>> one.agreement, one.jaccard, one.flips
    (0.75, 0.5, 1.0)
    """
    if a is None or b is None:
        return NOTHING
    from twoclocks.measures.gates import bits_set  # it imports torch, which a log does not need

    flips, either = (bits_set(bits).sum(1, dtype=np.int64) for bits in (a ^ b, a | b))
    n, on = len(flips), max(int(either.sum()), 1)
    jaccard = 1.0 - float(flips.sum()) / on
    apart = flips - (1.0 - jaccard) * either
    return Change(
        agreement=1.0 - float(flips.mean()) / units,
        jaccard=jaccard,
        whole=float((flips == 0).mean()),
        agreement_error=float(flips.std()) / (units * math.sqrt(n)),
        jaccard_error=math.sqrt(float(apart @ apart)) / on,
        flips=float(flips.mean()),
    )
