import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import oracles
from twoclocks.measures.margins import accuracy, cross_entropy_from_gaps, logit_gaps, logit_scale, margin


def logits_and_labels(seed: int, n: int = 12, c: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(n, c, dtype=torch.float64, generator=generator), torch.randint(
        0, c, (n,), generator=generator
    )


def test_gaps_and_losses_equal_their_oracles() -> None:
    logits, labels = logits_and_labels(0)
    assert_close(logit_gaps(logits, labels), torch.from_numpy(oracles.logit_gaps(logits.numpy(), labels.numpy())))
    losses = torch.from_numpy(oracles.cross_entropy(logits.numpy(), labels.numpy()))
    assert_close(cross_entropy_from_gaps(logits, labels), losses, rtol=1e-12, atol=0)


@given(st.integers(0, 10_000), st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_margins_ignore_a_shift_common_to_all_classes(seed: int, shift: float) -> None:
    logits, labels = logits_and_labels(seed)
    assert_close(margin(logits + shift, labels), margin(logits, labels), rtol=1e-9, atol=1e-9)
    assert_close(logit_scale(logits + shift), logit_scale(logits), rtol=1e-9, atol=1e-9)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_margins_scale_with_the_logits(seed: int, factor: float) -> None:
    logits, labels = logits_and_labels(seed)
    assert_close(margin(factor * logits, labels), factor * margin(logits, labels))


def test_a_margin_is_positive_exactly_where_the_answer_is_right() -> None:
    logits, labels = logits_and_labels(1, n=200)
    right = logits.argmax(1) == labels
    assert bool(right.any()) and not bool(right.all())
    assert_close(margin(logits, labels) > 0, right)
    assert float(accuracy(logits, labels)) == float(right.double().mean())


def test_losses_of_huge_gaps_neither_vanish_nor_overflow() -> None:
    logits = torch.tensor([[600.0, 0.0], [0.0, 900.0]], dtype=torch.float64)
    losses = cross_entropy_from_gaps(logits, torch.tensor([0, 0]))
    assert 0 < float(losses[0]) < 1e-250
    assert float(losses[1]) == 900.0


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), "at least two classes"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "one for each of 3 rows"),
        (torch.zeros(3, 2), torch.zeros(3), "whole numbers"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "expected 0 to 1, got 0 to 2"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -1]), "expected 0 to 1, got -1 to 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(logits: torch.Tensor, labels: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        margin(logits, labels)
