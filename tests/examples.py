"""This file knows invented but realistic runs, as evidence and diagnosis, for whatever shows them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from twoclocks.advice import Stop
from twoclocks.decomposition import Decomposition, Sensitivity
from twoclocks.diagnosis import Clock, Diagnosis, Offer
from twoclocks.evidence import Evidence
from twoclocks.trajectory import EvalBatch, Event, Float, Int, Series, Snapshot, Source, Trajectory
from twoclocks.verdicts import Outcome, Verdict

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}$x$"
UNITS = {"loss": "nats per example", "accuracy": "share of examples"}


def logistic(position: Float) -> Float:
    return np.asarray(1.0 / (1.0 + np.exp(-position)))


def log_steps(last: int, per_decade: int) -> Int:
    exponents = np.arange(0, np.log10(last) + 1e-9, 1 / per_decade)
    return np.unique(np.concatenate([[0], np.round(10**exponents), [last]]).astype(np.int64))


def series(name: str, step: Int, value: Float) -> Series:
    return Series(name, UNITS.get(name.split("_")[-1], ""), step, np.atleast_2d(value))


def rising(step: Int, middle: Float, steepness: float) -> Float:
    """Return [r t] from 0 to 1, half way at the step `middle` of each run."""
    return logistic(steepness * (np.log10(step + 1.0)[None] - np.log10(middle)[:, None]))


def grokking_scalars(runs: int) -> dict[str, Series]:
    """Return the scalars of a run on modular addition that fits near step 140 and generalises near 10,000."""
    rng = np.random.default_rng(7)
    step = log_steps(20_000, 40)
    spread = 10 ** rng.normal(0, 0.06, runs) if runs > 1 else np.ones(1)
    fit, gen = rising(step, 95 * spread, 9), rising(step, 7400 * spread, 14)
    noise = rng.normal(0, 0.012, (runs, len(step)))
    t = step[None].astype(float)
    blocks = {"embed": 0.9, "attention": 0.6, "mlp": 0.75, "readout": 1.5}
    scalars = {
        "train_loss": np.log(113) * (1 - fit)
        + 8e-8 * np.exp(rng.normal(0, 0.25, fit.shape))
        + 2e-4 * np.exp(-t / 900) * fit,
        "heldout_loss": np.log(113) * (1 - gen) * (1 + 3.2 * fit) + 3e-6 * np.exp(rng.normal(0, 0.2, fit.shape)),
        "train_accuracy": np.clip(1 / 113 + fit * 1.001 - 0.004, 0, 1),
        "heldout_accuracy": np.clip(1 / 113 + 0.17 * fit * (1 - gen) + gen + noise * (gen < 0.98) * fit, 0, 1),
        "weight_norm": 62 - 14 * fit * (1 - gen) - 24 * gen + 4 * fit,
        "logit_scale": 0.6 + 17 * fit + 6 * gen,
        "train_margin_min": -3 + 12 * fit + 9 * gen,
        "train_margin_q01": -2.4 + 13 * fit + 9 * gen,
        "train_margin_median": 18 * fit + 8 * gen,
        "flow_time": np.broadcast_to(1e-3 * t, fit.shape),
        "lr": np.full(fit.shape, 1e-3),
    }
    for i, (block, size) in enumerate(blocks.items()):
        scalars[f"block_norm.{block}"] = (14 + 6 * i) * (1 - 0.35 * gen)
        wobble = np.exp(rng.normal(0, 0.3, fit.shape))
        scalars[f"update_size.{block}"] = 1e-3 * size * wobble * (0.02 + np.exp(-t / 400) + 0.25 * gen * (1 - gen) * 4)
    return {name: series(name, step, value) for name, value in scalars.items()}


def grokking_ladder(runs: int) -> Decomposition:
    rng = np.random.default_rng(11)
    step = log_steps(20_000, 8)
    gen, early = rising(step, np.full(runs, 7400.0), 14), rising(step, np.full(runs, 1500.0), 4)
    native = np.clip(0.01 + 0.16 * early * (1 - gen) + gen, 0, 1)
    train_probe = np.clip(0.01 + 0.62 * early * (1 - gen) + gen, 0, 1)
    heldout_probe = np.clip(0.02 + 0.75 * early * (1 - gen) + gen + rng.normal(0, 0.01, gen.shape) * early, 0, 1)

    def interval(value: Float) -> Float:
        half = 1.96 * np.sqrt(np.clip(value * (1 - value), 2e-4, None) / 1700)
        return np.stack([np.clip(value - half, -1, 1), np.clip(value + half, -1, 1)], axis=-1)

    gap, bias = train_probe - native, heldout_probe - train_probe
    values = (native, train_probe, heldout_probe, gap, bias)
    return Decomposition(
        "ridge", step, *values, *map(interval, values), scored=1700, fitted_on_train=3830, fitted_on_heldout=1700
    )


def few_moments(ladder: Decomposition, preset: str) -> Decomposition:
    """Return the ladder at a step on the plateau and at the last one, as if under another preset."""
    moments = [int(np.searchsorted(ladder.step, 4000)), len(ladder.step) - 1]
    values = {f.name: getattr(ladder, f.name) for f in fields(ladder)}
    of_moments = {name: v[:, moments] for name, v in values.items() if isinstance(v, np.ndarray) and v.ndim > 1}
    return replace(ladder, preset=preset, step=ladder.step[moments], **of_moments)


def clock(name: str, of: str, threshold: float, value: int | None, per_run: tuple[int | None, ...] = ()) -> Clock:
    resolution = None if value is None else max(1, round(0.06 * value))
    return Clock(name, of, threshold, 5, "step", value, value is None, resolution, None, 20_000, per_run)


GROKKING_VERDICTS = (
    Verdict(
        code="TC101",
        claim="the run fitted its training examples",
        outcome=Outcome.SUPPORTED,
        effect=1.0,
        interval=(0.999, 1.0),
        n=3830,
        unit_of_n="examples",
        thresholds={"accuracy": 0.99},
        evidence=("train_accuracy is 1.000 from step 141 on",),
        overturned_by="a fit that is lost again",
    ),
    Verdict(
        code="TC102",
        claim="held-out accuracy rose long after the fit",
        outcome=Outcome.SUPPORTED,
        effect=71.0,
        interval=(66.9, 75.2),
        n=1,
        unit_of_n="runs",
        thresholds={"delay_ratio": 2.0},
        evidence=("T_fit = 141 ± 8", "T_gen_0.9 = 10,017 ± 560"),
        overturned_by="another seed with a delay below 2×",
    ),
    Verdict(
        code="TC103",
        claim="the representation improved before the readout used it",
        outcome=Outcome.SUPPORTED,
        effect=0.46,
        interval=(0.41, 0.5),
        n=1700,
        unit_of_n="examples",
        thresholds={"gap": 0.05},
        evidence=("train-fit probe .63 at step 5,623, native .17", "survives ridge, logistic and paper presets"),
        overturned_by="a preset under which the gap vanishes",
    ),
    Verdict(
        code="TC104",
        claim="the features were damaged first, and repaired late",
        outcome=Outcome.REFUTED,
        effect=-0.01,
        interval=(-0.03, 0.02),
        n=21,
        thresholds={"drop": 0.1},
        evidence=("probe accuracy never fell by more than .03 from its value at step 0",),
        overturned_by="a dip between two snapshots",
    ),
    Verdict(
        code="TC105",
        claim="the tail of the slow clock is polynomial",
        outcome=Outcome.UNDETERMINED,
        effect=0.61,
        interval=(0.44, 0.83),
        n=58,
        thresholds={"exponent": 0.5},
        evidence=("the window covers 0.8 decades of t, 1.5 are needed",),
        overturned_by="a longer run",
    ),
    Verdict(
        code="TC106",
        claim="the training loss sits on the float32 floor",
        outcome=Outcome.NOT_APPLICABLE,
        evidence=("losses are computed from float64 gaps",),
    ),
)


def grokking(runs: int = 1) -> tuple[Evidence, Diagnosis]:
    """Return a genuine grokking run with everything recorded."""
    source = Source("runs/modular-addition", "run folder", rows=173)
    settings = {
        "recipe": {
            "name": "modular-addition",
            "p": 113,
            "train_fraction": 0.3,
            "weight_decay": 1.0,
            "betas": [0.9, 0.98],
        },
        "seeds": list(range(runs)),
        "versions": {"python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6"},
        "cost": {"wall_clock": "14 min", "device": "2 CPU cores", "recording_share": 0.04},
    }
    events = (
        Event(0, "recording began"),
        Event(4100, "the process was killed and resumed"),
        Event(12_000, "lr was halved"),
    )
    batches = {"heldout": EvalBatch("heldout", np.arange(3400) % 113, 8939)}
    trajectory = Trajectory(source, grokking_scalars(runs), (), batches, events, settings)
    step = log_steps(20_000, 8)
    gen = rising(step, np.full(runs, 7000.0), 10)
    measured = {
        "stable_rank.end_to_end": Series("stable_rank.end_to_end", "directions", step, 36 - 25 * gen),
        "effective_rank.features": Series("effective_rank.features", "directions", step, 70 - 40 * gen),
        "participation_ratio.features": Series("participation_ratio.features", "directions", step, 48 - 34 * gen),
    }
    ladder = grokking_ladder(runs)
    presets = {name: few_moments(ladder, name) for name in ("logistic", "paper")}
    evidence = Evidence(trajectory, ladder, presets, measured)
    per_run = {"T_fit": (141, 133, 150), "T_gen_0.9": (10_017, 9441, 11_220), "T_gen_0.99": (12_589, 11_885, None)}
    diagnosis = Diagnosis(
        source=source,
        label="grokking",
        kind="genuine",
        confidence="high",
        summary=(
            "It fitted at step 141 and generalised at step 10,017, 71 times later; "
            "the representation improved all along and the readout caught up."
        ),
        overturned_by="A probe preset under which the features do not lead, or other seeds without the delay.",
        stop=Stop(
            "no",
            "Held-out accuracy reached .99 only 7,400 steps ago and the margins still grow.",
        ),
        clocks=(
            clock("T_fit", "train_accuracy", 0.99, 141, per_run["T_fit"][:runs]),
            clock("T_gen_0.9", "heldout_accuracy", 0.9, 10_017, per_run["T_gen_0.9"][:runs]),
            clock("T_gen_0.99", "heldout_accuracy", 0.99, 12_589, per_run["T_gen_0.99"][:runs]),
            clock("T_cls(1e-7)", "train_loss", 1e-7, None, (None,) * runs),
        ),
        verdicts=GROKKING_VERDICTS,
        offers=(Offer("refit the readout on the training split (ridge)", 0.65, 0.41, (0.63, 0.67), 1700),),
        events=events,
        cannot_tell=(
            "whether a larger weight decay would shorten the delay",
            "whether the delay grows with the initial norm",
        ),
        measure_next=("a sweep over weight decay: is T_gen · λ constant?", "the same recipe with 4 more seeds"),
        runs=runs,
    )
    return evidence, diagnosis


def represented(runs: int = 1) -> tuple[Evidence, Diagnosis]:
    """Return the grokking run with all that can be measured of its representation, and with features and embedding."""
    evidence, diagnosis = grokking(runs)
    trajectory = replace(evidence.trajectory, snapshots=modular_snapshots(runs))
    measured = {**evidence.measured, **representation_series(runs)}
    sensitivity = grokking_sensitivity(runs)
    return replace(evidence, trajectory=trajectory, measured=measured, sensitivity=sensitivity), diagnosis


def representation_series(runs: int) -> dict[str, Series]:
    """Return the measured series of a representation that becomes general near step 7,000 and is simplest at the end."""
    rng = np.random.default_rng(13)
    step = log_steps(20_000, 8)
    fit, gen = rising(step, np.full(runs, 95.0), 9), rising(step, np.full(runs, 6000.0), 8)
    noise = np.exp(rng.normal(0, 0.02, gen.shape))
    values = {
        "critical_dimension(heldout)": 62 - 48 * gen,
        "critical_dimension(train)": 60 - 20 * fit - 26 * gen,
        "critical_dimension_error(heldout)": 0.9 + 0 * gen,
        "critical_dimension_error(train)": 0.8 + 0 * gen,
        "manifold_capacity(heldout)": 20 / (62 - 48 * gen),
        "manifold_radius(heldout)": 2.6 - 1.9 * gen,
        "manifold_dimension(heldout)": 11 - 6 * gen,
        "centre_alignment(heldout)": 0.3 - 0.2 * gen,
        "axis_alignment(heldout)": 0.1 + 0.15 * gen,
        "alignment(train)": 0.01 + 0.04 * fit + 0.05 * gen,
        "alignment(heldout)": 0.01 + 0.005 * fit + 0.08 * gen,
        "alignment_gap": 0.035 * fit * (1 - gen),
        "alignment_gap_error": 0.004 + 0 * gen,
        "kernel_distance(train: to the start)": 0.5 * fit + 0.4 * gen,
        "kernel_change(train: from the start)": 1e-3 + 8 * fit * (1 - 0.7 * gen),
        "kernel_velocity(train)": 1e-6 + 4e-3 * fit * (1 - fit) + 1e-4 * gen * (1 - gen),
        "cka(train: to the end)": 0.08 + 0.3 * fit + 0.6 * gen,
        "cka(train: to the start)": 1 - 0.5 * fit - 0.4 * gen,
        "ildr(heldout)": 1.02 + 3 * gen,
        "nc1(train)": 30 * (1 - fit) + 0.8 * (1 - gen) + 0.02,
        "nc2_equinorm(train)": 0.3 - 0.2 * gen,
        "nc2_equiangular(train)": 0.25 - 0.1 * gen,
        "nc3(train)": 1.4 - 0.3 * fit - 0.6 * gen,
        "nc4(train)": 0.9 * (1 - fit),
        "readout_cosine(train fit)": 0.7 * fit + 0.2 * gen,
        "readout_cosine(held-out fit)": 0.15 * fit + 0.72 * gen,
    }
    return {name: Series(name, "", step, np.asarray(value * noise)) for name, value in values.items()}


def grokking_sensitivity(runs: int) -> Sensitivity:
    """Return ridge probes of the grokking run whose lead over the readout hangs on the penalty before the rise."""
    step, penalty = log_steps(20_000, 8), 10.0 ** np.arange(-6, 3)
    native = grokking_ladder(runs).native
    lead = (grokking_ladder(runs).train_probe - native)[:, :, None]
    weak = 0.5 + 0.5 * np.tanh(np.log10(penalty)[::-1] / 2)
    train_probe = np.clip(native[:, :, None] + lead * (1.6 * weak - 0.35), 0, 1)
    heldout_probe = np.clip(native[:, :, None] + lead * (1.5 * weak + 0.1), 0, 1)
    train_penalty = np.where(native > 0.5, 1e-1, 1e-3)
    return Sensitivity(
        step=step,
        family="ridge",
        penalty=penalty,
        native=native,
        train_probe=train_probe,
        heldout_probe=heldout_probe,
        scored=1700,
        train_penalty=train_penalty,
        heldout_penalty=np.full(native.shape, 1e-2),
        best_penalty=np.full(native.shape, 1e-4),
        best_train_probe=train_probe.max(2),
    )


def circles(p: int, frequencies: tuple[int, ...], sizes: tuple[float, ...]) -> Float:
    """Return [p 2m]: every residue on a circle of each frequency."""
    angle = 2 * np.pi * np.outer(np.arange(p), frequencies) / p
    return np.concatenate([np.cos(angle) * sizes, np.sin(angle) * sizes], axis=1)


def modular_snapshots(runs: int, p: int = 113, width: int = 24) -> tuple[Snapshot, ...]:
    """Return features of 3,400 held-out sums and an embedding that go from noise to circles of frequencies 14, 5 and 41."""
    rng = np.random.default_rng(17)
    labels, step = np.arange(3400) % p, log_steps(20_000, 8)
    form = np.pad(circles(p, (14, 5, 41), (1.0, 0.7, 0.5)), ((0, 0), (0, width - 6)))
    noise = rng.normal(0, 0.4, (p, width))
    snapshots = []
    for moment in step.tolist():
        gen = float(rising(np.array([moment]), np.array([6000.0]), 8)[0, 0])
        table = np.broadcast_to(3 * (gen * form + (1 - gen) * noise), (runs, p, width))
        tensors = {"features/heldout": table[:, labels], "weights/embedding.weight": table}
        snapshots.append(Snapshot(moment, None, {name: array.astype(np.float32) for name, array in tensors.items()}))
    return tuple(snapshots)


def plain(
    scalars: dict[str, Series],
    label: str = "undetermined",
    clocks: tuple[Clock, ...] = (),
    columns: dict[str, str] | None = None,
) -> tuple[Evidence, Diagnosis]:
    """Return what a plain log gives: scalars, a label, and nothing else."""
    rows = max((len(s.step) for s in scalars.values()), default=0)
    source = Source("log.csv", "csv", rows=rows, columns=columns or {}, assumed=("step counts optimiser steps",))
    diagnosis = Diagnosis(
        source,
        label,
        None,
        "low",
        f"The log shows {label}.",
        "A longer log.",
        Stop("undetermined", "The log cannot carry it."),
        clocks,
        (),
        (),
        (),
        ("why it generalised late: no features were kept",),
        ("record features with a Recorder",),
    )
    return Evidence(Trajectory(source, scalars)), diagnosis


def long_log(rows: int = 13_500, names: int = 10) -> tuple[Evidence, Diagnosis]:
    """Return a log of accuracies at every step, noisy, with further columns; as large as logs come."""
    rng = np.random.default_rng(3)
    step = np.arange(1, rows + 1)
    fit, gen = rising(step, np.array([150.0]), 6), rising(step, np.array([5000.0]), 9)
    scalars = {
        "train_accuracy": np.clip(fit + rng.normal(0, 0.02, fit.shape), 0, 1),
        "heldout_accuracy": np.clip(gen + rng.normal(0, 0.02, fit.shape), 0, 1),
    }
    for i in range(names - 2):
        scalars[f"update_size.block{i}"] = np.exp(rng.normal(-7 - 0.3 * i, 0.5, fit.shape))
    return plain({name: series(name, step, value) for name, value in scalars.items()}, "grokking")
