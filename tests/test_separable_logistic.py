"""What holds for separable data: the margin is there by construction, and without decay the loss falls as 1/t."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twoclocks.diagnosis import diagnose
from twoclocks.errors import InputError
from twoclocks.recipes import separable_logistic
from twoclocks.recipes.separable_logistic import problem, separable
from twoclocks.training.loop import train


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_examples_keep_their_distance_from_the_border(classes: int) -> None:
    settings = separable_logistic(n=300, d=9, classes=classes, margin=0.4).settings
    rows, labels = separable(300, settings, torch.Generator().manual_seed(0))
    assert torch.bincount(labels).tolist() == [sum(i % classes == c for i in range(300)) for c in range(classes)]
    scores = rows[:, :classes]
    gaps = scores.gather(1, labels[:, None]) - scores
    gaps[torch.arange(300), labels] = torch.inf
    assert float(gaps.min()) >= 0.4 * 2**0.5 - 1e-12
    assert float(rows[:, classes:].std()) == pytest.approx(1.0, abs=0.05)


def test_the_axes_are_turned_and_the_seed_of_the_data_decides_how() -> None:
    one, other = (problem(separable_logistic(data_seed=seed).settings) for seed in (0, 1))
    weights = {"layer.1": torch.eye(2, 16, dtype=torch.float64)}
    logits = one.forward(weights, "train")[1]
    assert not torch.equal(logits, other.forward(weights, "train")[1])
    assert float((logits.argmax(1) == one.labels["train"]).double().mean()) < 0.95


def test_without_decay_the_loss_falls_as_one_over_t_and_the_margin_as_its_logarithm() -> None:
    run = train(separable_logistic(n=16, d=8, margin=1.0, steps=8000, heldout=0))
    loss, margin = run.scalars["train_loss"], run.scalars["train_margin_min"]
    late = loss.step >= 800
    time, value = np.log(loss.step[late]), np.log(loss.value[0, late])
    assert np.polyfit(time, value, 1)[0] == pytest.approx(-1.0, abs=0.05)
    assert np.polyfit(time, margin.value[0, late], 1)[0] == pytest.approx(1.0, abs=0.15)
    assert "polish" not in run.settings


def test_with_decay_the_loss_stops_at_a_floor() -> None:
    run = train(
        separable_logistic(n=16, d=8, margin=1.0, steps=4000, heldout=0, weight_decay=0.01, init_scale=1.0),
        seeds=[0, 1],
    )
    first, second = run.settings["polish"]["objective"]
    assert first == pytest.approx(second, rel=1e-12)  # convex: one limit for every start
    np.testing.assert_allclose(run.scalars["objective"].value[:, -1], first, rtol=1e-9)
    assert min(run.settings["polish"]["slowest_rate"]) == pytest.approx(0.01, rel=1e-6)  # directions without data


def test_it_is_learned_without_delay() -> None:
    labels = [diagnose(train(separable_logistic(steps=200, data_seed=seed))).label for seed in range(3)]
    assert labels == ["ordinary learning"] * 3


def test_more_classes_than_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="d must be at least classes = 5, got 3"):
        separable_logistic(classes=5, d=3)
