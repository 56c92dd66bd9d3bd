"""Leaks: nothing is fitted or tuned on what is scored, and a preset that peeks is seen to.

A fit is blind if replacing the labels and the features of every example that it will predict leaves its weights, and what
it chose, identical to the last bit. The same check is run on the real presets, which pass, and on planted leaks, which fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from twoclocks import decomposition
from twoclocks.decomposition import (
    PATHS,
    PRESETS,
    STRIPS,
    Answers,
    FitOf,
    Halves,
    Moment,
    decompose,
    fitted_probes,
    probe_sensitivity,
    split_heldout,
)
from twoclocks.measures.probes import Probe, ProbePath, fit_ridge_probe
from twoclocks.trajectory import EvalBatch, Snapshot, Source, Trajectory

CLASSES, WIDTH, TRAINED = 3, 7, 60
Planted = Callable[[Moment, Answers, Halves], FitOf[Any]]  # a preset that could see everything


def examples(heldout: int, seed: int = 0) -> tuple[Moment, Answers]:
    """Return features from which the labels can be half read, with the labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, WIDTH, dtype=torch.float64, generator=generator)
    labels = [torch.arange(n) % CLASSES for n in (TRAINED, heldout)]
    features = [0.7 * centres[y] + torch.randn(len(y), WIDTH, dtype=torch.float64, generator=generator) for y in labels]
    return Moment(*features, features[1] @ centres.T), Answers(*labels, torch.arange(heldout), heldout, TRAINED)


def without(moment: Moment, answers: Answers, places: Tensor, draw: int) -> tuple[Moment, Answers]:
    """Return the same with labels and features of some held-out examples replaced by others."""
    generator = torch.Generator().manual_seed(77 + draw)
    heldout, labels = moment.heldout.clone(), answers.heldout.clone()
    heldout[places] = torch.randn(len(places), WIDTH, dtype=torch.float64, generator=generator)
    labels[places] = (labels[places] + torch.randint(1, CLASSES, (len(places),), generator=generator)) % CLASSES
    return replace(moment, heldout=heldout), replace(answers, heldout=labels)


def parts(fit: Probe | ProbePath) -> list[Probe]:
    return list(fit.probes) if isinstance(fit, ProbePath) else [fit]


def assert_same(one: Probe | ProbePath, other: Probe | ProbePath) -> None:
    """Check that two fits agree to the last bit in weights, biases and everything they chose."""
    assert getattr(one, "chosen", None) == getattr(other, "chosen", None), "another penalty was chosen"
    for first, second in zip(parts(one), parts(other), strict=True):
        assert torch.equal(first.weight, second.weight), "the weights changed"
        assert (first.bias is None) == (second.bias is None)
        assert first.bias is None or second.bias is None or torch.equal(first.bias, second.bias), "the bias changed"
        assert dict(first.settings) == dict(second.settings), "the settings changed"


def check_blind(planted: Planted, moment: Moment, answers: Answers, halves: Halves, draws: int = 1) -> int:
    """Check that no fit depends on what it will predict, fold by fold; return how many folds were checked.

    The train-fit probe predicts all of the scored half, and is checked along with each. A choice among few penalties may
    well survive one replacement, which is why there can be several.
    """
    for fold in halves.fits:
        alone = Halves(halves.scored, [fold], halves.offered)
        train, (heldout,) = fitted_probes(0, moment, answers, alone, planted(moment, answers, halves), 0)
        for draw, hidden in enumerate([halves.scored, *[fold[1]] * draws]):
            others = without(moment, answers, hidden, draw)
            blind_train, (blind,) = fitted_probes(0, *others, alone, planted(*others, halves), 0)
            assert_same(train, blind_train)
            if hidden is fold[1]:
                assert_same(heldout, blind)
    return len(halves.fits)


def strip(family: str) -> FitOf[ProbePath]:
    return lambda phi, y, classes, generator: PATHS[family](phi, y, classes, generator, STRIPS[family][-3:])


REAL = {name: PRESETS[name] for name in PRESETS} | {f"{family} strip": strip(family) for family in PATHS}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(("heldout", "fits"), [(60, 1), (24, 5)])
def test_no_preset_sees_what_it_is_scored_on(name: str, heldout: int, fits: int) -> None:
    moment, answers = examples(heldout)
    halves = split_heldout(answers.heldout, 0, TRAINED)
    assert len(halves.fits) == fits
    assert check_blind(lambda *_: REAL[name], moment, answers, halves) == fits


def peeking(moment: Moment, answers: Answers, halves: Halves) -> FitOf[Probe]:
    """Plant a preset that chooses its penalty on the scored half."""

    def fit(features: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> Probe:
        probes = [fit_ridge_probe(features, labels, classes=classes, penalties=[p]) for p in (1e-6, 1e-1, 1e1, 1e3)]
        phi, y = moment.heldout[halves.scored], answers.heldout[halves.scored]
        return max(probes, key=lambda probe: probe.accuracy(phi, y))

    return fit


def transductive(moment: Moment, answers: Answers, halves: Halves) -> FitOf[Probe]:
    """Plant a preset that standardises by the scored features, from which it has no label, but which it may not see."""

    def fit(features: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> Probe:
        shift = moment.heldout[halves.scored].mean(0)
        probe = fit_ridge_probe(features, labels, classes=classes)
        assert probe.bias is not None
        return replace(probe, bias=probe.bias - probe.weight @ shift)

    return fit


def choosing_on_b(moment: Moment, answers: Answers, halves: Halves) -> FitOf[ProbePath]:
    """Plant a strip that fits honestly but marks the penalty that does best on the scored half."""

    def fit(features: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> ProbePath:
        path = PATHS["ridge"](features, labels, classes, generator, [1e-6, 1e-1, 1e1, 1e3])
        phi, y = moment.heldout[halves.scored], answers.heldout[halves.scored]
        return replace(path, chosen=int(np.argmax([probe.accuracy(phi, y) for probe in path.probes])))

    return fit


@pytest.mark.parametrize("planted", [peeking, transductive, choosing_on_b])
@pytest.mark.parametrize("heldout", [60, 24])
def test_a_planted_leak_is_caught(planted: Planted, heldout: int) -> None:
    moment, answers = examples(heldout)
    halves = split_heldout(answers.heldout, 0, TRAINED)
    with pytest.raises(AssertionError, match=r"changed|chosen"):
        check_blind(planted, moment, answers, halves, draws=5)


@pytest.mark.parametrize("name", PRESETS)
def test_halves_that_overlap_are_caught(name: str) -> None:
    """Scored features with their labels appended, given to the fit: what a split that overlaps would do."""
    moment, answers = examples(60)
    halves = split_heldout(answers.heldout, 0, TRAINED)
    appended = moment.heldout.clone()
    appended[halves.scored, :CLASSES] = torch.eye(CLASSES, dtype=torch.float64)[answers.heldout[halves.scored]]
    everything = Halves(halves.scored, [(torch.arange(60), halves.scored)], 60)
    check_blind(lambda *_: PRESETS[name], replace(moment, heldout=appended), answers, halves)
    with pytest.raises(AssertionError, match="changed"):
        check_blind(lambda *_: PRESETS[name], replace(moment, heldout=appended), answers, everything)


def trajectory(heldout: int) -> Trajectory:
    moment, answers = examples(heldout)
    tensors = {
        "features/train": moment.train[None].numpy(),
        "features/heldout": moment.heldout[None].numpy(),
        "readout/weight": np.ones((1, CLASSES, WIDTH)),
    }
    batches = {
        split: EvalBatch(split, labels.numpy(), len(labels))
        for split, labels in (("train", answers.train), ("heldout", answers.heldout))
    }
    return Trajectory(Source("invented", "run folder", 0), {}, (Snapshot(0, None, tensors),), batches)


@pytest.mark.parametrize("heldout", [60, 24])
def test_a_fit_is_handed_no_memory_that_holds_a_scored_example(heldout: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Tensor, Tensor]] = []

    def watching(features: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> Probe:
        given.append((features, labels))
        return fit_ridge_probe(features, labels, classes=classes)

    monkeypatch.setitem(PRESETS, "ridge", watching)  # type: ignore[arg-type]
    run = trajectory(heldout)
    decompose(run, resamples=10)
    halves = split_heldout(torch.from_numpy(run.batches["heldout"].labels), 0, TRAINED)
    rows = torch.from_numpy(run.snapshots[0].tensors["features/heldout"][0])
    assert len(given) == 1 + len(halves.fits)
    for (features, labels), (_, predicted) in zip(given[1:], halves.fits, strict=True):
        assert features.untyped_storage().nbytes() == features.numel() * 8, "a view would reach the other rows"
        assert labels.untyped_storage().nbytes() == labels.numel() * 8
        assert not bool((features[:, None] == rows[predicted]).all(2).any())
    assert given[0][0].untyped_storage().nbytes() == given[0][0].numel() * 8


def reversed_on_b(run: Trajectory, scored: Tensor) -> Trajectory:
    """Return the run with other labels on the scored half."""
    labels = run.batches["heldout"].labels.copy()
    labels[scored.numpy()] = (labels[scored.numpy()] + 1) % CLASSES
    return replace(run, batches={**run.batches, "heldout": EvalBatch("heldout", labels, len(labels))})


@pytest.mark.parametrize("family", PATHS)
def test_no_penalty_of_the_strip_is_chosen_on_the_scored_half(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The half is held fixed, because it is drawn by class; the accuracies change and no choice does."""
    run = trajectory(60)
    halves = split_heldout(torch.from_numpy(run.batches["heldout"].labels), 0, TRAINED)
    monkeypatch.setattr(decomposition, "split_heldout", lambda labels, seed, most: halves)
    one, other = (probe_sensitivity(given, family=family) for given in (run, reversed_on_b(run, halves.scored)))
    chosen = [field.name for field in fields(one) if field.name.endswith("_penalty")]
    assert chosen == ["train_penalty", "heldout_penalty", "best_penalty"]
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in chosen)
    assert not np.array_equal(one.train_probe, other.train_probe)


def test_choosing_the_best_penalty_on_the_scored_half_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant the leak where the strip looks for its best penalty: on the scored half in place of the other."""
    run = trajectory(60)
    halves = split_heldout(torch.from_numpy(run.batches["heldout"].labels), 0, TRAINED)
    monkeypatch.setattr(decomposition, "split_heldout", lambda labels, seed, most: halves)
    monkeypatch.setattr(decomposition, "places_without", lambda places, count: places)
    planted = [probe_sensitivity(given) for given in (run, reversed_on_b(run, halves.scored))]
    assert planted[0].best_train_probe == planted[0].train_probe.max(2)
    assert planted[0].best_penalty != planted[1].best_penalty
