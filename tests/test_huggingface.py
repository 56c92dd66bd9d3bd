"""The callback for Hugging Face's Trainer: on stand-ins of its events, and, marked `frameworks`, in real trainings."""

from __future__ import annotations

import copy
import gc
import math
import sys
from dataclasses import dataclass
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
from twoclocks.sources.huggingface import HuggingFaceHooks, callback_base
from twoclocks.store import load
from twoclocks.trajectory import SaveAt

ALL = {"budget": math.inf, "strict": True, "save_at": SaveAt(every=1)}


def batch(n: int, seed: int) -> dict[str, Tensor]:
    """Return n sequences of 5 tokens with a mask; the class is that of the first token."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 31, (n, 5), generator=generator)
    mask = torch.ones_like(tokens)
    mask[: n // 2, 4] = 0
    return {"input_ids": tokens, "attention_mask": mask, "labels": tokens[:, 0] % 3}


TRAIN, HELDOUT = batch(48, 0), batch(20, 1)


@dataclass
class Output:
    """What a model of Hugging Face returns, as far as it is read."""

    loss: Tensor | None
    logits: Tensor


class Plain(nn.Module):
    """A plain network that the Trainer takes: inputs and labels by name, an output with loss and logits."""

    def __init__(self, wrap: Any = Output) -> None:
        nn.Module.__init__(self)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed, self.classifier = nn.Embedding(31, 8), nn.Linear(8, 3)
        self.wrap = wrap

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        weights = attention_mask[..., None].float()
        logits = self.classifier((self.embed(input_ids) * weights).sum(1) / weights.sum(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return self.wrap(loss=loss, logits=logits)


class AcceleratedOptimizer(torch.optim.Optimizer):
    """A stand-in for accelerate's: it has an optimiser inside, which does the update."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.optimizer = inner

    def step(self, closure: Any = None) -> None:
        self.optimizer.step()


@dataclass
class State:
    """What the events read of a TrainerState."""

    max_steps: int
    global_step: int = 0
    is_world_process_zero: bool = True


def hooks(folder: Path, **arguments: Any) -> HuggingFaceHooks:
    """Return the callback's events without transformers."""
    given: dict[str, Any] = {"train": TRAIN, "heldout": HELDOUT, "logits": None} | ALL | arguments
    return HuggingFaceHooks(request_of(folder, **given))


def fitted(callback: Any, model: nn.Module, state: State, updates: int, fail: bool = False) -> None:
    """Run a training through the events in the Trainer's order: the gradients are gone when a step ends."""
    optimizer = AcceleratedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    callback.on_train_begin(None, state, None, model=model, optimizer=optimizer)
    for _ in range(updates):
        model(**TRAIN).loss.backward()
        optimizer.step()
        optimizer.optimizer.zero_grad()
        state.global_step += 1
        callback.on_step_end(None, state, None, model=model)
    if fail:
        raise ZeroDivisionError
    callback.on_train_end(None, state, None, model=model)


def steps_of(folder: Path) -> list[int]:
    return load(folder).scalars["train_loss"].step.tolist()  # type: ignore[no-any-return]


def test_inputs_by_name_and_an_output_with_logits(tmp_path: Path) -> None:
    model = Plain()
    fitted(hooks(tmp_path / "run", save_at=SaveAt(per_decade=1)), model, State(7), 7)
    trajectory = load(tmp_path / "run")
    assert trajectory.last_step == trajectory.snapshots[-1].step == 7
    assert trajectory.scalars["gradient_norm.readout"].step.tolist()[-1] == 7, "the last step has its gradients"
    assert trajectory.settings["model"] == "Plain"
    assert trajectory.settings["readout"] == "classifier"
    assert trajectory.settings["optimizer"]["name"] == "SGD"
    expected = nn.functional.cross_entropy(model(**HELDOUT).logits.double(), HELDOUT["labels"])
    assert trajectory.scalars["heldout_loss"].value[0, -1] == pytest.approx(float(expected.detach()), rel=1e-6)


def test_best_weights_loaded_at_the_end_are_not_taken_for_the_last_step(tmp_path: Path) -> None:
    for name, most, updates in (("whole", 4, 4), ("early", 100, 4)):
        model, callback = Plain(), hooks(tmp_path / name, save_at=SaveAt(1, 0, 0, 0))
        on_train_end = callback.on_train_end

        def load_best(*given: Any, model: nn.Module = model, then: Any = on_train_end, **named: Any) -> None:
            model.load_state_dict({key: tensor * 2 for key, tensor in model.state_dict().items()})
            then(*given, **named)

        callback.on_train_end = load_best  # type: ignore[method-assign]
        fitted(callback, model, State(most), updates)
    assert steps_of(tmp_path / "whole") == [0, 1, 4]
    assert steps_of(tmp_path / "early") == [0, 1]
    assert not any("changed" in event.what for event in load(tmp_path / "whole").events)
    assert any("the weights were changed after the last" in event.what for event in load(tmp_path / "early").events)
    twice = Plain()
    fitted(hooks(tmp_path / "again", save_at=SaveAt(1, 0, 0, 0)), twice, State(4), 4)
    for name in ("train_loss", "heldout_loss"):
        ours, theirs = (load(tmp_path / run).scalars[name].value[0, -1] for run in ("whole", "again"))
        assert ours == theirs


def test_a_training_that_failed_leaves_its_folder_to_the_next(tmp_path: Path) -> None:
    model, callback = Plain(), hooks(tmp_path / "run")
    with pytest.raises(ZeroDivisionError):
        fitted(callback, model, State(9), 3, fail=True)
    assert steps_of(tmp_path / "run") == [0, 1, 2, 3]
    fitted(hooks(tmp_path / "run"), model, State(9, global_step=3), 2)  # another callback, in the same process
    assert steps_of(tmp_path / "run") == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ZeroDivisionError):
        fitted(callback, model, State(9, global_step=5), 1, fail=True)
    fitted(callback, model, State(9, global_step=6), 1)  # the same callback
    assert steps_of(tmp_path / "run") == list(range(8))
    gc.collect()
    assert not attached.LIVE


def test_a_failed_training_that_is_forgotten_lets_go_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fitted(hooks(tmp_path / "run"), Plain(), State(9), 3, fail=True)
    gc.collect()
    assert not attached.LIVE
    assert load(tmp_path / "run").settings["cost"]["evaluations"] == 4


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    fitted(hooks(tmp_path / "run"), Plain(), State(9, is_world_process_zero=False), 2)
    assert not (tmp_path / "run").exists()


def test_what_is_compiled_or_in_parallel_is_seen_through() -> None:
    model = Plain()
    compiled = nn.Module()
    compiled._orig_mod = model  # as torch.compile holds it
    assert attached.unwrapped(nn.DataParallel(compiled)) is model
    assert attached.unwrapped(model) is model


def test_tuples_are_taken_by_index_and_refused_without(tmp_path: Path) -> None:
    def pair(loss: Any, logits: Tensor) -> Any:
        return logits, loss

    state = State(3)
    with pytest.raises(InputError, match="the model returns a tuple"):
        hooks(tmp_path / "a").on_train_begin(None, state, None, model=Plain(pair), optimizer=None)
    callback = hooks(tmp_path / "b", logits=0)
    callback.on_train_begin(None, state, None, model=Plain(pair), optimizer=None)
    callback.on_train_end(None, state, None)
    assert steps_of(tmp_path / "b") == [0]


def test_without_transformers_one_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "transformers.trainer_callback", None)
    with pytest.raises(InputError, match=r"install it with pip install 'twoclocks\[hf\]'$"):
        tc.HuggingFaceRecorder(tmp_path / "run", train=TRAIN, heldout=HELDOUT)


# With the real package: `make test-frameworks`.

REAL = [pytest.mark.frameworks]


def bert() -> Any:
    """Return a tiny BERT with a classifier."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**sizes, intermediate_size=32, num_labels=3))


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A batch as a data set of rows."""

    def __init__(self, whole: dict[str, Tensor], fail_at: int | None = None) -> None:
        self.whole, self.seen, self.fail_at = whole, 0, fail_at

    def __len__(self) -> int:
        return len(self.whole["labels"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        self.seen += 1
        if self.seen == self.fail_at:
            raise ZeroDivisionError("mine")
        return {name: tensor[row] for name, tensor in self.whole.items()}


def trained(
    root: Path, model: Any, callbacks: list[Any], resume: Any = None, fail_at: int | None = None, **arguments: Any
) -> Any:
    """Run a real Trainer: 6 batches of 8 an epoch."""
    from transformers import Trainer, TrainingArguments

    settings: dict[str, Any] = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    settings |= {"per_device_train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 1e-2, "seed": 3}
    args = TrainingArguments(output_dir=str(root / "out"), **(settings | arguments))
    trainer = Trainer(
        model, args, train_dataset=Rows(TRAIN, fail_at), eval_dataset=Rows(HELDOUT), callbacks=[*callbacks]
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def real(folder: Path, **arguments: Any) -> Any:
    return tc.HuggingFaceRecorder(folder, **({"train": TRAIN, "heldout": HELDOUT} | ALL | arguments))


class TestWithTransformers:
    """Real trainings."""

    pytestmark = REAL

    @pytest.mark.parametrize("build", [bert, Plain])
    def test_the_training_is_the_same_to_the_bit(self, tmp_path: Path, build: Any) -> None:
        ends = []
        for callbacks in ([], [real(tmp_path / "run")]):
            model = build() if build is bert else Plain(lambda **output: output)
            trained(tmp_path, model, callbacks, eval_strategy="epoch", eval_on_start=True)
            ends.append([*model.state_dict().values(), torch.rand(3)])
        assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
        assert len(ends[0]) > 3
        trajectory = load(tmp_path / "run")
        assert steps_of(tmp_path / "run") == list(range(13))
        rates = trajectory.scalars["lr"].value[0, 1:]
        np.testing.assert_allclose(rates, 1e-2 * (1 - np.arange(12) / 12), rtol=1e-6)
        assert trajectory.scalars["gradient_norm.readout"].step.tolist() == list(range(1, 13))
        assert trajectory.settings["readout"] == "classifier"
        assert trajectory.settings["model"] == ("BertForSequenceClassification" if build is bert else "Plain")
        assert tc.diagnose(tmp_path / "run").label

    def test_steps_under_accumulation_are_updates(self, tmp_path: Path) -> None:
        trainer = trained(tmp_path, bert(), [real(tmp_path / "run")], gradient_accumulation_steps=4)
        assert steps_of(tmp_path / "run") == list(range(trainer.state.global_step + 1)) == [0, 1, 2, 3, 4]

    def test_a_training_from_a_checkpoint_goes_on(self, tmp_path: Path) -> None:
        trained(tmp_path, bert(), [real(tmp_path / "run")], save_strategy="steps", save_steps=6, num_train_epochs=2)
        at = str(tmp_path / "out" / "checkpoint-6")
        trained(tmp_path, bert(), [real(tmp_path / "run")], resume=at, num_train_epochs=2)
        assert steps_of(tmp_path / "run") == list(range(13))
        what = load(tmp_path / "run").events[-1].what
        assert what.startswith("recording was taken up again at step 7, after step 12")
        with pytest.raises(InputError, match=r"goes on at step 6, and .* does not hold what came before"):
            trained(tmp_path, bert(), [real(tmp_path / "new")], resume=at)

    def test_an_exception_in_training_keeps_what_was_recorded(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError, match="mine"):
            trained(tmp_path, bert(), [real(tmp_path / "run")], fail_at=44)
        recorded = steps_of(tmp_path / "run")
        assert recorded == list(range(len(recorded)))
        assert len(recorded) >= 4
        trained(tmp_path, bert(), [real(tmp_path / "run")])
        assert steps_of(tmp_path / "run") == list(range(13))

    def test_the_best_weights_are_not_taken_for_the_last(self, tmp_path: Path) -> None:
        each = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
        sparse = SaveAt(1, 0, 0, 0)
        trained(tmp_path, bert(), [real(tmp_path / "a", save_at=sparse)], **each)
        model = bert()
        trained(
            tmp_path,
            model,
            [real(tmp_path / "b", save_at=sparse)],
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=True,  # the first, so that the best weights are not the last
            **each,
        )
        last = load(tmp_path / "b").snapshots[-1].tensors["weights/classifier.weight"][0]
        assert not np.array_equal(last, model.classifier.weight.detach())
        for name in ("train_loss", "heldout_loss"):
            one, other = (load(tmp_path / run).scalars[name] for run in "ab")
            assert one.step.tolist() == other.step.tolist() == [0, 1, 10, 12]
            np.testing.assert_array_equal(one.value, other.value)

    def test_bfloat16(self, tmp_path: Path) -> None:
        trained(tmp_path, bert(), [real(tmp_path / "run")], bf16=True)
        assert steps_of(tmp_path / "run") == list(range(13))

    def test_the_callback_is_transformers_and_can_be_copied(self, tmp_path: Path) -> None:
        callback = real(tmp_path / "run")
        assert isinstance(callback, callback_base())
        assert copy.deepcopy(callback)._request.folder == tmp_path / "run"
