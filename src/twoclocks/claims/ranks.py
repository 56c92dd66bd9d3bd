"""This file knows the question about ranks, (b): which matrix's stable rank falls, and whether it counts Fourier pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from twoclocks.claims.answers import Answer, Curve, Finding, Part, Picture, Table, agreed, held
from twoclocks.claims.setting import Setting, place_of
from twoclocks.claims.words import UNKNOWN, counted, listed, mean_words, number, span
from twoclocks.measures.collapse import class_means
from twoclocks.measures.fourier import fourier_energies, logit_frequencies
from twoclocks.measures.gates import mean_gate_product
from twoclocks.measures.spectrum import stable_rank
from twoclocks.series import labels_of, measure
from twoclocks.stats import t_interval
from twoclocks.trajectory import Float, Series, Snapshot, Trajectory

BEGINS, ENDS = (30.0, 42.0), (9.0, 13.0)  # "about 36" and "10 to 12", each with its own rounding
SATURATES_AT = 1500
FAST_UNTIL = 2000  # steps, up to which every snapshot is measured
SHARE = 0.95  # of the energy that is not constant, held by the frequencies that survive
COUNTS = (0.9, 1.1)  # stable rank ÷ (2 × pairs) within which it counts them
LOGITS, ANSWERS = "logits Z", "mean logits by answer"
GATED, SYMBOLS = "mean-gate product W₂ D̄ W₁", "mean-gate map of symbols E W₁ᵀ D̄ W₂ᵀ"
FEATURES, EMBEDDING, TABLE = "features", "embedding E", "first-layer table E W₁ᵀ"
HIDDEN, READOUT = "first layer W₁", "readout W₂"
CENTRED = ", centred"
WITH_PAIRS = (ANSWERS, SYMBOLS + CENTRED, EMBEDDING + CENTRED, TABLE + CENTRED, READOUT + CENTRED)
MATRICES = (
    LOGITS, LOGITS + CENTRED, ANSWERS, GATED, GATED + CENTRED, SYMBOLS, SYMBOLS + CENTRED, FEATURES, FEATURES + CENTRED,
    EMBEDDING, EMBEDDING + CENTRED, TABLE, TABLE + CENTRED, HIDDEN, READOUT, READOUT + CENTRED,
)  # fmt: skip


@dataclass(frozen=True)
class Ranks:
    """Of the runs of one setting, by matrix: stable ranks over training, `[r t]`; and at the end, `[r]`, how many
    frequencies survive, and the stable rank of just as many pairs of their unequal energies, 2 Σe / max e.
    """

    setting: Setting
    step: Series
    rank: Mapping[str, Float]
    surviving: Mapping[str, Float]
    weighed: Mapping[str, Float]


def which_rank_falls(settings: Sequence[Setting]) -> Answer:
    """Answer (b): the stable rank falls from about 36 to 10–12; of which matrix, and does it count Fourier pairs."""
    ranks = [ranks_of(s) for s in settings]
    return Answer(
        "b",
        "Which stable rank falls, and what does it count?",
        "The stable rank falls from about 36 to 10–12, the number of surviving Fourier pairs counted twice",
        (falls_as_published(ranks), falls_after_fit(ranks), counts_pairs(ranks)),
        fall_words(ranks),
        (course_table(ranks[0]), end_table(ranks), pairs_table(ranks[0])),
        rank_pictures(ranks[0]),
        (
            f"All {len(MATRICES)} matrices that were looked at are shown; the source does not say which one its "
            "figure is of, and among so many one may match by chance. Ranks are of every snapshot up to step "
            f"{FAST_UNTIL:,} and of every second one after. *Logits Z*: pairs × classes, of the recorded pairs, "
            "centred over classes. *Features*: pairs × hidden units. *Centred*: the mean row is taken away too (of "
            "the map of symbols, the mean row and column), which of a table over symbols is its constant "
            "frequency: a large mean counts as one direction and hides all others in a stable rank. *Mean logits "
            "by answer*: answers × classes, centred both ways.",
            f"Surviving frequencies: the fewest that hold {SHARE:.0%} of the Fourier energy e that is not constant; "
            "of the logits, that of the mean logit as a function of answer − class. Pairs of equal energy on "
            "directions of their own have a stable rank of exactly 2 × their number, of unequal energy 2 Σe ÷ max "
            "e, which is less than twice the number that survives.",
        ),
    )


def ranks_of(setting: Setting) -> Ranks:
    """Return the ranks of every matrix at every snapshot, and the frequencies at the last."""
    trajectory = setting.trajectory
    labels = all_labels(trajectory)

    def ranks(matrix: Tensor, features: Tensor, weights: Sequence[Tensor]) -> Tensor:
        return torch.stack([stable_rank(one) for one in matrices_of(matrix, features, weights, labels).values()])

    def pairs(matrix: Tensor, features: Tensor, weights: Sequence[Tensor]) -> Tensor:
        tables = matrices_of(matrix, features, weights, labels)
        energies = [
            (logit_frequencies(matrix, labels, matrix.shape[1]) if name == ANSWERS else fourier_energies(tables[name]))
            for name in WITH_PAIRS
        ]
        return torch.tensor([pairs_of(one.numpy()[1:]) for one in energies], dtype=torch.float64)

    courses = measure(replace(trajectory, snapshots=moments_of(trajectory.snapshots)), ranks)
    found = measure(replace(trajectory, snapshots=trajectory.snapshots[-1:]), pairs).value[:, 0]
    return Ranks(
        setting, Series("step", "", courses.step, courses.value[:, :, 0]),
        {name: courses.value[:, :, i] for i, name in enumerate(MATRICES)},
        {name: found[:, i, 0] for i, name in enumerate(WITH_PAIRS)},
        {name: found[:, i, 1] for i, name in enumerate(WITH_PAIRS)},
    )  # fmt: skip


def moments_of(snapshots: Sequence[Snapshot]) -> tuple[Snapshot, ...]:
    """Return the snapshots that ranks are measured at: all while they change fast, then every second up to the last."""
    from_last = enumerate(reversed(snapshots))
    return tuple(one for i, one in from_last if i % 2 == 0 or one.step <= FAST_UNTIL)[::-1]


def all_labels(trajectory: Trajectory) -> Tensor:
    """Return the answers of all recorded pairs, training then held-out, as the rows of the logits are."""
    return torch.cat([labels_of(trajectory, split) for split in ("train", "heldout")])


def matrices_of(logits: Tensor, features: Tensor, weights: Sequence[Tensor], labels: Tensor) -> Mapping[str, Tensor]:
    """Return the matrices by name, in the order of MATRICES: tables over symbols with a row a symbol.

    `weights` are E, W₁ and W₂ in the order of their names: embedding, hidden, readout.
    """
    embedding, hidden, readout = weights
    place = torch.unique(labels, return_inverse=True)[1]
    product = mean_gate_product([hidden, readout], [features > 0])
    by_answer = class_means(logits, place)
    found = {ANSWERS: centred(by_answer), HIDDEN: hidden}
    plain = {LOGITS: logits, GATED: product, SYMBOLS: embedding @ product.T, FEATURES: features, EMBEDDING: embedding,
             TABLE: embedding @ hidden.T, READOUT: readout}  # fmt: skip
    found |= plain | {name + CENTRED: centred(matrix) for name, matrix in plain.items()}
    found[SYMBOLS + CENTRED] = centred(found[SYMBOLS + CENTRED].T).T
    return {name: found[name] for name in MATRICES}


def centred(matrix: Tensor) -> Tensor:
    """Return a matrix without its mean row."""
    return matrix - matrix.mean(0)


def pairs_of(energies: Float) -> tuple[float, float]:
    """Return how many frequencies hold SHARE of some energies, and 2 Σe / max e; 0 of both where there is no energy.

    >>> pairs_of(np.array([4.0, 0.1, 4.0, 2.0]))
    (3.0, 5.05)
    """
    total, largest = float(energies.sum()), float(energies.max())
    if largest <= 0:
        return 0.0, 0.0
    kept = np.cumsum(np.sort(energies)[::-1]) / total
    return float((kept < SHARE - 1e-12).sum() + 1), 2 * total / largest


def falls_as_published(ranks: Sequence[Ranks]) -> Part:
    """Return whether any matrix falls as published, at any weight decay.

    From a step chosen beforehand it holds; a matrix that does so only from its highest value, which is chosen by looking,
    leaves it open.
    """
    shown = [matching(one) for one in ranks]
    words = "; ".join(f"{one.setting.name}: {listed(names)}" for one, names in zip(ranks, shown, strict=True))
    return Part(
        "the stable rank falls from about 36 to 10–12",
        f"some matrix has a mean over seeds from {BEGINS[0]:g} to {BEGINS[1]:g} at step 0 or {SATURATES_AT:,} and from "
        f"{ENDS[0]:g} to {ENDS[1]:g} at the end; undetermined if only from where it is highest",
        agreed(
            Finding.HOLDS if matching_from_fixed_steps(one) else Finding.OPEN if names else Finding.FAILS
            for one, names in zip(ranks, shown, strict=True)
        ),
        f"from where they are highest: {words}",
    )


def matching(ranks: Ranks) -> list[str]:
    """Return the matrices that fall as published, by their means over seeds, from wherever they are highest too."""
    return [name for name in MATRICES if any(begins_and_ends(ranks, name))]


def matching_from_fixed_steps(ranks: Ranks) -> list[str]:
    """Return the matrices that fall as published from step 0 or from the saturation of the loss, chosen beforehand."""
    return [name for name in MATRICES if any(begins_and_ends(ranks, name)[::2])]


def begins_and_ends(ranks: Ranks, name: str) -> list[bool]:
    """Return for each start of a matrix whether it and the end are as published, by their means over seeds."""
    ends = ENDS[0] <= ranks.rank[name][:, -1].mean() <= ENDS[1]
    return [bool(ends and BEGINS[0] <= start.mean() <= BEGINS[1]) for start in starts_of(ranks, name)]


def starts_of(ranks: Ranks, name: str) -> tuple[Float, Float, Float]:
    """Return the stable ranks of a matrix at step 0, at its highest, and at the saturation of the loss, `[r]` each."""
    values = ranks.rank[name]
    return values[:, 0], values.max(1), values[:, place_of(ranks.step, SATURATES_AT)]


def falls_after_fit(ranks: Sequence[Ranks]) -> Part:
    """Return whether the stable ranks fall at all once the training loss is saturated."""
    found = [direction(one, name) for one in ranks for name in MATRICES]
    return Part(
        f"the stable ranks fall after step {SATURATES_AT:,}",
        "for a matrix at one weight decay: the t interval over seeds of (end − then) lies below 0",
        agreed(found),
        f"{counted(found)}, over {len(MATRICES)} matrices × {len(ranks)} weight decays",
    )


def direction(ranks: Ranks, name: str) -> Finding:
    """Return whether a stable rank falls between the saturation of the loss and the end, by its t interval over seeds."""
    change = ranks.rank[name][:, -1] - starts_of(ranks, name)[2]
    if not np.isfinite(change).all():
        return Finding.OPEN
    low, high = t_interval(change)
    return held(True if high < 0 else False if low >= 0 else None)


def counts_pairs(ranks: Sequence[Ranks]) -> Part:
    """Return whether stable ranks count the surviving pairs."""
    found = [counting(pair_ratio(one, name)) for one in ranks for name in WITH_PAIRS]
    return Part(
        "it counts surviving Fourier pairs",
        "for a matrix at one weight decay: stable rank ÷ (2 × surviving frequencies) has a t interval inside "
        f"{COUNTS[0]:g} to {COUNTS[1]:g}; fails if all of it lies outside",
        agreed(found),
        f"{counted(found)}, over {len(WITH_PAIRS)} matrices × {len(ranks)} weight decays",
    )


def pair_ratio(ranks: Ranks, name: str) -> Float:
    """Return stable rank ÷ (2 × surviving frequencies) at the end, `[r]`; NaN where none survive."""
    twice = 2 * ranks.surviving[name]
    ratio: Float = np.divide(ranks.rank[name][:, -1], twice, out=np.full(len(twice), np.nan), where=twice > 0)
    return ratio


def counting(ratio: Float) -> Finding:
    """Return whether ratios over seeds are 1 to within a tenth."""
    if not np.isfinite(ratio).all():
        return Finding.OPEN
    low, high = t_interval(ratio)
    return held(
        True if COUNTS[0] <= low and high <= COUNTS[1] else False if high < COUNTS[0] or low > COUNTS[1] else None
    )


def fall_words(ranks: Sequence[Ranks]) -> str:
    """Say which matrices fall as published, and what the nearest to an end-to-end map does."""
    shown = sorted({name for one in ranks for name in matching(one)}, key=MATRICES.index)
    first = (
        f"A fall from about 36 to 10–12 is shown, at one weight decay at least, by {len(shown)} of {len(MATRICES)} "
        f"matrices: {listed(shown)}."
        if shown
        else f"Not one of {len(MATRICES)} matrices falls from about 36 to 10–12 at any weight decay."
    )
    fixed = sorted({name for one in ranks for name in matching_from_fixed_steps(one)}, key=MATRICES.index)
    start, highest, _ = (float(one.mean()) for one in starts_of(ranks[0], LOGITS))
    end = float(ranks[0].rank[LOGITS][:, -1].mean())
    return (
        f"{first} Starting at step 0 or {SATURATES_AT:,} alone, not where a rank is highest: {listed(fixed)}. The "
        f"logits themselves begin at {number(start)}, rise to {number(highest)} and end at {number(end)} "
        f"({ranks[0].setting.name}, means over seeds). {weight_words(ranks)}"
    )


def weight_words(ranks: Sequence[Ranks]) -> str:
    """Say how far the stable ranks at the end are those of pairs of unequal energy."""
    each = []
    for name in WITH_PAIRS:
        means = [mean for one in ranks if np.isfinite(mean := float(weighed_ratio(one, name).mean()))]
        each.append(f"{span(min(means), max(means)) if means else UNKNOWN} ({name})")
    return f"Stable rank ÷ (2 Σe ÷ max e), which weighs each pair by its energy, is at the end {listed(each)}."


def weighed_ratio(ranks: Ranks, name: str) -> Float:
    """Return stable rank ÷ (2 Σe / max e) at the end, `[r]`; NaN where there is no energy."""
    end, weighed = ranks.rank[name][:, -1], ranks.weighed[name]
    ratio: Float = np.divide(end, weighed, out=np.full(len(end), np.nan), where=weighed > 0)
    return ratio


def course_table(ranks: Ranks) -> Table:
    """Return the stable rank of every matrix over training, at the largest weight decay."""
    step = ranks.step.step
    place = place_of(ranks.step, SATURATES_AT)
    head = (f"stable rank, {ranks.setting.name}", "step 0", "highest", f"step {step[place]:,}", f"step {step[-1]:,}")
    rows = []
    for name in MATRICES:
        start, highest, middle = starts_of(ranks, name)
        rows.append((name, *(mean_words(one.tolist()) for one in (start, highest, middle, ranks.rank[name][:, -1]))))
    return Table(head, tuple(rows))


def end_table(ranks: Sequence[Ranks]) -> Table:
    """Return the stable rank of every matrix at the end, by weight decay."""
    head = ("stable rank at the end", *(one.setting.name for one in ranks))
    return Table(head, tuple((n, *(mean_words(one.rank[n][:, -1].tolist()) for one in ranks)) for n in MATRICES))


def pairs_table(ranks: Ranks) -> Table:
    """Return stable ranks beside the number of surviving pairs, at the end."""
    head = (
        f"at the end, {ranks.setting.name}", "stable rank", "surviving frequencies", "stable rank ÷ (2 × surviving)",
        "2 Σe ÷ max e", "stable rank ÷ (2 Σe ÷ max e)",
    )  # fmt: skip
    rows = []
    for name in WITH_PAIRS:
        shown = (
            ranks.rank[name][:, -1], ranks.surviving[name], pair_ratio(ranks, name), ranks.weighed[name],
            weighed_ratio(ranks, name),
        )  # fmt: skip
        rows.append((name, *(mean_words(one.tolist()) for one in shown)))
    return Table(head, tuple(rows))


def rank_pictures(ranks: Ranks) -> tuple[Picture, ...]:
    """Return the stable ranks over training: of the maps, and of the weights and features."""
    groups = {
        "maps": (LOGITS, ANSWERS, GATED + CENTRED, SYMBOLS + CENTRED),
        "layers": (EMBEDDING + CENTRED, TABLE + CENTRED, FEATURES + CENTRED, HIDDEN, READOUT + CENTRED),
    }
    step = ranks.step.step
    return tuple(
        Picture(
            f"ranks-{key}", f"Stable ranks of the {key}, {ranks.setting.name}", "optimiser step", "stable rank",
            tuple(Curve(name, step[1:], row[1:]) for name in names for row in ranks.rank[name]),
            f"Stable rank (no unit) against the optimiser step, one line a run; {ranks.setting.name}, "
            f"{ranks.setting.runs} seeds.",
            log_x=True, levels=((36.0, "36"), (11.0, "10–12")),
        )
        for key, names in groups.items()
    )  # fmt: skip
