import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from twoclocks.measures.motion import (
    Blocks,
    gain,
    gradient_bounds,
    gradient_ratio,
    loss_decrease_shares,
    readout_lead_certificate,
    relative_speed,
    relative_speed_ratio,
)

SYMBOLS, WIDTH, HIDDEN = 7, 5, 11


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    shapes = {"E": (SYMBOLS, WIDTH), "W": (HIDDEN, WIDTH), "b": (HIDDEN,), "U": (SYMBOLS, HIDDEN), "c": (SYMBOLS,)}
    return {name: (scale * normal(seed + i, *shape)).requires_grad_() for i, (name, shape) in enumerate(shapes.items())}


def forward(net: dict[str, Tensor], left: int, right: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return z = E_a + E_b, h and the logits of one pair."""
    z = net["E"][left] + net["E"][right]
    h = torch.relu(net["W"] @ z + net["b"])
    return z, h, net["U"] @ h + net["c"]


def mixing_of(left: int, right: int) -> Tensor:
    """Return B of z = B e: two rows of the table, or one of them twice."""
    one = torch.eye(WIDTH, dtype=torch.float64)
    return 2 * one if left == right else torch.cat([one, one], 1)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_gradients_of_an_embedding_network_keep_their_bounds(scale: float) -> None:
    net, seen, nearest = network(0, scale), 0, 0.0
    for left in range(SYMBOLS):
        for right in range(SYMBOLS):
            z, h, logits = forward(net, left, right)
            label = torch.tensor((left + right) % SYMBOLS)
            gradients = torch.autograd.grad(cross_entropy(logits, label), [net["U"], net["W"], net["E"], logits])
            by_readout, by_hidden, by_table = (float(part.norm()) for part in gradients[:3])
            matrices = {"readout": net["U"], "hidden": net["W"], "mixing": mixing_of(left, right)}
            bounds = gradient_bounds(gradients[3][None], h[None], z[None], **matrices)
            assert float(bounds.readout) == pytest.approx(by_readout, rel=1e-12)
            assert by_hidden <= float(bounds.hidden) * (1 + 1e-12)
            assert by_table <= float(bounds.embedding) * (1 + 1e-12)
            lead = float(readout_lead_certificate(h[None], **matrices))
            assert lead == pytest.approx(float(bounds.readout / bounds.embedding), rel=1e-12)
            assert lead <= 1 or by_readout > by_table
            seen, nearest = seen + 1, max(nearest, by_table / float(bounds.embedding))
    assert seen == SYMBOLS**2 and nearest > 0.05


def test_the_bounds_are_attained_by_one_unit() -> None:
    """U, W and B that lengthen every vector alike, and every unit on: the bounds are equalities."""
    one, delta = torch.eye(3, dtype=torch.float64), torch.tensor([[0.5, -0.2, -0.3]], dtype=torch.float64)
    table = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    hidden, readout = (2 * one).requires_grad_(), (5 * one).requires_grad_()
    z = 3 * table
    h = torch.relu(hidden @ z)
    gradients = torch.autograd.grad((delta[0] * (readout @ h)).sum(), [readout, hidden, table])
    bounds = gradient_bounds(delta, h[None], z[None], readout=readout, hidden=hidden, mixing=3 * one)
    measured = torch.stack([gradient.norm() for gradient in gradients])
    assert_close(torch.cat([bounds.readout, bounds.hidden, bounds.embedding]), measured, rtol=1e-12, atol=0)
    lead = readout_lead_certificate(h[None], readout=readout, hidden=hidden, mixing=3 * one)
    assert float(lead) == pytest.approx(6 * math.sqrt(14) / 30, rel=1e-12)


def test_features_of_zero_and_matrices_of_zero_give_no_nan() -> None:
    zero, one = torch.zeros(2, 2), torch.eye(2)
    lead = readout_lead_certificate(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), readout=zero, hidden=one, mixing=one)
    assert lead.tolist() == [0.0, math.inf]


def blocks(seed: int, scale: float = 1.0) -> Blocks:
    return {
        "encoder": {"weight": scale * normal(seed, 4, 3), "bias": scale * normal(seed + 1, 4)},
        "readout": {"weight": scale * normal(seed + 2, 2, 4)},
    }


def flat(block: object) -> Tensor:
    return torch.cat([part.flatten() for part in block.values()])


def test_speeds_and_ratios_equal_those_of_flat_vectors() -> None:
    before, after = blocks(0), blocks(10)
    speed = {
        name: float((flat(after[name]) - flat(before[name])).norm() / flat(before[name]).norm()) for name in before
    }
    assert relative_speed(before, after) == pytest.approx(speed, rel=1e-12)
    expected = {"encoder": speed["readout"] / speed["encoder"]}
    assert relative_speed_ratio(before, after) == pytest.approx(expected, rel=1e-12)
    expected_ratio = float(flat(before["readout"]).norm() / flat(before["encoder"]).norm())
    assert gradient_ratio(before["readout"], before["encoder"]) == pytest.approx(expected_ratio, rel=1e-12)


def test_relative_speeds_ignore_the_unit_of_the_weights() -> None:
    assert relative_speed(blocks(0, 1e-6), blocks(10, 1e-6)) == pytest.approx(relative_speed(blocks(0), blocks(10)))


def test_what_starts_at_zero_or_stands_still_gives_no_nan() -> None:
    still = {"encoder": {"w": torch.ones(2)}, "readout": {"w": torch.zeros(2)}}
    moved = {"encoder": {"w": torch.ones(2)}, "readout": {"w": torch.ones(2)}}
    assert relative_speed(still, still) == {"encoder": 0.0, "readout": 0.0}
    assert relative_speed(still, moved) == {"encoder": 0.0, "readout": math.inf}
    assert relative_speed_ratio(still, still) == {"encoder": 1.0}
    assert relative_speed_ratio(still, moved) == {"encoder": math.inf}
    assert relative_speed_ratio(still, moved, readout="encoder") == {"readout": 0.0}
    assert gradient_ratio({"w": torch.zeros(1)}, {"w": torch.zeros(1)}) == 1.0
    assert gradient_ratio({"w": torch.ones(1)}, {"w": torch.zeros(1)}) == math.inf


def test_a_step_of_gradient_descent_shares_the_decrease_as_the_squared_gradients() -> None:
    before, gradients = blocks(0), blocks(20)
    after = {
        name: {key: part - 0.1 * gradients[name][key] for key, part in block.items()} for name, block in before.items()
    }
    squares = {name: float(flat(block).square().sum()) for name, block in gradients.items()}
    decrease = loss_decrease_shares(gradients, before, after)
    assert decrease.total == pytest.approx(0.1 * sum(squares.values()), rel=1e-9)
    assert dict(decrease.shares) == pytest.approx({name: s / sum(squares.values()) for name, s in squares.items()})
    assert sum(decrease.by_block.values()) == pytest.approx(decrease.total)


def test_a_small_step_lowers_the_loss_by_the_decrease() -> None:
    def loss(theta: Blocks) -> Tensor:
        hidden = torch.tanh(normal(3, 6, 3) @ theta["encoder"]["weight"].T + theta["encoder"]["bias"])
        return cross_entropy(hidden @ theta["readout"]["weight"].T, torch.tensor([0, 1, 0, 1, 1, 0]))

    before = {name: {key: part.requires_grad_() for key, part in block.items()} for name, block in blocks(0).items()}
    keys = [(name, key) for name, block in before.items() for key in block]
    slopes = torch.autograd.grad(loss(before), [before[name][key] for name, key in keys])
    gradients: dict[str, dict[str, Tensor]] = {name: {} for name in before}
    for (name, key), slope in zip(keys, slopes, strict=True):
        gradients[name][key] = slope
    step = blocks(30, 1e-6)
    after = {name: {key: part.detach() + step[name][key] for key, part in before[name].items()} for name in before}
    decrease = loss_decrease_shares(gradients, before, after)
    assert decrease.total == pytest.approx(float((loss(before) - loss(after)).detach()), rel=1e-4)


def test_an_update_that_does_not_lower_the_loss_has_no_shares() -> None:
    before, gradients = blocks(0), blocks(20)
    up = {name: {key: part + gradients[name][key] for key, part in block.items()} for name, block in before.items()}
    rise = loss_decrease_shares(gradients, before, up)
    assert rise.total < 0 and rise.shares is None and set(rise.by_block) == {"encoder", "readout"}
    still = loss_decrease_shares(gradients, before, before)
    assert still.total == 0 and still.shares is None


def test_what_does_not_fit_is_refused_in_words() -> None:
    before, one = blocks(0), torch.eye(2)
    spoiled = {**before, "readout": {"weight": before["readout"]["weight"] / 0}}
    refusals = [
        (lambda: relative_speed(before, {"readout": before["readout"]}), "same blocks, names and shapes"),
        (lambda: relative_speed(before, spoiled), "readout: expected finite"),
        (lambda: relative_speed_ratio(before, before, readout="fc"), "readout: expected the name"),
        (lambda: gradient_ratio({}, before["readout"]), "gradients_readout: expected a block"),
        (
            lambda: readout_lead_certificate(one, readout=one, hidden=torch.ones(3, 2), mixing=one),
            "readout: expected 3",
        ),
        (lambda: readout_lead_certificate(torch.ones(4, 3), readout=one, hidden=one, mixing=one), "features: expected"),
        (
            lambda: gradient_bounds(torch.ones(3, 2), one, one, readout=one, hidden=one, mixing=one),
            "by_logits: expected",
        ),
    ]
    for refused, words in refusals:
        with pytest.raises(ValueError, match=words):
            refused()
    assert len(refusals) == 7


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_the_gain_is_the_largest_singular_value_of_an_svd(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(gain(matrix)) == pytest.approx(float(torch.linalg.svdvals(matrix)[0]), rel=1e-12)
    assert float(gain(torch.ones(shape))) == pytest.approx(math.sqrt(math.prod(shape)))
