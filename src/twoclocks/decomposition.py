"""This file knows the ladder: the network's own readout and probes of the same features, scored on the same items."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from twoclocks.errors import InputError, nearest
from twoclocks.measures.margins import margin
from twoclocks.measures.probes import (
    LOGISTIC_PENALTIES,
    PAPER_DECAYS,
    RIDGE_PENALTIES,
    Probe,
    ProbePath,
    chosen_of,
    fit_logistic_probe,
    fit_paper_probe,
    fit_ridge_probe,
    logistic_path,
    paper_path,
    ridge_path,
    stratified_parts,
)
from twoclocks.series import FEATURED, featured, float64, labels_of, logits_of
from twoclocks.stats import paired_difference_interval, wilson_interval
from twoclocks.trajectory import Array, Float, Int, Snapshot, Trajectory

LEAST_SCORED = 10
LEAST_A_CLASS = 5  # below this many examples a class in half A, the held-out-fit probe is cross-fitted
FOLDS = 5

Fitted = TypeVar("Fitted", Probe, ProbePath)
FitOf = Callable[[Tensor, Tensor, int, torch.Generator], Fitted]  # of features [n d], their labels [n], classes, draws
Fit = FitOf[Probe]
PRESETS: Mapping[str, Fit] = {
    "ridge": lambda phi, y, classes, _: fit_ridge_probe(phi, y, classes=classes),
    "logistic": lambda phi, y, classes, generator: fit_logistic_probe(phi, y, classes=classes, generator=generator),
    "paper": lambda phi, y, classes, generator: fit_paper_probe(phi, y, classes=classes, generator=generator),
}

FitPath = Callable[[Tensor, Tensor, int, torch.Generator, Sequence[float]], ProbePath]
PATHS: Mapping[str, FitPath] = {
    "ridge": lambda phi, y, classes, _, penalties: ridge_path(phi, y, classes=classes, penalties=penalties),
    "logistic": lambda phi, y, classes, generator, penalties: logistic_path(
        phi, y, classes=classes, generator=generator, penalties=penalties
    ),
    "paper": lambda phi, y, classes, generator, penalties: paper_path(
        phi, y, classes=classes, generator=generator, penalties=penalties
    ),
}
STRIPS: Mapping[str, tuple[float, ...]] = {
    "ridge": tuple(sorted(RIDGE_PENALTIES)),
    "logistic": tuple(sorted(LOGISTIC_PENALTIES)),
    "paper": tuple(sorted(PAPER_DECAYS)),
}


@dataclass(frozen=True)
class Decomposition:
    """The ladder at `step[t]`: accuracies `[r t]` on one half B of the held-out examples; no fit predicts what it saw.

    `native`: the network's own readout. `train_probe`: a probe fitted on the training examples that were kept.
    `heldout_probe`: a probe fitted on the other half A, on no more of it than there are of those: a larger fit reads more
    from the same features, and sample size must not look like train bias. `calibration_gap` = train_probe − native;
    `train_bias` = heldout_probe − train_probe `[def]`. Intervals `[r t 2]`: 95 %, over the scored examples (precision, not
    confidence over seeds), as `decompose` says. `fitted_on_train`, `fitted_on_heldout`: how many examples each probe was
    fitted on. `cross_fitted`: half A being too small, the held-out-fit probe was fitted by folds. `notes`: what was left
    out, or makes the ladder weaker than it looks.
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
    notes: tuple[str, ...] = ()

    def at(self, places: Array) -> Decomposition:
        """Return the ladder at some of its moments, given by their places or by a mask `[t]`."""
        cut = {name: value[:, places] for name, value in vars(self).items() if np.ndim(value) > 1}
        return replace(self, step=self.step[places], **cut)


@dataclass(frozen=True)
class Sensitivity:
    """The probes of one family at `step[t]` and every `penalty[k]`, rising: accuracies on half B, the ladder's own.

    `native` `[r t]`; `train_probe`, `heldout_probe` `[r t k]`. `train_penalty`, `heldout_penalty` `[r t]`: what the preset
    of the same name chooses inside its own fit (the middle one over folds where cross-fitted; for "paper" the published
    weight decay). `best_train_probe` `[r t]`: accuracy on B of the train-fit probe at `best_penalty`, the penalty at which
    it does best on half A, the strongest of equals `[def]`: the most that a choice of penalty can honestly give it.
    NaN where a run's tensors were not finite. `scored`: how many examples B has.
    """

    step: Int
    family: str
    penalty: Float
    native: Float
    train_probe: Float
    heldout_probe: Float
    scored: int
    train_penalty: Float
    heldout_penalty: Float
    best_penalty: Float
    best_train_probe: Float


@dataclass(frozen=True)
class Halves:
    """How held-out examples are used: the places that are scored, and pairs of places to fit on and to predict.

    `offered` is how many there were to fit on, of the pair that had fewest, before any were left out for being more than
    the training examples.
    """

    scored: Tensor
    fits: Sequence[tuple[Tensor, Tensor]]
    offered: int


@dataclass(frozen=True)
class Answers:
    """The labels of training examples `[m]` and of those held-out examples `[n]` that can be compared.

    `places` `[n]` are their rows among the `recorded` held-out ones; the others are of classes that no kept training
    example shows. The training examples were kept of `population`.
    """

    train: Tensor
    heldout: Tensor
    places: Tensor
    recorded: int
    population: int


@dataclass(frozen=True)
class Moment:
    """One run at one moment, in float64: features `[m d]` and `[n d]`, and the native held-out logits `[n c]`."""

    train: Tensor
    heldout: Tensor
    native: Tensor


FittedRun = tuple[int, Moment, Fitted, list[Fitted]]  # a run's place, its tensors, fits on training and held-out parts


def decompose(
    trajectory: Trajectory,
    *,
    preset: str = "ridge",
    steps: Sequence[int] | None = None,
    runs: Mapping[int, Container[int]] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Decomposition:
    """Compare the network's readout with probes of its features, at every snapshot that holds features and readout.

    The held-out examples are split once, stratified by class, into halves A and B, the same at all moments and for all
    runs. Native readout, train-fit probe and held-out-fit probe are all scored on B. The train-fit probe is fitted and
    tuned on training examples alone, the held-out-fit probe on half A alone. Where A would have fewer than 5 examples a
    class on average, the held-out-fit probe is cross-fitted instead: all held-out examples are cut into 5 stratified
    folds, and each example of B is predicted by the probe fitted and tuned on the four folds that exclude it; the other
    rungs stay as they are, and B is still what is scored.

    The held-out-fit probe is fitted on at most as many examples as the train-fit probe: where half A, or four folds, have
    more, on a stratified part of them, drawn once with the seed `[def]`. A probe fitted on more examples reads more from
    the same features, also from random ones on which nothing was trained; without this, sample size would look like a
    train bias and like a readout that lags. Where training examples are more, they are all used: p_tr then is what a refit
    would give, and the train bias comes out too small rather than too large.

    A tie for the largest logit counts as wrong: constant features read the commonest class, and nothing where classes are
    equally common. Held-out examples of a class that no kept training example shows are left out of all rungs, and `notes`
    says so: the train-fit probe could not know it.

    Intervals: at either end the farther of two, since the first is too short where few examples are scored or nearly all
    rungs agree: the 2.5 % and 97.5 % quantiles of a bootstrap over the scored examples, the same resamples for all rungs;
    and a score interval, Wilson's for a rung and Tango's, which is paired, for a gap. A run whose features or readout
    were not finite at a moment, or too large to be squared (it diverged), has NaN there.

    Args:
        trajectory: with snapshots of features and readout, and the labels of its train and held-out examples.
        preset: the probe: "ridge", "logistic" or "paper".
        steps: the recorded steps to look at; all that hold features if left out.
        runs: the runs to look at, by step; the others have NaN there. All of them if left out.
        seed: draws the halves, the folds, what is fitted of them, the bootstrap and, for "paper", the first weights.
        resamples: of the bootstrap.

    Raises:
        InputError: the preset is unknown, no snapshot (or none at one of `steps`) holds features and readout, features
            and labels differ in number, one class alone occurs in training or among the comparable held-out examples, or
            a half of these would have fewer than 10.
    """
    check_preset(preset)
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    moments, answers = chosen_moments(trajectory, steps), answers_of(trajectory)
    halves = split_heldout(answers.heldout, seed, len(answers.train))
    fit, right = PRESETS[preset], []
    for one in moments:
        wanted = None if runs is None else runs.get(one.step, ())
        right.append(rungs_right(runs_fitted(one, answers, halves, fit, seed, wanted), one, answers, halves))
    return ladder_of(preset, moments, answers, halves, scored_rungs(np.stack(right, 1), seed, resamples))


def ladder_of(
    preset: str, moments: Sequence[Snapshot], answers: Answers, halves: Halves, scored: tuple[Float, Float]
) -> Decomposition:
    """Return the ladder whose rungs and gaps are `scored`, with its intervals and how it was fitted."""
    native, train_probe, heldout_probe, calibration_gap, train_bias = np.moveaxis(scored[0], 2, 0)
    intervals = np.moveaxis(scored[1], 2, 0)
    return Decomposition(
        preset=preset,
        step=np.array([moment.step for moment in moments]),
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
        fitted_on_train=len(answers.train),
        fitted_on_heldout=fewest_fitted(halves),
        cross_fitted=len(halves.fits) > 1,
        notes=notes_of(moments, answers, halves),
    )


def ladder_and_strip(
    trajectory: Trajectory, *, seed: int = 0, resamples: int = 1000
) -> tuple[Decomposition, Sensitivity]:
    """Return `decompose` and `probe_sensitivity` of ridge probes at every snapshot, which are fitted once for both.

    Raises:
        InputError: as `decompose`.
    """
    moments, answers = chosen_moments(trajectory, None), answers_of(trajectory)
    halves, penalties = split_heldout(answers.heldout, seed, len(answers.train)), STRIPS["ridge"]
    fit = at_penalties("ridge", penalties)
    right, rows = [], []
    for moment in moments:
        fitted = list(runs_fitted(moment, answers, halves, fit, seed))
        chosen = [(run, one, chosen_of(train), [chosen_of(path) for path in rest]) for run, one, train, rest in fitted]
        right.append(rungs_right(chosen, moment, answers, halves))
        rows.append(strips_at(fitted, moment, answers, halves, penalties))
    scored = scored_rungs(np.stack(right, 1), seed, resamples)
    ladder = ladder_of("ridge", moments, answers, halves, scored)
    return ladder, strip_over(moments, "ridge", penalties, np.stack(rows, 1), halves)


def probe_sensitivity(
    trajectory: Trajectory,
    *,
    family: str = "ridge",
    steps: Sequence[int] | None = None,
    penalties: Sequence[float] | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Score both probes at every strength of regularisation, on the examples on which `decompose` scores its ladder.

    Halves, folds and random draws are those of `decompose` for the same seed, so that the strip at a preset's own penalty
    is the rung of the ladder. No probe is fitted on half B and no penalty chosen on it. A fall of the train-fit rung alone
    need not be the features': on memorised ones the penalty that training examples ask for collapses, and the probe with
    it. Features are damaged where `best_train_probe` and the held-out-fit probe fall too.

    Args:
        trajectory: as `decompose`.
        family: "ridge" (λ in mean eigenvalues of the features), "logistic" (λ of standardised features) or "paper"
            (weight decay; learning rate and epochs stay as published).
        steps: as `decompose`.
        penalties: in the family's unit, in any order; if left out, the candidates of the preset, for "paper" 0, 0.1,
            0.3, 1 and 3.
        seed: as `decompose`.

    Raises:
        InputError: as `decompose`, or a penalty is not positive (for "paper": is negative), or occurs twice.
    """
    if family not in PATHS:
        raise InputError(f"unknown family '{family}'.{nearest(family, list(PATHS))}")
    strip = STRIPS[family] if penalties is None else tuple(sorted(float(penalty) for penalty in penalties))
    if not strip or len(set(strip)) < len(strip):
        raise InputError(f"penalties: expected at least one, each once, got {list(strip)}")
    moments, answers = chosen_moments(trajectory, steps), answers_of(trajectory)
    halves, fit = split_heldout(answers.heldout, seed, len(answers.train)), at_penalties(family, strip)
    rows = [strips_at(runs_fitted(one, answers, halves, fit, seed), one, answers, halves, strip) for one in moments]
    return strip_over(moments, family, strip, np.stack(rows, 1), halves)


def strip_over(
    moments: Sequence[Snapshot], family: str, penalties: Sequence[float], rows: Float, halves: Halves
) -> Sensitivity:
    """Return the strip of the rows `[r t 2k+5]` that `strips_at` gives moment by moment."""
    k = len(penalties)
    native, train, heldout, rest = np.split(rows, [1, 1 + k, 1 + 2 * k], 2)
    return Sensitivity(
        np.array([moment.step for moment in moments]),
        family,
        np.array(penalties),
        native[..., 0],
        train,
        heldout,
        len(halves.scored),
        *np.moveaxis(rest, 2, 0),
    )


def at_penalties(family: str, penalties: Sequence[float]) -> FitOf[ProbePath]:
    """Return what fits a probe of a family at every penalty."""
    return lambda features, labels, classes, draws: PATHS[family](features, labels, classes, draws, penalties)


def strips_at(
    fitted: Iterable[FittedRun[ProbePath]],
    snapshot: Snapshot,
    answers: Answers,
    halves: Halves,
    penalties: Sequence[float],
) -> Float:
    """Return one moment of a strip, `[r 2k+5]`: the fields of `Sensitivity` in order, a row of NaN if not finite."""
    rows = np.full((runs_of(snapshot), 2 * len(penalties) + 5), np.nan)
    for run, moment, of_train, of_heldout in fitted:
        rows[run] = strip_of(moment, answers.heldout, halves, of_train, of_heldout, penalties)
    return rows


def strip_of(
    moment: Moment,
    labels: Tensor,
    halves: Halves,
    of_train: ProbePath,
    of_heldout: Sequence[ProbePath],
    penalties: Sequence[float],
) -> Float:
    """Return the accuracies of one run at one moment and the penalties chosen, in the order of `Sensitivity`."""
    scored, fitted = halves.scored, places_without(halves.scored, len(labels))
    train = [probe.accuracy(moment.heldout[scored], labels[scored]) for probe in of_train.probes]
    on_fitted = [probe.accuracy(moment.heldout[fitted], labels[fitted]) for probe in of_train.probes]
    counts = np.zeros(len(penalties))
    for path, (_, predicted) in zip(of_heldout, halves.fits, strict=True):
        counts += [len(predicted) * p.accuracy(moment.heldout[predicted], labels[predicted]) for p in path.probes]
    best = max(range(len(penalties)), key=lambda place: (on_fitted[place], penalties[place]))
    middle = sorted(path.chosen for path in of_heldout)[len(of_heldout) // 2]
    own = float((margin(moment.native[scored], labels[scored]) > 0).double().mean())
    chosen = penalties[of_train.chosen], penalties[middle], penalties[best], train[best]
    return np.array([own, *train, *(counts / len(scored)), *chosen])


def native_bounds(snapshot: Snapshot, labels: Tensor) -> Float:
    """Return the least and the largest accuracy of features times readout on all examples held out, `[r 2]`.

    They differ where rounding decides, since features are kept in half precision and the network itself may have computed
    in less: a logit z is known to ε (Σ_j |φ_j w_j| + |z|). A label without a logit counts as wrong; a run that is not
    finite has NaN.
    """
    features, weight = (float64(snapshot.tensors[name]) for name in ("features/heldout", "readout/weight"))
    logits, known = logits_of(snapshot, "heldout"), (labels < weight.shape[1]).nonzero().flatten()
    error = precision_of(snapshot) * (features.abs() @ weight.abs().mT + logits.abs())
    own = torch.nn.functional.one_hot(labels[known], weight.shape[1]).double() * 2 - 1
    bounds = torch.stack([logits[:, known] + sign * error[:, known] * own for sign in (-1, 1)], 1)
    right = [[(margin(one, labels[known]) > 0).double().sum() / len(labels) for one in run] for run in bounds]
    finite = logits.isfinite().all(2).all(1)
    return np.where(finite[:, None].numpy(), np.array(right), np.nan)


def precision_of(snapshot: Snapshot) -> float:
    """Return the relative spacing ε of the coarsest numbers that a network's logits may have been computed from.

    They are those in which the features are kept, or in which the readout's weights, as they are, can be written.
    """
    weight = float64(snapshot.tensors["readout/weight"])
    coarse = [kind for kind in (torch.bfloat16, torch.float16) if torch.equal(weight.to(kind).double(), weight)]
    kept = float(np.finfo(snapshot.tensors["features/heldout"].dtype).eps)
    return max(kept, torch.finfo(torch.float32).eps, *(torch.finfo(kind).eps for kind in coarse))


def places_without(places: Tensor, count: int) -> Tensor:
    """Return the places from 0 to count − 1 that are not among `places`, sorted."""
    everything = torch.arange(count)
    return everything[~torch.isin(everything, places)]


def rungs_right(fitted: Iterable[FittedRun[Probe]], snapshot: Snapshot, answers: Answers, halves: Halves) -> Float:
    """Return whether each rung is right on each scored example at one moment, `[r 3 n]`: 0, 1, or NaN if not finite."""
    labels = answers.heldout[halves.scored]
    right = np.full((runs_of(snapshot), 3, len(labels)), np.nan)
    for run, moment, of_train, of_heldout in fitted:
        crossed = torch.zeros_like(moment.native)
        for probe, (_, predicted) in zip(of_heldout, halves.fits, strict=True):
            crossed[predicted] = probe.logits(moment.heldout[predicted])
        rungs = [moment.native, of_train.logits(moment.heldout), crossed]
        right[run] = torch.stack([margin(logits[halves.scored], labels) > 0 for logits in rungs]).double().numpy()
    return right


def runs_fitted(
    snapshot: Snapshot,
    answers: Answers,
    halves: Halves,
    fit: FitOf[Fitted],
    seed: int,
    wanted: Container[int] | None = None,
) -> Iterator[FittedRun[Fitted]]:
    """Yield every run (of those wanted) that is finite at a moment, its tensors and what `fitted_probes` fits to them."""
    for run, moment in finite_runs(snapshot, answers):
        if wanted is not None and run not in wanted:
            continue
        of_train, of_heldout = fitted_probes(snapshot.step, moment, answers, halves, fit, seed)
        yield run, moment, of_train, of_heldout


def fitted_probes(
    step: int, moment: Moment, answers: Answers, halves: Halves, fit: FitOf[Fitted], seed: int
) -> tuple[Fitted, list[Fitted]]:
    """Return what is fitted on training examples, and on each part of the held-out ones that is not predicted from it.

    A fit is given copies of the rows it may see and of their labels, and nothing else: from them no label of an example
    that it will predict can be had.
    """
    generator, classes = torch.Generator().manual_seed(seed), moment.native.shape[1]
    try:
        of_train = fit(moment.train, answers.train, classes, generator)
        of_heldout = [
            fit(moment.heldout[fitted], answers.heldout[fitted], classes, generator) for fitted, _ in halves.fits
        ]
    except ValueError as refusal:
        raise InputError(f"no probe can be fitted at step {step}: {refusal}") from None
    return of_train, of_heldout


def finite_runs(snapshot: Snapshot, answers: Answers) -> Iterator[tuple[int, Moment]]:
    """Yield every run whose features and native logits are finite at a moment, and so small that their squares are."""
    train, heldout = float64(snapshot.tensors["features/train"]), float64(snapshot.tensors["features/heldout"])
    check_lengths(snapshot.step, train, len(answers.train), heldout, answers.recorded)
    native = logits_of(snapshot, "heldout")
    check_classes(snapshot.step, native.shape[2], answers.train)
    for run in range(len(native)):
        moment = Moment(train[run], heldout[run, answers.places], native[run, answers.places])
        if all(bool(tensor.square().sum().isfinite()) for tensor in (moment.train, moment.heldout, moment.native)):
            yield run, moment


def runs_of(snapshot: Snapshot) -> int:
    """Return how many runs a snapshot holds."""
    return int(snapshot.tensors["readout/weight"].shape[0])


def split_heldout(labels: Tensor, seed: int, most: int) -> Halves:
    """Split the held-out examples into a half to fit on and a half to score, or cut folds where they are few.

    No probe is fitted on more than `most` of them.
    """
    generator = torch.Generator().manual_seed(seed)
    fitted, scored = stratified_parts(labels, 2, generator)
    if len(fitted) >= LEAST_A_CLASS * len(torch.unique(labels)):
        fits = [(fitted, scored)]
    else:
        folds = [fold for fold in stratified_parts(labels, FOLDS, generator) if bool(torch.isin(fold, scored).any())]
        fits = [(places_without(fold, len(labels)), fold[torch.isin(fold, scored)]) for fold in folds]
    offered = min(len(places) for places, _ in fits)
    capped = [(at_most(places, labels, most, generator), predicted) for places, predicted in fits]
    return Halves(scored, capped, offered)


def at_most(places: Tensor, labels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return at most so many of some places, sorted, every class in the share that it has among them all `[def]`.

    Each class is shuffled and evenly spaced from 0 to 1, and the examples that come first are taken; the first of each
    class come before all others, so that none is lost while there is room.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> labels[at_most(torch.arange(6), labels, 3, torch.Generator().manual_seed(0))]
    tensor([0, 0, 1])
    """
    if len(places) <= most:
        return places
    shuffled = places[torch.randperm(len(places), generator=generator)]
    _, place, size = torch.unique(labels[shuffled], return_inverse=True, return_counts=True)
    by_class = place.argsort(stable=True)
    rank = torch.empty_like(place)
    rank[by_class] = torch.arange(len(place)) - (size.cumsum(0) - size)[place[by_class]]
    position = torch.where(rank == 0, -1.0, (rank + 0.5) / size[place])
    return shuffled[position.argsort(stable=True)[:most]].sort().values


def fewest_fitted(halves: Halves) -> int:
    """Return how many held-out examples the held-out-fit probe was fitted on, by folds the fewest."""
    return min(len(fitted) for fitted, _ in halves.fits)


def scored_rungs(right: Float, seed: int, resamples: int) -> tuple[Float, Float]:
    """Return accuracies and gaps `[r t 5]` of `right` [r t 3 n], and intervals `[r t 5 2]`: the farther end of two."""
    value, drawn = bootstrap(np.concatenate([right, right[:, :, 1:] - right[:, :, :-1]], 2), seed, resamples)
    score = np.array([[score_intervals(moment) for moment in run] for run in right])
    return value, np.stack([np.minimum(drawn[..., 0], score[..., 0]), np.maximum(drawn[..., 1], score[..., 1])], -1)


def score_intervals(right: Float) -> list[tuple[float, float]]:
    """Return the score intervals of three rungs and their two gaps, from `right` [3 n]; NaN where a rung has none."""
    if np.isnan(right).any():
        return [(np.nan, np.nan)] * 5
    hit = right > 0.5
    rungs = [wilson_interval(int(rung.sum()), len(rung)) for rung in hit]
    return rungs + [
        paired_difference_interval(int((second & ~first).sum()), int((first & ~second).sum()), len(first))
        for first, second in pairwise(hit)
    ]


def bootstrap(values: Float, seed: int, resamples: int) -> tuple[Float, Float]:
    """Return the means over the last axis `[...]` and their 95 % intervals `[... 2]`, all from the same resamples."""
    n = values.shape[-1]
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    means = values @ (draws.T / n)
    return values.mean(-1), np.moveaxis(np.quantile(means, [0.025, 0.975], axis=-1), 0, -1)


def chosen_moments(trajectory: Trajectory, steps: Sequence[int] | None) -> list[Snapshot]:
    """Return the snapshots that hold features and readout, or those at `steps`, refusing steps that have none."""
    moments = featured(trajectory.snapshots)
    if not moments:
        raise InputError(
            f"no snapshot of {trajectory.source.path} holds {', '.join(FEATURED)}, which the ladder compares; record "
            "with a readout and with features, or replay the checkpoints"
        )
    recorded = [snapshot.step for snapshot in moments]
    absent = [] if steps is None else [step for step in steps if step not in recorded]
    if absent:
        closest = min(recorded, key=lambda step: abs(step - absent[0]))
        raise InputError(f"no features are recorded at step {absent[0]}; the closest step that has them is {closest}")
    return moments if steps is None else [snapshot for snapshot in moments if snapshot.step in set(steps)]


def answers_of(trajectory: Trajectory) -> Answers:
    """Return the labels of both splits and which held-out examples can be compared, refusing what allows no ladder."""
    train, recorded = labels_of(trajectory, "train"), labels_of(trajectory, "heldout")
    places = torch.isin(recorded, train).nonzero().flatten()
    unseen = len(recorded) - len(places)
    aside = f" after {unseen} of classes that no kept training example shows are left out" if unseen else ""
    if len(places) < 2 * LEAST_SCORED:
        raise InputError(
            f"the ladder splits the held-out examples into two halves of at least {LEAST_SCORED}, got {len(places)} "
            f"examples in all{aside}; record more"
        )
    for name, labels in (("training", train), ("held-out", recorded[places])):
        if len(torch.unique(labels)) < 2:
            raise InputError(
                f"the {name} examples are all of one class{aside}, so there is nothing to read; record others"
            )
    return Answers(train, recorded[places], places, len(recorded), trajectory.batches["train"].population)


def notes_of(moments: Sequence[Snapshot], answers: Answers, halves: Halves) -> tuple[str, ...]:
    """Say what was left out of a ladder, or makes it weaker than it looks."""
    notes = []
    if unseen := answers.recorded - len(answers.places):
        notes.append(
            f"{unseen} of {answers.recorded} held-out examples are of classes that no kept training example shows: left out"
        )
    if answers.population > len(answers.train):
        notes.append(
            f"the train-fit probe is fitted on {len(answers.train):,} kept of {answers.population:,} training examples: "
            "fitted on all it may read more"
        )
    classes = len(torch.unique(answers.heldout))
    if len(halves.fits) > 1:
        notes.append(
            f"{len(answers.heldout)} held-out examples of {classes} classes are few: the held-out-fit probe is fitted on "
            f"{fewest_fitted(halves)} of them at a time, by folds"
        )
    if fewest_fitted(halves) < halves.offered:
        notes.append(
            f"the held-out-fit probe is fitted on {fewest_fitted(halves):,} of {halves.offered:,} held-out examples, as many "
            "as training examples: on more it would read more of any features"
        )
    if constant := sum(bool(np.ptp(moment.tensors["features/train"], axis=1).max() == 0) for moment in moments):
        notes.append(
            f"the training features are the same for all examples at {constant} of {len(moments)} snapshots: there is "
            "nothing to read from them (dead units, or constant inputs)"
        )
    width = moments[0].tensors["features/train"].shape[-1]
    least = min(len(answers.train), fewest_fitted(halves))
    if width >= least:
        notes.append(
            f"features are {width} wide and a probe is fitted on {least} examples: it can fit any labels, so what it reads "
            "depends on its penalty"
        )
    return tuple(notes)


def check_preset(preset: str) -> None:
    """Refuse a preset that does not exist."""
    if preset not in PRESETS:
        raise InputError(f"unknown preset '{preset}'.{nearest(preset, list(PRESETS))}")


def check_lengths(step: int, train: Tensor, train_count: int, heldout: Tensor, heldout_count: int) -> None:
    """Refuse features that do not belong to the labels."""
    for name, features, count in (("train", train, train_count), ("heldout", heldout, heldout_count)):
        if features.ndim != 3 or features.shape[1] != count:
            raise InputError(
                f"features/{name} at step {step}: expected [r, {count}, d], one row a label, got "
                f"{list(features.shape)}; record features and labels of the same examples"
            )


def check_classes(step: int, classes: int, labels: Tensor) -> None:
    """Refuse a readout that does not classify the labels."""
    if classes < 2 or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(
            f"the readout at step {step} has {classes} classes, but the labels run from {int(labels.min())} to "
            f"{int(labels.max())}; the ladder needs a readout with a logit for each class, and at least two"
        )
