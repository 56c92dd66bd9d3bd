import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import oracles
from contracts import Case, check_contract
from twoclocks.measures.fourier import fourier_energies, fourier_logits, logit_frequencies, surviving_frequencies


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("p", [1, 2, 3, 4, 7, 12, 113])
def test_energies_equal_the_projections_on_cosines_and_sines(p: int) -> None:
    table = normal(p, p, 5)
    energies = fourier_energies(table)
    assert len(energies) == p // 2 + 1
    assert_close(energies, torch.from_numpy(oracles.fourier_energies(table.numpy())), rtol=1e-9, atol=1e-12)


@given(st.integers(1, 60), st.integers(0, 1000), st.floats(1e-150, 1e150))
@settings(max_examples=30, deadline=None)
def test_the_energies_add_up_to_the_squared_norm(p: int, seed: int, scale: float) -> None:
    table = scale * normal(seed, p, 3)
    assert float(fourier_energies(table).sum()) == pytest.approx(float(table.square().sum()), rel=1e-12)


def test_turning_the_circle_or_the_features_changes_no_energy() -> None:
    table = normal(0, 13, 6)
    turn = torch.linalg.qr(normal(1, 6, 6)).Q
    assert_close(fourier_energies(table.roll(5, 0) @ turn), fourier_energies(table), rtol=1e-10, atol=1e-12)


def test_renaming_the_symbols_renames_the_frequencies() -> None:
    table = normal(2, 13, 4)
    renamed = fourier_energies(table[torch.arange(13) * 3 % 13])
    places = [min(3 * k % 13, -3 * k % 13) for k in range(7)]
    assert_close(renamed[places], fourier_energies(table), rtol=1e-10, atol=1e-12)


def waves(p: int, sizes: dict[int, float]) -> Tensor:
    angle = 2 * math.pi * torch.arange(p, dtype=torch.float64) / p
    columns = [size * trig(k * angle) for k, size in sizes.items() for trig in (torch.cos, torch.sin)]
    return torch.stack(columns, 1)


def test_the_frequencies_that_survive_are_those_put_in() -> None:
    table = waves(59, {4: 1.0, 17: 3.0, 25: 2.0}) + 5
    assert fourier_energies(table)[[17, 25, 4]].tolist() == pytest.approx([9 * 59, 4 * 59, 59])
    assert surviving_frequencies(table) == [17, 25, 4]
    assert surviving_frequencies(table, share=13 / 14) == [17, 25]
    assert surviving_frequencies(table, share=9 / 14) == [17]
    assert surviving_frequencies(table + 1e-3 * normal(0, 59, 6)) == [17, 25, 4]
    assert surviving_frequencies(table, share=1.0) == [17, 25, 4]


def test_noise_uses_nearly_every_frequency_and_a_constant_none() -> None:
    assert len(surviving_frequencies(normal(0, 113, 128))) > 50
    assert surviving_frequencies(torch.full((113, 4), 0.1)) == []
    assert surviving_frequencies(torch.zeros(5, 2)) == []
    assert surviving_frequencies(torch.ones(1, 2)) == []


def test_fourier_logits_are_the_sum_of_cosines() -> None:
    p, frequencies = 7, [1, 3]
    logits, seen = fourier_logits(p, frequencies), 0
    for a in range(p):
        for b in range(p):
            expected = [sum(math.cos(2 * math.pi * k * (a + b - c) / p) for k in frequencies) for c in range(p)]
            assert logits[a * p + b].tolist() == pytest.approx(expected, abs=1e-12)
            seen += 1
    assert seen == 49


@pytest.mark.parametrize("part", [1.0, 0.3])
def test_the_mean_logit_of_any_part_of_the_pairs_shows_the_frequencies(part: float) -> None:
    p, n = 31, int(31**2 * part)
    pairs = torch.randperm(p * p, generator=torch.Generator().manual_seed(0))[:n]
    logits = 2 * fourier_logits(p, [3])[pairs] + fourier_logits(p, [10])[pairs] + 0.7
    energies = logit_frequencies(logits, (pairs // p + pairs % p) % p, p)
    expected = torch.zeros(p // 2 + 1, dtype=torch.float64)
    expected[[0, 3, 10]] = torch.tensor([0.49 * p, 4 * p / 2, p / 2], dtype=torch.float64)
    assert_close(energies, expected, rtol=1e-9, atol=1e-9)


def test_logit_frequencies_equal_those_of_the_slow_mean() -> None:
    logits, labels = normal(0, 40, 9), torch.randint(0, 9, (40,), generator=torch.Generator().manual_seed(1))
    mean = oracles.mean_logit_by_residue(logits.numpy(), labels.numpy())
    expected = torch.from_numpy(oracles.fourier_energies(mean[:, np.newaxis]))
    assert_close(logit_frequencies(logits, labels, 9), expected, rtol=1e-9, atol=1e-12)


def test_fourier_measures_keep_their_contracts() -> None:
    labels = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(1))
    check_contract(Case(logit_frequencies, {"logits": normal(0, 40, 5), "labels": labels}, others={"p": 5}))
    check_contract(Case(fourier_energies, {"table": normal(0, 13, 4)}))


def test_what_does_not_fit_is_refused_in_words() -> None:
    logits, labels = normal(0, 4, 5), torch.arange(4)
    refusals = [
        (lambda: fourier_energies(torch.ones(3)), "table: expected two axes"),
        (lambda: surviving_frequencies(torch.ones(0, 2)), "table: expected two axes"),
        (lambda: surviving_frequencies(logits, share=0.0), "share: expected"),
        (lambda: surviving_frequencies(logits, share=1.1), "share: expected"),
        (lambda: fourier_logits(7, [4]), "frequencies from 1 to 3"),
        (lambda: fourier_logits(1, []), "p of at least 2"),
        (lambda: logit_frequencies(logits, labels, 6), "logits: expected 6 columns"),
    ]
    for refused, words in refusals:
        with pytest.raises(ValueError, match=words):
            refused()
    assert len(refusals) == 7
