"""This file knows how far logits are from a wrong answer: gaps, margins, and the losses computed from gaps.

Everything is in float64. A float32 log-softmax returns exactly 0 for every example whose gap exceeds ln 2²⁴ ≈ 16.64 and
is quantised at 1.2e-7 below that, so a loss that really falls for ever seems to stop.
"""

from __future__ import annotations

import torch
from torch import Tensor


def logit_gaps(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gap Γ_{a,m} = z_{a,y_a} − z_{a,m} of every example to every wrong class, `[n c-1]`, in logits.

    Args:
        logits: `[n c]`, at least two classes.
        labels: `[n]`, whole numbers from 0 to c − 1.

    Raises:
        ValueError: the shapes do not fit, there are fewer than two classes, or a label has no logit.

    >>> logit_gaps(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0]))
    tensor([[2., 3.]], dtype=torch.float64)
    """
    check_logits(logits, labels)
    logits, labels = logits.detach().double(), labels.long()
    classes = logits.shape[1]
    wrong = torch.arange(classes, device=logits.device).expand(len(logits), classes) != labels[:, None]
    return (logits.gather(1, labels[:, None]) - logits)[wrong].view(len(logits), classes - 1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the margin γ_a = min_m Γ_{a,m} of every example, `[n]`, in logits: positive where the answer is right.

    >>> margin(torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 4.0]]), torch.tensor([0, 1]))
    tensor([ 2., -3.], dtype=torch.float64)
    """
    return gaps_to_all(logits, labels).amin(1)


def cross_entropy_from_gaps(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy log(1 + Σ_m exp(−Γ_{a,m})) of every example, `[n]`, in nats.

    Exact to rounding for every gap: at Γ = 40 it is e⁻⁴⁰ where a float32 log-softmax gives 0.

    >>> cross_entropy_from_gaps(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([0.6931], dtype=torch.float64)
    >>> float(cross_entropy_from_gaps(torch.tensor([[40.0, 0.0]]), torch.tensor([0])))
    4.248...e-18
    """
    return cross_entropy_of(gaps_to_all(logits, labels))


def gaps_to_all(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gaps to all classes, `[n c]`, with infinity in place of each example's own class.

    Minima and sums of exp(−Γ) are those of `logit_gaps`, at a fraction of its cost.
    """
    check_logits(logits, labels)
    logits, own = logits.detach(), labels.long()[:, None]
    return (logits.gather(1, own).double() - logits).scatter_(1, own, torch.inf)


def cross_entropy_of(gaps: Tensor) -> Tensor:
    """Return the cross-entropy of every example, `[n]`, from its gaps."""
    nearest = gaps.amin(1)
    nearest = nearest.where(nearest.isfinite(), 0.0)
    log_odds_against = (nearest[:, None] - gaps).exp_().sum(1).log() - nearest
    return torch.nn.functional.softplus(log_odds_against, threshold=700.0)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of examples whose largest logit is that of their label, a number from 0 to 1; a tie counts as wrong.

    >>> accuracy(torch.tensor([[3.0, 1.0], [2.0, 2.0]]), torch.tensor([0, 0]))
    tensor(0.5000, dtype=torch.float64)
    """
    return (margin(logits, labels) > 0).double().mean()


def logit_scale(logits: Tensor) -> Tensor:
    """Return the root mean square of the logits, centred over classes: the size of what the softmax sees `[def]`.

    >>> logit_scale(torch.tensor([[3.0, 1.0], [5.0, 7.0]]))
    tensor(1., dtype=torch.float64)
    """
    logits = logits.detach().double()
    return (logits - logits.mean(1, keepdim=True)).square().mean().sqrt()


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Refuse logits and labels that do not belong together."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits: expected [n, c] with at least two classes, got {list(logits.shape)}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels: expected one for each of {len(logits)} rows of logits, got {list(labels.shape)}")
    if labels.is_floating_point():
        raise ValueError(f"labels: expected whole numbers, got {labels.dtype}")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < logits.shape[1]):
        raise ValueError(f"labels: expected 0 to {logits.shape[1] - 1}, got {int(labels.min())} to {int(labels.max())}")
