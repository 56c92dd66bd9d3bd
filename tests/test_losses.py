"""What holds for the gradients by the logits: one function up to rounding, and where each of them gives up."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from twoclocks.training.losses import (
    GRADIENTS,
    LogitGradient,
    cross_entropy_gradient_faithful,
    cross_entropy_gradient_stable,
    stablemax,
    stablemax_cross_entropy,
    stablemax_gradient,
)

GAPS = torch.arange(0.0, 80.5, 0.5, dtype=torch.float64)


def by_autograd(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    logits = logits.detach().clone().requires_grad_()
    loss(logits, labels).backward()
    assert logits.grad is not None
    return logits.grad


def drawn(dtype: torch.dtype, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(50, 7, dtype=dtype, generator=generator)
    return logits, torch.randint(7, (50,), generator=generator)


def one_gap(gap: Tensor, classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Examples whose right logit leads all wrong ones by `gap[n]`, and their labels."""
    logits = torch.zeros(len(gap), classes, dtype=dtype)
    logits[:, 1:] = -gap[:, None].to(dtype)
    return logits, torch.zeros(len(gap), dtype=torch.long)


def exact(gap: Tensor, classes: int) -> Tensor:
    """The gradient times n in float64, from the formulas with e^{−Γ}: closed form for equal gaps."""
    wrong = torch.exp(-gap) / (1 + (classes - 1) * torch.exp(-gap))
    return torch.cat([-(classes - 1) * wrong[:, None], wrong[:, None].expand(len(gap), classes - 1)], dim=1)


@pytest.mark.parametrize("gradient", [cross_entropy_gradient_faithful, cross_entropy_gradient_stable])
def test_both_are_the_gradient_of_the_cross_entropy(gradient: LogitGradient) -> None:
    logits, labels = drawn(torch.float64)
    torch.testing.assert_close(
        gradient(logits, labels), by_autograd(F.cross_entropy, logits, labels), rtol=1e-9, atol=1e-16
    )


def test_faithful_is_what_autograd_computes_in_float32_collapse_included() -> None:
    logits, labels = one_gap(GAPS, 5, torch.float32)
    found, autograd = cross_entropy_gradient_faithful(logits, labels), by_autograd(F.cross_entropy, logits, labels)
    torch.testing.assert_close(found, autograd, rtol=0, atol=2.0**-23 / len(GAPS))
    assert torch.equal(found[:, 0] == 0, autograd[:, 0] == 0)
    assert 0 < int((found[:, 0] == 0).sum()) < len(GAPS)


@pytest.mark.parametrize("classes", [2, 97])
def test_stable_keeps_float32_accurate_at_gaps_from_0_to_80(classes: int) -> None:
    found = cross_entropy_gradient_stable(*one_gap(GAPS, classes, torch.float32)) * len(GAPS)
    torch.testing.assert_close(found.double(), exact(GAPS, classes), rtol=1e-5, atol=0)


def test_faithful_is_not_accurate_at_these_gaps() -> None:
    """In float32 the right logit's entry is off by half at a gap of 16, and missing from 16.64 on."""
    found = cross_entropy_gradient_faithful(*one_gap(GAPS, 2, torch.float32)) * len(GAPS)
    error = (found[:, 0].double() / exact(GAPS, 2)[:, 0] - 1).abs()
    assert float(error[GAPS <= 8].max()) < 1e-3
    assert float(error[GAPS >= 17].min()) == 1.0


@pytest.mark.parametrize(
    ("gradient", "dtype", "entry", "first_zero"),
    [
        (cross_entropy_gradient_faithful, torch.float32, 0, 24 * math.log(2)),
        (cross_entropy_gradient_faithful, torch.float64, 0, 53 * math.log(2)),
        (cross_entropy_gradient_faithful, torch.float32, 1, 150 * math.log(2)),
        (cross_entropy_gradient_stable, torch.float32, 0, 150 * math.log(2)),
        (cross_entropy_gradient_stable, torch.float32, 1, 150 * math.log(2)),
        (cross_entropy_gradient_stable, torch.float64, 0, 1075 * math.log(2)),
    ],
)
def test_each_entry_becomes_exactly_0_at_a_known_gap(
    gradient: LogitGradient, dtype: torch.dtype, entry: int, first_zero: float
) -> None:
    """The right one's where 1 + e^{−Γ} rounds to 1 (faithful), else where e^{−Γ} rounds to 0; by single examples."""
    gaps = torch.arange(0.9 * first_zero, 1.1 * first_zero, 0.01, dtype=torch.float64)
    logits, labels = one_gap(gaps, 2, dtype)
    entries = torch.stack([gradient(logits[a : a + 1], labels[a : a + 1])[0, entry] for a in range(len(gaps))])
    found = gaps[entries == 0]
    assert len(found) > 0 and bool((entries[gaps > found[0]] == 0).all())
    assert float(found[0]) == pytest.approx(first_zero, abs=0.03)


@pytest.mark.parametrize("name", sorted(GRADIENTS))
def test_a_permutation_of_examples_or_classes_permutes_the_gradient(name: str) -> None:
    logits, labels = drawn(torch.float64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(GRADIENTS[name](logits[order], labels[order]), GRADIENTS[name](logits, labels)[order])
    classes = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    permuted = GRADIENTS[name](logits[:, classes], classes.argsort()[labels])
    torch.testing.assert_close(permuted, GRADIENTS[name](logits, labels)[:, classes])
    assert len(GRADIENTS) == 3


@pytest.mark.parametrize("name", sorted(GRADIENTS))
def test_inputs_are_left_alone_and_keep_their_type(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        logits, labels = drawn(dtype)
        before = logits.clone(), labels.clone()
        assert GRADIENTS[name](logits, labels).dtype == dtype
        assert torch.equal(logits, before[0]) and torch.equal(labels, before[1])


@pytest.mark.parametrize("spread", [0.5, 5.0, 40.0])
def test_rows_of_the_stable_gradient_sum_to_0_and_those_of_the_faithful_one_do_not(spread: float) -> None:
    logits, labels = drawn(torch.float32, spread)
    stable = cross_entropy_gradient_stable(logits, labels)
    assert float((stable.double().sum(1).abs() / stable.double().abs().sum(1).clamp_min(1e-300)).max()) < 1e-6
    collapsed = cross_entropy_gradient_faithful(*one_gap(torch.tensor([20.0]), 3, torch.float32))
    assert float(collapsed[0, 0]) == 0.0 and float(collapsed.sum()) > 0.0


def test_stablemax_gradient_is_that_of_its_loss() -> None:
    logits, labels = drawn(torch.float64)
    expected = by_autograd(plain_stablemax_cross_entropy, logits, labels)
    torch.testing.assert_close(stablemax_gradient(logits, labels), expected, rtol=1e-9, atol=1e-16)
    torch.testing.assert_close(by_autograd(stablemax_cross_entropy, logits, labels), expected, rtol=1e-9, atol=1e-16)


def plain_stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The slow second definition: −log of the normalised s, as it is written down."""
    s = torch.where(logits < 0, 1 / (1 - logits), logits + 1)
    return -(s / s.sum(1, keepdim=True)).gather(1, labels[:, None]).log().mean()


def test_stablemax_shares_are_shares_and_its_gradient_outlives_the_softmax() -> None:
    logits, _ = drawn(torch.float64, 30.0)
    shares = stablemax(logits)
    torch.testing.assert_close(shares.sum(1), torch.ones(50, dtype=torch.float64))
    assert bool((shares > 0).all())
    gap = torch.tensor([200.0])
    logits, labels = one_gap(gap, 2, torch.float32)
    assert float(stablemax_gradient(logits, labels).abs().min()) > 1e-6  # 1 − q_y = (1/201)/(1 + 1/201), of 201
    assert float(cross_entropy_gradient_stable(logits, labels).abs().max()) == 0.0
    assert float(stablemax_cross_entropy(logits, labels)) == pytest.approx(math.log1p(1 / 201), rel=1e-4)
