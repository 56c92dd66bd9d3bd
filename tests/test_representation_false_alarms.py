"""Real trainings in which no representation is learned: none may be told that one was, or that one was damaged."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import twoclocks as tc
from twoclocks.verdicts import Outcome

Batch = tuple[Tensor, Tensor]


def recorded(
    folder: Path,
    model: nn.Module,
    train: Batch,
    heldout: Batch,
    *,
    trained: list[nn.Parameter],
    lr: float,
    steps: int,
    decay: float = 0.0,
) -> tc.Diagnosis:
    """Train some parameters of a model by gradient descent with coupled decay, record it from step 0, and diagnose it."""
    save_at = tc.SaveAt(per_decade=30, snapshots_per_decade=8)
    recorder = tc.Recorder(folder, model, train=train, heldout=heldout, save_at=save_at, budget=math.inf)
    for step in range(1, steps + 1):
        loss = nn.functional.cross_entropy(model(train[0]), train[1])
        gradients = torch.autograd.grad(loss, trained)
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter -= lr * (gradient + decay * parameter)
        recorder.step(step)
    recorder.close()
    return tc.diagnose(folder)


def clouds(n: int, distance: float, generator: torch.Generator) -> Batch:
    """Return two classes so far to either side of 0 along the first of six axes."""
    y = torch.arange(n) % 2
    x = 0.1 * torch.randn(n, 6, generator=generator)
    x[:, 0] += distance * (2.0 * y - 1.0)
    return x, y


def outcome_of(diagnosis: tc.Diagnosis) -> Callable[[str], Outcome]:
    found = {verdict.code: verdict.outcome for verdict in diagnosis.verdicts}
    return lambda code: found[code]


def test_a_linear_model_whose_accuracy_jumps_by_its_threshold_alone_is_no_grokking_of_a_representation(
    tmp_path: Path,
) -> None:
    generator = torch.Generator().manual_seed(0)
    train, heldout = clouds(200, 2.0, generator), clouds(400, 0.5, generator)
    model = nn.Linear(6, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([4.0, -4.0]))
    everything = list(model.parameters())
    diagnosis = recorded(tmp_path / "run", model, train, heldout, trained=everything, lr=0.2, steps=1500, decay=0.01)
    assert diagnosis.label == "grokking"  # by its curves: it fits, and generalises well after
    assert diagnosis.kind == "undetermined"
    outcome = outcome_of(diagnosis)
    assert outcome("TC210") is Outcome.REFUTED
    assert not {Outcome.SUPPORTED} & {outcome(code) for code in ("TC202", "TC203", "TC206", "TC207")}
    assert any("hardly changed" in sentence for sentence in diagnosis.cannot_tell)


def test_frozen_random_features_are_neither_damaged_nor_improved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(10, 20, generator=generator)
    y = torch.arange(600) % 10
    x = centres[y] + 0.8 * torch.randn(600, 20, generator=generator)
    model = nn.Sequential(nn.Linear(20, 80), nn.ReLU(), nn.Linear(80, 10))
    train, heldout = (x[:300], y[:300]), (x[300:], y[300:])
    readout = [model[2].weight, model[2].bias]
    diagnosis = recorded(tmp_path / "run", model, train, heldout, trained=readout, lr=0.5, steps=1000)
    outcome = outcome_of(diagnosis)
    assert diagnosis.kind in (None, "undetermined")
    assert outcome("TC210") is Outcome.REFUTED
    assert not {Outcome.SUPPORTED} & {outcome(code) for code in ("TC202", "TC203", "TC206", "TC207")}


def test_frozen_random_features_neither_lag_nor_are_biased_where_held_out_examples_are_many(tmp_path: Path) -> None:
    """A probe fitted on the many held-out examples would read more: that is their number, and no bias of training."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(10, 20, generator=generator)
    y = torch.arange(4100) % 10
    x = centres[y] + 2.2 * torch.randn(4100, 20, generator=generator)
    model = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 10))
    train, heldout = (x[:100], y[:100]), (x[100:], y[100:])
    readout = [model[2].weight, model[2].bias]
    diagnosis = recorded(tmp_path / "run", model, train, heldout, trained=readout, lr=0.5, steps=1000)
    outcome = outcome_of(diagnosis)
    assert diagnosis.label == "memorisation"
    assert diagnosis.kind in (None, "undetermined", "no progress")
    assert outcome("TC201") is not Outcome.SUPPORTED
    assert outcome("TC205") is not Outcome.SUPPORTED
    assert not {Outcome.SUPPORTED} & {outcome(code) for code in ("TC202", "TC203", "TC206", "TC207")}
    assert any("fitted on 100 of 1,024 held-out examples" in sentence for sentence in diagnosis.cannot_tell)


def test_shuffled_labels_teach_no_representation() -> None:
    recipe = tc.recipes.modular_addition(
        p=23, train_fraction=0.5, width=32, hidden=64, lr=0.01, steps=600, shuffle_labels=True
    )
    diagnosis = tc.diagnose(tc.train(recipe))
    outcome = outcome_of(diagnosis)
    assert diagnosis.label == "memorisation"
    assert diagnosis.kind != "representation improving"
    assert outcome("TC201") is not Outcome.SUPPORTED
    assert outcome("TC206") is Outcome.NOT_APPLICABLE
    assert outcome("TC210") is Outcome.SUPPORTED  # they do change: they memorise


class Shifted(nn.Module):
    """A linear readout of inputs to which one learned vector is added: it can only move the threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.readout = nn.Parameter(torch.zeros(6)), nn.Linear(6, 2, bias=False)
        with torch.no_grad():
            self.shift[0] = 2.5
            self.readout.weight.copy_(torch.tensor([[-0.3], [0.3]]) * torch.eye(6)[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(x + self.shift)


def test_a_threshold_learned_inside_the_encoder_is_no_genuine_grokking(tmp_path: Path) -> None:
    """Held-out accuracy jumps late although every probe reads all of it from step 0: features only shift."""
    generator, model = torch.Generator().manual_seed(0), Shifted()
    train, heldout = clouds(200, 2.0, generator), clouds(400, 0.5, generator)
    diagnosis = recorded(
        tmp_path / "run", model, train, heldout, trained=list(model.parameters()), lr=0.05, steps=3000, decay=0.02
    )
    assert diagnosis.label == "grokking"
    assert diagnosis.kind == "undetermined"
    assert outcome_of(diagnosis)("TC210") is Outcome.REFUTED
