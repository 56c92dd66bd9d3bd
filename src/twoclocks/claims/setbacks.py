"""This file knows the claims about setbacks: double descent by label noise, Muon's collapse, the collapse of a softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from twoclocks import thresholds as at
from twoclocks.claims.answers import Answer, Finding, Part, Picture, Table, agreed, held
from twoclocks.claims.studies import (
    NOT_TRAINED,
    Known,
    Measured,
    curves_of,
    each,
    labels_words,
    ladder_picture,
    named_part,
    outcome_words,
    present,
    verdict_part,
)
from twoclocks.claims.words import counted, mean_words
from twoclocks.decomposition import Decomposition
from twoclocks.trajectory import Float
from twoclocks.verdicts import end_share

NOISE, SLOW = "label-noise", "label-noise-slow-readout"
MUON, FROZEN = "muon-collapse", "muon-collapse-frozen"
LOWEST: dict[str, Callable[[Decomposition], Float]] = {
    "native accuracy at the lowest later snapshot": lambda ladder: ladder.native,
    "train-fit probe there": lambda ladder: ladder.train_probe,
    "held-out-fit probe there": lambda ladder: ladder.heldout_probe,
}
LAST = {"last training loss (nats)": "train_loss", "last gradient norm of the readout": "gradient_norm.readout"}
SOFTMAX = ("softmax-collapse", "softmax-collapse-float64", "softmax-collapse-stable")
STALLED = 0.5  # of the loss at half of the steps
DESCENT, COLLAPSE = "epoch-wise double descent", "collapse after generalisation"


def which_part_dips(known: Known) -> Answer:
    """Answer which part makes the dip of a double descent, and whether slowing the readout alone removes it."""
    noise, slow = known.get(NOISE), known.get(SLOW)
    both = [one for one in (noise, slow) if one is not None]
    parts = (
        named_part("held-out accuracy shows a double descent", DESCENT, None if noise is None else noise.labels),
        mechanism_part(noise),
        verdict_part("with a slow readout there is none", "TC105", slow, wanted=Finding.FAILS),
        shallower_part(noise, slow),
    )
    rows = [
        ("depth of the dip (accuracy)", *(mean_words(each(one, partial(dip_depth, one))) for one in both)),
        (
            "fall of the held-out-fit probe ÷ that of the native readout",
            *(mean_words(one.effects("TC211")) for one in both),
        ),
        ("held-out accuracy at the end", *(mean_words(each(one, partial(last_accuracy, one))) for one in both)),
        ("labels", *(counted(one.labels) for one in both)),
        ("kinds", *(counted(kind or "none" for kind in one.kinds) for one in both)),
    ]
    return Answer(
        "d", "Which part makes the dip of a double descent?",
        "epoch-wise double descent comes from the representation or from the readout, and slowing only the readout removes it",
        parts, labels_words(both), (Table(("mean over seeds", *(one.name for one in both)), tuple(rows)),) if both else (),
        tuple(ladder_picture(one) for one in both),
        ("**Depth of the dip**: from the first maximum of held-out accuracy to the trough after it (smoothed, as judged), 0 "
         "where it never falls and rises again.",),
    )  # fmt: skip


def mechanism_part(noise: Measured | None) -> Part:
    """Return whether every run names the same of the two mechanisms."""
    claim, rule = (
        "it is one of the two mechanisms, the same in every run",
        "TC211 is supported in every run, or refuted in every run",
    )
    if noise is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    return Part(claim, rule, same_in_all(noise.outcomes("TC211")), outcome_words(noise, "TC211"))


def same_in_all(found: Sequence[Finding]) -> Finding:
    """Return whether all findings are the same and none is open; open where some are and the others agree.

    >>> same_in_all([Finding.FAILS, Finding.FAILS]), same_in_all([Finding.FAILS, Finding.HOLDS, Finding.OPEN])
    (<Finding.HOLDS: 'holds'>, <Finding.FAILS: 'does not hold'>)
    """
    decided = {one for one in found if one is not Finding.OPEN}
    if len(decided) > 1:
        return Finding.FAILS
    return Finding.HOLDS if decided and Finding.OPEN not in found else Finding.OPEN


def shallower_part(noise: Measured | None, slow: Measured | None) -> Part:
    """Return whether the dip is less than half as deep with a slow readout, seed by seed."""
    claim, rule = "the dip is less than half as deep", "in every seed, with the same initial weights and data"
    if noise is None or slow is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    depths = each(noise, partial(dip_depth, noise)), each(slow, partial(dip_depth, slow))
    outcomes = [half_as_deep(*pair) for pair in zip(*depths, strict=True)]
    words = f"{mean_words(depths[0])} against {mean_words(depths[1])} with the slow readout"
    return Part(claim, rule, agreed(outcomes), f"{counted(outcomes)} (depth {words})")


def half_as_deep(deep: float | None, shallow: float | None) -> Finding:
    """Return whether one dip is less than half as deep as another; open where there is no such other.

    >>> half_as_deep(0.06, 0.01), half_as_deep(0.06, 0.04), half_as_deep(0.0, 0.0)
    (<Finding.HOLDS: 'holds'>, <Finding.FAILS: 'does not hold'>, <Finding.OPEN: 'undetermined'>)
    """
    return held(None if deep is None or shallow is None or deep <= 0 else shallow < deep / 2)


def dip_depth(measured: Measured, r: int) -> float | None:
    """Return by how much held-out accuracy fell from the first maximum to the trough of its deepest dip."""
    run = measured.courses[r]
    if run.heldout is None:
        return None
    return 0.0 if run.dip is None else run.dip.depth * (run.heldout.perfect - run.heldout.chance)


def whether_the_interface_collapses(known: Known) -> Answer:
    """Answer whether, under Muon, generalisation is lost by the readout while the features keep it."""
    muon, frozen = known.get(MUON), known.get(FROZEN)
    both = [one for one in (muon, frozen) if one is not None]
    parts = (
        named_part("held-out accuracy is gained and lost again", COLLAPSE, None if muon is None else muon.labels),
        verdict_part("a refitted readout still has what was lost", "TC212", muon),
        verdict_part("with embeddings and readout frozen nothing is lost", "TC107", frozen, wanted=Finding.FAILS),
    )
    rows = [
        ("best held-out accuracy", *(mean_words(each(one, partial(best_accuracy, one))) for one in both)),
        ("held-out accuracy at the end", *(mean_words(each(one, partial(last_accuracy, one))) for one in both)),
        ("share of evaluations at which it is lost (TC107)", *(mean_words(one.effects("TC107")) for one in both)),
        ("share of the loss that refitting restores (TC212)", *(mean_words(one.effects("TC212")) for one in both)),
        *(
            (name, *(mean_words(each(one, partial(at_lowest, one, read))) for one in both))
            for name, read in LOWEST.items()
        ),
        ("labels", *(counted(one.labels) for one in both)),
    ]
    return Answer(
        "e", "Does Muon lose generalisation at the interface?",
        "with Muon on the hidden matrices the network groks early and then loses it; a refitted probe stays high while the "
        "native readout fails, and freezing embeddings and readout prevents the loss (arXiv 2608.07436)",
        parts, labels_words(both), (Table(("mean over seeds", *(one.name for one in both)), tuple(rows)),) if both else (),
        tuple(ladder_picture(one) for one in both),
        ("**At the lowest later snapshot**: where the native readout stands lowest after it first came to nine tenths of its "
         "best; – where that best is no more than half of the way to perfection, so that there was nothing to lose.",),
        asides=(restored_part(muon),),
    )  # fmt: skip


def lowest_later(measured: Measured, r: int) -> int | None:
    """Return the place of the snapshot at which run r stands lowest after it first came close to its best."""
    ladder, heldout = measured.evidence.ladder, measured.courses[r].heldout
    if ladder is None or heldout is None or heldout.best < at.WELL_ABOVE_CHANCE:
        return None
    native = np.nan_to_num(ladder.native[r])
    first = int((native >= at.CLOSE_TO_BEST * native.max()).argmax())
    return first + int(native[first:].argmin())


def at_lowest(measured: Measured, read: Callable[[Decomposition], Float], r: int) -> float | None:
    """Return a rung of run r at its lowest later snapshot."""
    place, ladder = lowest_later(measured, r), measured.evidence.ladder
    return None if place is None or ladder is None else float(read(ladder)[r, place])


def restored_part(muon: Measured | None) -> Part:
    """Return whether, at the lowest later snapshot, a refitted readout has most of what the native one lacks."""
    claim = "where held-out accuracy stands lowest after its rise, a refitted readout has most of what is missing"
    rule = f"(p_tr − native) ÷ (best native − native) above {at.SHARED:g} in every run; open where {at.RISE:g} is not missing"
    if muon is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    shares = each(muon, partial(restored_share, muon))
    outcomes = [held(None if share is None else share > at.SHARED) for share in shares]
    return Part(claim, rule, agreed(outcomes), f"{counted(outcomes)} (share {mean_words(shares)})")


def restored_share(measured: Measured, r: int) -> float | None:
    """Return the share of what the native readout lacks at its lowest later snapshot that the train-fit probe has."""
    place, ladder = lowest_later(measured, r), measured.evidence.ladder
    if place is None or ladder is None:
        return None
    best, low = float(np.nanmax(ladder.native[r, : place + 1])), float(ladder.native[r, place])
    return None if best - low < at.RISE else (float(ladder.train_probe[r, place]) - low) / (best - low)


def best_accuracy(measured: Measured, r: int) -> float | None:
    """Return the best held-out accuracy of run r."""
    heldout = measured.courses[r].heldout
    return None if heldout is None else float(heldout.in_unit(heldout.best))


def last_accuracy(measured: Measured, r: int) -> float | None:
    """Return the held-out accuracy at the end of run r, the median of its last tenth since the best."""
    heldout = measured.courses[r].heldout
    return None if heldout is None else float(heldout.in_unit(end_share(heldout)))


def whether_the_softmax_collapses(known: Known) -> Answer:
    """Answer whether, without weight decay, the rounding of float32 stops a training that would generalise."""
    studies = present(known, SOFTMAX)
    faithful = known.get(SOFTMAX[0])
    parts = (
        stalls_part(faithful),
        *(generalises_part(name, known.get(name)) for name in SOFTMAX[1:]),
        *(above_part(name, faithful, known.get(name)) for name in SOFTMAX[1:]),
    )
    rows = [
        ("best held-out accuracy", *(mean_words(each(one, partial(best_accuracy, one))) for one in studies)),
        ("held-out accuracy at the end", *(mean_words(each(one, partial(last_accuracy, one))) for one in studies)),
        ("training loss at the end ÷ at half", *(mean_words(each(one, partial(late_factor, one))) for one in studies)),
        ("first step at 0.9 or more", *(mean_words(each(one, partial(first_step_at, one, 0.9))) for one in studies)),
        *((what, *(mean_words(each(one, partial(last_of, one, of))) for one in studies)) for what, of in LAST.items()),
        ("labels", *(counted(one.labels) for one in studies)),
    ]  # fmt: skip
    return Answer(
        "g", "Does the rounding of float32 stop a training?",
        "without weight decay the float32 softmax rounds its gradients away and training stalls before it generalises; in "
        "float64, or with a stable loss, it goes on (arXiv 2501.04697)",
        parts, labels_words(studies),
        (Table(("mean over seeds", *(one.name for one in studies)), tuple(rows)),) if studies else (),
        (heldout_picture(studies),) if studies else (),
    )  # fmt: skip


def stalls_part(faithful: Measured | None) -> Part:
    """Return whether the float32 run stalls: its loss stops falling, and its held-out accuracy ends low."""
    claim = "float32 stalls without generalising"
    rule = (
        "over the second half of the steps the training loss does not fall by half, and held-out accuracy ends below half of "
        "the way to perfection, in every run"
    )
    if faithful is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    factors = each(faithful, partial(late_factor, faithful))
    ends = [None if run.heldout is None else end_share(run.heldout) for run in faithful.courses]
    outcomes = [
        held(None if factor is None or end is None else factor > STALLED and end < at.WELL_ABOVE_CHANCE)
        for factor, end in zip(factors, ends, strict=True)
    ]
    return Part(claim, rule, agreed(outcomes), f"{counted(outcomes)} (loss at the end ÷ at half {mean_words(factors)})")


def late_factor(measured: Measured, r: int) -> float | None:
    """Return the training loss at the end ÷ that at half of the steps."""
    loss = measured.trajectory.scalars.get("train_loss")
    if loss is None or not len(loss.step):
        return None
    values = loss.value[r, [int(np.searchsorted(loss.step, loss.step[-1] / 2)), -1]]
    return float(values[1] / values[0]) if np.isfinite(values).all() and values[0] > 0 else None


def generalises_part(name: str, measured: Measured | None) -> Part:
    """Return whether a run generalises."""
    claim, rule = f"{name.removeprefix('softmax-collapse-')} generalises", "TC103 is supported in every run"
    if measured is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    return Part(claim, rule, agreed(measured.outcomes("TC103")), counted(measured.outcomes("TC103")))


def above_part(name: str, faithful: Measured | None, other: Measured | None) -> Part:
    """Return whether a run ends above the float32 run of the same seed."""
    claim = f"{name.removeprefix('softmax-collapse-')} ends above float32"
    rule = f"held-out accuracy at the end is higher by {at.RISE:g} or more, in every seed"
    if faithful is None or other is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    ends = zip(*(each(one, partial(last_accuracy, one)) for one in (faithful, other)), strict=True)
    gains = [None if low is None or high is None else high - low for low, high in ends]
    outcomes = [held(None if gain is None else gain >= at.RISE) for gain in gains]
    return Part(claim, rule, agreed(outcomes), f"{counted(outcomes)} (by {mean_words(gains)})")


def first_step_at(measured: Measured, accuracy: float, r: int) -> float | None:
    """Return the first step from which held-out accuracy is at or above a level, three moments in a row."""
    heldout = measured.courses[r].heldout
    return None if heldout is None else heldout.step_past(heldout.share_of(accuracy))


def heldout_picture(studies: Sequence[Measured]) -> Picture:
    """Return the picture of held-out accuracy over training, of several studies."""
    found = [(one.name, one.trajectory.scalars.get("heldout_accuracy")) for one in studies]
    return Picture(
        "heldout-accuracy", "Held-out accuracy without weight decay", "optimiser step (step 0 drawn at ½)", "held-out accuracy",
        curves_of((name, series) for name, series in found if series is not None), "The native readout, one line a seed.",
        log_x=True,
    )  # fmt: skip


def last_of(measured: Measured, name: str, r: int) -> float | None:
    """Return the last value of a recorded scalar."""
    series = measured.trajectory.scalars.get(name)
    return None if series is None or not np.isfinite(series.value[r, -1]) else float(series.value[r, -1])
