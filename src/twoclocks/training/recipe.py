"""This file knows what a recipe is: a training with its source, its settings, its expected outcome and its cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from twoclocks.errors import InputError, nearest
from twoclocks.training.optimizers import Rule
from twoclocks.trajectory import SaveAt as SaveAt  # a recipe states one, and recipes import training only

Weights = Mapping[str, Tensor]
Value = int | float | bool | str
WORDS_OF_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Expected:
    """What a recipe is expected to show: the diagnosis, and for each clock the range (in steps) it should fall in."""

    label: str
    kind: str | None
    clocks: Mapping[str, tuple[int, int]]

    def __str__(self) -> str:
        """Return it as a person reads it.

        >>> str(Expected("grokking", None, {"T_fit": (50, 70)}))
        'grokking; T_fit 50 to 70 steps'
        """
        label = self.label if self.kind is None else f"{self.label} ({self.kind})"
        return "; ".join([label, *(f"{clock} {low} to {high} steps" for clock, (low, high) in self.clocks.items())])


@dataclass(frozen=True)
class Problem:
    """One network on one task, as the training loop sees it; splits are named "train" and "heldout", others may follow.

    `labels` are those trained on, noisy ones too, and those of every other split; a problem without a "heldout" split has
    nothing to generalise to. `initial(seed)` gives the weights by name, which keep its dtype; `forward(weights, split)`
    the features `[n d]` that enter the readout and the logits `[n c]` of all its examples. `readout` names the readout's
    weight and, where it has one, its bias. `gradient(weights, rows)` gives the logits `[b c]` of the training examples
    numbered `rows` (None: all), and by name the gradient of the training loss over them.

    `batches(seed, step)` gives the `rows` of the update that leads from `step` to `step` + 1, as a pure function, so that
    a resumed run draws the same ones; None: every update sees all. `loss(logits)` is the training loss of the logits of
    all training examples where it is not the mean cross-entropy. `end_to_end(weights)` is the map `[c d]` of a network
    that is linear in its inputs. `rules` are the update rules of the blocks where the settings do not name one for all.
    `schedule(k)` is the factor of every learning rate at update number k = 1, 2, …; None: 1.
    """

    labels: Mapping[str, Tensor]
    blocks: Mapping[str, tuple[str, ...]]
    readout: tuple[str, str | None]
    initial: Callable[[int], Weights]
    forward: Callable[[Weights, str], tuple[Tensor, Tensor]]
    gradient: Callable[[Weights, Tensor | None], tuple[Tensor, Weights]]
    batches: Callable[[int, int], Tensor] | None = None
    loss: Callable[[Tensor], Tensor] | None = None
    end_to_end: Callable[[Weights], Tensor] | None = None
    rules: Mapping[str, Rule] | None = None
    schedule: Callable[[int], float] | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything needed to reproduce a training, with where its numbers come from, its expected outcome and its cost.

    `cost` is in seconds for one run on one core; `expected` is None where the settings leave what is known.
    """

    name: str
    title: str
    source: str
    settings: Mapping[str, Value]
    save_at: SaveAt
    problem: Callable[[Mapping[str, Any]], Problem]
    cost: float
    expected: Expected | None = None

    @property
    def expected_words(self) -> str:
        """Return the expected outcome as a person reads it."""
        return "not known for these settings" if self.expected is None else str(self.expected)

    @property
    def cost_words(self) -> str:
        """Return the cost as a person reads it."""
        return f"about {float(f'{self.cost:.2g}'):,.15g} s a run on one core"

    @property
    def described(self) -> dict[str, Any]:
        """Return everything but the code, ready to be written as JSON."""
        described = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "problem"}
        return described | {"expected": self.expected and asdict(self.expected), "save_at": asdict(self.save_at)}


@dataclass(frozen=True)
class Setting:
    """One setting of a recipe: its default (whose type is the setting's type), its allowed range, and what it is.

    A setting that is a word has `choices` in place of a range; one whose default is text without choices is a list of
    numbers, each in the range.
    """

    default: Value
    low: float
    high: float
    what: str
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """Return the allowed values in words.

        >>> Setting(97, 5, 1000, "the modulus").allowed
        'a whole number from 5 to 1000'
        """
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            return f"numbers from {self.low:.15g} to {self.high:.15g} with commas between them"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"{kind} from {self.low:.15g} to {self.high:.15g}"


def resolve_settings(recipe: str, declared: Mapping[str, Setting], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every declared setting, as given or by default; a value given as text (from `--set key=value`) is read.

    Raises:
        InputError: a setting is unknown, of the wrong type, or out of range.

    >>> resolve_settings("toy", {"p": Setting(97, 5, 1000, "the modulus")}, {"p": "59"})
    {'p': 59}
    """
    for name in given:
        if name not in declared:
            raise InputError(f"recipe {recipe} has no setting '{name}'.{nearest(name, list(declared))}")
    return {
        name: checked_value(recipe, name, setting, given[name]) if name in given else setting.default
        for name, setting in declared.items()
    }


def defaults_of(declared: Mapping[str, Setting]) -> dict[str, Any]:
    """Return every declared setting by default.

    >>> defaults_of({"p": Setting(97, 5, 1000, "the modulus")})
    {'p': 97}
    """
    return {name: setting.default for name, setting in declared.items()}


def checked_value(recipe: str, name: str, setting: Setting, given: Any) -> Value:
    """Return a setting's value in its own type, or refuse it with the allowed range."""
    if setting.choices:
        if str(given) not in setting.choices:
            raise InputError(f"recipe {recipe}: {name} ({setting.what}) must be {setting.allowed}, got {given!r}")
        return str(given)
    value = value_of_type(setting.default, given)
    numbers = numbers_of(value) if isinstance(value, str) else [math.nan if value is None else float(value)]
    if value is None or not all(setting.low <= number <= setting.high for number in numbers):
        raise InputError(f"recipe {recipe}: {name} ({setting.what}) must be {setting.allowed}, got {given!r}")
    return value


def value_of_type(default: Value, given: Any) -> Value | None:
    """Return `given` in the type of `default`, or None where it cannot be read so.

    >>> value_of_type(97, "59"), value_of_type(1e-3, "3e-3"), value_of_type(False, "yes"), value_of_type(97, "many")
    (59, 0.003, True, None)
    >>> value_of_type("3,1", "2, 0.50")
    '2,0.5'
    """
    if isinstance(default, bool):
        return WORDS_OF_TRUTH.get(str(given).strip().lower())
    if isinstance(given, bool):
        return None
    if isinstance(default, str):
        return ",".join(f"{number:.15g}" for number in numbers_of(str(given))) or None
    try:
        number = float(given)
    except (TypeError, ValueError):
        return None
    if isinstance(default, float):
        return number
    return int(number) if math.isfinite(number) and number == int(number) else None


def numbers_of(text: str) -> list[float]:
    """Return the numbers of a text with commas between them; none where one of them is no number.

    >>> numbers_of("3, 0.5"), numbers_of("3,,1"), numbers_of("three")
    ([3.0, 0.5], [], [])
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []
