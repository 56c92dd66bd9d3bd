"""The Lightning callback: on stand-ins of its hooks' arguments, and, marked `frameworks`, in real trainings."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import twoclocks as tc
from twoclocks.errors import InputError
from twoclocks.sources import attached
from twoclocks.sources.attached import request_of
from twoclocks.sources.lightning import LightningHooks, callback_base
from twoclocks.store import load
from twoclocks.trajectory import SaveAt

ALL = {"budget": math.inf, "strict": True, "save_at": SaveAt(every=1)}


def pair(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return n examples of three classes, the class being the largest of the first three inputs."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


TRAIN, HELDOUT = pair(64, 0), pair(30, 1)


def net(seed: int = 0) -> nn.Sequential:
    """Return a small network with dropout, from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def loss_of(model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(TRAIN[0]), TRAIN[1])


@dataclass
class StandIn:
    """What the hooks read of a Lightning trainer."""

    optimizers: list[Any]
    global_step: int = 0
    is_global_zero: bool = True
    fast_dev_run: bool = False
    hooks: list[Any] = field(default_factory=list)

    def update(self, model: nn.Module, which: int = 0) -> None:
        """Do one update as Lightning does: its count goes up after the optimiser's step."""
        self.optimizers[which].zero_grad()
        loss_of(model).backward()
        self.optimizers[which].step()
        self.global_step += 1


def hooks(folder: Path, **arguments: Any) -> LightningHooks:
    """Return the callback's hooks without Lightning."""
    given: dict[str, Any] = {"train": TRAIN, "heldout": HELDOUT, "logits": None} | ALL | arguments
    return LightningHooks(request_of(folder, **given))


def stand_in(model: nn.Module, step: int = 0) -> StandIn:
    return StandIn([torch.optim.SGD(model.parameters(), lr=0.1)], step)


def steps_of(folder: Path) -> list[int]:
    return load(folder).scalars["train_loss"].step.tolist()  # type: ignore[no-any-return]


def fitted(callback: LightningHooks, model: nn.Module, trainer: StandIn, updates: int) -> None:
    """Run a training through the hooks in Lightning's order, two batches an update."""
    callback.on_train_start(trainer, model)
    for _ in range(updates):
        callback.on_train_batch_end(trainer, model, None, None, 0)
        trainer.update(model)
        callback.on_train_batch_end(trainer, model, None, None, 1)
    callback.on_train_end(trainer, model)
    callback.teardown(trainer, model, "fit")


def test_every_update_of_the_optimiser_is_a_step(tmp_path: Path) -> None:
    model = net()
    fitted(hooks(tmp_path / "run"), model, trainer := stand_in(model), 5)
    trajectory = load(tmp_path / "run")
    assert steps_of(tmp_path / "run") == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(trajectory.scalars["flow_time"].value[0], 0.1 * np.arange(6))
    assert trajectory.scalars["gradient_norm.readout"].step.tolist() == [1, 2, 3, 4, 5]
    assert trajectory.settings["model"] == "Sequential"
    assert trajectory.settings["readout"] == "3"
    np.testing.assert_array_equal(trajectory.snapshots[-1].tensors["weights/3.weight"][0], model[3].weight.detach())
    trainer.update(model)
    assert steps_of(tmp_path / "run")[-1] == 5, "the callback has left the optimiser"


def test_the_rate_is_the_one_that_the_update_used(tmp_path: Path) -> None:
    model = net()
    callback, trainer = hooks(tmp_path / "run"), stand_in(model)
    schedule = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizers[0], 0.5)
    callback.on_train_start(trainer, model)
    for _ in range(3):
        trainer.update(model)
        schedule.step()
        callback.on_train_batch_end(trainer, model, None, None, 0)
    callback.on_train_end(trainer, model)
    np.testing.assert_allclose(load(tmp_path / "run").scalars["lr"].value[0], [0.1, 0.1, 0.05, 0.025])


def test_a_step_that_was_counted_without_an_update_is_caught_up(tmp_path: Path) -> None:
    model = net()
    callback, trainer = hooks(tmp_path / "run"), stand_in(model)
    callback.on_train_start(trainer, model)
    trainer.update(model)
    trainer.global_step += 1  # an overflow of float16
    callback.on_train_batch_end(trainer, model, None, None, 0)
    trainer.update(model)
    callback.on_train_end(trainer, model)
    assert steps_of(tmp_path / "run") == [0, 1, 2, 3]


def test_updates_that_the_framework_does_not_count_are_counted(tmp_path: Path) -> None:
    model = net()
    callback, trainer = hooks(tmp_path / "run"), stand_in(model)
    callback.on_train_start(trainer, model)
    for _ in range(3):
        trainer.update(model)
        trainer.global_step = 0
        callback.on_train_batch_end(trainer, model, None, None, 0)
    callback.on_train_end(trainer, model)
    assert steps_of(tmp_path / "run") == [0, 1, 2, 3]


def test_of_several_optimisers_the_first_gives_the_rate_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = net()
    trainer = StandIn([torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[3].parameters(), lr=7.0)])
    callback = hooks(tmp_path / "run")
    callback.on_train_start(trainer, model)
    for which in (0, 1, 0, 1):
        trainer.update(model, which)
    callback.on_train_end(trainer, model)
    trajectory = load(tmp_path / "run")
    assert steps_of(tmp_path / "run") == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(trajectory.scalars["lr"].value[0], [0.1] * 5)
    assert "2 optimisers: steps count the updates of all of them, lr is that of the first" in caplog.text
    assert any("2 optimisers" in event.what for event in trajectory.events)


def test_an_exception_keeps_what_was_recorded_and_lets_go_of_the_folder(tmp_path: Path) -> None:
    model = net()
    callback, trainer = hooks(tmp_path / "run", save_at=SaveAt(1, 0, 0, 0)), stand_in(model)
    callback.on_train_start(trainer, model)
    trainer.update(model)
    trainer.update(model)
    callback.on_exception(trainer, model, ZeroDivisionError())
    callback.teardown(trainer, model, "fit")
    assert steps_of(tmp_path / "run") == [0, 1]
    assert load(tmp_path / "run").settings["cost"]["evaluations"] == 2
    assert trainer.optimizers[0]._optimizer_step_post_hooks == {}
    tc.Recorder(tmp_path / "other", model, train=TRAIN, heldout=HELDOUT).close()
    assert not attached.LIVE


def test_a_fit_from_a_checkpoint_goes_on_in_its_folder(tmp_path: Path) -> None:
    whole, parts = net(), net()
    whole[2].p = parts[2].p = 0.0
    fitted(hooks(tmp_path / "whole"), whole, stand_in(whole), 6)
    fitted(hooks(tmp_path / "parts"), parts, stand_in(parts), 4)
    fitted(hooks(tmp_path / "parts"), parts, stand_in(parts, step=4), 2)
    one, two = load(tmp_path / "whole"), load(tmp_path / "parts")
    for name in ("train_loss", "flow_time", "heldout_accuracy"):
        np.testing.assert_array_equal(one.scalars[name].step, two.scalars[name].step)
        np.testing.assert_allclose(one.scalars[name].value, two.scalars[name].value, rtol=1e-9)
    assert two.events[-1].what == "recording was taken up again at step 5, after step 4"


def test_a_beginning_in_the_middle_is_refused(tmp_path: Path) -> None:
    model = net()
    with pytest.raises(InputError, match=r"goes on at step 4, and .*new does not hold what came before; give the"):
        hooks(tmp_path / "new").on_train_start(stand_in(model, step=4), model)
    assert not (tmp_path / "new").exists()


def test_other_ranks_and_trial_runs_write_nothing(tmp_path: Path) -> None:
    model = net()
    for change in ({"is_global_zero": False}, {"fast_dev_run": True}):
        trainer = stand_in(model)
        for name, value in change.items():
            setattr(trainer, name, value)
        fitted(hooks(tmp_path / "run"), model, trainer, 2)
        assert not (tmp_path / "run").exists()


def test_weights_that_are_spread_over_processes_are_refused(tmp_path: Path) -> None:
    model = net()
    model[0].weight.ds_id = 3  # as DeepSpeed marks them
    with pytest.raises(
        InputError, match=r"spread over several processes .*; save checkpoints and use twoclocks replay"
    ):
        hooks(tmp_path / "run").on_train_start(stand_in(model), model)
    assert not (tmp_path / "run").exists()


def test_weights_changed_after_the_last_update_are_not_taken_for_the_last_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = net()
    callback, trainer = hooks(tmp_path / "run", save_at=SaveAt(1, 0, 0, 0)), stand_in(model)
    callback.on_train_start(trainer, model)
    for _ in range(4):
        trainer.update(model)
    with torch.no_grad():
        model[0].weight.mul_(2.0)  # averaged weights, or the best ones, are loaded
    callback.on_train_end(trainer, model)
    assert steps_of(tmp_path / "run") == [0, 1]
    assert "the weights were changed after the last update, so step 4" in caplog.text


def test_what_recording_cost_is_said_once_and_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    with caplog.at_level(logging.INFO, "twoclocks"):
        fitted(hooks(tmp_path / "run"), model, stand_in(model), 3)
    said = [line.message for line in caplog.records if "recording took" in line.message]
    assert len(said) == 1
    assert "of training (4 evaluations, 0 skipped to keep within the budget)" in said[0]
    assert load(tmp_path / "run").settings["cost"]["evaluations"] == 4


def test_no_update_at_all_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    fitted(hooks(tmp_path / "run"), model, stand_in(model), 0)
    assert "no update of an optimiser was seen" in caplog.text


class Named(nn.Module):
    """A network that takes its inputs by name and gives a dict."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.body = net()

    def forward(self, *, x: Tensor, scale: Tensor) -> Any:
        return {"loss": None, "scores": self.body(x * scale)}


def test_inputs_by_name_and_logits_by_key(tmp_path: Path) -> None:
    model = Named()
    given = {
        split: {"x": x, "scale": torch.ones(len(x), 1), "labels": y}
        for split, (x, y) in (("train", TRAIN), ("heldout", HELDOUT))
    }
    shuffled = dict(reversed(given["heldout"].items()))
    for number, logits in enumerate(("scores", lambda output: output["scores"])):
        callback = hooks(tmp_path / str(number), train=given["train"], heldout=shuffled, logits=logits)
        callback.on_train_start(stand_in(model), model)
        callback.teardown()
        snapshot = load(tmp_path / str(number)).snapshots[0]
        features = model.body[:3].eval()(HELDOUT[0]).detach()
        np.testing.assert_allclose(snapshot.tensors["features/heldout"][0], features, atol=1e-3)
        assert load(tmp_path / str(number)).settings["readout"] == "body.3"
        assert "weights/body.0.weight" in snapshot.tensors


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ({"x": TRAIN[0]}, "train: no 'labels' among x; add them, or give a pair"),
        ([1, 2, 3], r"train: expected \(inputs, labels\) or a mapping of tensors with 'labels', got list"),
        ({"x": TRAIN[0], "labels": TRAIN[1]}, "train and heldout must have the same inputs, got x and no names"),
        ({"labels": TRAIN[1]}, "the examples have labels alone"),
    ],
)
def test_examples_that_do_not_fit_are_refused_at_once(tmp_path: Path, train: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        hooks(tmp_path / "run", train=train)


def test_without_lightning_one_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"install it with pip install 'twoclocks\[lightning\]'$"):
        tc.LightningRecorder(tmp_path / "run", train=TRAIN, heldout=HELDOUT)


# With the real package: `make test-frameworks`.

REAL = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks used to create"),
]


def module(kind: str = "automatic", fail_at: int | None = None) -> Any:
    """Return a LightningModule around the small network."""
    import lightning as L

    class Mine(L.LightningModule):
        def __init__(self) -> None:
            L.LightningModule.__init__(self)
            self.net, self.calls, self.automatic_optimization = net(), 0, kind == "automatic"

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> Any:
            self.calls += 1
            if self.calls == fail_at:
                raise ZeroDivisionError("mine")
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            if kind == "automatic":
                return loss
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(loss, retain_graph=True)
                break
            for optimizer in self.optimizers():
                optimizer.step()
            return None

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            if kind == "automatic":
                optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
                schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
                return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
            return [torch.optim.SGD(self.net[i].parameters(), lr=0.1 + i) for i in (0, 3)]

    return Mine()


def loaders() -> tuple[Any, Any]:
    data = [torch.utils.data.TensorDataset(*part) for part in (TRAIN, HELDOUT)]
    return torch.utils.data.DataLoader(data[0], 8, shuffle=True), torch.utils.data.DataLoader(data[1], 10)


def trainer(root: Path, callbacks: list[Any], **arguments: Any) -> Any:
    import lightning as L

    settings: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "enable_checkpointing": False, "default_root_dir": root}
    return L.Trainer(callbacks=callbacks, **(settings | arguments))


def real(folder: Path, **arguments: Any) -> Any:
    return tc.LightningRecorder(folder, **({"train": TRAIN, "heldout": HELDOUT} | ALL | arguments))


class TestWithLightning:
    """Real trainings."""

    pytestmark = REAL

    def test_the_training_is_the_same_to_the_bit(self, tmp_path: Path) -> None:
        ends = []
        for callbacks in ([], [real(tmp_path / "run")]):
            torch.manual_seed(5)
            model = module()
            trainer(tmp_path, callbacks, max_epochs=3).fit(model, *loaders())
            ends.append([*model.state_dict().values(), torch.rand(3)])
        assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
        assert len(ends[0]) == 5
        trajectory = load(tmp_path / "run")
        assert steps_of(tmp_path / "run") == list(range(25))
        rates = [0.05, *(0.05 * 0.9**i for i in range(24))]
        np.testing.assert_allclose(trajectory.scalars["lr"].value[0], rates)
        assert trajectory.scalars["gradient_norm.readout"].step.tolist() == list(range(1, 25))
        assert trajectory.settings["model"] == "Mine"
        assert trajectory.settings["readout"] == "net.3"
        assert tc.diagnose(tmp_path / "run").label

    def test_steps_under_accumulation_are_updates(self, tmp_path: Path) -> None:
        fit = trainer(tmp_path, [real(tmp_path / "run")], max_epochs=3, accumulate_grad_batches=4)
        fit.fit(module(), *loaders())
        assert fit.global_step == 6
        assert steps_of(tmp_path / "run") == list(range(7))

    def test_nothing_but_fitting_is_recorded(self, tmp_path: Path) -> None:
        model, callback = module(), real(tmp_path / "run")
        begun = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        fit = trainer(tmp_path, [callback], max_epochs=1, num_sanity_val_steps=2)
        fit.validate(model, loaders()[1], verbose=False)
        assert not (tmp_path / "run").exists()
        fit.fit(model, *loaders())
        before = (tmp_path / "run" / "events.jsonl").read_bytes()
        fit.validate(model, loaders()[1], verbose=False)
        assert (tmp_path / "run" / "events.jsonl").read_bytes() == before
        first = load(tmp_path / "run").snapshots[0].tensors["weights/net.0.weight"][0]
        np.testing.assert_array_equal(first, begun["net.0.weight"])

    def test_a_fit_from_a_checkpoint_goes_on(self, tmp_path: Path) -> None:
        first = trainer(tmp_path, [real(tmp_path / "run")], max_epochs=1, enable_checkpointing=True)
        first.fit(module(), *loaders())
        first.save_checkpoint(tmp_path / "at8.ckpt")
        first.fit_loop.max_epochs = 2
        first.fit(first.lightning_module, *loaders())
        assert steps_of(tmp_path / "run") == list(range(17))
        again = trainer(tmp_path, [real(tmp_path / "run")], max_epochs=3)
        again.fit(module(), *loaders(), ckpt_path=tmp_path / "at8.ckpt")
        trajectory = load(tmp_path / "run")
        assert steps_of(tmp_path / "run") == list(range(25))
        assert "taken up again at step 9, after step 16; what was recorded" in trajectory.events[-1].what
        with pytest.raises(InputError, match=r"goes on at step 8, and .* does not hold what came before"):
            trainer(tmp_path, [real(tmp_path / "new")], max_epochs=3).fit(
                module(), *loaders(), ckpt_path=tmp_path / "at8.ckpt"
            )

    def test_an_exception_in_training_keeps_what_was_recorded(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError, match="mine"):
            trainer(tmp_path, [real(tmp_path / "run")], max_epochs=3).fit(module(fail_at=6), *loaders())
        assert steps_of(tmp_path / "run") == list(range(6))
        assert load(tmp_path / "run").settings["cost"]["evaluations"] == 6
        assert not attached.LIVE
        trainer(tmp_path, [real(tmp_path / "run")], max_epochs=1).fit(module(), *loaders())
        assert steps_of(tmp_path / "run") == list(range(9))

    def test_several_optimisers(self, tmp_path: Path) -> None:
        fit = trainer(tmp_path, [real(tmp_path / "run")], max_epochs=1)
        fit.fit(module("manual"), *loaders())
        assert fit.global_step == 16
        assert steps_of(tmp_path / "run") == list(range(17))
        assert set(load(tmp_path / "run").scalars["lr"].value[0].tolist()) == {0.1}

    def test_mixed_precision(self, tmp_path: Path) -> None:
        trainer(tmp_path, [real(tmp_path / "run")], max_epochs=1, precision="bf16-mixed").fit(module(), *loaders())
        assert steps_of(tmp_path / "run") == list(range(9))

    def test_the_callback_is_lightnings_and_can_be_copied(self, tmp_path: Path) -> None:
        callback = real(tmp_path / "run")
        assert isinstance(callback, callback_base())
        for twin in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
            assert type(twin) is type(callback)
            assert twin._request.folder == tmp_path / "run"
