"""This file knows whether large initial weights damage the features of MNIST images, which training then repairs."""

from __future__ import annotations

from functools import partial

import numpy as np

from twoclocks import thresholds as at
from twoclocks.claims.answers import Answer, Finding, Part, Table, agreed, held
from twoclocks.claims.studies import (
    NOT_TRAINED,
    Known,
    Measured,
    each,
    labels_words,
    ladder_picture,
    named_part,
    verdict_part,
)
from twoclocks.claims.words import UNKNOWN, counted, mean_words, span
from twoclocks.decomposition import PRESETS, decompose
from twoclocks.runs import before_rise, evenly
from twoclocks.trajectory import Array, Float

LARGE, CONTROL = "mnist-large-init", "mnist-large-init-control"
MOMENTS = 6  # at which every preset is fitted: a table holds seven columns
RECOVERED = 0.05  # of accuracy above the lowest level, and of the peak of the critical dimension
HALF = 0.5
TUNED, BEST, CEILING = PROBES = (
    "train-fit probe, tuned", "train-fit probe at its best penalty", "held-out-fit probe",
)  # fmt: skip


def whether_the_features_are_damaged_and_repaired(known: Known) -> Answer:
    """Answer whether MNIST at init × 8 damages its features and repairs them, and at init × 1 does not."""
    large, control = known.get(LARGE), known.get(CONTROL)
    both = [one for one in (large, control) if one is not None]
    parts = (
        start_part("at × 8 the probes fall below what they read at initialisation", large),
        verdict_part("at × 8 the features get worse than they had been", "TC203", large),
        verdict_part("at × 8 the critical dimension rises above that at initialisation", "TC207", large),
        recovery_part(large),
        verdict_part("at × 1 the features do not get worse", "TC203", control, wanted=Finding.FAILS),
        verdict_part("at × 1 the critical dimension does not rise", "TC207", control, wanted=Finding.FAILS),
        named_part("the delay at × 8 is called spurious", "spurious", None if large is None else large.kinds),
    )
    return Answer(
        "c", "Is late generalisation on MNIST the repair of a damage?",
        "at init × 8 probe accuracy falls below its value at initialisation and N_crit rises, then both recover; init × 1 "
        "shows neither; the delay is spurious",
        parts, f"{labels_words(both)}{artefact_words(large)}",
        (*([fall_table(both)] if both else []), *(preset_table(one) for one in both)),
        tuple(ladder_picture(one) for one in both),
        ("**Tuned**: the penalty is chosen by the leave-one-out error of the training examples. These features have seen their "
         "labels: on memorised ones the error vanishes with the penalty, and the probe falls with it. **Best penalty**: "
         "the one of the same strip that reads most of held-out half A; scored, like all, on half B. What a fall keeps at the "
         "best penalty is the features' own; the rest is the tuning's.",),
        asides=(artefact_part(large),),
    )  # fmt: skip


def probe_of(measured: Measured, probe: str) -> tuple[Array, Float] | None:
    """Return the steps and the accuracies `[r t]` of a probe; None where it was not fitted."""
    ladder, strip = measured.evidence.ladder, measured.evidence.sensitivity
    if probe == BEST:
        return None if strip is None else (strip.step, strip.best_train_probe)
    if ladder is None:
        return None
    return ladder.step, ladder.train_probe if probe == TUNED else ladder.heldout_probe


def fall_below_start(measured: Measured, probe: str, r: int) -> float | None:
    """Return by how much a probe of run r falls below its value at step 0 before the held-out rise, three medians in a row."""
    found = probe_of(measured, probe)
    if found is None:
        return None
    step, values = found
    return fall_from_first(step, values[r], before_rise(step, measured.courses[r]))


def fall_from_first(step: Array, values: Float, usable: Array) -> float | None:
    """Return the value at step 0 less the lowest median of three later ones in a row; None with fewer than three.

    >>> fall_from_first(np.arange(5), np.array([0.8, 0.1, 0.5, 0.4, 0.9]), np.ones(5, bool))  # the medians are 0.4 and 0.5
    0.4
    """
    later = values[(step > 0) & usable & np.isfinite(values)]
    if len(later) < at.FEWEST_SNAPSHOTS or step[0] != 0 or not np.isfinite(values[0]):
        return None
    medians = np.median(np.lib.stride_tricks.sliding_window_view(later, at.FEWEST_SNAPSHOTS), axis=1)
    return float(values[0] - medians.min())


def start_part(claim: str, large: Measured | None) -> Part:
    """Return whether both honest probes fall below what they read at initialisation, before the held-out rise."""
    rule = f"before the held-out rise {BEST} and {CEILING} fall by {at.RISE:g} or more below step 0, in every run"
    if large is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    falls = {probe: each(large, partial(fall_below_start, large, probe)) for probe in (BEST, CEILING)}
    outcomes = [
        held(None if a is None or b is None else min(a, b) >= at.RISE) for a, b in zip(*falls.values(), strict=True)
    ]
    words = "; ".join(f"{probe} {mean_words(of)}" for probe, of in falls.items())
    return Part(claim, rule, agreed(outcomes), f"{counted(outcomes)} (falls: {words})")


def artefact_part(large: Measured | None) -> Part:
    """Return whether most of the fall of the train-fit probe is its tuning's."""
    claim = "the fall of the tuned train-fit probe is mostly an artefact of its penalty"
    rule = "at its best penalty the probe falls by less than half as much below step 0, in every run"
    if large is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    shares = each(large, partial(artefact_share, large))
    outcomes = [held(None if share is None else share > HALF) for share in shares]
    return Part(claim, rule, agreed(outcomes), f"{counted(outcomes)} (share that is the tuning's {mean_words(shares)})")


def artefact_share(measured: Measured, r: int) -> float | None:
    """Return the share of the tuned train-fit probe's fall below step 0 that is gone at its best penalty."""
    tuned, best = (fall_below_start(measured, probe, r) for probe in (TUNED, BEST))
    return None if tuned is None or best is None or tuned < at.RISE else 1 - best / tuned


def artefact_words(large: Measured | None) -> str:
    """Return how far each probe falls below its value at initialisation, in a sentence."""
    if large is None:
        return ""
    falls = "; ".join(f"{probe} {mean_words(each(large, partial(fall_below_start, large, probe)))}" for probe in PROBES)
    shares = mean_words(each(large, partial(artefact_share, large)))
    return f" Fall below step 0 at × 8: {falls}. Share of the tuned probe's fall that is the tuning's: {shares}."


def recovery_part(large: Measured | None) -> Part:
    """Return whether the held-out-fit probe and the critical dimension recover from their worst."""
    claim = "then both recover"
    rule = (
        f"from its lowest to its last snapshot the held-out-fit probe rises by {RECOVERED:g} or more, and N_crit ends "
        f"{RECOVERED:.0%} or more below its peak"
    )
    if large is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    rises, falls = each(large, partial(rise_from_lowest, large)), each(large, partial(fall_from_peak, large))
    outcomes = [
        held(None if fall is None or rise is None else rise >= RECOVERED and fall >= RECOVERED)
        for rise, fall in zip(rises, falls, strict=True)
    ]
    found = f"rise {mean_words(rises)}; fall of N_crit from its peak, of the peak, {mean_words(falls)}"
    return Part(claim, rule, agreed(outcomes), f"{counted(outcomes)} ({found})")


def rise_from_lowest(measured: Measured, r: int) -> float | None:
    """Return by how much the held-out-fit probe ends above its lowest."""
    found = probe_of(measured, CEILING)
    values = np.array([]) if found is None else found[1][r][np.isfinite(found[1][r])]
    return float(values[-1] - values.min()) if len(values) else None


def fall_from_peak(measured: Measured, r: int) -> float | None:
    """Return by how much the critical dimension ends below its peak, as a share of the peak."""
    series = measured.evidence.measured.get("critical_dimension(heldout)")
    values = np.array([]) if series is None else series.value[r][np.isfinite(series.value[r])]
    return float(1 - values[-1] / values.max()) if len(values) else None


def fall_table(both: list[Measured]) -> Table:
    """Return how far each probe falls below its value at initialisation, and which penalties the tuned one chooses."""
    rows = [
        (f"{probe}: fall below step 0", *(mean_words(each(one, partial(fall_below_start, one, probe))) for one in both))
        for probe in PROBES
    ]
    rows.append(
        ("penalties that tuning chooses, over snapshots (mean eigenvalues)", *map(penalty_words, both)),
    )
    return Table(("accuracy before the held-out rise, mean over seeds", *(one.name for one in both)), tuple(rows))


def penalty_words(measured: Measured) -> str:
    """Return the range of the penalties that tuning chose for the train-fit probe."""
    strip = measured.evidence.sensitivity
    seen = np.array([]) if strip is None else strip.train_penalty[np.isfinite(strip.train_penalty)]
    return span(float(seen.min()), float(seen.max())) if len(seen) else UNKNOWN


def preset_table(measured: Measured) -> Table:
    """Return both probes by preset at a few moments, means over seeds."""
    moments = few_moments(measured)
    by_preset = {
        preset: decompose(measured.trajectory, preset=preset, steps=moments, resamples=1) for preset in PRESETS
    }
    rows = [("native readout", *level_words(by_preset["ridge"].native))]
    rows += [(f"train-fit probe ({preset})", *level_words(ladder.train_probe)) for preset, ladder in by_preset.items()]
    if (best := probe_of(measured, BEST)) is not None:
        rows.append(("train-fit probe (ridge, best penalty)", *level_words(best[1][:, np.isin(best[0], moments)])))
    rows += [
        (f"held-out-fit probe ({preset})", *level_words(ladder.heldout_probe)) for preset, ladder in by_preset.items()
    ]
    series = measured.evidence.measured.get("critical_dimension(heldout)")
    if series is not None:
        rows.append(("N_crit (held-out features)", *level_words(series.value[:, np.isin(series.step, moments)])))
    return Table(
        (f"{measured.name}, mean over {measured.runs} seeds, at step", *(f"{m:,}" for m in moments)), tuple(rows)
    )


def few_moments(measured: Measured) -> list[int]:
    """Return a few snapshots: step 0, the lowest held-out-fit probe, the last, and others evenly in log time between."""
    ladder = measured.evidence.ladder
    if ladder is None:
        return []
    level = np.nan_to_num(ladder.heldout_probe.mean(axis=0), nan=np.inf)
    spread = evenly(np.flatnonzero(ladder.step >= 10), MOMENTS - 2)
    return sorted({int(ladder.step[place]) for place in (0, int(level.argmin()), len(level) - 1, *spread.tolist())})


def level_words(values: Float) -> list[str]:
    """Return the mean over runs at each moment."""
    return [UNKNOWN if not np.isfinite(mean) else f"{mean:.3g}" for mean in values.mean(axis=0).tolist()]
