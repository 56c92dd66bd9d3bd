"""This file knows how well the kernel of a representation fits the labels, without forming the kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from twoclocks.measures.spectrum import centred, check_features, positive, scaled, smaller_gram


def kernel_target_alignment(features: Tensor, labels: Tensor, *, mean: Tensor | None = None) -> Tensor:
    """Return the alignment A = mean_c y_cᵀΦΦᵀy_c / (‖y_c‖² ‖ΦΦᵀ‖_F), a number from 0 to 1; 0 for constant features.

    Φ are the features minus their mean, y_c ∈ {0, 1}ⁿ marks the examples of class c, and the mean runs over the classes
    that occur. Only ‖Φᵀy_c‖² and ‖ΦᵀΦ‖_F are formed. Depends on n and on the class counts: compare equal ones. Perfect
    features of C balanced classes reach (1 − 1/C) / √(C − 1). Source: Cristianini et al. 2001, by class `[def]`.

    Args:
        features: `[n d]`, at least two examples.
        labels: `[n]`, whole numbers.
        mean: `[d]` to centre on in place of the features' own mean: for held-out features, that of the training ones.

    Raises:
        ValueError: the lengths differ, there are fewer than two examples, labels are not whole numbers, or a value is
            not finite.

    >>> kernel_target_alignment(torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    check_labelled(features, labels)
    phi = scaled(centred(features) if mean is None else features.detach().double() - mean.detach().double())
    present, place = torch.unique(labels, return_inverse=True)
    sums = phi.new_zeros(len(present), phi.shape[1]).index_add_(0, place, phi)
    counts = place.bincount().double()
    numerators: Tensor = sums.square().sum(1) / counts
    return numerators.mean() / positive(smaller_gram(phi).square().sum().sqrt())


def check_labelled(features: Tensor, labels: Tensor) -> None:
    """Refuse features and labels that do not belong together."""
    check_features(features)
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels: expected one for each of {len(features)} examples, got {list(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels: expected whole numbers, got {labels.dtype}")
