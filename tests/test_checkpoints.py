"""Replay: a folder of checkpoints gives what a recorder would have written, in bounded memory, and runs no code in it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import twoclocks as tc
from twoclocks.cli import main
from twoclocks.errors import InputError
from twoclocks.sources import checkpoints as checkpoints_module
from twoclocks.sources.checkpoint_files import Entry, entries_of, fingerprint
from twoclocks.sources.checkpoint_steps import Said, times_of
from twoclocks.sources.checkpoints import carry_out, kept_steps, plan_replay
from twoclocks.sources.recorder import Recorder
from twoclocks.store import load, read_snapshot
from twoclocks.trajectory import SaveAt

REAL = Path(__file__).parent / "data" / "checkpoints"
MAKER = Path(__file__).parent / "data" / "make_checkpoints.py"
ONLY_LIVE = ("update_size.", "gradient_norm.", "loss_decrease.", "lr", "flow_time")
State = dict[str, Tensor]


class Net(nn.Module):
    """A small network with buffers and with layers that differ between training and evaluation."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.body(x))
        return logits


class Wrapped(nn.Module):
    """A network within another, as one wraps a model whose output is not plain logits."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.inner = Net()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits


class Tied(nn.Module):
    """A network whose readout has the weights of its embedding."""

    def __init__(self, tie: bool = True) -> None:
        nn.Module.__init__(self)
        self.embed, self.fc = nn.Embedding(5, 8), nn.Linear(8, 5, bias=False)
        if tie:
            self.fc.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.embed(x).mean(1))
        return logits


def pair(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return n examples of three classes, the class being the largest of the first three inputs."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def data() -> dict[str, Any]:
    """Return the examples of both splits."""
    return {"train": pair(40, 0), "heldout": pair(30, 1)}


def states(count: int, every: int = 10, model: Callable[[], nn.Module] = Net) -> dict[int, State]:
    """Return the states of a short training, by step."""
    torch.manual_seed(0)
    net, (x, y) = model(), data()["train"]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    found: dict[int, State] = {}
    for step in range((count - 1) * every + 1):
        if step % every == 0:
            found[step] = {name: value.clone() for name, value in net.state_dict().items()}
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return found


def losses_of(state: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the losses of a state in evaluation mode, by plain torch."""
    net = Net()
    net.load_state_dict(state)
    net.eval()
    with torch.no_grad():
        return {s: float(nn.functional.cross_entropy(net(x).double(), y)) for s, (x, y) in data().items()}


def check_losses(trajectory: tc.Trajectory, wanted: Mapping[int, State]) -> None:
    """Check both losses of every state against plain torch."""
    seen = 0
    for split in ("train", "heldout"):
        series = trajectory.scalars[f"{split}_loss"]
        assert series.step.tolist() == sorted(wanted)
        for step, value in zip(series.step.tolist(), series.value[0].tolist(), strict=True):
            assert value == pytest.approx(losses_of(wanted[step])[split], rel=1e-6)
            seen += 1
    assert seen == 2 * len(wanted) > 0


def saved(folder: Path, found: Mapping[int, State], name: str = "step_{step:06d}.pt") -> Path:
    """Save states as files of torch."""
    folder.mkdir(exist_ok=True)
    for step, state in found.items():
        torch.save(state, folder / name.format(step=step))
    return folder


def replayed(folder: Path, out: Path, **arguments: Any) -> tc.Trajectory:
    """Replay a folder of checkpoints of the small network."""
    given: dict[str, Any] = {"model": Net, "data": data}
    return tc.replay(folder, out=out, **(given | arguments))


def assumed(trajectory: tc.Trajectory) -> str:
    """Return what was assumed, as one text."""
    return "; ".join(trajectory.source.assumed)


def test_a_replay_is_what_a_recorder_writes_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, (x, y) = Net(), data()["train"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    folder, seen = saved(tmp_path / "checkpoints", {0: model.state_dict()}), {0}
    at = SaveAt(per_decade=5, snapshots_per_decade=5)
    with Recorder(
        tmp_path / "live", model, **data(), optimizer=optimizer, save_at=at, budget=1e9, strict=True
    ) as recorder:
        for step in range(1, 101):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            recorder.step(step)
            if at.evaluates(step):
                torch.save({"model": model.state_dict(), "epoch": step // 7}, folder / f"step_{step:06d}.pt")
                seen.add(step)
    replayed(folder, tmp_path / "replayed")
    live, ours = load(tmp_path / "live"), load(tmp_path / "replayed")
    for name, series in live.scalars.items():
        if not name.startswith(ONLY_LIVE):
            assert ours.scalars[name].step.tolist() == series.step.tolist() == sorted(seen)
            np.testing.assert_array_equal(ours.scalars[name].value, series.value)
    assert set(ours.scalars) == {name for name in live.scalars if not name.startswith(ONLY_LIVE)}
    assert len(ours.scalars) > 12
    assert len(seen) > 8
    check_same_snapshots(ours, live)
    for split in ("train", "heldout"):
        np.testing.assert_array_equal(ours.batches[split].labels, live.batches[split].labels)
    assert tc.diagnose(tmp_path / "replayed").label == tc.diagnose(tmp_path / "live").label


def check_same_snapshots(ours: tc.Trajectory, theirs: tc.Trajectory) -> None:
    """Check that all tensors of all snapshots are equal to the bit."""
    assert [s.step for s in ours.snapshots] == [s.step for s in theirs.snapshots]
    assert len(ours.snapshots) > 5
    for one, other in zip(ours.snapshots, theirs.snapshots, strict=True):
        assert set(one.tensors) == set(other.tensors)
        for name, tensor in one.tensors.items():
            assert tensor.dtype == other.tensors[name].dtype
            np.testing.assert_array_equal(tensor, other.tensors[name])


def under(entry: str) -> Callable[[Path, int, State], None]:
    """Return a way to save a state under an entry of a dict."""
    return lambda folder, step, state: torch.save({entry: state, "step": step}, folder / f"w{step}.pth")


def renamed(prefix: str) -> Callable[[Path, int, State], None]:
    """Return a way to save a state with a prefix before every name."""
    return lambda folder, step, state: torch.save(
        {"state_dict": {f"{prefix}{name}": value for name, value in state.items()}}, folder / f"e=1-step={step}.ckpt"
    )


def in_folder(file: str) -> Callable[[Path, int, State], None]:
    """Return a way to save a state in a folder of its own, beside what a trainer leaves there."""

    def save(folder: Path, step: int, state: State) -> None:
        place = folder / f"checkpoint-{step}"
        place.mkdir()
        (save_file if file.endswith("safetensors") else torch.save)(state, place / file)  # type: ignore[operator]
        torch.save({"state": 1}, place / "optimizer.pt")
        (place / "training_args.bin").write_bytes(pickle.dumps(argparse.Namespace(lr=1)))

    return save


def in_shards(suffix: str, nested: bool) -> Callable[[Path, int, State], None]:
    """Return a way to save a state in two shards with an index."""

    def save(folder: Path, step: int, state: State) -> None:
        place, stem = (folder / f"iter_{step}", "model") if nested else (folder, f"model_{step}")
        place.mkdir(exist_ok=True)
        names = list(state)
        where = {name: f"{stem}-0000{1 + (i % 2)}-of-00002{suffix}" for i, name in enumerate(names)}
        for shard in set(where.values()):
            held = {name: state[name] for name in names if where[name] == shard}
            (save_file if suffix == ".safetensors" else torch.save)(held, place / shard)  # type: ignore[operator]
        (place / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))

    return save


def in_the_middle(folder: Path, step: int, state: State) -> None:
    """Save the state of a network of which a part was compiled, within Lightning."""
    names = {f"model.{n}".replace("body.", "body._orig_mod.") for n in state}
    assert len(names) == len(state)
    inner = {f"model.{name.replace('body.', 'body._orig_mod.')}": value for name, value in state.items()}
    torch.save({"state_dict": inner, "global_step": step, "epoch": 0}, folder / f"epoch=0-v{step % 3}-{step}.ckpt")


KINDS: dict[str, tuple[Callable[[Path, int, State], None], str]] = {
    "torch": (lambda folder, step, state: torch.save(state, folder / f"ckpt-{step}.pt"), "number that varies"),
    "legacy": (
        lambda folder, step, state: torch.save(
            state, folder / f"ckpt-{step}.bin", _use_new_zipfile_serialization=False
        ),
        "number that varies",
    ),
    "safetensors": (lambda folder, step, state: save_file(state, folder / f"step{step}.safetensors"), ""),
    "safetensors that say their step": (
        lambda folder, step, state: save_file(
            state, folder / f"{'abc'[step // 10]}.safetensors", {"format": "pt", "global_step": str(step)}
        ),
        "",
    ),
    **{
        entry: (under(entry), f"read from '{entry}'")
        for entry in ("state_dict", "model", "model_state_dict", "module", "net")
    },
    **{
        prefix: (renamed(prefix), f"the prefix '{prefix}' of the weights' names is stripped")
        for prefix in ("module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.")
    },
    "compiled part": (in_the_middle, "the prefix 'model._orig_mod.' of the weights' names is stripped"),
    "hugging face": (in_folder("model.safetensors"), ""),
    "hugging face, old": (in_folder("pytorch_model.bin"), ""),
    "one file in a folder": (in_folder("mp_rank_00_model_states.pt"), ""),
    "shards": (in_shards(".safetensors", True), ""),
    "shards of torch": (in_shards(".bin", True), ""),
    "shards side by side": (in_shards(".safetensors", False), "number that varies"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_gives_the_losses_of_plain_torch(kind: str, tmp_path: Path) -> None:
    save, says = KINDS[kind]
    (tmp_path / "checkpoints").mkdir()
    found = states(3)
    for step, state in found.items():
        save(tmp_path / "checkpoints", step, state)
    trajectory = replayed(tmp_path / "checkpoints", tmp_path / "run")
    check_losses(trajectory, found)
    assert says in assumed(trajectory)
    if not says:
        assert "prefix" not in assumed(trajectory)
    assert trajectory.source.time == "step"


def test_prefixes_stay_where_the_model_has_them(tmp_path: Path) -> None:
    class WithModel(nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.model = Net()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.model(x)
            return logits

    found = states(2, model=WithModel)
    trajectory = replayed(saved(tmp_path / "c", found), tmp_path / "run", model=WithModel)
    assert assumed(trajectory) == ""
    assert trajectory.settings["readout"] == "model.fc"
    check_losses(trajectory, {s: {n.removeprefix("model."): v for n, v in w.items()} for s, w in found.items()})


def test_weights_of_a_part_are_put_into_that_part(tmp_path: Path) -> None:
    found = states(2)
    trajectory = replayed(saved(tmp_path / "c", found), tmp_path / "run", model=Wrapped)
    check_losses(trajectory, found)
    assert "the weights are those of the model's part 'inner'" in assumed(trajectory)


def test_a_compiled_model_is_evaluated_uncompiled(tmp_path: Path) -> None:
    found = states(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, as it imports its compiler
        compiled = torch.compile(Net())
    trajectory = replayed(saved(tmp_path / "c", found), tmp_path / "run", model=lambda: compiled)
    check_losses(trajectory, found)


def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> tuple[int, str, str]:
    """Run the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["twoclocks", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("package", ["lightning", "huggingface", "shards"])
def test_folders_of_the_real_packages_give_the_losses_they_had(
    package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--model", f"{MAKER}:Net", "--data", f"{MAKER}:data", "--out", tmp_path / "run", "--json"]
    code, out, err = cli(capsys, monkeypatch, "replay", REAL / package, *given)
    expected = {int(s): v for s, v in json.loads((REAL / package / "expected.json").read_text()).items()}
    assert code == 0
    assert sorted(json.loads(out)["checkpoints"].values()) == sorted(expected)
    assert f"{len(expected)} checkpoint" in err
    trajectory, seen = load(tmp_path / "run"), 0
    for split in ("train_loss", "heldout_loss"):
        series = trajectory.scalars[split]
        for step, value in zip(series.step.tolist(), series.value[0].tolist(), strict=True):
            assert value == pytest.approx(expected[step][split], rel=1e-6)
            seen += 1
    assert seen == 2 * len(expected)


def test_what_hugging_face_logged_is_kept_under_its_own_names(tmp_path: Path) -> None:
    given = {"model": f"{MAKER}:Net", "data": f"{MAKER}:data"}
    from twoclocks.sources.given_code import function_of

    functions = {name: function_of(f"--{name}", text) for name, text in given.items()}
    trajectory = tc.replay(REAL / "huggingface", out=tmp_path / "run", **functions)  # type: ignore[arg-type]
    history = json.loads((REAL / "huggingface" / "checkpoint-15" / "trainer_state.json").read_text())["log_history"]
    for name, theirs in (("logged.loss", "loss"), ("logged.eval_accuracy", "eval_accuracy"), ("lr", "learning_rate")):
        wanted = {row["step"]: row[theirs] for row in history if theirs in row}
        series = trajectory.scalars[name]
        assert dict(zip(series.step.tolist(), series.value[0].tolist(), strict=True)) == wanted
        assert len(wanted) >= 3
    assert trajectory.scalars["train_loss"].step.tolist() == [5, 10, 15]
    assert not [name for name in trajectory.scalars if "runtime" in name or "flos" in name]
    assert "model.safetensors: left out (beside the folders)" in assumed(trajectory)
    before = (tmp_path / "run" / "events.jsonl").read_bytes()
    tc.replay(REAL / "huggingface", out=tmp_path / "run", **functions)  # type: ignore[arg-type]
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == before


NAMES: list[tuple[dict[str, Said], dict[str, int], str]] = [
    ({"step_000100.pt": Said(), "step_000020.pt": Said()}, {"step_000020.pt": 20, "step_000100.pt": 100}, "step"),
    ({"ckpt-100": Said(), "ckpt-20": Said()}, {"ckpt-20": 20, "ckpt-100": 100}, "step"),
    ({"epoch=3-step=400.ckpt": Said(), "epoch=3-step=500.ckpt": Said()},
     {"epoch=3-step=400.ckpt": 400, "epoch=3-step=500.ckpt": 500}, "step"),
    ({"model_1e3.pt": Said(), "model_2e3.pt": Said()}, {"model_1e3.pt": 1000, "model_2e3.pt": 2000}, "step"),
    ({"model_1k.pt": Said(), "model_20k.pt": Said()}, {"model_1k.pt": 1000, "model_20k.pt": 20000}, "step"),
    ({"resnet18_c10_5.pt": Said(), "resnet18_c10_7.pt": Said()}, {"resnet18_c10_5.pt": 5, "resnet18_c10_7.pt": 7}, "step"),
    ({"100steps.pt": Said(), "200steps.pt": Said()}, {"100steps.pt": 100, "200steps.pt": 200}, "step"),
    ({"epoch=1-val_loss=2.ckpt": Said(), "epoch=2-val_loss=1.ckpt": Said()},
     {"epoch=1-val_loss=2.ckpt": 1, "epoch=2-val_loss=1.ckpt": 2}, "epoch"),
    ({"ep1.pt": Said(390, 1), "ep2.pt": Said(780, 2)}, {"ep1.pt": 390, "ep2.pt": 780}, "step"),
    ({"a.pt": Said(5), "b.pt": Said(7)}, {"a.pt": 5, "b.pt": 7}, "step"),
    ({"m_1.pt": Said(390), "m_2.pt": Said(390)}, {"m_1.pt": 1, "m_2.pt": 2}, "step"),
    ({"init.pt": Said(), "step_10.pt": Said()}, {"init.pt": 0, "step_10.pt": 10}, "step"),
    ({"epoch_1_500.pt": Said(), "epoch_1_1000.pt": Said()}, {"epoch_1_500.pt": 500, "epoch_1_1000.pt": 1000}, "step"),
    ({"only_7.pt": Said()}, {"only_7.pt": 7}, "step"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "wanted", "unit"), NAMES, ids=[next(iter(said)) for said, _, _ in NAMES])
def test_steps_are_read_from_names_and_contents(said: dict[str, Said], wanted: dict[str, int], unit: str) -> None:
    for order in (list(said), list(said)[::-1]):
        times = times_of({name: said[name] for name in order}, {})
        assert (dict(times.at), times.unit) == (wanted, unit)
        assert list(times.at) == sorted(wanted, key=lambda name: wanted[name])


REFUSED_NAMES: list[tuple[dict[str, Said], str]] = [
    (
        {"last.ckpt": Said(400), "epoch=3-step=400.ckpt": Said(400)},
        "last.ckpt, epoch=3-step=400.ckpt are all of step 400",
    ),
    ({"best.pt": Said(), "step_10.pt": Said()}, "no step can be read from best.pt"),
    ({"a_1_5.pt": Said(), "a_2_7.pt": Said()}, "no step can be read from a_1_5.pt, a_2_7.pt"),
    ({"init.pt": Said(), "step_0.pt": Said()}, "init.pt, step_0.pt are all of step 0"),
    ({f"x{chr(97 + i)}.pt": Said() for i in range(7)}, "xa.pt, xb.pt, xc.pt, xd.pt, xe.pt and 2 more"),
]


@pytest.mark.parametrize(("said", "says"), REFUSED_NAMES, ids=[next(iter(said)) for said, _ in REFUSED_NAMES])
def test_steps_that_cannot_be_told_are_refused_with_the_names(said: dict[str, Said], says: str) -> None:
    with pytest.raises(InputError, match="--steps") as refused:
        times_of(said, {})
    assert says in str(refused.value)


def test_epochs_are_said_to_be_epochs(tmp_path: Path) -> None:
    trajectory = replayed(saved(tmp_path / "c", states(3), "model_epoch{step}.pt"), tmp_path / "run")
    assert trajectory.source.time == "epoch"
    assert "epochs" in assumed(trajectory)
    assert tc.diagnose(tmp_path / "run").source.time == "epoch"


def test_steps_are_given_by_name_or_pattern(tmp_path: Path) -> None:
    found = states(3)
    folder = saved(tmp_path / "c", found)
    torch.save(found[20], folder / "best_9.pt")
    by_pattern = replayed(folder, tmp_path / "a", steps="step_{step}.pt")
    check_losses(by_pattern, found)
    assert "best_9.pt: left out" in assumed(by_pattern)
    by_name = replayed(folder, tmp_path / "b", steps={"best_9.pt": 25})
    assert by_name.scalars["train_loss"].step.tolist() == [0, 10, 20, 25]


def test_files_of_the_optimiser_are_left_out_and_said(tmp_path: Path) -> None:
    found = states(2)
    folder = saved(tmp_path / "c", found, "ckpt_{step}.pth.tar")
    for name in ("optimizer_10.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "scaler.pt"):
        torch.save({"state": torch.zeros(2)}, folder / name)
    (folder / "README.md").write_text("words")
    (folder / "logs").mkdir()
    trajectory = replayed(folder, folder / "run")
    check_losses(trajectory, found)
    assert "optimizer_10.pt, rng_state_0.pth, scaler.pt, scheduler.pt, training_args.bin: left out" in assumed(
        trajectory
    )
    check_losses(replayed(folder, folder / "run"), found)  # the run folder within is no checkpoint


def test_a_state_that_is_not_a_number_is_recorded_as_such(tmp_path: Path) -> None:
    found = states(3)
    found[20] = {
        name: value * float("nan") if value.is_floating_point() else value for name, value in found[20].items()
    }
    folder = saved(tmp_path / "c", found)
    trajectory = replayed(folder, tmp_path / "run")
    assert np.isnan(trajectory.scalars["train_loss"].value[0]).tolist() == [False, False, True]
    (folder / "step_000000.pt").unlink()
    (folder / "step_000010.pt").unlink()
    replayed(folder, tmp_path / "run")  # the checkpoint that is compared now is the one of NaN
    assert tc.diagnose(tmp_path / "run").label == "diverged"


def test_a_link_to_another_checkpoint_is_left_out(tmp_path: Path) -> None:
    found = states(2)
    folder = saved(tmp_path / "c", found)
    (folder / "latest.pt").symlink_to("step_000010.pt")
    trajectory = replayed(folder, tmp_path / "run")
    check_losses(trajectory, found)
    assert "latest.pt: left out" in assumed(trajectory)


CHILD = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[5])
from twoclocks.store import RunWriter
import twoclocks as tc
from test_checkpoints import Net, data

folder, out, moment, at = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
append, write_snapshot = RunWriter.append, RunWriter.write_snapshot

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def append_or_die(writer, record):
    kind = record["record"]
    if moment == "slow" and kind == "scalars":
        time.sleep(0.1)
    if moment == kind and record["step"] >= at:
        os.write(writer.journal.fileno(), b'{"record":"' + kind.encode())
        die()
    append(writer, record)

def write_or_die(writer, step, tensors, *rest):
    if moment == "snapshot" and step >= at:
        (writer.folder / "snapshots" / f".step-{step:09d}.safetensors.1.tmp").write_bytes(b"half")
        die()
    write_snapshot(writer, step, tensors, *rest)

RunWriter.append, RunWriter.write_snapshot = append_or_die, write_or_die
tc.replay(folder, model=Net, data=data, out=out)
"""


def started(folder: Path, out: Path, moment: str, at: int = 0) -> subprocess.Popen[bytes]:
    """Start a replay in a process of its own that kills itself at a moment."""
    given = [str(folder), str(out), moment, str(at), str(Path(__file__).parent)]
    return subprocess.Popen([sys.executable, "-c", CHILD, *given], stderr=subprocess.PIPE)


def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the checkpoints that are evaluated from now on."""
    seen: list[int] = []
    original = checkpoints_module.record

    def counted(writer: Any, plan: Any, checkpoint: Any) -> None:
        seen.append(checkpoint.step)
        original(writer, plan, checkpoint)

    monkeypatch.setattr(checkpoints_module, "record", counted)
    return seen


def check_same_run(one: Path, other: Path) -> None:
    """Check that two run folders hold the same scalars and snapshots, to the byte of the files."""
    ours, theirs = load(one), load(other)
    assert set(ours.scalars) == set(theirs.scalars)
    for name, series in theirs.scalars.items():
        np.testing.assert_array_equal(ours.scalars[name].value, series.value)
        np.testing.assert_array_equal(ours.scalars[name].step, series.step)
    files = sorted(path.name for path in (other / "snapshots").iterdir())
    assert sorted(path.name for path in (one / "snapshots").iterdir()) == files
    assert len(files) > 2
    for name in files:
        assert (one / "snapshots" / name).read_bytes() == (other / "snapshots" / name).read_bytes()


@pytest.mark.parametrize("moment", ["snapshot", "scalars", "checkpoint"])
def test_a_killed_replay_goes_on_and_ends_the_same(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "c", states(5))
    child = started(folder, tmp_path / "run", moment, 20)
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    seen = evaluations(monkeypatch)
    replayed(folder, tmp_path / "run")
    assert seen == [20, 30, 40]
    replayed(folder, tmp_path / "whole")
    check_same_run(tmp_path / "run", tmp_path / "whole")


SLOW = """
import time
from test_checkpoints import Net, data

class Slow(Net):
    def forward(self, x):
        time.sleep(0.05)
        return Net.forward(self, x)
"""


def test_an_interrupted_replay_says_so_and_goes_on(tmp_path: Path) -> None:
    folder, out = saved(tmp_path / "c", states(6)), tmp_path / "run"
    (tmp_path / "slow.py").write_text(SLOW)
    given = ["--model", f"{tmp_path}/slow.py:Slow", "--data", f"{tmp_path}/slow.py:data", "--out", str(out)]
    command = [sys.executable, "-m", "twoclocks", "replay", str(folder), *given]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, preexec_fn=heed_interruptions
    )
    wait_for(out / "events.jsonl", 1000)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert (
        err.decode() == "twoclocks: interrupted; what was recorded is kept, and the same command goes on from there\n"
    )
    done = (out / "events.jsonl").read_text().count('{"record":"checkpoint"')
    assert 0 < done < 6
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert again.stdout.startswith(f"6 checkpoints ({done} done already), step 0 to 50;")
    assert (out / "events.jsonl").read_text().count('{"record":"checkpoint"') == 6
    check_losses(load(out), states(6))


def heed_interruptions() -> None:
    """Let a child be interrupted also where these tests are not: a shell's background jobs ignore it, and pass that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(journal: Path, size: int) -> None:
    """Wait until a journal has grown."""
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size >= size):
        assert time.monotonic() < deadline, f"{journal} did not grow to {size} bytes"
        time.sleep(0.01)


def test_a_finished_replay_is_only_read_and_new_checkpoints_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = states(5)
    folder = saved(tmp_path / "c", {step: found[step] for step in (0, 10, 20)})
    replayed(folder, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    seen = evaluations(monkeypatch)
    replayed(folder, tmp_path / "run")
    assert seen == []
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    saved(folder, {step: found[step] for step in (30, 40)})
    (folder / "step_000010.pt").unlink()
    trajectory = replayed(folder, tmp_path / "run")
    assert seen == [30, 40]
    check_losses(trajectory, found)
    assert [event.what for event in trajectory.events] == [
        "replayed earlier and no longer among the checkpoints: step_000010.pt"
    ]


def with_other_activation() -> nn.Module:
    """Return the network with another function in it and the same names."""
    net = Net()
    net.body[2] = nn.Tanh()
    return net


def test_a_changed_folder_model_or_data_is_noticed(tmp_path: Path) -> None:
    found = states(3)
    folder, out = saved(tmp_path / "c", found), tmp_path / "run"
    replayed(folder, out)
    (x, y), heldout = data()["train"], data()["heldout"]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"model": with_other_activation}, "the model function now makes another output of step_000000.pt"),
        ({"data": {"train": (x + 1, y), "heldout": heldout}}, "other train inputs"),
        ({"data": {"train": (x, (y + 1) % 3), "heldout": heldout}}, "other train examples"),
        ({"data": {"train": (x, y), "heldout": (heldout[0][:20], heldout[1][:20])}}, "other heldout inputs"),
        ({"keep": 2}, "keep: nothing there, 2 here"),
        ({"save_at": SaveAt(weights=False)}, "save_at.weights"),
        ({"steps": {"step_000020.pt": 21}}, "step_000020.pt has changed since .* its step \\(20 then, 21 now\\)"),
    ]
    before = (out / "events.jsonl").read_bytes()
    for arguments, says in changes:
        with pytest.raises(InputError, match=says):
            replayed(folder, out, **arguments)
    assert len(changes) == 7
    torch.save({name: value + 1 for name, value in found[10].items()}, folder / "step_000010.pt")
    with pytest.raises(InputError, match=r"step_000010\.pt has changed since .* its content"):
        replayed(folder, out)
    assert (out / "events.jsonl").read_bytes() == before


MEASURED = """
import resource, sys
import torch
from torch import nn
import twoclocks as tc

def build():
    return nn.Sequential(nn.Linear(6, 700), nn.ReLU(), nn.Linear(700, 700), nn.ReLU(), nn.Linear(700, 3))

def data():
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1)
    return (x[:40], y[:40]), (x[40:], y[40:])

at = {}
def progress(done, total):
    at[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

torch.set_num_threads(1)
tc.replay(sys.argv[1], model=build, data=data, out=sys.argv[2], keep=3, progress=progress)
print(at[20], at[max(at)])
"""


@pytest.mark.parametrize("kind", ["torch", "legacy", "safetensors"])
def test_four_hundred_checkpoints_take_the_memory_of_one(kind: str, tmp_path: Path) -> None:
    """Each file is a link to one of 2 MB, so that 800 MB are read and 4 MB lie on the disk."""
    folder, count = tmp_path / "c", 400
    folder.mkdir()
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Linear(6, 700), nn.ReLU(), nn.Linear(700, 700), nn.ReLU(), nn.Linear(700, 3)) for _ in "ab"
    ]
    suffix = "safetensors" if kind == "safetensors" else "pt"
    for i, net in enumerate(nets):
        if kind == "safetensors":
            save_file(net.state_dict(), tmp_path / f"{i}.{suffix}")
        else:
            torch.save(net.state_dict(), tmp_path / f"{i}.{suffix}", _use_new_zipfile_serialization=kind == "torch")
    for step in range(count):
        os.link(tmp_path / f"{step % 2}.{suffix}", folder / f"step_{step}.{suffix}")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder), str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    early, late = (int(kilobytes) / 1000 for kilobytes in done.stdout.split())
    assert late - early < 60, f"peak memory grew from {early} to {late} MB"
    trajectory = load(tmp_path / "run")
    assert len(trajectory.scalars["train_loss"].step) == count
    assert [snapshot.step for snapshot in trajectory.snapshots] == [0, 200, 399]


def test_one_state_is_alive_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    alive: list[Any] = []
    most = 0
    read = checkpoints_module.read_contents

    def counted(entry: Entry) -> Any:
        nonlocal most
        contents = read(entry)
        alive.append(weakref.ref(contents))
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return contents

    monkeypatch.setattr(checkpoints_module, "read_contents", counted)
    replayed(saved(tmp_path / "c", states(6)), tmp_path / "run")
    assert most == 1
    assert len(alive) == 13


def test_of_many_checkpoints_few_snapshots_are_kept_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = states(9)
    folder = saved(tmp_path / "c", found)
    few = replayed(folder, tmp_path / "few", keep=3)
    assert [snapshot.step for snapshot in few.snapshots] == [0, 40, 80]
    assert "tensors are kept of 3 of 9 checkpoints" in assumed(few)
    check_losses(few, found)
    none = replayed(folder, tmp_path / "none", keep=0)
    assert none.snapshots == ()
    plan = plan_replay(folder, model=Net, data=data, out=tmp_path / "bounded")
    assert f"{9 * plan.snapshot_bytes / 1000:.0f} kB in all" in plan.words
    size = (tmp_path / "few" / "snapshots" / "step-000000040.safetensors").stat().st_size
    assert plan.snapshot_bytes == pytest.approx(size, abs=2000)  # the header comes on top
    monkeypatch.setattr(checkpoints_module, "DISK_BOUND", 4 * plan.snapshot_bytes)
    bounded = plan_replay(folder, model=Net, data=data, out=tmp_path / "bounded")
    assert (len(bounded.kept), min(bounded.kept), max(bounded.kept)) == (4, 0, 80)
    assert not (tmp_path / "bounded").exists()
    assert kept_steps([0, 5, 6], None, 10**12) == {0, 6}
    assert kept_steps([0, 5, 6], 1, 1) == {0}


def test_what_the_disk_cannot_hold_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints_module.shutil, "disk_usage", lambda _: argparse.Namespace(free=1000))
    with pytest.raises(InputError, match=r"the snapshots need .* and .* has 1 kB free; keep fewer with --keep N"):
        replayed(saved(tmp_path / "c", states(3)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_weights_features_and_readout_are_kept(tmp_path: Path) -> None:
    trajectory = replayed(
        saved(tmp_path / "c", states(2)), tmp_path / "run", save_at=SaveAt(weights=False, examples=10)
    )
    assert set(trajectory.snapshots[0].tensors) == {
        "features/train",
        "features/heldout",
        "readout/weight",
        "readout/bias",
    }
    assert trajectory.snapshots[0].tensors["features/train"].shape == (1, 10, 16)


class Planted:
    """Something that runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


def plant(kind: str, folder: Path, mark: Path) -> None:
    """Write a checkpoint with code in it."""
    state = states(1)[0]
    if kind == "zip":
        torch.save({"state_dict": state, "extra": Planted(mark)}, folder / "step_5.pt")
    elif kind == "legacy":
        torch.save(
            {"state_dict": state, "e": Planted(mark)}, folder / "step_5.pt", _use_new_zipfile_serialization=False
        )
    elif kind == "plain pickle":
        (folder / "step_5.bin").write_bytes(pickle.dumps({"fc.weight": Planted(mark)}))
    elif kind == "old plain pickle":
        (folder / "step_5.bin").write_bytes(pickle.dumps({"fc.weight": Planted(mark)}, protocol=2))
    elif kind == "hugging face":
        (folder / "checkpoint-5").mkdir()
        torch.save({"fc.weight": Planted(mark)}, folder / "checkpoint-5" / "pytorch_model.bin")
    else:
        torch.save(Planted(mark), folder / "step_5.ckpt")


PLANTED = ("zip", "legacy", "plain pickle", "old plain pickle", "hugging face", "alone")


@pytest.mark.parametrize("kind", PLANTED)
def test_code_in_a_checkpoint_is_refused_and_never_runs(kind: str, tmp_path: Path) -> None:
    folder, mark = saved(tmp_path / "c", states(2)), tmp_path / "mark"
    plant(kind, folder, mark)
    with pytest.raises(InputError, match=r"1 of 3 checkpoints cannot be read: (step_5|checkpoint-5).*run"):
        replayed(folder, tmp_path / "run")
    trajectory = replayed(folder, tmp_path / "run", skip_broken=True)
    assert trajectory.scalars["train_loss"].step.tolist() == [0, 10]
    assert not mark.exists()


def test_what_the_user_trusts_by_name_is_read(tmp_path: Path) -> None:
    found = states(2)
    (tmp_path / "c").mkdir()
    for step, state in found.items():
        torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, tmp_path / "c" / f"step_{step}.pt")
    with pytest.raises(InputError, match=r"step_0.pt, step_10.pt: each holds a pickled argparse.Namespace"):
        replayed(tmp_path / "c", tmp_path / "run")
    with torch.serialization.safe_globals([argparse.Namespace]):
        check_losses(replayed(tmp_path / "c", tmp_path / "run"), found)


def test_the_planted_code_would_have_run(tmp_path: Path) -> None:
    plant("zip", tmp_path, tmp_path / "mark")
    with contextlib.suppress(Exception):
        torch.load(tmp_path / "step_5.pt", weights_only=False)
    assert (tmp_path / "mark").exists()


def damaged(folder: Path) -> list[str]:
    """Damage a folder of six checkpoints in five ways, and return the names of those that can no longer be read."""
    (folder / "step_000000.pt").write_bytes(b"")
    whole = (folder / "step_000010.pt").read_bytes()
    (folder / "step_000010.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "step_000020.pt").write_bytes(b"\0" * len(whole))
    torch.save(states(1)[0], folder / "step_000030.pt", _use_new_zipfile_serialization=False)
    legacy = (folder / "step_000030.pt").read_bytes()
    (folder / "step_000030.pt").write_bytes(legacy[: len(legacy) // 2])
    save_file(states(1)[0], folder / "step_000035.safetensors")
    tensors = (folder / "step_000035.safetensors").read_bytes()
    (folder / "step_000035.safetensors").write_bytes(tensors[: len(tensors) // 2])
    return [f"step_0000{step}.pt" for step in ("00", "10", "20", "30")] + ["step_000035.safetensors"]


def test_damaged_checkpoints_are_all_named_or_left_out_and_said(tmp_path: Path) -> None:
    found = states(6)
    folder = saved(tmp_path / "c", found)
    names = damaged(folder)
    with pytest.raises(InputError, match="5 of 7 checkpoints cannot be read") as refused:
        replayed(folder, tmp_path / "run")
    assert all(name in str(refused.value) for name in names)
    assert not (tmp_path / "run").exists()
    trajectory = replayed(folder, tmp_path / "run", skip_broken=True)
    check_losses(trajectory, {step: found[step] for step in (40, 50)})
    assert [event.what.split(" was left out: it ")[0] for event in trajectory.events] == names
    assert "step_000000.pt was left out: it is empty" in [event.what for event in trajectory.events]


def test_every_cut_and_flip_of_a_checkpoint_ends_in_a_sentence_or_a_replay(tmp_path: Path) -> None:
    """Bytes are cut off and changed at random in files of each kind: never another error, never a hang."""
    folder, state, generator = saved(tmp_path / "c", {}), states(1)[0], random.Random(0)
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "plain.safetensors")
    (folder / "step_1.pt").write_bytes((tmp_path / "zip.pt").read_bytes())
    refused = tried = 0
    for source in ("zip.pt", "legacy.pt", "plain.safetensors"):
        whole = (tmp_path / source).read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            if generator.random() < 0.4:
                content = content[: generator.randrange(len(content))]
            for _ in range(generator.choice((0, 1, 5)) if content else 0):
                content[generator.randrange(min(len(content), 1500))] = generator.randrange(256)
            path = folder / f"step_2{Path(source).suffix}"
            path.write_bytes(content)
            try:
                plan_replay(folder, model=Net, data=data, out=tmp_path / "run")
            except InputError:
                refused += 1
            path.unlink()
            tried += 1
    assert tried == 180
    assert refused > 60


def test_a_checkpoint_of_a_cuda_device_is_loaded_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = states(2)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        saved(tmp_path / "c", found)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "c" / "step_000000.pt", weights_only=True)
    check_losses(replayed(tmp_path / "c", tmp_path / "run"), found)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_checkpoints_in_half_precision_are_evaluated_in_float32(kind: torch.dtype, tmp_path: Path) -> None:
    found = {
        step: {n: v.to(kind) if v.is_floating_point() else v for n, v in state.items()}
        for step, state in states(2).items()
    }
    folder, name = saved(tmp_path / "c", found), str(kind).removeprefix("torch.")
    trajectory = replayed(folder, tmp_path / "run")
    longer = {step: {n: v.float() if v.is_floating_point() else v for n, v in s.items()} for step, s in found.items()}
    check_losses(trajectory, longer)
    assert f"checkpoints in {name} are evaluated in float32" in assumed(trajectory)
    in_half = {split: (x.to(kind), y) for split, (x, y) in data().items()}
    built = replayed(folder, tmp_path / "built", model=lambda: Net().to(kind), data=in_half)
    assert f"the model is built in {name} and evaluated in float32" in assumed(built)
    assert "inputs in half precision are taken as float32" in assumed(built)
    assert built.snapshots[0].tensors["weights/fc.weight"].dtype == np.float32


def test_float64_is_kept_where_the_model_has_it_and_its_loss_is_said(tmp_path: Path) -> None:
    found = {s: {n: v.double() if v.is_floating_point() else v for n, v in w.items()} for s, w in states(2).items()}
    folder = saved(tmp_path / "c", found)
    rounded = replayed(folder, tmp_path / "a")
    assert "checkpoints in float64 are rounded to float32" in assumed(rounded)
    longer = {split: (x.double(), y) for split, (x, y) in data().items()}
    kept = replayed(folder, tmp_path / "b", model=lambda: Net().double(), data=longer)
    assert assumed(kept) == ""
    np.testing.assert_array_equal(kept.snapshots[1].tensors["weights/fc.weight"][0], found[10]["fc.weight"].numpy())


def tied_data() -> Any:
    """Return sequences of five symbols, the class being the first."""
    x = torch.randint(0, 5, (60, 3), generator=torch.Generator().manual_seed(0))
    return (x[:40], x[:40, 0]), (x[40:], x[40:, 0])


def test_tied_weights_need_one_name_and_one_value(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = Tied().state_dict()
    (tmp_path / "both").mkdir()
    (tmp_path / "one").mkdir()
    torch.save(state, tmp_path / "both" / "step_1.pt")
    save_file({"embed.weight": state["embed.weight"]}, tmp_path / "one" / "step_1.safetensors")
    runs = [
        tc.replay(tmp_path / kind, model=Tied, data=tied_data, out=tmp_path / f"run-{kind}") for kind in ("both", "one")
    ]
    assert runs[0].scalars["train_loss"].value == runs[1].scalars["train_loss"].value
    torch.save(Tied(tie=False).state_dict(), tmp_path / "both" / "step_1.pt")
    with pytest.raises(InputError, match=r"holds embed\.weight and fc\.weight with different values"):
        tc.replay(tmp_path / "both", model=Tied, data=tied_data, out=tmp_path / "run-untied")
    with pytest.raises(InputError, match=r"2 missing \(embed.weight, fc.weight\), 1 unexpected \(w\)"):
        torch.save({"w": state["embed.weight"]}, tmp_path / "both" / "step_1.pt")
        tc.replay(tmp_path / "both", model=Tied, data=tied_data, out=tmp_path / "run-none")


def test_a_wrong_architecture_is_told_by_names_counts_and_shapes(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", states(2))

    def wider() -> nn.Module:
        net = Net()
        net.fc = nn.Linear(17, 3)
        return net

    with pytest.raises(InputError) as refused:
        replayed(folder, tmp_path / "run", model=wider)
    assert str(refused.value) == (
        "step_000000.pt does not fit the model Net: 1 of another shape (fc.weight is [3, 16] there and [3, 17] in the "
        "model); give the function that builds the model of which these checkpoints were saved"
    )
    deep = lambda: nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)), nn.Linear(6, 3))  # noqa: E731
    with pytest.raises(InputError) as refused:
        replayed(folder, tmp_path / "run", model=deep)
    said = str(refused.value)
    assert "10 missing (0.weight, 0.bias, 1.weight, 1.bias, 2.weight, …)" in said
    assert "9 unexpected (body.0.weight, body.0.bias, body.1.weight, body.1.bias, body.1.running_mean, …)" in said
    assert "\n" not in said


def test_two_states_are_told_apart_by_their_fingerprint(tmp_path: Path) -> None:
    big = torch.zeros(1_000_000)
    torch.save({"w": big}, tmp_path / "a.pt")
    torch.save({"w": big + 1e-3}, tmp_path / "b.pt")
    (tmp_path / "c.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    a, b, c = (fingerprint(Entry(name, tmp_path / name)) for name in ("a.pt", "b.pt", "c.pt"))
    assert a == c != b


def test_names_come_in_natural_order(tmp_path: Path) -> None:
    saved(tmp_path, {step: {} for step in (9, 10, 100)}, "ckpt-{step}.pt")
    assert [entry.name for entry in entries_of(tmp_path)[0]] == ["ckpt-9.pt", "ckpt-10.pt", "ckpt-100.pt"]


USER = """
import torch
from torch import nn
from test_checkpoints import Net, data

def build():
    return Net()

def lone():
    return data()["train"][0]

def wrong_keys():
    return {"train": data()["train"], "test": data()["heldout"]}

def fails():
    return {}["weights"]

def leaves():
    raise SystemExit("bye")

def not_a_model():
    return 5

def on_meta():
    with torch.device("meta"):
        return Net()

class Breaks(Net):
    def forward(self, x):
        return x @ torch.zeros(7, 7)

number = 5
"""

BAD: list[tuple[str, dict[str, str], str]] = [
    ("nowhere", {}, "nowhere does not exist"),
    ("user.py", {}, "user.py is a file; give the folder that holds the checkpoints"),
    ("empty", {}, "empty holds no checkpoints; expected *.pt"),
    ("run", {}, "run is a run folder already"),
    ("distributed", {}, "torch.distributed.checkpoint, whose index cannot be read without running code; convert it"),
    ("nested", {}, "torch.distributed.checkpoint"),
    ("shard", {}, "is a shard without its index"),
    ("halfsharded", {}, "lacks its shard model-00002-of-00002.safetensors"),
    ("outside", {}, "has an index model.safetensors.index.json that names no files beside it"),
    ("script", {}, "step_1.pt is a TorchScript archive"),
    ("tensor", {}, "step_1.pt holds a Tensor, not a state dict"),
    ("numbers", {}, "step_1.pt holds no weights by name or under state_dict"),
    ("text", {}, "step_1.pt was not written by torch.save, or is damaged"),
    ("object", {}, "step_1.pt holds a pickled argparse.Namespace, and reading that could run code"),
    ("good", {"--model": "user.py"}, "--model takes FILE.py:function"),
    ("good", {"--model": "gone.py:build"}, "--model: there is no file gone.py"),
    ("good", {"--model": "user.py:biuld"}, "user.py has no function 'biuld'. Did you mean 'build'?"),
    ("good", {"--model": "user.py:number"}, "number in user.py is a int; expected a function"),
    ("good", {"--model": "user.py:fails"}, "the model function failed: KeyError: 'weights' (user.py, line 16)"),
    ("good", {"--model": "user.py:leaves"}, "the model function failed: SystemExit: bye (user.py, line 19)"),
    ("good", {"--model": "user.py:not_a_model"}, "the model function must return a torch.nn.Module, got int"),
    ("good", {"--model": "user.py:on_meta"}, "meta device"),
    ("good", {"--model": "user.py:Breaks"}, "RuntimeError: mat1 and mat2"),
    ("good", {"--model": "user.py:Breaks"}, "user.py, line 30)"),
    ("good", {"--model": "syntax.py:build"}, "syntax.py cannot be imported: SyntaxError"),
    ("good", {"--model": "syntax.py:build"}, "syntax.py, line 2)"),
    ("good", {"--model": "lacking.py:build"}, "ModuleNotFoundError: No module named 'no_such_module' (lacking.py, line 1)"),
    ("good", {"--data": "user.py:fails"}, "the data function failed: KeyError: 'weights'"),
    ("good", {"--data": "user.py:lone"}, "the data must be"),
    ("good", {"--data": "user.py:wrong_keys"}, "got the keys 'train', 'test'"),
    ("good", {"--readout": "fcc"}, "the model has no layer 'fcc'. Did you mean 'fc'?"),
    ("good", {"--steps": "step_1.pt"}, "--steps takes NAME=STEP or a pattern"),
    ("good", {"--steps": "other.pt=4"}, "--steps: there is no checkpoint 'other.pt'"),
    ("good", {"--steps": "model_{step}.pt"}, "no checkpoint fits the pattern 'model_{step}.pt'; there are step_1.pt"),
    ("good", {"--keep": "-1"}, "keep"),
    ("good", {"--out": "full"}, "full is not empty and not a run folder"),
    ("good", {"--out": "user.py"}, "in the way"),
    ("good", {"--out": "run"}, "run holds another run"),
    ("same", {}, "step_01.pt, step_1.pt are all of step 1"),
    ("unnamed", {}, "no step can be read from best.pt"),
]  # fmt: skip


def bad_folders(place: Path) -> None:
    """Make everything that the bad commands name."""
    found = states(3, every=1)
    for name in ("empty", "distributed", "nested/step_1", "shard", "halfsharded", "outside", "script", "tensor", "numbers",
                 "text", "object", "full", "good", "same", "unnamed"):  # fmt: skip
        (place / name).mkdir(parents=True)
    (place / "user.py").write_text(USER)
    (place / "syntax.py").write_text("import torch\ndef build(:\n")
    (place / "lacking.py").write_text("import no_such_module\n")
    (place / "full" / "thesis.tex").write_text("precious")
    for folder in ("distributed", "nested/step_1"):
        (place / folder / ".metadata").write_bytes(b"")
        (place / folder / "__0_0.distcp").write_bytes(b"")
    save_file(found[1], place / "shard" / "model-00001-of-00002.safetensors")
    save_file({"fc.bias": found[1]["fc.bias"]}, place / "halfsharded" / "model-00001-of-00002.safetensors")
    where = {"fc.bias": "model-00001-of-00002.safetensors", "fc.weight": "model-00002-of-00002.safetensors"}
    (place / "halfsharded" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    away = json.dumps({"weight_map": {"fc.bias": "../shard/model-00001-of-00002.safetensors"}})
    (place / "outside" / "model.safetensors.index.json").write_text(away)
    (place / "text" / "step_1.pt").write_text("no checkpoint at all")
    torch.save(torch.zeros(3), place / "tensor" / "step_1.pt")
    torch.save({"step": 1, "lr": 0.1}, place / "numbers" / "step_1.pt")
    torch.save({"state_dict": found[1], "args": argparse.Namespace(lr=1)}, place / "object" / "step_1.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about TorchScript
        torch.jit.save(torch.jit.script(nn.Linear(6, 3)), place / "script" / "step_1.pt")
    for name in ("step_1.pt", "step_01.pt"):
        torch.save(found[1], place / "same" / name)
    torch.save(found[1], place / "unnamed" / "best.pt")
    saved(place / "good", {1: found[1], 2: found[2]}, "step_{step}.pt")
    Recorder(place / "run", Net(), **data()).close()


@pytest.fixture(scope="module")
def bad_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("bad")
    bad_folders(place)
    yield place


@pytest.mark.parametrize(("folder", "changed", "says"), BAD, ids=[f"{f} {' '.join(c.values())}" for f, c, _ in BAD])
def test_bad_input_gets_one_sentence_and_code_two(
    folder: str,
    changed: dict[str, str],
    says: str,
    bad_place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(bad_place)
    given = {"--model": "user.py:build", "--data": "user.py:data", "--out": "out"} | changed
    before = sorted(bad_place.rglob("*"))
    code, _, err = cli(capsys, monkeypatch, "replay", folder, *(part for pair in given.items() for part in pair))
    assert code == 2
    assert says in err.replace(f"{bad_place}{os.sep}", "")
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1 or "--keep" in given
    left = {path for path in bad_place.rglob("*") if "__pycache__" not in path.parts} - set(before)
    assert left <= {bad_place / "full" / "writer.lock"}


def test_the_command_writes_a_folder_that_can_be_diagnosed(
    bad_place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(bad_place)
    given = ["--model", "user.py:build", "--data", "user.py:data", "--out", tmp_path / "run", "--keep", "1"]
    code, out, err = cli(capsys, monkeypatch, "replay", "good", *given, "--without-weights", "--readout", "fc")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("2 checkpoints, step 1 to 2; 1 snapshot of about")
    assert out.splitlines()[-1] == f"next: twoclocks diagnose {tmp_path / 'run'}"
    assert cli(capsys, monkeypatch, "diagnose", tmp_path / "run")[0] == 0
    snapshot = read_snapshot(next((tmp_path / "run" / "snapshots").iterdir()))
    assert not [name for name in snapshot.tensors if name.startswith("weights/")]


def test_python_takes_a_function_and_no_module(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model must be the function that builds the network, got Net; give lambda"):
        replayed(saved(tmp_path / "c", states(2)), tmp_path / "run", model=Net())
    with pytest.raises(InputError, match="keep must be a number of snapshots"):
        replayed(tmp_path / "c", tmp_path / "run", keep=-1)
    with pytest.raises(InputError, match="expected a whole number"):
        replayed(tmp_path / "c", tmp_path / "run", steps={"step_000000.pt": 0.5})


def test_a_plan_is_carried_out_with_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    plan = plan_replay(saved(tmp_path / "c", states(3)), model=Net, data=data, out=tmp_path / "run")
    carry_out(plan, tmp_path / "run", lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
