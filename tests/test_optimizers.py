"""What holds for the update rules: they are torch's own, by block as alone, and Muon is the one that was published."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from small_networks import BLOCKS, several_rules, three_layers
from twoclocks.errors import InputError
from twoclocks.training.muon import muon_update, orthogonalised
from twoclocks.training.optimizers import (
    AdamW,
    Frozen,
    GradientDescent,
    GradientFlow,
    Muon,
    PerBlock,
    Rule,
    Switched,
    Update,
    coupled_decay,
    described,
    is_decoupled,
    per_block,
    rule_at,
    updated,
    zero_moments,
)

SHAPES = {name: weight.shape for name, weight in three_layers(0).named_parameters()}
ADAM, DESCENT, MUON = AdamW(3e-3, 0.9, 0.98, 0.5), GradientDescent(0.05, 0.1, momentum=0.9), Muon(0.02, 0.95, 0.1)


def gradients(count: int, size: int = sum(shape.numel() for shape in SHAPES.values())) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, dtype=torch.float64, generator=generator) for _ in range(count)]


def followed(
    rule: Update, weights: Tensor, slopes: list[Tensor], factor: Callable[[int], float] = lambda update: 1.0
) -> Tensor:
    """Return the weights after one update a gradient."""
    moments = zero_moments(weights, rule)
    for update, slope in enumerate(slopes, start=1):
        now = rule_at(rule, update, factor(update))
        weights, moments = updated(weights, slope, moments, update, now, lambda at: pytest.fail("it is no flow"))
    return weights


def start() -> Tensor:
    return torch.linspace(-1, 1, sum(shape.numel() for shape in SHAPES.values()), dtype=torch.float64)


@pytest.mark.parametrize(("decay", "momentum"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.9)])
def test_gradient_descent_is_that_of_torch(decay: float, momentum: float) -> None:
    parameter = torch.nn.Parameter(start().clone())
    optimizer = torch.optim.SGD([parameter], 0.05, momentum=momentum, weight_decay=decay)
    for slope in gradients(50):
        parameter.grad = slope
        optimizer.step()
    found = followed(GradientDescent(0.05, decay, momentum), start(), gradients(50))
    torch.testing.assert_close(found, parameter.detach(), rtol=1e-12, atol=1e-12)


def test_two_steps_of_momentum_by_hand() -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert followed(GradientDescent(0.5, 0.0, momentum=0.5), 0 * one, [one, one]).item() == -0.5 - 0.75


def test_one_rule_for_every_block_is_one_rule_for_all() -> None:
    rules = {"adam": (ADAM, 1e-15), "descent": (DESCENT, 1e-13), "plain": (GradientDescent(0.05, 0.1), 1e-13)}
    for rule, tolerance in rules.values():
        by_block = per_block(dict.fromkeys(BLOCKS, rule), BLOCKS, SHAPES, rule.lr)
        assert [(part.start, part.stop) for part in by_block.parts] == [(0, len(start()))]
        whole, apart = (followed(of, start(), gradients(30)) for of in (rule, by_block))
        torch.testing.assert_close(apart, whole, rtol=tolerance, atol=tolerance)


def test_interleaved_blocks_with_a_schedule_follow_the_rules_of_torch() -> None:
    """Names of one block lie between those of others; every block is compared with its own torch optimiser."""
    rules = {"outer": ADAM, "biases": Frozen(), "hidden": replace(ADAM, lr=1e-2), "readout": DESCENT}

    def falling(update: int) -> float:
        return update**-0.5

    model = three_layers(0).double()
    torch.nn.utils.vector_to_parameters(start(), model.parameters())
    named = dict(model.named_parameters())
    adam = [{"params": [named[name] for name in BLOCKS[block]], "lr": rules[block].lr} for block in ("outer", "hidden")]
    optimizers = [
        torch.optim.AdamW(adam, betas=(0.9, 0.98), weight_decay=0.5),
        torch.optim.SGD([named["4.weight"]], 0.05, momentum=0.9, weight_decay=0.1),
    ]
    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: falling(epoch + 1)) for o in optimizers]
    for slope in gradients(30):
        for parameter, part in zip(model.parameters(), slope.split([s.numel() for s in SHAPES.values()]), strict=True):
            parameter.grad = part.view_as(parameter)
        for stepping in (*optimizers, *schedulers):
            stepping.step()
    found = followed(per_block(rules, BLOCKS, SHAPES, 3e-3), start(), gradients(30), falling)
    expected = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    first_bias = slice(SHAPES["0.weight"].numel(), SHAPES["0.weight"].numel() + SHAPES["0.bias"].numel())
    assert torch.equal(found[first_bias], start()[first_bias])


def test_a_rule_switched_to_frozen_keeps_the_weights_of_that_update() -> None:
    switched = dict.fromkeys(BLOCKS, Switched(ADAM, Frozen(), last=7))
    found = followed(per_block(switched, BLOCKS, SHAPES, 3e-3), start(), gradients(20))
    torch.testing.assert_close(found, followed(ADAM, start(), gradients(20)[:7]), rtol=1e-14, atol=1e-14)


def test_moments_go_on_through_a_switch() -> None:
    slower = replace(ADAM, lr=1e-4)
    switched = per_block(dict.fromkeys(BLOCKS, Switched(ADAM, slower, last=7)), BLOCKS, SHAPES, 3e-3)
    expected = followed(ADAM, start(), gradients(20), lambda update: 1.0 if update <= 7 else slower.lr / ADAM.lr)
    torch.testing.assert_close(followed(switched, start(), gradients(20)), expected, rtol=1e-12, atol=1e-14)


def test_a_factor_of_one_leaves_every_rule_as_it_is() -> None:
    rules: list[Update] = [
        ADAM,
        DESCENT,
        GradientFlow(0.1, 0.0),
        per_block({**several_rules(), "biases": ADAM}, BLOCKS, SHAPES, 1e-3),
    ]
    for rule in rules:
        assert rule_at(rule, 3, 1.0) is rule
    assert len(rules) == 4


def test_a_factor_of_zero_stops_every_rule() -> None:
    by_block = per_block(several_rules(), BLOCKS, SHAPES, 1e-3)
    assert torch.equal(followed(by_block, start(), gradients(10), lambda update: 0.0), start())
    assert not torch.equal(followed(by_block, start(), gradients(1)), start())


def jordan(weights: Tensor, gradient: Tensor, momentum: Tensor, rule: Muon) -> Tensor:
    """The plain second implementation, after the published code: everything in place, spelt out."""
    momentum.mul_(rule.momentum).add_((1 - rule.momentum) * gradient)
    x = (1 - rule.momentum) * gradient + rule.momentum * momentum if rule.nesterov else momentum.clone()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / (x.square().sum().sqrt() + 1e-7)
    for _ in range(rule.ns_steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = x.T if is_tall else x
    weights.mul_(1 - rule.lr * rule.weight_decay)
    return weights.sub_(rule.lr * max(1, weights.shape[0] / weights.shape[1]) ** 0.5 * x)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(7, 7), (12, 5), (5, 12), (1, 4)])
def test_muon_is_the_published_one(shape: tuple[int, int], nesterov: bool) -> None:
    rule, generator = replace(MUON, nesterov=nesterov), torch.Generator().manual_seed(1)
    mine, theirs, buffer, momentum = (torch.zeros(shape, dtype=torch.float64) for _ in range(4))
    for _ in range(20):
        slope = torch.randn(shape, dtype=torch.float64, generator=generator)
        mine, buffer = muon_update(mine, slope, buffer, rule)
        theirs = jordan(theirs, slope, momentum, rule)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(16, 16), (32, 8), (8, 32)])
def test_muon_is_that_of_torch_as_far_as_its_bfloat16_goes(shape: tuple[int, int]) -> None:
    """bfloat16 has 8 bits, so a step agrees to a few per cent."""
    generator = torch.Generator().manual_seed(2)
    parameter = torch.nn.Parameter(torch.randn(shape, generator=generator))
    mine, buffer = parameter.detach().clone(), torch.zeros(shape)
    optimizer = torch.optim.Muon([parameter], lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original")
    begin = mine.clone()
    for _ in range(5):
        parameter.grad = torch.randn(shape, generator=generator)
        mine, buffer = muon_update(mine, parameter.grad, buffer, MUON)
        optimizer.step()
    moved, error = (mine - begin).norm(), (mine - parameter.detach()).norm()
    assert error < 0.03 * moved


def test_orthogonalised_is_its_polynomial_of_the_singular_values() -> None:
    matrix = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    found = orthogonalised(matrix, 5)
    torch.testing.assert_close(found, left * values @ right, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(orthogonalised(1e3 * matrix, 5), found, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(orthogonalised(matrix.T, 5), found.T)
    assert float(values.min()) > 0.68 and float(values.max()) < 1.14
    assert not orthogonalised(0 * matrix, 5).any()


def test_muon_moves_what_is_no_matrix_under_no_circumstances() -> None:
    with pytest.raises(InputError, match=r"Muon moves matrices only, and 0\.bias has the shape \[10\]"):
        per_block(dict.fromkeys(BLOCKS, MUON), BLOCKS, SHAPES, 0.1)
    with pytest.raises(InputError, match="Muon moves matrices only"):
        per_block(dict.fromkeys(BLOCKS, Switched(ADAM, MUON, last=3)), BLOCKS, SHAPES, 0.1)


def test_neighbouring_matrices_under_muon_stay_apart() -> None:
    shapes = {"a": torch.Size([4, 3]), "b": torch.Size([4, 3])}
    by_block = per_block({"both": MUON}, {"both": ("a", "b")}, shapes, 0.1)
    slope = gradients(1, 24)
    found = followed(by_block, torch.zeros(24, dtype=torch.float64), slope)
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    for half, part in zip(found.chunk(2), slope[0].chunk(2), strict=True):
        torch.testing.assert_close(half, muon_update(zeros, part.view(4, 3), zeros, MUON)[0].reshape(-1))


def test_rules_that_do_not_fit_the_blocks_are_refused() -> None:
    cases: list[tuple[dict[str, Rule], dict[str, tuple[str, ...]], str]] = [
        ({"a": ADAM}, {"a": ("x",), "b": ("y",)}, "one rule a block"),
        ({"a": ADAM}, {"a": ("x",)}, "every weight once"),
        ({"a": ADAM, "b": ADAM}, {"a": ("x", "y"), "b": ("y",)}, "every weight once"),
        ({"a": GradientFlow(0.1, 0.0)}, {"a": ("x", "y")}, "a gradient flow moves all weights at once"),
    ]
    for rules, blocks, words in cases:
        with pytest.raises(InputError, match=words):
            per_block(rules, blocks, {"x": torch.Size([2]), "y": torch.Size([2])}, 0.1)
    assert len(cases) == 4


def by_parts(*rules: Rule) -> PerBlock:
    names = [str(number) for number in range(len(rules))]
    blocks = {name: (name,) for name in names}
    return per_block(dict(zip(names, rules, strict=True)), blocks, dict.fromkeys(names, torch.Size([2, 2])), 0.1)


def test_how_the_decay_acts() -> None:
    plain, slow = GradientDescent(0.1, 0.01), GradientDescent(0.001, 0.01)
    cases: list[tuple[Update, float | None, bool]] = [
        (ADAM, None, True),
        (plain, 0.01, False),
        (DESCENT, None, False),
        (GradientFlow(0.1, 0.2), 0.2, False),
        (by_parts(plain, slow), 0.01, False),
        (by_parts(plain, GradientDescent(0.1, 0.02)), None, False),
        (by_parts(plain, Frozen()), None, False),
        (by_parts(plain, ADAM), None, False),
        (by_parts(MUON, ADAM, Frozen()), None, True),
        (by_parts(Switched(MUON, Frozen(), 3)), None, True),
        (by_parts(Switched(plain, plain, 3)), None, False),
    ]
    for rule, decay, decoupled in cases:
        assert (coupled_decay(rule), is_decoupled(rule)) == (decay, decoupled), rule
    assert len(cases) == 11


def test_every_rule_can_be_written_down() -> None:
    for rule in several_rules().values():
        assert json.loads(json.dumps(described(rule)))["name"] == type(rule).__name__


def test_the_blocks_of_these_tests_are_interleaved() -> None:
    order = [next(block for block, names in BLOCKS.items() if name in names) for name in SHAPES]
    assert order == ["outer", "biases", "hidden", "biases", "readout", "outer"]
