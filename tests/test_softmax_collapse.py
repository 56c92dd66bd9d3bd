"""What holds for softmax collapse: the three losses train as they are written, and float32 stalls where float64 goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from twoclocks.errors import InputError
from twoclocks.recipes.softmax_collapse import problem, softmax_collapse
from twoclocks.training.loop import torch_threads, train
from twoclocks.training.losses import GRADIENTS, stablemax_cross_entropy
from twoclocks.training.models import TwoHotMLP, two_hot_weights
from twoclocks.training.recipe import Recipe
from twoclocks.training.tasks import PairTask, modular_addition_task


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def small(**settings: object) -> Recipe:
    return softmax_collapse(**{"p": 13, "hidden": 24, "lr": 1e-2, "steps": 60, **settings})


def task_of(recipe: Recipe) -> PairTask:
    settings = recipe.settings
    return modular_addition_task(
        settings["p"],
        settings["train_fraction"],
        shuffle_labels=False,
        generator=torch.Generator().manual_seed(0),
    )


def plain_losses(recipe: Recipe, loss: Callable[[Tensor, Tensor], Tensor], steps: int) -> list[float]:
    """The slow second definition in float64: the plain module, autograd of the loss, torch's own Adam."""
    task, settings = task_of(recipe).train, recipe.settings
    model = TwoHotMLP(13, 24, settings["init_scale"])
    model.load_state_dict(two_hot_weights(13, 24, settings["init_scale"], seed=0))
    model = model.double()
    optimizer = torch.optim.Adam(model.parameters(), settings["lr"], (0.9, settings["beta2"]), eps=settings["epsilon"])
    losses = []
    for _ in range(steps + 1):
        value = loss(model(task.left, task.right), task.labels)
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(GRADIENTS))
def test_training_is_adam_on_the_loss_that_is_named(name: str, dtype: str) -> None:
    recipe = small(loss=name, dtype=dtype)
    losses = plain_losses(recipe, stablemax_cross_entropy if name == "stablemax" else F.cross_entropy, 60)
    recorded = train(recipe).scalars["train_loss"]
    np.testing.assert_allclose(
        recorded.value[0], [losses[step] for step in recorded.step], atol=1e-9 if dtype == "float64" else 1e-4
    )
    assert losses[-1] < 0.7 * losses[0] and len(recorded.step) > 20


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_is_computed_in_the_numbers_that_are_named(dtype: str) -> None:
    set_up = problem(small(dtype=dtype).settings)
    weights = set_up.initial(0)
    logits, gradient = set_up.gradient(weights, None)
    features, heldout = set_up.forward(weights, "heldout")
    tensors = [*weights.values(), *gradient.values(), logits, features, heldout]
    assert {tensor.dtype for tensor in tensors} == {getattr(torch, dtype)}
    assert set_up.rules is not None and {rule.epsilon for rule in set_up.rules.values()} == {1e-25}


def fitted(recipe: Recipe, factor: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradient of a network of the recipe that has fitted, its readout enlarged by a factor."""
    set_up = problem(recipe.settings)
    weights = dict(set_up.initial(0))
    optimizer = torch.optim.Adam(weights.values(), 1e-2)
    for _ in range(400):
        for weight, gradient in zip(weights.values(), set_up.gradient(weights, None)[1].values(), strict=True):
            weight.grad = gradient
        optimizer.step()
    weights["readout.weight"] = weights["readout.weight"] * factor
    return set_up.gradient({name: weight.detach() for name, weight in weights.items()}, None)


def test_at_gaps_past_17_float32_pulls_no_right_logit_up_unless_the_loss_is_stable() -> None:
    """Logit by logit, the readout's gradient then sums to 0 over classes only where the right one's entry survived."""
    faithful, stable = small(loss="faithful"), small(loss="stable")
    labels = task_of(faithful).train.labels
    gaps = {}
    for name, recipe in (("faithful", faithful), ("stable", stable)):
        logits, gradient = fitted(recipe, factor=6.0)
        rest = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        gaps[name] = float((logits.gather(1, labels[:, None])[:, 0] - rest).min())
        by_readout = gradient["readout.weight"].double()
        residue = float(by_readout.sum(0).norm() / by_readout.norm())
        assert (residue > 0.5) if name == "faithful" else (residue < 1e-4), (name, residue)
    assert min(gaps.values()) > 17 and max(gaps.values()) < 80


def test_settings_are_checked_and_change_what_is_expected_and_the_cost() -> None:
    assert softmax_collapse().expected is not None and softmax_collapse(loss="stable").expected is None
    assert softmax_collapse(dtype="float64").cost == pytest.approx(2 * softmax_collapse().cost)
    with pytest.raises(InputError, match="one of faithful, stable, stablemax"):
        softmax_collapse(loss="exact")


def test_there_are_snapshots_enough_to_read_a_trend_on_the_plateau() -> None:
    save_at, steps = softmax_collapse().save_at, int(softmax_collapse().settings["steps"])
    kept = [step for step in range(steps + 1) if save_at.keeps(step)]
    assert 20 <= len(kept) <= 45 and kept[0] == 0


@pytest.mark.slow
def test_float32_stalls_where_the_stable_gradient_goes_on() -> None:
    faithful, stable = (train(softmax_collapse(loss=name), seeds=(0,)) for name in ("faithful", "stable"))
    losses = [run.scalars["train_loss"].value[0, -1] for run in (faithful, stable)]
    assert losses[0] > 1e-8 and losses[1] < 1e-14
    accuracies = [run.scalars["heldout_accuracy"].value[0, -1] for run in (faithful, stable)]
    assert accuracies[1] > accuracies[0] + 0.3
