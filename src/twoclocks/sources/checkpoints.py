"""This file knows how a folder of checkpoints becomes the run folder that a recorder would have written.

Every checkpoint is looked at before the first is evaluated, so that all that stands in the way is said at once. Then one
after the other is put into the model and evaluated as a recorder does: same examples, same functions. What the journal
notes as done is not done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from twoclocks.errors import InputError
from twoclocks.sources.checkpoint_files import (
    HISTORY,
    Entry,
    Unreadable,
    entries_of,
    fingerprint,
    read_contents,
    read_history,
    whole_number,
)
from twoclocks.sources.checkpoint_steps import Said, listed, matched, times_of
from twoclocks.sources.evaluation import Look, look
from twoclocks.sources.given_code import blamed
from twoclocks.sources.observation import scalars_of_blocks, scalars_of_logits
from twoclocks.sources.readout import find_readout
from twoclocks.sources.state_fit import Renaming, plain_model, put_into, renaming_for, rounding_words
from twoclocks.sources.subject import (
    Subject,
    check_model,
    check_same_examples,
    checked_subject,
    disk_estimate,
    eval_batches,
    manifest_of,
    tensors_of,
)
from twoclocks.store import (
    BATCHES,
    JOURNAL,
    MANIFEST,
    RunWriter,
    load,
    open_writer,
    read_journal,
    read_manifest,
    read_records,
)
from twoclocks.trajectory import SaveAt, Trajectory

LOGGER = logging.getLogger("twoclocks")
DISK_BOUND = 10_000_000_000  # bytes of snapshots beyond which fewer are kept [def]
FEWEST_KEPT = 2
MOST_NAMED = 50
CLASSES_COMPARED = 16
SAME_LOGITS = 1e-3  # of the largest: other processors and batch sizes round differently, another model differs more
RECORD = "checkpoint"
PASSED_OVER = ("step", "total_flos")
Progress = Callable[[int, int], None]
Steps = Mapping[str, int] | str


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint to evaluate: where it lies, its step, a hash of its bytes, and how its weights' names are read."""

    entry: Entry
    step: int
    fingerprint: str
    renaming: Renaming


@dataclass(frozen=True)
class Plan:
    """Everything that a replay will do, found out before it does any of it."""

    folder: Path
    subject: Subject
    first: Look
    checkpoints: tuple[Checkpoint, ...]
    kept: frozenset[int]
    keep: int | None
    unit: str
    snapshot_bytes: int
    notes: tuple[str, ...]
    broken: Mapping[str, str]
    done: int

    @property
    def words(self) -> str:
        """Return what will be done, and how much disk it takes."""
        steps = [checkpoint.step for checkpoint in self.checkpoints]
        snapshots, size = len(self.kept), in_bytes(self.snapshot_bytes)
        done = f" ({self.done} done already)" if self.done else ""
        return (
            f"{counted(len(steps), 'checkpoint')}{done}, {self.unit} {steps[0]} to {steps[-1]}; "
            f"{counted(snapshots, 'snapshot')} of about {size} "
            f"each, {in_bytes(snapshots * self.snapshot_bytes)} in all"
        )

    @property
    def described(self) -> dict[str, Any]:
        """Return the plan, ready to be written as JSON."""
        return {
            "checkpoints": {checkpoint.entry.name: checkpoint.step for checkpoint in self.checkpoints},
            "unit": self.unit,
            "snapshots": len(self.kept),
            "bytes": len(self.kept) * self.snapshot_bytes,
            "assumed": list(self.notes),
            "left_out": [f"{name} is left out: it {why}" for name, why in self.broken.items()],
        }


@dataclass(frozen=True)
class Surveyed:
    """What was found out of a checkpoint without evaluating it."""

    said: Said
    entry: str | None
    fingerprint: str
    renaming: Renaming
    kinds: frozenset[torch.dtype]


def replay(
    folder: str | Path,
    *,
    model: Callable[[], nn.Module],
    data: Callable[[], Any] | Mapping[str, Any] | Sequence[Any],
    out: str | Path,
    readout: str | None = None,
    steps: Steps | None = None,
    keep: int | None = None,
    skip_broken: bool = False,
    save_at: SaveAt | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """Evaluate every checkpoint of a folder, and write the run folder that a recorder would have written of the training.

    Interrupted or killed, the same call goes on where it stopped; checkpoints that came since are added.

    Args:
        folder: files of torch (`.pt .pth .ckpt .bin`) or safetensors, or folders `checkpoint-100` that hold one.
        model: builds the network of which the checkpoints were saved; it returns logits `[n c]`.
        data: `{"train": (inputs, labels), "heldout": (inputs, labels)}`, the two pairs alone, or a function of either.
        out: the run folder: new, or that of this same replay.
        readout: the name of the linear layer that gives the logits; found by itself where it is the last layer.
        steps: a step by name, `{"last.ckpt": 5000}`, for what the names and files do not tell; or a pattern such as
            `"model_{step}_*.pt"`, which chooses the files too.
        keep: of how many checkpoints, spread evenly, the tensors are kept; of all by default, fewer beyond 10 GB.
        skip_broken: leave out what cannot be read, and say so among the events, rather than refuse it.
        save_at: what is kept of a moment (`weights`, `features`, `examples`); its steps are those of the checkpoints.
        progress: called with the number of checkpoints done, and of all.

    Raises:
        InputError: what was given does not fit together, or `out` holds something else.
    """
    plan = plan_replay(
        folder, model=model, data=data, out=out, readout=readout, steps=steps, keep=keep, skip_broken=skip_broken,
        save_at=save_at,
    )  # fmt: skip
    LOGGER.info("%s", plan.words)
    return carry_out(plan, out, progress)


def plan_replay(
    folder: str | Path,
    *,
    model: Callable[[], nn.Module],
    data: Callable[[], Any] | Mapping[str, Any] | Sequence[Any],
    out: str | Path,
    readout: str | None = None,
    steps: Steps | None = None,
    keep: int | None = None,
    skip_broken: bool = False,
    save_at: SaveAt | None = None,
) -> Plan:
    """Find out all that a replay needs, and refuse all that stands in its way; arguments as of `replay`."""
    folder, save_at = Path(folder), save_at or SaveAt()
    if keep is not None and keep < 0:
        raise InputError(f"keep must be a number of snapshots, 0 or more, got {keep}")
    entries, notes = entries_of(folder)
    entries, given = chosen_entries(entries, steps, notes)
    network, built_notes = built_model(model)
    train, heldout, data_notes = given_examples(data)
    surveyed, broken = survey(network, entries)
    check_whole(folder, broken, len(entries), skip_broken)
    entries = [entry for entry in entries if entry.name in surveyed]
    times = times_of(
        {e.name: surveyed[e.name].said for e in entries}, {n: s for n, s in given.items() if n not in broken}
    )
    by_name = {entry.name: entry for entry in entries}
    checkpoints = tuple(
        Checkpoint(by_name[name], step, surveyed[name].fingerprint, surveyed[name].renaming)
        for name, step in times.at.items()
    )
    load_checkpoint(network, checkpoints[0])
    with blamed("the model cannot be run"):
        subject, first = checked_subject(network, train, heldout, readout, None, save_at)
    size = disk_estimate(subject, first)["bytes_per_snapshot"]
    kept = kept_steps([checkpoint.step for checkpoint in checkpoints], keep, size)
    check_disk(Path(out), len(kept) * size)
    notes += [*built_notes, *data_notes, *times.notes, *notes_of(list(surveyed.values()), network)]
    notes += [f"tensors are kept of {len(kept)} of {len(checkpoints)} checkpoints"] * (len(kept) < len(checkpoints))
    done = len(finished(Path(out)).keys() & surveyed.keys())
    return Plan(folder, subject, first, checkpoints, kept, keep, times.unit, size, tuple(notes), broken, done)


def chosen_entries(
    entries: list[Entry], steps: Steps | None, notes: list[str]
) -> tuple[list[Entry], Mapping[str, int]]:
    """Return the checkpoints that are asked for, and the steps that are given; a pattern gives both."""
    if not isinstance(steps, str):
        return entries, {name: checked_step(name, step) for name, step in (steps or {}).items()}
    given = matched(steps, [entry.name for entry in entries])
    others = [entry.name for entry in entries if entry.name not in given]
    notes += [f"{listed(others)}: left out (the pattern {steps!r} does not fit)"] if others else []
    return [entry for entry in entries if entry.name in given], given


def checked_step(name: str, step: Any) -> int:
    """Return a step as a whole number."""
    number = whole_number(step) if not isinstance(step, str) else None
    if number is None:
        raise InputError(f"steps: expected a whole number, 0 or more, for {name}, got {step!r}")
    return number


def built_model(model: Any) -> tuple[nn.Module, list[str]]:
    """Call the model function."""
    if isinstance(model, nn.Module) or not callable(model):
        raise InputError(
            f"model must be the function that builds the network, got {type(model).__name__}; give lambda: Net(...)"
        )
    with blamed("the model function failed"):
        built = model()
    network, notes = plain_model(built)
    check_model(network)
    return network, notes


def given_examples(data: Any) -> tuple[Any, Any, list[str]]:
    """Call the data function, and return the pairs of training and held-out examples."""
    if callable(data):
        with blamed("the data function failed"):
            data = data()
    if isinstance(data, Mapping) and {"train", "heldout"} <= set(data):
        pairs = [data["train"], data["heldout"]]
    elif isinstance(data, (tuple, list)) and len(data) == 2:
        pairs = list(data)
    else:
        what = f"the keys {', '.join(map(repr, data))}" if isinstance(data, Mapping) else type(data).__name__
        raise InputError(f'the data must be {{"train": (x, y), "heldout": (xh, yh)}} or the two pairs, got {what}')
    longer = [in_float32(pair) for pair in pairs]
    notes = [] if all(one is other for one, other in zip(longer, pairs, strict=True)) else [
        "inputs in half precision are taken as float32"
    ]  # fmt: skip
    return *longer, notes


def in_float32(pair: Any) -> Any:
    """Return a pair whose inputs in half precision are float32, since the model is; the same pair where there are none."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return pair
    several = isinstance(pair[0], (tuple, list))
    inputs = pair[0] if several else (pair[0],)
    if not any(isinstance(x, Tensor) and x.is_floating_point() and x.dtype.itemsize < 4 for x in inputs):
        return pair
    longer = tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
    return (longer if several else longer[0], pair[1])


def survey(network: nn.Module, entries: Sequence[Entry]) -> tuple[dict[str, Surveyed], dict[str, str]]:
    """Look at every checkpoint, one at a time; return what was found, and of those that cannot be read, why."""
    surveyed: dict[str, Surveyed] = {}
    broken: dict[str, str] = {}
    renamings: dict[frozenset[Any], Renaming] = {}
    for entry in entries:
        try:
            surveyed[entry.name] = surveyed_one(network, entry, renamings)
        except Unreadable as why:
            broken[entry.name] = str(why)
    return surveyed, broken


def surveyed_one(network: nn.Module, entry: Entry, renamings: dict[frozenset[Any], Renaming]) -> Surveyed:
    """Look at one checkpoint; those with the same names and shapes share one renaming."""
    contents = read_contents(entry)
    signature = frozenset((name, tuple(value.shape)) for name, value in contents.tensors.items())
    if signature not in renamings:
        with blamed(f"{entry.name} cannot be put into the model"):
            renamings[signature] = renaming_for(network, contents.tensors, entry.name)
    kinds = frozenset(value.dtype for value in contents.tensors.values() if value.is_floating_point())
    said = Said(contents.step, contents.epoch)
    return Surveyed(said, contents.entry, fingerprint(entry), renamings[signature], kinds)


def check_whole(folder: Path, broken: Mapping[str, str], of: int, skip_broken: bool) -> None:
    """Refuse a folder with checkpoints that cannot be read, all of them named, unless they may be left out."""
    if broken and (not skip_broken or len(broken) == of):
        named = "; ".join(by_reason(broken))
        remedy = (
            "give others"
            if len(broken) == of
            else "remove them, or leave them out with --skip-broken (skip_broken=True)"
        )
        raise InputError(f"{folder}: {len(broken)} of {of} checkpoints cannot be read: {named}; {remedy}")


def by_reason(broken: Mapping[str, str]) -> list[str]:
    """Return which checkpoints cannot be read for each reason.

    >>> by_reason({"a.pt": "is empty", "b.pt": "lacks its shard x", "c.pt": "is empty"})
    ['a.pt, c.pt: each is empty', 'b.pt lacks its shard x']
    """
    names: dict[str, list[str]] = {}
    for name, why in broken.items():
        names.setdefault(why, []).append(name)
    return [
        f"{some[0]} {why}" if len(some) == 1 else f"{listed(some, MOST_NAMED)}: each {why}"
        for why, some in names.items()
    ]


def load_checkpoint(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Put the weights of a checkpoint into the model; nothing else of it stays in memory."""
    name = checkpoint.entry.name
    try:
        tensors = checkpoint.renaming.of(read_contents(checkpoint.entry).tensors)
    except Unreadable as why:
        raise InputError(f"{name} {why}, since it was looked at; run the same command again") from None
    with blamed(f"{name} cannot be put into the model"):
        put_into(network, tensors, name)


def kept_steps(steps: Sequence[int], keep: int | None, size: int) -> frozenset[int]:
    """Return the steps whose tensors are kept: as many as asked for or as the bound allows, the first and last among them.

    >>> sorted(kept_steps(range(0, 100, 10), 4, 1))
    [0, 30, 60, 90]
    """
    most = len(steps) if keep is None and len(steps) * size <= DISK_BOUND else keep
    most = max(FEWEST_KEPT, DISK_BOUND // size) if most is None else most
    places = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    return frozenset(steps[place] for place in places.tolist())


def check_disk(out: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    there = next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())
    held = sum(path.stat().st_size for path in (out / "snapshots").glob("*.safetensors"))
    free = shutil.disk_usage(there).free
    if needed - held > free:
        raise InputError(
            f"the snapshots need {in_bytes(needed)} and {there} has {in_bytes(free)} free; keep fewer with --keep N, or "
            "none of the weights with --without-weights"
        )


def counted(count: int, what: str) -> str:
    """Return a number of things.

    >>> counted(1, "snapshot"), counted(3, "snapshot")
    ('1 snapshot', '3 snapshots')
    """
    return f"{count} {what}" + ("" if count == 1 else "s")


def in_bytes(size: int) -> str:
    """Return a number of bytes as a person reads it.

    >>> in_bytes(1_234_000), in_bytes(800)
    ('1.2 MB', '800 bytes')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.2g} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"
    return f"{size} bytes"


def notes_of(surveyed: Sequence[Surveyed], network: nn.Module) -> list[str]:
    """Return what was assumed of the files: where in them the weights lie, under which names, in which numbers."""
    entries = sorted({one.entry for one in surveyed if one.entry is not None})
    renamed = [word for one in surveyed for word in one.renaming.words]
    kinds = {kind for one in surveyed for kind in one.kinds}
    lie = [f"weights are read from {', '.join(map(repr, entries))} of the files"] if entries else []
    return [*lie, *dict.fromkeys(renamed), *rounding_words(sorted(kinds, key=str), network)]


def carry_out(plan: Plan, out: str | Path, progress: Progress | None = None) -> Trajectory:
    """Evaluate every checkpoint of a plan that the run folder does not hold yet, and return what it holds then."""
    out, total = Path(out), len(plan.checkpoints)
    check_same_inputs(out, plan.subject)
    with open_writer(out, manifest_of_replay(plan)) as writer:
        done = finished(out)
        if (out / BATCHES).is_file():
            check_same_examples(out, plan.subject)
        else:
            writer.write_batches(eval_batches(plan.subject))
        check_finished(plan, done, out)
        write_words(writer, plan, done)
        write_history(writer, plan)
        for number, checkpoint in enumerate(plan.checkpoints):
            if progress is not None:
                progress(number, total)
            if checkpoint.entry.name not in done:
                record(writer, plan, checkpoint)
        if progress is not None:
            progress(total, total)
    return load(out)


def manifest_of_replay(plan: Plan) -> dict[str, Any]:
    """Return what run.json says: as of a recorder, with what identifies a replay."""
    kept = {
        name: value
        for name, value in asdict(plan.subject.save_at).items()
        if name in ("weights", "features", "examples")
    }
    disk = {"bytes_per_snapshot": plan.snapshot_bytes, "snapshots": len(plan.kept)}
    return manifest_of(plan.subject, plan.first, None, 0.0) | {
        "kind": "replay",
        "time": plan.unit,
        "save_at": kept,
        "keep": plan.keep,
        "inputs": hashes_of_inputs(plan.subject),
        "session": {"checkpoints": str(plan.folder), "assumed": list(plan.notes), "disk": disk},
    }


def hashes_of_inputs(subject: Subject) -> dict[str, str]:
    """Return a hash of the inputs of each split that are looked at."""
    hashes = {}
    for examples in subject.examples:
        digest = hashlib.sha256()
        for tensor in examples.inputs:
            digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        hashes[examples.split] = digest.hexdigest()[:16]
    return hashes


def check_same_inputs(out: Path, subject: Subject) -> None:
    """Refuse to go on in a folder that was evaluated on other inputs, in plainer words than a difference of hashes."""
    held = read_manifest(out).get("inputs") if (out / MANIFEST).is_file() else None
    for split, digest in hashes_of_inputs(subject).items():
        if isinstance(held, Mapping) and held.get(split, digest) != digest:
            raise InputError(
                f"{out} was replayed with other {split} inputs; give the same (seed what is random) or another folder"
            )


def finished(out: Path) -> dict[str, Mapping[str, Any]]:
    """Return what the journal notes of every checkpoint that is done, by name."""
    lines, records = read_records(out / JOURNAL)
    noted = [json.loads(line) for line, known in zip(lines, records, strict=True) if known.record == RECORD]
    return {note["name"]: note for note in noted}


def check_finished(plan: Plan, done: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """Refuse to go on where a checkpoint that is done has changed, or the model now makes something else of one."""
    present = [checkpoint for checkpoint in plan.checkpoints if checkpoint.entry.name in done]
    for checkpoint in present:
        note = done[checkpoint.entry.name]
        changed = [what for what in ("fingerprint", "step") if note[what] != getattr(checkpoint, what)]
        if changed:
            what = (
                "its content" if "fingerprint" in changed else f"its step ({note['step']} then, {checkpoint.step} now)"
            )
            raise InputError(
                f"{checkpoint.entry.name} has changed since {out} was replayed from it: {what}; choose another folder"
            )
    if present:
        load_checkpoint(plan.subject.model, present[0])
        _, seen = find_readout(plan.subject.model, plan.subject.examples[0], plan.subject.readout)
        if not same_logits(few_logits(seen.logits), done[present[0].entry.name]["logits"]):
            raise InputError(
                f"the model function now makes another output of {present[0].entry.name} than when {out} was replayed; "
                "give the same, or choose another folder"
            )


def few_logits(logits: Tensor) -> list[list[float]]:
    """Return the first few logits of the first few examples."""
    few: list[list[float]] = logits.detach()[:4, :CLASSES_COMPARED].double().tolist()
    return few


def same_logits(ours: Any, theirs: Any) -> bool:
    """Return whether two tables of logits are equal but for rounding; NaN equals NaN."""
    one, other = np.array(ours, np.float64), np.array(theirs, np.float64)
    if one.shape != other.shape:
        return False
    finite = np.abs(other[np.isfinite(other)])
    return bool(np.allclose(one, other, rtol=0, atol=SAME_LOGITS * float(finite.max(initial=0.0)), equal_nan=True))


def write_words(writer: RunWriter, plan: Plan, done: Mapping[str, Any]) -> None:
    """Write what is worth telling of this start among the events: what was left out, and what is gone since the last."""
    said = {event.what for event in read_journal(writer.folder / JOURNAL).events}
    gone = [name for name in done if name not in {c.entry.name for c in plan.checkpoints}]
    words = [f"{name} was left out: it {why}" for name, why in plan.broken.items()]
    words += [f"replayed earlier and no longer among the checkpoints: {listed(gone)}"] if gone else []
    for what in words:
        if what not in said:
            writer.append_event(None, what)


def write_history(writer: RunWriter, plan: Plan) -> None:
    """Write what Hugging Face's trainer logged, as its last checkpoint tells it, in series of their own names."""
    if plan.unit != "step":  # the trainer logs by steps
        return
    folders = [c.entry.folder for c in plan.checkpoints if c.entry.folder and (c.entry.folder / HISTORY).is_file()]
    rows = next((found for folder in reversed(folders) if (found := logged_rows(folder))), {})
    held = read_journal(writer.folder / JOURNAL).scalars
    last = max((int(series.step[-1]) for name, series in held.items() if name.startswith("logged.")), default=-1)
    for step, values in sorted(rows.items()):
        if step > last:
            writer.append_scalars(step, values)


def logged_rows(folder: Path) -> dict[int, dict[str, float]]:
    """Return the numbers that a trainer's history holds at each step; the closing row of averages is passed over."""
    history = read_history(folder).get("log_history")
    rows: dict[int, dict[str, float]] = {}
    for row in history if isinstance(history, list) else []:
        step = whole_number(row.get("step")) if isinstance(row, dict) else None
        if step is not None and "train_runtime" not in row:
            rows.setdefault(step, {}).update(named_numbers(row))
    return {step: values for step, values in rows.items() if values}


def named_numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Return the numbers of a row of a trainer's history by the names they get here."""
    for name, value in row.items():
        if name in PASSED_OVER or name.endswith(("_runtime", "_per_second")):
            continue
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield {"learning_rate": "lr", "epoch": "epoch"}.get(name, f"logged.{name}"), float(value)


def record(writer: RunWriter, plan: Plan, checkpoint: Checkpoint) -> None:
    """Evaluate one checkpoint and write its moment; the last line notes that it is done."""
    subject = plan.subject
    load_checkpoint(subject.model, checkpoint)
    with blamed(f"the model cannot be run with the weights of {checkpoint.entry.name}"):
        looks = look(subject.model, subject.readout, subject.examples)
    if checkpoint.step in plan.kept:
        writer.write_snapshot(checkpoint.step, tensors_of(subject, looks))
    writer.append_scalars(checkpoint.step, scalars_of_state(subject, looks))
    writer.append(
        {
            "record": RECORD,
            "step": checkpoint.step,
            "name": checkpoint.entry.name,
            "fingerprint": checkpoint.fingerprint,
            "logits": few_logits(looks["train"].logits),
        }
    )


def scalars_of_state(subject: Subject, looks: Mapping[str, Look]) -> dict[str, float]:
    """Return the scalars of one moment that need no optimiser: those that a recorder computes, by the same functions."""
    scalars: dict[str, float] = {}
    for examples in subject.examples:
        logits = looks[examples.split].logits
        scalars |= scalars_of_logits(examples.split, logits, examples.labels.to(logits.device))
    return scalars | scalars_of_blocks(subject.parameters, None, subject.blocks)
