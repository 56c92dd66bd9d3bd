"""This file knows how many directions a matrix uses: its singular values, ranks and Schatten norms.

Everything is in float64. Spectra come from the eigenvalues of the Gram matrix of the smaller side, three times cheaper
than an SVD; that resolves singular values down to about 1e-7 of the largest. What weighs the small ones
(`schatten_norm`) takes the SVD. A matrix of zeros has rank 0 by every count.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Schatten energies with p < 1 blow up rounding errors of zeros: (1e-16)^(1/2) = 1e-8 a mode (science.md, section 4).
ZERO_MODE = 1e-12


def singular_values(matrix: Tensor) -> Tensor:
    """Return the singular values σ_1 ≥ σ_2 ≥ … of a matrix, `[min(m, n)]`, in its own unit.

    They are the roots of the eigenvalues of AAᵀ or AᵀA, the smaller. What lies below σ_1 · √(ε · max(m, n)), the
    resolution of a float64 Gram matrix (ε = 2.2e-16), is returned as exactly 0.

    Args:
        matrix: `[m n]`, finite, not empty.

    Raises:
        ValueError: the matrix has not two axes, is empty, or holds NaN or infinity.

    >>> singular_values(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
    tensor([5., 0.], dtype=torch.float64)
    """
    return energies(matrix).sqrt() * largest_entry(matrix)


def stable_rank(matrix: Tensor) -> Tensor:
    """Return the stable rank ‖A‖_F² / ‖A‖_2² = Σσ² / σ_1², a number from 1 to the rank; 0 for a matrix of zeros.

    Source: Rudelson & Vershynin 2007. Raises: as `singular_values`.

    >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
    tensor(1.5000, dtype=torch.float64)
    """
    energy = energies(matrix)
    return energy.sum() / positive(energy[0])


def effective_rank(matrix: Tensor) -> Tensor:
    """Return the effective rank exp(−Σ p log p), p = σ / Σσ, a number from 1 to the rank; 0 for a matrix of zeros.

    Weighs σ, where `entropy_rank` weighs σ². Source: Roy & Vetterli 2007. Raises: as `singular_values`.

    >>> effective_rank(torch.eye(5))
    tensor(5.0000, dtype=torch.float64)
    """
    return exp_entropy(energies(matrix).sqrt())


def entropy_rank(matrix: Tensor) -> Tensor:
    """Return the entropy rank exp(−Σ p log p), p = σ² / Σσ², a number from 1 to the rank; 0 for a matrix of zeros.

    Weighs σ², where `effective_rank` weighs σ. Raises: as `singular_values`.

    >>> entropy_rank(torch.eye(5))
    tensor(5.0000, dtype=torch.float64)
    """
    return exp_entropy(energies(matrix))


def participation_ratio(features: Tensor) -> Tensor:
    """Return the participation ratio (Σλ)² / Σλ², λ the eigenvalues of the covariance: a number of dimensions.

    The features are centred over examples first; constant ones use 0 dimensions. Biased low when n ≲ d: keep n equal.

    Args:
        features: `[n d]`, at least two examples.

    Raises:
        ValueError: as `singular_values`, or there are fewer than two examples.

    >>> participation_ratio(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    tensor(2., dtype=torch.float64)
    """
    gram = smaller_gram(scaled(centred(features)))
    return gram.trace().square() / positive(gram.square().sum())


def schatten_norm(matrix: Tensor, p: float) -> Tensor:
    """Return the Schatten norm (Σσ^p)^(1/p), in the unit of the matrix: p = 1 nuclear, 2 Frobenius, ∞ spectral.

    For p < 1 it is a quasi-norm. Singular values that the type of the matrix cannot resolve count as zero, as in
    `schatten_energy`; they come from a float64 SVD, because at small p the smallest ones matter most.

    Raises:
        ValueError: as `singular_values`, or p is not positive.

    >>> schatten_norm(torch.diag(torch.tensor([9.0, 4.0])), 0.5)  # (3 + 2)²
    tensor(25.0000, dtype=torch.float64)
    """
    if not p > 0:
        raise ValueError(f"p: expected a positive number (or math.inf), got {p}")
    values, size = resolved_values(matrix), largest_entry(matrix)
    if math.isinf(p) or not size:
        return values[0] * size
    return (values / values[0]).pow(p).sum().pow(1 / p) * values[0] * size


def schatten_energy(matrix: Tensor, p: float) -> Tensor:
    """Return the Schatten energy ‖A‖_{S_p}^p = Σσ^p, in the unit of the matrix to the power p; 0 for a matrix of zeros.

    For p = 2/L it is the least Σ‖W_l‖_F² / L over all products W_L … W_1 = A of L matrices. A zero that rounding makes
    1e-16 would add 1e-8 at p = 1/2, so what the matrix cannot resolve counts as zero: σ ≤ 1e-12 σ_1 in float64, and in
    a shorter type σ ≤ ε √max(m, n) σ_1 with its own ε, 1.2e-7 in float32 and 1e-3 in half precision. Convert a matrix
    to float64 before, not after, it is multiplied up. Source: arXiv 1606.00668.

    Raises:
        ValueError: as `singular_values`, or p is not positive and finite.

    >>> schatten_energy(torch.diag(torch.tensor([9.0, 4.0])), 0.5)  # 3 + 2
    tensor(5., dtype=torch.float64)
    """
    if not 0 < p < math.inf:
        raise ValueError(f"p: expected a positive, finite number, got {p}")
    return (resolved_values(matrix) * largest_entry(matrix)).pow(p).sum()


def resolved_values(matrix: Tensor) -> Tensor:
    """Return σ of the matrix divided by its largest entry, largest first, those that count as zero being left out."""
    values: Tensor = torch.linalg.svdvals(scaled(matrix))
    return values[(values > resolution(matrix) * values[0]) | (values == values[0])]


def resolution(matrix: Tensor) -> float:
    """Return the share of σ_1 below which the type that a matrix came in holds nothing but rounding."""
    if matrix.dtype == torch.float64 or not matrix.is_floating_point():
        return ZERO_MODE
    return torch.finfo(matrix.dtype).eps * math.sqrt(max(matrix.shape))


def energies(matrix: Tensor) -> Tensor:
    """Return σ² of the matrix divided by its largest entry, largest first; what rounding leaves of zeros is cut off."""
    gram = smaller_gram(scaled(matrix))
    squares: Tensor = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0.0)
    resolution = torch.finfo(torch.float64).eps * max(matrix.shape)
    return torch.where(squares > resolution * squares[0], squares, 0.0)


def exp_entropy(weights: Tensor) -> Tensor:
    """Return exp(−Σ p log p) for p = weights / Σ weights, and 0 where all weights are 0."""
    if not weights.any():
        return weights.sum()
    entropy: Tensor = torch.special.entr(weights / weights.sum()).sum()
    return entropy.exp()


def smaller_gram(matrix: Tensor) -> Tensor:
    """Return AAᵀ or AᵀA, whichever is smaller: they share their non-zero eigenvalues."""
    return matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix


def scaled(matrix: Tensor) -> Tensor:
    """Return the matrix in float64 divided by its largest entry, so that squares neither overflow nor vanish."""
    return matrix.detach().double() / positive(largest_entry(matrix))


def largest_entry(matrix: Tensor) -> Tensor:
    """Return the largest absolute entry of a checked matrix."""
    check_matrix(matrix)
    return matrix.detach().double().abs().max()


def positive(size: Tensor) -> Tensor:
    """Return a size to divide by: 1 in place of 0, so that nothing divided by nothing is nothing."""
    return torch.where(size > 0, size, 1.0)


def centred(features: Tensor) -> Tensor:
    """Return features `[n d]` in float64 minus their mean over examples; a constant feature becomes exactly 0."""
    check_features(features)
    features = features.detach()
    shifted = features - features[:1].double()
    return shifted.sub_(shifted.mean(0))


def check_matrix(matrix: Tensor, name: str = "matrix") -> None:
    """Refuse what is not a finite, non-empty matrix."""
    if matrix.ndim != 2 or not matrix.numel():
        raise ValueError(f"{name}: expected two axes and at least one entry, got shape {list(matrix.shape)}")
    if not bool(torch.isfinite(torch.stack(matrix.aminmax())).all()):  # one pass; both become NaN if any entry is
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity; leave that moment out")


def check_features(features: Tensor, name: str = "features", least: int = 2) -> None:
    """Refuse features that are not a finite `[n d]` of at least `least` examples."""
    check_matrix(features, name)
    if len(features) < least:
        raise ValueError(f"{name}: expected at least {least} examples, got {len(features)}; record more examples")
