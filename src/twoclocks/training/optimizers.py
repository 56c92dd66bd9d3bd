"""This file knows how weights follow a gradient. All weights of a run are one flat vector `[p]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from twoclocks.errors import InputError
from twoclocks.training.muon import Muon as Muon  # rules are imported from here
from twoclocks.training.muon import muon_update


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay on every weight (arXiv 1711.05101), as torch.optim.AdamW computes it."""

    lr: float
    beta1: float
    beta2: float
    weight_decay: float
    epsilon: float = 1e-8


@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent with coupled decay, as torch.optim.SGD computes it: m ← μ m + ∇loss + λ_w θ, θ ← θ − lr m.

    Without momentum (μ = 0) it is F = loss + (λ_w / 2) ‖θ‖² that descends.
    """

    lr: float
    weight_decay: float
    momentum: float = 0.0


@dataclass(frozen=True)
class GradientFlow:
    """Gradient flow of F = loss + (λ_w / 2) ‖θ‖², followed by fourth-order Runge–Kutta steps of length lr."""

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Frozen:
    """No update: the weights stay as they are."""


Constant = AdamW | GradientDescent | GradientFlow | Muon | Frozen


@dataclass(frozen=True)
class Switched:
    """One rule up to update number `last`, counted from 1, and another from the next one on; the moments go on."""

    before: Constant
    after: Constant
    last: int


Rule = Constant | Switched


@dataclass(frozen=True)
class Part:
    """A stretch of the flat vector, from `start` to before `stop`, and its rule; under Muon it has a matrix's `shape`."""

    rule: Rule
    start: int
    stop: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PerBlock:
    """Rules that differ between stretches of the flat vector; together these hold every weight once.

    `lr` is the learning rate that is recorded of the run.
    """

    lr: float
    parts: tuple[Part, ...]


Update = AdamW | GradientDescent | GradientFlow | PerBlock


@dataclass(frozen=True)
class Moments:
    """Running means of the gradient and of its square, each `[p]`; empty where the rule keeps none.

    Under GradientDescent and Muon `first` is the momentum.
    """

    first: Tensor
    second: Tensor


def zero_moments(weights: Tensor, rule: Update) -> Moments:
    """Return the moments before the first update."""
    zeros, none = torch.zeros_like(weights), weights.new_zeros(0)
    if isinstance(rule, AdamW | PerBlock):
        return Moments(zeros, zeros.clone())
    return Moments(zeros if isinstance(rule, GradientDescent) and rule.momentum else none, none)


def coupled_decay(rule: Rule | Update) -> float | None:
    """Return the λ_w with which F = loss + (λ_w / 2) ‖θ‖² descends; None where the rule descends no such F.

    Momentum, decay that is not part of the gradient, and stretches that differ in it, or that are frozen, have none.

    >>> coupled_decay(GradientDescent(0.1, 1e-4)), coupled_decay(GradientDescent(0.1, 1e-4, momentum=0.9))
    (0.0001, None)
    """
    match rule:
        case PerBlock():
            decays = {coupled_decay(part.rule) for part in rule.parts}
            return decays.pop() if len(decays) == 1 else None
        case GradientFlow() | GradientDescent(momentum=0):
            return rule.weight_decay
    return None


def is_decoupled(rule: Rule | Update) -> bool:
    """Return whether the decay shrinks the weights beside the gradient, by 1 − lr λ_w, wherever anything moves."""
    if isinstance(rule, PerBlock):
        return all(is_decoupled(part.rule) or isinstance(part.rule, Frozen) for part in rule.parts)
    if isinstance(rule, Switched):
        return all(is_decoupled(of) or isinstance(of, Frozen) for of in (rule.before, rule.after))
    return isinstance(rule, AdamW | Muon)


def described(rule: Rule) -> dict[str, Any]:
    """Return the name and the numbers of a rule, ready to be written as JSON.

    >>> described(Switched(GradientDescent(0.1, 0.0), Frozen(), last=5))["after"]
    {'name': 'Frozen'}
    """
    numbers = asdict(rule)
    if isinstance(rule, Switched):
        numbers |= {"before": described(rule.before), "after": described(rule.after)}
    return {"name": type(rule).__name__, **numbers}


def per_block(
    rules: Mapping[str, Rule], blocks: Mapping[str, Sequence[str]], shapes: Mapping[str, torch.Size], lr: float
) -> PerBlock:
    """Return the rules of blocks as rules of stretches of the flat vector; `lr` is what is recorded.

    Args:
        rules: of each block. blocks: the names of each block's weights. shapes: of the weights, in the vector's order.

    Raises:
        InputError: a weight or a block has no rule or several, Muon meets what is no matrix, or a rule is a flow.

    >>> blocks, shapes = {"a": ("x", "z"), "b": ("y",)}, {name: torch.Size([2]) for name in "xyz"}
    >>> [(p.start, p.stop) for p in per_block({"a": Frozen(), "b": AdamW(0.1, 0.9, 0.98, 0.0)}, blocks, shapes, 0.1).parts]
    [(0, 2), (2, 4), (4, 6)]
    """
    check_blocks(rules, blocks, shapes)
    rule_of = {name: rules[block] for block, names in blocks.items() for name in names}
    parts, start = [], 0
    for name, shape in shapes.items():
        check_rule(rule_of[name], name, shape)
        parts.append(Part(rule_of[name], start, start + shape.numel(), tuple(shape)))
        start += shape.numel()
    return PerBlock(lr, tuple(joined(parts)))


def check_blocks(rules: Mapping[str, Rule], blocks: Mapping[str, Sequence[str]], shapes: Iterable[str]) -> None:
    """Refuse rules that do not cover every weight exactly once."""
    if rules.keys() != blocks.keys():
        raise InputError(f"there must be one rule a block ({', '.join(blocks)}), got rules of {', '.join(rules)}")
    listed = [name for names in blocks.values() for name in names]
    if sorted(listed) != sorted(shapes):
        raise InputError(
            f"the blocks must hold every weight once ({', '.join(shapes)}) where each has a rule, got {', '.join(listed)}"
        )


def check_rule(rule: Rule, name: str, shape: torch.Size) -> None:
    """Refuse a rule that cannot move a weight of that shape by itself."""
    if isinstance(rule, Switched):
        check_rule(rule.before, name, shape)
        check_rule(rule.after, name, shape)
    if isinstance(rule, GradientFlow):
        raise InputError(f"a gradient flow moves all weights at once, it cannot be the rule of {name} alone")
    if isinstance(rule, Muon) and len(shape) != 2:
        raise InputError(
            f"Muon moves matrices only, and {name} has the shape {list(shape)}; give its block another rule"
        )


def joined(parts: Iterable[Part]) -> list[Part]:
    """Return the parts with neighbours of one rule made one, but for matrices under Muon."""
    whole: list[Part] = []
    for part in parts:
        if whole and whole[-1].rule == part.rule and not needs_shape(part.rule):
            start = whole.pop().start
            part = Part(part.rule, start, part.stop, (part.stop - start,))
        whole.append(part)
    return whole


def needs_shape(rule: Rule) -> bool:
    """Return whether a rule sees a weight as a matrix, so that neighbours cannot be made one."""
    return isinstance(rule, Muon) or (
        isinstance(rule, Switched) and (needs_shape(rule.before) or needs_shape(rule.after))
    )


def rule_at(rule: Update, update: int, factor: float) -> Update:
    """Return the rule of update number `update`, counted from 1, with every learning rate times a factor.

    >>> rule_at(GradientDescent(0.1, 1e-4), 1, 0.5)
    GradientDescent(lr=0.05, weight_decay=0.0001, momentum=0.0)
    """
    if not isinstance(rule, PerBlock):
        return rule if factor == 1 else replace(rule, lr=rule.lr * factor)
    if factor == 1 and not any(isinstance(part.rule, Switched) for part in rule.parts):
        return rule
    parts = tuple(replace(part, rule=constant_at(part.rule, update, factor)) for part in rule.parts)
    return PerBlock(rule.lr * factor, parts)


def constant_at(rule: Rule, update: int, factor: float) -> Constant:
    """Return what a rule of one block is at an update, with its learning rate times a factor.

    >>> constant_at(Switched(GradientDescent(0.1, 0.0), Frozen(), last=5), 6, 1.0)
    Frozen()
    """
    if isinstance(rule, Switched):
        rule = rule.before if update <= rule.last else rule.after
    return rule if isinstance(rule, Frozen) else replace(rule, lr=rule.lr * factor)


def updated(
    weights: Tensor,
    gradient: Tensor,
    moments: Moments,
    update: int,
    rule: Update,
    gradient_at: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Moments]:
    """Return weights and moments after one update; `gradient_at` gives the loss's gradient elsewhere, for flows."""
    if isinstance(rule, PerBlock):
        return parts_update(weights, gradient, moments, update, rule)
    if isinstance(rule, GradientFlow):
        return flow_update(weights, gradient, rule, gradient_at), moments
    return stretch_update(weights, gradient, moments, update, rule)


def parts_update(
    weights: Tensor, gradient: Tensor, moments: Moments, update: int, rule: PerBlock
) -> tuple[Tensor, Moments]:
    """Return weights and moments after every stretch has followed its own rule."""
    after, first, second = weights.clone(), moments.first.clone(), moments.second.clone()
    for part in rule.parts:
        here = slice(part.start, part.stop)
        before = Moments(moments.first[here], moments.second[here])
        after[here], kept = part_update(weights[here], gradient[here], before, update, part)
        first[here], second[here] = kept.first, kept.second
    return after, Moments(first, second)


def part_update(weights: Tensor, gradient: Tensor, moments: Moments, update: int, part: Part) -> tuple[Tensor, Moments]:
    """Return weights and moments of one stretch after one update by its rule."""
    match part.rule:
        case AdamW() | GradientDescent():
            return stretch_update(weights, gradient, moments, update, part.rule)
        case Muon():
            matrix, slope, momentum = (flat.view(part.shape) for flat in (weights, gradient, moments.first))
            matrix, buffer = muon_update(matrix, slope, momentum, part.rule)
            return matrix.reshape(-1), Moments(buffer.reshape(-1), moments.second)
    return weights, moments


def stretch_update(
    weights: Tensor, gradient: Tensor, moments: Moments, update: int, rule: AdamW | GradientDescent
) -> tuple[Tensor, Moments]:
    """Return weights and moments after one update that treats every weight alike."""
    if isinstance(rule, AdamW):
        return adamw_update(weights, gradient, moments, update, rule)
    force = gradient + rule.weight_decay * weights
    if rule.momentum:
        force = rule.momentum * moments.first + force
        moments = Moments(force, moments.second)
    return weights - rule.lr * force, moments


def flow_update(
    weights: Tensor, gradient: Tensor, rule: GradientFlow, gradient_at: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the weights one Runge–Kutta step of length lr further along the flow.

    On loss 0 with decay 1 the flow is e^{−t}, which a step of 0.1 meets to 1e-7:

    >>> rest = torch.zeros(1, dtype=torch.float64)
    >>> flow_update(rest + 1, rest, GradientFlow(0.1, 1.0), lambda w: rest) - torch.tensor(-0.1).double().exp() < 1e-7
    tensor([True])
    """
    h, decay = rule.lr, rule.weight_decay

    def velocity(at: Tensor) -> Tensor:
        return -(gradient_at(at) + decay * at)

    k1 = -(gradient + decay * weights)
    k2 = velocity(weights + 0.5 * h * k1)
    k3 = velocity(weights + 0.5 * h * k2)
    k4 = velocity(weights + h * k3)
    return weights + (h / 6) * (k1 + 2 * k2 + 2 * k3 + k4)


def adamw_update(
    weights: Tensor, gradient: Tensor, moments: Moments, update: int, rule: AdamW
) -> tuple[Tensor, Moments]:
    """Return weights and moments after the update of number `update`, counted from 1.

    The first update moves every weight by lr against the sign of its gradient:

    >>> w = torch.tensor([1.0, 1.0])
    >>> rule = AdamW(0.1, 0.9, 0.98, weight_decay=0.0)
    >>> adamw_update(w, torch.tensor([3.0, -5.0]), zero_moments(w, rule), 1, rule)[0]
    tensor([0.9000, 1.1000])
    """
    first = moments.first.lerp(gradient, 1 - rule.beta1)
    second = (moments.second * rule.beta2).addcmul_(gradient, gradient, value=1 - rule.beta2)
    unbiased = (1 - rule.beta1**update, (1 - rule.beta2**update) ** 0.5)
    size = second.sqrt().div_(unbiased[1]).add_(rule.epsilon)
    decayed = weights * (1 - rule.lr * rule.weight_decay)
    return decayed.addcdiv_(first, size, value=-rule.lr / unbiased[0]), Moments(first, second)
