"""This file knows how a training that a framework runs is recorded: its examples, its logits, its steps, its end."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from twoclocks.errors import InputError
from twoclocks.sources.recorder import Recorder
from twoclocks.store import JOURNAL, read_journal

LOGGER = logging.getLogger("twoclocks")
LABELS = ("labels", "label")
LogitsOf = str | int | Callable[[Any], Tensor] | None


@dataclass(frozen=True)
class Request:
    """What the user asked for: where to record, the examples, how the model is called, what of its output is logits."""

    folder: Path
    train: tuple[Any, Any]
    heldout: tuple[Any, Any]
    keywords: tuple[str, ...] | None
    logits: LogitsOf
    arguments: Mapping[str, Any]


def request_of(folder: str | Path, train: Any, heldout: Any, logits: LogitsOf, **arguments: Any) -> Request:
    """Check and keep what the user asked for; inputs given by name stay in the order of the training examples.

    Raises:
        InputError: the examples have no labels, or the splits have other names of inputs.
    """
    pairs = {split: inputs_and_labels(split, given) for split, given in (("train", train), ("heldout", heldout))}
    names = {split: names_of(inputs) for split, (inputs, _) in pairs.items()}
    if set(names["train"] or ()) != set(names["heldout"] or ()):
        one, other = (", ".join(names[split] or ()) or "no names" for split in ("train", "heldout"))
        raise InputError(f"train and heldout must have the same inputs, got {one} and {other}")
    keywords = names["train"]
    ordered = {
        split: (inputs if keywords is None else tuple(inputs[name] for name in keywords), labels)
        for split, (inputs, labels) in pairs.items()
    }
    return Request(Path(folder), ordered["train"], ordered["heldout"], keywords, logits, arguments)


def inputs_and_labels(split: str, given: Any) -> tuple[Any, Any]:
    """Return inputs and labels, given as a pair or as one mapping that holds both."""
    if isinstance(given, Mapping):
        named = next((name for name in LABELS if name in given), None)
        if named is None:
            raise InputError(f"{split}: no 'labels' among {', '.join(map(str, given))}; add them, or give a pair")
        return {name: value for name, value in given.items() if name != named}, given[named]
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise InputError(
            f"{split}: expected (inputs, labels) or a mapping of tensors with 'labels', got {type(given).__name__}"
        )
    return given[0], given[1]


def names_of(inputs: Any) -> tuple[str, ...] | None:
    """Return the names under which inputs are given; None where they are given by position."""
    if not isinstance(inputs, Mapping):
        return None
    if not inputs:
        raise InputError("the examples have labels alone; give the inputs that the model takes too")
    return tuple(str(name) for name in inputs)


class Logits(nn.Module):
    """A model seen through its logits alone; its layers, parameters and their names are the model's own."""

    seen: nn.Module
    keywords: tuple[str, ...] | None
    logits: LogitsOf

    def __init__(self, model: nn.Module, keywords: tuple[str, ...] | None, logits: LogitsOf) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(seen=model, keywords=keywords, logits=logits)  # no child: names would get a prefix

    def forward(self, *inputs: Tensor) -> Any:
        """Call the model with its inputs by name, or by position, and return its logits."""
        if self.keywords is None:
            return logits_of(self.seen(*inputs), self.logits)
        return logits_of(self.seen(**dict(zip(self.keywords, inputs, strict=True))), self.logits)

    def named_modules(self, *arguments: Any, **named: Any) -> Iterator[tuple[str, nn.Module]]:
        """Return the modules of the model."""
        modules: Iterator[tuple[str, nn.Module]] = self.seen.named_modules(*arguments, **named)
        return modules

    def get_submodule(self, target: str) -> nn.Module:
        """Return a module of the model."""
        return self.seen.get_submodule(target)


def logits_of(output: Any, logits: LogitsOf) -> Any:
    """Return the logits in a model's output: by a function, a key or an index, or what is called `logits` in it."""
    if callable(logits):
        return logits(output)
    if logits is not None:
        return output[logits]
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    return getattr(output, "logits", output)


def seen_by_logits(model: nn.Module, request: Request) -> nn.Module:
    """Return the model as what the recorder takes: tensors in, logits out, under the name of its own class."""
    kind = type(type(model).__name__, (Logits,), {})
    return kind(model, request.keywords, request.logits)  # type: ignore[no-any-return]


@dataclass(eq=False)
class Attachment:
    """A recorder at work in a framework's training: fed by every step of its optimisers, until that training ends."""

    recorder: Recorder
    steps_done: Callable[[], int]
    watched: nn.Parameter
    last_step: int | None
    step: int
    began: int
    version: int
    handles: list[RemovableHandle] = field(default_factory=list)

    def after_update(self, *_: Any) -> None:
        """Record after an optimiser's update; the framework counts it only after this."""
        self.reach(max(self.step, self.steps_done()) + 1)

    def catch_up(self) -> None:
        """Record a step that the framework counted though no optimiser took it, as after an overflow of float16."""
        if self.steps_done() > self.step:
            self.reach(self.steps_done())

    def reach(self, step: int) -> None:
        """Give a step to the recorder, and close it with the last one, while the gradients are still there."""
        self.step, self.version = step, self.watched._version
        self.recorder.step(step)
        if step == self.last_step:
            self.recorder.close()

    def end(self) -> None:
        """Close the folder with an evaluation of the last step, unless the model holds other weights by now."""
        if self.watched._version == self.version:
            self.recorder.close()
        elif not self.recorder._writer.journal.closed:
            what = f"the weights were changed after the last update, so step {self.step} is recorded only if it was due"
            self.recorder._say(self.step, what, kind="changed")
        if self.step == self.began:
            LOGGER.warning("%s: no update of an optimiser was seen", self.recorder._writer.folder)
        self.abandon()

    def abandon(self) -> None:
        """Close the folder as it is, and say what that cost: what was recorded is kept."""
        self.recorder.__exit__(InterruptedError, None, None)
        self.let_go()

    def let_go(self) -> None:
        """Leave the optimisers, and say what recording has cost."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        folder = self.recorder._writer.folder
        if LIVE.get(folder.resolve()) is self:
            del LIVE[folder.resolve()]
            LOGGER.info("%s: %s", folder, cost_in_words(self.recorder))


LIVE: weakref.WeakValueDictionary[Path, Attachment] = weakref.WeakValueDictionary()


def attach(
    request: Request,
    model: nn.Module,
    optimizers: Sequence[Any],
    steps_done: Callable[[], int],
    last_step: int | None = None,
) -> Attachment:
    """Begin to record a training, or take it up again; `steps_done` counts the optimiser's updates so far.

    Raises:
        InputError: the model cannot be recorded, or the folder lacks what came before.
    """
    refuse_sharded(model)
    close_left_open(request.folder)
    refuse_late_beginning(request.folder, steps_done())
    first = next((one for one in optimizers if isinstance(one, Optimizer)), None)
    recorder = Recorder(
        request.folder,
        seen_by_logits(model, request),
        train=request.train,
        heldout=request.heldout,
        optimizer=first,
        **request.arguments,
    )
    watched = next((p for p in model.parameters() if p.requires_grad), next(model.parameters()))
    at = steps_done()
    attachment = Attachment(recorder, steps_done, watched, last_step, at, at, watched._version)
    attachment.handles += [
        one.register_step_post_hook(attachment.after_update) for one in optimizers if isinstance(one, Optimizer)
    ]
    LIVE[request.folder.resolve()] = attachment
    if len(optimizers) > 1:
        what = (
            f"{len(optimizers)} optimisers: steps count the updates of all of them, lr is that of the first, and "
            "flow_time adds it up at every step"
        )
        recorder._say(at, what, kind="optimizers")
    return attachment


def cost_in_words(recorder: Recorder) -> str:
    """Return what recording has cost, as one sentence."""
    cost = recorder.cost
    share = f"{100 * cost.share:.2g} %" if cost.training_seconds > 0 else "all"
    return (
        f"recording took {cost.recording_seconds:.3g} s, {share} of {cost.training_seconds:.3g} s of training "
        f"({cost.evaluations} evaluations, {cost.skipped} skipped to keep within the budget)"
    )


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model whose weights are spread over processes: one process alone cannot run it."""
    spread = any(hasattr(p, "ds_id") or hasattr(p, "device_mesh") for p in model.parameters())
    if spread or any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise InputError(
            "the model's weights are spread over several processes (FSDP, DeepSpeed ZeRO-3 or tensor parallel), which this "
            "callback cannot record; save checkpoints and use twoclocks replay"
        )


def close_left_open(folder: Path) -> None:
    """Close the recording that a training of this process left open in the folder when it failed."""
    left = LIVE.get(folder.resolve())
    if left is not None:
        left.abandon()


def refuse_late_beginning(folder: Path, step: int) -> None:
    """Refuse to begin in the middle: what is called step 0 would not be the beginning."""
    if step > 0 and not ((folder / JOURNAL).exists() and read_journal(folder / JOURNAL).scalars):
        raise InputError(
            f"the training goes on at step {step}, and {folder} does not hold what came before; give the folder of its "
            "first part, or record from the start"
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside what torch.compile and data parallelism put around it."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model
