"""What holds for the transformer under Muon: each block follows its own rule, and what is frozen stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from twoclocks.errors import InputError
from twoclocks.recipes.muon_collapse import SETTINGS, muon_collapse, rules_of
from twoclocks.training.loop import advanced, begun_run, named, set_up, torch_threads, train
from twoclocks.training.optimizers import AdamW, Frozen, Muon
from twoclocks.training.recipe import Recipe
from twoclocks.training.tasks import modular_addition_task
from twoclocks.training.transformer import BLOCKS, PairTransformer, initial_weights
from twoclocks.trajectory import SaveAt

SHAPE = {"p": 11, "width": 8, "heads": 2, "hidden": 12}
MATRICES = (*BLOCKS["attention"], *BLOCKS["mlp"])
OUTER = (*BLOCKS["embedding"], *BLOCKS["readout"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def small(**settings: object) -> Recipe:
    return muon_collapse(**SHAPE, dtype="float64", warmup=3, **settings)


def polar_by_newton_schulz(matrix: Tensor) -> Tensor:
    """The slow second definition: Muon's quintic on each singular value, five times."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / (values.norm() + 1e-7)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


def plain_loop(recipe: Recipe, steps: int) -> dict[str, Tensor]:
    """The plain module under autograd, Muon written out on its matrices, torch's AdamW on everything else."""
    settings = recipe.settings
    model = PairTransformer(*SHAPE.values()).double()
    model.load_state_dict(initial_weights(*SHAPE.values(), seed=0))
    parameters = dict(model.named_parameters())
    rest = [weight for name, weight in parameters.items() if name not in MATRICES]
    adam = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=settings["adam_weight_decay"])
    momenta = {name: torch.zeros_like(parameters[name]) for name in MATRICES}
    split = torch.Generator().manual_seed(0)
    pairs = modular_addition_task(11, settings["train_fraction"], shuffle_labels=False, generator=split).train
    for update in range(1, steps + 1):
        factor = min(update / 3, 1.0)
        model.zero_grad()
        F.cross_entropy(model(pairs.left, pairs.right), pairs.labels).backward()
        adam.param_groups[0]["lr"] = factor * settings["adam_lr"]
        adam.step()
        for name, momentum in momenta.items():
            weight, lr = parameters[name], factor * settings["lr"]
            momentum.mul_(settings["momentum"]).add_(weight.grad, alpha=1 - settings["momentum"])
            ahead = settings["momentum"] * momentum + (1 - settings["momentum"]) * weight.grad
            tall = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
            weight.data = weight.data * (1 - lr * settings["weight_decay"]) - lr * tall * polar_by_newton_schulz(ahead)
    return {name: weight.detach() for name, weight in parameters.items()}


def test_training_is_muon_on_the_matrices_and_adamw_on_the_rest() -> None:
    recipe = small(momentum=0.9, adam_lr=0.01)
    experiment = set_up(recipe, (0,))
    run = advanced(begun_run(0, experiment), 20, experiment)
    weights, plain = named(run.weights, experiment), plain_loop(recipe, 20)
    assert len(plain) == 11
    for name, weight in plain.items():
        torch.testing.assert_close(
            weights[name], weight, rtol=0, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_what_is_frozen_keeps_its_initial_values_and_all_else_moves() -> None:
    recipe = replace(small(freeze="embeddings-and-readout", steps=6), save_at=SaveAt(snapshot_every=6))
    run = train(recipe, seeds=[0, 1])
    first, last = run.snapshots[0].tensors, run.snapshots[-1].tensors
    kept = [name for name in first if name.startswith("weights/") and np.array_equal(first[name], last[name])]
    assert sorted(kept) == sorted(f"weights/{name}" for name in OUTER)
    assert sum(name.startswith("weights/") for name in first) == 11
    np.testing.assert_array_equal(first["readout/weight"], last["readout/weight"])


def test_frozen_and_free_runs_start_alike() -> None:
    settings = {
        name: replace(small(), settings={**small().settings, "freeze": name}) for name in SETTINGS["freeze"].choices
    }
    starts = [begun_run(0, set_up(recipe, (0,))).weights for recipe in settings.values()]
    assert len(starts) == 2
    torch.testing.assert_close(starts[0], starts[1], rtol=0, atol=0)


def test_every_setting_reaches_its_rule() -> None:
    recipe = muon_collapse(
        lr=0.1, momentum=0.8, weight_decay=0.2, adam_lr=0.3, adam_weight_decay=0.4, beta1=0.5, beta2=0.6
    )
    rules, adam = rules_of(recipe.settings), AdamW(0.3, 0.5, 0.6, 0.4)
    assert rules["attention"] == rules["mlp"] == Muon(0.1, 0.8, 0.2)
    assert rules["embedding"] == rules["readout"] == rules["bias"] == adam
    frozen = rules_of(muon_collapse(freeze="embeddings-and-readout").settings)
    assert [block for block, rule in frozen.items() if rule == Frozen()] == ["embedding", "readout"]


def test_the_run_says_its_rules_and_its_decay() -> None:
    run = train(small(steps=2, lr=0.05))
    assert run.settings["decay"] == "decoupled"
    assert run.settings["rules"]["mlp"]["name"] == "Muon" and run.settings["rules"]["readout"]["name"] == "AdamW"
    assert run.scalars["lr"].value[0, -1] == pytest.approx(0.05 * 2 / 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"heads": 5}, "heads must divide the width"),
        ({"freeze": "readout"}, "must be one of none, embeddings-and-readout"),
    ],
)
def test_unusable_settings_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        muon_collapse(**settings)


def test_published_size_is_a_setting_away_and_says_what_it_costs() -> None:
    published = muon_collapse(p=113, train_fraction=0.3)
    assert published.expected is None and published.cost > 1.5 * muon_collapse().cost
