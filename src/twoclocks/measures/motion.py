"""This file knows which part of a network moves: gradients, speeds and shares of the loss decrease, block by block.

A block is a mapping of names to tensors, `{"readout": {"weight": …, "bias": …}, …}` a mapping of blocks; the readout is
the last linear map. Adam divides a gradient by its own size, so under it only the updates made tell what moves faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from twoclocks.measures.spectrum import check_matrix, singular_values

Block = Mapping[str, Tensor]
Blocks = Mapping[str, Block]
ROUNDING = 1e-12  # a sum below this share of its terms' sizes is what rounding leaves of 0


def gradient_ratio(gradients_readout: Block, gradients_block: Block) -> float:
    """Return r_g = ‖∇_readout L‖ / ‖∇_block L‖, a number without unit; infinite where only the readout has a gradient.

    1 where neither has one. Take the gradients of the mean loss over a batch. Source: arXiv 2606.05863.

    Raises:
        ValueError: a block is empty, or a gradient is not finite.

    >>> gradient_ratio({"weight": torch.tensor([3.0, 4.0])}, {"weight": torch.tensor([1.0]), "bias": torch.zeros(1)})
    5.0
    """
    return ratio(norm(gradients_readout, "gradients_readout"), norm(gradients_block, "gradients_block"))


def relative_speed(before: Blocks, after: Blocks) -> dict[str, float]:
    """Return ‖Δθ_b‖ / ‖θ_b‖ for every block b, with θ_b before the update: how much of itself it moved.

    Infinite where a block of zeros moved, 0 where nothing did. Per step only if the two are one step apart `[def]`.

    Raises:
        ValueError: the two have not the same blocks, names and shapes, a block is empty, or a value is not finite.

    >>> relative_speed({"readout": {"w": torch.tensor([3.0, 4.0])}}, {"readout": {"w": torch.tensor([3.0, 5.0])}})
    {'readout': 0.2}
    """
    moved = {name: norm(block, name) for name, block in updates(before, after).items()}
    return {name: moved[name] / size if (size := norm(before[name], name)) else grown(moved[name]) for name in moved}


def relative_speed_ratio(before: Blocks, after: Blocks, *, readout: str = "readout") -> dict[str, float]:
    """Return r_rel = (‖Δreadout‖ / ‖readout‖) / (‖Δblock‖ / ‖block‖) for every other block; above 1 the readout leads.

    Infinite where only the readout moves, 1 where neither does or both started from 0. Source: arXiv 2606.05863.

    Raises:
        ValueError: as `relative_speed`, or there is no block of the readout's name.

    >>> before = {"readout": {"w": torch.tensor([1.0])}, "encoder": {"w": torch.tensor([2.0])}}
    >>> after = {"readout": {"w": torch.tensor([1.5])}, "encoder": {"w": torch.tensor([2.5])}}
    >>> relative_speed_ratio(before, after)
    {'encoder': 2.0}
    """
    if readout not in before:
        raise ValueError(f"readout: expected the name of one of the blocks {sorted(before)}, got {readout!r}")
    speeds = relative_speed(before, after)
    return {name: ratio(speeds[readout], speed) for name, speed in speeds.items() if name != readout}


@dataclass(frozen=True)
class LossDecrease:
    """How much of the loss an update takes off by each block, to first order, in the unit of the loss.

    `shares` of the total, which is their sum; None where that is not positive: the update does not lower the loss to
    first order (momentum, decay or noise drive it), so there is nothing to share. A share may be negative or above 1.
    """

    by_block: Mapping[str, float]
    total: float
    shares: Mapping[str, float] | None


def loss_decrease_shares(gradients: Blocks, before: Blocks, after: Blocks) -> LossDecrease:
    """Return the first-order loss decrease −⟨∇_b L, Δθ_b⟩ of every block b, and its share of their sum `[def]`.

    Args:
        gradients: of the mean loss, at `before`.
        before: the weights before the update.
        after: the weights after it, decay included.

    Raises:
        ValueError: the three have not the same blocks, names and shapes, a block is empty, or a value is not finite.

    >>> gradients = {"readout": {"w": torch.tensor([3.0])}, "encoder": {"w": torch.tensor([1.0])}}
    >>> before = {"readout": {"w": torch.tensor([0.0])}, "encoder": {"w": torch.tensor([0.0])}}
    >>> after = {"readout": {"w": torch.tensor([-1.0])}, "encoder": {"w": torch.tensor([-1.0])}}
    >>> dict(loss_decrease_shares(gradients, before, after).shares)
    {'readout': 0.75, 'encoder': 0.25}
    """
    check_blocks(before, gradients)
    moved = updates(before, after)
    by_block = {name: -inner(gradients[name], moved[name]) for name in moved}
    total, size = math.fsum(by_block.values()), math.fsum(map(abs, by_block.values()))
    shares = {name: part / total for name, part in by_block.items()} if total > ROUNDING * size else None
    return LossDecrease(MappingProxyType(by_block), total, shares if shares is None else MappingProxyType(shares))


@dataclass(frozen=True)
class GradientBounds:
    """What the gradient of each example's loss is by the readout, and at most by what comes before it: three `[n]`."""

    readout: Tensor
    hidden: Tensor
    embedding: Tensor


def gradient_bounds(
    by_logits: Tensor, features: Tensor, inputs: Tensor, *, readout: Tensor, hidden: Tensor, mixing: Tensor
) -> GradientBounds:
    """Return ‖∇_U ℓ‖_F = ‖δ‖‖h‖, and bounds ‖U‖₂‖z‖‖δ‖ of ‖∇_W ℓ‖_F and ‖B‖₂‖W‖₂‖U‖₂‖δ‖ of ‖∇_E ℓ‖_F, `[n]` each.

    For logits U h, h = relu(W z), z = B e, δ = ∂ℓ/∂logits, e the embeddings of one example. Biases change nothing. Of
    each example's own loss: in the mean over a batch gradients cancel, and the order of the blocks may change. Where one
    example uses a row of the table twice, e holds that row once and B sums: for z = E_a + E_b, B = [I I] of norm √2, and
    2I of norm 2 where a = b. Source: arXiv 2606.05863.

    Args:
        by_logits: δ `[n c]`; softmax − one-hot for the cross-entropy.
        features: h `[n h]`.
        inputs: z `[n k]`.
        readout: U `[c h]`.
        hidden: W `[h k]`.
        mixing: B `[k e]`.

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.

    >>> one = torch.ones(1, 1)
    >>> gradient_bounds(one, 2 * one, 3 * one, readout=5 * one, hidden=7 * one, mixing=one)
    GradientBounds(readout=tensor([2.], dtype=torch.float64), hidden=tensor([15.], dtype=torch.float64),
                   embedding=tensor([35.], dtype=torch.float64))
    """
    check_stack(features, readout, hidden, mixing)
    check_examples(by_logits, "by_logits", len(readout), len(features))
    check_examples(inputs, "inputs", hidden.shape[1], len(features))
    error = lengths(by_logits)
    return GradientBounds(
        readout=error * lengths(features),
        hidden=error * gain(readout) * lengths(inputs),
        embedding=error * gain(readout, hidden, mixing),
    )


def readout_lead_certificate(features: Tensor, *, readout: Tensor, hidden: Tensor, mixing: Tensor) -> Tensor:
    """Return ‖h‖ / (‖B‖₂‖W‖₂‖U‖₂) of every example, `[n]`; where it is above 1, ‖∇_U ℓ‖_F > ‖∇_E ℓ‖_F for certain.

    Whatever the loss, as long as its gradient by the logits is not 0. Below 1 it says nothing. Infinite where a matrix is
    0 and the features are not, 0 where the features are. Notation and source: `gradient_bounds`.

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.

    >>> features, one = torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.eye(2)
    >>> readout_lead_certificate(features, readout=2 * one, hidden=one, mixing=one)
    tensor([2.5000, 0.2500], dtype=torch.float64)
    """
    check_stack(features, readout, hidden, mixing)
    reach, limit = lengths(features), gain(readout, hidden, mixing)
    return torch.where(reach > 0, reach / limit, 0.0)


def gain(*matrices: Tensor) -> Tensor:
    """Return the product of the spectral norms, the most by which the matrices together lengthen a vector."""
    return torch.stack([singular_values(matrix)[0] for matrix in matrices]).prod()


def lengths(rows: Tensor) -> Tensor:
    """Return the Euclidean norm of every row, `[n]`."""
    norms: Tensor = torch.linalg.vector_norm(rows.detach().double(), dim=1)
    return norms


def norm(block: Block, name: str) -> float:
    """Return the Euclidean norm of all the entries of a block."""
    check_block(block, name)
    return math.hypot(*(float(torch.linalg.vector_norm(part.detach().double())) for part in block.values()))


def inner(first: Block, second: Block) -> float:
    """Return the inner product of two blocks of the same names and shapes."""
    return math.fsum(float((first[name].detach().double() * second[name]).sum()) for name in first)


def ratio(top: float, bottom: float) -> float:
    """Return top / bottom, where 0 / 0 and ∞ / ∞ are 1: two that are alike."""
    if top == bottom:
        return 1.0
    return top / bottom if bottom else math.inf


def grown(moved: float) -> float:
    """Return how fast, relative to itself, what was 0 has moved."""
    return math.inf if moved else 0.0


def updates(before: Blocks, after: Blocks) -> dict[str, dict[str, Tensor]]:
    """Return Δθ of every block, in float64."""
    check_blocks(before, after)
    return {
        name: {key: after[name][key].detach().double() - part.detach().double() for key, part in block.items()}
        for name, block in before.items()
    }


def check_blocks(expected: Blocks, got: Blocks) -> None:
    """Refuse blocks of different names or shapes."""
    shapes = [
        {name: {key: list(part.shape) for key, part in block.items()} for name, block in blocks.items()}
        for blocks in (expected, got)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(f"expected the same blocks, names and shapes, got {shapes[0]} and {shapes[1]}")
    for blocks in (expected, got):
        for name, block in blocks.items():
            check_block(block, name)


def check_block(block: Block, name: str) -> None:
    """Refuse a block without entries, or with one that is not finite."""
    if not sum(part.numel() for part in block.values()):
        raise ValueError(f"{name}: expected a block of at least one entry, got none")
    if not all(bool(part.isfinite().all()) for part in block.values()):
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity; leave that moment out")


def check_stack(features: Tensor, readout: Tensor, hidden: Tensor, mixing: Tensor) -> None:
    """Refuse matrices that are not those of logits U relu(W B e), or features that do not enter U."""
    check_follows(mixing, "mixing", hidden, "hidden")
    check_follows(hidden, "hidden", readout, "readout")
    check_examples(features, "features", readout.shape[1], len(features))


def check_follows(first: Tensor, name: str, second: Tensor, name_of_second: str) -> None:
    """Refuse two matrices that cannot act one after the other."""
    check_matrix(first, name)
    check_matrix(second, name_of_second)
    if second.shape[1] != len(first):
        raise ValueError(
            f"{name_of_second}: expected {len(first)} columns, as {name} has rows, got {list(second.shape)}"
        )


def check_examples(rows: Tensor, name: str, columns: int, examples: int) -> None:
    """Refuse rows that are not of these examples and of that many columns."""
    check_matrix(rows, name)
    if rows.shape != (examples, columns):
        raise ValueError(f"{name}: expected {[examples, columns]}, got {list(rows.shape)}")
