"""What holds for training on wrong labels: how many are wrong, what is slow and what is fast, and what is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from small_images import small_images
from twoclocks.recipes.label_noise import label_noise, problem_on, small_pixels, with_wrong_labels
from twoclocks.training.loop import torch_threads, train
from twoclocks.training.mlp import MLP
from twoclocks.training.modules import shuffled_batches
from twoclocks.training.recipe import Recipe

SMALL = {"examples": 200, "heldout": 100, "hidden": 24, "steps": 15}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def small(**settings: Any) -> Recipe:
    images = small_images()
    return replace(label_noise(**{**SMALL, **settings}), problem=lambda given: problem_on(images, given))


def settings_of(**settings: Any) -> Mapping[str, Any]:
    return label_noise(**{**SMALL, **settings}).settings


@pytest.mark.parametrize("share", [0.0, 0.2, 0.333, 1.0])
def test_exactly_the_stated_share_of_labels_is_wrong(share: float) -> None:
    true = small_images().train_labels
    noisy = with_wrong_labels(true, share, generator=torch.Generator().manual_seed(1))
    assert int((noisy != true).sum()) == int(share * 300)
    assert bool((noisy >= 0).all()) and bool((noisy < 10).all())
    assert torch.equal(true, small_images().train_labels)
    assert torch.equal(noisy, with_wrong_labels(true, share, generator=torch.Generator().manual_seed(1)))


def test_every_wrong_class_is_as_likely() -> None:
    true = torch.full((9000,), 4)
    drawn = with_wrong_labels(true, 1.0, generator=torch.Generator().manual_seed(0)).bincount(minlength=10)
    assert int(drawn[4]) == 0
    assert bool(((drawn[drawn > 0] - 1000).abs() < 5 * 30).all()) and int((drawn > 0).sum()) == 9


def test_held_out_labels_are_true_and_the_data_seed_draws_the_rest() -> None:
    images = small_images()
    one, same, other = (problem_on(images, settings_of(data_seed=seed)).labels for seed in (0, 0, 1))
    assert torch.equal(one["heldout"], images.heldout_labels)
    assert torch.equal(one["train"], same["train"]) and not torch.equal(one["train"], other["train"])
    clean = problem_on(images, settings_of(noise=0.0)).labels["train"]
    assert int((one["train"] != clean).sum()) == 40


def test_small_pixels_are_means_of_two_by_two() -> None:
    images = small_images().train[:3]
    grey = images.numpy().astype(float) / 255
    pooled = (grey[:, ::2, ::2] + grey[:, 1::2, ::2] + grey[:, ::2, 1::2] + grey[:, 1::2, 1::2]) / 4
    found = small_pixels(images, torch.float64).numpy()
    np.testing.assert_allclose(found, (pooled.reshape(3, 196) - 0.13) / 0.28, rtol=1e-12)


def test_training_is_torchs_adamw_with_a_rule_for_the_readout() -> None:
    recipe = small(dtype="float64", lr=1e-3, readout_lr=3e-2, weight_decay=4.0, readout_decay=0.5, batch=64)
    problem, recorded = recipe.problem(recipe.settings), train(recipe, seeds=(2,))
    model = MLP((196, 24, 10)).double()
    model.load_state_dict(problem.initial(2))
    hidden, readout = model.hidden1.parameters(), model.readout.parameters()
    optimizer = torch.optim.AdamW(
        [{"params": hidden, "lr": 1e-3, "weight_decay": 4.0}, {"params": readout, "lr": 3e-2, "weight_decay": 0.5}]
    )
    images, chosen = small_images(), torch.randperm(300, generator=torch.Generator().manual_seed(0))[:200]
    x, y, losses = small_pixels(images.train[chosen], torch.float64), problem.labels["train"], []
    batches = shuffled_batches(200, 64)
    for step in range(16):
        losses.append(F.cross_entropy(model(x), y).item())
        rows = batches(2, step)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    found = recorded.scalars["train_loss"]
    assert len(found.step) == 16
    np.testing.assert_allclose(found.value[0], losses, rtol=1e-9)


def test_slowing_the_readout_leaves_the_encoder_its_own_speed() -> None:
    fast, slow = (train(small(readout_lr=lr, steps=5)).scalars for lr in (1e-2, 1e-6))
    moved = {
        name: [run[name].value[0, -1] for run in (fast, slow)]
        for name in ("update_size.readout", "update_size.hidden1")
    }
    assert moved["update_size.readout"][0] > 1000 * moved["update_size.readout"][1]
    assert moved["update_size.hidden1"][0] == pytest.approx(moved["update_size.hidden1"][1], rel=0.5)
