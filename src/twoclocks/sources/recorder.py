"""This file knows how a training loop that is not ours is recorded."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from twoclocks.errors import InputError
from twoclocks.sources.evaluation import Look, device_of, look, one_line
from twoclocks.sources.observation import (
    Blocks,
    scalars_of_blocks,
    scalars_of_descent,
    scalars_of_gradient,
    scalars_of_logits,
)
from twoclocks.sources.schedule import Cost, FlowTime, Ledger, Schedule, next_snapshot
from twoclocks.sources.subject import (
    check_same_examples,
    checked_subject,
    eval_batches,
    manifest_of,
    starts_alike,
    tensors_of,
)
from twoclocks.store import JOURNAL, RunWriter, check_step, open_writer, read_journal
from twoclocks.trajectory import SaveAt

LOGGER = logging.getLogger("twoclocks")
FAILURES_TO_STOP = 3


class Recorder:
    """Records a plain PyTorch training into a run folder.

        recorder = Recorder("runs/mine", model, readout="fc", train=(x, y), heldout=(xh, yh))
        for step in range(1, steps + 1):
            ...
            optimizer.step()
            recorder.step(step)
        recorder.close()

    The state at construction is recorded as step 0. No evaluation changes the model, its modes, buffers and gradients,
    or any global random number generator: the training is the same, to the bit, as without a recorder.

    Args:
        folder: the run folder: new, or that of this same training, which is then taken up again. What it holds from
            the first step given on is left out from then on.
        model: the model in training; it returns logits `[n c]`.
        train: `(inputs, labels)` of training examples, labels from 0 to c − 1; several inputs go as a tuple.
        heldout: the same, of examples that the training does not see.
        readout: the name of the linear layer that gives the logits; found by itself where it is the last layer.
        optimizer: where given, `lr` (of its first group) and `flow_time` are recorded; step a scheduler after that.
        save_at: which steps are recorded, and what of them.
        blocks: parameter names by block, whose norms and update sizes are recorded; what they leave out becomes the
            block `rest`. By default each child module is one, and the readout; beyond 12, `encoder` and `readout`.
        budget: the share of the training time that recording may cost. To keep within it evaluations are skipped, and
            snapshots put off; step 0, one evaluation in each factor of ten of steps, and the last one are always taken.
            `math.inf` keeps the whole schedule.
        strict: raise the recorder's own errors. Otherwise each is an event in the journal, said once through `logging`,
            and the training goes on; after three in a row recording stops.

    Raises:
        InputError: an argument does not fit, or the folder holds something else.
    """

    def __init__(
        self,
        folder: str | Path,
        model: nn.Module,
        *,
        train: Any,
        heldout: Any,
        readout: str | None = None,
        optimizer: Optimizer | None = None,
        save_at: SaveAt | None = None,
        blocks: Blocks | None = None,
        budget: float = 0.03,
        strict: bool = False,
    ) -> None:
        if not isinstance(cast(Any, budget), Real) or not budget > 0:
            raise InputError(f"budget must be a share of the training time above 0, such as 0.03, got {budget!r}")
        self._subject, first = checked_subject(model, train, heldout, readout, blocks, save_at or SaveAt())
        manifest = manifest_of(self._subject, first, optimizer, budget)
        self._optimizer, self._strict = optimizer, strict
        self._ledger, self._schedule = Ledger(budget), Schedule(self._subject.save_at)
        self._flow = FlowTime(lr=0.0 if optimizer is None else learning_rate(optimizer))
        self._last = self._last_kept = self._failures = self._restarts = 0
        self._before: tuple[int, dict[str, Tensor]] | None = None
        self._resumed = self._off = False
        self._said: set[str] = set()
        self._writer = open_writer(Path(folder), manifest)
        self._finish = weakref.finalize(self, finish, self._writer, self._ledger, os.getpid())
        try:
            self._begin()
        except BaseException:
            self._off = True
            self._finish()
            raise

    @property
    def readout(self) -> str:
        """Return the name of the readout, given or found."""
        return self._subject.readout

    @property
    def cost(self) -> Cost:
        """Return what recording has cost so far."""
        return self._ledger.cost

    def step(self, step: int) -> None:
        """Record the model after its `step`-th update, if that is due.

        Call it after every `optimizer.step()`, counting updates from 1 over the whole training. In a loop over
        `range(n)` each step is one less than the updates done; its step 0 is ignored, as step 0 is recorded already.
        A step given twice in a row is ignored; a smaller one is a restart, and from there on steps are recorded anew.
        """
        if self._off:
            return
        if step == self._last + 1 and step + 1 < self._schedule.evaluation:
            self._pass(step)  # nearly every call ends here: half a microsecond, and the only cost that is not entered
        else:
            with self._guarded(step):
                self._advance(check_step(step))

    def close(self) -> None:
        """Record the model as it is now as the last step given, write what recording cost, and let go of the folder.

        Where it is not called, the folder is closed when the interpreter ends, without that last evaluation: by then
        the model may hold other weights.
        """
        try:
            if not self._off and self._last > self._last_kept:
                with self._guarded(self._last):
                    self._record(self._last, keeps=True)
        finally:
            self._off = True
            self._finish()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        self._off = True
        self._finish()

    def _begin(self) -> None:
        """Record step 0 of a new folder, or take up what the folder holds."""
        folder = self._writer.folder
        journal = read_journal(folder / JOURNAL)
        if not journal.scalars:
            self._writer.write_batches(eval_batches(self._subject))
            with self._guarded(0):
                self._record(0, keeps=True)
            self._schedule.restart_at(1)
            self._keep_weights(0)
            return
        check_same_examples(folder, self._subject)
        self._resumed = True
        self._restarts = len(journal.restarts)
        self._starts_alike = starts_alike(folder, self._subject)
        self._ledger.carry_over(journal.cost)
        self._last = self._last_kept = max(int(series.step[-1]) for series in journal.scalars.values())
        if "flow_time" in journal.scalars:
            flow = journal.scalars["flow_time"]
            self._flow.recorded = dict(zip(flow.step.tolist(), flow.value[0].tolist(), strict=True))

    @contextmanager
    def _guarded(self, step: int) -> Iterator[None]:
        """Enter the time of what is inside as cost, and keep its errors from the training."""
        with self._ledger.running():
            try:
                yield
            except Exception as error:
                if self._strict:
                    raise
                self._note_failure(step, error)

    def _advance(self, step: int) -> None:
        """Find out how a step follows on the last, and evaluate if that is due."""
        if self._resumed:
            self._take_up(step)
        elif step == self._last and step > 0:
            self._repeat(step)
            return
        elif step < self._last:
            self._go_back(step)
        self._pass(step)
        if step > 0 and step >= self._schedule.evaluation:
            self._reach(step)
        if step + 1 >= self._schedule.evaluation and self._takes(step + 1):
            self._keep_weights(step)

    def _pass(self, step: int) -> None:
        """Take note of a step."""
        self._last = step
        if self._optimizer is not None:
            self._flow.advance(step, learning_rate(self._optimizer))

    def _takes(self, step: int, keeps: bool = False) -> bool:
        """Return whether an evaluation due at `step` is taken."""
        return step >= self._schedule.landmark or self._ledger.affords(keeps)

    def _keep_weights(self, step: int) -> None:
        """Keep the weights of one step before an evaluation, to measure the size of the update."""
        self._before = (step, {name: tensor.clone() for name, tensor in self._subject.parameters.items()})

    def _reach(self, step: int) -> None:
        """Take the evaluation that is due, or skip it."""
        due = step >= self._schedule.snapshot
        keeps = due and self._ledger.affords(keeps=True)
        takes = self._takes(step, keeps)
        self._schedule.postponed |= due and not keeps
        self._schedule.move_past(step)
        if takes:
            self._record(step, keeps)
        else:
            self._ledger.skip(step)

    def _record(self, step: int, keeps: bool) -> None:
        """Evaluate and write one moment."""
        settled = seconds_to_settle(self._subject.model)
        began = perf_counter()
        looks = look(self._subject.model, self._subject.readout, self._subject.examples)
        if keeps:
            tensors, flow_time = tensors_of(self._subject, looks), self._time_of(step).get("flow_time")
            self._writer.write_snapshot(step, tensors, flow_time, self._restarts)
        self._writer.append_scalars(step, self._scalars(step, looks))
        self._ledger.write_skips(self._writer)
        self._ledger.take(keeps, perf_counter() - began, settled)
        if keeps:
            self._enter_snapshot(step)
        self._failures = 0

    def _scalars(self, step: int, looks: Mapping[str, Look]) -> dict[str, float]:
        """Return the scalars of one moment, with update sizes where the weights of the step before were kept."""
        scalars = self._time_of(step)
        for examples in self._subject.examples:
            logits = looks[examples.split].logits
            scalars |= scalars_of_logits(examples.split, logits, examples.labels.to(logits.device))
        before = self._before[1] if self._before is not None and self._before[0] == step - 1 else None
        self._before = None
        scalars |= scalars_of_blocks(self._subject.parameters, before, self._subject.blocks)
        return scalars if step == 0 else scalars | self._scalars_of_gradients(before)

    def _scalars_of_gradients(self, before: Mapping[str, Tensor] | None) -> dict[str, float]:
        """Return the gradient's norm by block, as the last step of the optimiser used it, and what that step gained."""
        gradients, blocks = gradients_of(self._subject.model), self._subject.blocks
        scalars = scalars_of_gradient(gradients, blocks)
        if before is None:
            return scalars
        return scalars | scalars_of_descent(gradients, before, self._subject.parameters, blocks)

    def _time_of(self, step: int) -> dict[str, float]:
        """Return the learning rate and the sum of learning rates at a step, where the optimiser is known."""
        if self._optimizer is None:
            return {}
        self._flow.recorded[step] = self._flow.value
        return {"lr": self._flow.lr, "flow_time": self._flow.value}

    def _enter_snapshot(self, step: int) -> None:
        """Enter that the tensors of a step are kept, and what recording has cost by then."""
        if self._schedule.postponed:
            self._writer.append_event(
                step, f"the snapshot due at step {self._schedule.snapshot:g} was put off to step {step}"
            )
        self._schedule.postponed = False
        self._schedule.snapshot = next_snapshot(step, self._subject.save_at)
        self._last_kept = step
        self._ledger.write_cost(self._writer)

    def _repeat(self, step: int) -> None:
        """Ignore a step that was given before, and say so once."""
        if "repeat" not in self._said:
            self._say(step, f"step {step} was given twice; such second calls are ignored", kind="repeat")

    def _take_up(self, step: int) -> None:
        """Go on with what the folder holds, at the first step given after the training was started again."""
        if step <= 1 and not self._starts_alike:
            self._off = True
            raise InputError(
                f"{self._writer.folder} holds another training, up to step {self._last}, begun from other weights; "
                "recording is off: choose another folder"
            )
        what = f"recording was taken up again at step {step}, after step {self._last}"
        if step <= self._last and self._last > 0:
            self._writer.append_restart(max(step, 1))  # step 0 stays as it is
            self._restarts += 1
            what += "; what was recorded from that step on before is left out"
        self._resumed = False
        self._restart_at(step)
        self._writer.append_event(step, what)

    def _go_back(self, step: int) -> None:
        """Go on from a step before the last one."""
        self._say(
            step,
            f"the step went back from {self._last} to {step}; what is recorded from there on replaces what was "
            "(if this is no restart: count updates over the whole training, not in each epoch)",
            kind="back",
        )
        self._restart_at(step)

    def _restart_at(self, step: int) -> None:
        """Record anew from `step` on; step 0 stays as it is."""
        step = max(step, 1)
        self._schedule.restart_at(step)
        self._flow.restart_at(step)
        self._before, self._last_kept = None, step - 1

    def _say(self, step: int | None, what: str, kind: str) -> None:
        """Write an event, and say the first of its kind aloud."""
        if kind not in self._said:
            self._said.add(kind)
            LOGGER.warning("%s: %s", self._writer.folder, what)
        self._writer.append_event(step, what)

    def _note_failure(self, step: Any, error: Exception) -> None:
        """Note an error of the recorder, and stop recording after several in a row."""
        self._failures += 1
        self._off |= self._failures >= FAILURES_TO_STOP
        end = "; recording stops, the training goes on" if self._off else ""
        with suppress(Exception):  # the journal itself may be what failed
            self._say(
                step if isinstance(step, int) and step >= 0 else None,
                f"recording failed: {one_line(error)}{end}",
                kind=f"failure{end}",
            )


def finish(writer: RunWriter, ledger: Ledger, pid: int) -> None:
    """Write the last account and let go of the folder; a forked child leaves both to its parent."""
    if os.getpid() != pid or writer.journal.closed:
        return
    try:
        with writer:
            ledger.write_skips(writer)
            ledger.write_cost(writer)
    except InputError as error:
        LOGGER.warning("%s", error)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients that the last backward left, by parameter: those of the last batch, clipped if they were."""
    held = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: grad.detach() for name, grad in held.items() if grad is not None and grad.layout is torch.strided}


def learning_rate(optimizer: Optimizer) -> float:
    """Return the learning rate of the optimiser's first group."""
    return float(optimizer.param_groups[0]["lr"])


def seconds_to_settle(model: nn.Module) -> float:
    """Wait for what the training still computes on a CUDA device, and return how long that took."""
    if device_of(model).type != "cuda":
        return 0.0
    began = perf_counter()
    torch.cuda.synchronize(device_of(model))
    return perf_counter() - began
