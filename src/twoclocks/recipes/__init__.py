"""This package knows the recipes, one a file, and finds them by the name used on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from twoclocks.errors import InputError, nearest
from twoclocks.recipes.deep_linear import deep_linear
from twoclocks.recipes.label_noise import label_noise
from twoclocks.recipes.mnist_large_init import mnist_large_init
from twoclocks.recipes.modular_addition import modular_addition
from twoclocks.recipes.modular_addition_published import modular_addition_published
from twoclocks.recipes.modular_addition_transformer import modular_addition_transformer
from twoclocks.recipes.muon_collapse import muon_collapse
from twoclocks.recipes.s5 import s5
from twoclocks.recipes.separable_logistic import separable_logistic
from twoclocks.recipes.softmax_collapse import softmax_collapse
from twoclocks.recipes.sparse_parity import sparse_parity
from twoclocks.recipes.two_layer_relu import two_layer_relu
from twoclocks.training.recipe import Recipe

RECIPES: Mapping[str, Callable[..., Recipe]] = MappingProxyType(
    {
        "modular-addition": modular_addition,
        "modular-addition-published": modular_addition_published,
        "modular-addition-transformer": modular_addition_transformer,
        "s5": s5,
        "sparse-parity": sparse_parity,
        "mnist-large-init": mnist_large_init,
        "label-noise": label_noise,
        "muon-collapse": muon_collapse,
        "softmax-collapse": softmax_collapse,
        "two-layer-relu": two_layer_relu,
        "deep-linear": deep_linear,
        "separable-logistic": separable_logistic,
    }
)

__all__ = [
    "RECIPES",
    "deep_linear",
    "label_noise",
    "mnist_large_init",
    "modular_addition",
    "modular_addition_published",
    "modular_addition_transformer",
    "muon_collapse",
    "recipe",
    "s5",
    "separable_logistic",
    "softmax_collapse",
    "sparse_parity",
    "two_layer_relu",
]


def recipe(name: str, settings: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe of that name with some settings changed; values may be text, as from `--set key=value`.

    Raises:
        InputError: the recipe or a setting is unknown, or a value is of the wrong type or out of range.

    >>> recipe("modular-addition", {"p": "59"}).settings["p"]
    59
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe '{name}'.{nearest(name, list(RECIPES))}")
    return RECIPES[name](**(settings or {}))
