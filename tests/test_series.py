import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from twoclocks.errors import InputError
from twoclocks.measures.balance import balancedness_defect
from twoclocks.measures.kernels import kernel_target_alignment
from twoclocks.measures.margins import margin
from twoclocks.measures.similarity import linear_cka
from twoclocks.measures.spectrum import participation_ratio, schatten_norm, singular_values, stable_rank
from twoclocks.series import measure
from twoclocks.trajectory import Array, EvalBatch, Snapshot, Source, Trajectory

RUNS, TRAIN, HELDOUT, WIDTH, CLASSES = 2, 8, 5, 3, 4


def tensors(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "features/train": rng.normal(size=(RUNS, TRAIN, WIDTH)).astype(np.float16),
        "features/heldout": rng.normal(size=(RUNS, HELDOUT, WIDTH)).astype(np.float16),
        "readout/weight": rng.normal(size=(RUNS, CLASSES, WIDTH)).astype(np.float32),
        "readout/bias": rng.normal(size=(RUNS, CLASSES)).astype(np.float32),
        "weights/layers.10.weight": rng.normal(size=(RUNS, 2, 5)).astype(np.float32),
        "weights/layers.2.weight": rng.normal(size=(RUNS, 5, 6)).astype(np.float32),
        "weights/layers.2.bias": rng.normal(size=(RUNS, 5)).astype(np.float32),
        "weights/kernel": rng.normal(size=(RUNS, 4, 2, 3, 3)).astype(np.float32),
    }


def trajectory() -> Trajectory:
    labels = {"train": np.arange(TRAIN) % CLASSES, "heldout": np.arange(HELDOUT) % CLASSES}
    return Trajectory(
        Source("invented", "run folder", 0),
        {},
        (Snapshot(0, None, tensors(0)), Snapshot(5, None, {}), Snapshot(9, None, tensors(1))),
        {name: EvalBatch(name, array, len(array)) for name, array in labels.items()},
    )


def logits_of(snapshot: Snapshot, split: str, run: int) -> Array:
    t = {name: array[run].astype(np.float64) for name, array in snapshot.tensors.items()}
    return t[f"features/{split}"] @ t["readout/weight"].T + t["readout/bias"]


def test_the_end_to_end_map_is_the_centred_logits_of_all_recorded_examples() -> None:
    series = measure(trajectory(), stable_rank)
    assert series.name == "stable_rank(end_to_end: logits on recorded examples)"
    assert (series.unit, series.step.tolist(), series.value.shape) == ("", [0, 9], (RUNS, 2))
    for run in range(RUNS):
        for place, snapshot in enumerate((trajectory().snapshots[0], trajectory().snapshots[2])):
            logits = np.concatenate([logits_of(snapshot, split, run) for split in ("train", "heldout")])
            values = np.linalg.svd(logits - logits.mean(1, keepdims=True), compute_uv=False)
            assert series.value[run, place] == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-9)


def test_the_end_to_end_map_ignores_a_logit_common_to_all_classes() -> None:
    run = trajectory()
    shifted = replace(
        run,
        snapshots=tuple(
            replace(s, tensors={**s.tensors, "readout/bias": s.tensors["readout/bias"] + 100}) if s.tensors else s
            for s in run.snapshots
        ),
    )
    np.testing.assert_allclose(measure(shifted, stable_rank).value, measure(run, stable_rank).value, rtol=1e-4)


@pytest.mark.parametrize(
    ("of", "split", "name", "shape"),
    [
        ("features", "heldout", "singular_values(features: heldout)", (HELDOUT, WIDTH)),
        ("readout", "train", "singular_values(readout)", (CLASSES, WIDTH)),
        ("weights/layers.2.weight", "train", "singular_values(weights/layers.2.weight)", (5, 6)),
        ("weights/kernel", "train", "singular_values(weights/kernel)", (4, 18)),
    ],
)
def test_of_names_the_matrix(of: str, split: str, name: str, shape: tuple[int, int]) -> None:
    series = measure(trajectory(), singular_values, of=of, split=split)
    source = f"features/{split}" if of == "features" else "readout/weight" if of == "readout" else of
    expected = np.linalg.svd(tensors(1)[source][1].astype(float).reshape(shape), compute_uv=False)
    assert series.name == name
    np.testing.assert_allclose(series.value[1, 1], expected, rtol=1e-6)


def test_arguments_are_given_by_name() -> None:
    run, snapshot = trajectory(), trajectory().snapshots[0]
    features = torch.from_numpy(snapshot.tensors["features/heldout"][1].astype(np.float64))
    labels = torch.arange(HELDOUT) % CLASSES
    alignment = measure(run, kernel_target_alignment, split="heldout")
    assert alignment.name == "kernel_target_alignment(features: heldout)"
    assert alignment.value[1, 0] == pytest.approx(float(kernel_target_alignment(features, labels)))
    assert measure(run, participation_ratio, of="features").name == "participation_ratio(features: train)"
    margins = measure(run, margin, split="heldout")
    logits = torch.from_numpy(logits_of(snapshot, "heldout", 1))
    assert margins.name == "margin(logits: heldout)" and margins.value.shape == (RUNS, 2, HELDOUT)
    np.testing.assert_allclose(margins.value[1, 0], margin(logits, labels), rtol=1e-9)


def test_weights_come_in_the_natural_order_of_their_names() -> None:
    run = trajectory()
    chain = [
        replace(s, tensors={n: a for n, a in s.tensors.items() if "layers" in n}) for s in run.snapshots if s.tensors
    ]
    series = measure(replace(run, snapshots=tuple(chain)), balancedness_defect)
    assert (series.name, series.value.shape) == ("balancedness_defect(weights)", (RUNS, 2, 1))
    alone = {"weights/only": tensors(0)["weights/layers.2.weight"]}
    with pytest.raises(InputError, match="at step 3: weights: expected at least two matrices"):
        measure(replace(run, snapshots=(Snapshot(3, None, alone),)), balancedness_defect)
    with pytest.raises(InputError, match="no snapshot holds weights, which balancedness_defect needs"):
        measure(replace(run, snapshots=(Snapshot(3, None, {}),)), balancedness_defect)


def test_other_arguments_are_fixed_by_partial() -> None:
    series = measure(trajectory(), partial(schatten_norm, p=2.0), of="readout")
    assert series.name == "schatten_norm(readout)"
    assert series.value[0, 0] == pytest.approx(float(np.linalg.norm(tensors(0)["readout/weight"][0])), rel=1e-6)


def test_a_run_that_diverged_is_nan_there_and_the_others_are_not() -> None:
    run = trajectory()
    run.snapshots[2].tensors["readout/weight"][1] = np.inf
    value = measure(run, stable_rank).value
    assert np.isnan(value).tolist() == [[False, False], [False, True]]
    assert np.isnan(measure(run, singular_values).value[1, 1]).all()


@pytest.mark.parametrize(
    ("quantity", "wanted", "words"),
    [
        (linear_cka, {}, "linear_cka takes x, y, but"),
        (stable_rank, {"of": "end_to_emd"}, "unknown matrix 'end_to_emd'. Did you mean 'end_to_end'"),
        (stable_rank, {"split": "val"}, "unknown split 'val'"),
        (
            stable_rank,
            {"of": "weights/fc"},
            "no snapshot holds weights/fc, which stable_rank needs; recorded are features",
        ),
        (participation_ratio, {"of": "readout"}, "participation_ratio takes features and no matrix"),
        (stable_rank, {"of": "weights/layers.2.bias"}, "cannot measure stable_rank"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(quantity: object, wanted: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        measure(trajectory(), quantity, **wanted)


def test_a_trajectory_without_snapshots_or_labels_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="invented holds no snapshots, which stable_rank"):
        measure(replace(trajectory(), snapshots=()), stable_rank)
    with pytest.raises(InputError, match="no labels of the train examples"):
        measure(replace(trajectory(), batches={}), margin)


def test_reading_series_needs_no_torch() -> None:
    code = "import sys, twoclocks.series; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
