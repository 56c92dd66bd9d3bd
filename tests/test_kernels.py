import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import oracles
from twoclocks.measures.kernels import kernel_target_alignment


def labelled(n: int = 30, d: int = 7, c: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, c, (n,), generator=generator)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) + labels[:, None], labels


@pytest.mark.parametrize(("n", "d"), [(30, 7), (10, 40)])
def test_alignment_equals_its_oracle_through_the_explicit_kernel(n: int, d: int) -> None:
    features, labels = labelled(n, d)
    expected = oracles.kernel_target_alignment(features.numpy(), labels.numpy())
    assert float(kernel_target_alignment(features, labels)) == pytest.approx(expected, rel=1e-10)


def test_alignment_of_heldout_features_centres_on_the_given_mean() -> None:
    features, labels = labelled()
    mean = features[:11].mean(0)
    expected = oracles.kernel_target_alignment(features.numpy(), labels.numpy(), mean.numpy())
    assert float(kernel_target_alignment(features, labels, mean=mean)) == pytest.approx(expected, rel=1e-10)
    assert expected != pytest.approx(float(kernel_target_alignment(features, labels)), rel=1e-3)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_perfect_features_reach_the_closed_form(classes: int) -> None:
    labels = torch.arange(classes).repeat(6)
    expected = (1 - 1 / classes) / math.sqrt(classes - 1)
    assert float(kernel_target_alignment(torch.eye(classes)[labels], labels)) == pytest.approx(expected, rel=1e-12)


def test_alignment_ignores_basis_shift_scale_and_the_names_of_classes() -> None:
    features, labels = labelled()
    turn = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    same = kernel_target_alignment(3 * features @ turn + 5, 10 * labels - 4)
    assert_close(same, kernel_target_alignment(features, labels), rtol=1e-9, atol=0)


def test_shuffled_labels_align_less() -> None:
    features, labels = labelled(n=200)
    shuffled = labels[torch.randperm(200, generator=torch.Generator().manual_seed(2))]
    assert kernel_target_alignment(features, shuffled) < kernel_target_alignment(features, labels) / 4


def test_constant_features_align_with_nothing() -> None:
    assert float(kernel_target_alignment(torch.full((4, 3), 0.1), torch.tensor([0, 0, 1, 1]))) == 0.0


@pytest.mark.parametrize(
    ("labels", "words"),
    [(torch.zeros(3, dtype=torch.int64), "one for each of 4"), (torch.zeros(4), "whole numbers")],
)
def test_labels_that_do_not_fit_are_refused_in_words(labels: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kernel_target_alignment(torch.ones(4, 2), labels)
