"""This file knows the ladder: the network's own readout, and probes fitted to the same features, scored on the same examples."""

from __future__ import annotations

from dataclasses import dataclass

from twoclocks.trajectory import Float, Int


@dataclass(frozen=True)
class Decomposition:
    """The ladder at `step[t]`: accuracies `[r t]` on one half B of the held-out examples, never used for fitting.

    `native`: the network's own readout. `train_probe`: a probe fitted on the training split. `heldout_probe`: a probe
    fitted on the other half A, the ceiling. `calibration_gap` = train_probe − native; `train_bias` = heldout_probe −
    train_probe `[def]`. Intervals `[r t 2]`: 95 % bootstrap over the scored examples (precision, not confidence over seeds).
    """

    preset: str
    step: Int
    native: Float
    train_probe: Float
    heldout_probe: Float
    calibration_gap: Float
    train_bias: Float
    native_interval: Float
    train_probe_interval: Float
    heldout_probe_interval: Float
    calibration_gap_interval: Float
    train_bias_interval: Float
    scored: int
    fitted_on_train: int
    fitted_on_heldout: int
