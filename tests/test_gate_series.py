"""The gates read from features are those of the measures, in half precision too, and their errors are over examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from synthetic import snapshot, trajectory
from twoclocks.gate_series import are_gated, change, gate_series, packed_gates
from twoclocks.measures.gates import gate_agreement, gate_flips, gate_jaccard, gate_pattern, whole_pattern_share
from twoclocks.trajectory import Float, Snapshot

FORMATS = [np.float16, np.float32, np.float64]


def features(seed: int, *shape: int) -> Float:
    return np.maximum(np.random.default_rng(seed).normal(size=shape), 0)


@pytest.mark.parametrize("dtype", FORMATS)
def test_packed_gates_are_those_of_the_measure(dtype: type) -> None:
    rows = features(0, 20, 13).astype(dtype)
    rows[0, :4] = [-0.0, 6e-8, -1.0, 0.0]
    found = packed_gates(rows)
    assert found is not None
    np.testing.assert_array_equal(found, gate_pattern(torch.from_numpy(rows.astype(np.float64))).numpy())


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_have_no_gates(dtype: type, broken: float) -> None:
    rows = features(0, 20, 13).astype(dtype)
    rows[3, 5] = broken
    assert packed_gates(rows) is None


def test_a_change_is_that_of_the_measures() -> None:
    a, b = (gate_pattern(torch.from_numpy(np.random.default_rng(seed).normal(size=(50, 21)))) for seed in (0, 1))
    one = change(a.numpy(), b.numpy(), 21)
    assert one.agreement == pytest.approx(float(gate_agreement(a, b, 21)))
    assert one.jaccard == pytest.approx(float(gate_jaccard(a, b)))
    assert one.whole == pytest.approx(float(whole_pattern_share(a, b)))
    assert one.flips == pytest.approx(float(gate_flips(a, b).double().mean()))


def test_the_errors_are_those_of_fresh_examples() -> None:
    rng, found = np.random.default_rng(2), []
    for _ in range(300):
        on = rng.random((60, 16)) < rng.uniform(0.3, 0.9, (60, 1))
        after = on ^ (rng.random(on.shape) < 0.1)
        found.append(change(np.packbits(on, axis=1), np.packbits(after, axis=1), 16))
    for name in ("agreement", "jaccard"):
        spread = np.std([getattr(one, name) for one in found])
        assert np.mean([getattr(one, f"{name}_error") for one in found]) == pytest.approx(spread, rel=0.15)


def moments(*rows: Float, dtype: type = np.float16) -> list[Snapshot]:
    return [snapshot(10 * i, features__train=row[None].astype(dtype)) for i, row in enumerate(rows)]


def test_series_compare_with_the_last_snapshot_and_the_one_before() -> None:
    first = np.array([[1.0, 1.0, 0.0, 0.0]])
    found = gate_series(trajectory(snapshots=moments(first, first[:, ::-1], first)))
    assert found["gate_agreement(last)"].value.tolist() == [[1.0, 0.0, 1.0]]
    assert found["gate_jaccard(last)"].value.tolist() == [[1.0, 0.0, 1.0]]
    assert found["whole_pattern_share(last)"].value.tolist() == [[1.0, 0.0, 1.0]]
    assert found["gate_flips_per_step(previous)"].value.tolist() == [[0.4, 0.4]]
    assert found["gate_flips_per_step(previous)"].step.tolist() == [10, 20]


def test_two_snapshots_or_features_that_are_no_relus_have_no_gates() -> None:
    rows = features(0, 5, 8)
    assert gate_series(trajectory(snapshots=moments(rows, rows))) == {}
    assert gate_series(trajectory()) == {}
    for other in (rows - 1, rows + 1, 0 * rows, np.full_like(rows, np.nan)):
        assert not are_gated(moments(other)[0], ["features/train"])
        assert gate_series(trajectory(snapshots=moments(other, other, other))) == {}


def test_a_moment_that_is_not_finite_is_nan_and_leaves_the_other_runs_alone() -> None:
    rows = [np.stack([features(seed, 5, 8), features(seed, 5, 8)]) for seed in range(3)]
    rows[1][1, 0, 0] = np.nan
    found = gate_series(trajectory(snapshots=[snapshot(i, features__train=row) for i, row in enumerate(rows)]))
    agreement = found["gate_agreement(last)"].value
    assert np.isfinite(agreement[0]).all()
    assert np.isnan(agreement[1]).tolist() == [False, True, False]
