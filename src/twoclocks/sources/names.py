"""This file knows what the name of a column says: which quantity it holds, of which split, and in which form.

Names are recognised by their words, not by a list of whole names: a split (train, or one of test, val, valid, validation,
eval, dev, heldout) and a quantity (loss, accuracy or error).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CANONICAL = ("step", "epoch", "train_loss", "train_accuracy", "heldout_loss", "heldout_accuracy", "lr", "weight_norm")
STEP_NAMES = (
    "step", "steps", "global_step", "globalstep", "iteration", "iterations", "iter", "iters", "it", "update",
    "updates", "num_updates", "optimizer_step", "optimizer_steps", "opt_step", "training_step", "train_step", "batch", "t",
    "_step",
)  # fmt: skip
EPOCH_NAMES = ("epoch", "epochs", "_epoch", "ep")
LR_NAMES = ("lr", "learning_rate", "learningrate")
NORM_NAMES = ("weight_norm", "wn", "wn_total", "param_norm", "parameter_norm", "weights_norm", "l2_norm", "norm")
RUN_NAMES = ("seed", "run_name", "run", "trial", "run_id")
TRAIN_WORDS = frozenset({"train", "training", "trn", "tr"})
HELDOUT_WORDS = (
    "heldout",
    "held",
    "holdout",
    "val",
    "valid",
    "validation",
    "test",
    "testing",
    "eval",
    "evaluation",
    "dev",
)
LOSS_WORDS = frozenset({"loss", "nll", "ce", "xent", "crossentropy", "mse", "risk", "cost", "objective"})
ACCURACY_WORDS = frozenset({"acc", "accuracy", "accuracies", "top1"})
ERROR_WORDS = frozenset({"error", "err", "errors"})
PERPLEXITY_WORDS = frozenset({"perplexity", "ppl"})
IDLE_WORDS = frozenset(
    {"out", "set", "split", "mean", "avg", "average", "epoch", "step", "rate", "cross", "entropy", "categorical", "sparse",
     "binary", "metrics", "metric", "history", "total", "running", "score", "the", "of", "on", "1", "top", "full", "final"}
)  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """What a column was taken to be: the canonical name, how its values become ours, and how sure the name is."""

    canonical: str
    form: str  # "as is", "error" (1 − value) or "perplexity" (log value)
    doubt: int  # words of the name that carry no meaning here; the least doubtful column of a kind is used


def meaning_of(name: str) -> Meaning | None:
    """Return what a column is by its name, or None where the name says nothing known.

    >>> meaning_of("Val Acc").canonical, meaning_of("test_error").form, meaning_of("loss").canonical, meaning_of("beta")
    ('heldout_accuracy', 'error', 'train_loss', None)
    """
    name = name.rsplit(" - ", 1)[-1]  # some exports put the run's name in front
    plain, words = snake(name), words_of(name)
    for canonical, known in (
        ("step", STEP_NAMES),
        ("epoch", EPOCH_NAMES),
        ("lr", LR_NAMES),
        ("weight_norm", NORM_NAMES),
    ):
        tail = "_".join(words[1:]) if len(words) > 1 and words[0] in {"train", "trainer", "optim"} else plain
        if plain in known or tail in known:
            written = next(n for n in (name.strip().lower(), plain, tail) if n in known)
            return Meaning(canonical, "as is", 0 if written == canonical else 1 + known.index(written))
    kind = next(
        (
            (quantity, form, group)
            for group, quantity, form in (
                (ACCURACY_WORDS, "accuracy", "as is"),
                (LOSS_WORDS, "loss", "as is"),
                (ERROR_WORDS, "accuracy", "error"),
                (PERPLEXITY_WORDS, "loss", "perplexity"),
            )
            if set(words) & group
        ),
        None,
    )
    if kind is None and {"cross", "entropy"} <= set(words):
        kind = ("loss", "as is", LOSS_WORDS)
    if kind is None:
        return None
    quantity, form, group = kind
    splits = [
        "heldout" if word in HELDOUT_WORDS else "train"
        for word in words
        if word in HELDOUT_WORDS or word in TRAIN_WORDS
    ]
    idle = [word for word in words if word not in group and word not in HELDOUT_WORDS and word not in TRAIN_WORDS]
    if len(set(splits)) > 1 or any(word not in IDLE_WORDS for word in idle):
        return None
    doubt = len(idle) + (0 if splits else 1) + (2 if form == "perplexity" else 0) + (1 if form == "error" else 0)
    return Meaning(f"{splits[0] if splits else 'train'}_{quantity}", form, doubt)


def words_of(name: str) -> list[str]:
    """Return the lower-case words of a column name, camel case and digits split off.

    >>> words_of("trainLoss"), words_of("Eval/held-out Acc@1")
    (['train', 'loss'], ['eval', 'held', 'out', 'acc', '1'])
    """
    name = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return re.findall(r"top1|[a-z]+|\d+", name.lower())


def snake(name: str) -> str:
    """Return a name in lower case with every run of other characters as one underscore."""
    return re.sub(r"[^a-z0-9_]+", "_", re.sub(r"([a-z])([A-Z])", r"\1_\2", name.strip()).lower()).strip("_") or name


def is_split(name: str) -> bool:
    """Return whether a folder or a key is named after a split of the data (and a quantity at most), and nothing else.

    >>> is_split("validation"), is_split("loss_train"), is_split("seed0"), is_split("train_wd1")
    (True, True, False, False)
    """
    words = set(words_of(name))
    rest = words - TRAIN_WORDS - set(HELDOUT_WORDS)
    return len(rest) < len(words) and rest <= LOSS_WORDS | ACCURACY_WORDS | ERROR_WORDS | {"out", "set", "epoch"}


def bare_of_split(name: str) -> bool:
    """Return whether a column's name says nothing of a split.

    >>> bare_of_split("epoch_loss"), bare_of_split("val_loss")
    (True, False)
    """
    return not set(words_of(name)) & (TRAIN_WORDS | set(HELDOUT_WORDS))
