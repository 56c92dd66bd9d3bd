"""This file knows when a training is looked at, and what looking at it has cost and may cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter

from twoclocks.store import RunWriter
from twoclocks.trajectory import SaveAt, next_on_grid


@dataclass(frozen=True)
class Cost:
    """What recording has cost: wall-clock seconds of training and of recording, evaluations taken and skipped."""

    training_seconds: float
    recording_seconds: float
    evaluations: int
    skipped: int

    @property
    def share(self) -> float:
        """Return recording as a share of training."""
        return self.recording_seconds / self.training_seconds if self.training_seconds > 0 else math.inf


@dataclass
class Ledger:
    """What recording has cost so far, and whether one more evaluation is within the budget."""

    budget: float
    started: float = field(default_factory=perf_counter)
    entered: float = 0.0
    running_since: float | None = None
    evaluations: int = 0
    skipped: int = 0
    price: dict[bool, float] = field(default_factory=dict)
    skips: list[int] = field(default_factory=list)

    @property
    def spent(self) -> float:
        """Return the seconds of recording so far."""
        return self.entered + (0.0 if self.running_since is None else perf_counter() - self.running_since)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Enter the time that passes inside."""
        self.running_since = perf_counter()
        try:
            yield
        finally:
            self.entered, self.running_since = self.spent, None

    @property
    def cost(self) -> Cost:
        """Return the account so far."""
        spent = self.spent
        return Cost(perf_counter() - self.started - spent, spent, self.evaluations, self.skipped)

    def carry_over(self, cost: Mapping[str, float]) -> None:
        """Go on from what earlier starts of the same training cost."""
        self.entered += cost.get("recording_seconds", 0.0)
        self.started -= cost.get("recording_seconds", 0.0) + cost.get("training_seconds", 0.0)
        self.evaluations += int(cost.get("evaluations", 0))
        self.skipped += int(cost.get("skipped", 0))

    def affords(self, keeps: bool) -> bool:
        """Return whether one more evaluation, its tensors kept or not, leaves the cost within the budget.

        It is expected to take as long as the last one of its kind, and the one at the end is paid for in advance.
        """
        dearest = max(self.price.values(), default=0.0)
        expected = self.price.get(keeps, dearest) + self.price.get(True, dearest)
        return self.spent + expected <= self.budget * self.cost.training_seconds

    def take(self, keeps: bool, seconds: float, settled: float) -> None:
        """Enter an evaluation that took so long, after waiting for what the training itself still computed."""
        self.entered -= settled
        self.evaluations += 1
        self.price[keeps] = seconds

    def skip(self, step: int) -> None:
        """Enter an evaluation that was due and was not taken."""
        self.skipped += 1
        self.skips.append(step)

    def write_skips(self, writer: RunWriter) -> None:
        """Write the evaluations skipped since the last one that was taken, as one event."""
        if self.skips:
            first, last = self.skips[0], self.skips[-1]
            writer.append_event(
                first,
                f"the schedule was stretched to keep recording under {100 * self.budget:g} % of the training time: "
                f"{len(self.skips)} due evaluations from step {first} to {last} were skipped "
                "(fewer examples, or a larger budget, keep more)",
            )
            self.skips.clear()

    def write_cost(self, writer: RunWriter) -> None:
        """Write the account so far."""
        writer.append({"record": "cost", **asdict(self.cost)})


@dataclass
class Schedule:
    """The steps from which the next evaluation, the next snapshot and the next evaluation beyond any budget are due."""

    save_at: SaveAt
    evaluation: float = 0.0
    snapshot: float = 0.0
    landmark: float = 0.0
    postponed: bool = False

    def move_past(self, step: int) -> None:
        """Look for the next evaluation after `step`."""
        at = self.save_at
        self.landmark = next_on_grid(step, 1, 0)
        self.evaluation = min(next_on_grid(step, at.per_decade, at.every), next_snapshot(step, at))

    def restart_at(self, step: int) -> None:
        """Begin anew at `step`, which may itself be due."""
        self.move_past(step - 1)
        self.snapshot = next_snapshot(step - 1, self.save_at)


@dataclass
class FlowTime:
    """The sum of the learning rates so far, the last of them, and what the sum was at the steps recorded."""

    lr: float
    step: int = 0
    value: float = 0.0
    recorded: dict[int, float] = field(default_factory=lambda: {0: 0.0})

    def advance(self, step: int, lr: float) -> None:
        """Go on to `step` with this learning rate."""
        self.value += lr * (step - self.step)
        self.step, self.lr = step, lr

    def restart_at(self, step: int) -> None:
        """Go back to the last recorded moment before `step`, and forget what comes after it."""
        self.recorded = {known: value for known, value in self.recorded.items() if known < step}
        self.step = max(self.recorded, default=0)
        self.value = self.recorded.get(self.step, 0.0)


def snapshots_until(step: int, save_at: SaveAt) -> int:
    """Return about how many snapshots are due from step 1 to `step`."""
    on_log_grid, at = 0, next_on_grid(0, save_at.snapshots_per_decade, 0)
    while at <= step:
        on_log_grid, at = on_log_grid + 1, next_on_grid(int(at), save_at.snapshots_per_decade, 0)
    return on_log_grid + (step // save_at.snapshot_every if save_at.snapshot_every else 0)


def next_snapshot(step: int, save_at: SaveAt) -> float:
    """Return the first step after `step` of which the tensors are kept."""
    return next_on_grid(step, save_at.snapshots_per_decade, save_at.snapshot_every)
