"""What a trajectory says of its optimiser: its decay, how that acts, and Adam's settings."""

from __future__ import annotations

from typing import Any

import pytest

from synthetic import trajectory
from twoclocks.optimiser_of import adam_of, decay_and_reason, is_decay_coupled, weight_decay_of


def of(**settings: Any) -> Any:
    return trajectory(settings=settings)


def recorder(name: str, **defaults: Any) -> dict[str, Any]:
    return {"name": name, "defaults": defaults}


def test_the_decay_of_a_recipe_a_session_and_an_optimiser() -> None:
    assert weight_decay_of(of(settings={"weight_decay": 0.5})) == 0.5
    assert weight_decay_of(of(session={"weight_decay": [0.1, 0.1]})) == 0.1
    assert weight_decay_of(of(optimizer=recorder("AdamW", weight_decay=0.01))) == 0.01
    assert weight_decay_of(of(settings={"weight_decay": 0})) == 0.0


def test_a_decay_that_is_unknown_or_not_one_number_is_none() -> None:
    for unknown in (of(), of(settings={}), of(settings="lost"), of(session={"weight_decay": [0.1, 0.0]})):
        assert weight_decay_of(unknown) is None


@pytest.mark.parametrize(
    ("settings", "coupled"),
    [
        ({"decay": "coupled"}, True),
        ({"decay": "decoupled"}, False),
        ({"optimizer": recorder("SGD")}, True),
        ({"optimizer": recorder("AdamW")}, False),
        ({"optimizer": recorder("Muon")}, False),
        ({"optimizer": recorder("Adam")}, None),
        ({}, None),
    ],
)
def test_how_the_decay_acts(settings: dict[str, Any], coupled: bool | None) -> None:
    assert is_decay_coupled(of(**settings)) is coupled


def test_the_settings_of_adam() -> None:
    betas = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.98}
    assert adam_of(of(settings=betas)) == (1e-3, 0.9, 0.98)
    assert adam_of(of(settings={**betas, "optimizer": "adamw"})) == (1e-3, 0.9, 0.98)
    assert adam_of(of(optimizer=recorder("Adam", lr=0.01, betas=[0.8, 0.9]))) == (0.01, 0.8, 0.9)
    assert adam_of(of(settings={**betas, "optimizer": "flow"})) is None
    assert adam_of(of(optimizer=recorder("SGD", lr=0.01))) is None
    assert adam_of(of()) is adam_of(of(settings="lost")) is None


def test_momentum_is_no_flow() -> None:
    of = trajectory(settings={"optimizer": {"name": "SGD", "defaults": {"momentum": 0.9, "weight_decay": 0.1}}})
    assert is_decay_coupled(of) is None
    assert decay_and_reason(of)[0] is None
    plain = trajectory(settings={"optimizer": {"name": "SGD", "defaults": {"momentum": 0, "weight_decay": 0.1}}})
    assert is_decay_coupled(plain) is True
    assert decay_and_reason(plain) == (0.1, "")
