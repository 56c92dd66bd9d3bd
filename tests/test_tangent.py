import itertools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import oracles
from twoclocks.measures import tangent
from twoclocks.measures.tangent import (
    TangentKernel,
    encoder_ntk,
    entk,
    mlp_ntk,
    readout_ntk,
    traced_encoder_ntk,
    traced_entk,
    traced_mlp_ntk,
    traced_readout_ntk,
)

DEPTHS = ((5, 3), (5, 7, 3), (4, 6, 9, 3), (3, 8, 6, 7, 2), (6, 5, 4, 5, 6, 4))
Network = tuple[list[Tensor], list[Tensor | None]]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layers(widths: tuple[int, ...], biased: bool) -> Network:
    pairs = list(itertools.pairwise(widths))
    weights = [normal(10 * i, after, before) for i, (before, after) in enumerate(pairs)]
    return weights, [normal(10 * i + 5, after) if biased else None for i, (_, after) in enumerate(pairs)]


def module_of(net: Network, activation: type[nn.Module]) -> nn.Sequential:
    """Return the same network as a module, in float64."""
    parts: list[nn.Module] = []
    for weight, bias in zip(*net, strict=True):
        linear = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, dtype=torch.float64)
        linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        parts += [linear, activation()]
    return nn.Sequential(*parts[:-1]).eval()


def trace(kernel: Tensor) -> Tensor:
    return kernel.diagonal(dim1=1, dim2=3).sum(-1)


def check_traces(full: TangentKernel, traced: TangentKernel) -> None:
    assert_close(traced.readout, trace(full.readout), rtol=1e-10, atol=1e-10)
    assert_close(traced.encoder, trace(full.encoder), rtol=1e-10, atol=1e-10)


def dense_kernel(network: nn.Module, inputs: tuple[Tensor, ...], readout: str) -> TangentKernel:
    """Return both parts from the gradients of one logit of one example at a time, by plain autograd."""
    network = network.double()
    rows: dict[bool, list[Tensor]] = {True: [], False: []}
    for place in range(len(inputs[0])):
        logits = network(*(tensor[place : place + 1] for tensor in inputs))[0]
        for logit in logits:
            named = dict(network.named_parameters())
            slopes = torch.autograd.grad(logit, list(named.values()), retain_graph=True, allow_unused=True)
            for own in (True, False):
                kept = [
                    (torch.zeros_like(named[name]) if slope is None else slope).flatten()
                    for name, slope in zip(named, slopes, strict=True)
                    if name.startswith(readout + ".") == own
                ]
                rows[own].append(torch.cat(kept))
    shape = (len(inputs[0]), len(logits)) * 2
    return TangentKernel(*((torch.stack(rows[own]) @ torch.stack(rows[own]).T).view(shape) for own in (True, False)))


class Convolutional(nn.Module):
    """Convolutions, batch normalisation with its buffers, pooling, and a readout named `out`."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.out = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(16, 3)
        nn.init.uniform_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.max_pool2d(self.norm(self.first(x)).relu(), 2)
        return self.out(self.second(hidden).relu().flatten(1))


class Attention(nn.Module):
    """One layer of causal attention over tokens of two inputs and "=", read out at the last position."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.embedding, self.position = nn.Embedding(6, 8), nn.Parameter(torch.randn(3, 8))
        self.qkv, self.project = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
        self.norm, self.mlp, self.unembed = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 5, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        tokens = torch.stack([a, b, torch.full_like(a, 5)], 1)
        stream = self.embedding(tokens) + self.position
        heads = self.qkv(self.norm(stream)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        return self.unembed(F.gelu(self.mlp(stream + self.project(mixed)))[:, -1])


class TiedEncoder(nn.Module):
    """An encoder that uses one matrix twice."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.again, self.out = nn.Linear(4, 4), nn.Linear(4, 3)
        self.once_more = self.again

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.once_more(self.again(x).tanh()).tanh())


def made(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], str]] = {
    "convolutions": (Convolutional, (normal(1, 7, 1, 10, 10),), "out"),
    "attention": (Attention, (torch.arange(7) % 5, torch.arange(7) * 2 % 5), "unembed"),
    "tied": (TiedEncoder, (normal(2, 6, 4),), "out"),
}


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("widths", DEPTHS)
def test_closed_form_equals_outer_products_of_the_oracle(widths: tuple[int, ...], biased: bool) -> None:
    net, x = layers(widths, biased), normal(99, 6, widths[0])
    weights, biases = net[0], [None if bias is None else bias.numpy() for bias in net[1]]
    kernel = mlp_ntk(*net, x)
    gradients = oracles.relu_network_gradients([weight.numpy() for weight in weights], biases, x.numpy())
    for found, rows in zip((kernel.encoder, kernel.readout), gradients, strict=True):
        expected = torch.from_numpy(np.einsum("ncp,mdp->ncmd", rows, rows))
        assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("activation", "layer"),
    [(torch.relu, nn.ReLU), (torch.tanh, nn.Tanh), (None, nn.Identity)],
    ids=["relu", "tanh", "linear"],
)
@pytest.mark.parametrize("widths", DEPTHS)
def test_closed_form_equals_torch_func(widths: tuple[int, ...], activation: Any, layer: type[nn.Module]) -> None:
    for biased in (False, True):
        net, x = layers(widths, biased), normal(99, 6, widths[0])
        module, readout = module_of(net, layer), str(2 * (len(widths) - 2))
        expected, found = entk(module, x, readout=readout), mlp_ntk(*net, x, activation=activation)
        assert_close(found.readout, expected.readout, rtol=1e-10, atol=1e-10)
        assert_close(found.encoder, expected.encoder, rtol=1e-10, atol=1e-10)
        check_traces(expected, traced_mlp_ntk(*net, x, activation=activation))
        check_traces(found, traced_entk(module, x, readout=readout))


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_equals_the_gradients_of_single_logits(name: str) -> None:
    build, inputs, readout = NETWORKS[name]
    network = made(build)
    found = entk(network, inputs, readout=readout)
    traced = traced_entk(network, inputs, readout=readout)
    check_traces(found, traced)
    assert_close(encoder_ntk(network, inputs, readout=readout), found.encoder, rtol=0, atol=0)
    assert_close(traced_encoder_ntk(network, inputs, readout=readout), traced.encoder, rtol=0, atol=0)
    expected = dense_kernel(network, tuple(tangent.doubled(tensor) for tensor in inputs), readout)
    assert_close(found.readout, expected.readout, rtol=1e-10, atol=1e-10)
    assert_close(found.encoder, expected.encoder, rtol=1e-10, atol=1e-10)
    assert_close(found.whole, expected.readout + expected.encoder, rtol=1e-10, atol=1e-10)


def outputs_budget(network: nn.Module, inputs: tuple[Tensor, ...], readout: str, outputs: int) -> int:
    """Return the least budget at which the gradients of so many outputs are held at once."""
    with pytest.raises(ValueError, match="budget: expected at least") as refused:
        entk(network, inputs, readout=readout, budget=1)
    return outputs * int(str(refused.value).split("at least ")[1].split()[0])


@pytest.mark.parametrize("outputs", [2, 4, 1000])
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_of_any_size_give_the_same_kernel(name: str, outputs: int) -> None:
    build, inputs, readout = NETWORKS[name]
    network = made(build)
    budget = outputs_budget(network, inputs, readout, outputs)
    whole, parts = (entk(network, inputs, readout=readout, budget=size) for size in (2**30, budget))
    assert_close(parts.encoder, whole.encoder, rtol=1e-11, atol=1e-11)
    check_traces(whole, traced_entk(network, inputs, readout=readout, budget=budget))


def test_classes_a_few_at_a_time_give_the_same_trace() -> None:
    for widths in DEPTHS[1:]:
        net, x = layers(widths, biased=True), normal(99, 6, widths[0])
        assert_close(traced_mlp_ntk(*net, x, budget=1).encoder, traced_mlp_ntk(*net, x).encoder, rtol=1e-12, atol=0)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation gave."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(item, Tensor):
                self.bytes = max(self.bytes, item.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("measure", [entk, traced_entk])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_tensor_takes_more_than_its_share_of_the_budget(name: str, measure: Callable[..., TangentKernel]) -> None:
    build, inputs, readout = NETWORKS[name]
    network = made(build)
    budget = outputs_budget(network, inputs, readout, 5)
    with Largest() as bounded:
        kernel = measure(network, inputs, readout=readout, budget=budget)
    with Largest() as free:
        measure(network, inputs, readout=readout)
    share, result = budget // tangent.SHARES, kernel.encoder.untyped_storage().nbytes()
    assert bounded.bytes <= max(share, result)
    assert free.bytes > share


def test_no_more_blocks_of_gradients_are_alive_than_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    build, inputs, readout = NETWORKS["tied"]
    network, alive, most, made_blocks = made(build), weakref.WeakSet[Any](), [0], [0]
    budget = outputs_budget(network, inputs, readout, 1)
    original = tangent.gradients

    def counted(*given: Any) -> list[Tensor]:
        found = original(*given)
        alive.add(found[0])
        most[0], made_blocks[0] = max(most[0], len(alive)), made_blocks[0] + 1
        return found

    monkeypatch.setattr(tangent, "gradients", counted)
    encoder_ntk(network, inputs, readout=readout, budget=budget)
    assert most[0] <= tangent.HELD + 2  # the one that has passed is let go when the next is there
    assert made_blocks[0] == 18 + (18 - 5) + (18 - 10) + (
        18 - 15
    )  # every block once, and once for each group before it


def test_traced_signals_of_a_network_keep_to_their_budget() -> None:
    net, x = layers((4, 6, 200, 3), biased=True), normal(3, 5, 4)
    wide = ([*net[0], normal(4, 300, 3)], [*net[1], None])
    with Largest() as bounded:
        traced_mlp_ntk(*wide, x, budget=400_000)
    with Largest() as free:
        traced_mlp_ntk(*wide, x)
    assert bounded.bytes <= 100_000 < free.bytes


def test_a_linear_net_of_depth_two_has_the_kernel_on_paper() -> None:
    """Of f = W V x: δ_cc' xᵀVᵀVx' + (W Wᵀ)_cc' xᵀx'."""
    (v, w), x = layers((5, 7, 3), biased=False)[0], normal(7, 6, 5)
    kernel = mlp_ntk([v, w], [None, None], x, activation=None)
    inner = x @ x.T
    assert_close(kernel.readout, torch.einsum("nm,cd->ncmd", x @ v.T @ v @ x.T, torch.eye(3).double()))
    assert_close(kernel.encoder, torch.einsum("nm,cd->ncmd", inner, w @ w.T))
    traced = traced_mlp_ntk([v, w], [None, None], x, activation=None)
    assert_close(traced.encoder, inner * w.square().sum())


def test_the_readout_part_is_the_feature_kernel_within_a_class_and_nothing_between() -> None:
    features = normal(0, 4, 6)
    for bias in (False, True):
        kernel = readout_ntk(features, 3, bias=bias)
        assert_close(kernel[:, 1, :, 1], features @ features.T + bias)
        assert not bool(kernel[:, 0, :, 1].any())
        assert_close(traced_readout_ntk(features, 3, bias=bias), trace(kernel))


def test_a_kernel_predicts_the_logits_of_a_small_gradient_step() -> None:
    """Of the loss Σ g·f a step of size η moves the logits by −ηΘg."""
    net, x = layers((4, 9, 6, 3), biased=True), normal(8, 5, 4)
    module, pull, size = module_of(net, nn.Tanh), normal(9, 5, 3), 1e-6
    predicted = torch.einsum("ncmd,md->nc", mlp_ntk(*net, x, activation=torch.tanh).whole, pull)
    before = module(x)
    slopes = torch.autograd.grad((pull * before).sum(), list(module.parameters()))
    with torch.no_grad():
        for parameter, slope in zip(module.parameters(), slopes, strict=True):
            parameter -= size * slope
        assert_close((before - module(x)) / size, predicted, rtol=1e-3, atol=1e-2)


def test_kernels_are_symmetric_and_positive() -> None:
    for name, (build, inputs, readout) in NETWORKS.items():
        kernel = entk(made(build), inputs, readout=readout)
        for part in (kernel.readout, kernel.encoder):
            square = part.flatten(2).flatten(0, 1)
            assert_close(square, square.T, rtol=0, atol=1e-12 * float(square.abs().max()))
            values = torch.linalg.eigvalsh(square)
            assert float(values[0]) > -1e-10 * float(values[-1]), name


def test_a_float32_network_is_measured_in_float64_and_left_alone() -> None:
    for build, inputs, readout in NETWORKS.values():
        network = made(build)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        kernel = entk(network, inputs, readout=readout)
        assert kernel.encoder.dtype == kernel.readout.dtype == torch.float64
        assert_close(dict(network.state_dict()), before, rtol=0, atol=0)
        for parameter in network.parameters():
            assert type(parameter) is nn.Parameter and parameter.dtype == torch.float32
            parameter.requires_grad_(False)
        assert_close(entk(network, inputs, readout=readout).whole, kernel.whole, rtol=0, atol=0)


def test_torch_s_own_transformer_layer_is_measured_too() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.layer(x).mean(1))

    network, x = made(Encoder), normal(5, 4, 3, 8)
    found = entk(network, x, readout="out")
    expected = dense_kernel(network, (x,), "out")
    assert_close(found.encoder, expected.encoder, rtol=1e-9, atol=1e-9)


class Changed(nn.Module):
    """A network that says what it does to its logits."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        nn.Module.__init__(self)
        self.hidden, self.out, self.change = nn.Linear(4, 4), nn.Linear(4, 4), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.out(self.hidden(x)))


class Reading(nn.Module):
    """A network that reads out in a way of its own."""

    def __init__(self, read: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        nn.Module.__init__(self)
        self.out, self.read = nn.Linear(4, 4), read

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.out, x)


def tied_readout() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[0].weight = network[1].weight
    return network


def normalised_readout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))


X = normal(6, 5, 4)
REFUSED: list[tuple[Callable[[], nn.Module], str, Any, str]] = [
    (lambda: Changed(lambda z: z.softmax(1)), "out", X, "made of it"),
    (lambda: Changed(lambda z: (z, z)), "out", X, "got tuple"),
    (lambda: Changed(lambda z: z.mean(0)), "out", X, r"got \[4\]"),
    (lambda: Changed(lambda z: z / 0), "out", X, "finite"),
    (lambda: Reading(lambda out, x: out(out(x))), "out", X, "one call"),
    (lambda: Reading(lambda out, x: x @ out.weight.T), "out", X, "nothing"),
    (lambda: Reading(lambda out, x: out(x[:, None])[:, 0]), "out", X, "one call"),
    (lambda: Reading(lambda out, x: out(x - x.mean(0))), "out", X, "its own example alone"),
    (tied_readout, "1", X, "cross terms"),
    (normalised_readout, "1", X, "plain nn.Linear"),
    (lambda: Changed(lambda z: z), "hiden", X, "no such layer"),
    (lambda: Changed(lambda z: z), "", X, "a Changed"),
    (lambda: Changed(lambda z: z), "out", X[:0], "at least 1"),
    (lambda: Changed(lambda z: z), "out", (X, X[:3]), "one number of examples"),
    (lambda: Changed(lambda z: z), "out", (), "at least 1"),
]


@pytest.mark.parametrize(("build", "readout", "inputs", "words"), REFUSED, ids=[row[3] for row in REFUSED])
def test_a_network_that_does_not_split_is_refused_in_words(
    build: Callable[[], nn.Module], readout: str, inputs: Any, words: str
) -> None:
    for measure in (entk, traced_entk, encoder_ntk, traced_encoder_ntk):
        with pytest.raises(ValueError, match=words):
            measure(made(build), inputs, readout=readout)


def test_training_mode_and_too_small_a_budget_are_refused_in_words() -> None:
    network = made(lambda: Changed(lambda z: z))
    with pytest.raises(ValueError, match="budget: expected at least"):
        entk(network, X, readout="out", budget=100)
    with pytest.raises(ValueError, match=r"network\.eval\(\)"):
        entk(network.train(), X, readout="out")


@pytest.mark.parametrize(
    ("weights", "biases", "x", "words"),
    [
        ([], [], X, "at least one matrix"),
        ([X[:3]], [], X, "a bias or None for each"),
        ([X[:3], X], [None, None], X, "take what the one before gives"),
        ([X[:3, :2]], [None], X, "take what the one before gives"),
        ([X[:3]], [torch.zeros(2)], X, "one number a row"),
        ([X[:3]], [torch.full((3,), torch.nan)], X, "finite"),
        ([X[:3] / 0], [None], X, "finite"),
        ([X[:3]], [None], X[0], "two axes"),
    ],
)
def test_layers_that_make_no_network_are_refused_in_words(weights: Any, biases: Any, x: Tensor, words: str) -> None:
    for measure in (mlp_ntk, traced_mlp_ntk):
        with pytest.raises(ValueError, match=words):
            measure(weights, biases, x)


def test_an_activation_that_changes_shapes_and_no_classes_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="elementwise"):
        mlp_ntk([X[:3], normal(1, 2, 3)], [None, None], X, activation=lambda z: z.sum(1))
    with pytest.raises(ValueError, match="classes"):
        readout_ntk(X, 0)
