"""This file knows what a trajectory says of the optimiser that made it: its decay, how that acts, and Adam's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twoclocks.trajectory import Trajectory

ADAPTIVE = ("Adam", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop")
DECOUPLED = ("AdamW", "Muon")
ADAMS = ("Adam", "AdamW")


def weight_decay_of(trajectory: Trajectory) -> float | None:
    """Return the weight decay λ_w that a run was trained with, in 1/flow_time; None where it is unknown or not one number.

    >>> from twoclocks.trajectory import Source
    >>> weight_decay_of(Trajectory(Source("x", "csv", 0), {}, settings={"session": {"weight_decay": [0.1, 0.1]}}))
    0.1
    """
    return declared_decay(trajectory)[0]


def declared_decay(trajectory: Trajectory) -> tuple[float | None, str]:
    """Return the weight decay as declared, or why there is none."""
    settings = trajectory.settings
    candidates = [
        [nested(settings, "settings", "weight_decay")],
        nested(settings, "session", "weight_decay") or [],
        [nested(settings, "optimizer", "defaults", "weight_decay")],
    ]
    found = next(({d for d in some if d is not None} for some in candidates if any(d is not None for d in some)), set())
    if not found:
        return None, "the weight decay was not recorded"
    if len(found) > 1:
        return (
            None,
            f"the weight decay differs between groups of weights ({', '.join(f'{d:g}' for d in sorted(found))})",
        )
    return float(found.pop()), ""


def decay_and_reason(trajectory: Trajectory) -> tuple[float | None, str]:
    """Return the weight decay that sets a time 1/(lr λ_w), or why there is no such time."""
    decay, why = declared_decay(trajectory)
    if decay is None:
        return None, why
    if decay == 0:
        return None, "the weight decay is 0, so 1/(lr λ_w) is no time"
    if is_decay_coupled(trajectory) is None and optimizer_name(trajectory) in ADAPTIVE:
        return (
            None,
            f"{optimizer_name(trajectory)} rescales its decay by the gradient's size, so 1/(lr λ_w) is no time of it",
        )
    if optimizer_name(trajectory) == "SGD" and momentum_of(trajectory):
        return None, "momentum makes every step longer than its learning rate, so Σ lr λ_w is no time of the decay"
    return decay, ""


def is_decay_coupled(trajectory: Trajectory) -> bool | None:
    """Return whether weight decay is part of the gradient of a flow, so that F = loss + (λ_w/2) ‖θ‖² descends.

    True for SGD, False for AdamW, whose decay is decoupled; None where it is unknown, for Adam, which adds the decay to the
    gradient and then divides it by the gradient's size, and for SGD with momentum, which is no flow: F need not descend.

    >>> from twoclocks.trajectory import Source
    >>> is_decay_coupled(Trajectory(Source("x", "csv", 0), {}, settings={"optimizer": {"name": "AdamW"}}))
    False
    """
    if (declared := trajectory.settings.get("decay")) in ("coupled", "decoupled"):
        return bool(declared == "coupled")
    name = optimizer_name(trajectory)
    is_decoupled = nested(trajectory.settings, "optimizer", "defaults", "decoupled_weight_decay") is True
    if name in DECOUPLED or is_decoupled:
        return False
    return True if name == "SGD" and not momentum_of(trajectory) else None


def momentum_of(trajectory: Trajectory) -> float:
    """Return the momentum of SGD, 0 where there is none."""
    return float(nested(trajectory.settings, "optimizer", "defaults", "momentum") or 0.0)


def optimizer_name(trajectory: Trajectory) -> str:
    """Return the name of the optimiser that a Recorder was given; empty where there was none."""
    return str(nested(trajectory.settings, "optimizer", "name") or "")


def nested(settings: Any, *keys: str) -> Any:
    """Return an entry of nested mappings; None where it or anything on the way is absent."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings


def adam_of(trajectory: Trajectory) -> tuple[float, float, float] | None:
    """Return (lr, β1, β2) where the optimiser is Adam or AdamW, None where it is not or is not known.

    >>> from twoclocks.trajectory import Source
    >>> adam = {"name": "Adam", "defaults": {"lr": 0.01, "betas": [0.9, 0.99]}}
    >>> adam_of(Trajectory(Source("x", "csv", 0), {}, settings={"optimizer": adam}))
    (0.01, 0.9, 0.99)
    """
    if trajectory.settings.get("rules"):  # blocks have rules of their own, which need not be Adam's
        return None
    own = [nested(trajectory.settings, "settings", name) for name in ("lr", "beta1", "beta2")]
    if nested(trajectory.settings, "settings", "optimizer") in (None, "adamw") and None not in own:
        return float(own[0]), float(own[1]), float(own[2])
    defaults = nested(trajectory.settings, "optimizer", "defaults") or {}
    if optimizer_name(trajectory) in ADAMS and {"lr", "betas"} <= set(defaults):
        return float(defaults["lr"]), *(float(beta) for beta in defaults["betas"])  # type: ignore[return-value]
    return None
