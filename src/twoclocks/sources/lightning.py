"""This file knows how a Lightning training is recorded: by one callback."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from twoclocks.errors import InputError
from twoclocks.sources.attached import Attachment, LogitsOf, Request, attach, request_of
from twoclocks.sources.observation import Blocks
from twoclocks.trajectory import SaveAt

LOGGER = logging.getLogger("twoclocks")
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def LightningRecorder(
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
    """Return a Lightning callback that records the training into a run folder.

        trainer = L.Trainer(callbacks=[tc.LightningRecorder("runs/mine", train=(x, y), heldout=(xh, yh))])

    Step 0 is the model before its first update; sanity checks, validation and prediction are not recorded. A step is
    an update of an optimiser, as `trainer.global_step` counts them. A fit from a checkpoint goes on in its folder.

    Args:
        folder: the run folder, as a Recorder takes it; so are `readout`, `save_at`, `blocks`, `budget` and `strict`.
        train: `(inputs, labels)`, where inputs are a tensor, a tuple of them, or a mapping by the names that `forward`
            takes; or one mapping with `labels` in it.
        heldout: the same, of examples that the training does not see.
        logits: what of `forward`'s output is the logits `[n c]`: a key, an index or a function; by default all of it,
            or what is called `logits` in it.

    Raises:
        InputError: Lightning is not installed, or the examples are not such; at fit start, as a Recorder does.
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
        LightningRecorder,
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


class LightningHooks:
    """What the callback does at each of Lightning's hooks."""

    def __init__(self, request: Request, again: Any = None) -> None:
        self._request, self._again = request, again
        self._attachment: Attachment | None = None

    def __reduce__(self) -> Any:
        return self._again, ()  # a copy, or the same in a launched process, begins anew

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Record step 0, after the sanity check and after a checkpoint was restored."""
        self.teardown()
        if getattr(trainer, "fast_dev_run", False):
            LOGGER.info("%s: nothing is recorded in a fast_dev_run", self._request.folder)
        elif trainer.is_global_zero:
            optimizers: Sequence[Any] = trainer.optimizers
            self._attachment = attach(self._request, pl_module, optimizers, lambda: int(trainer.global_step))

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Take note of steps that no hook of an optimiser told of."""
        if self._attachment is not None:
            self._attachment.catch_up()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Record the last step and close the folder."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.end()

    def on_exception(self, *_: Any, **__: Any) -> None:
        """Close the folder as it is, after an error or an interruption."""
        self.teardown()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Close what is still open."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.abandon()


@cache
def callback_class(base: type) -> Any:
    """Return our hooks as a subclass of Lightning's Callback."""
    return type("LightningRecorder", (LightningHooks, base), {"__module__": __name__})


def callback_base() -> Any:
    """Return the Callback of Lightning, under the one of its two names that the program already uses.

    Raises:
        InputError: neither is installed.
    """
    for name in sorted(PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError as error:
            if error.name not in (name, name.split(".")[0]):
                raise
    raise InputError("LightningRecorder needs Lightning; install it with pip install 'twoclocks[lightning]'")
