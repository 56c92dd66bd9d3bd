"""This file knows the embedding view: class means on two principal axes at chosen moments, and the frequencies they use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from twoclocks import thresholds as at
from twoclocks.report.numbers import count, number, percent, time_words
from twoclocks.report.plans import NO_FEATURES
from twoclocks.runs import run_of
from twoclocks.trajectory import Float, Int, Snapshot, Trajectory

MOMENTS = 16
POINTS_IN_ALL = 6000  # over all moments, so that a page with a thousand classes stays small
MOST_CLASSES = 1000
DOMINATES = 0.7  # of the waves seen in the plane: above this, one frequency orders the classes
SPLITS = {"heldout": "held-out", "train": "training"}
TITLE = "The representation at chosen moments"


@dataclass(frozen=True)
class Moment:
    """The class means at one step: `points[m, 2]`, in units of their RMS distance from their centre, which is `size`.

    `share`: of the scatter of all means, what each axis holds. `frequency`: the one that orders the classes in this plane,
    with `frequency_share` of the waves seen; None where none dominates. `spectrum[k]`: shares at frequencies 1, 2, …, empty
    where the labels are no residues.
    """

    step: int
    name: str
    points: Float
    share: tuple[float, float]
    size: float
    frequency: int | None
    frequency_share: float
    spectrum: Float


@dataclass(frozen=True)
class Embedding:
    """The class means of one run at chosen moments, on common axes. Without moments, `absent` says what to record.

    `classes[m]`: the labels. `modulus`: p where they are residues modulo p. `stills`: the places of the moments shown where
    no script runs.
    """

    split: str
    unit: str
    classes: Int
    modulus: int | None
    moments: tuple[Moment, ...]
    stills: tuple[int, ...]
    spectrum_of: str
    notes: tuple[str, ...] = ()
    title: str = TITLE
    absent: str = ""


def embedding_of(trajectory: Trajectory, run: int = 0) -> Embedding:
    """Return the embedding view of one run, of the held-out examples where their features were kept, else of training."""
    unit, (split, held) = time_words(trajectory.source.time), shown_split(trajectory, run)
    if not held:
        return Embedding("", unit, np.zeros(0, np.int64), None, (), (), "", absent=NO_FEATURES)
    labels = trajectory.batches[split].labels
    classes = np.unique(labels)
    names = named_moments(trajectory, run)
    kept = chosen_moments(held, names, moments_allowed(len(classes)))
    modulus, table = modulus_of(trajectory, classes), embedding_name(trajectory, len(classes))
    means = {moment.step: class_means(moment, split, run, labels, classes) for moment in kept}
    axes = principal_axes(means[kept[-1].step])
    tables = {
        moment.step: means[moment.step] if table is None else rows_of(moment, table, run, len(classes))
        for moment in kept
    }
    shown = evenly(len(classes))
    moments = tuple(
        moment_of(s.step, names.get(s.step, ""), means[s.step], axes, tables[s.step], modulus) for s in kept
    )
    return Embedding(
        split=SPLITS[split],
        unit=unit,
        classes=classes[shown],
        modulus=modulus,
        moments=tuple(replace(moment, points=moment.points[shown]) for moment in moments),
        stills=stills_of(moments),
        spectrum_of="the class means" if table is None else f"the embedding ({table})",
        notes=tuple(notes_of(trajectory, run, classes, shown)),
    )


# Moments -------------------------------------------------------------------------------------------------------------


def shown_split(trajectory: Trajectory, run: int) -> tuple[str, list[Snapshot]]:
    """Return the split whose class means can be shown, and the snapshots that hold its features; none where none can be."""
    for split in SPLITS:
        batch = trajectory.batches.get(split)
        if batch is not None and len(np.unique(batch.labels)) > 1 and (held := usable(trajectory, split, run)):
            return split, held
    return "", []


def usable(trajectory: Trajectory, split: str, run: int) -> list[Snapshot]:
    """Return the snapshots with as many features of a split as there are labels, all of them finite."""
    name, n = f"features/{split}", len(trajectory.batches[split].labels)
    held = [s for s in trajectory.snapshots if name in s.tensors and s.tensors[name].shape[1] == n]
    return [s for s in held if run < len(s.tensors[name]) and bool(np.isfinite(s.tensors[name][run]).all())]


def named_moments(trajectory: Trajectory, run: int) -> dict[int, str]:
    """Return by name the first snapshots of all, of the fit, of the held-out rise, and the last one of all."""
    steps = [snapshot.step for snapshot in trajectory.snapshots]
    course = run_of(trajectory, run)
    rise = course.heldout.step_past(at.WELL_ABOVE_CHANCE) if course.heldout is not None else None
    names: dict[int, str] = {}
    for name, step in (("start", steps[0]), ("end", steps[-1]), ("held-out rise", rise), ("fit", course.fit_step)):
        later = [] if step is None else [s for s in steps if s >= step]
        if later:
            names[later[0]] = f"{name}, {names[later[0]]}" if later[0] in names else name
    return names


def moments_allowed(classes: int) -> int:
    """Return how many moments are shown: fewer where there are very many classes, and three at least."""
    return max(3, min(MOMENTS, POINTS_IN_ALL // min(classes, MOST_CLASSES)))


def chosen_moments(moments: Sequence[Snapshot], names: Mapping[int, str], most: int) -> list[Snapshot]:
    """Return at most `most` snapshots: those with a name, and others that are spread evenly over the log of the step."""
    steps = [moment.step for moment in moments]
    named = [i for i, step in enumerate(steps) if step in names][:most]
    return [moments[i] for i in spread_out(np.log1p(np.array(steps, np.float64)), {0, len(steps) - 1, *named}, most)]


def spread_out(positions: Float, kept: set[int], most: int) -> list[int]:
    """Return at most `most` places: those kept, then one by one the place farthest from all that were chosen.

    >>> spread_out(np.array([0.0, 1.0, 2.0, 5.0, 6.0]), {0, 4}, 3)
    [0, 2, 4]
    """
    chosen = sorted(kept)
    while len(chosen) < min(most, len(positions)):
        apart = np.abs(positions[:, None] - positions[chosen]).min(1)
        chosen.append(int(apart.argmax()) if apart.max() > 0 else next(i for i in range(len(apart)) if i not in chosen))
    return sorted(chosen)


def stills_of(moments: Sequence[Moment]) -> tuple[int, ...]:
    """Return the places of the first moment, of the held-out rise (or the middle one), and of the last."""
    rise = [i for i, moment in enumerate(moments) if "held-out rise" in moment.name]
    return tuple(sorted({0, rise[0] if rise else len(moments) // 2, len(moments) - 1}))


# Points --------------------------------------------------------------------------------------------------------------


def class_means(moment: Snapshot, split: str, run: int, labels: Int, classes: Int) -> Float:
    """Return the mean features of every class minus the mean of these, `[c d]`, in float64."""
    features = np.asarray(moment.tensors[f"features/{split}"][run], np.float64)
    place = np.searchsorted(classes, labels)
    sums = np.zeros((len(classes), features.shape[1]))
    np.add.at(sums, place, features)
    means = sums / np.bincount(place)[:, None]
    return np.asarray(means - means.mean(0))


def principal_axes(means: Float) -> Float:
    """Return the first two principal axes of centred class means as columns `[d 2]`, the signs fixed by largest entries."""
    _, _, rows = np.linalg.svd(means, full_matrices=False)
    axes = rows[:2] if len(rows) > 1 else np.vstack([rows, np.zeros_like(rows)])
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])
    return np.asarray((axes * np.where(signs == 0, 1.0, signs)[:, None]).T)


def moment_of(step: int, name: str, means: Float, axes: Float, table: Float, modulus: int | None) -> Moment:
    """Return the class means on common axes, how much of them is seen there, and the frequencies they use."""
    size = math.sqrt(float(np.square(means).sum()) / len(means))
    points = means @ axes / size if size > 0 else np.zeros((len(means), 2))
    share = np.square(points).mean(0)
    frequency, frequency_share = (None, 0.0) if modulus is None else dominant(points, modulus)
    spectrum = np.zeros(0) if modulus is None else spectrum_shares(table)
    return Moment(step, name, points, (float(share[0]), float(share[1])), size, frequency, frequency_share, spectrum)


def evenly(classes: int) -> list[int]:
    """Return the places of the classes that are shown: all, or if they are very many, evenly chosen ones."""
    return np.unique(np.linspace(0, classes - 1, min(classes, MOST_CLASSES)).round().astype(int)).tolist()  # type: ignore[no-any-return]


# Frequencies ---------------------------------------------------------------------------------------------------------


def modulus_of(trajectory: Trajectory, classes: Int) -> int | None:
    """Return p where the task is addition modulo p and every residue occurs; None elsewhere.

    A run's settings tell the task: by the name of the recipe or a setting "task", and "p".
    """
    settings = trajectory.settings
    parts: list[Any] = [settings, settings.get("settings"), settings.get("recipe")]
    nested = [part for part in parts if isinstance(part, Mapping)]
    said = " ".join(str(part.get(key, "")) for part in nested for key in ("recipe", "name", "title", "task"))
    p = next((part["p"] for part in nested if isinstance(part.get("p"), int)), None)
    if p is None or "modul" not in said.lower() or classes.tolist() != list(range(p)):
        return None
    return int(p)


def embedding_name(trajectory: Trajectory, classes: int) -> str | None:
    """Return the name of a recorded embedding: a weight called so, with a row for each symbol (and few others)."""
    for name, array in trajectory.snapshots[-1].tensors.items():
        is_table = array.ndim == 3 and classes <= array.shape[1] <= classes + 2
        if name.startswith("weights/") and "embed" in name and "pos" not in name and is_table:
            return name
    return None


def rows_of(moment: Snapshot, name: str, run: int, classes: int) -> Float:
    """Return the rows of the symbols 0 to p − 1 of an embedding; zeros where a snapshot lacks it or it is not finite."""
    table = moment.tensors.get(name)
    if table is None or not np.isfinite(table[run]).all():
        return np.zeros((classes, 1))
    return np.asarray(table[run][:classes], np.float64)


def spectrum_shares(table: Float) -> Float:
    """Return the share of the varying energy at each frequency 1 to ⌊p/2⌋ of the rows; zeros where nothing varies."""
    import torch  # only where tensors were recorded: the page of a log is drawn without it

    from twoclocks.measures.fourier import fourier_energies  # as above

    energies: Float = fourier_energies(torch.from_numpy(np.ascontiguousarray(table))).numpy()[1:]
    total = float(energies.sum())
    return energies / total if total > 0 else np.zeros(len(energies))


def dominant(points: Float, modulus: int) -> tuple[int | None, float]:
    """Return the strongest frequency of what the plane shows, if it dominates and orders all residues, and its share."""
    shares = spectrum_shares(points)
    best = int(shares.argmax()) + 1
    orders = shares[best - 1] >= DOMINATES and math.gcd(best, modulus) == 1
    return (best if orders else None), float(shares[best - 1])


def ring(modulus: int, frequency: int) -> Int:
    """Return the residues in the order in which a frequency passes them: neighbours differ by 1 / frequency modulo p.

    >>> ring(7, 3).tolist()
    [0, 5, 3, 1, 6, 4, 2]
    """
    return np.arange(modulus) * pow(frequency, -1, modulus) % modulus


# Words ---------------------------------------------------------------------------------------------------------------


def notes_of(trajectory: Trajectory, run: int, classes: Int, shown: Sequence[int]) -> Iterable[str]:
    """Say which run and which classes are shown, where these are not all."""
    if trajectory.runs > 1:
        yield f"Shown is run {run} of 0 to {trajectory.runs - 1}."
    if len(shown) < len(classes):
        yield f"{len(shown):,} of {len(classes):,} classes are drawn, evenly chosen; the axes and shares are of all."


def heading(moment: Moment, unit: str) -> str:
    """Return the time of a moment, and its name if it has one.

    >>> heading(Moment(400, "fit", np.zeros((2, 2)), (0.5, 0.3), 1.0, None, 0.0, np.zeros(0)), "optimiser step")
    'optimiser step 400 (fit)'
    """
    return f"{unit} {count(moment.step)}" + (f" ({moment.name})" if moment.name else "")


def told(moment: Moment, view: Embedding) -> str:
    """Return in words what a moment shows: how much the plane holds, the size, and the frequencies."""
    said = (
        f"The plane holds {percent(sum(moment.share))} of the scatter of the class means, whose RMS distance from their "
        f"centre is {number(moment.size)}."
    )
    if view.modulus is None:
        return said
    if moment.frequency is not None:
        turning = f"{percent(moment.frequency_share)} of what it shows turns with frequency {moment.frequency}"
        return f"{said} {turning}; the line follows it."
    return f"{said} No one frequency orders what it shows."


def spectrum_words(moment: Moment, view: Embedding) -> str:
    """Return in words which frequencies are strongest."""
    strongest = np.argsort(-moment.spectrum, kind="stable")[:3]
    each = ", ".join(f"{percent(moment.spectrum[k])} at {k + 1}" for k in strongest)
    return f"Of the energy of {view.spectrum_of}: {each}; {len(moment.spectrum)} frequencies."
