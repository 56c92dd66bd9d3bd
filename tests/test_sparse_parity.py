"""What holds for the recipe of sparse parity: its network is the plain one, and it understands after it has fitted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from twoclocks.errors import InputError
from twoclocks.recipes.sparse_parity import problem, sparse_parity
from twoclocks.training.loop import torch_threads, train
from twoclocks.training.mlp import MLP, mlp_weights
from twoclocks.training.recipe import Recipe
from twoclocks.training.tasks import sparse_parity_task


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def small(**settings: object) -> Recipe:
    return sparse_parity(**{"bits": 12, "examples": 100, "heldout": 200, "hidden": 32, "steps": 60, **settings})


def test_it_has_the_published_sizes() -> None:
    set_up = problem(sparse_parity().settings)
    assert {split: len(labels) for split, labels in set_up.labels.items()} == {"train": 1000, "heldout": 2000}
    weights = set_up.initial(0)
    assert weights["hidden1.weight"].shape[1] == 40 and weights["readout.weight"].shape[0] == 2
    for labels in set_up.labels.values():
        assert float(labels.double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / len(labels) ** 0.5)


@pytest.mark.parametrize("batch", [0, 32])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_is_that_of_torch(optimizer: str, batch: int) -> None:
    """The slow second definition: the plain module, autograd, torch's own update rule, the same batches."""
    recipe = small(batch=batch, optimizer=optimizer, lr=1e-2 if optimizer == "adamw" else 0.5)
    settings, batches = recipe.settings, problem(recipe.settings).batches
    assert (batches is None) == (batch == 0)
    task = sparse_parity_task(12, 3, 100, 200, generator=torch.Generator().manual_seed(0))
    model = MLP([12, 32, 2])
    model.load_state_dict(mlp_weights([12, 32, 2], 1.0, 0, torch.float32))
    model = model.double()
    rule = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), settings["lr"], weight_decay=settings["weight_decay"]),
        "adamw": lambda: torch.optim.AdamW(
            model.parameters(), settings["lr"], (0.9, 0.98), weight_decay=settings["weight_decay"]
        ),
    }[optimizer]()
    bits, labels, losses = task.train.bits.double(), task.train.labels, []
    for step in range(61):
        with torch.no_grad():
            losses.append(F.cross_entropy(model(bits), labels).item())
        rows = slice(None) if batches is None else batches(0, step)
        rule.zero_grad()
        F.cross_entropy(model(bits[rows]), labels[rows]).backward()
        rule.step()
    recorded = train(recipe).scalars["train_loss"]
    np.testing.assert_allclose(recorded.value[0], [losses[step] for step in recorded.step], atol=1e-4)
    assert len(recorded.step) > 20


def test_settings_are_checked_and_change_what_is_expected_and_the_cost() -> None:
    assert sparse_parity().expected is not None and sparse_parity(relevant=2).expected is None
    assert sparse_parity(steps=2 * int(sparse_parity().settings["steps"])).cost == pytest.approx(
        2 * sparse_parity().cost
    )
    with pytest.raises(InputError, match="bits"):
        sparse_parity(bits=63)


def test_there_are_snapshots_enough_to_read_a_trend_before_the_rise() -> None:
    recipe = sparse_parity()
    assert recipe.expected is not None
    fitted, risen = (recipe.expected.clocks[clock][0] for clock in ("T_fit", "T_gen_0.9"))
    kept = [step for step in range(int(recipe.settings["steps"]) + 1) if recipe.save_at.keeps(step)]
    assert kept[0] == 0 and len(kept) >= 20
    assert sum(fitted <= step <= risen for step in kept) >= 5


@pytest.mark.slow
def test_sparse_parity_groks() -> None:
    recipe = sparse_parity()
    assert recipe.expected is not None
    run = train(recipe, seeds=range(3))
    for name, low, high in [(name, *bounds) for name, bounds in recipe.expected.clocks.items()]:
        split, level = {"T_fit": ("train", 0.99), "T_gen_0.9": ("heldout", 0.9)}[name]
        series = run.scalars[f"{split}_accuracy"]
        struck = [int(series.step[(values >= level).argmax()]) for values in series.value]
        assert all(low <= step <= high for step in struck), (name, struck)
    assert len(recipe.expected.clocks) == 2
