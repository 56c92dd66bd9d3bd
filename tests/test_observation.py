"""What is written of one moment: scalars against slow definitions, and tensors that stand still."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from twoclocks.sources.observation import (
    as_float32,
    compact,
    norm_of,
    scalars_of_blocks,
    scalars_of_logits,
    stack_runs,
    tensors_of_moment,
)

LABELS = torch.tensor([0, 1, 0])


def test_scalars_of_logits_match_a_slow_definition() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(50) % 7
    margins, losses = [], []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        margins.append(row[label] - max(value for k, value in enumerate(row) if k != label))
        losses.append(np.log(np.exp(row).sum()) - row[label])
    centred = logits.numpy() - logits.numpy().mean(1, keepdims=True)
    wanted = {
        "train_loss": np.mean(losses),
        "train_accuracy": np.mean(np.array(margins) > 0),
        "train_margin_min": min(margins),
        "train_margin_q01": np.quantile(margins, 0.01),
        "train_margin_median": np.median(margins),
        "logit_scale": np.sqrt(np.mean(centred**2)),
    }
    assert scalars_of_logits("train", logits, labels) == pytest.approx(wanted, rel=1e-12)
    assert set(scalars_of_logits("heldout", logits, labels)) == {
        name.replace("train", "heldout") for name in wanted if name != "logit_scale"
    }


def test_a_loss_too_small_for_float32_is_recorded() -> None:
    scalars = scalars_of_logits("train", torch.tensor([[40.0, 0.0], [0.0, 40.0]]), torch.tensor([0, 1]))
    assert scalars["train_loss"] == pytest.approx(np.exp(-40.0), rel=1e-12)


@pytest.mark.parametrize(
    ("first_row", "loss", "accuracy", "says_margins"),
    [
        ([3.0, 1.0], "finite", 1.0, True),
        ([np.nan, 1.0], "nan", 2 / 3, False),
        ([np.nan, np.nan], "nan", 2 / 3, False),
        ([np.inf, 1.0], "nan", 1.0, False),
        ([np.inf, np.inf], "nan", 2 / 3, False),
        ([-np.inf, 1.0], "inf", 2 / 3, False),
        ([3.0, -np.inf], "finite", 1.0, False),
    ],
)
def test_logits_that_are_not_finite_are_recorded_as_what_they_are(
    first_row: list[float], loss: str, accuracy: float, says_margins: bool
) -> None:
    logits = torch.tensor([first_row, [0.0, 2.0], [1.0, 0.0]])
    scalars = scalars_of_logits("train", logits, LABELS)
    ours, torchs = scalars["train_loss"], float(torch.nn.functional.cross_entropy(logits, LABELS))
    assert ours == pytest.approx(torchs, rel=1e-6, nan_ok=True)
    assert {"nan": np.isnan(ours), "inf": np.isposinf(ours), "finite": np.isfinite(ours)}[loss]
    assert scalars["train_accuracy"] == pytest.approx(accuracy)
    assert ("train_margin_min" in scalars) == says_margins
    assert ("logit_scale" in scalars) == says_margins


def test_block_norms_and_update_sizes_match_their_formulas() -> None:
    before = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[2.0]]), "c": torch.zeros(2)}
    after = {"a": torch.tensor([3.0, 4.5]), "b": torch.tensor([[0.0]]), "c": torch.ones(2)}
    blocks = {"both": ["a", "b"], "born": ["c"]}
    scalars = scalars_of_blocks(after, before, blocks)
    assert scalars == pytest.approx(
        {
            "block_norm.both": np.sqrt(9 + 20.25),
            "block_norm.born": np.sqrt(2.0),
            "weight_norm": np.sqrt(9 + 20.25 + 2),
            "update_size.both": np.sqrt(0.25 + 4) / np.sqrt(29),
        }
    )
    assert "update_size.both" not in scalars_of_blocks(after, None, blocks)


def test_norms_are_taken_in_float64() -> None:
    many = torch.full((3_000_000,), 1e-3)
    assert norm_of([many]) == pytest.approx(np.float64(np.float32(1e-3)) * np.sqrt(3e6), rel=1e-10)
    assert norm_of([]) == 0.0


def test_what_is_taken_of_a_moment_stands_still_while_training_goes_on() -> None:
    weight, bias, features = torch.ones(2, 3), torch.ones(2), torch.ones(4, 3)
    taken = tensors_of_moment({"train": features}, (weight, bias), {"fc.weight": weight})
    for tensor in (weight, bias, features):
        tensor.mul_(5.0)
    assert {name: value.shape for name, value in taken.items()} == {
        "features/train": (1, 4, 3),
        "readout/weight": (1, 2, 3),
        "readout/bias": (1, 2),
        "weights/fc.weight": (1, 2, 3),
    }
    assert all(np.all(value == 1.0) for value in taken.values())
    assert "readout/bias" not in tensors_of_moment({}, (weight, None), {})


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0.0, 0.0], np.float16),
        ([1.0, -300.0], np.float16),
        ([1.0, 70000.0], np.float32),
        ([1e-5, 1e-6], np.float32),
        ([1.0, float("nan")], np.float32),
        ([1.0, float("inf")], np.float32),
    ],
)
def test_features_are_stored_in_half_precision_where_it_holds_them(values: list[float], dtype: type) -> None:
    stored = compact(torch.tensor(values))
    assert stored.dtype == dtype
    np.testing.assert_allclose(stored.astype(np.float64), values, rtol=2**-11)


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (torch.ones(2, dtype=torch.bfloat16), np.float32),
        (torch.ones(2, dtype=torch.float16), np.float32),
        (torch.ones(2, dtype=torch.float64), np.float64),
        (torch.ones(2, requires_grad=True), np.float32),
    ],
)
def test_any_float_tensor_becomes_a_plain_array(tensor: Tensor, dtype: type) -> None:
    assert as_float32(tensor).dtype == dtype
    assert as_float32(tensor).tolist() == [1.0, 1.0]


def test_runs_are_joined_along_the_first_axis() -> None:
    moments = [{"w": np.full((1, 2), run)} for run in range(3)]
    assert stack_runs(moments)["w"].tolist() == [[0, 0], [1, 1], [2, 2]]
