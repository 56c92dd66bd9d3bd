"""This file knows what every measure promises besides its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

EXAMPLE_ROWS = ("features", "labels", "logits", "x", "y", "matrix")


@dataclass(frozen=True)
class Case:
    """A measure, arguments it accepts, and how it treats its examples.

    `by_example`: the value has one row an example, which is permuted with them. `least`: how many examples it needs (0:
    none give an empty value). `passes_nan`: NaN in, NaN out, because a NaN loss is an observation.
    """

    measure: Callable[..., Tensor]
    given: Mapping[str, Any]
    by_example: bool = False
    least: int = 1
    passes_nan: bool = False
    others: Mapping[str, Any] = field(default_factory=dict)

    def value(self, **given: Any) -> Tensor:
        """Return the measure of the case's arguments, some of them replaced."""
        return self.measure(**{**self.given, **given}, **self.others)


def check_contract(case: Case) -> None:
    """Check that a measure keeps float64, leaves its inputs alone, ignores their order, and refuses in words."""
    before = {name: copied(item) for name, item in case.given.items()}
    value = case.value()
    assert value.dtype == torch.float64
    assert_close(dict(case.given), before, rtol=0, atol=0)
    assert_close(case.value(**half(case.given)), value, rtol=5e-3, atol=5e-3)
    if any(name in EXAMPLE_ROWS for name in case.given):
        check_order(case, value)
        check_few(case)
        check_not_finite(case)


def check_order(case: Case, value: Tensor) -> None:
    """Check that permuting the examples permutes the value, or leaves it."""
    order = torch.randperm(len(next(iter(case.given.values()))), generator=torch.Generator().manual_seed(5))
    permuted = case.value(**{name: item[order] for name, item in case.given.items()})
    assert_close(permuted, value[order] if case.by_example else value, rtol=1e-9, atol=1e-12)


def check_few(case: Case) -> None:
    """Check that no examples, or one fewer than needed, raise one plain sentence, and that just enough are measured."""
    for count in {0, case.least - 1} if case.least else set():
        with pytest.raises(ValueError, match="expected"):
            case.value(**{name: item[:count] for name, item in case.given.items()})
    enough = case.value(**{name: item[: case.least] for name, item in case.given.items()})
    assert bool(enough.isfinite().all())


def check_not_finite(case: Case) -> None:
    """Check that NaN and infinity are refused, or passed on where that is promised."""
    for bad in (float("nan"), float("inf")):
        name = next(name for name, item in case.given.items() if item.is_floating_point())
        spoiled = case.given[name].clone()
        spoiled[0, 0] = bad
        if case.passes_nan:
            assert not bool(case.value(**{name: spoiled}).isfinite().all())
            continue
        with pytest.raises(ValueError, match="finite"):
            case.value(**{name: spoiled})


def copied(item: Any) -> Any:
    return item.clone() if isinstance(item, Tensor) else [part.clone() for part in item]


def half(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments in half precision, as they lie in a run folder."""
    return {name: lowered(item) for name, item in given.items()}


def lowered(item: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    if isinstance(item, Tensor):
        return item.half() if item.is_floating_point() else item
    return [part.half() for part in item]
