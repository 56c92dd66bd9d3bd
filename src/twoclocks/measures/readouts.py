"""This file knows how alike two linear readouts of the same features are, and the readout that ridge regression gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twoclocks.measures.probes import RIDGE_PENALTIES, fit_ridge_probe
from twoclocks.measures.spectrum import centred, check_matrix, positive, scaled


def ridge_readout(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int | None = None,
    penalties: Sequence[float] = RIDGE_PENALTIES,
) -> Tensor:
    """Return the weight of the ridge probe of features, `[c d]`: W = YᵀΦ (ΦᵀΦ + λI)⁻¹ with Φ and Y centred.

    λ is chosen among `penalties` as in `fit_ridge_probe`, of which this is the weight. To compare directions give one: on
    memorised features the choice jumps to the weakest, and the cosine with the native readout with it. Rows of classes
    without an example are 0. Source: Hoerl & Kennard 1970.

    Args:
        features: `[n d]`.
        labels: `[n]`, whole numbers from 0 to classes − 1.
        classes: how many there are; the largest label + 1 if left out.
        penalties: the candidates, in units of tr(ΦᵀΦ) / d.

    Raises:
        ValueError: as `fit_ridge_probe`.

    >>> x, y = torch.tensor([[0.0], [1.0], [9.0], [10.0]]), torch.tensor([0, 0, 1, 1])
    >>> ridge_readout(x, y, penalties=[1.0])  # ΣΦY / (ΣΦ² + λ unit) = 9 / (82 + 82) for the second class
    tensor([[-0.0549],
            [ 0.0549]], dtype=torch.float64)
    """
    return fit_ridge_probe(features, labels, classes=classes, penalties=penalties).weight


def readout_cosine(weight: Tensor, other: Tensor) -> Tensor:
    """Return the cosine ⟨W, V⟩_F / (‖W‖_F ‖V‖_F) of two readouts, each minus the mean of its rows; from −1 to 1.

    The direction test: a shift common to all classes changes no prediction and is taken out, so that 1 means the same
    decisions up to a scale. Every entry of the whole matrix counts, so that a class weighs as the product of its norms, and
    a class absent from one of them nothing. 0 where a readout does not tell classes apart. For independent readouts of
    Gaussian entries its standard deviation is 1 / √((c − 1) d). It depends on the scale of each feature: compare readouts of
    the same features. "Equalising": the cosines of the native readout with the ridge readouts of training and of held-out
    features, at equal n and at the same penalty, converge `[def]`. They never quite meet: also on frozen random features a
    readout leans to the examples that it was fitted to. Frobenius form `[def]`.

    Args:
        weight: `[c d]`, at least two classes.
        other: `[c d]`.

    Raises:
        ValueError: the shapes differ, there are fewer than two classes, or a value is not finite.

    >>> readout_cosine(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))  # cos 45°
    tensor(0.7071, dtype=torch.float64)
    """
    first, second = centred_rows(weight, "weight"), centred_rows(other, "other")
    if first.shape != second.shape:
        raise ValueError(f"other: expected the shape of the weight, {list(first.shape)}, got {list(second.shape)}")
    size = torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second)
    return ((first * second).sum() / positive(size)).clamp(-1.0, 1.0)


def centred_rows(weight: Tensor, name: str) -> Tensor:
    """Return a readout minus the mean of its rows, in float64, on a scale at which squares neither overflow nor vanish."""
    check_matrix(weight, name)
    if len(weight) < 2:
        raise ValueError(f"{name}: expected at least two classes, got {len(weight)}")
    return scaled(centred(scaled(weight)))
