"""This file knows what the structured steps of W1 and W2 gain over the plain PyTorch loop, and what recording costs.

W1 is the embedding MLP, W2 the one-layer transformer, both on modular addition. The two steps of a workload run in turn in
one process, so that a machine busy with other things slows both; the ratio is the evidence. Run all with
`python -m benchmarks` or `python benchmarks/structured_step.py`, about three minutes on two idle cores; W2 alone with
`python -m benchmarks W2`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from twoclocks.recipes.modular_addition import modular_addition
from twoclocks.recipes.modular_addition_transformer import modular_addition_transformer
from twoclocks.training.loop import advanced, begun_run, set_up, torch_threads, train
from twoclocks.training.models import EmbeddingMLP
from twoclocks.training.recipe import Recipe
from twoclocks.training.tasks import modular_addition_task
from twoclocks.training.transformer import PairTransformer

WARM_UP = 10
ROUNDS = {"W1": 60, "W2": 40}


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one step: on the clock, and of processor time over all threads."""

    wall: float
    cpu: float


def main() -> None:
    """Print the steps side by side for one and two threads, then the cost of recording a whole training of W1."""
    recipes = {"W1": modular_addition(), "W2": modular_addition_transformer()}
    chosen = sys.argv[1:] or list(recipes)
    for workload in chosen:
        recipe = recipes[workload]
        for threads in (1, 2):
            with torch_threads(threads):
                timings = compared(recipe, ROUNDS[workload])
            print_steps(workload, threads, timings, GIGAFLOPS[workload](recipe.settings))
    if "W1" in chosen:
        print_recording(recipes["W1"])


def compared(recipe: Recipe, rounds: int) -> dict[str, list[Timing]]:
    """Return the timings of both steps, taken in turn."""
    steps = {"plain": plain_step(recipe), "structured": structured_step(recipe)}
    timings: dict[str, list[Timing]] = {name: [] for name in steps}
    for number in range(WARM_UP + rounds):
        for name, step in steps.items():
            timing = timed(step)
            if number >= WARM_UP:
                timings[name].append(timing)
    return timings


def plain_step(recipe: Recipe) -> Callable[[], None]:
    """Return one step of the plain loop: the module, autograd, torch.optim.AdamW."""
    settings = recipe.settings
    split = torch.Generator().manual_seed(settings["data_seed"])
    pairs = modular_addition_task(
        settings["p"], settings["train_fraction"], shuffle_labels=False, generator=split
    ).train
    model = plain_model(settings)
    betas = (settings["beta1"], settings["beta2"])
    optimizer = torch.optim.AdamW(model.parameters(), settings["lr"], betas, weight_decay=settings["weight_decay"])

    def step() -> None:
        loss = F.cross_entropy(model(pairs.left, pairs.right), pairs.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def plain_model(settings: Mapping[str, int]) -> torch.nn.Module:
    """Return the network as a plain module: the transformer where the settings have heads, else the MLP."""
    if "heads" in settings:
        return PairTransformer(settings["p"], settings["width"], settings["heads"], settings["hidden"])
    return EmbeddingMLP(settings["p"], settings["width"], settings["hidden"])


def structured_step(recipe: Recipe) -> Callable[[], None]:
    """Return one step as the training loop takes it."""
    experiment = set_up(recipe, (0,))
    run = begun_run(0, experiment)

    def step() -> None:
        nonlocal run
        run = advanced(run, run.step + 1, experiment)

    return step


def timed(step: Callable[[], None]) -> Timing:
    """Return what one step takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return Timing(1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu))


def gigaflops_of_mlp(settings: Mapping[str, float]) -> dict[str, float]:
    """Return 10⁹ floating-point operations of the matrix products of each step: forward, and twice that backward."""
    pairs = int(settings["train_fraction"] * settings["p"] ** 2)
    readout = 6 * pairs * settings["hidden"] * settings["p"] / 1e9
    first = 6 * 2 * settings["width"] * settings["hidden"] / 1e9
    return {"plain": readout + pairs * first, "structured": readout + settings["p"] * first}


def gigaflops_of_transformer(settings: Mapping[str, float]) -> dict[str, float]:
    """Return the same of the transformer: three positions through all layers, against one past the tables."""
    p, width, hidden = settings["p"], settings["width"], settings["hidden"]
    of_pairs = 6 * int(settings["train_fraction"] * p**2) / 1e9
    plain = 3 * (4 * width**2 + 2 * width * hidden) + width * p
    return {"plain": of_pairs * plain, "structured": of_pairs * (width * (hidden + p) + hidden * p)}


GIGAFLOPS = {"W1": gigaflops_of_mlp, "W2": gigaflops_of_transformer}


def print_steps(
    workload: str, threads: int, timings: Mapping[str, list[Timing]], operations: Mapping[str, float]
) -> None:
    """Print one table: a line a step, then the ratio with its quartiles."""
    print(
        f"\n{workload} step, {threads} thread(s), median of {ROUNDS[workload]}\n"
        f"{'':12}{'wall ms':>9}{'CPU ms':>9}{'GFLOP':>8}{'GFLOP/s':>9}"
    )
    for name, taken in timings.items():
        wall, cpu = statistics.median(t.wall for t in taken), statistics.median(t.cpu for t in taken)
        print(f"{name:12}{wall:9.2f}{cpu:9.2f}{operations[name]:8.2f}{1e3 * operations[name] / wall:9.1f}")
    ratios = [p.cpu / s.cpu for p, s in zip(timings["plain"], timings["structured"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"structured is {middle:.2f}x faster in CPU time (quartiles {low:.2f} to {high:.2f})")


def print_recording(recipe: Recipe) -> None:
    """Print what recording at the recipe's schedule costs, as the journal tells it."""
    run = train(recipe)
    folder = Path(run.source.path)
    training, recording = (run.settings["cost"][f"{part}_seconds"] for part in ("training", "recording"))
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    evaluations, snapshots = len(run.scalars["train_loss"].step), len(run.snapshots)
    print(f"\nwhole training, 1 thread of {os.cpu_count()} cores, {recipe.settings['steps']} steps: {training:.1f} s")
    print(
        f"recording {evaluations} evaluations and {snapshots} snapshots ({megabytes:.0f} MB): {recording:.2f} s, ",
        end="",
    )
    print(f"{100 * recording / training:.1f} % of training")


if __name__ == "__main__":
    main()
