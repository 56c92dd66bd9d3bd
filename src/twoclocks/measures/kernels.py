"""This file knows how well the kernel of a representation fits the labels, and how far it moves between two moments.

The kernel of features Φ `[n d]` is K = ΦΦᵀ. It is never formed where n is large: at most matrices of d × d, or of
(d + d') × (d + d') for two moments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from twoclocks.measures.similarity import check_pair, overlap
from twoclocks.measures.spectrum import (
    centred,
    check_features,
    check_matrix,
    largest_entry,
    positive,
    scaled,
    smaller_gram,
)

NEAR = 1e-6  # squared difference of kernels at unit length, below which products of 1 lose more than nine digits of it


def kernel_target_alignment(features: Tensor, labels: Tensor) -> Tensor:
    """Return the alignment A = mean_c y_cᵀΦΦᵀy_c / (‖y_c‖² ‖ΦΦᵀ‖_F), a number from 0 to 1; 0 for constant features.

    Φ are the features minus their mean, y_c ∈ {0, 1}ⁿ marks the examples of class c, and the mean runs over the classes
    that occur. Only ‖Φᵀy_c‖² and ‖ΦᵀΦ‖_F are formed. Depends on n and on the class counts: compare equal ones. Perfect
    features of C balanced classes reach (1 − 1/C) / √(C − 1). Source: Cristianini et al. 2001, by class `[def]`.

    Args:
        features: `[n d]`, at least two examples.
        labels: `[n]`, whole numbers.

    Raises:
        ValueError: the lengths differ, there are fewer than two examples, labels are not whole numbers, or a value is
            not finite.

    >>> kernel_target_alignment(torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    check_labelled(features, labels)
    phi = scaled(centred(features))
    present, place = torch.unique(labels, return_inverse=True)
    sums = phi.new_zeros(len(present), phi.shape[1]).index_add_(0, place, phi)
    counts = place.bincount().double()
    numerators: Tensor = sums.square().sum(1) / counts
    return numerators.mean() / positive(smaller_gram(phi).square().sum().sqrt())


def alignment_gap(
    train_features: Tensor,
    train_labels: Tensor,
    heldout_features: Tensor,
    heldout_labels: Tensor,
    *,
    least: int = 2,
    generator: torch.Generator,
) -> Tensor:
    """Return ΔA = A_train − A_heldout of `kernel_target_alignment` at equal class counts, from −1 to 1 `[def]`.

    Compared are the places that `matched_places` draws, each split's centred on their own mean. Give a generator of the
    same seed at every moment, so that the same examples are compared. For features that know nothing of the split, ΔA is
    0 on average. Were both centred on the mean of the training features, these would be the closer to it, and a gap of
    several times the one looked for would be hidden.

    Args:
        train_features: `[n d]`.
        train_labels: `[n]`, whole numbers.
        heldout_features: `[n' d]`.
        heldout_labels: `[n']`, whole numbers.
        least: classes with fewer examples than this in either split are left out of both.
        generator: draws the examples of the classes that are larger in one split.

    Raises:
        ValueError: as `kernel_target_alignment`, the widths differ, `least` is below 1, or fewer than two classes are
            left.

    >>> x, y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([0, 0, 1, 1])
    >>> mixed = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])  # A is 1/2 and 0
    >>> alignment_gap(x, y, mixed, y, generator=torch.Generator())
    tensor(0.5000, dtype=torch.float64)
    """
    check_labelled(train_features, train_labels)
    check_labelled(heldout_features, heldout_labels)
    if train_features.shape[1] != heldout_features.shape[1]:
        raise ValueError(
            f"heldout_features: expected {train_features.shape[1]} columns, as the training ones, "
            f"got {heldout_features.shape[1]}"
        )
    train, heldout = matched_places(train_labels, heldout_labels, least=least, generator=generator)
    fitted = kernel_target_alignment(train_features[train], train_labels[train])
    return fitted - kernel_target_alignment(heldout_features[heldout], heldout_labels[heldout])


def matched_places(
    labels: Tensor, other_labels: Tensor, *, least: int = 2, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return places in two sets of examples at which every class occurs equally often in both, two `[m]` in order.

    A class keeps as many examples as the set with fewer of it has: all of them there, and as many drawn from the other.

    Args:
        labels: `[n]`, whole numbers.
        other_labels: `[n']`, whole numbers.
        least: classes with fewer examples than this in either set are left out of both.
        generator: draws the examples.

    Raises:
        ValueError: `least` is below 1, or fewer than two classes are left.

    >>> matched_places(torch.tensor([0, 1, 7, 1]), torch.tensor([1, 0, 1]), least=1, generator=torch.Generator())
    (tensor([0, 1, 3]), tensor([0, 1, 2]))
    """
    if least < 1:
        raise ValueError(f"least: expected at least 1 example a class, got {least}")
    _, places = torch.unique(torch.cat([labels, other_labels]), return_inverse=True)
    first, second = places.split([len(labels), len(other_labels)])
    classes = int(places.max()) + 1 if len(places) else 0
    counts = torch.minimum(first.bincount(minlength=classes), second.bincount(minlength=classes))
    quota = torch.where(counts >= least, counts, 0)
    if int((quota > 0).sum()) < 2:
        raise ValueError(
            f"expected at least 2 classes with at least {least} examples in both sets, got {int((quota > 0).sum())} of "
            f"{classes}; record more examples"
        )
    return drawn(first, quota, generator), drawn(second, quota, generator)


def drawn(labels: Tensor, quota: Tensor, generator: torch.Generator) -> Tensor:
    """Return the places of `quota[c]` random examples of every class c, in order."""
    order = torch.randperm(len(labels), generator=generator, device=generator.device).to(labels.device)
    sorted_labels, by_class = labels[order].sort(stable=True)
    rank = torch.arange(len(labels), device=labels.device) - torch.searchsorted(sorted_labels, sorted_labels)
    return order[by_class[rank < quota[sorted_labels]]].sort().values


def kernel_change(x: Tensor, y: Tensor) -> Tensor:
    """Return how far the kernel moved for its size, ‖YYᵀ − XXᵀ‖_F / ‖XXᵀ‖_F, a number from 0 up; blind to rotation.

    Not centred, as in the literature: features scaled by s change by |s² − 1|. Give centred features for the centred
    kernel. 0 where both are all zeros, infinite where only x is. Source: Chizat et al. 2019 and arXiv 2310.06110, where a
    kernel that keeps still marks lazy training.

    Args:
        x: `[n d]`, at the first moment.
        y: `[n d']`, the same examples in the same order at the second.

    Raises:
        ValueError: the numbers of examples differ or are 0, or a value is not finite.

    >>> kernel_change(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0, 2.0], [0.0, 4.0]]))  # s = 2: 4 − 1
    tensor(3., dtype=torch.float64)
    """
    check_pair(x, y, least=1)
    size = positive(torch.maximum(largest_entry(x), largest_entry(y)))
    x, y = x.detach().double() / size, y.detach().double() / size
    own, other = overlap(x, x), overlap(y, y)
    moved = own - 2 * overlap(x, y) + other
    if bool(own > 0) and bool(moved > NEAR * (own + other)):
        return (moved / own).sqrt()
    return change_between(*reduced_kernels(x, y))


def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the kernel distance 1 − ⟨XXᵀ, YYᵀ⟩ / (‖XXᵀ‖_F ‖YYᵀ‖_F), from 0 to 1; blind to rotation and scale.

    Not centred, as published; of centred features it is 1 − `linear_cka`. 0 where both are all zeros, 1 where one is.
    Per unit of a named time it is the kernel velocity. For near kernels it is computed as ½‖K̂_x − K̂_y‖² of those at unit
    length, which loses nothing. Source: Fort et al. 2020 (2010.15110).

    Args:
        x: `[n d]`.
        y: `[n d']`, the same examples in the same order at another moment.

    Raises:
        ValueError: as `kernel_change`.

    >>> kernel_distance(torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [0.0]]))
    tensor(0., dtype=torch.float64)
    >>> kernel_distance(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
    tensor(1., dtype=torch.float64)
    """
    check_pair(x, y, least=1)
    x, y = scaled(x), scaled(y)
    size = (overlap(x, x) * overlap(y, y)).sqrt()
    if bool(size > 0) and bool((apart := 1 - overlap(x, y) / size) > NEAR):
        return apart.clamp_max(1.0)
    return distance_between(*reduced_kernels(x, y))


def change_between_kernels(first: Tensor, second: Tensor) -> Tensor:
    """Return ‖K_2 − K_1‖_F / ‖K_1‖_F of two given kernels, as `kernel_change` does of features.

    Args:
        first: `[n n]`, such as a tangent kernel traced over classes; or any matrix, such as `[n·c n·c]`.
        second: of the same shape, at the second moment.

    Raises:
        ValueError: the shapes differ, or a kernel is not a finite matrix.

    >>> change_between_kernels(torch.eye(4), 4 * torch.eye(4))
    tensor(3., dtype=torch.float64)
    """
    check_kernels(first, second)
    size = positive(torch.maximum(largest_entry(first), largest_entry(second)))
    return change_between(first.detach().double() / size, second.detach().double() / size)


def distance_between_kernels(first: Tensor, second: Tensor) -> Tensor:
    """Return 1 − ⟨K_1, K_2⟩ / (‖K_1‖_F ‖K_2‖_F) of two given kernels, as `kernel_distance` does of features.

    Source: Fort et al. 2020 (2010.15110), of tangent kernels. Raises: as `change_between_kernels`.

    >>> distance_between_kernels(torch.diag(torch.tensor([1.0, 0.0])), torch.eye(2))  # 1 − 1/√2
    tensor(0.2929, dtype=torch.float64)
    """
    check_kernels(first, second)
    return distance_between(scaled(first), scaled(second))


def change_between(first: Tensor, second: Tensor) -> Tensor:
    """Return ‖K_2 − K_1‖_F / ‖K_1‖_F, 0 for nothing of nothing and infinite for something of nothing."""
    moved, size = (second - first).square().sum().sqrt(), first.square().sum().sqrt()
    return moved / size if bool(size > 0) else torch.where(moved > 0, torch.inf, 0.0).double()


def distance_between(first: Tensor, second: Tensor) -> Tensor:
    """Return ½‖K̂_1 − K̂_2‖², 0 for two zeros and 1 for one."""
    sizes = torch.stack([kernel.square().sum().sqrt() for kernel in (first, second)])
    if not bool(sizes.all()):
        return sizes.any().double()
    return (first / sizes[0] - second / sizes[1]).square().sum() / 2


def reduced_kernels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return XXᵀ and YYᵀ in a basis of the space that x and y span together, `[k k]` with k = min(n, d + d').

    With [X Y] = QR they are QR_xR_xᵀQᵀ and QR_yR_yᵀQᵀ, so norms, products and differences are those of R_xR_xᵀ and R_yR_yᵀ.
    Through ‖XᵀX‖² + ‖YᵀY‖² − 2‖YᵀX‖², five times as fast, a difference below 1e-8 of the kernels would be lost: that way is
    taken where the square of the difference is above `NEAR`.
    """
    both = torch.cat([x, y], 1)
    if len(both) > both.shape[1]:
        both = torch.linalg.qr(both, mode="r").R
    first, second = both[:, : x.shape[1]], both[:, x.shape[1] :]
    return first @ first.T, second @ second.T


def check_kernels(first: Tensor, second: Tensor) -> None:
    """Refuse two kernels that are not of the same examples."""
    check_matrix(first, "first")
    check_matrix(second, "second")
    if first.shape != second.shape:
        raise ValueError(f"second: expected the shape of first, {list(first.shape)}, got {list(second.shape)}")


def check_labelled(features: Tensor, labels: Tensor) -> None:
    """Refuse features and labels that do not belong together."""
    check_features(features)
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels: expected one for each of {len(features)} examples, got {list(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels: expected whole numbers, got {labels.dtype}")
