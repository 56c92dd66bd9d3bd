"""What holds for our own training: the structured step is the plain one, and runs are recorded as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from small_networks import BATCH, BLOCKS, TRAIN, falling, recipe_of, several_rules, three_layers_problem
from twoclocks.errors import InputError
from twoclocks.optimiser_of import is_decay_coupled, momentum_of
from twoclocks.recipes import deep_linear, modular_addition
from twoclocks.training.loop import advanced, flat, named, set_up, standing, torch_threads, train
from twoclocks.training.models import (
    EmbeddingMLP,
    cross_entropy_gradient,
    initial_weights,
    lookup_of,
    readout_logits,
    structured_features,
    structured_gradient,
)
from twoclocks.training.modules import shuffled_batches
from twoclocks.training.optimizers import AdamW, Frozen, GradientDescent, adamw_update, zero_moments
from twoclocks.training.recipe import Recipe, Weights
from twoclocks.training.tasks import Pairs, modular_addition_task
from twoclocks.trajectory import SaveAt, Trajectory

SMALL = modular_addition(p=23, width=16, hidden=32, lr=1e-2, steps=120)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def task_of(recipe: Recipe) -> Pairs:
    settings = recipe.settings
    split = torch.Generator().manual_seed(settings["data_seed"])
    return modular_addition_task(settings["p"], settings["train_fraction"], shuffle_labels=False, generator=split).train


def plain_model(recipe: Recipe, dtype: torch.dtype) -> EmbeddingMLP:
    settings = recipe.settings
    model = EmbeddingMLP(settings["p"], settings["width"], settings["hidden"])
    model.load_state_dict(initial_weights(settings["p"], settings["width"], settings["hidden"], seed=0))
    return model.to(dtype)


def plain_loop(recipe: Recipe, steps: int, dtype: torch.dtype) -> tuple[list[float], dict[str, Tensor]]:
    """The slow second definition, by autograd and torch's own AdamW: losses before each update, last weights."""
    model, pairs, settings = plain_model(recipe, dtype), task_of(recipe), recipe.settings
    betas = (settings["beta1"], settings["beta2"])
    optimizer = torch.optim.AdamW(model.parameters(), settings["lr"], betas, weight_decay=settings["weight_decay"])
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(pairs.left, pairs.right), pairs.labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses, {name: weight.detach() for name, weight in model.named_parameters()}


def structured_loop(recipe: Recipe, steps: int, dtype: torch.dtype) -> tuple[list[float], dict[str, Tensor]]:
    experiment = set_up(recipe, (0,))
    weights = flat(experiment.problem.initial(0)).to(dtype)
    run, losses = standing(0, 0, weights, zero_moments(weights, experiment.rule), experiment), []
    for step in range(steps):
        losses.append(F.cross_entropy(run.logits, experiment.problem.labels["train"]).item())
        run = advanced(run, step + 1, experiment)
    return losses, named(run.weights, experiment)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return sum(float((one[name].double() - other[name].double()).square().sum()) for name in one) ** 0.5


def assert_step_is_exact(recipe: Recipe) -> None:
    """The same gradient; the same losses in float64; in float32 no farther from float64 than 3 times the plain loop.

    AdamW amplifies rounding: at lr 3e-3 and full size the plain float32 loop is 2e-4 from float64 within 50 steps.
    """
    model, pairs = plain_model(recipe, torch.float64), task_of(recipe)
    F.cross_entropy(model(pairs.left, pairs.right), pairs.labels).backward()
    weights = {name: weight.detach().float() for name, weight in model.named_parameters()}
    _, gradient = structured_gradient(weights, lookup_of(pairs, recipe.settings["p"]))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient[name].double(), parameter.grad, atol=1e-5, rtol=0)
        assert float((gradient[name] - parameter.grad).norm() / parameter.grad.norm()) < 1e-5
    exact_losses, exact = plain_loop(recipe, 200, torch.float64)
    in_double, _ = structured_loop(recipe, 50, torch.float64)
    np.testing.assert_allclose(in_double, exact_losses[:50], atol=1e-9)
    plain_losses, plain = plain_loop(recipe, 200, torch.float32)
    losses, structured = structured_loop(recipe, 200, torch.float32)
    plain_error, error = (np.abs(np.subtract(of, exact_losses)[:51]).max() for of in (plain_losses, losses))
    assert error <= 3 * plain_error
    assert distance(structured, exact) <= 3 * distance(plain, exact)


def test_structured_step_is_the_plain_step() -> None:
    recipe = modular_addition(p=31, width=32, hidden=64)
    assert_step_is_exact(recipe)
    losses, plain_losses = structured_loop(recipe, 50, torch.float32)[0], plain_loop(recipe, 50, torch.float32)[0]
    np.testing.assert_allclose(losses, plain_losses, atol=1e-5)


@pytest.mark.slow
def test_structured_step_is_the_plain_step_at_full_size() -> None:
    assert_step_is_exact(modular_addition())


def test_structured_gradient_in_float64_is_autograd_to_rounding() -> None:
    model, pairs = plain_model(SMALL, torch.float64), task_of(SMALL)
    logits = model(pairs.left, pairs.right)
    F.cross_entropy(logits, pairs.labels).backward()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    found, gradient = structured_gradient(weights, lookup_of(pairs, 23))
    torch.testing.assert_close(found, logits.detach(), rtol=1e-12, atol=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-10, atol=1e-15)


def test_cross_entropy_gradient_is_autograd() -> None:
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    F.cross_entropy(logits, labels).backward()
    torch.testing.assert_close(cross_entropy_gradient(logits.detach(), labels), logits.grad)


def test_adamw_is_that_of_torch_for_100_updates() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(40, generator=generator, dtype=torch.float64)
    parameter = torch.nn.Parameter(weights.clone())
    optimizer = torch.optim.AdamW([parameter], lr=3e-3, betas=(0.9, 0.98), weight_decay=1.0)
    moments = zero_moments(weights, AdamW(3e-3, 0.9, 0.98, 1.0))
    for update in range(1, 101):
        gradient = torch.randn(40, generator=generator, dtype=torch.float64)
        weights, moments = adamw_update(weights, gradient, moments, update, AdamW(3e-3, 0.9, 0.98, 1.0))
        parameter.grad = gradient
        optimizer.step()
    torch.testing.assert_close(weights, parameter.detach(), rtol=1e-12, atol=1e-12)


def test_gradient_of_some_pairs_is_autograd() -> None:
    model, pairs, problem = plain_model(SMALL, torch.float64), task_of(SMALL), SMALL.problem(SMALL.settings)
    weights, rows = {name: weight.detach() for name, weight in model.named_parameters()}, torch.tensor([7, 3, 99])
    loss = F.cross_entropy(model(pairs.left[rows], pairs.right[rows]), pairs.labels[rows])
    expected = torch.autograd.grad(loss, tuple(model.parameters()))
    gradient = problem.gradient(weights, rows)[1]
    for name, of_name in zip(weights, expected, strict=True):
        torch.testing.assert_close(gradient[name], of_name, rtol=1e-10, atol=1e-15)


def test_a_linear_network_has_no_gradient_of_some_examples() -> None:
    recipe = deep_linear()
    problem = recipe.problem(recipe.settings)
    with pytest.raises(InputError, match="trained on all examples at once"):
        problem.gradient(problem.initial(0), torch.tensor([0]))


def test_a_gradient_is_read_by_name_whatever_its_order() -> None:
    problem = three_layers_problem()

    def backwards(weights: Weights, rows: Tensor | None) -> tuple[Tensor, Weights]:
        logits, gradient = problem.gradient(weights, rows)
        return logits, dict(reversed(gradient.items()))

    assert_same_recording(
        train(recipe_of(problem, steps=20)), train(recipe_of(replace(problem, gradient=backwards), steps=20))
    )


def test_a_schedule_is_recorded_as_it_acted() -> None:
    trajectory = train(recipe_of(three_layers_problem(schedule=falling), lr=0.01, steps=60))
    lr, flow_time = trajectory.scalars["lr"], trajectory.scalars["flow_time"]
    assert lr.step.tolist() == flow_time.step.tolist() and len(lr.step) > 10
    for step, rate, time in zip(lr.step, lr.value[0], flow_time.value[0], strict=True):
        assert rate == pytest.approx(0.01 * falling(max(step, 1)), rel=1e-12)
        assert time == pytest.approx(0.01 * sum(falling(update) for update in range(1, step + 1)), rel=1e-12)
    assert trajectory.snapshots[-1].flow_time == flow_time.value[0, -1]
    constant = train(recipe_of(three_layers_problem(schedule=lambda update: 1.0), steps=20))
    assert_same_recording(constant, train(recipe_of(three_layers_problem(), steps=20)))


@pytest.mark.parametrize("factor", [-0.1, float("nan"), float("inf")])
def test_a_schedule_without_sense_is_refused(factor: float) -> None:
    with pytest.raises(InputError, match="a schedule must give finite factors from 0 on"):
        train(recipe_of(three_layers_problem(schedule=lambda update: factor), steps=3))


def test_a_frozen_block_stays_and_the_others_move() -> None:
    rules = {**several_rules(), "outer": Frozen()}
    trajectory = train(recipe_of(three_layers_problem(rules=rules), steps=30))
    first, last = trajectory.snapshots[0].tensors, trajectory.snapshots[-1].tensors
    for block, names in BLOCKS.items():
        for name in names:
            assert np.array_equal(first[f"weights/{name}"], last[f"weights/{name}"]) == (block == "outer")
    assert trajectory.scalars["update_size.outer"].value.max() == 0.0
    assert trajectory.settings["rules"]["outer"] == {"name": "Frozen"}
    assert trajectory.settings["rules"]["hidden"]["name"] == "Muon"


def test_what_is_said_of_the_optimiser_and_its_objective() -> None:
    """F is written where something descends it; ‖∇F‖² where its gradient is that of all examples."""
    plain = GradientDescent(0.1, 1e-3)
    cases: list[tuple[dict[str, Any], dict[str, Any], str | None, set[str]]] = [
        ({}, {"optimizer": "sgd"}, "coupled", {"objective", "squared_gradient_norm"}),
        ({"batches": shuffled_batches(TRAIN, BATCH)}, {"optimizer": "sgd"}, "coupled", {"objective"}),
        ({}, {"optimizer": "sgd", "momentum": 0.9}, None, set()),
        ({}, {}, "decoupled", set()),
        ({"rules": several_rules()}, {}, None, set()),
        ({"rules": dict.fromkeys(BLOCKS, plain)}, {}, "coupled", {"objective", "squared_gradient_norm"}),
    ]
    for how, settings, decay, written in cases:
        trajectory = train(recipe_of(three_layers_problem(**how), steps=3, **settings))
        assert trajectory.settings.get("decay") == decay
        assert set(trajectory.scalars) & {"objective", "squared_gradient_norm"} == written
    assert len(cases) == 6
    with_momentum = train(recipe_of(three_layers_problem(), steps=3, optimizer="sgd", momentum=0.9))
    assert momentum_of(with_momentum) == 0.9 and is_decay_coupled(with_momentum) is None


def test_split_holds_every_pair_once_and_depends_on_its_seed() -> None:
    def split(seed: int) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        task = modular_addition_task(7, 0.4, shuffle_labels=False, generator=torch.Generator().manual_seed(seed))
        parts = [set(zip(p.left.tolist(), p.right.tolist(), strict=True)) for p in (task.train, task.heldout)]
        return parts[0], parts[1]

    train_pairs, heldout_pairs = split(0)
    assert len(train_pairs) == 19 and len(heldout_pairs) == 30
    assert train_pairs | heldout_pairs == {(a, b) for a in range(7) for b in range(7)}
    assert split(1) != split(0)


def test_shuffled_labels_are_the_same_labels_dealt_out_anew() -> None:
    task = modular_addition_task(11, 0.5, shuffle_labels=True, generator=torch.Generator().manual_seed(0))
    labels = torch.cat([task.train.labels, task.heldout.labels])
    assert torch.bincount(labels).tolist() == [11] * 11
    right = (task.train.left + task.train.right) % 11 == task.train.labels
    assert right.double().mean() < 0.3


def assert_same_recording(one: Trajectory, other: Trajectory) -> None:
    """Every scalar and every tensor equal to the last bit."""
    assert one.scalars.keys() == other.scalars.keys()
    for name, series in one.scalars.items():
        np.testing.assert_array_equal(series.step, other.scalars[name].step)
        np.testing.assert_array_equal(series.value, other.scalars[name].value)
    assert [s.step for s in one.snapshots] == [s.step for s in other.snapshots]
    compared = 0
    for mine, theirs in zip(one.snapshots, other.snapshots, strict=True):
        for name in mine.tensors:
            np.testing.assert_array_equal(mine.tensors[name], theirs.tensors[name])
            compared += 1
    assert compared > 0


def test_training_twice_gives_the_same_bits(tmp_path: Path) -> None:
    assert_same_recording(train(SMALL, folder=tmp_path / "a"), train(SMALL, folder=tmp_path / "b"))


def test_run_of_an_ensemble_is_that_run_alone() -> None:
    ensemble, alone = train(SMALL, seeds=[3, 5, 4]), train(SMALL, seeds=[5])
    for name, series in alone.scalars.items():
        np.testing.assert_array_equal(ensemble.scalars[name].value[1:2], series.value)
    for together, single in zip(ensemble.snapshots, alone.snapshots, strict=True):
        for name in single.tensors:
            np.testing.assert_array_equal(together.tensors[name][1:2], single.tensors[name])
    assert ensemble.runs == 3
    assert not np.array_equal(ensemble.scalars["train_loss"].value[0], ensemble.scalars["train_loss"].value[2])


def test_another_split_gives_another_training() -> None:
    other = modular_addition(p=23, width=16, hidden=32, lr=1e-2, steps=120, data_seed=1)
    assert not np.array_equal(train(SMALL).scalars["train_loss"].value, train(other).scalars["train_loss"].value)


def test_what_is_recorded_is_what_the_plain_loop_sees() -> None:
    run = train(SMALL)
    losses, weights = plain_loop(SMALL, 120, torch.float32)
    recorded = run.scalars["train_loss"]
    early = recorded.step < 30
    assert recorded.step[0] == 0 and early.sum() > 15
    np.testing.assert_allclose(recorded.value[0, early], [losses[s] for s in recorded.step[early]], atol=1e-5)
    last = {name: torch.from_numpy(run.snapshots[-1].tensors[f"weights/{name}"][0]) for name in weights}
    assert distance(last, weights) < 0.05 * distance(weights, {name: torch.zeros(()) for name in weights})


def test_snapshot_fits_its_own_scalars_and_its_labels() -> None:
    run = train(SMALL)
    snapshot = next(s for s in run.snapshots if s.step == 100)
    at = int(np.searchsorted(run.scalars["train_accuracy"].step, 100))
    weight, bias = (torch.from_numpy(snapshot.tensors[f"readout/{part}"][0]) for part in ("weight", "bias"))
    assert {split: len(batch.labels) for split, batch in run.batches.items()} == {"train": 211, "heldout": 318}
    for split, batch in run.batches.items():
        logits = torch.from_numpy(snapshot.tensors[f"features/{split}"][0]).float() @ weight.T + bias
        right = (logits.argmax(1) == torch.from_numpy(batch.labels)).double().mean()
        assert abs(float(right) - run.scalars[f"{split}_accuracy"].value[0, at]) < 0.02
    assert snapshot.flow_time == pytest.approx(1.0)
    assert run.scalars["flow_time"].value[0, at] == pytest.approx(1.0)


def test_update_sizes_are_those_of_the_last_step() -> None:
    run = train(replace(SMALL, save_at=SaveAt(every=1, snapshot_every=1)))
    before, after = run.snapshots[49].tensors, run.snapshots[50].tensors
    moved = np.linalg.norm(after["weights/embedding.weight"] - before["weights/embedding.weight"])
    size = np.linalg.norm(before["weights/embedding.weight"])
    series = run.scalars["update_size.embedding"]
    assert series.step[0] == 1
    assert series.value[0, list(series.step).index(50)] == pytest.approx(moved / size, rel=1e-4)


def test_features_are_kept_of_so_many_examples_and_no_more() -> None:
    run = train(replace(SMALL, save_at=SaveAt(examples=50, weights=False)))
    assert {split: (len(b.labels), b.population) for split, b in run.batches.items()} == {
        "train": (50, 211),
        "heldout": (50, 318),
    }
    assert run.snapshots[0].tensors["features/heldout"].shape == (1, 50, 32)
    assert not [name for name in run.snapshots[0].tensors if name.startswith("weights/")]


def test_first_and_last_step_are_always_recorded() -> None:
    run = train(replace(SMALL, save_at=SaveAt(per_decade=0, every=0, snapshots_per_decade=0, features=False)))
    assert run.scalars["heldout_accuracy"].step.tolist() == [0, 120]
    assert [s.step for s in run.snapshots] == [0, 120]
    assert run.snapshots[0].tensors.keys() >= {"readout/weight", "weights/embedding.weight"}


def test_a_diverged_run_is_told_and_the_others_go_on() -> None:
    recipe = modular_addition(p=23, width=16, hidden=32, steps=200, lr=10.0)
    run = train(recipe, seeds=[0, 1])
    assert np.isnan(run.scalars["train_loss"].value[:, -1]).all()
    assert [event.what.split(" diverged")[0] for event in run.events] == ["run 0 (seed 0)", "run 1 (seed 1)"]
    assert run.last_step == 200


def test_a_run_that_diverges_leaves_the_others_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned = initial_weights

    def seed_1_is_broken(symbols: int, width: int, hidden: int, seed: int, **how: bool) -> dict[str, Tensor]:
        weights = poisoned(symbols, width, hidden, seed)
        return {name: w * torch.nan for name, w in weights.items()} if seed == 1 else weights

    monkeypatch.setattr("twoclocks.training.models.initial_weights", seed_1_is_broken)
    both, alone = train(SMALL, seeds=[0, 1]), train(SMALL, seeds=[0])
    for name, series in alone.scalars.items():
        np.testing.assert_array_equal(both.scalars[name].value[:1], series.value)
    assert np.isnan(both.scalars["heldout_loss"].value[1]).all()
    assert np.isnan(both.scalars["train_margin_min"].value[1]).all()
    assert len(both.events) == 1


def test_threads_are_restored_and_progress_reaches_the_end() -> None:
    before, seen = torch.get_num_threads(), []
    train(SMALL, progress=lambda step, steps: seen.append((step, steps)), threads=1)
    assert torch.get_num_threads() == before
    assert seen[0] == (0, 120) and seen[-1] == (120, 120) and seen == sorted(seen)


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(modular_addition(p=5, width=4, hidden=8, steps=2))
    torch.testing.assert_close(torch.rand(3), expected)


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [0.5], ["a"]])
def test_unusable_seeds_are_refused(seeds: list[int]) -> None:
    with pytest.raises(InputError, match="seeds must be different whole numbers from 0 on"):
        train(SMALL, seeds=seeds)


def test_no_threads_are_refused() -> None:
    with pytest.raises(InputError, match="threads must be at least 1"):
        train(SMALL, threads=0)


def test_the_folder_says_what_was_trained(tmp_path: Path) -> None:
    run = train(SMALL, seeds=[2, 3], folder=tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["recipe"] == "modular-addition"
    assert manifest["settings"] == dict(SMALL.settings)
    assert manifest["seeds"] == [2, 3]
    assert manifest["eval_sizes"] == {"train": 211, "heldout": 318}
    assert run.settings["cost"]["training_seconds"] > 0 and run.settings["cost"]["recording_seconds"] > 0


def test_another_recipe_is_not_written_over(tmp_path: Path) -> None:
    train(SMALL, folder=tmp_path / "run")
    with pytest.raises(InputError, match="settings"):
        train(modular_addition(p=23, width=16, hidden=32, lr=1e-2, steps=121), folder=tmp_path / "run")


def test_features_do_not_depend_on_the_split_they_are_asked_with() -> None:
    task = modular_addition_task(11, 0.5, shuffle_labels=False, generator=torch.Generator().manual_seed(0))
    model = EmbeddingMLP(11, 8, 16)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    for pairs in (task.train, task.heldout):
        features = structured_features(weights, lookup_of(pairs, 11))
        torch.testing.assert_close(readout_logits(weights, features), model(pairs.left, pairs.right).detach())
