import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import oracles
from twoclocks import decomposition
from twoclocks.decomposition import (
    PATHS,
    PRESETS,
    STRIPS,
    Decomposition,
    bootstrap,
    decompose,
    fewest_fitted,
    ladder_and_strip,
    native_bounds,
    probe_sensitivity,
    scored_rungs,
    split_heldout,
)
from twoclocks.errors import InputError
from twoclocks.measures.probes import fit_ridge_probe
from twoclocks.trajectory import Array, EvalBatch, Snapshot, Source, Trajectory

CLASSES = 4
RUNGS = ("native", "train_probe", "heldout_probe")


def clouds(labels: Array, rng: np.random.Generator, noise: float = 0.3) -> Array:
    """Return features [1 n 6] from which the labels can be read."""
    centres = 2 * np.eye(CLASSES, 6)
    return (centres[labels % CLASSES] + noise * rng.normal(size=(len(labels), 6)))[None].astype(np.float32)


def trajectory(train: int = 200, heldout: int = 160, steps: tuple[int, ...] = (0, 10), runs: int = 1) -> Trajectory:
    """Return a run whose features are clouds and whose readout reads them."""
    rng = np.random.default_rng(0)
    labels, answers = np.arange(train) % CLASSES, np.arange(heldout) % CLASSES
    snapshots = tuple(
        Snapshot(
            step,
            None,
            {
                "features/train": np.concatenate([clouds(labels, rng) for _ in range(runs)]),
                "features/heldout": np.concatenate([clouds(answers, rng) for _ in range(runs)]),
                "readout/weight": np.repeat(np.eye(CLASSES, 6)[None], runs, 0),
                "readout/bias": np.zeros((runs, CLASSES)),
            },
        )
        for step in steps
    )
    batches = {"train": EvalBatch("train", labels, train), "heldout": EvalBatch("heldout", answers, heldout)}
    return Trajectory(Source("invented", "run folder", 0), {}, snapshots, batches)


def with_tensors(run: Trajectory, **changed: Array) -> Trajectory:
    """Return the run with some tensors of every snapshot replaced: features_train for "features/train" and so on."""
    named = {name.replace("_", "/"): array for name, array in changed.items()}
    return replace(run, snapshots=tuple(replace(s, tensors={**s.tensors, **named}) for s in run.snapshots))


def with_labels(run: Trajectory, **labels: Array) -> Trajectory:
    batches = {name: EvalBatch(name, array, len(array)) for name, array in labels.items()}
    return replace(run, batches={**run.batches, **batches})


def rungs(ladder: Decomposition) -> Array:
    return np.stack([getattr(ladder, rung) for rung in RUNGS])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_rung_reads_clear_features(preset: str) -> None:
    run = with_tensors(trajectory(), readout_bias=np.zeros((1, CLASSES)))
    ladder = decompose(run, preset=preset, steps=[10], resamples=50)
    assert ladder.preset == preset
    assert ladder.step.tolist() == [10]
    assert rungs(ladder).shape == (3, 1, 1)
    assert rungs(ladder).min() > (0.9 if preset != "paper" else 0.2)
    assert (ladder.scored, ladder.fitted_on_train, ladder.fitted_on_heldout) == (80, 200, 80)


def test_a_readout_that_reads_wrongly_is_the_calibration_gap() -> None:
    run = with_tensors(trajectory(), readout_weight=np.roll(np.eye(CLASSES, 6), 1, 0)[None])
    ladder = decompose(run)
    assert ladder.native.max() < 0.05
    np.testing.assert_allclose(ladder.calibration_gap, ladder.train_probe - ladder.native)
    np.testing.assert_allclose(ladder.train_bias, ladder.heldout_probe - ladder.train_probe)
    assert ladder.calibration_gap.min() > 0.9
    assert ladder.calibration_gap_interval[..., 0].min() > 0.8


def test_features_that_mean_something_else_in_training_are_the_train_bias() -> None:
    run = trajectory()
    turned = clouds(run.batches["train"].labels + 1, np.random.default_rng(1))
    ladder = decompose(with_tensors(run, features_train=turned))
    assert ladder.train_probe.max() < 0.05 and ladder.heldout_probe.min() > 0.9
    assert ladder.train_bias_interval[..., 0].min() > 0.8


def test_labels_leaked_into_the_scored_half_raise_no_probe() -> None:
    """The features of B, and only of B, encode their labels, in directions in which nothing else moves."""
    run, rng = trajectory(steps=(0,)), np.random.default_rng(2)
    scored = split_heldout(torch.from_numpy(run.batches["heldout"].labels), seed=0, most=200).scored.numpy()
    noise = {name: rng.normal(size=(1, n, 10)) for name, n in (("features_train", 200), ("features_heldout", 160))}
    for name in noise:
        noise[name][:, :, 6:] = 1e-3 * rng.normal(size=noise[name][:, :, 6:].shape)
    noise["features_heldout"][0, scored, 6:] += 100 * np.eye(CLASSES)[run.batches["heldout"].labels[scored]]
    leaked = with_tensors(run, **noise, readout_weight=np.eye(CLASSES, 10)[None])
    ladder = decompose(leaked)
    assert rungs(ladder).max() < 0.5
    read_from_b = fit_ridge_probe(
        torch.from_numpy(noise["features_heldout"][0, scored]), torch.from_numpy(run.batches["heldout"].labels[scored])
    )
    assert read_from_b.settings["leave_one_out_error"] < 0.01, "the leak is there to be found by whoever fits on B"


@pytest.mark.parametrize("preset", PRESETS)
def test_shuffled_labels_leave_every_rung_at_chance(preset: str) -> None:
    run, rng = trajectory(train=400, heldout=400, steps=(0,)), np.random.default_rng(3)
    shuffled = {name: rng.permutation(batch.labels) for name, batch in run.batches.items()}
    ladder = decompose(with_labels(run, **shuffled), preset=preset, resamples=200)
    assert np.abs(rungs(ladder) - 1 / CLASSES).max() < 0.1
    assert ladder.calibration_gap_interval[0, 0, 0] < 0 < ladder.calibration_gap_interval[0, 0, 1]


def test_halves_are_disjoint_stratified_and_the_same_at_all_moments() -> None:
    labels = torch.from_numpy(np.arange(163) % CLASSES)
    halves = split_heldout(labels, seed=1, most=200)
    ((fitted, scored),) = halves.fits
    assert not set(fitted.tolist()) & set(scored.tolist())
    assert scored.tolist() == halves.scored.tolist()
    assert (labels[fitted].bincount() - labels[scored].bincount()).abs().max() <= 1
    assert scored.tolist() != split_heldout(labels, seed=2, most=200).scored.tolist()
    once, again = decompose(trajectory(), seed=5), decompose(trajectory(steps=(10,)), seed=5)
    assert once.scored == again.scored


def test_no_more_held_out_examples_are_fitted_than_training_ones() -> None:
    """A stratified part of half A, or of each four folds; what is scored is left as it is."""
    rng, seen = np.random.default_rng(0), 0
    labels = torch.from_numpy(rng.permutation(np.repeat([0, 1, 2, 3], [300, 60, 39, 1])))
    for heldout, parts in ((labels, 1), (torch.arange(36) % CLASSES, 5)):
        for most in (2, 7, 12):
            whole, capped = (split_heldout(heldout, 3, limit) for limit in (10_000, most))
            assert torch.equal(whole.scored, capped.scored) and whole.offered == capped.offered == fewest_fitted(whole)
            assert len(capped.fits) == len(whole.fits) == parts and fewest_fitted(capped) == most
            for (everything, predicted), (fitted, same) in zip(whole.fits, capped.fits, strict=True):
                assert torch.equal(predicted, same) and len(fitted) == most
                assert set(fitted.tolist()) <= set(everything.tolist()) and len(set(fitted.tolist())) == most
                assert_in_shares(heldout[fitted], heldout[everything])
                seen += 1
            assert str(capped) == str(split_heldout(heldout, 3, most)) != str(split_heldout(heldout, 4, most))
    assert seen == 18


def assert_in_shares(part: torch.Tensor, whole: torch.Tensor) -> None:
    """Check that a part holds as many classes as it has room for, and each about as often as the whole does."""
    present, count = torch.unique(whole, return_counts=True)
    counts = torch.tensor([int((part == label).sum()) for label in present.tolist()])
    assert int((counts > 0).sum()) == min(len(part), len(present))
    assert bool(((counts - count * len(part) / len(whole)).abs() < len(present)).all())


@pytest.mark.parametrize("preset", PRESETS)
def test_the_capped_held_out_fit_probe_is_the_one_fitted_on_that_part(preset: str) -> None:
    run = noisy(train=40, heldout=400)
    ladder, labels = decompose(run, preset=preset, steps=[0], resamples=10), run.batches["heldout"].labels
    ((fitted, scored),) = split_heldout(torch.from_numpy(labels), seed=0, most=40).fits
    heldout, train = (
        torch.from_numpy(run.snapshots[0].tensors[f"features/{s}"][0]).double() for s in ("heldout", "train")
    )
    generator, answers = torch.Generator().manual_seed(0), torch.from_numpy(labels)
    PRESETS[preset](train, torch.from_numpy(run.batches["train"].labels), CLASSES, generator)
    probe = PRESETS[preset](heldout[fitted], answers[fitted], CLASSES, generator)
    assert ladder.fitted_on_heldout == ladder.fitted_on_train == len(fitted) == 40
    assert ladder.heldout_probe[0, 0] == pytest.approx(probe.accuracy(heldout[scored], answers[scored]))


def frozen(seed: int, train: int, heldout: int) -> Trajectory:
    """Return one moment of random features of ten noisy classes, on which nothing was trained."""
    rng = np.random.default_rng(seed)
    centres, first = rng.normal(size=(10, 20)), rng.normal(size=(20, 100)) / np.sqrt(20)
    labels = {"train": np.arange(train) % 10, "heldout": np.arange(heldout) % 10}
    tensors = {
        f"features/{split}": np.maximum((centres[y] + 2 * rng.normal(size=(len(y), 20))) @ first, 0)[None]
        for split, y in labels.items()
    }
    batches = {split: EvalBatch(split, y, len(y)) for split, y in labels.items()}
    readout = {"readout/weight": rng.normal(size=(1, 10, 100))}
    return Trajectory(Source("invented", "run folder", 0), {}, (Snapshot(0, None, tensors | readout),), batches)


def test_sample_size_is_no_train_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same features, fitted on the same number of examples of either split, are read equally well."""
    bias = [float(decompose(frozen(seed, 100, 2000), resamples=10).train_bias[0, 0]) for seed in range(20)]
    error = np.std(bias, ddof=1) / np.sqrt(len(bias))
    assert abs(np.mean(bias)) < 4 * error < 0.05
    monkeypatch.setattr(decomposition, "at_most", lambda places, *_: places)
    uncapped = [float(decompose(frozen(seed, 100, 2000), resamples=10).train_bias[0, 0]) for seed in range(5)]
    assert min(uncapped) > 0.05


def exact_bounds(
    margins: float, label: int, kind: type[np.floating[Any]] = np.float16, unit: float = 1 / 3
) -> list[float]:
    """Return the bounds of one example with features (1, 1) and logits (1, 1 − margin) / 3."""
    tensors = {
        "features/heldout": np.ones((1, 1, 2), kind),
        "readout/weight": unit * np.array([[[1.0, 0.0], [0.0, 1.0 - margins]]]),
    }
    return native_bounds(Snapshot(0, None, tensors), torch.tensor([label])).ravel().tolist()


def test_native_accuracy_is_known_but_for_what_rounding_decides() -> None:
    """Logits are known to ε (|z| + |z|), so a margin of 4 ε, in units of the larger, is the first to be sure."""
    assert exact_bounds(2.0**-7, 0) == [1.0, 1.0] and exact_bounds(2.0**-7, 1) == [0.0, 0.0]
    assert exact_bounds(2.0**-9, 0) == exact_bounds(2.0**-9, 1) == [0.0, 1.0]
    assert exact_bounds(2.0**-9, 0, np.float32) == [1.0, 1.0]
    assert exact_bounds(0.0, 0, np.float64) == [0.0, 1.0], "a tie, which rounding may break"
    assert exact_bounds(2.0**-7, 0, np.float32, 1.0) == [0.0, 1.0], (
        "weights that bfloat16 can hold: it may have computed"
    )
    assert exact_bounds(0.5, 2) == [0.0, 0.0], "a label without a logit"
    assert np.isnan(exact_bounds(np.inf, 0)).all()


def test_few_held_out_examples_are_cross_fitted_by_probes_that_did_not_see_them() -> None:
    labels = torch.from_numpy(np.arange(36) % CLASSES)
    halves = split_heldout(labels, seed=0, most=200)
    assert len(halves.fits) == 5 and len(halves.scored) == 18
    assert all(not set(fitted.tolist()) & set(predicted.tolist()) for fitted, predicted in halves.fits)
    assert sorted(p for _, predicted in halves.fits for p in predicted.tolist()) == halves.scored.tolist()
    ladder = decompose(trajectory(heldout=36))
    assert (ladder.cross_fitted, ladder.scored, ladder.fitted_on_heldout) == (True, 18, 28)
    assert ladder.heldout_probe.min() > 0.9
    assert not decompose(trajectory(heldout=40)).cross_fitted
    every = [split_heldout(torch.from_numpy(np.arange(20) % CLASSES), seed, most=200) for seed in range(60)]
    assert min(len(predicted) for halves in every for _, predicted in halves.fits) > 0
    assert min(len(halves.fits) for halves in every) < 5, "some folds hold nothing to score, and are left out"


def test_intervals_are_the_paired_bootstrap() -> None:
    values = np.random.default_rng(0).integers(0, 2, size=(3, 25)).astype(float)
    mean, interval = bootstrap(values, seed=7, resamples=60)
    draws = np.random.default_rng(7).multinomial(25, np.full(25, 1 / 25), size=60)
    assert mean.tolist() == [row.mean() for row in values]
    for row, ends in zip(values, interval, strict=True):
        np.testing.assert_allclose(ends, oracles.bootstrap_interval(row, draws))
    _, difference = bootstrap(values[:1] - values[:1], seed=7, resamples=60)
    assert difference.tolist() == [[0.0, 0.0]]


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    values = (rng.random((400, 200)) < 0.7).astype(float)
    interval = bootstrap(values, seed=0, resamples=500)[1]
    covered = ((interval[:, 0] <= 0.7) & (interval[:, 1] >= 0.7)).mean()
    assert 0.9 < covered < 0.98


def test_runs_are_decomposed_each_on_its_own() -> None:
    run = trajectory(runs=2)
    broken = run.snapshots[0].tensors["readout/weight"].copy()
    broken[1] = np.roll(broken[1], 1, 0)
    ladder = decompose(with_tensors(run, readout_weight=broken))
    assert ladder.native.shape == (2, 2) and ladder.native_interval.shape == (2, 2, 2)
    assert ladder.native[0].min() > 0.9 > 0.1 > ladder.native[1].max()


def test_a_moment_is_decomposed_the_same_alone_and_another_seed_draws_other_halves() -> None:
    run = trajectory(steps=(0, 10, 20))
    noise = np.random.default_rng(4).normal(size=(1, 160, 6))
    noisy = with_tensors(run, features_heldout=run.snapshots[0].tensors["features/heldout"] + noise)
    whole, alone, other = decompose(noisy), decompose(noisy, steps=[10]), decompose(noisy, seed=1)
    np.testing.assert_array_equal(whole.train_probe[:, 1:2], alone.train_probe)
    np.testing.assert_array_equal(whole.train_probe_interval[:, 1:2], alone.train_probe_interval)
    assert not np.array_equal(rungs(whole), rungs(other))


def test_a_run_that_diverged_has_no_ladder_there_and_the_others_have() -> None:
    run = trajectory(runs=2)
    features = run.snapshots[0].tensors["features/heldout"].copy()
    features[1, 0, 0] = np.inf
    ladder = decompose(with_tensors(run, features_heldout=features))
    assert np.isnan(rungs(ladder)[:, 1]).all() and np.isfinite(rungs(ladder)[:, 0]).all()
    assert np.isnan(ladder.train_bias_interval[1]).all() and np.isfinite(ladder.train_bias_interval[0]).all()


def refused(run: Trajectory, words: str, **wanted: object) -> None:
    with pytest.raises(InputError, match=words):
        decompose(run, **wanted)


def test_what_cannot_be_decomposed_is_refused_in_words() -> None:
    run = trajectory()
    heldout = run.batches["heldout"].labels
    refused(run, "unknown preset 'rigde'. Did you mean 'ridge'", preset="rigde")
    refused(run, "no features are recorded at step 7; the closest step that has them is 10", steps=[7])
    refused(replace(run, snapshots=()), "no snapshot of invented holds")
    refused(replace(run, batches={"train": run.batches["train"]}), "no labels of the heldout examples")
    refused(with_labels(run, heldout=heldout[:-1]), r"features/heldout at step 0: expected \[r, 159, d\]")
    refused(with_labels(run, train=run.batches["train"].labels[:9]), r"features/train at step 0: expected \[r, 9, d\]")
    refused(
        with_labels(run, train=run.batches["train"].labels % 2, heldout=np.maximum(heldout, 1)),
        "held-out examples are all of one class after 80 of classes that no kept training example shows are left out",
    )
    refused(
        with_labels(run, heldout=heldout + 4), "at least 10, got 0 examples in all after 160 of classes that no kept"
    )
    refused(with_labels(run, train=run.batches["train"].labels * 0), "the training examples are all of one class")
    refused(trajectory(heldout=19), "two halves of at least 10, got 19")
    refused(with_labels(run, heldout=heldout * 0), "the held-out examples are all of one class, so")
    refused(with_tensors(run, readout_weight=np.ones((1, 1, 6)), readout_bias=np.zeros((1, 1))), "has 1 classes")
    refused(run, "resamples must be at least 1", resamples=0)
    lonely = np.r_[np.zeros(159, np.int64), 1]  # its only example of class 1 falls into the scored half
    refused(with_labels(run, heldout=lonely), "no probe can be fitted at step 0: labels: expected at least two classes")


def test_held_out_classes_that_no_kept_training_example_shows_are_left_out_and_named() -> None:
    run = trajectory()
    ladder = decompose(with_labels(run, train=np.minimum(run.batches["train"].labels, 2)))
    assert ladder.notes == ("40 of 160 held-out examples are of classes that no kept training example shows: left out",)
    assert (ladder.scored, ladder.fitted_on_heldout) == (60, 60)
    shown = run.batches["heldout"].labels < 3
    fewer = with_labels(
        run, train=np.minimum(run.batches["train"].labels, 2), heldout=run.batches["heldout"].labels[shown]
    )
    alone = decompose(
        replace(
            fewer,
            snapshots=tuple(
                replace(s, tensors={**s.tensors, "features/heldout": s.tensors["features/heldout"][:, shown]})
                for s in fewer.snapshots
            ),
        )
    )
    assert alone.notes == ()
    np.testing.assert_array_equal(rungs(ladder), rungs(alone))
    strip = probe_sensitivity(with_labels(run, train=np.minimum(run.batches["train"].labels, 2)))
    np.testing.assert_array_equal(strip.native, ladder.native)


def test_a_ladder_weaker_than_it_looks_says_so() -> None:
    assert decompose(trajectory()).notes == ()
    (few,) = decompose(trajectory(heldout=36)).notes
    assert (
        few
        == "36 held-out examples of 4 classes are few: the held-out-fit probe is fitted on 28 of them at a time, by folds"
    )
    capped, wide = decompose(trajectory(train=6)).notes
    assert capped.startswith(
        "the held-out-fit probe is fitted on 6 of 80 held-out examples, as many as training examples"
    )
    assert wide.startswith("features are 6 wide and a probe is fitted on 6 examples")
    both = decompose(trajectory(train=20, heldout=36)).notes
    assert both[0].endswith("are few: the held-out-fit probe is fitted on 20 of them at a time, by folds")
    assert both[1].startswith("the held-out-fit probe is fitted on 20 of 28 held-out examples")
    run = trajectory()
    of_more = replace(run, batches={**run.batches, "train": replace(run.batches["train"], population=5000)})
    assert decompose(of_more).notes == (
        "the train-fit probe is fitted on 200 kept of 5,000 training examples: fitted on all it may read more",
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_hard_features_are_an_outcome(preset: str) -> None:
    """Constant ones, more of them than examples, and ones that overflow: a number, or NaN where the run diverged."""
    run, rng = trajectory(steps=(0,)), np.random.default_rng(0)
    constant = with_tensors(run, features_train=np.ones((1, 200, 6)), features_heldout=np.ones((1, 160, 6)))
    read = rungs(decompose(constant, preset=preset))
    assert np.isfinite(read).all()
    assert preset != "ridge" or read[:2].max() == 0.0
    wide = {f"features_{name}": rng.normal(size=(1, n, 300)) for name, n in (("train", 200), ("heldout", 160))}
    ladder = decompose(with_tensors(run, **wide, readout_weight=rng.normal(size=(1, CLASSES, 300))), preset=preset)
    assert np.isfinite(rungs(ladder)).all() and len(ladder.notes) == 1
    huge = with_tensors(run, features_train=1e170 * np.ones((1, 200, 6)))
    assert np.isnan(rungs(decompose(huge, preset=preset))).all()


def test_no_ladder_is_made_of_what_allows_none() -> None:
    run = trajectory()
    heldout = run.batches["heldout"].labels
    unscored = replace(run, snapshots=tuple(replace(s, tensors=without_heldout(s.tensors)) for s in run.snapshots))
    cases = (
        (replace(run, batches={"train": run.batches["train"]}), "no labels of the heldout examples are recorded"),
        (unscored, "no snapshot of invented holds features/train, features/heldout, readout/weight"),
        (trajectory(heldout=19), "two halves of at least 10, got 19"),
        (with_labels(run, heldout=heldout * 0), "the held-out examples are all of one class"),
        (with_labels(run, train=run.batches["train"].labels * 0), "the training examples are all of one class"),
    )
    for hard, words in cases:
        for ladder in (decompose, ladder_and_strip):
            with pytest.raises(InputError, match=words) as refusal:
                ladder(hard)
            assert str(refusal.value).count("\n") == 0
    with pytest.raises(InputError, match="unknown preset"):
        decompose(run, preset="rigde")
    assert len(cases) == 5


@pytest.mark.parametrize("heldout", [160, 36])
def test_ladder_and_strip_fitted_together_are_those_fitted_apart(heldout: int) -> None:
    run = noisy(heldout=heldout)
    together = ladder_and_strip(run, resamples=50)
    for one, other in zip(together, (decompose(run, resamples=50), probe_sensitivity(run)), strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(other, name))


def without_heldout(tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in tensors.items() if name != "features/heldout"}


def noisy(**wanted: Any) -> Trajectory:
    """Return a run whose features are hard to read, so that the penalty matters."""
    run, rng = trajectory(**wanted), np.random.default_rng(8)
    sizes = {split: len(batch.labels) for split, batch in run.batches.items()}
    first = run.snapshots[0].tensors
    return with_tensors(
        run, **{f"features_{s}": first[f"features/{s}"] + 2 * rng.normal(size=(1, n, 6)) for s, n in sizes.items()}
    )


@pytest.mark.parametrize("family", PATHS)
@pytest.mark.parametrize("heldout", [160, 36])
def test_the_strip_at_the_chosen_penalty_is_the_ladder(family: str, heldout: int) -> None:
    run = noisy(heldout=heldout)
    strip, ladder = probe_sensitivity(run, family=family), decompose(run, preset=family, resamples=10)
    assert strip.penalty.tolist() == sorted(STRIPS[family])
    assert strip.train_probe.shape == strip.heldout_probe.shape == (1, 2, len(STRIPS[family]))
    assert (strip.family, strip.scored, strip.step.tolist()) == (family, ladder.scored, ladder.step.tolist())
    np.testing.assert_array_equal(strip.native, ladder.native)
    place = np.searchsorted(strip.penalty, strip.train_penalty)[..., None]
    np.testing.assert_array_equal(np.take_along_axis(strip.train_probe, place, 2)[..., 0], ladder.train_probe)
    if heldout == 160 or family == "paper":
        place = np.searchsorted(strip.penalty, strip.heldout_penalty)[..., None]
        np.testing.assert_array_equal(np.take_along_axis(strip.heldout_probe, place, 2)[..., 0], ladder.heldout_probe)


def test_the_strip_fits_each_penalty_as_if_it_were_the_only_one() -> None:
    run, seen = noisy(heldout=36), 0
    whole = probe_sensitivity(run)
    for k, penalty in enumerate(whole.penalty.tolist()):
        one = probe_sensitivity(run, penalties=[penalty])
        np.testing.assert_array_equal(one.train_probe[..., 0], whole.train_probe[..., k])
        np.testing.assert_array_equal(one.heldout_probe[..., 0], whole.heldout_probe[..., k])
        seen += 1
    assert seen == 9
    given = probe_sensitivity(run, penalties=[1.0, 1e-3, 10.0])
    assert given.penalty.tolist() == [1e-3, 1.0, 10.0]


@pytest.mark.parametrize("train", [200, 40])  # of 40, the held-out-fit probe is fitted on half of half A
def test_the_best_penalty_of_the_train_fit_probe_is_that_of_all_of_half_a(train: int) -> None:
    run = noisy(train=train)
    strip, labels = probe_sensitivity(run, steps=[0]), run.batches["heldout"].labels
    ((fitted, scored),) = split_heldout(torch.from_numpy(labels), seed=0, most=200).fits
    assert len(fitted) == 80
    heldout, features = (run.snapshots[0].tensors[f"features/{split}"][0] for split in ("heldout", "train"))
    on_a, on_b = [], []
    for penalty in strip.penalty.tolist():
        probe = fit_ridge_probe(
            torch.from_numpy(features), torch.from_numpy(run.batches["train"].labels), penalties=[penalty]
        )
        for places, scores in ((fitted, on_a), (scored, on_b)):
            scores.append(probe.accuracy(torch.from_numpy(heldout)[places], torch.from_numpy(labels)[places]))
    best = max(k for k, score in enumerate(on_a) if score == max(on_a))
    assert strip.best_penalty[0, 0] == strip.penalty[best]
    assert strip.best_train_probe[0, 0] == pytest.approx(on_b[best])


def test_a_strip_of_a_run_that_diverged_is_nan_there_and_another_seed_draws_other_halves() -> None:
    run = noisy(runs=2)
    features = np.repeat(run.snapshots[0].tensors["features/heldout"], 1, 0).copy()
    features[1, 0, 0] = np.nan
    strip = probe_sensitivity(with_tensors(run, features_heldout=features))
    assert np.isnan(strip.train_probe[1]).all() and np.isnan(strip.best_penalty[1]).all()
    assert np.isfinite(strip.train_probe[0]).all()
    assert not np.array_equal(probe_sensitivity(run, seed=1).native, probe_sensitivity(run).native)


def test_a_strip_that_cannot_be_drawn_is_refused_in_words() -> None:
    run = trajectory()
    for wanted, words in (
        ({"family": "rigde"}, "unknown family 'rigde'. Did you mean 'ridge'"),
        ({"penalties": []}, "at least one, each once"),
        ({"penalties": [1.0, 1.0]}, "at least one, each once"),
        ({"penalties": [0.0]}, "no probe can be fitted at step 0: penalties: expected at least one, all positive"),
        ({"penalties": [math.nan]}, "all positive and finite"),
        ({"penalties": [math.inf]}, "all positive and finite"),
        ({"family": "paper", "penalties": [-1.0]}, "none negative"),
        ({"steps": [7]}, "no features are recorded at step 7"),
    ):
        with pytest.raises(InputError, match=words):
            probe_sensitivity(run, **wanted)


def test_few_scored_examples_near_the_edge_are_covered() -> None:
    """Of twenty examples, most are right: the bootstrap alone loses the truth more often than it says."""
    rng = np.random.default_rng(2)
    native = rng.random((300, 1, 20)) < 0.05
    probe = native | (rng.random((300, 1, 20)) < 0.9)
    right = np.stack([native, probe, probe], 2).astype(float)
    value, interval = scored_rungs(right, seed=0, resamples=200)
    drawn = bootstrap(right[:, :, 1], seed=0, resamples=200)[1]
    truth = 0.05 + 0.95 * 0.9
    share = [((ends[..., 0] <= truth) & (truth <= ends[..., 1])).mean() for ends in (interval[:, :, 1], drawn)]
    assert share[0] > 0.93 > 0.9 > share[1]
    np.testing.assert_allclose(value[:, :, 3], value[:, :, 1] - value[:, :, 0])
    gap = interval[:, :, 3]
    assert ((gap[..., 0] <= 0.95 * 0.9) & (gap[..., 1] >= 0.95 * 0.9)).mean() > 0.93
    assert interval[0, 0, 4] == pytest.approx([-3.8415 / 23.8415, 3.8415 / 23.8415], abs=1e-5)  # they never differ


def memorised(run: Trajectory, size: float) -> Trajectory:
    """Return the run with each training label marked, however faintly, in directions that are noise when held out."""
    rng, tensors = np.random.default_rng(5), run.snapshots[0].tensors
    marks = size * np.eye(CLASSES)[None, run.batches["train"].labels]
    noise = size * rng.normal(size=(1, len(run.batches["heldout"].labels), CLASSES))
    return with_tensors(
        run,
        features_train=np.concatenate([tensors["features/train"], marks], 2),
        features_heldout=np.concatenate([tensors["features/heldout"], noise], 2),
        readout_weight=np.zeros((1, CLASSES, 6 + CLASSES)),
    )


def test_memorised_labels_empty_the_ridge_rung_but_not_the_best_of_the_strip() -> None:
    """No feature was damaged: left-out training examples ask for the weakest penalty, which reads the marks alone."""
    run = trajectory(steps=(0,))
    fresh, marked = probe_sensitivity(memorised(run, 0.0)), probe_sensitivity(memorised(run, 0.02))
    assert fresh.train_probe.min() > 0.95
    assert marked.train_penalty[0, 0] == marked.penalty[0]
    assert marked.train_probe[0, 0, 0] < 0.6
    assert marked.best_train_probe[0, 0] > 0.95 and marked.heldout_probe.min() > 0.95
    np.testing.assert_array_equal(decompose(memorised(run, 0.02)).train_probe[0], marked.train_probe[0, :, 0])


@pytest.mark.parametrize("family", PATHS)
def test_damaged_features_are_low_at_every_penalty(family: str) -> None:
    """The other side: features that lost their labels are read by no probe of the strip."""
    run, rng = trajectory(steps=(0,), heldout=400), np.random.default_rng(6)
    noise = {f"features_{split}": rng.normal(size=(1, n, 6)) for split, n in (("train", 200), ("heldout", 400))}
    strip = probe_sensitivity(with_tensors(run, **noise), family=family)
    assert max(strip.train_probe.max(), strip.heldout_probe.max(), strip.best_train_probe.max()) < 0.4
