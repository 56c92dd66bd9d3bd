"""This file knows the ladder: the network's own readout and probes of the same features, scored on the same items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twoclocks.errors import InputError, nearest
from twoclocks.measures.margins import margin
from twoclocks.measures.probes import Probe, fit_logistic_probe, fit_paper_probe, fit_ridge_probe, stratified_parts
from twoclocks.series import float64, labels_of, logits_of
from twoclocks.trajectory import Float, Int, Snapshot, Trajectory

NEEDED = ("features/train", "features/heldout", "readout/weight")
LEAST_SCORED = 10
LEAST_A_CLASS = 5  # below this many examples a class in half A, the held-out-fit probe is cross-fitted
FOLDS = 5

Fit = Callable[[Tensor, Tensor, int, torch.Generator], Probe]
PRESETS: Mapping[str, Fit] = {
    "ridge": lambda phi, y, classes, _: fit_ridge_probe(phi, y, classes=classes),
    "logistic": lambda phi, y, classes, generator: fit_logistic_probe(phi, y, classes=classes, generator=generator),
    "paper": lambda phi, y, classes, generator: fit_paper_probe(phi, y, classes=classes, generator=generator),
}


@dataclass(frozen=True)
class Decomposition:
    """The ladder at `step[t]`: accuracies `[r t]` on one half B of the held-out examples; no fit predicts what it saw.

    `native`: the network's own readout. `train_probe`: a probe fitted on the training split. `heldout_probe`: a probe
    fitted on the other half A, the ceiling. `calibration_gap` = train_probe − native; `train_bias` = heldout_probe −
    train_probe `[def]`. Intervals `[r t 2]`: 95 % bootstrap over the scored examples (precision, not confidence over
    seeds). `cross_fitted`: half A being too small, the held-out-fit probe was fitted by folds, as `decompose` says.
    """

    preset: str
    step: Int
    native: Float
    train_probe: Float
    heldout_probe: Float
    calibration_gap: Float
    train_bias: Float
    native_interval: Float
    train_probe_interval: Float
    heldout_probe_interval: Float
    calibration_gap_interval: Float
    train_bias_interval: Float
    scored: int
    fitted_on_train: int
    fitted_on_heldout: int
    cross_fitted: bool = False


@dataclass(frozen=True)
class Halves:
    """How held-out examples are used: the places that are scored, and pairs of places to fit on and to predict."""

    scored: Tensor
    fits: Sequence[tuple[Tensor, Tensor]]


def decompose(
    trajectory: Trajectory,
    *,
    preset: str = "ridge",
    steps: Sequence[int] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Decomposition:
    """Compare the network's readout with probes of its features, at every snapshot that holds features and readout.

    The held-out examples are split once, stratified by class, into halves A and B, the same at all moments and for all
    runs. Native readout, train-fit probe and held-out-fit probe are all scored on B. The train-fit probe is fitted and
    tuned on training examples alone, the held-out-fit probe on half A alone. Where A would have fewer than 5 examples a
    class on average, the held-out-fit probe is cross-fitted instead: all held-out examples are cut into 5 stratified
    folds, and each example of B is predicted by the probe fitted and tuned on the four folds that exclude it; the other
    rungs stay as they are, and B is still what is scored. A tie for the largest logit counts as wrong.

    Intervals: the 2.5 % and 97.5 % quantiles of a bootstrap over the scored examples, the same resamples for all rungs,
    so that gaps are paired. A run whose features or readout were not finite at a moment (it diverged) has NaN there.

    Args:
        trajectory: with snapshots of features and readout, and the labels of its train and held-out examples.
        preset: the probe: "ridge", "logistic" or "paper".
        steps: the recorded steps to look at; all that hold features if left out.
        seed: draws the halves, the folds, the bootstrap and, for "paper", the probe's first weights.
        resamples: of the bootstrap.

    Raises:
        InputError: the preset is unknown, no snapshot (or none at one of `steps`) holds features and readout, features
            and labels differ in number, a class occurs among the held-out examples but not in training, or a half
            would have fewer than 10 examples.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset '{preset}'.{nearest(preset, list(PRESETS))}")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    moments = chosen_moments(trajectory, steps)
    train_labels, heldout_labels = labels_of(trajectory, "train"), labels_of(trajectory, "heldout")
    check_labels(train_labels, heldout_labels)
    halves = split_heldout(heldout_labels, seed)
    right = np.stack(
        [rungs_right(moment, train_labels, heldout_labels, halves, PRESETS[preset], seed) for moment in moments], 1
    )
    return scored_ladder(
        right, np.array([moment.step for moment in moments]), preset, halves, train_labels, seed, resamples
    )


def rungs_right(
    snapshot: Snapshot, train_labels: Tensor, heldout_labels: Tensor, halves: Halves, fit: Fit, seed: int
) -> Float:
    """Return whether each rung is right on each scored example at one moment, `[r 3 n]`: 0, 1, or NaN if not finite."""
    train, heldout = float64(snapshot.tensors["features/train"]), float64(snapshot.tensors["features/heldout"])
    check_lengths(snapshot.step, train, train_labels, heldout, heldout_labels)
    native = logits_of(snapshot, "heldout")
    check_classes(snapshot.step, native.shape[2], train_labels)
    classes = native.shape[2]
    right = np.full((len(native), 3, len(halves.scored)), np.nan)
    for run in range(len(native)):
        if not all(bool(tensor[run].isfinite().all()) for tensor in (train, heldout, native)):
            continue
        generator = torch.Generator().manual_seed(seed)
        try:
            of_train = fit(train[run], train_labels, classes, generator).logits(heldout[run])
            of_heldout = cross_fitted_logits(heldout[run], heldout_labels, classes, halves, fit, generator)
        except ValueError as refusal:
            raise InputError(f"no probe can be fitted at step {snapshot.step}: {refusal}") from None
        rungs = torch.stack([native[run], of_train, of_heldout])[:, halves.scored]
        answers = heldout_labels[halves.scored]
        right[run] = torch.stack([margin(logits, answers) > 0 for logits in rungs]).double().numpy()
    return right


def cross_fitted_logits(
    features: Tensor, labels: Tensor, classes: int, halves: Halves, fit: Fit, generator: torch.Generator
) -> Tensor:
    """Return the logits of held-out-fit probes, `[n c]`, each from a probe that did not see the example (else 0)."""
    logits = features.new_zeros(len(features), classes)
    for fitted, predicted in halves.fits:
        logits[predicted] = fit(features[fitted], labels[fitted], classes, generator).logits(features[predicted])
    return logits


def split_heldout(labels: Tensor, seed: int) -> Halves:
    """Split the held-out examples into a half to fit on and a half to score, or cut folds where they are few."""
    generator = torch.Generator().manual_seed(seed)
    fitted, scored = stratified_parts(labels, 2, generator)
    if len(fitted) >= LEAST_A_CLASS * len(torch.unique(labels)):
        return Halves(scored, [(fitted, scored)])
    everything = torch.arange(len(labels))
    folds = [fold for fold in stratified_parts(labels, FOLDS, generator) if bool(torch.isin(fold, scored).any())]
    rest = [everything[~torch.isin(everything, fold)] for fold in folds]
    return Halves(scored, [(fit, fold[torch.isin(fold, scored)]) for fit, fold in zip(rest, folds, strict=True)])


def scored_ladder(
    right: Float, step: Int, preset: str, halves: Halves, train_labels: Tensor, seed: int, resamples: int
) -> Decomposition:
    """Return the ladder from `right` [r t 3 n]: accuracies, gaps, and paired bootstrap intervals of both."""
    gaps = right[:, :, 1:] - right[:, :, :-1]
    value, interval = bootstrap(np.concatenate([right, gaps], 2), seed, resamples)
    native, train_probe, heldout_probe, calibration_gap, train_bias = np.moveaxis(value, 2, 0)
    intervals = np.moveaxis(interval, 2, 0)
    return Decomposition(
        preset=preset,
        step=step,
        native=native,
        train_probe=train_probe,
        heldout_probe=heldout_probe,
        calibration_gap=calibration_gap,
        train_bias=train_bias,
        native_interval=intervals[0],
        train_probe_interval=intervals[1],
        heldout_probe_interval=intervals[2],
        calibration_gap_interval=intervals[3],
        train_bias_interval=intervals[4],
        scored=len(halves.scored),
        fitted_on_train=len(train_labels),
        fitted_on_heldout=min(len(fitted) for fitted, _ in halves.fits),
        cross_fitted=len(halves.fits) > 1,
    )


def bootstrap(values: Float, seed: int, resamples: int) -> tuple[Float, Float]:
    """Return the means over the last axis `[...]` and their 95 % intervals `[... 2]`, all from the same resamples."""
    n = values.shape[-1]
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    means = values @ (draws.T / n)
    return values.mean(-1), np.moveaxis(np.quantile(means, [0.025, 0.975], axis=-1), 0, -1)


def chosen_moments(trajectory: Trajectory, steps: Sequence[int] | None) -> list[Snapshot]:
    """Return the snapshots that hold features and readout, or those at `steps`, refusing steps that have none."""
    moments = [snapshot for snapshot in trajectory.snapshots if set(NEEDED) <= set(snapshot.tensors)]
    if not moments:
        raise InputError(
            f"no snapshot of {trajectory.source.path} holds {', '.join(NEEDED)}, which the ladder compares; record "
            "with a readout and with features, or replay the checkpoints"
        )
    recorded = [snapshot.step for snapshot in moments]
    absent = [] if steps is None else [step for step in steps if step not in recorded]
    if absent:
        closest = min(recorded, key=lambda step: abs(step - absent[0]))
        raise InputError(f"no features are recorded at step {absent[0]}; the closest step that has them is {closest}")
    return moments if steps is None else [snapshot for snapshot in moments if snapshot.step in set(steps)]


def check_labels(train: Tensor, heldout: Tensor) -> None:
    """Refuse labels from which no fair ladder can be built."""
    if len(heldout) < 2 * LEAST_SCORED:
        raise InputError(
            f"the ladder splits the held-out examples into two halves of at least {LEAST_SCORED}, got {len(heldout)} "
            "examples in all; record more"
        )
    unseen = sorted(set(heldout.tolist()) - set(train.tolist()))
    if unseen:
        raise InputError(
            f"class {unseen[0]} occurs among the held-out examples but not in training ({len(unseen)} such in all), so "
            "no probe of the training split can predict it; leave those examples out"
        )
    if len(set(heldout.tolist())) < 2:
        raise InputError("the held-out examples are all of one class, so there is nothing to read; record others")


def check_lengths(step: int, train: Tensor, train_labels: Tensor, heldout: Tensor, heldout_labels: Tensor) -> None:
    """Refuse features that do not belong to the labels."""
    for name, features, labels in (("train", train, train_labels), ("heldout", heldout, heldout_labels)):
        if features.ndim != 3 or features.shape[1] != len(labels):
            raise InputError(
                f"features/{name} at step {step}: expected [r, {len(labels)}, d], one row a label, got "
                f"{list(features.shape)}; record features and labels of the same examples"
            )


def check_classes(step: int, classes: int, labels: Tensor) -> None:
    """Refuse a readout that does not classify the labels."""
    if classes < 2 or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(
            f"the readout at step {step} has {classes} classes, but the labels run from {int(labels.min())} to "
            f"{int(labels.max())}; the ladder needs a readout with a logit for each class, and at least two"
        )
