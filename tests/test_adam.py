import math

import numpy as np
import pytest

from twoclocks.measures.adam import adam_gap_velocity, adamw_saturation


def adam_on_a_logistic_loss(
    steps: int, lr: float, beta1: float, beta2: float, *, weight_decay: float = 0.0, epsilon: float = 0.0
) -> np.ndarray:
    """Return the scalar weight after each step of AdamW on log(1 + e^{−w}), from 0, in float64."""
    weight, first, second, path = 0.0, 0.0, 0.0, np.empty(steps)
    for step in range(1, steps + 1):
        gradient = -math.exp(-weight) / (1 + math.exp(-weight))
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        pace = (first / (1 - beta1**step)) / (math.sqrt(second / (1 - beta2**step)) + epsilon)
        weight -= lr * (pace + weight_decay * weight)
        path[step - 1] = weight
    return path


@pytest.mark.parametrize(
    ("lr", "beta1", "beta2", "steps"),
    [(1e-3, 0.9, 0.98, 60_000), (1e-2, 0.9, 0.98, 6_000), (1e-3, 0.9, 0.999, 100_000), (1e-3, 0.0, 0.99, 60_000)],
)
def test_adam_carries_the_gap_at_the_velocity(lr: float, beta1: float, beta2: float, steps: int) -> None:
    path = adam_on_a_logistic_loss(steps, lr, beta1, beta2)
    assert path[-1] > 35  # far enough for e^{−w} to be the whole gradient
    measured = (path[-1] - path[-1001]) / 1000
    assert measured == pytest.approx(adam_gap_velocity(lr, beta1, beta2), rel=1e-6)


@pytest.mark.parametrize("lr", [1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.9, 0.98), (0.0, 0.5), (0.95, 0.95), (0.9, 0.82)])
def test_the_velocity_solves_its_equation_and_is_the_first_to(lr: float, beta1: float, beta2: float) -> None:
    def step(velocity: float) -> float:
        lag = (1 - beta1) / (1 - beta1 * math.exp(velocity))
        return lr * lag * math.sqrt(max(1 - beta2 * math.exp(2 * velocity), 0.0) / (1 - beta2))

    velocity = adam_gap_velocity(lr, beta1, beta2)
    assert 0 < velocity < -math.log(beta2) / 2
    assert all(step(share * velocity) > share * velocity for share in np.linspace(0.0, 0.999, 200))
    below, above = (1 - 1e-6) * velocity, (1 + 1e-6) * velocity
    assert step(below) > below and step(above) < above


def test_a_small_lr_leaves_no_lag() -> None:
    assert adam_gap_velocity(1e-9, 0.9, 0.98) == pytest.approx(1e-9, rel=1e-6)


def test_where_steps_outgrow_every_pace_there_is_no_velocity() -> None:
    with pytest.raises(ValueError, match="steady velocity"):
        adam_gap_velocity(1.0, 0.9, 0.5)


@pytest.mark.parametrize(("lr", "beta1", "beta2"), [(0.0, 0.9, 0.98), (1e-3, 1.0, 0.98), (1e-3, 0.9, 1.0)])
def test_settings_that_are_not_adams_are_refused(lr: float, beta1: float, beta2: float) -> None:
    with pytest.raises(ValueError, match="expected a positive lr"):
        adam_gap_velocity(lr, beta1, beta2)


@pytest.mark.parametrize("weight_decay", [0.2, 0.5, 1.0, 2.0])
def test_adamw_stops_at_one_over_the_decay(weight_decay: float) -> None:
    steps = int(20 / (weight_decay * 1e-2))
    path = adam_on_a_logistic_loss(steps, 1e-2, 0.9, 0.98, weight_decay=weight_decay, epsilon=1e-8)
    assert path[-1] == pytest.approx(adamw_saturation(weight_decay), rel=1e-5)


def test_without_decay_nothing_saturates() -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        adamw_saturation(0.0)
