from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import oracles
from twoclocks.measures.balance import balancedness_defect


def chain(*widths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(after, before, dtype=torch.float64, generator=generator) for before, after in pairwise(widths)]


def test_defects_equal_their_oracle() -> None:
    weights = chain(6, 4, 7, 3)
    expected = oracles.balancedness_defect([weight.numpy() for weight in weights])
    assert len(expected) == 2
    assert_close(balancedness_defect(weights), torch.from_numpy(expected))


def test_balanced_factors_have_no_defect_and_another_gauge_has() -> None:
    root = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64).pow(1 / 3))
    assert_close(balancedness_defect([root, root, root]), torch.zeros(2, dtype=torch.float64))
    assert bool((balancedness_defect([2 * root, root, root / 2]) > 0.1).all())


def test_defects_ignore_rotations_of_the_hidden_layers() -> None:
    first, second = chain(6, 4, 3)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).Q
    assert_close(balancedness_defect([turn @ first, second @ turn.T]), balancedness_defect([first, second]))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([torch.eye(2)], "at least two matrices"),
        ([torch.ones(3, 2), torch.ones(2, 4)], "expected 3 columns"),
        ([torch.eye(2), torch.full((2, 2), torch.nan)], r"weights\[1\]: expected finite"),
    ],
)
def test_what_is_no_chain_is_refused_in_words(weights: list[torch.Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        balancedness_defect(weights)
