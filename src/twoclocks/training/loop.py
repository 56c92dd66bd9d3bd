"""This file knows how a recipe is trained and recorded: R runs in step, resumed from where a kill left them.

All runs advance to the same step, are observed there, and go on. Each run is computed by itself, so run i of an
ensemble is bit for bit run i alone; several runs are computed at once, one core each. One thread a run is the default
by measurement: two threads on one run are 1.2 to 1.7 times faster on two idle cores, and ten times slower where one of
the two is busy.
"""

from __future__ import annotations

import atexit
import operator
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twoclocks.errors import InputError
from twoclocks.measures.margins import cross_entropy_of, gaps_to_all
from twoclocks.sources.observation import (
    scalars_of_blocks,
    scalars_of_descent,
    scalars_of_gradient,
    scalars_of_logits,
    stack_runs,
    tensors_of_moment,
)
from twoclocks.store import JOURNAL, RunWriter, State, load, open_writer, read_journal, read_state
from twoclocks.training.optimizers import (
    AdamW,
    GradientDescent,
    GradientFlow,
    Moments,
    Update,
    coupled_decay,
    described,
    is_decoupled,
    per_block,
    rule_at,
    updated,
    zero_moments,
)
from twoclocks.training.polish import Objective, Polished, polished
from twoclocks.training.recipe import Problem, Recipe, Weights
from twoclocks.trajectory import Array, EvalBatch, Float, Trajectory

STATE_EVERY = 100  # a kill loses at most so many steps, or a thousandth of all where that is more
PROGRESS_EVERY = 10
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Run:
    """One run standing at a step: flat weights, moments, and what the training forward and backward gave there.

    Logits and gradient are those of the batch that its next update is computed from, where the problem has batches.
    `before` holds the weights one step earlier and `gradient_before` their gradient, where the run has moved since it
    was begun or resumed. A diverged run stands still, while `step` goes on with the others.
    """

    seed: int
    step: int
    weights: Tensor
    moments: Moments
    logits: Tensor
    gradient: Tensor
    before: Tensor | None = None
    gradient_before: Tensor | None = None
    diverged_at: int | None = None


@dataclass(frozen=True)
class Experiment:
    """A recipe set up: its problem, its update rule, its weights' shapes, and the examples whose features are kept.

    `factors[k]` is the sum of the first k learning rates over the constant one; None where they do not change.
    """

    recipe: Recipe
    seeds: tuple[int, ...]
    problem: Problem
    rule: Update
    shapes: Mapping[str, torch.Size]
    kept: Mapping[str, Tensor]
    factors: Float | None = None

    @property
    def steps(self) -> int:
        """Return the number of optimiser steps."""
        return int(self.recipe.settings["steps"])

    @property
    def decay(self) -> float | None:
        """Return the λ_w with which F = loss + (λ_w / 2) ‖θ‖² descends; None where no such F does."""
        return coupled_decay(self.rule)

    def factor(self, update: int) -> float:
        """Return the factor of every learning rate at the update of that number, counted from 1."""
        return 1.0 if self.problem.schedule is None else self.problem.schedule(update)

    def lr(self, step: int) -> float:
        """Return the learning rate of the update that led to a step, at step 0 that of the first."""
        return self.rule.lr * self.factor(max(step, 1))

    def flow_time(self, step: int) -> float:
        """Return the sum of the learning rates until a step."""
        return float((step if self.factors is None else self.factors[step]) * self.rule.lr)

    def batch(self, seed: int, step: int) -> Tensor | None:
        """Return the training examples `[b]` that a run's update from `step` on is computed from; None: all of them."""
        return None if self.problem.batches is None else self.problem.batches(seed, step)


@dataclass(frozen=True)
class Moment:
    """What is recorded of one run at one step; no tensors where only scalars are."""

    scalars: Mapping[str, float]
    tensors: Mapping[str, Array]


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock that went into training and into recording it, over all starts of the same training."""

    training_seconds: float = 0.0
    recording_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Return both costs together."""
        return Cost(self.training_seconds + other.training_seconds, self.recording_seconds + other.recording_seconds)


def train(
    recipe: Recipe,
    *,
    seeds: Sequence[int] = (0,),
    folder: str | Path | None = None,
    progress: Progress | None = None,
    threads: int = 1,
) -> Trajectory:
    """Train one run a seed and return everything recorded; one that was cut off is taken up, one that ended is read.

    Args:
        recipe: what to train, e.g. `tc.recipes.modular_addition(weight_decay=1.0)`.
        seeds: one for each run; a seed decides the initial weights. The split belongs to the recipe.
        folder: the run folder; without one, a temporary folder that lives as long as this process.
        progress: called with (step, steps) every few steps.
        threads: torch threads for one run. The same number gives the same bits.

    Raises:
        InputError: the seeds or threads are unusable, or the folder holds something else or cannot be written.

    >>> from twoclocks.recipes import modular_addition
    >>> run = train(modular_addition(p=5, width=4, hidden=8, steps=3))
    >>> run.scalars["train_loss"].step
    array([0, 1, 2, 3])
    """
    experiment = set_up(recipe, checked_seeds(seeds))
    folder = temporary_folder() if folder is None else Path(folder)
    with torch_threads(threads), open_writer(folder, manifest(experiment, threads)) as writer:
        advance(experiment, writer, progress or ignore, workers=max(1, (os.cpu_count() or 1) // threads))
    return load(folder)


def checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Return the seeds as a tuple, or refuse them."""
    try:
        numbers = tuple(operator.index(seed) for seed in seeds)
    except TypeError:
        numbers = ()
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise InputError(f"seeds must be different whole numbers from 0 on, at least one, got {list(seeds)}")
    return numbers


def set_up(recipe: Recipe, seeds: tuple[int, ...]) -> Experiment:
    """Build what a recipe describes."""
    settings, problem = recipe.settings, recipe.problem(recipe.settings)
    shapes = {name: weight.shape for name, weight in problem.initial(seeds[0]).items()}
    rules = problem.rules
    rule = rule_of(settings) if rules is None else per_block(rules, problem.blocks, shapes, float(settings["lr"]))
    kept = {split: sample(len(labels), recipe.save_at.examples) for split, labels in problem.labels.items()}
    return Experiment(recipe, seeds, problem, rule, shapes, kept, sums_of(problem.schedule, int(settings["steps"])))


def sums_of(schedule: Callable[[int], float] | None, steps: int) -> Float | None:
    """Return the sums `[steps + 1]` of the first 0, 1, … factors of the learning rate; None where they are all 1.

    >>> sums_of(lambda update: 1 / update, 2)
    array([0. , 1. , 1.5])
    """
    if schedule is None:
        return None
    factors = np.array([0.0, *(schedule(update) for update in range(1, steps + 1))])
    if not (np.isfinite(factors) & (factors >= 0)).all():
        raise InputError(f"a schedule must give finite factors from 0 on, got {factors.min():g} to {factors.max():g}")
    return np.asarray(factors.cumsum())


def rule_of(settings: Mapping[str, Any]) -> AdamW | GradientDescent | GradientFlow:
    """Return the update rule that settings name: AdamW where they name none."""
    lr, decay = settings["lr"], settings["weight_decay"]
    match settings.get("optimizer", "adamw"):
        case "sgd":
            return GradientDescent(lr, decay, settings.get("momentum", 0.0))
        case "flow":
            return GradientFlow(lr, decay)
    return AdamW(lr, settings["beta1"], settings["beta2"], decay)


def sample(population: int, size: int) -> Tensor:
    """Return at most `size` of the numbers below `population`, in order, always the same ones.

    >>> sample(3, 10)
    tensor([0, 1, 2])
    """
    chosen = torch.randperm(population, generator=torch.Generator().manual_seed(0))[:size]
    return chosen.sort().values


def manifest(experiment: Experiment, threads: int) -> dict[str, Any]:
    """Return what run.json says of an experiment."""
    recipe, labels = experiment.recipe, experiment.problem.labels
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "reference": recipe.source,
        "settings": dict(recipe.settings),
        **optimizer_entries(experiment),
        **({} if experiment.problem.end_to_end is None else {"map": "linear"}),
        "seeds": list(experiment.seeds),
        "save_at": asdict(recipe.save_at),
        "eval_sizes": {split: len(of_split) for split, of_split in labels.items()},
        "blocks": {block: list(names) for block, names in experiment.problem.blocks.items()},
        "expected": asdict(recipe.expected) if recipe.expected else None,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("twoclocks", "torch", "numpy")},
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "threads": threads},
    }


def optimizer_entries(experiment: Experiment) -> dict[str, Any]:
    """Return what run.json says of the optimiser: how the decay acts, and what the settings do not say."""
    rule, rules = experiment.rule, experiment.problem.rules
    entries: dict[str, Any] = {}
    if experiment.decay is not None or is_decoupled(rule):
        entries["decay"] = "decoupled" if experiment.decay is None else "coupled"
    elif isinstance(rule, GradientDescent):
        entries["optimizer"] = {"name": "SGD", "defaults": asdict(rule)}
    if rules is not None:
        entries["rules"] = {block: described(of) for block, of in rules.items()}
    return entries


def advance(experiment: Experiment, writer: RunWriter, progress: Progress, *, workers: int) -> None:
    """Train from the last state in the folder, or from the beginning, to the end."""
    state = read_state(writer.folder)
    if state is None:
        writer.write_batches(eval_batches(experiment))
    runs = begun(experiment) if state is None else resumed(experiment, state)
    cost = Cost() if state is None else Cost(*state.tensors["cost"].tolist())
    with ThreadPoolExecutor(min(workers, len(runs))) as pool:
        for stop in stops_after(-1 if state is None else state.step, experiment):
            runs, spent = gone_to(stop, runs, experiment, writer, pool)
            cost += spent
            if is_saved(stop, experiment):
                writer.append({"record": "cost", **asdict(cost)})
                cost += save_state(writer, runs, stop, cost)
            progress(stop, experiment.steps)
        if is_to_be_polished(experiment) and "polish" not in read_journal(writer.folder / JOURNAL).accounts:
            write_polish(writer, list(pool.map(lambda run: polished_run(run, experiment), runs)), experiment)


def is_to_be_polished(experiment: Experiment) -> bool:
    """Return whether the recipe asks for the stationary points, and there are any.

    Decay that is not coupled has no F; without decay a cross-entropy has no minimum.
    """
    asked = bool(experiment.recipe.settings.get("polish", False))
    if not asked or experiment.decay is None:
        return False
    return experiment.decay > 0 or experiment.problem.loss is not None


def polished_run(run: Run, experiment: Experiment) -> Polished | None:
    """Return the stationary point that a run was going to; a diverged one goes nowhere."""
    if run.diverged_at is not None or experiment.decay is None:
        return None
    return polished(objective_of(run, experiment, experiment.decay), run.weights.double().numpy())


def objective_of(run: Run, experiment: Experiment, decay: float) -> Objective:
    """Return F = loss + (λ_w / 2) ‖θ‖², as polishing sees it from where a run stands."""
    problem = experiment.problem

    def value(weights: Float) -> float:
        logits = problem.gradient(named(torch.from_numpy(weights), experiment), None)[0]
        return train_loss(logits, problem) + 0.5 * decay * float(weights @ weights)

    def gradient(weights: Float) -> Float:
        of_loss = gradient_at(torch.from_numpy(weights), None, experiment)[1].numpy()
        return np.asarray(of_loss + decay * weights)

    force = float(run.gradient.double().norm() + decay * run.weights.double().norm())
    return Objective(value, gradient, force)


def train_loss(logits: Tensor, problem: Problem) -> float:
    """Return the training loss of the training logits, in float64."""
    if problem.loss is not None:
        return float(problem.loss(logits.double()))
    return float(cross_entropy_of(gaps_to_all(logits, problem.labels["train"])).mean())


def write_polish(writer: RunWriter, points: Sequence[Polished | None], experiment: Experiment) -> None:
    """Write the stationary points that the runs were polished to, one entry a run; None for a diverged one."""
    names = [field.name for field in fields(Polished) if field.name != "weights"]
    record = {name: [point and getattr(point, name) for point in points] for name in names}
    end_to_end = experiment.problem.end_to_end
    if end_to_end is not None:
        record["singular_values"] = [
            point and torch.linalg.svdvals(end_to_end(named(torch.from_numpy(point.weights), experiment))).tolist()
            for point in points
        ]
    writer.append({"record": "polish", "step": experiment.steps, **record})


def stops_after(step: int, experiment: Experiment) -> Iterator[int]:
    """Give the steps after `step` at which all runs meet."""
    for stop in range(step + 1, experiment.steps + 1):
        if stop % PROGRESS_EVERY == 0 or is_evaluated(stop, experiment) or is_saved(stop, experiment):
            yield stop


def is_evaluated(step: int, experiment: Experiment) -> bool:
    """Return whether scalars are recorded at a step: as the recipe says, and at the end."""
    return step == experiment.steps or experiment.recipe.save_at.evaluates(step)


def is_kept(step: int, experiment: Experiment) -> bool:
    """Return whether tensors are recorded at a step: as the recipe says, and at the end."""
    return step == experiment.steps or experiment.recipe.save_at.keeps(step)


def is_saved(step: int, experiment: Experiment) -> bool:
    """Return whether the state to resume from is written at a step."""
    return step == experiment.steps or (step > 0 and step % max(STATE_EVERY, experiment.steps // 1000) == 0)


def gone_to(
    stop: int, runs: Sequence[Run], experiment: Experiment, writer: RunWriter, pool: ThreadPoolExecutor
) -> tuple[list[Run], Cost]:
    """Return all runs at `stop`, recorded there where the recipe says so, and what that took."""
    began = time.perf_counter()
    arrived = list(pool.map(lambda run: advanced(run, stop, experiment), runs))
    trained = time.perf_counter()
    for number, run in enumerate(arrived):
        if run.diverged_at == stop:
            writer.append_event(
                stop, f"run {number} (seed {run.seed}) diverged: its logits are not finite; it was stopped"
            )
    if is_evaluated(stop, experiment):
        write_moments(writer, stop, list(pool.map(lambda run: observed(run, experiment), arrived)), experiment)
    return arrived, Cost(trained - began, time.perf_counter() - trained)


def begun(experiment: Experiment) -> list[Run]:
    """Return every run at step 0."""
    return [begun_run(seed, experiment) for seed in experiment.seeds]


def begun_run(seed: int, experiment: Experiment) -> Run:
    """Return the run of one seed at step 0."""
    weights = flat(experiment.problem.initial(seed))
    return standing(seed, 0, weights, zero_moments(weights, experiment.rule), experiment)


def standing(seed: int, step: int, weights: Tensor, moments: Moments, experiment: Experiment) -> Run:
    """Return a run at a step, with the logits and the gradient of its weights."""
    logits, gradient = gradient_at(weights, experiment.batch(seed, step), experiment)
    return Run(seed, step, weights, moments, logits, gradient)


def gradient_at(weights: Tensor, rows: Tensor | None, experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Return the logits and the flat gradient of the training examples numbered `rows` (None: all)."""
    logits, gradient = experiment.problem.gradient(named(weights, experiment), rows)
    return logits, flat({name: gradient[name] for name in experiment.shapes})


def advanced(run: Run, stop: int, experiment: Experiment) -> Run:
    """Return the run at step `stop`; a diverged one stands still."""
    if run.diverged_at is not None:
        return replace(run, step=stop, before=None, gradient_before=None)

    while run.step < stop:
        run = moved(run, experiment)
    return run if bool(run.logits.sum().isfinite()) else replace(run, diverged_at=stop)


def moved(run: Run, experiment: Experiment) -> Run:
    """Return the run one update later."""
    update, rows = run.step + 1, experiment.batch(run.seed, run.step)
    rule = rule_at(experiment.rule, update, experiment.factor(update))
    weights, moments = updated(
        run.weights, run.gradient, run.moments, update, rule, lambda at: gradient_at(at, rows, experiment)[1]
    )
    logits, gradient = gradient_at(weights, experiment.batch(run.seed, update), experiment)
    return Run(run.seed, update, weights, moments, logits, gradient, before=run.weights, gradient_before=run.gradient)


def observed(run: Run, experiment: Experiment) -> Moment:
    """Return what is recorded of a run where it stands."""
    problem, weights = experiment.problem, named(run.weights, experiment)
    needs_train = problem.batches is not None or is_kept(run.step, experiment)
    seen = {split: problem.forward(weights, split) for split in problem.labels if split != "train" or needs_train}
    logits = {split: of_split for split, (_, of_split) in seen.items()}
    if problem.batches is None:
        logits["train"] = run.logits
    scalars = {
        **{k: v for split in logits for k, v in scalars_of_logits(split, logits[split], problem.labels[split]).items()},
        **scalars_of_motion(run, experiment),
        "lr": experiment.lr(run.step),
        "flow_time": experiment.flow_time(run.step),
    }
    if problem.loss is not None:
        scalars["train_loss"] = train_loss(logits["train"], problem)
    if experiment.decay is not None:
        scalars |= scalars_of_objective(run, scalars["train_loss"], experiment.decay, experiment)
    if not is_kept(run.step, experiment):
        return Moment(scalars, {})
    return Moment(scalars, kept_tensors(weights, {split: rows for split, (rows, _) in seen.items()}, experiment))


def scalars_of_motion(run: Run, experiment: Experiment) -> dict[str, float]:
    """Return the norms of each block and of its gradient, and of the one step before its update and loss decrease."""
    blocks, weights = experiment.problem.blocks, named(run.weights, experiment)
    before = None if run.before is None else named(run.before, experiment)
    scalars = scalars_of_blocks(weights, before, blocks) | scalars_of_gradient(named(run.gradient, experiment), blocks)
    if before is None or run.gradient_before is None:
        return scalars
    return scalars | scalars_of_descent(named(run.gradient_before, experiment), before, weights, blocks)


def scalars_of_objective(run: Run, loss: float, weight_decay: float, experiment: Experiment) -> dict[str, float]:
    """Return F = loss + (λ_w / 2) ‖θ‖² and, where the gradient is that of all examples, ‖∇F‖²."""
    weights, gradient = run.weights.double(), run.gradient.double()
    scalars = {"objective": loss + 0.5 * weight_decay * float(weights.square().sum())}
    if experiment.problem.batches is None:
        scalars["squared_gradient_norm"] = float((gradient + weight_decay * weights).square().sum())
    return scalars


def kept_tensors(weights: Weights, features: Weights, experiment: Experiment) -> dict[str, Array]:
    """Return what a snapshot keeps of a run with these weights and these features of each split."""
    save_at, (weight, bias) = experiment.recipe.save_at, experiment.problem.readout
    sampled = {split: rows[experiment.kept[split]] for split, rows in features.items()}
    return tensors_of_moment(
        sampled if save_at.features else {},
        (weights[weight], None if bias is None else weights[bias]),
        weights if save_at.weights else {},
    )


def write_moments(writer: RunWriter, step: int, moments: Sequence[Moment], experiment: Experiment) -> None:
    """Write one step of all runs; a scalar that a diverged run no longer has is NaN."""
    names = sorted({name for moment in moments for name in moment.scalars})
    writer.append_scalars(
        step, {name: [moment.scalars.get(name, float("nan")) for moment in moments] for name in names}
    )
    if is_kept(step, experiment):
        tensors = stack_runs([moment.tensors for moment in moments])
        writer.write_snapshot(step, tensors, flow_time=experiment.flow_time(step))


def eval_batches(experiment: Experiment) -> dict[str, EvalBatch]:
    """Return the labels of the examples whose features are kept."""
    labels = experiment.problem.labels
    return {
        split: EvalBatch(split, labels[split][rows].numpy(), population=len(labels[split]))
        for split, rows in experiment.kept.items()
    }


def save_state(writer: RunWriter, runs: Sequence[Run], step: int, cost: Cost) -> Cost:
    """Write what a resumed training needs, and return what that took."""
    began = time.perf_counter()
    tensors = {
        "weights": torch.stack([run.weights for run in runs]).numpy(),
        "first_moment": torch.stack([run.moments.first for run in runs]).numpy(),
        "second_moment": torch.stack([run.moments.second for run in runs]).numpy(),
        "diverged_at": np.array([-1 if run.diverged_at is None else run.diverged_at for run in runs]),
        "cost": np.array([cost.training_seconds, cost.recording_seconds]),
    }
    writer.write_state(step, tensors)
    return Cost(0.0, time.perf_counter() - began)


def resumed(experiment: Experiment, state: State) -> list[Run]:
    """Return every run as a state holds it."""
    names = ("weights", "first_moment", "second_moment")
    stored = zip(*(torch.from_numpy(state.tensors[name]) for name in names), strict=True)
    stopped = state.tensors["diverged_at"].tolist()
    return [
        resumed_run(seed, state.step, None if at < 0 else at, weights.clone(), Moments(first, second), experiment)
        for seed, at, (weights, first, second) in zip(experiment.seeds, stopped, stored, strict=True)
    ]


def resumed_run(
    seed: int, step: int, diverged_at: int | None, weights: Tensor, moments: Moments, experiment: Experiment
) -> Run:
    """Return one run as it stood at `step`; a diverged one with the batch that it stopped at."""
    run = standing(seed, step if diverged_at is None else diverged_at, weights, moments, experiment)
    return replace(run, step=step, diverged_at=diverged_at)


def flat(tensors: Weights) -> Tensor:
    """Return named tensors as one vector `[p]`.

    >>> flat({"a": torch.ones(1, 2), "b": torch.zeros(1)})
    tensor([1., 1., 0.])
    """
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def named(vector: Tensor, experiment: Experiment) -> dict[str, Tensor]:
    """Return views of a flat vector, by the names and in the shapes of the weights."""
    parts = torch.split(vector, [shape.numel() for shape in experiment.shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(experiment.shapes.items(), parts, strict=True)}


def ignore(step: int, steps: int) -> None:
    """Do nothing with the progress."""


def temporary_folder() -> Path:
    """Return a new folder that is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="twoclocks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Compute with so many torch threads inside, and as before afterwards."""
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
