"""The recorder: the training never notices it, what it writes is what was, and its price is known and kept."""

from __future__ import annotations

import gc
import json
import logging
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from twoclocks.errors import InputError
from twoclocks.sources import recorder as recorder_module
from twoclocks.sources.evaluation import look, undisturbed
from twoclocks.sources.examples import choose_examples
from twoclocks.sources.recorder import Recorder
from twoclocks.sources.schedule import Ledger, next_on_grid
from twoclocks.store import load
from twoclocks.trajectory import SaveAt, on_grid

Pair = tuple[Tensor, Tensor]
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


class Net(nn.Module):
    """A small network with everything that an evaluation could disturb."""

    def __init__(self, seed: int = 0, bias: bool = True) -> None:
        nn.Module.__init__(self)
        generator = torch.get_rng_state()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.frozen = nn.BatchNorm1d(16).eval()
        self.fc = nn.Linear(16, 3, bias=bias)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(16))
        torch.set_rng_state(generator)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.frozen(self.body(x))
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        random_streams()
        return self.fc(hidden)


class Twisted(nn.Module):
    """A network whose output is made of its logits by a function."""

    def __init__(self, last: Callable[[Tensor], Any]) -> None:
        nn.Module.__init__(self)
        self.first, self.second, self.last = nn.Linear(6, 5), nn.Linear(5, 3), last

    def forward(self, x: Tensor) -> Any:
        return self.last(self.second(self.first(x).relu()))


def pair(n: int, seed: int) -> Pair:
    """Return n examples of three classes, the class being the largest of the first three inputs."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


TRAIN, HELDOUT = pair(40, 0), pair(30, 1)


def record(folder: Path, model: nn.Module, **arguments: Any) -> Recorder:
    """Return a recorder of our small data that skips nothing and raises its errors, unless told otherwise."""
    given: dict[str, Any] = {"train": TRAIN, "heldout": HELDOUT, "budget": math.inf, "strict": True}
    return Recorder(folder, model, **(given | arguments))


def updates(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Iterator[int]:
    """Train by full batches and yield the number of updates done."""
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(TRAIN[0]), TRAIN[1]).backward()
        optimizer.step()
        yield step


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    """Return plain gradient descent on a model."""
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_the_sentence_of_the_readme_records_a_training(tmp_path: Path) -> None:
    model = Net()
    (x, y), (xh, yh) = TRAIN, HELDOUT
    recorder = Recorder(tmp_path / "mine", model, readout="fc", train=(x, y), heldout=(xh, yh))
    for step in updates(model, sgd(model), 5):
        recorder.step(step)
    recorder.close()
    trajectory = load(tmp_path / "mine")
    assert trajectory.last_step == 5
    assert {0, 1, 5} <= set(trajectory.scalars["train_loss"].step.tolist())
    assert [snapshot.step for snapshot in trajectory.snapshots][0::99] == [0]
    assert trajectory.snapshots[-1].step == 5
    assert trajectory.batches["heldout"].labels.tolist() == yh.tolist()


def test_what_is_recorded_is_what_the_model_was(tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    kept: dict[int, dict[str, Tensor]] = {}
    with record(tmp_path / "run", model, optimizer=optimizer, save_at=SaveAt(per_decade=6)) as recorder:
        kept[0] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for step in updates(model, optimizer, 20):
            kept[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            recorder.step(step)
    trajectory, seen = load(tmp_path / "run"), 0
    for snapshot in trajectory.snapshots:
        model.load_state_dict(kept[snapshot.step])
        model.eval()
        with torch.no_grad():
            for split, (x, y) in (("train", TRAIN), ("heldout", HELDOUT)):
                features = model.frozen(model.body(x))
                np.testing.assert_allclose(snapshot.tensors[f"features/{split}"][0], features, rtol=1e-3, atol=1e-6)
                loss = nn.functional.cross_entropy(model.fc(features).double(), y)
                at = trajectory.scalars[f"{split}_loss"].step.tolist().index(snapshot.step)
                assert trajectory.scalars[f"{split}_loss"].value[0, at] == pytest.approx(float(loss), rel=1e-6)
                seen += 1
        np.testing.assert_array_equal(snapshot.tensors["readout/weight"][0], model.fc.weight.detach())
        np.testing.assert_array_equal(snapshot.tensors["readout/bias"][0], model.fc.bias.detach())
        for name, parameter in model.named_parameters():
            np.testing.assert_array_equal(snapshot.tensors[f"weights/{name}"][0], parameter.detach())
        assert snapshot.flow_time == pytest.approx(0.1 * snapshot.step)
    assert seen > 10
    for block in ("body", "fc.weight fc.bias", "frozen"):
        check_update_size(trajectory, kept, block)
    assert trajectory.settings["optimizer"]["name"] == "SGD"
    assert trajectory.settings["optimizer"]["defaults"]["weight_decay"] == 0.01
    assert trajectory.settings["session"]["weight_decay"] == [0.01]


def check_update_size(trajectory: Any, kept: dict[int, dict[str, Tensor]], names: str) -> None:
    """Check the update sizes of the block whose parameters begin with one of these names."""
    block = "readout" if names.startswith("fc") else names
    series = trajectory.scalars[f"update_size.{block}"]
    ours = [name for name, _ in Net().named_parameters() if name.startswith(tuple(names.split()))]
    assert len(series.step) > 5
    for step, value in zip(series.step.tolist(), series.value[0].tolist(), strict=True):
        before = torch.cat([kept[step - 1][name].flatten() for name in ours]).double()
        after = torch.cat([kept[step][name].flatten() for name in ours]).double()
        assert value == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-5)


def random_streams() -> list[Any]:
    """Draw one number from every global random number generator."""
    drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002 the global one is the subject
    return drawn + ([float(torch.rand((), device="cuda"))] if torch.cuda.is_initialized() else [])


def train_shuffled(folder: Path | None, device: str = "cpu") -> list[Any]:
    """Train with dropout, batch norm, shuffling and momentum, recorded or not, and return everything it ends in."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    model = Net().to(device)
    model.body[0].weight.requires_grad_(False)
    model.body[1].eval()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    data = torch.utils.data.TensorDataset(*TRAIN)
    loader = torch.utils.data.DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(3))
    hooks, losses, step = [], [], 0
    model.fc.register_forward_hook(lambda *_: hooks.append(model.training))
    recorder = None if folder is None else record(folder, model, optimizer=optimizer, save_at=SaveAt(every=1))
    model.train()
    model.frozen.eval()
    for _ in range(4):
        for x, y in loader:
            step += 1
            loss = nn.functional.cross_entropy(model(x.to(device) + random.gauss(0, 0.01)), y.to(device))
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if recorder is not None:
                recorder.step(step)
    gradients = [parameter.grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    needed = [parameter.requires_grad for parameter in model.parameters()]
    moments = [value for state in optimizer.state.values() for value in state.values()]
    streams = random_streams()
    assert [len(module._forward_hooks) for module in model.modules()].count(1) == 1
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert sum(hooks) == step
    if recorder is not None:
        recorder.close()
        assert recorder.cost.evaluations == step + 2
    return [*model.state_dict().values(), *losses, *gradients, *moments, modes, needed, streams]


def check_same_bits(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs) > 30
    for one, other in zip(ours, theirs, strict=True):
        same = torch.equal(one, other) if isinstance(one, Tensor) else one == other
        assert same, (one, other)


def test_a_recorded_training_is_the_unrecorded_one_to_the_bit(tmp_path: Path) -> None:
    check_same_bits(train_shuffled(tmp_path / "run"), train_shuffled(None))


@NO_CUDA
def test_a_recorded_training_on_a_gpu_is_the_unrecorded_one_to_the_bit(tmp_path: Path) -> None:
    check_same_bits(train_shuffled(tmp_path / "run", "cuda"), train_shuffled(None, "cuda"))


def test_the_state_at_construction_is_left_as_it_was(tmp_path: Path) -> None:
    model = Net()
    model.body[1].eval()
    before = [*(tensor.clone() for tensor in model.state_dict().values())]
    modes, identities = [m.training for m in model.modules()], [id(b) for b in model.buffers()]
    state = random.getstate(), torch.get_rng_state()
    record(tmp_path / "run", model).close()
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert modes == [m.training for m in model.modules()]
    assert identities == [id(b) for b in model.buffers()]
    assert state[0] == random.getstate()
    assert torch.equal(state[1], torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_pass_that_fails_half_way_leaves_no_trace_either() -> None:
    model = Net()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    with pytest.raises(ZeroDivisionError), undisturbed(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        model(TRAIN[0])
        torch.rand(3)
        raise ZeroDivisionError
    assert model.training
    assert torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


def test_autocast_around_the_loop_is_neither_felt_nor_changed(tmp_path: Path) -> None:
    model, seen = Net(), []
    model.fc.register_forward_hook(lambda _module, _args, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        record(tmp_path / "run", model).close()
        assert torch.is_autocast_enabled("cpu")
        assert model(TRAIN[0]).dtype == torch.bfloat16
    assert set(seen[:-1]) == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def spoil(_: nn.Module, args: tuple[Tensor], __: Tensor) -> None:
    """Write over the input of a layer, as an operation in place may do after it."""
    args[0].zero_()


def test_the_features_are_the_exact_input_of_the_readout_in_pieces_too() -> None:
    model = Net()
    model.fc.register_forward_pre_hook(lambda _module, args: (2.0 * args[0],))
    model.fc.register_forward_hook(spoil)
    x, y = pair(2051, 2)
    seen = look(model, "fc", [choose_examples("train", (x, y), 4096)])["train"]
    model.eval()
    with torch.no_grad():
        features = 2.0 * model.frozen(model.body(x))
        torch.testing.assert_close(seen.features, features)
        torch.testing.assert_close(seen.logits, nn.functional.linear(features, model.fc.weight, model.fc.bias))


def test_the_readout_is_found_where_it_is_the_last_layer(tmp_path: Path) -> None:
    without_bias = Net(bias=False)
    recorder = record(tmp_path / "a", without_bias)
    assert recorder.readout == "fc"
    recorder.close()
    assert "readout/bias" not in load(tmp_path / "a").snapshots[0].tensors
    sequential = nn.Sequential(nn.Linear(6, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 3)))
    recorder = record(tmp_path / "b", sequential)
    assert recorder.readout == "1.1"
    recorder.close()
    bare = record(tmp_path / "c", nn.Linear(6, 3))
    assert bare.readout == ""
    bare.close()
    assert load(tmp_path / "c").snapshots[0].tensors["features/train"].shape == (1, 40, 6)


def test_a_readout_that_is_named_may_be_followed_by_a_function(tmp_path: Path) -> None:
    recorder = record(tmp_path / "run", Twisted(lambda z: z.log_softmax(1)), readout="second")
    recorder.close()
    assert load(tmp_path / "run").settings["readout"] == "second"


class TwoInputs(nn.Module):
    """A network of two inputs, one of them whole numbers."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.embed, self.fc = nn.Embedding(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        return self.fc(x + self.embed(token))


def test_several_inputs_and_numpy_arrays_are_taken(tmp_path: Path) -> None:
    def with_token(given: Pair) -> Any:
        return (given[0].numpy(), np.arange(len(given[0])) % 5), given[1].numpy().astype(np.uint8)

    record(tmp_path / "run", TwoInputs(), train=with_token(TRAIN), heldout=with_token(HELDOUT)).close()
    assert load(tmp_path / "run").batches["train"].labels.tolist() == TRAIN[1].tolist()


def test_of_many_examples_a_fixed_random_part_is_looked_at(tmp_path: Path) -> None:
    x, y = pair(500, 3)
    model = Net()
    with record(tmp_path / "run", model, train=(x, y), save_at=SaveAt(examples=50)):
        x.zero_()  # the recorder holds a copy
    trajectory = load(tmp_path / "run")
    assert trajectory.settings["eval"] == {
        "train": {"examples": 50, "population": 500, "drawn": "without replacement, seed 0"},
        "heldout": {"examples": 30, "population": 30, "drawn": "all"},
    }
    again = choose_examples("train", pair(500, 3), 50)
    assert torch.equal(again.labels, torch.tensor(trajectory.batches["train"].labels))
    assert trajectory.batches["train"].population == 500
    assert len(np.unique(again.inputs[0][:, 0])) == 50


def in_epochs(_: Path) -> Any:
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3))


one_hot = nn.functional.one_hot(TRAIN[1], 3)
with_nan = TRAIN[0].clone()
with_nan[3, 2] = torch.nan
far = torch.where(torch.arange(30) == 4, 3, HELDOUT[1])
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "lengths": ({"train": (TRAIN[0], TRAIN[1][:-1])}, "train: 40 inputs but 39 labels"),
    "a number": ({"train": (torch.tensor(1.0), TRAIN[1])}, "train: 0 inputs but 40 labels"),
    "one-hot": ({"train": (TRAIN[0], one_hot)}, r"got shape \[40, 3\]; of one-hot labels give labels.argmax\(1\)"),
    "float labels": (
        {"heldout": (HELDOUT[0], HELDOUT[1].float())},
        "heldout: labels must be whole numbers, got torch.float32",
    ),
    "ignored label": ({"train": (TRAIN[0], TRAIN[1] - 100)}, "train: labels must count from 0, got -100"),
    "one example": ({"heldout": (HELDOUT[0][:1], HELDOUT[1][:1])}, "heldout: at least 2 examples are needed, got 1"),
    "no examples": ({"heldout": (HELDOUT[0][:0], HELDOUT[1][:0])}, "heldout: at least 2 examples are needed, got 0"),
    "NaN": ({"train": (with_nan, TRAIN[1])}, "train: the inputs hold NaN or infinite numbers"),
    "a loader": ({"train": [1, 2, 3]}, r"train: expected a pair \(inputs, labels\) of tensors, got list"),
    "lists": ({"train": (TRAIN[0].tolist(), TRAIN[1])}, "train: expected tensors, got list"),
    "label without logit": (
        {"train": (TRAIN[0], TRAIN[1] + 1)},
        "train: label 3 has no logit, the model has outputs 0 to 2",
    ),
    "new class": (
        {"train": (TRAIN[0], TRAIN[1] % 2)},
        "heldout: class 2 is not among the training labels; leave its examples out",
    ),
    "far class": ({"heldout": (HELDOUT[0], far)}, "heldout: label 3 has no logit"),
    "wrong width": ({"train": (TRAIN[0][:, :4], TRAIN[1])}, "cannot be run on the train inputs: RuntimeError: mat1"),
    "heldout width": (
        {"heldout": (HELDOUT[0][:, :4], HELDOUT[1])},
        "cannot be run on the heldout inputs: RuntimeError",
    ),
    "unknown readout": ({"readout": "fcc"}, "the model has no layer 'fcc'. Did you mean 'fc'?"),
    "not linear": ({"readout": "frozen"}, r"readout 'frozen' is a BatchNorm1d; expected .* \(here: body.0, fc\)"),
    "inner layer": (
        {"readout": "body.0"},
        r"readout 'body.0' takes and gives \[4, 6\] and \[4, 16\], the model gives \[4, 3\]",
    ),
    "budget": ({"budget": 0.0}, "budget must be a share of the training time above 0"),
    "budget in words": ({"budget": "x"}, "budget must be a share .* such as 0.03, got 'x'"),
    "budget below zero": ({"budget": -0.1}, "budget must be a share of the training time above 0"),
    "no budget": ({"budget": None}, "budget must be a share .* got None"),
    "budget not a number": ({"budget": math.nan}, "budget must be a share of the training time above 0"),
    "unknown parameter": (
        {"blocks": {"a": ["fc.wait"]}},
        "block 'a': the model has no parameter 'fc.wait'. Did you mean",
    ),
    "twice": ({"blocks": {"a": ["fc.bias"], "b": ["fc.bias"]}}, "parameter 'fc.bias' is in two blocks"),
    "softmax at the end": (
        {"model": Twisted(lambda z: z.softmax(1))},
        r"name its readout with readout= \(linear layers, in the order of use: 'first', 'second'\)",
    ),
    "probabilities": (
        {"model": Twisted(lambda z: z.softmax(1)), "readout": "second"},
        "the model returns probabilities .* where logits are expected; return what enters the softmax",
    ),
    "a dict": ({"model": Twisted(lambda z: {"logits": z})}, "the model returns a dict; expected one tensor of logits"),
    "a tuple": ({"model": Twisted(lambda z: (z, z))}, "the model returns a tuple; expected one tensor of logits"),
    "one logit": (
        {"model": nn.Linear(6, 1)},
        r"shape \[4, 1\] for 4 examples; .* \(of two classes, give it two outputs\)",
    ),
    "flat": ({"model": Twisted(lambda z: z.flatten())}, r"the model returns shape \[12\] for 4 examples"),
    "no linear": ({"model": nn.Conv1d(1, 3, 6)}, "name its readout|cannot be run|returns shape"),
    "no linear layer": ({"model": nn.BatchNorm1d(6)}, "none, so it has no readout that can be recorded"),
    "no parameters": ({"model": nn.ReLU()}, "the model has no parameters"),
    "lazy": ({"model": nn.LazyLinear(3)}, "run one batch through it first"),
    "no model": ({"model": len}, "expected a torch.nn.Module to record, got builtin_function_or_method"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_recorded_is_refused_in_one_sentence_and_nothing_is_written(tmp_path: Path, what: str) -> None:
    arguments, sentence = REFUSALS[what]
    model = arguments.get("model") or Net()
    with pytest.raises(InputError, match=sentence) as refusal:
        record(tmp_path / "run", model, **{key: value for key, value in arguments.items() if key != "model"})
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_layer_that_is_called_twice_is_no_readout(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    model.append(model[0]).append(nn.Linear(6, 3))
    with pytest.raises(InputError, match="readout '0' is called 2 times in one forward pass"):
        record(tmp_path / "run", model, readout="0")
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "run", Net()).close()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(
        InputError, match=r"it differs in blocks: .* there, .* here; model: Net there, Linear here; .*more"
    ):
        record(tmp_path / "run", nn.Linear(6, 3))
    with pytest.raises(InputError, match=r"holds another run .it differs in optimizer: nothing there, "):
        record(tmp_path / "run", model := Net(), optimizer=sgd(model))
    with pytest.raises(InputError, match=r"was recorded with other heldout examples; give the same .seed the split."):
        record(tmp_path / "run", Net(), heldout=pair(30, 77))
    assert {path: path.read_bytes() for path in before} == {
        path: content if path.name != "events.jsonl" else path.read_bytes() for path, content in before.items()
    }


def test_blocks_are_the_child_modules_and_the_readout_or_what_was_asked(tmp_path: Path) -> None:
    def norms(name: str, model: nn.Module, **arguments: Any) -> dict[str, float]:
        record(tmp_path / name, model, **arguments).close()
        scalars = load(tmp_path / name).scalars
        return {k.removeprefix("block_norm."): s.value[0, 0] for k, s in scalars.items() if "norm" in k}

    default = norms("a", Net())
    assert set(default) == {"body", "frozen", "readout", "weight_norm"}
    deep = norms("b", nn.Sequential(*(nn.Linear(6, 6) for _ in range(13)), nn.Linear(6, 3)))
    assert set(deep) == {"encoder", "readout", "weight_norm"}
    chosen = norms("c", Net(), blocks={"first": ["body.0.weight"], "out": "fc.weight"})
    assert set(chosen) == {"first", "out", "rest", "weight_norm"}
    assert chosen["weight_norm"] == pytest.approx(default["weight_norm"])
    assert default["weight_norm"] == pytest.approx(math.hypot(*(float(p.detach().norm()) for p in Net().parameters())))


def test_the_manifest_says_what_was_recorded_and_what_it_will_take(tmp_path: Path) -> None:
    record(tmp_path / "run", Net(), budget=0.05).close()
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {key: manifest[key] for key in ("kind", "model", "parameters", "readout", "classes", "optimizer")} == {
        "kind": "recorder",
        "model": "Net",
        "parameters": 227,
        "readout": "fc",
        "classes": 3,
        "optimizer": None,
    }
    assert set(manifest["versions"]) == {"twoclocks", "torch", "numpy", "python"}
    disk = manifest["session"]["disk"]
    assert disk["snapshots_in_1e6_steps"] == 1 + sum(1 for _ in snapshot_steps())
    assert disk["bytes_per_snapshot"] == 2 * 16 * 70 + 4 * 227 + 4 * 17 * 3
    written = (tmp_path / "run" / "snapshots" / "step-000000000.safetensors").stat().st_size
    assert disk["bytes_per_snapshot"] == pytest.approx(written, rel=0.6)


def snapshot_steps() -> Iterator[int]:
    """Return the steps of the default snapshots up to a million, by a slow definition."""
    yield from sorted({round(10 ** (j / 8)) for j in range(6 * 8 + 1)})


@pytest.mark.parametrize(("per_decade", "every"), [(40, 0), (8, 0), (0, 7), (3, 10), (1, 0), (0, 0)])
def test_the_next_step_on_the_grid_is_the_next_one(per_decade: int, every: int) -> None:
    on = [step for step in range(1, 3000) if on_grid(step, per_decade, every)] or [math.inf]
    for step in range(0, 2000, 3):
        later = [at for at in on if at > step]
        if later:
            assert next_on_grid(step, per_decade, every) == later[0]
    assert next_on_grid(10**12, 40, 0) > 10**12


def test_an_unbounded_budget_keeps_the_whole_schedule(tmp_path: Path) -> None:
    model, at = Net(), SaveAt(per_decade=5, every=7, snapshots_per_decade=2, snapshot_every=20)
    with record(tmp_path / "run", model, save_at=at) as recorder:
        for step in updates(model, sgd(model), 50):
            recorder.step(step)
    trajectory = load(tmp_path / "run")
    assert trajectory.scalars["train_loss"].step.tolist() == [s for s in range(50) if at.evaluates(s)] + [50]
    assert [snapshot.step for snapshot in trajectory.snapshots] == [s for s in range(50) if at.keeps(s)] + [50]
    assert trajectory.events == ()
    assert trajectory.settings["cost"]["skipped"] == 0


def test_calls_once_an_epoch_are_recorded_at_the_first_step_past_each_due_one(tmp_path: Path) -> None:
    model = Net()
    with record(tmp_path / "run", model, save_at=SaveAt(per_decade=4, snapshots_per_decade=0)) as recorder:
        for step in range(30, 400, 30):
            recorder.step(step)
    assert load(tmp_path / "run").scalars["train_loss"].step.tolist() == [0, 30, 60, 120, 180, 330, 390]
    assert not any(name.startswith("update_size") for name in load(tmp_path / "run").scalars)


class Slow(Net):
    """A network that takes long to evaluate, and no time to train."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            time.sleep(0.004)
        return Net.forward(self, x)


def test_the_cost_is_kept_within_the_budget_and_reported(tmp_path: Path) -> None:
    model = Slow()
    recorder = record(tmp_path / "run", model, budget=0.2, save_at=SaveAt(every=1))
    began = time.perf_counter()
    for step in range(1, 401):
        time.sleep(0.002)
        recorder.step(step)
    wall = time.perf_counter() - began
    recorder.close()
    trajectory, cost = load(tmp_path / "run"), recorder.cost
    taken = len(trajectory.scalars["train_loss"].step)
    assert cost.share < 0.25, "0.2, and what the last evaluation took beyond what was expected of it"
    assert cost.recording_seconds > 0.008 * taken, "the evaluations took at least as long as they slept"
    assert cost.training_seconds + cost.recording_seconds >= wall
    assert cost.evaluations + cost.skipped in (401, 402), (
        "400 due ones, step 0, and the last, unless it was one of them"
    )
    told = [
        event for event in trajectory.events if "the schedule was stretched to keep recording under 20 %" in event.what
    ]
    assert sum(int(event.what.split(": ")[1].split()[0]) for event in told) == cost.skipped > 100
    assert {1, 10, 100, 400} <= set(trajectory.scalars["train_loss"].step.tolist())
    written = trajectory.settings["cost"]
    assert written["evaluations"] == cost.evaluations
    assert written["skipped"] == cost.skipped
    assert written["recording_seconds"] == pytest.approx(cost.recording_seconds, rel=0.2)


def test_snapshots_are_put_off_before_evaluations_are_skipped() -> None:
    ledger = Ledger(budget=0.1, started=time.perf_counter() - 100.0, entered=1.0)
    ledger.take(True, 6.0, 0.0)
    ledger.take(False, 1.0, 0.0)
    assert ledger.affords(keeps=False), "1 s spent, 1 s for this, 6 s for the last snapshot, of 9.9 s"
    assert not ledger.affords(keeps=True)


def test_a_snapshot_that_was_put_off_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net()
    monkeypatch.setattr(Ledger, "affords", lambda ledger, keeps: not keeps or ledger.evaluations > 5)
    with record(tmp_path / "run", model, save_at=SaveAt(every=1, snapshot_every=4, snapshots_per_decade=0)) as recorder:
        for step in range(1, 11):
            recorder.step(step)
    trajectory = load(tmp_path / "run")
    assert [snapshot.step for snapshot in trajectory.snapshots] == [0, 6, 8, 10]
    assert [(event.step, event.what) for event in trajectory.events] == [
        (6, "the snapshot due at step 4 was put off to step 6")
    ]


def test_a_loop_that_counts_from_zero_is_recorded_too(tmp_path: Path) -> None:
    model = Net()
    first = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with record(tmp_path / "run", model) as recorder:
        for step in updates(model, sgd(model), 4):
            recorder.step(step - 1)
    trajectory = load(tmp_path / "run")
    assert trajectory.scalars["train_loss"].step.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(trajectory.snapshots[0].tensors["weights/fc.weight"][0], first["fc.weight"])
    assert trajectory.scalars["update_size.readout"].step.tolist() == [1, 2, 3]
    assert trajectory.events == ()


def test_repeated_and_decreasing_steps_are_events(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Net()
    with record(tmp_path / "run", model, optimizer=sgd(model)) as recorder:
        for step in (1, 2, 2, 3, 3, 4, 2, 3, 0, 1, 2):
            recorder.step(step)
    trajectory = load(tmp_path / "run")
    assert trajectory.scalars["train_loss"].step.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(trajectory.scalars["flow_time"].value[0], [0.0, 0.1, 0.2, 0.3, 0.4])
    assert [(event.step, event.what[:32]) for event in trajectory.events] == [
        (2, "step 2 was given twice; such seco"[:32]),
        (2, "the step went back from 4 to 2; "),
        (0, "the step went back from 3 to 0; "),
    ]
    assert len(caplog.records) == 2, "each kind is said aloud once"


def test_the_learning_rate_adds_up_to_flow_time_under_a_schedule(tmp_path: Path) -> None:
    model = Net()
    optimizer = sgd(model, lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with record(tmp_path / "run", model, optimizer=optimizer, save_at=SaveAt(per_decade=2)) as recorder:
        for step in updates(model, optimizer, 12):
            recorder.step(step)
            schedule.step()
    scalars = load(tmp_path / "run").scalars
    steps = scalars["flow_time"].step
    np.testing.assert_allclose(scalars["flow_time"].value[0], 2.0 * (1.0 - 0.5**steps))
    np.testing.assert_allclose(scalars["lr"].value[0, 1:], 0.5 ** (steps[1:] - 1))


def test_a_training_that_was_stopped_is_taken_up_from_its_checkpoint(tmp_path: Path) -> None:
    def trained(folder: Path, model: Net, first: int, last: int) -> None:
        optimizer = sgd(model)
        recorder = record(folder, model, optimizer=optimizer, save_at=SaveAt(every=1))
        for step in updates(model, optimizer, last - first + 1):
            recorder.step(first + step - 1)
        recorder.close()

    whole, parts = Net(seed=1), Net(seed=1)
    for model in (whole, parts):
        model.body[3].p = 0.0
    trained(tmp_path / "whole", whole, 1, 20)
    trained(tmp_path / "parts", parts, 1, 12)
    other = Net(seed=5)
    other.body[3].p = 0.0
    checkpoint = load(tmp_path / "parts")
    assert checkpoint.last_step == 12
    other.load_state_dict(parts.state_dict())
    trained(tmp_path / "parts", other, 13, 20)
    one, two = load(tmp_path / "whole"), load(tmp_path / "parts")
    assert [event.what for event in two.events] == ["recording was taken up again at step 13, after step 12"]
    for name in ("train_loss", "heldout_accuracy", "flow_time", "lr"):
        np.testing.assert_array_equal(one.scalars[name].step, two.scalars[name].step)
        np.testing.assert_allclose(one.scalars[name].value, two.scalars[name].value, rtol=1e-9)
    assert two.settings["cost"]["evaluations"] > one.settings["cost"]["evaluations"]
    assert [snapshot.step for snapshot in one.snapshots][-1] == [snapshot.step for snapshot in two.snapshots][-1] == 20


def test_a_training_begun_anew_from_other_weights_is_not_mixed_into_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with record(tmp_path / "run", Net(seed=1)) as recorder:
        recorder.step(1)
        recorder.step(2)
    before = load(tmp_path / "run").scalars["train_loss"]
    with record(tmp_path / "run", Net(seed=2), strict=False) as recorder:
        for step in (1, 2, 3):
            recorder.step(step)
    after = load(tmp_path / "run")
    np.testing.assert_array_equal(after.scalars["train_loss"].value, before.value)
    assert "holds another training, up to step 2, begun from other weights; recording is off" in caplog.text
    assert "recording is off" in after.events[-1].what
    with record(tmp_path / "run", Net(seed=2)) as strict, pytest.raises(InputError, match="begun from other weights"):
        strict.step(1)
    with record(tmp_path / "run", Net(seed=1)) as same:
        same.step(1)
    assert load(tmp_path / "run").events[-1].what == (
        "recording was taken up again at step 1, after step 2; what was recorded from that step on before is left out"
    )


def test_a_second_shorter_training_from_the_same_weights_replaces_the_first(tmp_path: Path) -> None:
    def trained(folder: Path, steps: int) -> None:
        model = Net()
        model.body[3].p = 0.0
        optimizer = sgd(model)
        recorder = record(folder, model, optimizer=optimizer)
        for step in updates(model, optimizer, steps):
            recorder.step(step)
        recorder.close()

    trained(tmp_path / "both", 133)
    trained(tmp_path / "alone", 74)
    trained(tmp_path / "both", 74)
    alone, both = load(tmp_path / "alone"), load(tmp_path / "both")
    assert both.last_step == 74
    assert set(both.scalars) == set(alone.scalars)
    for name, series in alone.scalars.items():
        measured = name.startswith(("update_size", "loss_decrease"))  # not across a restart
        known = series.step > (1 if measured else -1)
        np.testing.assert_array_equal(both.scalars[name].step, series.step[known])
        np.testing.assert_allclose(both.scalars[name].value, series.value[:, known], rtol=1e-9)
    assert [snapshot.step for snapshot in both.snapshots] == [snapshot.step for snapshot in alone.snapshots]
    for one, other in zip(both.snapshots, alone.snapshots, strict=True):
        np.testing.assert_array_equal(one.tensors["weights/fc.weight"], other.tensors["weights/fc.weight"])
    assert [event.what for event in both.events] == [
        "recording was taken up again at step 1, after step 133; what was recorded from that step on before is left out"
    ]
    trained(tmp_path / "both", 20)
    third = load(tmp_path / "both")
    assert third.last_step == third.snapshots[-1].step == 20
    assert third.events[-1].what.startswith("recording was taken up again at step 1, after step 74; ")


def fail(*_: Any) -> Any:
    raise RuntimeError("CUDA out of memory\nmore lines")


def test_its_own_errors_are_events_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = record(tmp_path / "run", Net(), strict=False)
    recorder.step(1)
    with monkeypatch.context() as patch:
        patch.setattr(recorder_module, "look", fail)
        recorder.step(2)
        recorder.step(3)
    recorder.step(4)
    recorder.step(-4)
    recorder.step(5.5)  # type: ignore[arg-type]
    recorder.step(5)
    recorder.close()
    trajectory = load(tmp_path / "run")
    assert trajectory.scalars["train_loss"].step.tolist() == [0, 1, 4, 5]
    assert [(event.step, event.what.split(": ", 1)[1]) for event in trajectory.events] == [
        (2, "RuntimeError: CUDA out of memory"),
        (3, "RuntimeError: CUDA out of memory"),
        (None, "InputError: a step is the number of optimiser updates done so far, 0 or more, got -4"),
        (None, "TypeError: 'float' object cannot be interpreted as an integer"),
    ]
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING


def test_after_three_errors_in_a_row_recording_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = record(tmp_path / "run", Net(), strict=False)
    with monkeypatch.context() as patch:
        patch.setattr(recorder_module, "look", fail)
        for step in range(1, 8):
            recorder.step(step)
    recorder.step(8)
    recorder.close()
    trajectory = load(tmp_path / "run")
    assert trajectory.last_step == 0
    assert len(trajectory.events) == 3
    assert "recording stops, the training goes on" in trajectory.events[-1].what
    assert len(caplog.records) == 2


def test_strict_raises_its_errors_and_lets_go_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = record(tmp_path / "run", Net())
    monkeypatch.setattr(recorder_module, "look", fail)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        recorder.step(1)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        recorder.close()
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        record(tmp_path / "other", Net())
    monkeypatch.undo()
    for name in ("run", "other"):
        record(tmp_path / name, Net()).close()


def test_a_full_disk_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record(tmp_path / "run", Net()).close()
    journal = tmp_path / "run" / "events.jsonl"
    journal.unlink()
    journal.symlink_to("/dev/full")
    recorder = record(tmp_path / "run", Net(), strict=False)
    for step in range(1, 5):
        recorder.step(step)
    recorder.close()
    assert "recording failed: InputError: cannot append to" in caplog.text
    assert "the disk is full; free some space" in caplog.text
    assert len([line for line in caplog.records if "recording failed" in line.message]) == 2


def test_interrupts_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    recorder = record(tmp_path / "run", Net(), strict=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recorder_module, "look", interrupt)
        recorder.step(1)
    recorder.close()


def test_an_error_in_the_training_closes_the_folder_without_a_last_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), record(tmp_path / "run", Net(), save_at=SaveAt(1, 0, 0, 0)) as recorder:
        recorder.step(1)
        recorder.step(2)
        raise ZeroDivisionError
    assert load(tmp_path / "run").last_step == 1
    assert load(tmp_path / "run").settings["cost"]["evaluations"] == 2
    recorder.step(3)
    recorder.close()


def test_a_recorder_that_is_forgotten_lets_go_of_its_folder(tmp_path: Path) -> None:
    recorder = record(tmp_path / "run", Net())
    recorder.step(1)
    del recorder
    gc.collect()
    assert load(tmp_path / "run").settings["cost"]["evaluations"] == 2
    record(tmp_path / "run", Net()).close()


UNCLOSED = """
import sys, torch
from twoclocks.sources.recorder import Recorder
torch.manual_seed(0)
x = torch.randn(8, 4)
y = torch.arange(8) % 2
model = torch.nn.Linear(4, 2)
recorder = Recorder(sys.argv[1], model, train=(x, y), heldout=(x, y), budget=float("inf"))
for step in range(1, 4):
    recorder.step(step)
    recorder.step(step)
with torch.no_grad():
    model.weight.fill_(float("nan"))
raise SystemExit(int(sys.argv[2]))
"""


def test_a_script_that_ends_without_closing_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", UNCLOSED, str(tmp_path / "run"), "3"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 3, ended.stderr
    assert ended.stderr.splitlines() == [f"{tmp_path / 'run'}: step 1 was given twice; such second calls are ignored"]
    trajectory = load(tmp_path / "run")
    assert trajectory.last_step == 3
    assert trajectory.settings["cost"]["evaluations"] == 4
    assert np.all(np.isfinite(trajectory.scalars["train_loss"].value))


def test_a_diverged_training_is_recorded_as_such(tmp_path: Path) -> None:
    model = Net()
    with record(tmp_path / "run", model) as recorder:
        with torch.no_grad():
            model.fc.weight.fill_(math.nan)
        recorder.step(1)
    trajectory = load(tmp_path / "run")
    assert np.isnan(trajectory.scalars["train_loss"].value[0, -1])
    assert np.isnan(trajectory.scalars["weight_norm"].value[0, -1])
    assert trajectory.scalars["train_accuracy"].value[0, -1] == 0.0


def test_a_call_that_is_not_due_costs_microseconds(tmp_path: Path) -> None:
    model = Net()
    recorder = record(tmp_path / "run", model, optimizer=sgd(model), save_at=SaveAt(0, 0, 0, 0))
    seconds = []
    for start in range(1, 20_001, 4000):
        began = time.process_time()
        for step in range(start, start + 4000):
            recorder.step(step)
        seconds.append((time.process_time() - began) / 4000)
    recorder.close()
    assert min(seconds) < 2e-5


def test_the_gradients_that_the_optimiser_used_are_recorded_by_block(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x, y = torch.randn(20, 4), torch.arange(20) % 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    recorder = Recorder(
        tmp_path / "run",
        model,
        train=(x, y),
        heldout=(x, y),
        optimizer=optimizer,
        budget=math.inf,
        save_at=SaveAt(every=1),
    )
    norms, decreases = [], []
    for step in range(1, 4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        before = [p.detach().clone() for p in model[2].parameters()]
        optimizer.step()
        recorder.step(step)
        pairs = list(zip(model[2].parameters(), before, strict=True))
        norms.append(math.sqrt(sum(float(p.grad.double().square().sum()) for p, _ in pairs)))
        decreases.append(-sum(float((p.grad.double() * (p.detach() - b).double()).sum()) for p, b in pairs))
    recorder.close()
    scalars = load(tmp_path / "run").scalars
    assert scalars["gradient_norm.readout"].step.tolist() == [1, 2, 3]  # none at step 0: no backward came before it
    np.testing.assert_allclose(scalars["gradient_norm.readout"].value[0], norms, rtol=1e-6)
    np.testing.assert_allclose(scalars["loss_decrease.readout"].value[0], decreases, rtol=1e-5)
