"""This file knows at which step each checkpoint of a folder was saved: as given, as its name says, as it says itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from twoclocks.errors import InputError, nearest
from twoclocks.sources.checkpoint_files import stem_of

STEP_WORDS = frozenset(
    {"step", "steps", "globalstep", "iter", "iters", "iteration", "iterations", "it", "update", "updates"}
)
EPOCH_WORDS = frozenset({"epoch", "epochs", "ep"})
OTHER_WORDS = frozenset({"loss", "acc", "accuracy", "error", "err", "auc", "ppl", "lr", "seed", "wd", "top"})
FIRST_WORDS = frozenset({"init", "initial", "initialisation", "initialization", "untrained"})
NUMBER = re.compile(
    r"(?<![\d.])(?P<digits>\d+(?:\.\d+)?)(?P<power>[eE]\d+)?(?P<unit>[kKM])?(?![\d.])(?=$|[^A-Za-z]|[A-Za-z]{2})"
)
UNITS = {"": 1, "k": 1000, "K": 1000, "M": 1_000_000}
SOME = 5


@dataclass(frozen=True)
class Said:
    """What is known of one checkpoint's time beside its name: the step and the epoch that it states."""

    step: int | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class Times:
    """The time of each checkpoint by name, what it counts ("step" or "epoch"), and what was assumed."""

    at: Mapping[str, int]
    unit: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """A whole number in a name and the word that stands with it, in lower case."""

    word: str
    value: int


def times_of(said: Mapping[str, Said], given: Mapping[str, int]) -> Times:
    """Return the time of every checkpoint: what is given, else by the first of three rules that tells all others apart.

    The rules: the step that a name labels as one, or else that the file states; the one number of the names that varies;
    the epoch. A name such as `init.pt` without a number is step 0.

    Raises:
        InputError: two checkpoints have the same step, or one has none; the sentence names them.

    >>> times_of({"a_10.pt": Said(), "a_9.pt": Said()}, {}).at
    {'a_9.pt': 9, 'a_10.pt': 10}
    """
    check_given(said, given)
    names = [name for name in said if name not in given]
    first = [name for name in names if is_first(name) and said[name] == Said()]
    names = [name for name in names if name not in first]
    known = dict(given) | dict.fromkeys(first, 0)
    rules: list[tuple[str, Callable[[], Mapping[str, int | None]], str]] = [
        ("step", lambda: labelled_steps(names, said), ""),
        ("step", lambda: varying_numbers(names), "the number that varies in the names is taken as the step"),
        ("epoch", lambda: epochs(names, said), "the names give epochs only, so time is counted in epochs"),
    ]
    failures: list[Mapping[str, int | None]] = []
    for unit, rule, note in rules:
        found = rule()
        at = known | {name: number for name, number in found.items() if number is not None}
        if len(at) == len(said) and len(set(at.values())) == len(at):
            notes = [*([note] if note and names else []), *(f"{name} is taken as step 0" for name in first)]
            return Times(dict(sorted(at.items(), key=lambda pair: pair[1])), unit, tuple(notes))
        failures.append(known | dict(found))
    raise InputError(why_not(failures))


def why_not(failures: Sequence[Mapping[str, int | None]]) -> str:
    """Return the sentence of the rule that came nearest: the names without a step, or with the same one."""
    nearest_rule = min(failures, key=lambda found: sum(number is None for number in found.values()))
    without = [name for name, number in nearest_rule.items() if number is None]
    remedy = f"give it with --steps {(without or list(nearest_rule))[0]}=STEP, or choose files with --steps 'NAME_{{step}}.pt'"
    if without:
        return f"no step can be read from {listed(without)}; {remedy}"
    count = Counter(nearest_rule.values())
    step, _ = count.most_common(1)[0]
    same = [name for name, number in nearest_rule.items() if number == step]
    return f"{listed(same)} are all of step {step}, and one checkpoint is expected for a step; {remedy}"


def check_given(said: Mapping[str, Said], given: Mapping[str, int]) -> None:
    """Refuse steps given for what is not there."""
    for name, step in given.items():
        if name not in said:
            raise InputError(f"--steps: there is no checkpoint {name!r}.{nearest(name, list(said))}")
        if step < 0:
            raise InputError(f"--steps: a step is the number of optimiser updates done so far, got {step} for {name}")


def labelled_steps(names: Sequence[str], said: Mapping[str, Said]) -> dict[str, int | None]:
    """Return the steps that names label as such, or else that the files state."""
    in_name = {name: next((n.value for n in numbers_in(name) if n.word in STEP_WORDS), None) for name in names}
    return {name: said[name].step if step is None else step for name, step in in_name.items()}


def varying_numbers(names: Sequence[str]) -> dict[str, int | None]:
    """Return the one number in each name that is not of an epoch, a loss or the like and is not the same in all.

    >>> varying_numbers(["resnet18_100", "resnet18_200"])
    {'resnet18_100': 100, 'resnet18_200': 200}
    """
    plain = {name: [n for n in numbers_in(name) if n.word not in EPOCH_WORDS | OTHER_WORDS] for name in names}
    if len({tuple(n.word for n in numbers) for numbers in plain.values()}) == 1:
        columns = list(zip(*([n.value for n in numbers] for numbers in plain.values()), strict=True))
        varying = [column for column in columns if len(set(column)) > 1 or len(columns) == 1]
        return dict(zip(plain, varying[0], strict=True)) if len(varying) == 1 else dict.fromkeys(names)
    return {name: numbers[0].value if len(numbers) == 1 else None for name, numbers in plain.items()}


def epochs(names: Sequence[str], said: Mapping[str, Said]) -> dict[str, int | None]:
    """Return the epochs that names label as such, or else that the files state."""
    in_name = {name: next((n.value for n in numbers_in(name) if n.word in EPOCH_WORDS), None) for name in names}
    return {name: said[name].epoch if epoch is None else epoch for name, epoch in in_name.items()}


def is_first(name: str) -> bool:
    """Return whether a name without a number says that nothing was trained yet."""
    return not re.search(r"\d", stem_of(name)) and bool(set(re.findall(r"[a-z]+", name.lower())) & FIRST_WORDS)


def numbers_in(name: str) -> list[Number]:
    """Return the whole numbers in a name, each with the word before it, or after it if only that one is known.

    >>> [(n.word, n.value) for n in numbers_in("epoch=3-step=400.ckpt")], numbers_in("model_1e3.pt")[0].value
    ([('epoch', 3), ('step', 400)], 1000)
    >>> numbers_in("run-10k_steps.pt"), numbers_in("val_loss=0.25.pt")
    ([Number(word='steps', value=10000)], [])
    """
    stem = stem_of(name)
    found = [(match, value_of(match)) for match in NUMBER.finditer(stem)]
    return [Number(word_of(stem, match), value) for match, value in found if value is not None]


def value_of(match: re.Match[str]) -> int | None:
    """Return the number that was matched; a decimal one without a power or unit is no count."""
    power, unit = match["power"] or "", match["unit"] or ""
    if "." in match["digits"] and not power and not unit:
        return None
    if len(power) > 3:
        return None
    value = float(match["digits"] + power) * UNITS[unit]
    return int(match["digits"]) if not power and not unit else int(value) if value == int(value) else None


def word_of(stem: str, match: re.Match[str]) -> str:
    """Return the word that says what a number in a name counts."""
    before = re.search(r"([A-Za-z]+)[-_=. ]*$", stem[: match.start()])
    after = re.match(r"[-_ ]?([A-Za-z]+)", stem[match.end() :])
    words = [found[1].lower() for found in (before, after) if found]
    known = [word for word in words if word in STEP_WORDS | EPOCH_WORDS | OTHER_WORDS]
    return (known or words or [""])[0]


def parse_steps(texts: Sequence[str]) -> dict[str, int] | str | None:
    """Return what `--steps` was given: a step by name, or one pattern with {step}.

    >>> parse_steps(["last.ckpt=5000"]), parse_steps(["epoch=*-step={step}.ckpt"]), parse_steps([])
    ({'last.ckpt': 5000}, 'epoch=*-step={step}.ckpt', None)
    """
    if not texts:
        return None
    if any("{step}" in text for text in texts):
        if len(texts) > 1:
            raise InputError(f"--steps: expected one pattern with {{step}} or several NAME=STEP, got {' '.join(texts)}")
        return texts[0]
    return dict(pair_of(text) for text in texts)


def pair_of(text: str) -> tuple[str, int]:
    """Return the name and the step of NAME=STEP; the name may hold an equals sign."""
    name, _, step = text.rpartition("=")
    if not name or not step.strip().isdecimal():
        raise InputError(f"--steps takes NAME=STEP or a pattern such as 'model_{{step}}.pt', got {text!r}")
    return name.strip(), int(step)


def matched(pattern: str, names: Sequence[str]) -> dict[str, int]:
    """Return the names that a pattern fits, with or without their suffix, and the step that it finds in each.

    >>> matched("w*_{step}", ["w1_010.pt", "w2_020.pt", "best.pt"])
    {'w1_010.pt': 10, 'w2_020.pt': 20}
    """
    if pattern.count("{step}") != 1:
        raise InputError(f"--steps: expected {{step}} once in the pattern, as in 'model_{{step}}.pt', got {pattern!r}")
    parts = (re.escape(part).replace(r"\*", ".*") for part in pattern.split("{step}"))
    expression = re.compile(r"(\d+(?:[eE]\d+)?[kKM]?)".join(parts))
    found = {name: expression.fullmatch(name) or expression.fullmatch(stem_of(name)) for name in names}
    steps = {name: value_of(number) for name, hit in found.items() if hit and (number := NUMBER.fullmatch(hit[1]))}
    kept = {name: step for name, step in steps.items() if step is not None}
    if not kept:
        raise InputError(f"--steps: no checkpoint fits the pattern {pattern!r}; there are {listed(list(names))}")
    return kept


def listed(names: Sequence[str], most: int = SOME) -> str:
    """Return the first few names of some, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
