"""What holds for the transformer on pairs: its structured step is the plain one, and it starts as published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from twoclocks.errors import InputError
from twoclocks.recipes.modular_addition_transformer import modular_addition_transformer, problem
from twoclocks.training.loop import advanced, begun_run, named, set_up, torch_threads, train
from twoclocks.training.recipe import Recipe
from twoclocks.training.tasks import Pairs, modular_addition_task
from twoclocks.training.transformer import (
    BLOCKS,
    PairTransformer,
    by_logits,
    initial_weights,
    places_of,
    structured_features,
    structured_gradient,
)
from twoclocks.trajectory import SaveAt

SMALL = modular_addition_transformer(p=17, width=16, heads=2, hidden=24, train_fraction=0.4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def pairs_of(recipe: Recipe) -> tuple[Pairs, Pairs]:
    settings = recipe.settings
    split = torch.Generator().manual_seed(settings["data_seed"])
    task = modular_addition_task(settings["p"], settings["train_fraction"], shuffle_labels=False, generator=split)
    return task.train, task.heldout


def plain_model(recipe: Recipe, dtype: torch.dtype, seed: int = 0) -> PairTransformer:
    shape = tuple(recipe.settings[name] for name in ("p", "width", "heads", "hidden"))
    model = PairTransformer(*shape)
    model.load_state_dict(initial_weights(*shape, seed=seed))
    return model.to(dtype)


def moved_off(model: PairTransformer) -> PairTransformer:
    """The same network with every weight moved, the biases off their zeros too."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return model


def weights_of(model: PairTransformer, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {name: weight.detach().to(dtype) for name, weight in model.named_parameters()}


def plain_loop(recipe: Recipe, steps: int, dtype: torch.dtype) -> tuple[list[float], dict[str, Tensor]]:
    """The slow second definition, by autograd and torch's own AdamW: losses before each update, last weights."""
    model, pairs, settings = plain_model(recipe, dtype), pairs_of(recipe)[0], recipe.settings
    betas = (settings["beta1"], settings["beta2"])
    optimizer = torch.optim.AdamW(model.parameters(), settings["lr"], betas, weight_decay=settings["weight_decay"])
    losses = []
    for update in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = settings["lr"] * min(update / settings["warmup"], 1)
        loss = F.cross_entropy(model(pairs.left, pairs.right), pairs.labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses, weights_of(model, dtype)


def structured_loop(recipe: Recipe, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    experiment = set_up(recipe, (0,))
    run, losses = begun_run(0, experiment), []
    for step in range(steps):
        losses.append(F.cross_entropy(run.logits, experiment.problem.labels["train"]).item())
        run = advanced(run, step + 1, experiment)
    return losses, named(run.weights, experiment)


def in_double(recipe: Recipe) -> Recipe:
    return replace(recipe, settings={**recipe.settings, "dtype": "float64"})


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return sum(float((one[name].double() - other[name].double()).square().sum()) for name in one) ** 0.5


def assert_gradient_is_that_of_autograd(model: PairTransformer, pairs: Pairs, symbols: int) -> None:
    """In float64, to rounding: the logits, the features and all eleven gradients."""
    logits = model(pairs.left, pairs.right)
    F.cross_entropy(logits, pairs.labels).backward()
    places, weights = places_of(pairs, symbols), weights_of(model)
    found, gradient = structured_gradient(weights, places, model.heads)
    torch.testing.assert_close(found, logits.detach(), rtol=1e-11, atol=1e-11)
    assert (
        set(gradient) == {name for names in BLOCKS.values() for name in names} == set(weights) and len(gradient) == 11
    )
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        size = float(parameter.grad.abs().max())
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=0, atol=1e-12 * size)
    features = structured_features(weights, places, model.heads)
    torch.testing.assert_close(features @ weights["readout.weight"].T, found, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("heads", [1, 2, 4, 16])
def test_structured_gradient_is_that_of_autograd(heads: int) -> None:
    train_pairs, heldout = pairs_of(SMALL)
    torch.manual_seed(0)
    model = moved_off(PairTransformer(17, 16, heads, 24).double())
    assert_gradient_is_that_of_autograd(model, train_pairs, 17)
    model.zero_grad()
    assert_gradient_is_that_of_autograd(model, heldout, 17)


def test_pieces_join_and_symbols_without_pairs_get_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    some, monkey = torch.tensor([0, 0, 5, 7, 7, 2, 0]), monkeypatch
    pairs = Pairs(some, some.flip(0), (some + some.flip(0)) % 17)
    for piece in (1, 3, 7, 100):
        monkey.setattr("twoclocks.training.transformer.PIECE", piece)
        assert_gradient_is_that_of_autograd(moved_off(plain_model(SMALL, torch.float64)), pairs, 17)
    weights = weights_of(plain_model(SMALL, torch.float64))
    gradient = structured_gradient(weights, places_of(pairs, 17), 2)[1]["embedding.weight"]
    assert [symbol for symbol in range(17) if bool(gradient[symbol].any())] == [0, 2, 5, 7]


def test_features_are_what_enters_the_readout_of_the_plain_module() -> None:
    model, pairs = moved_off(plain_model(SMALL, torch.float64)), pairs_of(SMALL)[1]
    caught: list[Tensor] = []
    model.readout.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
    model(pairs.left, pairs.right)
    features = structured_features(weights_of(model), places_of(pairs, 17), 2)
    torch.testing.assert_close(features, caught[0], rtol=1e-11, atol=1e-11)


def test_a_loop_in_float64_is_the_plain_loop() -> None:
    losses, weights = structured_loop(in_double(SMALL), 20)
    exact_losses, exact = plain_loop(SMALL, 20, torch.float64)
    np.testing.assert_allclose(losses, exact_losses, rtol=0, atol=1e-9)
    for name, weight in exact.items():
        assert weights[name].dtype == torch.float64
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-9)


def clear_of_kinks(model: PairTransformer, pairs: Pairs) -> Pairs:
    """The pairs none of whose hidden units is so near 0 that rounding to float32 may switch it."""
    caught: list[Tensor] = []
    model.hidden.register_forward_hook(lambda _, inputs, output: caught.append(output.detach()[:, -1]))
    model(pairs.left, pairs.right)
    clear = (caught[0].abs() > 1e-5).all(1)
    assert int(clear.sum()) > 0.9 * len(clear)
    return Pairs(pairs.left[clear], pairs.right[clear], pairs.labels[clear])


def assert_float32_gradient_is_exact(recipe: Recipe) -> None:
    """Each of the eleven within 1e-5 of autograd in float64."""
    model = plain_model(recipe, torch.float64)
    pairs, weights = clear_of_kinks(model, pairs_of(recipe)[0]), weights_of(model, torch.float32)
    F.cross_entropy(model(pairs.left, pairs.right), pairs.labels).backward()
    gradient = structured_gradient(weights, places_of(pairs, recipe.settings["p"]), model.heads)[1]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert float((gradient[name] - parameter.grad).norm() / parameter.grad.norm()) < 1e-5, name


def assert_float32_loop_is_exact(recipe: Recipe, steps: int) -> None:
    """No farther from float64 than 3 times the plain loop: AdamW amplifies rounding, and so do units that it switches."""
    exact_losses, exact = plain_loop(recipe, steps, torch.float64)
    plain_losses, plain = plain_loop(recipe, steps, torch.float32)
    losses, structured = structured_loop(recipe, steps)
    plain_error, error = (np.abs(np.subtract(of, exact_losses)[:51]).max() for of in (plain_losses, losses))
    assert error <= max(3 * plain_error, 1e-5)
    assert distance(structured, exact) <= 3 * distance(plain, exact)


def test_float32_step_is_exact() -> None:
    assert_float32_gradient_is_exact(SMALL)
    assert_float32_loop_is_exact(SMALL, 200)


@pytest.mark.slow
def test_float32_step_is_exact_at_full_size() -> None:
    assert_float32_gradient_is_exact(modular_addition_transformer())
    assert_float32_loop_is_exact(modular_addition_transformer(), 50)


def test_gradient_of_some_rows_is_that_of_these_pairs_alone() -> None:
    of_problem, (pairs, _) = problem(in_double(SMALL).settings), pairs_of(SMALL)
    rows, weights = torch.tensor([40, 3, 11, 3]), of_problem.initial(0)
    logits, gradient = of_problem.gradient(weights, rows)
    chosen = Pairs(pairs.left[rows], pairs.right[rows], pairs.labels[rows])
    alone_logits, alone = structured_gradient(weights, places_of(chosen, 17), 2)
    torch.testing.assert_close(logits, alone_logits, rtol=0, atol=0)
    for name in alone:
        torch.testing.assert_close(gradient[name], alone[name], rtol=0, atol=0)
    torch.testing.assert_close(logits, of_problem.gradient(weights, None)[0][rows], rtol=1e-12, atol=1e-12)


def test_only_the_last_position_is_read_and_it_sees_both_symbols() -> None:
    model = moved_off(plain_model(SMALL, torch.float64))
    one, two, other = torch.tensor([3]), torch.tensor([5]), torch.tensor([6])
    base = model(one, two)
    assert base.shape == (1, 17)
    assert not torch.allclose(base, model(other, two)) and not torch.allclose(base, model(one, other))
    assert not torch.allclose(base, model(two, one))


def test_initial_weights_have_the_published_variances() -> None:
    weights = initial_weights(113, 128, 4, 512, seed=0)
    for name, weight in weights.items():
        expected = 0.0 if name.endswith("bias") else 1 / 114 if name.startswith("readout") else 1 / 128
        assert float(weight.square().mean()) == pytest.approx(expected, rel=0.2 if name == "positions" else 0.03)
    assert sum(weight.numel() for weight in weights.values()) == 226_688
    assert not torch.equal(weights["query.weight"], initial_weights(113, 128, 4, 512, seed=1)["query.weight"])
    doubled = initial_weights(113, 128, 4, 512, seed=0, dtype=torch.float64)
    torch.testing.assert_close(doubled["query.weight"], weights["query.weight"].double(), rtol=0, atol=0)


def test_negligible_probabilities_are_taken_as_nothing() -> None:
    logits = torch.tensor([[0.0, -60.0, -75.0, -200.0]])
    gradient = by_logits(logits, torch.tensor([0]))
    assert gradient[0, 1] > 0 and gradient[0, 2:].tolist() == [0.0, 0.0]


def test_learning_rate_grows_over_the_warm_up() -> None:
    recipe = modular_addition_transformer(p=7, width=8, heads=2, hidden=8, steps=12, lr=0.1, warmup=4)
    run = train(replace(recipe, save_at=SaveAt(every=1)))
    np.testing.assert_allclose(run.scalars["lr"].value[0, 1:6], [0.025, 0.05, 0.075, 0.1, 0.1])
    assert run.scalars["flow_time"].value[0, -1] == pytest.approx(0.25 + 0.8)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InputError, match="heads must divide the width, got 3 heads and width 128"):
        modular_addition_transformer(heads=3)


def test_published_settings_are_a_setting_away() -> None:
    published = modular_addition_transformer(lr=1e-3, steps=12_000)
    assert published.expected is None and modular_addition_transformer().expected is not None
    assert published.cost == pytest.approx(4 * modular_addition_transformer().cost)
