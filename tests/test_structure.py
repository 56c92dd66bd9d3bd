"""Structural gaps: closed forms, agreement with the measures, limits that are given, polished or fitted, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from twoclocks.clocks import read_clocks
from twoclocks.errors import InputError
from twoclocks.measures.collapse import nc1, rule_residual, within_between_scatter
from twoclocks.measures.spectrum import schatten_energy, stable_rank
from twoclocks.series import measure
from twoclocks.structure import STRUCTURES, default_structure, fitted_limit, structural_gap
from twoclocks.trajectory import Array, EvalBatch, Float, Series, Snapshot, Source, Trajectory

NAN = float("nan")
LABELS = {"train": np.arange(40) % 5, "heldout": np.arange(30) % 5}
STEPS = np.unique(np.round(np.geomspace(1, 4000, 80)).astype(int))


def run_of(
    tensors: Callable[[int], Mapping[str, Array]],
    steps: Sequence[int] | Array = (0, 10),
    labels: Mapping[str, Array] = LABELS,
    settings: Mapping[str, Any] | None = None,
) -> Trajectory:
    batches = {split: EvalBatch(split, one, len(one)) for split, one in labels.items()}
    snapshots = tuple(Snapshot(int(step), None, dict(tensors(int(step)))) for step in steps)
    return Trajectory(Source("runs/x", "run folder", 0), {}, snapshots, batches, settings=settings or {})


def labelled(step: int, runs: int = 2, kind: Any = np.float64, bias: bool = True) -> dict[str, Array]:
    """Return random features that lie closer to their class means the later it is, and a readout."""
    rng = np.random.default_rng(3)
    centres, weight = rng.normal(size=(runs, 5, 6)), rng.normal(size=(runs, 5, 6))
    noise = {split: rng.normal(size=(runs, len(y), 6)) for split, y in LABELS.items()}
    tensors = {f"features/{s}": (centres[:, y] + noise[s] / (1 + step)).astype(kind) for s, y in LABELS.items()}
    tensors["readout/weight"] = weight.astype(np.float32 if kind is np.float16 else kind)
    return tensors | ({"readout/bias": rng.normal(size=(runs, 5))} if bias else {})


def chain(step: int, values: Callable[[int], Float], depth: int = 2, kind: Any = np.float64) -> dict[str, Array]:
    """Return a balanced chain of square matrices [r k k] whose product has the given singular values `[r k]`."""
    spectra = values(step)
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(spectra.shape[1],) * 2))[0]
    roots = [np.diag(row ** (1 / depth)) for row in spectra]
    layers = {f"weights/layer.{i + 1}": np.array(roots).astype(kind) for i in range(depth)}
    layers[f"weights/layer.{depth}"] = np.array([turned @ root for root in roots]).astype(kind)
    return layers | {"readout/weight": layers[f"weights/layer.{depth}"]}


def test_the_rule_residual_is_that_of_the_logits_of_all_recorded_examples() -> None:
    gap = structural_gap(run_of(labelled), "rule residual")
    labels = torch.from_numpy(np.concatenate(list(LABELS.values())))
    compared = 0
    for moment, step in enumerate(gap.step):
        tensors = labelled(int(step))
        for run in range(2):
            phi = torch.from_numpy(np.concatenate([tensors[f"features/{split}"][run] for split in LABELS]))
            logits = phi @ torch.from_numpy(tensors["readout/weight"][run]).T
            logits = logits + torch.from_numpy(tensors["readout/bias"][run])
            assert gap.value[run, moment] == pytest.approx(float(rule_residual(logits, labels)), rel=1e-12)
            compared += 1
    assert compared == 4
    assert gap.name == "structural gap: rule residual (end_to_end: logits on recorded examples)"


def test_half_precision_features_lose_nothing_that_they_hold() -> None:
    labels = torch.from_numpy(np.concatenate(list(LABELS.values())))
    gap = structural_gap(run_of(lambda step: labelled(step, kind=np.float16)), "rule residual")
    compared = 0
    for moment, step in enumerate(gap.step):
        tensors = labelled(int(step), kind=np.float16)
        phi = np.concatenate([tensors[f"features/{split}"][0] for split in LABELS]).astype(np.float64)
        logits = torch.from_numpy(phi @ tensors["readout/weight"][0].T.astype(np.float64))
        assert gap.value[0, moment] == pytest.approx(float(rule_residual(logits, labels)), rel=1e-5)
        compared += 1
    assert compared == 2


def test_the_rule_residual_of_logits_that_are_the_rule_is_0() -> None:
    ideal = np.eye(5)[None]
    tensors = {f"features/{s}": ideal[:, y] for s, y in LABELS.items()} | {"readout/weight": np.eye(5)[None]}
    assert structural_gap(run_of(lambda step: tensors), "rule residual").value.tolist() == [[0.0, 0.0]]
    constant = {**tensors, "readout/weight": np.zeros((1, 5, 5))}
    assert structural_gap(run_of(lambda step: constant), "rule residual").value.tolist() == [[0.0, 0.0]]


def test_a_known_rule_residual() -> None:
    """Logits ±(c ± d/(1 + t)) of two classes: within d²/(1 + t)², in all c² + d²/(1 + t)²; here c = 3, d = 1, t = 0 and 9."""
    sign, side = np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, -1.0, 1.0, -1.0])
    labels = {"train": np.array([0, 0, 1, 1])}

    def tensors(step: int) -> dict[str, Array]:
        weight = np.array([[[1.0], [-1.0]]])
        return {"features/train": (3 * sign + side / (1 + step))[None, :, None], "readout/weight": weight}

    gap = structural_gap(run_of(tensors, (0, 9), labels), "rule residual")
    assert gap.value[0] == pytest.approx([1 / 10, 0.01 / 9.01])
    assert "recorded train examples" in gap.name


def test_a_diverged_run_is_nan_and_the_others_stay() -> None:
    def tensors(step: int) -> dict[str, Array]:
        found = labelled(step, bias=False)
        if step:
            found["features/train"][0, 3, 2] = np.inf
        return found

    checked = 0
    for name in STRUCTURES[:3]:
        gap = structural_gap(run_of(tensors), name)
        assert np.isfinite(gap.value).tolist() == [[True, False], [True, True]]
        checked += 1
    assert checked == 3
    spectra = {0: np.array([[3.0, 1.0], [2.0, 1.0]]), 10: np.array([[NAN, 1.0], [2.0, 1.0]])}
    energy = structural_gap(run_of(lambda step: chain(step, spectra.__getitem__)), "Schatten energy gap", limit=2.0)
    assert np.isfinite(energy.value).tolist() == [[True, False], [True, True]]


def test_gaps_of_features_are_the_measures_themselves() -> None:
    run = run_of(labelled)
    scatter = structural_gap(run, "within/between scatter", split="heldout")
    assert np.array_equal(scatter.value, measure(run, within_between_scatter, split="heldout").value)
    assert scatter.name == "structural gap: within/between scatter (features: heldout)"
    assert np.array_equal(structural_gap(run, "neural collapse").value, measure(run, nc1).value)
    assert (scatter.value[:, 1] < scatter.value[:, 0]).all()


def test_the_schatten_energy_gap_of_an_exact_flow() -> None:
    """Case 6: modes u = s̃/(1 − (1 − s̃/u0) e^{−2s̃t}) of S = diag(3, 1), λ = .5; the energies go to 2.5 + .5 = 3."""
    limits, start, lr = np.array([2.5, 0.5]), 0.1, 0.002

    def modes(step: int) -> Float:
        return (limits / (1 - (1 - limits / start) * np.exp(-2 * limits * lr * step)))[None]

    polish = {"singular_values": [limits.tolist()], "objective": [0.0]}
    run = run_of(lambda step: chain(step, modes), range(0, 6001, 10), {}, {"polish": polish})
    assert default_structure(run) == "Schatten energy gap"
    gap = structural_gap(run, "Schatten energy gap")
    assert gap.value[0] == pytest.approx([(3 - modes(int(step)).sum()) / 3 for step in gap.step], abs=1e-12)
    assert "product of the weights" in gap.name
    assert "of the polished run" in gap.name
    clock = read_clocks(run, gap=[1e-2, 1e-3]).representation
    assert clock is not None
    # the slower mode alone is left: 3η = ½ (1/(1 − (1 − 5) e^{−t}) − 1)·(−1), so e^{−t} = x/(4(1 − x)) with x = 6η
    expected = [math.log(4 * (1 - 6 * eta) / (6 * eta)) / lr for eta in clock.thresholds]
    assert [time.value for time in clock.times] == [10 * math.ceil(t / 10) for t in expected]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_energy_is_that_of_the_depth_of_the_chain(depth: int) -> None:
    spectrum = np.array([[8.0, 1.0]])
    run = run_of(lambda step: chain(step, lambda _: spectrum, depth), labels={})
    gap = structural_gap(run, "Schatten energy gap", limit=1.0)
    assert gap.value[0] == pytest.approx([8 ** (2 / depth)] * 2)


def test_float32_weights_leave_no_energy_in_modes_that_are_not_there() -> None:
    spectrum = np.array([[8.0, 1.0] + [0.0] * 30])
    turned = np.linalg.qr(np.random.default_rng(2).normal(size=(32, 32)))[0]

    def tensors(step: int) -> dict[str, Array]:
        found = chain(step, lambda _: spectrum, depth=4)
        mixed = {name: (turned @ value @ turned.T).astype(np.float32) for name, value in found.items()}
        return mixed | {"readout/weight": mixed["weights/layer.4"]}

    gap = structural_gap(run_of(tensors, labels={}), "Schatten energy gap", limit=1.0 + 8**0.5)
    assert gap.value[0] == pytest.approx([0.0, 0.0], abs=1e-5)


def test_a_limit_of_the_logits_needs_the_depth() -> None:
    run = run_of(labelled)
    with pytest.raises(InputError, match="give depth="):
        structural_gap(run, "Schatten energy gap", limit=1.0)
    energy = structural_gap(run, "Schatten energy gap", limit=2.0, depth=2).value
    nuclear = measure(run, lambda matrix: schatten_energy(matrix, 1.0)).value
    assert energy == pytest.approx(np.abs(nuclear - 2) / 2)


def test_the_stable_rank_gap_counts_from_both_sides_and_takes_a_limit_a_run() -> None:
    run = run_of(labelled)
    rank = measure(run, stable_rank).value
    gap = structural_gap(run, "stable rank gap", limit=[1.0, 100.0])
    assert gap.value == pytest.approx(np.array([rank[0] - 1, 1 - rank[1] / 100]))
    assert (gap.value >= 0).all()
    spectrum = np.array([[2.0, 1.0, 1.0]])
    settings = {"polish": {"singular_values": [[1.0, 1.0, 1.0]]}}
    polished = run_of(lambda step: chain(step, lambda _: spectrum), labels={}, settings=settings)
    assert structural_gap(polished, "stable rank gap").value[0] == pytest.approx([0.5, 0.5])  # 1.5 of 3


def falling(floor: float, runs: int = 1) -> Callable[[int], Float]:
    return lambda step: np.array([[floor + 4 * math.exp(-step / 300), 1.0]] * runs)


def test_a_limit_is_fitted_only_where_a_law_with_a_floor_wins() -> None:
    run = run_of(lambda step: chain(step, falling(2.0)), STEPS, {})
    gap = structural_gap(run, "Schatten energy gap")
    assert "fitted (exponential + floor)" in gap.name
    exact = 4 * np.exp(-gap.step / 300) / 3
    seen = exact > 1e-3
    assert gap.value[0, seen] == pytest.approx(exact[seen], rel=1e-2)
    assert (gap.value[0] >= exact - 1e-9).all()


def test_the_last_sample_is_never_the_limit() -> None:
    still_falling = run_of(lambda step: chain(step, lambda t: np.array([[100.0 / (1 + t)]])), STEPS, {})
    noise = np.random.default_rng(0)
    wandering = run_of(lambda step: chain(step, lambda t: np.exp(noise.normal(size=(1, 2)))), STEPS, {})
    short = run_of(lambda step: chain(step, falling(2.0)), STEPS[:4], {})
    refused = 0
    for run in (still_falling, wandering, short):
        with pytest.raises(InputError, match="the last sample is not taken for the limit"):
            structural_gap(run, "Schatten energy gap")
        refused += 1
    assert refused == 3


def test_what_is_not_known_of_a_fitted_limit_is_added_to_the_gap() -> None:
    noise = np.exp(1e-3 * np.random.default_rng(0).normal(size=len(STEPS)))
    energy = {int(step): falling(2.0)(int(step)) * noise[i] for i, step in enumerate(STEPS)}
    gap = structural_gap(run_of(lambda step: chain(step, energy.__getitem__), STEPS, {}), "Schatten energy gap")
    value = np.array([[one.sum() for one in energy.values()]])
    limit = fitted_limit(Series("energy", "", STEPS, value))
    assert 1e-5 < limit.doubt[0] / limit.value[0] < 1e-2
    assert gap.value[0] == pytest.approx((np.abs(value[0] - limit.value) + limit.doubt) / limit.value, rel=1e-6)
    clocks = read_clocks(
        run_of(lambda step: chain(step, energy.__getitem__), STEPS, {}),
        gap=[0.1, 1e-5],
        structure="Schatten energy gap",
    )
    assert clocks.representation is not None
    assert [time.censored for time in clocks.representation.times] == [False, True]


def test_a_run_without_a_limit_of_its_own_is_nan() -> None:
    settings = {"polish": {"singular_values": [[2.0, 1.0], None]}}
    run = run_of(lambda step: chain(step, falling(2.0, runs=2)), labels={}, settings=settings)
    value = structural_gap(run, "Schatten energy gap").value
    assert np.isfinite(value).tolist() == [[True, True], [False, False]]
    clocks = read_clocks(run, gap=[0.1], structure="Schatten energy gap")
    assert clocks.representation is not None
    assert clocks.representation.times[0].known(1).low is None


def test_a_limit_of_zero_leaves_nothing_to_divide_by() -> None:
    settings = {"polish": {"singular_values": [[0.0, 0.0]]}}
    run = run_of(lambda step: chain(step, falling(2.0)), labels={}, settings=settings)
    with pytest.raises(InputError, match="no polished map with a positive one"):
        structural_gap(run, "Schatten energy gap")


def test_only_a_chain_without_bias_that_ends_in_the_readout_is_a_linear_network() -> None:
    settings = {"polish": {"singular_values": [[2.0, 1.0]]}}
    whole = chain(0, falling(2.0))
    spoiled: dict[str, Mapping[str, Array]] = {
        "bias": {**whole, "readout/bias": np.zeros((1, 2))},
        "bias inside": {**whole, "weights/layer.1.bias": np.zeros((1, 2))},
        "other readout": {**whole, "readout/weight": np.zeros((1, 2, 2))},
        "misfit": {**whole, "weights/layer.1": np.zeros((1, 3, 2))},
        "no weights": {"readout/weight": whole["readout/weight"]},
    }
    assert default_structure(run_of(lambda step: whole, labels={}, settings=settings)) == "Schatten energy gap"
    assert default_structure(run_of(lambda step: whole, labels={})) is None
    found = [default_structure(run_of(lambda step, t=t: t, labels={}, settings=settings)) for t in spoiled.values()]
    assert found == [None] * 5


def test_the_default_follows_what_the_run_holds() -> None:
    assert default_structure(run_of(labelled)) == "rule residual"
    assert default_structure(run_of(labelled, labels={})) is None
    assert default_structure(run_of(labelled, steps=())) is None
    all_different = {"train": np.arange(40), "heldout": np.arange(40, 70)}
    assert default_structure(run_of(labelled, labels=all_different)) is None
    clocks = read_clocks(run_of(labelled, steps=range(0, 400, 10)), gap=[0.1, 0.01])
    assert clocks.representation is not None
    assert [time.censored for time in clocks.representation.times] == [False, False]


def test_wrong_arguments_are_refused_in_a_sentence() -> None:
    run = run_of(labelled)
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("rule residue", {}, "Did you mean 'rule residual'"),
        ("rule residual", {"limit": 1.0}, "takes neither limit"),
        ("neural collapse", {"split": "heldout"}, "only the within/between scatter"),
        ("within/between scatter", {"split": "test"}, "unknown split"),
        ("stable rank gap", {"limit": 0.0}, "positive number"),
        ("stable rank gap", {"limit": [1.0, 2.0, 3.0]}, "one for each of 2 runs"),
        ("stable rank gap", {"limit": 1.0, "depth": 2}, "number of matrices"),
        ("Schatten energy gap", {"limit": 1.0, "depth": 0}, "at least 1"),
    ]
    refused = 0
    for name, given, words in cases:
        with pytest.raises(InputError, match=words):
            structural_gap(run, name, **given)
        refused += 1
    assert refused == 8


def test_what_was_not_recorded_is_named() -> None:
    with pytest.raises(InputError, match="no snapshot of runs/x holds features"):
        structural_gap(run_of(lambda step: {"weights/a": np.ones((1, 2, 2))}), "rule residual")
    with pytest.raises(InputError, match="no labels of the train examples"):
        structural_gap(run_of(labelled, labels={}), "rule residual")
    with pytest.raises(InputError, match="each of these has its own"):
        structural_gap(run_of(labelled, labels={"train": np.arange(40)}), "rule residual")
