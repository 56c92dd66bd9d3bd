"""What holds for linear networks: their gradient, their initial weights, where polishing ends, how they are taken up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from twoclocks.diagnosis import diagnose
from twoclocks.errors import InputError
from twoclocks.evidence import examine
from twoclocks.measures.balance import balancedness_defect
from twoclocks.recipes import deep_linear, separable_logistic
from twoclocks.recipes.deep_linear import problem, singular_vectors
from twoclocks.report.page import write_report
from twoclocks.store import load
from twoclocks.training.linear import product
from twoclocks.training.loop import set_up, train
from twoclocks.training.polish import Objective, hessian, polished
from twoclocks.training.recipe import Recipe
from twoclocks.trajectory import Trajectory

SMALL = {"width": 3, "spectrum": "3,1", "lr": 0.1, "steps": 220}


def plain_loss(recipe: Recipe, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The slow second definition: every example through every layer. Returns logits and loss."""
    settings, inputs = recipe.settings, examples_of(recipe)
    logits = inputs
    for layer in layers:
        logits = logits @ layer.T
    if settings["loss"] == "square":
        left, right = singular_vectors(settings)
        numbers = [float(part) for part in str(settings["spectrum"]).split(",")]
        target = left @ torch.tensor(numbers, dtype=torch.float64).diag() @ right.T
        return logits, 0.5 * (logits.T - target).square().sum()
    return logits, F.cross_entropy(logits, problem(settings).labels["train"])


def examples_of(recipe: Recipe) -> Tensor:
    """Return the training inputs, `[n d]`."""
    settings = recipe.settings
    if settings["task"] == "modular-addition":
        p, generator = settings["p"], torch.Generator().manual_seed(settings["data_seed"])
        chosen = torch.randperm(p * p, generator=generator)[: int(settings["train_fraction"] * p * p)].sort().values
        ones = torch.eye(2 * p, dtype=torch.float64)
        return ones[chosen // p] + ones[chosen % p + p]
    size = len(settings["spectrum"].split(",")) if settings["loss"] == "square" else settings["p"]
    return torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "task",
    [
        {"loss": "square"},
        {"loss": "cross-entropy", "p": 6},
        {"loss": "cross-entropy", "task": "modular-addition", "p": 5},
    ],
)
def test_gradient_is_that_of_autograd(depth: int, task: dict[str, object]) -> None:
    recipe = deep_linear(depth=depth, width=7, init="random", init_scale=1.0, **task)
    weights = problem(recipe.settings).initial(3)
    layers = [weight.clone().requires_grad_() for weight in weights.values()]
    plain_logits, loss = plain_loss(recipe, layers)
    loss.backward()
    logits, gradient = problem(recipe.settings).gradient(weights)
    torch.testing.assert_close(logits, plain_logits.detach(), rtol=1e-12, atol=1e-12)
    assert list(gradient) == [f"layer.{number}" for number in range(1, depth + 1)]
    for layer, of_layer in zip(layers, gradient.values(), strict=True):
        torch.testing.assert_close(of_layer, layer.grad, rtol=1e-11, atol=1e-13)
    features, again = problem(recipe.settings).forward(weights, "train")
    torch.testing.assert_close(features @ layers[-1].detach().T, logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(again, logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "task", [{}, {"loss": "cross-entropy", "p": 6}, {"loss": "cross-entropy", "task": "modular-addition"}]
)
@pytest.mark.parametrize("width", [2, 5, 30])
def test_balanced_layers_are_balanced_and_another_seed_turns_them(task: dict[str, object], width: int) -> None:
    built = problem(deep_linear(depth=3, width=width, init_scale=0.7, **task).settings)
    layers = list(built.initial(0).values())
    torch.testing.assert_close(balancedness_defect(layers), torch.zeros(2).double(), atol=1e-14, rtol=0)
    values = torch.linalg.svdvals(product(layers))
    kept = min(width, len(values))
    torch.testing.assert_close(values[:kept], torch.full((kept,), 0.7**3, dtype=torch.float64), rtol=1e-12, atol=0)
    assert not torch.equal(product(layers), product(list(built.initial(1).values())))


def test_balanced_layers_turn_towards_the_target_and_not_away() -> None:
    recipe = deep_linear(width=4, rotate=True)
    left, right = singular_vectors(recipe.settings)
    for seed in range(5):
        start = product(list(problem(recipe.settings).initial(seed).values()))
        assert float((left.T @ start @ right).det()) > 0


def test_random_layers_have_the_variance_that_is_stated() -> None:
    first, second = problem(deep_linear(width=400, init="random", init_scale=2.0).settings).initial(0).values()
    for layer in (first, second):
        assert float(layer.square().mean()) == pytest.approx(4.0 / 400, rel=0.1)


def test_rotating_the_target_changes_no_aligned_course() -> None:
    plain, turned = (
        train(deep_linear(**SMALL, init="aligned", rotate=rotate)).scalars["train_loss"].value
        for rotate in (False, True)
    )
    np.testing.assert_allclose(plain, turned, rtol=1e-12)


def test_labels_of_the_square_loss_are_the_largest_entries_of_the_columns() -> None:
    run = train(deep_linear(**SMALL, init="aligned", rotate=False, weight_decay=0.0))
    assert run.batches["train"].labels.tolist() == [0, 1]
    assert run.scalars["train_accuracy"].value[0, -1] == 1.0
    assert run.scalars["train_loss"].value[0, -1] == pytest.approx(0.0, abs=1e-12)


def least_energy(spectrum: Sequence[float], decay: float) -> float:
    """Return the least of ½(s − u)² + λu over modes: F_∞ of two balanced layers."""
    return sum(0.5 * min(s, decay) ** 2 + decay * max(s - decay, 0.0) for s in spectrum)


@pytest.mark.parametrize("width", [2, 5])
def test_polishing_finds_the_limit_its_map_and_its_flat_directions(width: int) -> None:
    run = train(deep_linear(width=width, spectrum="3,1", weight_decay=0.5, lr=0.1, steps=20), seeds=[0, 1])
    polish = run.settings["polish"]
    assert len(polish["objective"]) == 2
    for r in range(2):
        assert polish["objective_at_start"][r] == pytest.approx(run.scalars["objective"].value[r, -1], rel=1e-12)
        assert polish["objective_at_start"][r] > polish["objective"][r] + 1e-6
        assert polish["objective"][r] == pytest.approx(least_energy((3, 1), 0.5), abs=1e-13)
        assert polish["gradient_norm"][r] < 1e-11
        np.testing.assert_allclose(polish["singular_values"][r], [2.5, 0.5], atol=1e-11)
        assert polish["flat_directions"][r] == 2 * (width - 2) + 1  # rotations of the hidden units that the map uses
        assert abs(polish["smallest_curvature"][r]) < 1e-8
        assert polish["slowest_rate"][r] == pytest.approx(1.0, abs=1e-6)  # 2 (s − λ) of the slower mode


def test_polishing_goes_on_where_the_curvature_vanishes() -> None:
    run = train(deep_linear(width=4, init="aligned", init_scale=0.5, lr=0.1, steps=2000))
    polish = run.settings["polish"]
    assert polish["objective"][0] == pytest.approx(least_energy((3, 1, 0.5, 0.2), 0.5), abs=1e-13)
    assert polish["objective_at_start"][0] - polish["objective"][0] > 1e-7
    assert polish["gradient_norm"][0] < 1e-11


def test_polishing_a_quadratic_and_its_hessian() -> None:
    matrix = np.diag([4.0, 1.0, 0.0])
    found = polished(Objective(lambda w: 0.5 * w @ matrix @ w, lambda w: matrix @ w, 1.0), np.ones(3))
    np.testing.assert_allclose(found.weights, [0, 0, 1], atol=1e-12)
    assert (found.objective_at_start, found.flat_directions) == (2.5, 1)
    assert found.smallest_curvature == pytest.approx(0.0, abs=1e-9)
    assert found.slowest_rate == pytest.approx(1.0, abs=1e-9)


def test_hessian_of_differences_is_that_of_autograd() -> None:
    recipe = deep_linear(depth=3, width=4, loss="cross-entropy", p=4, init="random", init_scale=1.0)
    built = problem(recipe.settings)
    weights = built.initial(0)
    start = torch.cat([weight.flatten() for weight in weights.values()])

    def split(vector: Tensor) -> dict[str, Tensor]:
        parts = vector.split([weight.numel() for weight in weights.values()])
        return {name: part.view(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)}

    def gradient(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return torch.cat([g.flatten() for g in built.gradient(split(torch.from_numpy(vector)))[1].values()]).numpy()

    exact = torch.autograd.functional.hessian(lambda v: plain_loss(recipe, list(split(v).values()))[1], start)
    np.testing.assert_allclose(hessian(gradient, start.numpy()), exact.numpy(), atol=1e-11)


def test_what_has_no_stationary_point_is_not_polished() -> None:
    for recipe in (
        deep_linear(**SMALL, optimizer="adamw"),
        deep_linear(**SMALL, polish=False),
        deep_linear(loss="cross-entropy", p=4, width=4, steps=20, weight_decay=0.0),
        separable_logistic(n=8, heldout=0, steps=20),
    ):
        assert "polish" not in train(recipe).settings
    assert "polish" in train(separable_logistic(n=8, heldout=0, steps=20, weight_decay=0.01)).settings


def test_a_diverged_run_is_not_polished() -> None:
    run = train(deep_linear(**SMALL | {"lr": 5.0, "optimizer": "sgd"}))
    assert run.settings["polish"]["objective"] == [None] and run.settings["polish"]["singular_values"] == [None]
    assert [event.what for event in run.events] == [
        "run 0 (seed 0) diverged: its logits are not finite; it was stopped"
    ]


def last_values(folder: Path) -> dict[int, object]:
    records = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return {record["step"]: record["values"] for record in records if record["record"] == "scalars"}


def assert_same(one: Trajectory, other: Trajectory) -> None:
    """Equal to the last bit, tensors and polish included."""
    compared = 0
    for mine, theirs in zip(one.snapshots, other.snapshots, strict=True):
        assert mine.step == theirs.step and set(mine.tensors) == set(theirs.tensors)
        for name, tensor in theirs.tensors.items():
            if name.startswith(("weights/", "readout/")):
                assert tensor.dtype == np.float64
                compared += 1
            np.testing.assert_array_equal(mine.tensors[name], tensor)
    assert compared > 60
    assert one.settings.get("polish") == other.settings.get("polish")


@pytest.mark.parametrize("optimizer", ["flow", "sgd", "adamw"])
@pytest.mark.parametrize("task", [{"loss": "square"}, {"loss": "cross-entropy", "p": 5, "task": "modular-addition"}])
def test_a_training_that_was_cut_off_ends_with_the_same_bits(
    optimizer: str, task: dict[str, object], tmp_path: Path
) -> None:
    recipe = deep_linear(**SMALL, optimizer=optimizer, **task)

    def interrupt(step: int, steps: int) -> None:
        if step == 150:
            raise KeyboardInterrupt

    whole = train(recipe, seeds=[0, 1], folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, seeds=[0, 1], folder=tmp_path / "cut", progress=interrupt)
    assert_same(train(recipe, seeds=[0, 1], folder=tmp_path / "cut"), whole)
    assert last_values(tmp_path / "cut") == last_values(tmp_path / "whole")
    if optimizer != "adamw":
        assert {"objective", "squared_gradient_norm"} <= set(whole.scalars)
        assert bool((np.diff(whole.scalars["objective"].value) <= 1e-12).all())


def test_a_training_that_was_cut_off_while_it_was_polished_is_polished_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, calls = deep_linear(**SMALL), []

    def interrupt(objective: Objective, start: NDArray[np.float64]) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("twoclocks.training.loop.polished", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder=tmp_path / "cut")
    held = load(tmp_path / "cut")
    assert held.last_step == 220 and "polish" not in held.settings

    def counted(objective: Objective, start: NDArray[np.float64]) -> object:
        calls.append(1)
        return polished(objective, start)

    monkeypatch.setattr("twoclocks.training.loop.polished", counted)
    first, again = train(recipe, folder=tmp_path / "cut"), train(recipe, folder=tmp_path / "cut")
    assert len(calls) == 1
    assert first.settings["polish"] == again.settings["polish"]
    assert_same(first, train(recipe, folder=tmp_path / "whole"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"spectrum": "3,one"}, "must be numbers from 0 to 1000000 with commas between them, got '3,one'"),
        ({"spectrum": "3,-1"}, "numbers from 0 to 1000000"),
        ({"spectrum": ""}, "numbers from 0 to 1000000"),
        ({"spectrum": True}, "numbers from 0 to 1000000"),
        ({"spectrum": "nan,1"}, "numbers from 0 to 1000000"),
        ({"spectrum": "3"}, "spectrum must be two numbers or more, got '3'"),
        ({"loss": "hinge"}, "must be one of square, cross-entropy, got 'hinge'"),
        ({"task": "modular-addition"}, "task=modular-addition needs loss=cross-entropy"),
        ({"loss": "cross-entropy", "init": "aligned"}, "init=aligned needs a target"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        deep_linear(**settings)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_there_are_points_enough_to_fit_a_tail() -> None:
    save_at = deep_linear().save_at
    kept = [step for step in range(1, 10_001) if save_at.keeps(step)]
    assert len([step for step in kept if step >= 30]) >= 60 and kept[-1] / 30 > 10**2.5


def test_a_run_without_held_out_examples_is_read_diagnosed_and_shown(tmp_path: Path) -> None:
    run = train(deep_linear(**SMALL), seeds=[0, 1], folder=tmp_path / "run")
    assert not [name for name in run.scalars if name.startswith("heldout")]
    evidence = examine(load(tmp_path / "run"))
    diagnosis = diagnose(run)
    assert (diagnosis.label, diagnosis.runs) == ("undetermined", 2)
    page = write_report(evidence, diagnosis, tmp_path / "page.html")
    assert page.stat().st_size > 10_000


def test_a_linear_network_learns_no_addition_that_it_has_not_seen() -> None:
    run = train(
        deep_linear(loss="cross-entropy", task="modular-addition", p=7, width=10, lr=1.0, steps=200, weight_decay=1e-3)
    )
    assert run.batches["heldout"].population == 49 - 29
    assert run.scalars["heldout_accuracy"].value[0, -1] < 0.4
    assert run.snapshots[0].tensors["readout/weight"].shape == (1, 7, 10)


def test_cost_follows_the_settings() -> None:
    assert deep_linear(steps=60_000).cost == pytest.approx(2 * deep_linear().cost)
    assert set_up(deep_linear(optimizer="sgd"), (0,)).rule.lr == 0.05
