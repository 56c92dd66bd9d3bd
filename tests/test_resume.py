"""What holds for a training that is killed: the same call goes on from there and ends with the same bits."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from small_networks import BATCH, EVERYTHING, TRAIN, everything
from twoclocks.recipes import modular_addition
from twoclocks.store import load, read_snapshot, read_state
from twoclocks.training.loop import train
from twoclocks.training.modules import shuffled_batches
from twoclocks.training.recipe import Problem, Weights
from twoclocks.trajectory import Snapshot

RECIPE = modular_addition(p=23, width=16, hidden=32, lr=1e-2, steps=330)
SEEDS = (0, 1)
CHILD = """
import os, signal, sys, time
from twoclocks.store import RunWriter
from twoclocks.recipes import modular_addition
from twoclocks.training.loop import train

sys.path.insert(0, sys.argv[4])
from small_networks import EVERYTHING

folder, moment, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
append, write_state = RunWriter.append, RunWriter.write_state

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def progress(step, steps):
    if moment == "progress" and step >= at:
        die()
    if moment == "slow":
        time.sleep(0.02)

def append_or_die(writer, record):
    if moment == "torn" and record.get("step", 0) >= at:
        os.write(writer.journal.fileno(), b'{"record":"scalars","step":')
        die()
    append(writer, record)

def write_state_or_die(writer, step, tensors):
    if moment == "state" and step >= at:
        die()
    write_state(writer, step, tensors)

RunWriter.append, RunWriter.write_state = append_or_die, write_state_or_die
recipe = EVERYTHING if sys.argv[5] == "everything" else modular_addition(p=23, width=16, hidden=32, lr=1e-2, steps=330)
train(recipe, seeds=(0, 1), folder=folder, progress=progress)
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(RECIPE, seeds=SEEDS, folder=folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted_everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    train(EVERYTHING, seeds=SEEDS, folder=folder)
    return folder


def started(folder: Path, moment: str, at: int = 0, recipe: str = "modular-addition") -> subprocess.Popen[bytes]:
    given = [str(folder), moment, str(at), str(Path(__file__).parent), recipe]
    return subprocess.Popen([sys.executable, "-c", CHILD, *given])


def assert_same_end(folder: Path, uninterrupted: Path, *, snapshots: int = 10, tensors: int = 9) -> None:
    """The last record of every step, every snapshot, and the state but for its cost: equal to the last bit."""
    assert last_records(folder) == last_records(uninterrupted)
    names = sorted(path.name for path in (uninterrupted / "snapshots").iterdir())
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == names
    assert len(names) > snapshots
    for name in names:
        assert_same_snapshot(tensors, *(read_snapshot(run / "snapshots" / name) for run in (folder, uninterrupted)))
    mine, theirs = read_state(folder), read_state(uninterrupted)
    assert mine is not None and theirs is not None and mine.step == theirs.step == 330
    for name in ("weights", "first_moment", "second_moment", "diverged_at"):
        np.testing.assert_array_equal(mine.tensors[name], theirs.tensors[name])


def assert_same_snapshot(tensors: int, mine: Snapshot, theirs: Snapshot) -> None:
    assert (mine.step, mine.flow_time, set(mine.tensors)) == (theirs.step, theirs.flow_time, set(theirs.tensors))
    assert len(mine.tensors) == tensors
    for name, tensor in mine.tensors.items():
        assert tensor.dtype == theirs.tensors[name].dtype
        np.testing.assert_array_equal(tensor, theirs.tensors[name])


def last_records(folder: Path) -> dict[int, object]:
    records = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return {record["step"]: record["values"] for record in records if record["record"] == "scalars"}


@pytest.mark.parametrize(("moment", "at"), [("progress", 50), ("progress", 130), ("state", 200), ("torn", 260)])
def test_a_killed_training_ends_as_if_it_had_not_been(
    moment: str, at: int, tmp_path: Path, uninterrupted: Path
) -> None:
    assert started(tmp_path / "run", moment, at).wait(120) == -signal.SIGKILL
    held = read_state(tmp_path / "run")
    assert (held.step if held else 0) == {50: 0, 130: 100, 200: 100, 260: 200}[at]
    run = train(RECIPE, seeds=SEEDS, folder=tmp_path / "run")
    assert_same_end(tmp_path / "run", uninterrupted)
    assert run.last_step == 330


@pytest.mark.parametrize("at", [130, 210])
def test_batches_schedule_and_several_rules_are_taken_up_to_the_last_bit(
    at: int, tmp_path: Path, uninterrupted_everything: Path
) -> None:
    """At 130 the blocks have moments of every kind; after 170 one of them is frozen."""
    assert started(tmp_path / "run", "progress", at, "everything").wait(120) == -signal.SIGKILL
    held = read_state(tmp_path / "run")
    assert (held.step if held else 0) == 100 * (at // 100)
    train(EVERYTHING, seeds=SEEDS, folder=tmp_path / "run")
    assert_same_end(tmp_path / "run", uninterrupted_everything, snapshots=6, tensors=11)


def test_a_diverged_run_of_batches_is_taken_up_as_it_stood(tmp_path: Path) -> None:
    """It stands at the batch that it stopped with, not at that of the step at which it is taken up."""
    recipe = replace(EVERYTHING, settings={"lr": 1e-3, "steps": 250}, problem=poisoned)

    def interrupt(step: int, steps: int) -> None:
        if step == 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder=tmp_path / "cut", progress=interrupt)
    resumed, whole = train(recipe, folder=tmp_path / "cut"), train(recipe, folder=tmp_path / "whole")
    assert resumed.events == whole.events and len(whole.events) == 1
    assert last_records(tmp_path / "cut") == last_records(tmp_path / "whole")
    assert np.isfinite(whole.scalars["gradient_norm.readout"].value).all()


def poisoned(settings: Mapping[str, Any]) -> Problem:
    """Return the problem of three layers, whose logits of one batch alone are not finite."""
    problem = everything(settings)
    poison = shuffled_batches(TRAIN, BATCH)(0, 30)

    def gradient(weights: Weights, rows: Tensor | None) -> tuple[Tensor, Weights]:
        logits, found = problem.gradient(weights, rows)
        return (logits * math.inf if rows is not None and torch.equal(rows, poison) else logits), found

    return replace(problem, gradient=gradient)


def test_a_training_killed_from_outside_at_several_moments_ends_the_same(tmp_path: Path, uninterrupted: Path) -> None:
    folder, kills = tmp_path / "run", 0
    for size in (2_000, 40_000):
        child = started(folder, "slow")
        wait_for_journal(folder / "events.jsonl", size)
        child.kill()
        assert child.wait(60) == -signal.SIGKILL
        kills += 1
    assert kills == 2
    train(RECIPE, seeds=SEEDS, folder=folder)
    assert_same_end(folder, uninterrupted)


def wait_for_journal(journal: Path, size: int) -> None:
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size >= size):
        assert time.monotonic() < deadline, f"{journal} did not grow to {size} bytes"
        time.sleep(0.005)


def test_a_finished_training_is_only_read(tmp_path: Path) -> None:
    first = train(RECIPE, folder=tmp_path / "run")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    again = train(RECIPE, folder=tmp_path / "run", progress=lambda step, steps: pytest.fail("it trained again"))
    assert len(before) > 10
    for path, (written, content) in before.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (written, content)
    np.testing.assert_array_equal(first.scalars["train_loss"].value, again.scalars["train_loss"].value)
    assert again.settings["cost"] == first.settings["cost"]


def test_an_interrupted_training_keeps_what_it_cost(tmp_path: Path) -> None:
    def interrupt(step: int, steps: int) -> None:
        if step == 210:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, folder=tmp_path / "run", progress=interrupt)
    before = load(tmp_path / "run").settings["cost"]
    after = train(RECIPE, folder=tmp_path / "run").settings["cost"]
    assert after["training_seconds"] > before["training_seconds"] > 0
    assert after["recording_seconds"] > before["recording_seconds"] > 0


def test_a_diverged_run_stays_stopped_after_a_resume(tmp_path: Path) -> None:
    recipe = modular_addition(p=23, width=16, hidden=32, lr=10.0, steps=250)

    def interrupt(step: int, steps: int) -> None:
        if step == 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder=tmp_path / "cut", progress=interrupt)
    resumed, whole = train(recipe, folder=tmp_path / "cut"), train(recipe, folder=tmp_path / "whole")
    assert resumed.events == whole.events and len(whole.events) == 1
    assert last_records(tmp_path / "cut") == last_records(tmp_path / "whole")
