"""This file knows how far features have collapsed onto their classes, and logits onto the answer of the rule.

The centre μ_c of a class is the mean of its features, μ_G the mean of the centres; Σ_W = mean_c mean_{a in c} of
(φ_a − μ_c)(φ_a − μ_c)ᵀ and Σ_B = mean_c (μ_c − μ_G)(μ_c − μ_G)ᵀ. Every class weighs the same, which for balanced classes is
the published definition, and otherwise ours `[def]`. The first three of the conditions of collapse vanish with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from twoclocks.measures.kernels import check_labelled
from twoclocks.measures.margins import check_logits
from twoclocks.measures.spectrum import ZERO_MODE, centred, check_matrix, positive, scaled


def nc1(features: Tensor, labels: Tensor) -> Tensor:
    """Return the variability within classes tr(Σ_W Σ_B⁺) / C, a number from 0 up without unit.

    Only what varies within the span of the centres counts. Infinite where all centres coincide and features do not; 0 for
    constant features. Source: Papyan, Han & Donoho 2020 (2008.08186).

    Args:
        features: `[n d]`.
        labels: `[n]`, whole numbers; at least two classes.

    Raises:
        ValueError: the lengths differ, labels are not whole numbers, fewer than two classes occur, or a value is not
            finite.

    >>> nc1(torch.tensor([[0.0], [2.0], [8.0], [10.0]]), torch.tensor([0, 0, 1, 1]))  # Σ_W = 1, Σ_B = 16, C = 2
    tensor(0.0312, dtype=torch.float64)
    """
    centres, deviations = class_geometry(features, labels)
    _, sizes, axes = torch.linalg.svd(centres, full_matrices=False)
    kept = sizes > ZERO_MODE * positive(sizes[0])
    if not bool(kept.any()):
        return unbounded(deviations.square().sum())
    variability: Tensor = (deviations @ axes[kept].T / sizes[kept]).square().sum()
    return variability / len(centres)


def nc2_equinorm(features: Tensor, labels: Tensor) -> Tensor:
    """Return the coefficient of variation std_c ‖μ_c − μ_G‖ / mean_c ‖μ_c − μ_G‖; 0 where all centres are as far out.

    For the rows of a readout in place of centres, give them as features, each with a label of its own.
    Source: Papyan, Han & Donoho 2020 (2008.08186). Raises: as `nc1`.

    >>> nc2_equinorm(torch.tensor([[0.0], [0.0], [6.0]]), torch.tensor([0, 1, 2]))  # lengths 2, 2, 4: √(8/9) / (8/3)
    tensor(0.3536, dtype=torch.float64)
    """
    lengths = torch.linalg.vector_norm(class_geometry(features, labels)[0], dim=1)
    variation: Tensor = lengths.std(correction=0) / positive(lengths.mean())
    return variation


def nc2_equiangular(features: Tensor, labels: Tensor) -> Tensor:
    """Return mean_{c ≠ c'} |cos(μ_c − μ_G, μ_{c'} − μ_G) + 1/(C − 1)|; 0 where the centres make a simplex.

    A centre at μ_G has no direction, and its cosines count as 0. Source: Papyan, Han & Donoho 2020 (2008.08186).
    Raises: as `nc1`.

    >>> square = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> nc2_equiangular(square, torch.arange(4))  # cosines −1, 0, 0 against −1/3
    tensor(0.4444, dtype=torch.float64)
    """
    centres = class_geometry(features, labels)[0]
    directions = centres / positive(torch.linalg.vector_norm(centres, dim=1, keepdim=True))
    classes = len(centres)
    apart = ~torch.eye(classes, dtype=torch.bool, device=centres.device)
    return ((directions @ directions.T)[apart] + 1 / (classes - 1)).abs().mean()


def nc3(features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Return the distance ‖W/‖W‖_F − M/‖M‖_F‖_F of the readout from the centres, from 0 to 2; rows of M are μ_c − μ_G.

    Source: Papyan, Han & Donoho 2020 (2008.08186).

    Args:
        features: `[n d]`.
        labels: `[n]`, whole numbers, in which every class 0 … c − 1 occurs.
        weight: `[c d]`, the readout.

    Raises:
        ValueError: as `nc1`, or the readout has not one row a class and one column a feature.

    >>> nc3(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 1]), torch.tensor([[3.0], [-3.0]]))  # the opposite of M
    tensor(2., dtype=torch.float64)
    """
    check_matrix(weight, "weight")
    centres = class_geometry(features, labels)[0]
    if weight.shape != centres.shape or int(labels.max()) >= len(weight) or int(labels.min()) < 0:
        raise ValueError(
            f"weight: expected {list(centres.shape)}, a row for each of the classes that occur, 0 to {len(centres) - 1}, "
            f"got {list(weight.shape)} and labels {int(labels.min())} to {int(labels.max())}"
        )
    return (unit(weight) - unit(centres)).square().sum().sqrt()


def nc4(features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    """Return the share of examples on which argmax_c z differs from the nearest centre argmin_c ‖φ − μ_c‖, from 0 to 1.

    A class without examples has no centre, so where the network answers it the two differ. Ties go to the lower class.
    Source: Papyan, Han & Donoho 2020 (2008.08186).

    Args:
        features: `[n d]`.
        labels: `[n]`, whole numbers from 0 to c − 1.
        logits: `[n c]`, the network's own on the same examples.

    Raises:
        ValueError: as `nc1`, or the logits do not fit the labels or are not finite.

    >>> features, labels = torch.tensor([[0.0], [1.0], [9.0], [4.0]]), torch.tensor([0, 0, 1, 1])  # centres 0.5, 6.5
    >>> nc4(features, labels, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    tensor(0.2500, dtype=torch.float64)
    """
    check_logits(logits, labels)
    check_matrix(logits, "logits")
    present, place = classes_present(features, labels)
    phi = scaled(centred(features))
    centres = class_means(phi, place)
    nearest = (phi @ centres.T - centres.square().sum(1) / 2).argmax(1)
    disagree: Tensor = present[nearest] != logits.detach().argmax(1)
    return disagree.double().mean()


def within_between_scatter(features: Tensor, labels: Tensor) -> Tensor:
    """Return tr Σ_W / tr Σ_B, the scatter within classes over that between them, a number from 0 up without unit.

    All directions count, where `nc1` weighs each by what separates the classes along it. Infinite where all centres
    coincide and features do not; 0 for constant features. Source: Fisher 1936. Raises: as `nc1`.

    >>> within_between_scatter(torch.tensor([[0.0], [2.0], [8.0], [10.0]]), torch.tensor([0, 0, 1, 1]))  # 1 / 16
    tensor(0.0625, dtype=torch.float64)
    """
    centres, deviations = class_geometry(features, labels)
    between, within = centres.square().sum(), deviations.square().sum()
    return within / between if bool(between > 0) else unbounded(within)


def inter_intra_distance_ratio(features: Tensor, labels: Tensor) -> Tensor:
    """Return mean_{c ≠ c'} ‖μ_c − μ_{c'}‖ / mean_c mean_{a in c} ‖φ_a − μ_c‖ (ILDR), a number from 0 up without unit.

    Distances, where `within_between_scatter` takes squares; take held-out features, whose classes the network did not see.
    A sample of few examples a class has centres apart by chance: keep the counts equal. Infinite where all features sit on
    centres that differ; 0 for constant features. Source: arXiv 2604.20923, whose summary leaves open the kind of mean and of
    distance `[def]`. Raises: as `nc1`.

    >>> inter_intra_distance_ratio(torch.tensor([[0.0], [2.0], [8.0], [10.0]]), torch.tensor([0, 0, 1, 1]))  # 8 / 1
    tensor(8., dtype=torch.float64)
    """
    _, place = classes_present(features, labels)
    phi = scaled(centred(features))
    centres = class_means(phi, place)
    outside = torch.nn.functional.pdist(centres).mean()
    inside = class_means(torch.linalg.vector_norm(phi - centres[place], dim=1, keepdim=True), place).mean()
    outside, inside = (torch.where(size > ZERO_MODE, size, 0.0) for size in (outside, inside))
    return outside / inside if bool(inside > 0) else unbounded(outside)


def rule_residual(logits: Tensor, labels: Tensor) -> Tensor:
    """Return Σ_a ‖z_a − mean of its label's z‖² / Σ_a ‖z_a − mean z‖², the share that is not the rule's, 0 to 1 `[def]`.

    z are logits minus their mean over classes, which is all that a softmax sees. 0 iff they are a function of the rule's
    answer; 0 for constant ones. Labels that occur once are always met: use a grid in which each answer has many pairs.

    Args:
        logits: `[n c]`, at least two classes.
        labels: `[n]`, the rule's answers.

    Raises:
        ValueError: logits and labels do not fit each other, there are fewer than two examples, or a value is not finite.

    >>> logits = torch.tensor([[1.0, -1.0], [3.0, -3.0], [-1.0, 1.0], [-3.0, 3.0]])
    >>> rule_residual(logits, torch.tensor([0, 0, 1, 1]))  # within 8, in all 40
    tensor(0.2000, dtype=torch.float64)
    """
    check_logits(logits, labels)
    check_labelled(logits, labels)
    z = scaled(logits)
    z = scaled(centred(z - z.mean(1, keepdim=True)))
    _, place = torch.unique(labels, return_inverse=True)
    return (z - class_means(z, place)[place]).square().sum() / positive(z.square().sum())


def class_geometry(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centres minus their mean, `[c d]`, and each deviation from its centre over √(examples of its class).

    Both in units of the largest centred feature, so that centres which rounding alone sets apart are seen to coincide:
    ‖centres‖² = C tr Σ_B and ‖deviations‖² = C tr Σ_W.
    """
    _, place = classes_present(features, labels)
    phi = scaled(centred(features))
    centres = class_means(phi, place)
    deviations = (phi - centres[place]) / place.bincount().double().sqrt()[place][:, None]
    apart = centres - centres.mean(0)
    return torch.where(apart.abs().max() > ZERO_MODE, apart, 0.0), deviations


def classes_present(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes that occur, at least two, and for every example the place of its own among them."""
    check_labelled(features, labels)
    present, place = torch.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise ValueError(f"labels: expected at least two classes among the examples, got only {present.tolist()}")
    return present, place


def class_means(rows: Tensor, place: Tensor) -> Tensor:
    """Return the mean row of every class, `[c d]`."""
    counts = place.bincount()
    return rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, place, rows) / counts[:, None]


def unit(matrix: Tensor) -> Tensor:
    """Return the matrix over its Frobenius norm; zeros stay zeros."""
    whole = scaled(matrix)
    return whole / positive(whole.square().sum().sqrt())


def unbounded(within: Tensor) -> Tensor:
    """Return infinity where there is scatter and nothing to compare it to, else 0."""
    return torch.where(within > 0, torch.full_like(within, torch.inf), 0.0)
