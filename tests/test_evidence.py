"""What is measured before anything is judged: whether the readout is the network's output, and which probes can be fitted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import twoclocks as tc
from twoclocks import decomposition
from twoclocks.errors import InputError
from twoclocks.evidence import examine, presets_of, readout_is_the_output
from twoclocks.trajectory import Array, EvalBatch, Float, Series, Snapshot, Source, Trajectory

STEP = (0, 10, 20, 30, 40)
WIDTH = 6


def recorded(
    kept: int,
    seed: int,
    *,
    population: int | None = None,
    classes: int = 3,
    unseen: int = 0,
    runs: int = 1,
    kind: type[np.floating[Any]] = np.float64,
) -> Trajectory:
    """Return a run whose readout improves, its accuracy recorded of all examples, of which features of some were kept."""
    rng = np.random.default_rng(seed)
    centres, total = rng.normal(size=(classes, WIDTH)), population or kept
    labels = {"train": np.arange(100) % (classes - unseen), "heldout": np.arange(total) % classes}
    features = {name: centres[y] + rng.normal(size=(runs, len(y), WIDTH)) for name, y in labels.items()}
    some, first = np.sort(rng.permutation(total)[:kept]), rng.normal(size=(runs, classes, WIDTH))
    snapshots, right = [], []
    for place, step in enumerate(STEP):
        weight = first * (1 - place / 4) + centres * place / 4
        answers = (features["heldout"] @ weight.swapaxes(1, 2)).argmax(2)
        right.append((answers == labels["heldout"]).mean(1))
        tensors = {"features/train": features["train"], "features/heldout": features["heldout"][:, some]}
        rounded = {name: array.astype(kind) for name, array in tensors.items()}
        snapshots.append(Snapshot(step, None, rounded | {"readout/weight": weight}))
    batches = {
        "train": EvalBatch("train", labels["train"], 100),
        "heldout": EvalBatch("heldout", labels["heldout"][some], total),
    }
    trajectory = Trajectory(Source("invented", "run folder", 0), {}, tuple(snapshots), batches)
    return with_accuracy(trajectory, np.stack(right, 1))


def with_accuracy(trajectory: Trajectory, value: Float, step: tuple[int, ...] = STEP) -> Trajectory:
    series = Series("heldout_accuracy", "share of examples", np.array(step), value)
    return replace(trajectory, scalars={"heldout_accuracy": series})


def accuracy_of(trajectory: Trajectory) -> Float:
    return trajectory.scalars["heldout_accuracy"].value


def with_tensors(trajectory: Trajectory, place: int, name: str, array: Array) -> Trajectory:
    """Return the trajectory with one tensor of one of its snapshots replaced."""
    snapshots = list(trajectory.snapshots)
    snapshots[place] = replace(snapshots[place], tensors={**snapshots[place].tensors, name: array})
    return replace(trajectory, snapshots=tuple(snapshots))


def test_a_readout_that_is_the_output_is_never_refused() -> None:
    """However few the examples, of classes that training lacks, and however the features were rounded."""
    cases = [
        recorded(kept, seed, unseen=unseen, kind=kind)
        for kept in (20, 30, 60)
        for seed in range(20)
        for unseen, kind in ((0, np.float64), (1, np.float64), (0, np.float16))
    ]
    assert len(cases) == 180
    assert all(readout_is_the_output(one) for one in cases)


def test_one_example_more_or_less_is_refused_where_all_were_kept() -> None:
    seen = 0
    for seed in range(20):
        run = recorded(200, seed)
        for change, same in ((0.004 / 200, True), (1 / 200, False), (-1 / 200, False)):
            assert readout_is_the_output(with_accuracy(run, accuracy_of(run) + change)) is same
            seen += 1
    assert seen == 60


def test_a_sample_of_the_examples_may_differ_by_chance_alone() -> None:
    sampled = [recorded(200, seed, population=5000) for seed in range(200)]
    accepted = sum(map(readout_is_the_output, sampled))
    assert accepted >= 198  # of 0.3 % at three standard errors
    followed = [with_accuracy(one, 0.5 * accuracy_of(one)) for one in sampled]
    assert not any(map(readout_is_the_output, followed))
    exact = [with_accuracy(one, np.abs(accuracy_of(one) - 1 / 3)) for one in sampled[:5]]
    assert not any(map(readout_is_the_output, exact))


@pytest.mark.parametrize("turn", [1, 2])
def test_something_that_follows_the_readout_is_seen(turn: int) -> None:
    run = recorded(120, 0)
    for place in range(len(STEP)):
        weight = np.roll(run.snapshots[place].tensors["readout/weight"], turn, 1)
        run = with_tensors(run, place, "readout/weight", weight)
    assert not readout_is_the_output(run)
    assert examine(run).left_out == (
        "which part lags: the recorded readout does not give the network's accuracy, so something follows it",
    )
    assert examine(run).ladder is None


def test_one_run_of_two_that_something_follows_is_seen_and_a_single_moment_is_not_judged() -> None:
    run = recorded(120, 1, runs=2)
    assert readout_is_the_output(run)
    off = accuracy_of(run).copy()
    off[1] -= 0.05
    assert not readout_is_the_output(with_accuracy(run, off))
    once = accuracy_of(run).copy()
    once[:, 2] -= 0.05
    assert readout_is_the_output(with_accuracy(run, once))


def test_what_cannot_be_compared_is_no_reason_to_refuse() -> None:
    run = recorded(60, 2)
    assert readout_is_the_output(replace(run, scalars={}))
    assert readout_is_the_output(with_accuracy(run, accuracy_of(run), step=(1, 2, 3, 4, 5)))
    assert readout_is_the_output(with_accuracy(run, np.full((1, 5), np.nan)))
    broken = run
    for place in range(len(STEP)):
        broken = with_tensors(broken, place, "features/heldout", np.full((1, 60, WIDTH), np.inf))
    assert readout_is_the_output(broken)
    diverged = with_tensors(run, 4, "features/heldout", np.full((1, 60, WIDTH), np.nan))
    assert readout_is_the_output(diverged)
    assert not readout_is_the_output(with_accuracy(diverged, accuracy_of(diverged) - 0.1))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_a_recorded_network_gives_its_own_accuracy_in_whatever_precision_it_computes(
    kind: torch.dtype, tmp_path: Path
) -> None:
    generator, given = torch.Generator().manual_seed(0), {}
    centres = torch.randn(10, 20, generator=generator)
    for split, n in (("train", 300), ("heldout", 1000)):
        y = torch.arange(n) % 10
        given[split] = ((centres[y] + 2 * torch.randn(n, 20, generator=generator)).to(kind), y)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 10)).to(kind)
    recorder = tc.Recorder(tmp_path / "run", model, **given, budget=math.inf)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 31):
        loss = nn.functional.cross_entropy(model(given["train"][0]), given["train"][1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(step)
    recorder.close()
    run = tc.load(tmp_path / "run")
    assert readout_is_the_output(run)
    assert not readout_is_the_output(with_lower_accuracy(run))


def with_lower_accuracy(run: Trajectory) -> Trajectory:
    series = run.scalars["heldout_accuracy"]
    return replace(run, scalars={**run.scalars, "heldout_accuracy": replace(series, value=series.value - 0.2)})


def lonely(classes: int) -> Trajectory:
    """Return a run on many classes of one held-out example each, which its readout does not read and probes do."""
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(classes, 30)), np.arange(2 * classes) % classes
    tensors = {
        f"features/{split}": (centres[y] + 0.3 * rng.normal(size=(len(y), 30)))[None]
        for split, y in (("train", labels), ("heldout", labels[:classes]))
    }
    readout = {"readout/weight": rng.normal(size=(1, classes, 30))}
    right = (
        (tensors["features/heldout"] @ readout["readout/weight"].swapaxes(1, 2)).argmax(2) == labels[:classes]
    ).mean()
    snapshots = tuple(Snapshot(step, None, tensors | readout) for step in STEP)
    batches = {name: EvalBatch(name, y, len(y)) for name, y in (("train", labels), ("heldout", labels[:classes]))}
    run = Trajectory(Source("invented", "run folder", 0), {}, snapshots, batches)
    return with_accuracy(run, np.full((1, 5), right))


def test_a_preset_that_cannot_be_fitted_is_left_out_with_its_reason_and_the_rest_stands() -> None:
    run = lonely(60)
    with pytest.raises(InputError, match="to cross-validate with, got one of each"):
        decomposition.decompose(run, preset="logistic")
    presets, unfitted = presets_of(run, {40: {0}})
    assert list(presets) == ["paper"] and presets["paper"].step.tolist() == [40]
    (why,) = unfitted
    assert why.startswith(
        "what the logistic probe reads: no probe can be fitted at step 40: labels: expected a class with"
    )
    evidence = examine(run)
    assert evidence.ladder is not None and evidence.ladder.train_probe[0, -1] > 0.5 > evidence.ladder.native[0, -1]
    assert list(evidence.presets) == ["paper"] and why in evidence.left_out
    assert any(sentence == why for sentence in tc.diagnose(run).cannot_tell)


def test_no_preset_is_fitted_where_no_claim_rests_on_it() -> None:
    assert presets_of(recorded(60, 0), {}) == ({}, ())
    presets, unfitted = presets_of(recorded(60, 0), {0: {0}, 40: {0}})
    assert (list(presets), unfitted) == (["paper", "logistic"], ())
    assert all(preset.step.tolist() == [0, 40] for preset in presets.values())
