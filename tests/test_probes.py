import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.testing import assert_close

import oracles
from twoclocks.measures.probes import (
    NEVER,
    RIDGE_PENALTIES,
    Probe,
    chosen_of,
    fit_logistic_probe,
    fit_paper_probe,
    fit_ridge_probe,
    logistic_path,
    lowest,
    newton_step,
    paper_path,
    ridge_path,
    stratified_parts,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds(n: int, d: int, c: int, seed: int = 0, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return Gaussian clouds around random centres, with features of unequal size."""
    generator = seeded(seed)
    labels = torch.arange(n) % c
    centres = apart * torch.randn(c, d, dtype=torch.float64, generator=seeded(99))
    features = centres[labels] + torch.randn(n, d, dtype=torch.float64, generator=generator)
    return features * torch.logspace(0, -1, d, dtype=torch.float64) + 2.0, labels


def fits(features: Tensor, labels: Tensor, classes: int | None = None) -> list[Probe]:
    return [
        fit_ridge_probe(features, labels, classes=classes),
        fit_logistic_probe(features, labels, classes=classes, generator=seeded()),
        fit_paper_probe(features, labels, classes=classes, generator=seeded()),
    ]


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    features, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=seeded())
    fitted, scored = order[:600], order[600:]
    return features[fitted], labels[fitted], features[scored], labels[scored]


@pytest.mark.parametrize(("n", "d", "c"), [(60, 5, 3), (25, 40, 4), (30, 30, 2)])
def test_ridge_equals_the_normal_equations_at_the_penalty_it_chose(n: int, d: int, c: int) -> None:
    features, labels = clouds(n, d, c)
    probe = fit_ridge_probe(features, labels)
    unit = float((features - features.mean(0)).square().sum()) / d
    weight, bias = oracles.ridge(features.numpy(), labels.numpy(), c, probe.settings["penalty"] * unit)
    assert_close(probe.weight, torch.from_numpy(weight), rtol=1e-6, atol=1e-9)
    assert_close(probe.bias, torch.from_numpy(bias), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "d", "c"), [(40, 5, 3), (25, 40, 4)])
def test_ridge_chooses_the_penalty_that_refitting_without_each_example_chooses(n: int, d: int, c: int) -> None:
    features, labels = clouds(n, d, c, apart=0.4)
    unit = float((features - features.mean(0)).square().sum()) / d
    errors = [oracles.leave_one_out_error(features.numpy(), labels.numpy(), c, p * unit) for p in RIDGE_PENALTIES]
    for penalty, error in zip(RIDGE_PENALTIES, errors, strict=True):
        alone = fit_ridge_probe(features, labels, penalties=[penalty])
        assert alone.settings["leave_one_out_error"] == pytest.approx(error, rel=1e-4)
    assert fit_ridge_probe(features, labels).settings["penalty"] == RIDGE_PENALTIES[errors.index(min(errors))]


def test_ridge_ignores_basis_shift_and_scale() -> None:
    features, labels = clouds(80, 6, 4)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=seeded(1))).Q
    turned = 50 * features @ turn - 7
    probe, other = fit_ridge_probe(features, labels), fit_ridge_probe(turned, labels)
    assert_close(other.logits(turned), probe.logits(features), rtol=1e-8, atol=1e-8)


def test_the_logistic_probe_equals_scikit_learn_at_the_same_penalty(digits: tuple[Tensor, ...]) -> None:
    features, labels, others, answers = digits
    probe = fit_logistic_probe(features, labels, penalties=[1e-3], generator=seeded())
    scaler = StandardScaler().fit(features.numpy())
    reference = LogisticRegression(C=1 / (1e-3 * len(labels)), tol=1e-9, max_iter=5000)
    reference.fit(scaler.transform(features.numpy()), labels.numpy())
    expected = torch.from_numpy(reference.predict_proba(scaler.transform(others.numpy())))
    assert_close(probe.logits(others).softmax(1), expected, rtol=0, atol=1e-3)
    same = float((torch.from_numpy(reference.predict(scaler.transform(others.numpy()))) == answers).double().mean())
    assert probe.accuracy(others, answers) == pytest.approx(same, abs=1 / len(answers))
    assert same > 0.93


def test_the_logistic_probe_chooses_a_penalty_as_good_as_the_best(digits: tuple[Tensor, ...]) -> None:
    features, labels, others, answers = (part[:300] for part in digits)
    chosen = fit_logistic_probe(features, labels, generator=seeded())
    each = [fit_logistic_probe(features, labels, penalties=[10.0**-k], generator=seeded()) for k in (0, 3)]
    assert chosen.accuracy(others, answers) > max(probe.accuracy(others, answers) for probe in each) - 0.02
    assert chosen.accuracy(others, answers) > each[0].accuracy(others, answers)


def test_the_logistic_probe_shrinks_noise_most_and_clear_features_less() -> None:
    noise, labels = clouds(120, 5, 3, apart=0.0)
    assert fit_logistic_probe(noise, labels, generator=seeded()).settings["penalty"] == 1.0
    clear, labels = clouds(120, 5, 3, apart=4.0)
    assert fit_logistic_probe(clear, labels, generator=seeded()).settings["penalty"] < 0.1


def test_a_newton_step_is_symmetric_and_inverts_the_latest_change_of_slope() -> None:
    hessian = torch.logspace(0, 3, 6, dtype=torch.float64)
    moves = torch.randn(4, 6, dtype=torch.float64, generator=seeded())
    recent = [(move, hessian * move) for move in moves]
    assert_close(newton_step(recent[-1][1], recent), recent[-1][0])
    one, other = torch.randn(2, 6, dtype=torch.float64, generator=seeded(1))
    assert_close(one @ newton_step(other, recent), other @ newton_step(one, recent))


def test_the_descent_ends_at_the_minimum_of_an_ill_conditioned_bowl() -> None:
    hessian, calls = torch.logspace(0, 2, 30, dtype=torch.float64), []

    def bowl(place: Tensor) -> tuple[float, Tensor]:
        calls.append(place)
        return float((hessian * (place - 1).square()).sum()) / 2, hessian * (place - 1)

    assert_close(lowest(bowl, torch.zeros(30, dtype=torch.float64), 1e-8), torch.ones(30, dtype=torch.float64))
    assert len(calls) < 150


def test_the_logistic_probe_ignores_the_scale_of_each_feature() -> None:
    features, labels = clouds(90, 5, 3)
    stretched = features * torch.logspace(-3, 3, 5, dtype=torch.float64)
    probe = fit_logistic_probe(features, labels, generator=seeded())
    other = fit_logistic_probe(stretched, labels, generator=seeded())
    assert_close(other.logits(stretched).softmax(1), probe.logits(features).softmax(1), rtol=0, atol=1e-3)


def test_the_paper_probe_is_adamw_as_pytorch_runs_it() -> None:
    features, labels = clouds(60, 8, 3)
    probe = fit_paper_probe(features, labels, generator=seeded(4))
    readout = torch.nn.Linear(8, 3, bias=False)
    torch.nn.init.normal_(readout.weight, std=8**-0.5, generator=seeded(4))
    optimizer = torch.optim.AdamW(readout.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(readout(features.float()), labels).backward()
        optimizer.step()
    assert_close(probe.weight.float(), readout.weight.detach(), rtol=1e-4, atol=1e-5)
    assert probe.bias is None


def test_another_seed_changes_the_paper_probe() -> None:
    features, labels = clouds(60, 8, 3)
    one, same, other = (fit_paper_probe(features, labels, generator=seeded(seed)).weight for seed in (1, 1, 2))
    assert_close(one, same, rtol=0, atol=0)
    assert not torch.allclose(one, other)


def test_every_probe_reads_what_is_there_and_nothing_from_shuffled_labels() -> None:
    features, labels = clouds(400, 10, 4, apart=9.0)
    others, answers = clouds(400, 10, 4, seed=1, apart=9.0)
    shuffled, disordered = (y[torch.randperm(400, generator=seeded(k))] for k, y in enumerate((labels, answers)))
    for probe, chance in zip(fits(features, labels), fits(features, shuffled), strict=True):
        assert probe.accuracy(others, answers) > (0.5 if probe.preset == "paper" else 0.9), probe.preset
        assert chance.accuracy(others, disordered) == pytest.approx(0.25, abs=0.08), chance.preset


def test_a_class_without_an_example_is_never_predicted_and_counts_as_wrong() -> None:
    features, labels = clouds(90, 5, 3, apart=3.0)
    seen = labels != 1
    for probe in fits(features[seen], labels[seen], classes=5)[:2]:
        logits = probe.logits(features)
        assert logits.shape == (90, 5) and bool(logits.isfinite().all())
        assert set(logits.argmax(1).tolist()) == {0, 2}
        assert logits[0, 1] == logits[0, 4] == NEVER
        assert probe.accuracy(features, labels) == pytest.approx(2 / 3, abs=0.05)


def test_constant_features_read_the_most_frequent_class() -> None:
    labels = torch.tensor([0, 1, 1, 1, 2])
    for probe in fits(torch.full((5, 3), 0.1), labels)[:2]:
        assert probe.accuracy(torch.full((5, 3), 0.1), labels) == pytest.approx(3 / 5)
    logits = fit_ridge_probe(torch.full((5, 3), 0.1), labels).logits(torch.zeros(1, 3))
    assert_close(logits, torch.tensor([[0.2, 0.6, 0.2]], dtype=torch.float64))


def test_one_example_can_be_scored_but_not_fitted() -> None:
    features, labels = clouds(30, 4, 3, apart=4.0)
    assert fit_ridge_probe(features, labels).accuracy(features[:1], labels[:1]) in (0.0, 1.0)
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        fit_ridge_probe(features[:1], labels[:1])


def test_half_precision_and_no_grad_are_fine() -> None:
    features, labels = clouds(60, 4, 3, apart=3.0)
    with torch.no_grad():
        for probe in fits(features.half(), labels.int()):
            assert probe.weight.dtype == torch.float64
            assert_close(probe.logits(features.half()), probe.logits(features), rtol=1e-2, atol=2e-2)


def test_what_cannot_be_fitted_is_refused_in_words() -> None:
    features, labels = clouds(6, 2, 3)
    refused = [
        (features, labels[:4], None, "one for each of 6"),
        (features, torch.zeros(6, dtype=torch.int64), None, "at least two classes among the examples, got only 0"),
        (features, labels, 2, "expected 0 to 1, got 0 to 2"),
        (features, labels - 1, None, "expected 0 to 1, got -1 to 1"),
        (features, labels.double(), None, "whole numbers"),
        (torch.full_like(features, torch.nan), labels, None, "finite"),
        (features[:, :0], labels, None, "at least one entry"),
    ]
    for phi, y, classes, words in refused:
        with pytest.raises(ValueError, match=words):
            fit_ridge_probe(phi, y, classes=classes)
        with pytest.raises(ValueError, match=words):
            fit_logistic_probe(phi, y, classes=classes, generator=seeded())
        with pytest.raises(ValueError, match=words):
            fit_paper_probe(phi, y, classes=classes, generator=seeded())
    with pytest.raises(ValueError, match="all positive"):
        fit_ridge_probe(features, labels, penalties=[0.0])
    with pytest.raises(ValueError, match="at least two examples, to cross-validate"):
        fit_logistic_probe(features[:3], labels[:3], generator=seeded())
    with pytest.raises(ValueError, match="expected 2 columns, as fitted, got 3"):
        fit_ridge_probe(features, labels).logits(torch.zeros(4, 3))


def test_parts_are_disjoint_stratified_and_drawn_by_the_seed() -> None:
    labels = torch.randint(0, 7, (103,), generator=seeded())
    for count in (2, 3, 5):
        parts = stratified_parts(labels, count, seeded(1))
        assert sorted(torch.cat(parts).tolist()) == list(range(103))
        shares = torch.stack([labels[part].bincount(minlength=7) for part in parts])
        assert int((shares.amax(0) - shares.amin(0)).max()) <= 1
        assert any(
            a.tolist() != b.tolist() for a, b in zip(parts, stratified_parts(labels, count, seeded(2)), strict=True)
        )


def test_no_fit_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(fits(*clouds(30, 40, 3))) == 3


def test_a_path_holds_what_each_penalty_gives_alone_and_marks_what_the_preset_chooses() -> None:
    features, labels = clouds(60, 5, 3, apart=0.5)
    paths = {
        "ridge": (ridge_path(features, labels), fit_ridge_probe(features, labels)),
        "logistic": (
            logistic_path(features, labels, generator=seeded()),
            fit_logistic_probe(features, labels, generator=seeded()),
        ),
        "paper": (
            paper_path(features, labels, generator=seeded()),
            fit_paper_probe(features, labels, generator=seeded()),
        ),
    }
    for preset, (path, chosen) in paths.items():
        assert {probe.preset for probe in path.probes} == {preset}
        assert_close(chosen_of(path).weight, chosen.weight, rtol=0, atol=0)
        assert dict(chosen_of(path).settings) == dict(chosen.settings)
    for probe in paths["ridge"][0].probes:
        alone = fit_ridge_probe(features, labels, penalties=[probe.settings["penalty"]])
        assert_close(alone.weight, probe.weight, rtol=0, atol=0)
    for probe in paths["paper"][0].probes:
        decay = probe.settings["weight_decay"]
        alone = fit_paper_probe(features, labels, generator=seeded(), weight_decay=decay)
        assert_close(alone.weight, probe.weight, rtol=0, atol=0)


def test_a_logistic_path_is_close_to_the_minimum_at_every_penalty_in_any_order() -> None:
    features, labels = clouds(200, 5, 3, apart=0.5)
    penalties = [1e-3, 1.0, 1e-2]
    path = logistic_path(features, labels, generator=seeded(), penalties=penalties)
    assert [probe.settings["penalty"] for probe in path.probes] == penalties
    for probe, penalty in zip(path.probes, penalties, strict=True):
        alone = fit_logistic_probe(features, labels, generator=seeded(), penalties=[penalty])
        assert_close(probe.logits(features).softmax(1), alone.logits(features).softmax(1), rtol=0, atol=2e-3)


def test_stronger_penalties_give_smaller_readouts() -> None:
    features, labels = clouds(90, 5, 3)
    for path in (ridge_path(features, labels), logistic_path(features, labels, generator=seeded())):
        norms = {probe.settings["penalty"]: float(probe.weight.norm()) for probe in path.probes}
        falling = [norms[penalty] for penalty in sorted(norms)]
        assert falling == sorted(falling, reverse=True) and len(falling) >= 7


def test_a_negative_weight_decay_is_refused() -> None:
    features, labels = clouds(6, 2, 3)
    with pytest.raises(ValueError, match="weight decays: expected at least one, none negative"):
        fit_paper_probe(features, labels, generator=seeded(), weight_decay=-0.1)
