"""This file knows what a critical dimension costs, beside scipy's `nnls` a draw at a time, and how far the two differ.

Both solve the same 40 problems of 20 classes × 12 points × 256 features in turn in one process, so that a machine busy with
other things slows both; the ratio of processor times is the evidence. Run it with `python -m benchmarks` or
`python benchmarks/critical_dimension.py`; about half a minute on an idle core.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from twoclocks.measures.capacity import critical_dimension_draws, one_versus_rest
from twoclocks.measures.nonnegative import nonnegative_least_squares
from twoclocks.training.loop import torch_threads

CLASSES, POINTS, WIDTH, DRAWS, ROUNDS = 20, 12, 256, 40, 7


def main() -> None:
    """Print a table: a line for each kind of features, all on one thread."""
    print(
        f"\n{DRAWS} draws of {CLASSES} classes x {POINTS} points x {WIDTH} features, one thread, "
        f"median CPU ms of {ROUNDS}\n{'features':28}{'N_crit':>8}{'measure':>9}{'batched':>9}{'scipy':>9}{'ratio':>7}"
        f"{'largest difference of ‖t − Π t‖²':>34}"
    )
    with torch_threads(1):
        for name, features in kinds_of_features().items():
            print_kind(name, features)


def kinds_of_features() -> Mapping[str, Tensor]:
    """Return features from shapeless to collapsed, `[n d]` each."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(POINTS)
    centres = torch.randn(CLASSES, WIDTH, dtype=torch.float64, generator=generator)[labels]
    noise = torch.randn(len(labels), WIDTH, dtype=torch.float64, generator=generator)
    around = {f"class centres, noise {size:g}": centres + size * noise for size in (1.0, 0.3, 0.01)}
    return {"no classes": noise, "positive": (centres + noise).relu(), **around}


def print_kind(name: str, features: Tensor) -> None:
    """Print the measure as called, the batched solver and scipy on the same problems."""
    labels = torch.arange(CLASSES).repeat_interleave(POINTS)
    points, signs, targets = problems(features, labels)
    ways: dict[str, Callable[[], Tensor]] = {
        "measure": lambda: critical_dimension_draws(features, labels, draws=DRAWS, generator=seeded()),
        "batched": lambda: batched(points, signs, targets),
        "scipy": lambda: one_at_a_time(points, signs, targets),
    }
    taken = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, solve in ways.items():
            taken[way].append(timed(solve))
    measure, ours, theirs = (statistics.median(taken[way]) for way in ways)
    ratio = statistics.median(b / a for a, b in zip(taken["batched"], taken["scipy"], strict=True))
    apart = float((ways["batched"]() - ways["scipy"]()).abs().max())
    value = float(ways["measure"]().mean())
    print(f"{name:28}{value:8.1f}{measure:9.0f}{ours:9.0f}{theirs:9.0f}{ratio:7.1f}{apart:34.1e}")


def problems(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return points with their bias coordinate, signs and targets of one-versus-rest dichotomies."""
    size = features.square().sum(1).mean().sqrt()
    points = torch.cat([features, size.expand(len(features), 1)], 1)
    targets = torch.randn(DRAWS, points.shape[1], dtype=torch.float64, generator=seeded())
    return points, one_versus_rest(CLASSES, DRAWS, seeded())[:, labels], targets


def batched(points: Tensor, signs: Tensor, targets: Tensor) -> Tensor:
    """Return ‖t − Π t‖² of every draw by the batched solver."""
    weights = nonnegative_least_squares(points @ points.T, targets @ points.T, signs).weights
    return ((weights * signs) @ points - targets).square().sum(1)


def one_at_a_time(points: Tensor, signs: Tensor, targets: Tensor) -> Tensor:
    """Return ‖t − Π t‖² of every draw by scipy."""
    rows = zip(signs.numpy(), targets.numpy(), strict=True)
    return torch.from_numpy(np.array([nnls((points.numpy() * y[:, None]).T, t)[1] ** 2 for y, t in rows]))


def timed(solve: Callable[[], Tensor]) -> float:
    """Return the milliseconds of processor time that one call takes."""
    start = time.process_time()
    solve()
    return 1e3 * (time.process_time() - start)


def seeded() -> torch.Generator:
    """Return the generator of every draw."""
    return torch.Generator().manual_seed(0)


if __name__ == "__main__":
    main()
