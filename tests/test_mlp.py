"""What holds for ReLU networks of plain layers: the step by hand is autograd's, and a training is torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_images import small_images
from twoclocks.recipes.mnist_large_init import mnist_large_init, problem_on
from twoclocks.training.loop import torch_threads, train
from twoclocks.training.mlp import LOSS_GRADIENTS, MLP, layer_names, mlp, mlp_gradient, mlp_weights, squared_loss
from twoclocks.training.modules import shuffled_batches

LOSSES = {
    "cross-entropy": F.cross_entropy,
    "squared": lambda z, y: nn.MSELoss()(z, F.one_hot(y, z.shape[1]).to(z.dtype)),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def examples(n: int, d: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(n)
    return torch.randn(n, d, generator=drawn).to(dtype), torch.randint(classes, (n,), generator=drawn)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("widths", [(7, 3), (7, 5, 3), (6, 9, 8, 4), (5, 6, 7, 6, 2)])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_gradient_by_hand_is_that_of_autograd(loss: str, widths: tuple[int, ...], scale: float) -> None:
    x, y = examples(23, widths[0], widths[-1])
    weights = mlp_weights(widths, scale, seed=3, dtype=torch.float64)
    model = MLP(widths).double()
    model.load_state_dict(weights)
    logits = model(x)
    LOSSES[loss](logits, y).backward()
    problem = mlp({"train": x}, {"train": y}, widths=widths, loss=loss)
    for rows, expected in ((None, logits), (torch.arange(23), logits)):
        found, gradient = problem.gradient(weights, rows)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
        assert list(gradient) == list(weights)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-9, atol=1e-12)
    assert LOSSES.keys() == LOSS_GRADIENTS.keys()


def test_gradient_of_a_batch_is_that_of_its_rows_alone() -> None:
    x, y = examples(12, 4, 3)
    weights, rows = mlp_weights((4, 6, 3), 1.0, 0, torch.float64), torch.tensor([7, 1, 7, 4])
    logits, gradient = mlp({"train": x}, {"train": y}, widths=(4, 6, 3), loss="squared").gradient(weights, rows)
    other, expected = mlp_gradient(weights, x[rows], y[rows], LOSS_GRADIENTS["squared"])
    torch.testing.assert_close(logits, other)
    for name in weights:
        torch.testing.assert_close(gradient[name], expected[name])


def test_forward_gives_what_enters_the_readout_and_what_leaves_it() -> None:
    x, y = examples(9, 4, 3)
    problem = mlp({"train": x, "heldout": -x}, {"train": y, "heldout": y}, widths=(4, 6, 5, 3))
    weights = problem.initial(1)
    features, logits = problem.forward(weights, "heldout")
    model = MLP((4, 6, 5, 3)).double()
    model.load_state_dict(weights)
    torch.testing.assert_close(logits, model(-x).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(features @ weights["readout.weight"].T + weights["readout.bias"], logits)
    assert features.shape == (9, 5) and bool((features >= 0).all())
    assert torch.equal(x, examples(9, 4, 3)[0])  # nothing is done in place to what was given


def test_initial_weights_are_those_of_torch_times_a_scale() -> None:
    torch.manual_seed(5)
    layers = [nn.Linear(6, 4), nn.Linear(4, 3)]
    weights = mlp_weights((6, 4, 3), 8.0, seed=5, dtype=torch.float64)
    seen = 0
    for layer, name in zip(layers, layer_names((6, 4, 3)), strict=True):
        for kind in ("weight", "bias"):
            torch.testing.assert_close(weights[f"{name}.{kind}"], (8 * getattr(layer, kind)).double().detach())
            seen += 1
    assert seen == len(weights) == 4
    assert not torch.equal(weights["hidden1.weight"], mlp_weights((6, 4, 3), 8.0, 6, torch.float64)["hidden1.weight"])


def test_squared_loss_is_torchs() -> None:
    logits, labels = examples(8, 5, 5)
    expected = nn.MSELoss()(logits, F.one_hot(labels, 5).double())
    torch.testing.assert_close(squared_loss(logits, labels), expected)
    assert float(squared_loss(F.one_hot(labels, 5).double(), labels)) == 0.0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"loss": "hinge"}, "loss must be one of cross-entropy, squared, got 'hinge'"),
        ({"widths": (5, 3)}, r"train: expected inputs \[n 5\] with n labels, got \[12, 4\] and 12"),
        ({"widths": (4, 2)}, "train: expected labels from 0 to 1, got 2"),
    ],
)
def test_what_cannot_be_a_network_on_these_examples_is_refused(given: dict[str, object], sentence: str) -> None:
    x, y = examples(12, 4, 3)
    with pytest.raises(ValueError, match=sentence):
        mlp({"train": x}, {"train": y}, **{"widths": (4, 3), **given})  # type: ignore[arg-type]


def test_training_is_adamw_over_shuffled_batches_as_torch_does_it() -> None:
    settings = {
        "examples": 300,
        "heldout": 100,
        "hidden": 16,
        "batch": 64,
        "dtype": "float64",
        "steps": 12,
        "init_scale": 2.0,
    }
    images = small_images()
    recipe = mnist_large_init(**settings)
    recorded = train(replace(recipe, problem=lambda given: problem_on(images, given)), seeds=(4,))
    x, y = images.train.flatten(1).double() / 255, images.train_labels
    model = MLP((784, 16, 16, 10)).double()
    model.load_state_dict(mlp_weights((784, 16, 16, 10), 2.0, 4, torch.float64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    batches, losses = shuffled_batches(300, 64), []
    for step in range(13):
        losses.append(LOSSES["squared"](model(x), y).item())
        rows = batches(4, step)
        optimizer.zero_grad()
        LOSSES["squared"](model(x[rows]), y[rows]).backward()
        optimizer.step()
    found = recorded.scalars["train_loss"]
    assert len(found.step) == 13
    np.testing.assert_allclose(found.value[0], losses, rtol=1e-9)
