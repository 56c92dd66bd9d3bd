"""What holds for a plain module that is trained: its gradient is autograd's, its features are what the readout sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_networks import (
    BATCH,
    CLASSES,
    EVERYTHING,
    INPUTS,
    TRAIN,
    examples,
    recipe_of,
    three_layers,
    three_layers_problem,
)
from twoclocks.errors import InputError
from twoclocks.training.loop import Run, advanced, begun_run, named, set_up, torch_threads, train
from twoclocks.training.modules import ROWS_AT_ONCE, built, module_problem, shuffled_batches, weights_of
from twoclocks.training.recipe import Problem
from twoclocks.trajectory import SaveAt


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


class SmallCNN(nn.Module):
    """Two convolutions and a readout, for images [n 1 8 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        self.readout = nn.Linear(6, CLASSES, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.readout(self.second(self.first(images).relu()).relu().mean((2, 3)))
        return logits


CNN_BLOCKS = {
    "first": ("first.weight", "first.bias"),
    "second": ("second.weight", "second.bias"),
    "readout": ("readout.weight",),
}


def images(count: int) -> tuple[Tensor, Tensor]:
    """Return bytes `[n 1 8 8]` and labels."""
    generator = torch.Generator().manual_seed(count)
    return (
        torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8),
        torch.randint(0, CLASSES, (count,), generator=generator),
    )


def as_numbers(pixels: Tensor) -> tuple[Tensor]:
    return (pixels.float() / 255,)


def cnn_problem(dtype: torch.dtype = torch.float32, **how: Any) -> Problem:
    """Return the convolutions on bytes."""
    splits = {"train": images(40), "heldout": images(ROWS_AT_ONCE + 90)}
    return module_problem(
        lambda seed: SmallCNN().to(dtype),
        {split: (pixels,) for split, (pixels, _) in splits.items()},
        {split: labels for split, (_, labels) in splits.items()},
        **{"readout": "readout", "blocks": CNN_BLOCKS, "prepare": as_numbers} | how,
    )


def loaded(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    module.load_state_dict(dict(weights))
    return module


@pytest.mark.parametrize("rows", [None, torch.tensor([3, 1, 4, 1, 5])])
def test_gradient_is_that_of_the_plain_module(rows: Tensor | None) -> None:
    of_rows = slice(None) if rows is None else rows
    (pixels, labels), (numbers, classes) = images(40), examples(TRAIN, 0)
    cases = [
        (cnn_problem(torch.float64), SmallCNN().double(), as_numbers(pixels)[0].double(), labels),
        (three_layers_problem(torch.float64), three_layers(0).double(), numbers.double(), classes),
    ]
    for problem, module, inputs, of_train in cases:
        weights = problem.initial(3)
        logits, gradient = problem.gradient(weights, rows)
        expected = loaded(module, weights)(inputs[of_rows])
        F.cross_entropy(expected, of_train[of_rows]).backward()
        torch.testing.assert_close(logits, expected.detach(), rtol=1e-12, atol=1e-12)
        assert not logits.requires_grad and list(gradient) == list(weights)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-10, atol=1e-14)
    assert len(cases) == 2


@pytest.mark.parametrize("batch", [None, BATCH])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_a_training_is_the_plain_loop(batch: int | None, dtype: torch.dtype, tolerance: float) -> None:
    batches = None if batch is None else shuffled_batches(TRAIN, batch)
    recipe = recipe_of(three_layers_problem(dtype, batches=batches))
    experiment = set_up(recipe, (5,))
    run = advanced(begun_run(5, experiment), 60, experiment)
    model, (inputs, labels) = built(three_layers, 5).to(dtype), examples(TRAIN, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, (0.9, 0.98), weight_decay=0.1)
    for step in range(60):
        rows = slice(None) if batches is None else batches(5, step)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[rows].to(dtype)), labels[rows]).backward()
        optimizer.step()
    assert run.weights.dtype == dtype
    for name, weight in named(run.weights, experiment).items():
        torch.testing.assert_close(weight, model.get_parameter(name).detach(), rtol=tolerance, atol=tolerance)


def test_features_times_readout_are_the_logits_of_every_piece() -> None:
    problem, weights = cnn_problem(), built(lambda seed: SmallCNN(), 1)
    for split, count in {"train": 40, "heldout": ROWS_AT_ONCE + 90}.items():
        features, logits = problem.forward(weights_of(weights), split)
        assert features.shape == (count, 6) and not features.requires_grad
        torch.testing.assert_close(features @ weights.readout.weight.detach().T, logits)
        torch.testing.assert_close(logits, weights(as_numbers(images(count)[0])[0]).detach())
    assert problem.readout == ("readout.weight", None)
    assert three_layers_problem().readout == ("4.weight", "4.bias")


def test_a_loss_of_our_own_is_what_descends_and_what_is_recorded() -> None:
    def square(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits - F.one_hot(labels, CLASSES)).square().mean()

    problem = three_layers_problem(torch.float64, loss=square)
    model, inputs = built(three_layers, 0).double(), examples(TRAIN, 0)[0].double()
    square(model(inputs), problem.labels["train"]).backward()
    value = float(square(model(inputs).detach(), problem.labels["train"]))
    logits, gradient = problem.gradient(problem.initial(0), None)
    assert problem.loss is not None and float(problem.loss(logits)) == pytest.approx(value, rel=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-10, atol=1e-14)
    recorded = train(recipe_of(three_layers_problem(loss=square), steps=5)).scalars["train_loss"].value
    assert recorded[0, 0] == pytest.approx(value, rel=1e-5)


def test_with_batches_scalars_are_of_the_whole_split_and_gradients_of_the_batch() -> None:
    recipe = replace(recipe_of(three_layers_problem(batches=shuffled_batches(TRAIN, BATCH))), save_at=SaveAt(every=7))
    trajectory, experiment = train(recipe), set_up(recipe, (0,))
    run, problem = advanced(begun_run(0, experiment), 21, experiment), experiment.problem
    at = trajectory.scalars["train_loss"].step.tolist().index(21)
    weights = named(run.weights, experiment)
    loss = F.cross_entropy(problem.forward(weights, "train")[1].double(), problem.labels["train"])
    assert trajectory.scalars["train_loss"].value[0, at] == pytest.approx(float(loss), rel=1e-9)
    of_batch = problem.gradient(weights, shuffled_batches(TRAIN, BATCH)(0, 21))[1]["4.weight"].norm()
    assert trajectory.scalars["gradient_norm.readout"].value[0, at] == pytest.approx(float(of_batch), rel=1e-6)
    assert run.logits.shape == (BATCH, CLASSES)


def test_further_splits_are_scored_alike() -> None:
    scalars = train(recipe_of(three_layers_problem(batches=shuffled_batches(TRAIN, BATCH)), steps=9)).scalars
    names = [name.removeprefix("train_twin_") for name in scalars if name.startswith("train_twin_")]
    assert len(names) == 5
    for name in names:
        np.testing.assert_array_equal(scalars[f"train_twin_{name}"].value, scalars[f"train_{name}"].value)


def test_float64_is_kept_and_written() -> None:
    last = train(recipe_of(three_layers_problem(torch.float64), steps=4)).snapshots[-1].tensors
    assert last["weights/2.weight"].dtype == last["readout/bias"].dtype == np.float64
    assert (
        train(recipe_of(three_layers_problem(), steps=4)).snapshots[-1].tensors["weights/2.weight"].dtype == np.float32
    )


def test_run_of_an_ensemble_is_that_run_alone_to_the_last_bit() -> None:
    recipe = replace(EVERYTHING, settings={"lr": 3e-3, "steps": 45})
    together, alone = train(recipe, seeds=[4, 2, 7]), train(recipe, seeds=[2])
    assert len(alone.scalars) > 20
    for name, series in alone.scalars.items():
        np.testing.assert_array_equal(together.scalars[name].value[1:2], series.value)
    for name, tensor in alone.snapshots[-1].tensors.items():
        np.testing.assert_array_equal(together.snapshots[-1].tensors[name][1:2], tensor)


def test_threads_never_see_each_others_weights() -> None:
    """Eight weights at once on one problem, each as often as it takes for threads to be cut off inside a call."""
    problem = three_layers_problem()
    several = [problem.initial(seed) for seed in range(8)]

    def seen(weights: Mapping[str, Tensor]) -> list[Tensor]:
        features, logits = problem.forward(weights, "heldout")
        return [features, logits, *problem.gradient(weights, None)[1].values()]

    alone = [seen(weights) for weights in several]
    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(seen, several * 40)):
            assert all(torch.equal(*pair) for pair in zip(found, alone[number % 8], strict=True))
    assert number == 319


def test_a_diverging_run_is_told() -> None:
    run = train(recipe_of(three_layers_problem(batches=shuffled_batches(TRAIN, BATCH)), lr=1e30, steps=20))
    assert len(run.events) == 1 and "diverged" in run.events[0].what
    assert np.isnan(run.scalars["train_loss"].value[0, -1]) and run.last_step == 20


def test_nothing_is_left_behind() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    module = three_layers(0)
    torch.manual_seed(3)
    problem = three_layers_problem()
    train(recipe_of(problem, steps=3))
    torch.testing.assert_close(torch.rand(2), expected)
    assert torch.equal(built(three_layers, 3)[0].weight, module[0].weight)


def test_a_weight_that_nothing_depends_on_has_the_gradient_zero() -> None:
    class Idle(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(INPUTS, CLASSES))
            self.idle = nn.Parameter(torch.ones(2))

    rows, labels = examples(TRAIN, 0)
    problem = module_problem(
        lambda seed: Idle(), {"train": (rows,)}, {"train": labels}, readout="0", blocks={"all": ("0.weight", "idle")}
    )
    assert problem.gradient(problem.initial(0), None)[1]["idle"].tolist() == [0.0, 0.0]


def test_every_epoch_holds_every_example_once_in_an_order_of_its_own() -> None:
    batches, orders = shuffled_batches(TRAIN, BATCH), []
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (2**62, 7)]:
        order = torch.cat([batches(seed, 4 * epoch + place) for place in range(4)])
        assert order.sort().values.tolist() == list(range(TRAIN))
        orders.append(tuple(order.tolist()))
    assert len(set(orders)) == 4
    assert [len(batches(0, step)) for step in range(5)] == [16, 16, 16, 2, 16]
    assert torch.equal(shuffled_batches(TRAIN, BATCH)(1, 2), batches(1, 2))
    assert len(shuffled_batches(3, 10)(0, 5)) == 3


@pytest.mark.parametrize(("n", "size"), [(0, 1), (5, 0)])
def test_no_batches_are_refused(n: int, size: int) -> None:
    with pytest.raises(InputError, match="batches need at least one example"):
        shuffled_batches(n, size)


class Rescaled(nn.Module):
    """A network that does something after its readout."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = nn.Linear(INPUTS, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        """Return what are no logits of the readout."""
        return 2 * torch.as_tensor(self.readout(rows))


class Tied(nn.Module):
    """A network whose readout is its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, INPUTS)
        self.readout = nn.Linear(INPUTS, INPUTS)
        self.readout.weight = self.first.weight

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits."""
        return torch.as_tensor(self.readout(self.first(rows)))


def linear(*between: nn.Module) -> Callable[[int], nn.Module]:
    return lambda seed: nn.Sequential(nn.Linear(INPUTS, 8), *between, nn.Linear(8, CLASSES))


def test_what_cannot_be_trained_is_refused_in_words() -> None:
    rows, labels = examples(TRAIN, 0)
    given = {
        "build": linear(nn.ReLU()),
        "inputs": {"train": (rows,)},
        "labels": {"train": labels},
        "readout": "2",
        "blocks": {"readout": ("2.weight",)},
    }
    plain = {"readout": "readout", "blocks": {}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"build": linear(nn.Dropout(0.5))}, "other logits at every call"),
        ({"build": linear(nn.BatchNorm1d(8))}, "changes its own buffers"),
        ({"build": lambda seed: Rescaled(), **plain}, "the logits must be the output"),
        ({"build": lambda seed: Tied(), **plain}, r"readout\.weight shared with another layer"),
        (
            {"inputs": {"train": (rows.view(10, 5, INPUTS),)}, "labels": {"train": labels[:10]}},
            r"got features \[3, 5, 8\]",
        ),
        ({"readout": "1"}, r"must be a linear layer of the module \(0, 2\), got '1'"),
        ({"blocks": {"a": ("2.weight", "9.bias")}}, r"must name parameters .* got 9\.bias"),
        ({"labels": {"train": labels, "heldout": labels}}, "must have the same splits"),
        (
            {"inputs": {"train": (rows[1:],)}},
            r"train: there must be one input a label, at least one, got \[49\] and 50",
        ),
        ({"inputs": {"train": (rows[:0],)}, "labels": {"train": labels[:0]}}, "at least one, got"),
    ]
    for changed, words in cases:
        with pytest.raises(InputError, match=words):
            module_problem(**{**given, **changed})
    assert len(cases) == 10
    assert isinstance(begun_run(0, set_up(recipe_of(module_problem(**given)), (0,))), Run)
