"""This file knows which frequencies a network uses, where its inputs are the numbers 0 to p − 1 on a circle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from twoclocks.measures.margins import check_logits
from twoclocks.measures.spectrum import check_matrix, largest_entry, positive, scaled

ROUNDING = 1e-12  # a share of the energy that rounding may take from a sum of frequencies


def fourier_energies(table: Tensor) -> Tensor:
    """Return the energy of a table at each frequency k = 0 … ⌊p/2⌋ of its rows, in squared units: `[⌊p/2⌋ + 1]`.

    Σ_d (|X_k|² + |X_{p−k}|²) / p with X the discrete Fourier transform over rows; both terms are one where k = 0 or
    k = p/2. The energies sum to ‖table‖_F² (Parseval). Source: Nanda et al. 2023 (2301.05217).

    Args:
        table: `[p d]`, row a belonging to the symbol a: embeddings, or what a layer makes of each symbol.

    Raises:
        ValueError: the table has not two axes, is empty, or holds NaN or infinity.

    >>> fourier_energies(torch.tensor([[1.0], [-1.0], [1.0], [3.0]])).round(decimals=9)  # 1 + (0, −2, 0, 2): k = 0 and 1
    tensor([4., 8., 0.], dtype=torch.float64)
    """
    check_matrix(table, "table")
    squares: Tensor = torch.fft.rfft(scaled(table), dim=0, norm="ortho").abs().square().sum(1)
    squares[1 : (len(table) + 1) // 2] *= 2
    return squares * largest_entry(table).square()


def surviving_frequencies(table: Tensor, *, share: float = 0.95) -> list[int]:
    """Return the fewest frequencies k ≥ 1 that hold a share of the energy that is not constant, strongest first `[def]`.

    Their number is the length of the list; a constant table has none. Random rows need nearly all ⌊p/2⌋.

    Args:
        table: `[p d]`, as `fourier_energies`.
        share: above 0 and up to 1.

    Raises:
        ValueError: as `fourier_energies`, or the share lies outside.

    >>> angle = 2 * math.pi * torch.arange(7) / 7
    >>> surviving_frequencies(torch.stack([torch.cos(2 * angle), 2 * torch.sin(3 * angle)], 1))
    [3, 2]
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected above 0 and up to 1, got {share}")
    check_matrix(table, "table")
    energies = fourier_energies(scaled(table))
    waves = energies[1:]
    if float(waves.sum()) <= ROUNDING**2 * float(energies.sum()):
        return []
    strongest = waves.sort(descending=True, stable=True)
    held = strongest.values.cumsum(0) / waves.sum()
    count = int((held < share - ROUNDING).sum()) + 1
    return [int(place) + 1 for place in strongest.indices[:count]]


def fourier_logits(p: int, frequencies: Sequence[int]) -> Tensor:
    """Return Σ_k cos(2πk(a + b − c)/p), `[p² p]`: one row a pair (a, b) in the order of a · p + b, one column a class c.

    What a network that adds modulo p by m frequencies computes: of rank 2m, and with all (p − 1)/2 of an odd p the gap
    is p/2. Source: Nanda et al. 2023 (2301.05217); Gromov 2023 (2301.02679).

    Raises:
        ValueError: p is below 2, or a frequency is not a whole number from 1 to p / 2.

    >>> fourier_logits(3, [1])[0].round(decimals=9).tolist()  # (a, b) = (0, 0): the class is 0
    [1.0, -0.5, -0.5]
    """
    if p < 2 or any(not 1 <= k <= p // 2 for k in frequencies):
        raise ValueError(
            f"expected p of at least 2 and frequencies from 1 to {p // 2}, got {p} and {list(frequencies)}"
        )
    symbols = torch.arange(p)
    products = torch.tensor(list(frequencies), dtype=torch.long)[:, None] * symbols
    wave = torch.cos(2 * math.pi * (products % p).double() / p).sum(0)
    rows = wave[(symbols[:, None] - symbols) % p]
    return rows[((symbols[:, None] + symbols) % p).flatten()]


def logit_frequencies(logits: Tensor, labels: Tensor, p: int) -> Tensor:
    """Return the energy of the mean logit, as a function of label − class modulo p, at each frequency: `[⌊p/2⌋ + 1]`.

    m(r) = mean over the examples a of z_{a, y_a − r}, for r = 0 … p − 1; then `fourier_energies` of m. Every example
    counts once at every r, so any part of the pairs will do. `fourier_logits` gives p/2 at each of its frequencies and 0
    elsewhere. What depends on the pair beyond its label averages out `[def]`.

    Args:
        logits: `[n p]`.
        labels: `[n]`, the rule's answers, whole numbers from 0 to p − 1.
        p: how many symbols and classes there are.

    Raises:
        ValueError: logits and labels do not fit each other or p, there are no examples, or a value is not finite.

    >>> logit_frequencies(torch.tensor([[2.0, 0.0, 0.0, 0.0]]), torch.tensor([0]), 4)
    tensor([1., 2., 1.], dtype=torch.float64)
    """
    check_logits(logits, labels)
    check_matrix(logits, "logits")
    if logits.shape[1] != p:
        raise ValueError(f"logits: expected {p} columns, one a class, got {list(logits.shape)}")
    classes = (labels.long()[:, None] - torch.arange(p, device=labels.device)) % p
    mean = (logits.detach().double().gather(1, classes) / positive(largest_entry(logits))).mean(0)
    return fourier_energies(mean[:, None]) * largest_entry(logits).square()
