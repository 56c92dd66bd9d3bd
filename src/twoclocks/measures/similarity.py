"""This file knows how alike two representations of the same examples are, whatever their bases."""

from __future__ import annotations

import torch
from torch import Tensor

from twoclocks.measures.spectrum import centred, check_features, scaled


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Return the linear CKA ‖YᵀX‖_F² / (‖XᵀX‖_F ‖YᵀY‖_F) of centred features, from 0 to 1; 0 where either is constant.

    Blind to rotation, shift and isotropic scale. Goes to 1 when d ≫ n whatever the features: there, use
    `debiased_linear_cka`. Source: Kornblith et al. 2019.

    Args:
        x: `[n d]`, at least two examples.
        y: `[n d']`, the same examples in the same order.

    Raises:
        ValueError: the numbers of examples differ or are below two, or a value is not finite.

    >>> linear_cka(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[-1.0, 0.0], [-2.0, 0.0], [-6.0, 0.0]]))
    tensor(1., dtype=torch.float64)
    """
    check_pair(x, y, least=2)
    x, y = scaled(centred(x)), scaled(centred(y))
    return cosine(overlap(x, y), overlap(x, x), overlap(y, y))


def debiased_linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Return the debiased linear CKA, the cosine of the U-centred kernels XXᵀ and YYᵀ: about 0 for unrelated features.

    For centred features the product of two such kernels is ⟨K, L⟩ − n/(n−2) Σ_a K_aa L_aa + tr K tr L / ((n−1)(n−2)),
    n(n−3) times the unbiased HSIC. May be slightly negative; 0 where either is constant. Source: Nguyen, Raghu &
    Kornblith 2021; Song et al. 2012.

    Args:
        x: `[n d]`, at least four examples.
        y: `[n d']`, the same examples in the same order.

    Raises:
        ValueError: the numbers of examples differ or are below four, or a value is not finite.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    >>> debiased_linear_cka(x, 3 - 2 * x)
    tensor(1., dtype=torch.float64)
    """
    check_pair(x, y, least=4)
    x, y = scaled(centred(x)), scaled(centred(y))
    return cosine(debiased_overlap(x, y), debiased_overlap(x, x), debiased_overlap(y, y))


def overlap(x: Tensor, y: Tensor) -> Tensor:
    """Return ⟨XXᵀ, YYᵀ⟩ = ‖YᵀX‖_F², through the smaller of the two ways."""
    n, d, e = len(x), x.shape[1], y.shape[1]
    return ((x @ x.T) * (y @ y.T)).sum() if n * (d + e) < d * e else (y.T @ x).square().sum()


def debiased_overlap(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner product of the U-centred kernels of centred features."""
    n = len(x)
    own_x, own_y = x.square().sum(1), y.square().sum(1)
    diagonal = n / (n - 2) * (own_x * own_y).sum()
    return overlap(x, y) - diagonal + own_x.sum() * own_y.sum() / ((n - 1) * (n - 2))


def cosine(product: Tensor, square_x: Tensor, square_y: Tensor) -> Tensor:
    """Return product / √(square_x · square_y), and 0 where either square is nothing but rounding."""
    size = (square_x.clamp_min(0.0) * square_y.clamp_min(0.0)).sqrt()
    return torch.where(size > 0, product / torch.where(size > 0, size, 1.0), 0.0)


def check_pair(x: Tensor, y: Tensor, *, least: int) -> None:
    """Refuse features that are not of the same examples, or of too few."""
    check_features(x, "x", least)
    check_features(y, "y", least)
    if len(x) != len(y):
        raise ValueError(f"y: expected the {len(x)} examples of x in the same order, got {len(y)}")
