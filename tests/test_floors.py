import math

import pytest
import torch

from twoclocks.measures.floors import (
    cross_entropy_bracket,
    expected_gap,
    is_at_numerical_floor,
    weight_decay_loss_floor,
)
from twoclocks.measures.margins import cross_entropy_from_gaps


def floor(decay: float, squared_norm: float, depth: int = 1, classes: int = 10) -> float:
    return weight_decay_loss_floor(depth=depth, weight_decay=decay, squared_norm=squared_norm, classes=classes)


@pytest.mark.parametrize("gap", [0.3, 2.0, 12.0, 100.0])
def test_the_floor_is_attained_where_all_wrong_classes_tie(gap: float) -> None:
    logits, labels = torch.tensor([[gap] + 9 * [0.0]], dtype=torch.float64), torch.tensor([0])
    loss = float(cross_entropy_from_gaps(logits, labels))
    squared_norm = 2 * float(expected_gap(logits, labels)) / 0.1
    stationary = floor(0.1, squared_norm, depth=2)
    assert stationary <= loss * (1 + 1e-9)
    if gap > 2:  # below that the loss lies beyond the peak of the pull, and the same pull is met at a lower loss
        assert stationary == pytest.approx(loss, rel=1e-9)


def test_the_floor_bounds_the_loss_of_any_logits_with_that_pull() -> None:
    logits = 3 * torch.randn(50, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = logits.argmax(1)
    squared_norm = float(expected_gap(logits, labels)) / 0.1
    assert 0 < floor(0.1, squared_norm) < float(cross_entropy_from_gaps(logits, labels).mean())


def test_no_decay_has_no_floor_and_too_large_a_norm_no_stationary_point() -> None:
    assert floor(0.0, 50.0) == 0.0
    assert floor(1.0, 1e4) == math.inf
    assert 0 < floor(1e-40, 1.0) < 1e-40


def test_what_is_no_setting_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        floor(0.1, 1.0, classes=1)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        cross_entropy_bracket(torch.zeros(1), 1)


def test_the_numerical_floor_is_ten_float32_steps() -> None:
    losses = torch.tensor([0.0, 1.1e-6, 1.3e-6, 1.0, math.nan])
    assert is_at_numerical_floor(losses).tolist() == [True, True, False, False, False]
    assert bool(is_at_numerical_floor(torch.tensor(1.3e-6), factor=20))
