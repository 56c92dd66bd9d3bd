"""This file knows what can be read linearly from frozen features: probes, fitted on some examples, scored on others.

Three presets, because a gap between a probe and the network's own readout is only believed if it survives all of
them: `ridge` (closed form), `logistic` (likelihood) and `paper` (arXiv 2605.27078's own training of a readout). Each is
fitted on all the examples it is given, chooses its penalty inside them, and acts on raw features, in float64.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from twoclocks.measures.kernels import check_labelled
from twoclocks.measures.margins import accuracy
from twoclocks.measures.spectrum import centred, check_matrix, positive

Objective = Callable[[Tensor], tuple[float, Tensor]]

RIDGE_PENALTIES = tuple(10.0**k for k in range(-6, 3))
SCORED = 1024  # examples left out to choose the ridge penalty: enough to rank penalties, and it need not grow with n
LOGISTIC_PENALTIES = tuple(10.0**-k for k in range(7))
FOLDS = 3
STEPS, MEMORY = 200, 10  # of L-BFGS
PAPER_EPOCHS, PAPER_LR, PAPER_BETAS, PAPER_DECAY = 200, 1e-3, (0.9, 0.98), 1.0
PAPER_DECAYS = (0.0, 0.1, 0.3, 1.0, 3.0)
# The logit of a class that no example of the fit showed: finite also in float32, below every other.
NEVER = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Probe:
    """A linear readout of features: `weight` [c d], `bias` [c] or None, both float64, and how they were fitted."""

    weight: Tensor
    bias: Tensor | None
    preset: str
    settings: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def logits(self, features: Tensor) -> Tensor:
        """Return φWᵀ + b, `[n c]`.

        Raises:
            ValueError: the features are not a finite `[n d]` of the width that the probe was fitted to.
        """
        check_matrix(features, "features")
        if features.shape[1] != self.weight.shape[1]:
            raise ValueError(f"features: expected {self.weight.shape[1]} columns, as fitted, got {features.shape[1]}")
        logits = features.detach().double() @ self.weight.T
        return logits if self.bias is None else logits + self.bias

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Return the share of examples whose largest logit is that of their label; a tie counts as wrong.

        Raises:
            ValueError: as `logits`, the lengths differ, or a label is beyond the probe's classes.
        """
        return float(accuracy(self.logits(features), labels))


@dataclass(frozen=True)
class ProbePath:
    """Probes of one family fitted to the same examples, `probes[k]` at the k-th penalty, and which the preset chooses.

    `chosen` is the place of the penalty chosen inside the examples of the fit; nothing else was looked at.
    """

    probes: tuple[Probe, ...]
    chosen: int


def chosen_of(path: ProbePath) -> Probe:
    """Return the probe at the penalty that was chosen inside the examples of the fit."""
    return path.probes[path.chosen]


def fit_ridge_probe(
    features: Tensor, labels: Tensor, *, classes: int | None = None, penalties: Sequence[float] = RIDGE_PENALTIES
) -> Probe:
    """Fit a readout in closed form: ridge regression on one-hot labels, with an intercept that is not penalised.

    W = YᵀΦ (ΦᵀΦ + λI)⁻¹ with Φ and Y centred. The penalty is the one of least exact leave-one-out squared error,
    mean_a ‖y_a − ŷ_a‖² / (1 − h_aa)² over at most 1024 evenly spaced examples, all from one eigendecomposition of ΦᵀΦ
    (or ΦΦᵀ, if n < d). Features are not standardised: the penalty is isotropic, so the probe does not depend on their
    basis; nor on their scale, since λ is counted in mean eigenvalues. Constant features give the class shares.
    Source: Hoerl & Kennard 1970; Allen 1974.

    Args:
        features: `[n d]`.
        labels: `[n]`, whole numbers from 0 to classes − 1.
        classes: how many there are; the largest label + 1 if left out. One without an example is never predicted.
        penalties: the candidates, in units of tr(ΦᵀΦ) / d.

    Raises:
        ValueError: the lengths differ, fewer than two classes occur, a label lies outside, a value is not finite, or a
            penalty is not positive.

    >>> probe = fit_ridge_probe(torch.tensor([[0.0], [1.0], [9.0], [10.0]]), torch.tensor([0, 0, 1, 1]))
    >>> probe.accuracy(torch.tensor([[4.9], [5.1]]), torch.tensor([0, 1]))
    1.0
    """
    return chosen_of(ridge_path(features, labels, classes=classes, penalties=penalties))


def ridge_path(
    features: Tensor, labels: Tensor, *, classes: int | None = None, penalties: Sequence[float] = RIDGE_PENALTIES
) -> ProbePath:
    """Fit a ridge probe at every penalty, all from one eigendecomposition; arguments and refusals of `fit_ridge_probe`.

    The chosen one is that of least leave-one-out error, which is what `fit_ridge_probe` returns.

    >>> x, y = torch.tensor([[0.0], [1.0], [9.0], [10.0]]), torch.tensor([0, 0, 1, 1])
    >>> path = ridge_path(x, y, penalties=[0.5, 1.0])
    >>> [round(float(probe.weight[1]), 4) for probe in path.probes]  # ΣΦY / (ΣΦ² + λ unit) = 9 / 82 / (1 + λ)
    [0.0732, 0.0549]
    """
    total = check_fit(features, labels, classes)
    check_penalties(penalties)
    present, place = torch.unique(labels, return_inverse=True)
    phi, shares = centred(features), place.bincount().double() / len(place)
    variances, loadings = principal_axes(phi)
    class_sums = phi.new_zeros(len(present), phi.shape[1]).index_add_(0, place, phi)
    coordinates = (loadings / variances).T @ class_sums.T
    unit = float(variances.sum()) / phi.shape[1] or 1.0
    scored = torch.linspace(0, len(phi) - 1, min(len(phi), SCORED)).long()
    errors = leave_one_out_errors(
        one_hot(place[scored], len(present)) - shares,
        phi[scored] @ (loadings / variances),
        coordinates,
        [penalty * unit / (variances + penalty * unit) for penalty in penalties],
        len(phi),
    )
    weights = [((loadings / (variances + penalty * unit)) @ coordinates).T for penalty in penalties]
    centre = features.detach().mean(0, dtype=torch.float64)
    probes = tuple(
        Probe(
            *spread(weight, shares - weight @ centre, present, total),
            "ridge",
            MappingProxyType({"penalty": penalty, "leave_one_out_error": float(error)}),
        )
        for weight, penalty, error in zip(weights, penalties, errors, strict=True)
    )
    return ProbePath(probes, int(errors.argmin()))


def leave_one_out_errors(
    targets: Tensor, axes: Tensor, coordinates: Tensor, kept_back: Sequence[Tensor], n: int
) -> Tensor:
    """Return the mean leave-one-out squared error under each of m penalties, `[m]`.

    `targets` [s c] and `axes` [s k] are the scored rows of the centred Y and of U in ΦΦᵀ = UΛUᵀ; `coordinates` [k c] is
    UᵀY. A penalty holds back the share λ / (Λ + λ) of each axis, `kept_back`. What it leaves of the targets and of
    1 − h_aa is added up from those shares, never subtracted from 1: both are tiny together where n ≤ d.
    """
    outside, squares = targets - axes @ coordinates, axes.square()
    remainder = 1 - 1 / n - squares.sum(1)
    residuals = (torch.addmm(outside, axes, share[:, None] * coordinates) for share in kept_back)
    errors = [
        (torch.linalg.vector_norm(residual, dim=1) / (remainder + squares @ share)).square().mean()
        for residual, share in zip(residuals, kept_back, strict=True)
    ]
    return torch.stack(errors)


def fit_logistic_probe(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int | None = None,
    generator: torch.Generator,
    penalties: Sequence[float] = LOGISTIC_PENALTIES,
) -> Probe:
    """Fit a readout by penalised likelihood: minimise mean cross-entropy + (λ / 2) ‖W‖², the intercept not penalised.

    Features are standardised first (mean 0, variance 1; constant ones ignored), on all the examples given. λ is chosen
    by stratified three-fold cross-validation of the cross-entropy inside them, from the strongest down to the first
    that does worse. In scikit-learn's terms C = 1 / (n λ). Source: Hosmer & Lemeshow 1989; L-BFGS, Liu & Nocedal 1989.

    Args:
        features: `[n d]`.
        labels: `[n]`, whole numbers from 0 to classes − 1.
        classes: how many there are; the largest label + 1 if left out. One without an example is never predicted.
        generator: draws the folds.
        penalties: the candidates λ.

    Raises:
        ValueError: as `fit_ridge_probe`, or no class has two examples, so that nothing can be cross-validated.

    >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [8.0], [9.0], [10.0]]), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> probe = fit_logistic_probe(x, y, generator=torch.Generator().manual_seed(0))
    >>> probe.accuracy(torch.tensor([[4.9], [5.1]]), torch.tensor([0, 1]))
    1.0
    """
    total, present, place = check_cross_validated(features, labels, classes, penalties)
    design, rotation = standard_axes(features)
    parts = stratified_parts(labels, FOLDS, generator)
    penalty, start = cross_validated_penalty(design.float(), place, parts, sorted(penalties, reverse=True))
    solution = likeliest(design, place, penalty, start.double(), tolerance=1e-6)
    return logistic_probe(solution, rotation, features, present, total, penalty)


def logistic_path(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int | None = None,
    generator: torch.Generator,
    penalties: Sequence[float] = LOGISTIC_PENALTIES,
) -> ProbePath:
    """Fit a logistic probe at every penalty, each from the next stronger; arguments and refusals of `fit_logistic_probe`.

    The chosen one is the probe of `fit_logistic_probe` for the same generator. The others are there to be compared with
    it: fitted in float32, until no slope exceeds 3e-6, so that the weakest penalties are not quite at their minimum.

    >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [8.0], [9.0], [10.0]]), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> path = logistic_path(x, y, generator=torch.Generator().manual_seed(0), penalties=[1.0, 0.01])
    >>> [probe.settings["penalty"] for probe in path.probes], path.chosen
    ([1.0, 0.01], 1)
    """
    total, present, place = check_cross_validated(features, labels, classes, penalties)
    design, rotation = standard_axes(features)
    parts, falling = stratified_parts(labels, FOLDS, generator), sorted(penalties, reverse=True)
    chosen, start = cross_validated_penalty(design.float(), place, parts, falling)
    solutions = falling_path(design.float(), place, falling)
    solutions[chosen] = likeliest(design, place, chosen, start.double(), tolerance=1e-6)
    probes = [
        logistic_probe(solutions[penalty].double(), rotation, features, present, total, penalty)
        for penalty in penalties
    ]
    return ProbePath(tuple(probes), list(penalties).index(chosen))


def falling_path(design: Tensor, labels: Tensor, penalties: Sequence[float]) -> dict[float, Tensor]:
    """Return the coefficients `[c k]` at each of falling penalties, each found from those of the one before."""
    solutions, solution = {}, design.new_zeros(int(labels.max()) + 1, design.shape[1])
    for penalty in penalties:
        solution = likeliest(design, labels, penalty, solution, tolerance=3e-6)
        solutions[penalty] = solution
    return solutions


def check_cross_validated(
    features: Tensor, labels: Tensor, classes: int | None, penalties: Sequence[float]
) -> tuple[int, Tensor, Tensor]:
    """Refuse what cannot be cross-validated; return how many classes there are, which occur, and each example's place."""
    total = check_fit(features, labels, classes)
    check_penalties(penalties)
    present, place = torch.unique(labels, return_inverse=True)
    if len(present) == len(labels):
        raise ValueError("labels: expected a class with at least two examples, to cross-validate with, got one of each")
    return total, present, place


def standard_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return standardised features on their principal axes with a column of ones, `[n k+1]`, and the way there `[d k]`."""
    size = positive(centred(features).square().mean(0).sqrt())
    standard = centred(features) / size
    variances, loadings = principal_axes(standard)
    rotation = loadings / variances.sqrt()
    return torch.cat([standard @ rotation, standard.new_ones(len(standard), 1)], 1), rotation / size[:, None]


def logistic_probe(
    solution: Tensor, rotation: Tensor, features: Tensor, present: Tensor, classes: int, penalty: float
) -> Probe:
    """Return the probe of raw features whose coefficients on their standard axes are `solution`."""
    weight = solution[:, :-1] @ rotation.T
    bias = solution[:, -1] - weight @ features.detach().mean(0, dtype=torch.float64)
    settings = MappingProxyType({"penalty": penalty, "folds": FOLDS})
    return Probe(*spread(weight, bias, present, classes), "logistic", settings)


def cross_validated_penalty(
    design: Tensor, labels: Tensor, parts: Sequence[Tensor], penalties: Sequence[float]
) -> tuple[float, Tensor]:
    """Return the penalty of least cross-entropy on the left-out parts, and coefficients to start from, each `[c k]`.

    Penalties are tried in the order given, each from the solutions of the one before. An example whose class only its
    own part holds is not scored: no penalty could help it.
    """
    everything = torch.arange(len(labels), device=labels.device)
    fits = [everything[~torch.isin(everything, part)] for part in parts]
    scored = [part[torch.isin(labels[part], labels[fit])] for part, fit in zip(parts, fits, strict=True)]
    solutions = [design.new_zeros(int(labels.max()) + 1, design.shape[1]) for _ in parts]
    best, chosen, start = math.inf, penalties[0], solutions[0]
    for penalty in penalties:
        solutions = [
            likeliest(design[fit], labels[fit], penalty, at, tolerance=1e-4)
            for fit, at in zip(fits, solutions, strict=True)
        ]
        losses = [
            cross_entropy(design[part] @ at.T, labels[part], reduction="sum").item()
            for part, at in zip(scored, solutions, strict=True)
        ]
        if sum(losses) >= best:
            break
        best, chosen, start = sum(losses), penalty, solutions[0]
    return chosen, start


def likeliest(design: Tensor, labels: Tensor, penalty: float, start: Tensor, *, tolerance: float) -> Tensor:
    """Return the coefficients `[c k]` of least mean cross-entropy + (penalty / 2) ‖·‖², the last column being free.

    L-BFGS on coefficients scaled by the square roots of an estimate of the curvature, so that weak axes move as fast.
    """
    free = design.new_full((design.shape[1],), penalty)
    free[-1] = 0.0
    scale = (design.square().mean(0) / len(start) + free).sqrt()
    axes, pull = design / scale, free / scale.square()

    def objective(coefficients: Tensor) -> tuple[float, Tensor]:
        loss, slope = cross_entropy_slope(axes, labels, coefficients)
        drag = pull * coefficients
        return loss + float((drag * coefficients).sum()) / 2, slope + drag

    return lowest(objective, start * scale, tolerance) / scale


def lowest(objective: Objective, start: Tensor, tolerance: float) -> Tensor:
    """Return where a smooth convex function is lowest: L-BFGS, halving steps that do not descend.

    Stops when no entry of the slope exceeds `tolerance`, after 200 steps, or when rounding leaves nothing to gain.
    """
    place, (value, slope) = start, objective(start)
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)
    for _ in range(STEPS):
        if float(slope.abs().max()) <= tolerance:
            break
        direction = -newton_step(slope, recent)
        descent, length = float((slope * direction).sum()), 1.0
        while (trial := objective(place + length * direction))[0] > value + 1e-4 * length * descent:
            length /= 2
            if length < 1e-3:
                return place
        move, turn = length * direction, trial[1] - slope
        if float((move * turn).sum()) > 0:
            recent.append((move, turn))
        place, value, slope = place + move, *trial
    return place


def newton_step(slope: Tensor, recent: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the inverse Hessian times a slope, the Hessian being known from recent (move, change of slope)."""
    rest, shares = slope.clone(), []
    for move, turn in reversed(recent):
        shares.append((move * rest).sum() / (move * turn).sum())
        rest -= shares[-1] * turn
    if recent:
        rest *= (recent[-1][0] * recent[-1][1]).sum() / recent[-1][1].square().sum()
    for (move, turn), share in zip(recent, reversed(shares), strict=True):
        rest += (share - (turn * rest).sum() / (move * turn).sum()) * move
    return rest


def cross_entropy_slope(design: Tensor, labels: Tensor, coefficients: Tensor) -> tuple[float, Tensor]:
    """Return the mean cross-entropy of design · coefficientsᵀ, and its slope (p − y)ᵀ · design / n, `[c k]`."""
    scores = torch.log_softmax(design @ coefficients.T, 1)
    loss = -float(scores.gather(1, labels[:, None]).mean())
    errors = scores.exp_().scatter_add_(1, labels[:, None], -torch.ones_like(scores[:, :1]))
    return loss, errors.T @ design / len(labels)


def fit_paper_probe(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int | None = None,
    generator: torch.Generator,
    weight_decay: float = PAPER_DECAY,
) -> Probe:
    """Train a readout as arXiv 2605.27078 does: AdamW, 200 full-batch epochs of cross-entropy, no bias, in float32.

    Learning rate 1e-3, betas (0.9, 0.98), weight decay 1.0, W ~ N(0, 1/d). Features are taken as they are, not
    standardised, nothing is chosen, and a class without an example is not barred. So short a training is a lower
    bound on what can be read.

    Args:
        features: `[n d]`.
        labels: `[n]`, whole numbers from 0 to classes − 1.
        classes: how many there are; the largest label + 1 if left out.
        generator: draws W.
        weight_decay: per unit of learning rate and step, in place of the published 1.0.

    Raises:
        ValueError: as `fit_ridge_probe`, or the weight decay is negative.

    >>> x, y = torch.tensor([[-5.0], [-4.0], [4.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    >>> fit_paper_probe(x, y, generator=torch.Generator().manual_seed(0)).weight.shape
    torch.Size([2, 1])
    """
    return chosen_of(paper_path(features, labels, classes=classes, generator=generator, penalties=[weight_decay]))


def paper_path(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int | None = None,
    generator: torch.Generator,
    penalties: Sequence[float] = PAPER_DECAYS,
) -> ProbePath:
    """Train `fit_paper_probe` at every weight decay, each from the same first weights; its other arguments and refusals.

    Nothing is chosen: the place marked is that of the weight decay closest to the published 1.0.

    >>> x, y = torch.tensor([[-5.0], [-4.0], [4.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    >>> path = paper_path(x, y, generator=torch.Generator().manual_seed(0))
    >>> [probe.settings["weight_decay"] for probe in path.probes], path.chosen
    ([0.0, 0.1, 0.3, 1.0, 3.0], 3)
    """
    total = check_fit(features, labels, classes)
    if not penalties or min(penalties) < 0:
        raise ValueError(f"weight decays: expected at least one, none negative, got {list(penalties)}")
    inputs, answers, width = features.detach().float(), labels.long(), features.shape[1]
    start = (torch.randn(total, width, generator=generator) / math.sqrt(width)).to(inputs.device)
    probes = tuple(
        Probe(
            trained_readout(inputs, answers, start, decay).double(),
            None,
            "paper",
            MappingProxyType({"epochs": PAPER_EPOCHS, "lr": PAPER_LR, "weight_decay": decay}),
        )
        for decay in penalties
    )
    return ProbePath(probes, min(range(len(penalties)), key=lambda place: abs(penalties[place] - PAPER_DECAY)))


def trained_readout(inputs: Tensor, labels: Tensor, start: Tensor, decay: float) -> Tensor:
    """Return a readout `[c d]` after the published training from `start`.

    By hand, because importing torch.optim takes seconds; tested equal to torch.optim.AdamW.
    """
    weight, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for epoch in range(1, PAPER_EPOCHS + 1):
        slope = cross_entropy_slope(inputs, labels, weight)[1]
        mean.lerp_(slope, 1 - PAPER_BETAS[0])
        square.lerp_(slope.square(), 1 - PAPER_BETAS[1])
        size = (square / (1 - PAPER_BETAS[1] ** epoch)).sqrt_().add_(1e-8)
        weight.mul_(1 - PAPER_LR * decay).addcdiv_(mean, size, value=-PAPER_LR / (1 - PAPER_BETAS[0] ** epoch))
    return weight


def stratified_parts(labels: Tensor, parts: int, generator: torch.Generator) -> list[Tensor]:
    """Split examples into disjoint parts in which every class is as evenly spread as can be: their places, sorted.

    Every class differs by at most one example between parts, and so do the parts in size.

    >>> [part.tolist() for part in stratified_parts(torch.tensor([0, 0, 1, 1]), 2, torch.Generator().manual_seed(0))]
    [[0, 3], [1, 2]]
    """
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return [by_class[part::parts].sort().values for part in range(parts)]


def principal_axes(phi: Tensor) -> tuple[Tensor, Tensor]:
    """Return Λ `[k]` and ΦᵀU `[d k]` of ΦΦᵀ = UΛUᵀ for centred features of rank k, by the smaller Gram matrix."""
    tall = phi.shape[0] >= phi.shape[1]
    variances, vectors = torch.linalg.eigh(phi.T @ phi if tall else phi @ phi.T)
    kept = variances > variances[-1] * torch.finfo(torch.float64).eps * max(phi.shape)
    variances, vectors = variances[kept], vectors[:, kept]
    return variances, vectors * variances.sqrt() if tall else phi.T @ vectors


def spread(weight: Tensor, bias: Tensor, present: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias for all classes, those that were absent from the fit never being predicted."""
    whole_weight, whole_bias = weight.new_zeros(classes, weight.shape[1]), bias.new_full((classes,), NEVER)
    whole_weight[present], whole_bias[present] = weight, bias
    return whole_weight, whole_bias


def check_fit(features: Tensor, labels: Tensor, classes: int | None) -> int:
    """Refuse what no probe can be fitted to, and return the number of classes."""
    check_labelled(features, labels)
    total = int(labels.max()) + 1 if classes is None else classes
    if int(labels.min()) < 0 or int(labels.max()) >= total:
        raise ValueError(f"labels: expected 0 to {total - 1}, got {int(labels.min())} to {int(labels.max())}")
    if bool((labels == labels[0]).all()):
        raise ValueError(f"labels: expected at least two classes among the examples, got only {int(labels[0])}")
    return total


def check_penalties(penalties: Sequence[float]) -> None:
    """Refuse penalties among which there is nothing to choose."""
    if not penalties or not all(0 < penalty < math.inf for penalty in penalties):
        raise ValueError(f"penalties: expected at least one, all positive and finite, got {list(penalties)}")
