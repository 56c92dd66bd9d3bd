"""What holds for the recipe of S5: its batches are its pairs, its training is that of a plain loop, and it is late."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from twoclocks.errors import InputError
from twoclocks.recipes.s5 import problem, s5, work
from twoclocks.training.loop import torch_threads, train
from twoclocks.training.models import EmbeddingMLP, initial_weights
from twoclocks.training.recipe import Recipe
from twoclocks.training.tasks import composition_task, permutation_table


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def small(**settings: object) -> Recipe:
    return s5(**{"letters": 4, "width": 16, "hidden": 32, "batch": 64, "steps": 60, **settings})


def test_it_is_the_whole_of_s5() -> None:
    """120 classes and 14,400 pairs, half of them trained on."""
    set_up = problem(s5().settings)
    assert {split: len(labels) for split, labels in set_up.labels.items()} == {"train": 7200, "heldout": 7200}
    everything = torch.cat(list(set_up.labels.values()))
    assert torch.equal(everything.bincount(), torch.full((120,), 120))


def test_every_epoch_sees_every_training_pair_once() -> None:
    set_up = problem(s5().settings)
    assert set_up.batches is not None
    epoch = [set_up.batches(3, step) for step in range(15)]
    assert [len(rows) for rows in epoch] == 14 * [512] + [32]
    assert torch.equal(torch.cat(epoch).sort().values, torch.arange(7200))


@pytest.mark.parametrize("batch", [0, 288, 100_000])
def test_a_batch_of_all_pairs_is_full_batch(batch: int) -> None:
    assert problem(small(batch=batch).settings).batches is None


def test_training_is_adamw_on_batches_as_torch_does_it() -> None:
    """The slow second definition: the plain module, autograd, torch's own AdamW, the same batches."""
    recipe = small()
    task = composition_task(permutation_table(4), 0.5, generator=torch.Generator().manual_seed(0))
    batches = problem(recipe.settings).batches
    assert batches is not None
    model = EmbeddingMLP(24, 16, 32)
    model.load_state_dict(initial_weights(24, 16, 32, seed=2))
    model = model.double()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.98), weight_decay=1.0)
    losses = []
    for step in range(61):
        with torch.no_grad():
            losses.append(F.cross_entropy(model(task.train.left, task.train.right), task.train.labels).item())
        rows = batches(2, step)
        optimizer.zero_grad()
        F.cross_entropy(model(task.train.left[rows], task.train.right[rows]), task.train.labels[rows]).backward()
        optimizer.step()
    recorded = train(recipe, seeds=(2,)).scalars["train_loss"]
    np.testing.assert_allclose(recorded.value[0], [losses[step] for step in recorded.step], atol=1e-4)
    assert len(recorded.step) > 20


def test_settings_are_checked_and_change_what_is_expected_and_the_cost() -> None:
    assert s5().expected is not None and s5(hidden=257).expected is None
    assert s5(steps=2 * int(s5().settings["steps"])).cost == pytest.approx(2 * s5().cost)
    assert work(s5(batch=0).settings) == pytest.approx(work(s5().settings) * 7200 / 512)
    with pytest.raises(InputError, match="letters"):
        s5(letters=7)


def test_there_are_snapshots_enough_to_read_a_trend_before_the_rise() -> None:
    recipe = s5()
    assert recipe.expected is not None
    (_, fitted), (risen, _) = (recipe.expected.clocks[clock] for clock in ("T_fit", "T_gen_0.9"))
    kept = [step for step in range(int(recipe.settings["steps"]) + 1) if recipe.save_at.keeps(step)]
    assert kept[0] == 0 and len(kept) >= 15
    assert sum(fitted <= step <= risen for step in kept) >= 5


@pytest.mark.slow
def test_s5_groks() -> None:
    recipe = s5()
    assert recipe.expected is not None
    run = train(recipe, seeds=range(2))
    for name, low, high in [(name, *bounds) for name, bounds in recipe.expected.clocks.items()]:
        split, level = {"T_fit": ("train", 0.99), "T_gen_0.9": ("heldout", 0.9)}[name]
        series = run.scalars[f"{split}_accuracy"]
        struck = [int(series.step[(values >= level).argmax()]) for values in series.value]
        assert all(low <= step <= high for step in struck), (name, struck)
    assert len(recipe.expected.clocks) == 2
