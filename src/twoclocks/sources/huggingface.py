"""This file knows how a training by Hugging Face's Trainer is recorded: by one callback."""

from __future__ import annotations

import importlib
from functools import cache, partial
from pathlib import Path
from typing import Any

from twoclocks.errors import InputError
from twoclocks.sources.attached import Attachment, LogitsOf, Request, attach, request_of, unwrapped
from twoclocks.sources.observation import Blocks
from twoclocks.trajectory import SaveAt


def HuggingFaceRecorder(
    folder: str | Path,
    *,
    train: Any,
    heldout: Any,
    readout: str | None = None,
    logits: LogitsOf = None,
    save_at: SaveAt | None = None,
    blocks: Blocks | None = None,
    budget: float = 0.03,
    strict: bool = False,
) -> Any:
    """Return a callback for Hugging Face's Trainer that records the training into a run folder.

        trainer = Trainer(model, args, …, callbacks=[tc.HuggingFaceRecorder("runs/mine", train=batch, heldout=other)])

    Step 0 is the model before its first update; evaluation and prediction are not recorded. A step is an update of
    the optimiser, as `state.global_step` counts them. A training from a checkpoint goes on in its folder.

    Args:
        folder: the run folder, as a Recorder takes it; so are `readout`, `save_at`, `blocks`, `budget` and `strict`.
        train: one mapping of tensors, with the inputs by the names that the model takes and `labels`, as a data
            collator returns it; or `(inputs, labels)`, where inputs are such a mapping, a tensor or a tuple of them.
        heldout: the same, of examples that the training does not see.
        logits: what of the model's output is the logits `[n c]`: a key, an index or a function; by default what is
            called `logits` in it, or all of it.

    Raises:
        InputError: transformers is not installed, or the examples are not such; at the start, as a Recorder does.
    """
    request = request_of(
        folder,
        train,
        heldout,
        logits,
        readout=readout,
        save_at=save_at,
        blocks=blocks,
        budget=budget,
        strict=strict,
    )
    again = partial(
        HuggingFaceRecorder,
        folder,
        train=train,
        heldout=heldout,
        readout=readout,
        logits=logits,
        save_at=save_at,
        blocks=blocks,
        budget=budget,
        strict=strict,
    )
    return callback_class(callback_base())(request, again)


class HuggingFaceHooks:
    """What the callback does at each of the Trainer's events."""

    def __init__(self, request: Request, again: Any = None) -> None:
        self._request, self._again = request, again
        self._attachment: Attachment | None = None

    def __reduce__(self) -> Any:
        return self._again, ()  # a copy begins anew

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record step 0; what an earlier training left open when it failed is closed first."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.abandon()
        if state.is_world_process_zero:
            self._attachment = attach(
                self._request,
                unwrapped(given["model"]),
                [inner_optimizer(given.get("optimizer"))],
                lambda: int(state.global_step),
                int(state.max_steps),
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take note of steps that no hook of the optimiser told of."""
        if self._attachment is not None:
            self._attachment.catch_up()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the folder; where training stopped early, record the last step."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.end()


def inner_optimizer(optimizer: Any) -> Any:
    """Return the optimiser that accelerate wrapped, which is the one that updates the weights."""
    return optimizer.optimizer if type(optimizer).__name__ == "AcceleratedOptimizer" else optimizer


@cache
def callback_class(base: type) -> Any:
    """Return our hooks as a subclass of the Trainer's callback."""
    return type("HuggingFaceRecorder", (HuggingFaceHooks, base), {"__module__": __name__})


def callback_base() -> Any:
    """Return transformers' TrainerCallback.

    Raises:
        InputError: transformers is not installed.
    """
    try:
        return importlib.import_module("transformers.trainer_callback").TrainerCallback
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "transformers.trainer_callback"):
            raise
    raise InputError("HuggingFaceRecorder needs transformers; install it with pip install 'twoclocks[hf]'")
