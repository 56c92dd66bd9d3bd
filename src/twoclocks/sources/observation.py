"""This file knows what is written down about one moment of a training, whoever trains: scalars and tensors.

The journal's names: `train_loss`, `train_accuracy`, `train_margin_min`, `train_margin_q01`, `train_margin_median`, the
same for `heldout_`, `logit_scale`, `weight_norm`, and for each block of parameters `block_norm.<block>` and, of the one
optimiser step before, `update_size.<block>` (‖Δθ_b‖ / ‖θ_b‖) and `loss_decrease.<block>` (−⟨∇_b loss, Δθ_b⟩). Where the
gradient is at hand: `gradient_norm.<block>`, of the loss without its decay; in our own training at this step, of all
training examples or, where these are taken in batches, of the batch of the next update; in a recorded one that of the step
before and of its batch, as the optimiser used it. `loss_decrease` has the gradient that its update was computed from, be it
of all examples or of a batch. Losses, accuracies and margins are always of a whole split, and are computed in float64 from
the logits as the network gave them, before any rounding for storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twoclocks.measures.margins import cross_entropy_of, gaps_to_all, logit_scale
from twoclocks.trajectory import Array

Blocks = Mapping[str, Sequence[str]]
LARGEST_FLOAT16 = 65504.0


def scalars_of_logits(split: str, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return loss, accuracy, the margins' minimum, 1 % quantile and median, and on the training split the logit scale.

    A logit that is NaN or has overflowed makes the loss NaN, as in the training itself, and a NaN gap counts as wrong.
    A logit of −∞ (a class masked out) does no harm. Margins and scale are left out unless they are finite.
    """
    gaps = gaps_to_all(logits, labels)
    margins = gaps.amin(1)
    overflowed = bool((logits.isnan() | logits.isposinf()).any())
    loss = float("nan") if overflowed else float(cross_entropy_of(gaps).mean())
    scalars = {f"{split}_loss": loss, f"{split}_accuracy": float((margins > 0).double().mean())}
    if bool(torch.isfinite(margins).all()):
        at = torch.tensor([0.0, 0.01, 0.5], dtype=margins.dtype, device=margins.device)
        low = torch.quantile(margins, at).tolist()
        scalars |= {f"{split}_margin_{name}": value for name, value in zip(("min", "q01", "median"), low, strict=True)}
    if split == "train" and bool(torch.isfinite(logits).all()):
        scalars["logit_scale"] = float(logit_scale(logits))
    return scalars


def scalars_of_blocks(
    after: Mapping[str, Tensor], before: Mapping[str, Tensor] | None, blocks: Blocks
) -> dict[str, float]:
    """Return each block's norm, the whole weight norm and, given the weights one step before, the update sizes."""
    norms = {block: norm_of(after[name] for name in names) for block, names in blocks.items()}
    scalars = {f"block_norm.{block}": norm for block, norm in norms.items()}
    scalars["weight_norm"] = float(np.sqrt(sum(norm**2 for norm in norms.values())))
    if before is not None:
        for block, names in blocks.items():
            moved, size = norm_of(after[n] - before[n] for n in names), norm_of(before[n] for n in names)
            if size > 0:
                scalars[f"update_size.{block}"] = moved / size
    return scalars


def scalars_of_gradient(gradient: Mapping[str, Tensor], blocks: Blocks) -> dict[str, float]:
    """Return the norm of the loss's gradient by each block whose gradient is known."""
    known = {block: [gradient[n] for n in names if n in gradient] for block, names in blocks.items()}
    return {f"gradient_norm.{block}": norm_of(parts) for block, parts in known.items() if parts}


def scalars_of_descent(
    gradient: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor], blocks: Blocks
) -> dict[str, float]:
    """Return −⟨∇_b loss, Δθ_b⟩ of each block: by how much its own update lowered the loss, to first order."""
    return {
        f"loss_decrease.{block}": -sum(
            float((gradient[n].detach().double() * (after[n].detach() - before[n].detach()).double()).sum())
            for n in names
        )
        for block, names in blocks.items()
        if all(n in gradient for n in names)
    }


def tensors_of_moment(
    features: Mapping[str, Tensor], readout: tuple[Tensor, Tensor | None], weights: Mapping[str, Tensor]
) -> dict[str, Array]:
    """Return the tensors of a snapshot of one run, each with a run axis of length one in front."""
    weight, bias = readout
    tensors = {f"features/{split}": compact(value) for split, value in features.items()}
    tensors["readout/weight"] = as_float32(weight)
    if bias is not None:
        tensors["readout/bias"] = as_float32(bias)
    tensors |= {f"weights/{name}": as_float32(value) for name, value in weights.items()}
    return {name: value[None] for name, value in tensors.items()}


def stack_runs(moments: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Join what several runs wrote of one moment along the run axis, which comes first."""
    return {name: np.concatenate([moment[name] for moment in moments]) for name in moments[0]}


def compact(features: Tensor) -> Array:
    """Return features in half precision (11 significant bits), or in float32 where they leave its range.

    Probes and ranks of features rounded so differ by less than their own errors; losses and margins never see them.
    """
    largest = float(features.detach().abs().max()) if features.numel() else 0.0
    fits = largest == 0.0 or 1e-2 < largest < LARGEST_FLOAT16
    return features.detach().half().cpu().numpy() if fits else as_float32(features)


def as_float32(tensor: Tensor) -> Array:
    """Return a copy of a tensor as a float32 array on the CPU; float64 stays float64.

    A copy, because weights go on changing in place while what was taken of them waits to be written.
    """
    tensor = tensor.detach().cpu()
    return np.array((tensor if tensor.dtype == torch.float64 else tensor.float()).numpy())


def norm_of(tensors: Any) -> float:
    """Return the Euclidean norm of several tensors taken as one vector, in float64."""
    return float(np.sqrt(sum(float(torch.linalg.vector_norm(t.detach(), dtype=torch.float64)) ** 2 for t in tensors)))
