"""What holds for MNIST from large initial weights: it is set up as published, and its control differs in one number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from small_images import small_images
from twoclocks.recipes.mnist_large_init import mnist_large_init, pixels, problem_on
from twoclocks.training.loop import torch_threads, train
from twoclocks.training.recipe import Recipe
from twoclocks.trajectory import Trajectory

SMALL = {"examples": 300, "heldout": 100, "hidden": 32}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def small(**settings: Any) -> Recipe:
    images = small_images()
    return replace(mnist_large_init(**{**SMALL, **settings}), problem=lambda given: problem_on(images, given))


def first(run: Trajectory, name: str) -> float:
    return float(run.scalars[name].value[0, 0])


def last(run: Trajectory, name: str) -> float:
    return float(run.scalars[name].value[0, -1])


def test_defaults_are_the_published_ones_but_for_format_and_length() -> None:
    settings = mnist_large_init().settings
    published = {"examples": 1000, "hidden": 200, "init_scale": 8.0, "batch": 200, "lr": 1e-3, "weight_decay": 0.01}
    assert {name: settings[name] for name in published} == published
    assert (settings["beta1"], settings["beta2"]) == (0.9, 0.999)
    assert (settings["dtype"], settings["steps"]) == ("float32", 40_000)
    assert mnist_large_init(dtype="float64", steps=100_000).cost > 4 * mnist_large_init().cost


def test_the_first_images_are_used_as_numbers_from_zero_to_one() -> None:
    images = small_images()
    problem = problem_on(images, small(examples=20, heldout=10).settings)
    assert problem.labels["train"].tolist() == images.train_labels[:20].tolist()
    assert problem.labels["heldout"].tolist() == images.heldout_labels[:10].tolist()
    found = pixels(images.train, torch.float64)
    assert found.shape == (300, 784) and float(found.min()) == 0.0 and float(found.max()) == 1.0


def test_the_control_starts_at_one_eighth_of_every_weight() -> None:
    large, control = small().problem(small().settings), small(init_scale=1).problem(small(init_scale=1).settings)
    seen = 0
    for name, weight in control.initial(3).items():
        torch.testing.assert_close(large.initial(3)[name], 8 * weight)
        seen += 1
    assert seen == 6


def test_both_number_formats_start_alike_and_keep_their_format() -> None:
    single, double = (train(small(dtype=dtype, steps=3)) for dtype in ("float32", "float64"))
    assert first(single, "train_loss") == pytest.approx(first(double, "train_loss"), rel=1e-5)
    weights = small(dtype="float64").problem(small(dtype="float64").settings).initial(0)
    assert {weight.dtype for weight in weights.values()} == {torch.float64}


def test_the_control_generalises_at_once_and_the_large_start_does_not() -> None:
    large, control = train(small(steps=150)), train(small(init_scale=1, steps=150))
    assert last(control, "train_accuracy") > 0.95 and last(control, "heldout_accuracy") > 0.6
    assert last(large, "heldout_accuracy") < last(control, "heldout_accuracy") - 0.2
    assert first(large, "train_loss") > 100 * first(control, "train_loss")


def test_what_was_recorded_says_which_loss_was_trained() -> None:
    run = train(small(steps=2))
    assert first(run, "train_loss") > 1.0  # a mean square of logits of size 8³, no cross-entropy
    assert run.settings["decay"] == "decoupled"
    assert run.snapshots[0].tensors["features/train"].shape == (1, 300, 32)
