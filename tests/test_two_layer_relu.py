"""What holds for the two-layer ReLU network on two ones: its structured step is the plain one, and it starts as published."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from twoclocks.recipes import two_layer_relu
from twoclocks.training.loop import torch_threads, train
from twoclocks.training.models import TwoHotMLP, lookup_of, two_hot_gradient, two_hot_mlp, two_hot_weights
from twoclocks.training.recipe import Recipe
from twoclocks.training.tasks import PairTask, modular_addition_task


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def task_of(p: int) -> PairTask:
    split = torch.Generator().manual_seed(0)
    return modular_addition_task(p, 0.4, shuffle_labels=False, generator=split)


def small(**settings: object) -> Recipe:
    return two_layer_relu(p=13, hidden=24, lr=1.0, steps=120, **settings)


def test_structured_gradient_is_that_of_autograd() -> None:
    task = task_of(13)
    model = TwoHotMLP(13, 24, 1.5).double()
    model.hidden.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    logits = model(task.train.left, task.train.right)
    F.cross_entropy(logits, task.train.labels).backward()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    found, gradient = two_hot_gradient(weights, lookup_of(task.train, 13))
    torch.testing.assert_close(found, logits.detach(), rtol=1e-12, atol=1e-12)
    assert set(gradient) == {"hidden.weight", "hidden.bias", "readout.weight"}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-10, atol=1e-15)
    features, heldout = two_hot_mlp(task, 24, 1.5).forward(weights, "heldout")
    plain = model(task.heldout.left, task.heldout.right).detach()
    torch.testing.assert_close(heldout, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(features @ weights["readout.weight"].T, plain, rtol=1e-12, atol=1e-12)


def test_initial_weights_have_the_published_variances_and_a_scale() -> None:
    weights, scaled = two_hot_weights(97, 1024, 1.0, seed=0), two_hot_weights(97, 1024, 4.0, seed=0)
    assert float(weights["hidden.weight"].var()) == pytest.approx(2 / 194, rel=0.02)
    assert float(weights["readout.weight"].var()) == pytest.approx(1 / 1024, rel=0.02)
    assert not bool(weights["hidden.bias"].any())
    for name, weight in weights.items():
        torch.testing.assert_close(scaled[name], 4 * weight)
    assert not torch.equal(weights["hidden.weight"], two_hot_weights(97, 1024, 1.0, seed=1)["hidden.weight"])


def test_training_is_gradient_descent_as_torch_does_it() -> None:
    recipe, task = small(weight_decay=0.01), task_of(13)
    model = TwoHotMLP(13, 24, 1.0)
    model.load_state_dict(two_hot_weights(13, 24, 1.0, seed=0))
    model = model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.01)
    losses = []
    for _ in range(121):
        loss = F.cross_entropy(model(task.train.left, task.train.right), task.train.labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    recorded = train(recipe).scalars["train_loss"]
    np.testing.assert_allclose(recorded.value[0], [losses[step] for step in recorded.step], atol=2e-5)


def test_what_descends_is_the_loss_with_its_decay() -> None:
    run = train(small(weight_decay=0.02))
    norm, loss = run.scalars["weight_norm"].value[0], run.scalars["train_loss"].value[0]
    np.testing.assert_allclose(run.scalars["objective"].value[0], loss + 0.01 * norm**2, rtol=1e-6)
    assert bool((np.diff(run.scalars["objective"].value[0]) < 0).all())
    assert run.settings["decay"] == "coupled"


def test_published_settings_can_be_chosen_and_say_what_they_cost() -> None:
    published = two_layer_relu(hidden=1024, lr=0.002, weight_decay=1e-4, steps=5_000_000)
    assert published.cost > 100_000 and published.expected is None
    assert two_layer_relu().expected is not None and two_layer_relu().cost < 600
