"""This file knows what is trained for the claims about representation and readout, and what is read from each training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from twoclocks.claims.answers import Curve, Finding, Part, Picture, agreed, finding_of
from twoclocks.claims.words import counted, mean_words
from twoclocks.diagnosis import judge_run
from twoclocks.evidence import Evidence, examine
from twoclocks.kinds import kind_of, precision_of
from twoclocks.labels import label_of
from twoclocks.recipes import recipe
from twoclocks.runs import Run, run_of
from twoclocks.training.loop import Progress, train
from twoclocks.training.recipe import Recipe
from twoclocks.trajectory import Float, Series, Snapshot, Trajectory
from twoclocks.verdicts import Outcome, Verdict

NOT_TRAINED = "not trained here"
Found = TypeVar("Found")


@dataclass(frozen=True)
class Study:
    """One training: its name, which is that of its run folder, its recipe and what is changed of it; `cheap`: in minutes.

    `settings` are what the study is about, so that nothing may change them; `size` makes it small enough, and a trial may.
    """

    name: str
    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    size: Mapping[str, Any] = field(default_factory=dict)
    cheap: bool = False


SMALL = {"p": 59, "train_fraction": 0.5, "hidden": 128, "lr": 0.01, "steps": 1200}
STUDIES = (
    Study("modular-addition", "modular-addition", size=SMALL, cheap=True),
    Study("modular-addition-transformer", "modular-addition-transformer"),
    Study("s5", "s5"),
    Study("sparse-parity", "sparse-parity", cheap=True),
    Study("mnist-large-init", "mnist-large-init"),
    Study("mnist-large-init-control", "mnist-large-init", {"init_scale": 1}, {"steps": 5000}),
    Study("label-noise", "label-noise"),
    Study("label-noise-slow-readout", "label-noise", {"readout_lr": 1e-4}),
    Study("muon-collapse", "muon-collapse"),
    Study("muon-collapse-frozen", "muon-collapse", {"freeze": "embeddings-and-readout"}),
    Study("softmax-collapse", "softmax-collapse"),
    Study("softmax-collapse-float64", "softmax-collapse", {"dtype": "float64"}),
    Study("softmax-collapse-stable", "softmax-collapse", {"loss": "stable"}),
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Everything that is read from the runs of one study: what was measured and judged, and the label and kind of each run."""

    study: Study
    evidence: Evidence
    courses: tuple[Run, ...]
    verdicts: tuple[Mapping[str, Verdict], ...]
    labels: tuple[str, ...]
    kinds: tuple[str | None, ...]

    @property
    def name(self) -> str:
        """Return what the study is called in tables and legends."""
        return self.study.name

    @property
    def trajectory(self) -> Trajectory:
        """Return what was recorded."""
        return self.evidence.trajectory

    @property
    def runs(self) -> int:
        """Return the number of seeds."""
        return len(self.verdicts)

    @property
    def seconds(self) -> float | None:
        """Return the seconds that all its runs took, training and recording, on the clock."""
        cost = self.trajectory.settings.get("cost")
        return None if not cost else float(cost["training_seconds"]) + float(cost["recording_seconds"])

    def outcomes(self, code: str) -> list[Finding]:
        """Return how one claim came out on every run; open where it was not judged."""
        return [finding_of(one[code]) if code in one else Finding.OPEN for one in self.verdicts]

    def effects(self, code: str) -> list[float | None]:
        """Return the effect of one claim on every run."""
        return [one[code].effect if code in one else None for one in self.verdicts]


Known = Mapping[str, Measured]


def trained(study: Study, runs: Path, seeds: int, settings: Mapping[str, Any], progress: Progress | None) -> Trajectory:
    """Return the runs of a study, trained now or taken up from their folder."""
    return train(recipe_of(study, settings), seeds=range(seeds), folder=runs / study.name, progress=progress)


def recipe_of(study: Study, settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a study; `settings` change every recipe that has them, but for what the study is about."""
    plain = recipe(study.recipe)
    changed = {name: value for name, value in settings.items() if name in plain.settings}
    return recipe(study.recipe, {**study.size, **changed, **study.settings})


def measured_of(study: Study, trajectory: Trajectory) -> Measured:
    """Measure and judge the runs of a study."""
    evidence = examine(trajectory)
    courses = tuple(run_of(trajectory, r) for r in range(trajectory.runs))
    verdicts = tuple(judge_run(evidence, run, r) for r, run in enumerate(courses))
    labels = tuple(label_of(run, one).name for run, one in zip(courses, verdicts, strict=True))
    precision = precision_of(trajectory)
    kinds = tuple(kind_of(label, one, precision) for label, one in zip(labels, verdicts, strict=True))
    return Measured(study, evidence, courses, verdicts, labels, kinds)


def present(known: Known, names: Sequence[str]) -> list[Measured]:
    """Return those of some studies that were trained, in order."""
    return [known[name] for name in names if name in known]


def verdict_part(claim: str, code: str, measured: Measured | None, *, wanted: Finding = Finding.HOLDS) -> Part:
    """Return a part of a claim that is a verdict on every run of a study; with `wanted` FAILS, one that must be refuted."""
    rule = f"{code} is {'supported' if wanted is Finding.HOLDS else 'refuted'} in every run"
    if measured is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    found = measured.outcomes(code)
    finding = agreed(turned(found) if wanted is Finding.FAILS else found)
    return Part(claim, rule, finding, outcome_words(measured, code, with_effect=wanted is Finding.HOLDS))


def outcome_words(measured: Measured, code: str, *, with_effect: bool = True) -> str:
    """Return how often a claim came out how, its mean effect, and why it does not apply where it does not.

    The effect of a claim that is to be refuted may be a quotient of nothings, such as the recovery from no dip at all.
    """
    judged = [one[code] for one in measured.verdicts if code in one]
    outcomes = [str(one.outcome).lower().replace("_", " ") for one in judged]
    effects = measured.effects(code)
    of_effects = (
        f"; effect {mean_words(effects)}" if with_effect and any(effect is not None for effect in effects) else ""
    )
    because = [one.evidence[0] for one in judged if one.outcome is Outcome.NOT_APPLICABLE and one.evidence]
    return counted(outcomes) + of_effects + (f"; not applicable: {because[0]}" if because else "")


def turned(found: Sequence[Finding]) -> list[Finding]:
    """Return findings about the opposite of a claim."""
    opposite = {Finding.HOLDS: Finding.FAILS, Finding.FAILS: Finding.HOLDS}
    return [opposite.get(one, one) for one in found]


def named_part(claim: str, wanted: str, found: Sequence[str | None] | None) -> Part:
    """Return a part of a claim that is a label or a kind of every run."""
    rule = f"it is called “{wanted}” in every run"
    if found is None:
        return Part(claim, rule, Finding.OPEN, NOT_TRAINED)
    open_ones = (None, "undetermined")
    outcomes = [
        Finding.HOLDS if one == wanted else Finding.OPEN if one in open_ones else Finding.FAILS for one in found
    ]
    return Part(claim, rule, agreed(outcomes), counted(one or "open" for one in found))


def labels_words(studies: Sequence[Measured]) -> str:
    """Return labels and kinds of some studies over seeds, in a sentence."""
    if not studies:
        return "Not trained here."
    return "; ".join(
        f"{one.name}: labels {counted(one.labels)}; kinds {counted(kind or 'none' for kind in one.kinds)}" for one in studies
    ) + "."  # fmt: skip


def curves_of(named: Iterable[tuple[str, Series]]) -> tuple[Curve, ...]:
    """Return series of every run as curves, each group named, step 0 drawn at ½, where a logarithmic axis can show it."""
    return tuple(
        Curve(name, np.maximum(series.step.astype(np.float64), 0.5), row)
        for name, series in named
        for row in series.value
    )


def ladder_picture(measured: Measured) -> Picture:
    """Return the picture of the native readout and both probes over training."""
    return Picture(
        f"ladder-{measured.name}", f"The ladder, {measured.name} (ridge probes)", "optimiser step (step 0 drawn at ½)",
        "held-out accuracy", curves_of(native_and_probes(measured)),
        f"Native readout and ridge probes of the same features, scored on the same held-out half; {measured.runs} seeds.",
        log_x=True,
    )  # fmt: skip


def native_and_probes(measured: Measured) -> list[tuple[str, Series]]:
    """Return the ladder of a study as series: native readout, train-fit probe, tuned and at its best, held-out-fit probe."""
    ladder, strip = measured.evidence.ladder, measured.evidence.sensitivity
    if ladder is None:
        return []
    rungs: Mapping[str, Float] = {
        "native readout": ladder.native,
        "train-fit probe, tuned": ladder.train_probe,
        "held-out-fit probe": ladder.heldout_probe,
    }
    named = [(name, Series(name, "", ladder.step, values)) for name, values in rungs.items()]
    best = "train-fit probe at its best penalty"
    return named if strip is None else [*named, (best, Series(best, "", strip.step, strip.best_train_probe))]


def each(measured: Measured, what: Callable[[int], Found]) -> list[Found]:
    """Return something of every run."""
    return [what(r) for r in range(measured.runs)]


def moment_of_run(measured: Measured, step: int, r: int) -> Trajectory:
    """Return what was recorded of run r at one snapshot, as a trajectory of one run: other runs are not fitted along."""
    snapshot = next(one for one in measured.trajectory.snapshots if one.step == step)
    tensors = {name: values[r : r + 1] for name, values in snapshot.tensors.items() if not name.startswith("weights/")}
    return replace(measured.trajectory, snapshots=(Snapshot(step, snapshot.flow_time, tensors),))
