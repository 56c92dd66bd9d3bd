"""This file knows the networks we train: each as a plain module, and as the same function with less arithmetic.

The structured form uses cat(E[a], E[b]) Wᵀ = (E W_aᵀ)[a] + (E W_bᵀ)[b]: the first layer is computed once for each
symbol, not once for each pair, and its gradient is summed over the pairs of a symbol before it meets a matrix. The
function and its gradient are exactly those of the plain module; only the order of the sums differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twoclocks.training.losses import LogitGradient, cross_entropy_gradient_faithful
from twoclocks.training.recipe import Problem, Weights
from twoclocks.training.tasks import Pairs, PairTask

BLOCKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "embedding": ("embedding.weight",),
        "hidden": ("hidden.weight", "hidden.bias"),
        "readout": ("readout.weight", "readout.bias"),
    }
)
cross_entropy_gradient = cross_entropy_gradient_faithful  # of every network that is not told otherwise
TWO_HOT_BLOCKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"hidden": ("hidden.weight", "hidden.bias"), "readout": ("readout.weight",)}
)


class EmbeddingMLP(nn.Module):
    """Two symbols, embedded by one table, concatenated or summed, through one hidden ReLU layer to a linear readout.

    Summed, the network cannot tell (a, b) from (b, a). Initial values are PyTorch's own: embeddings N(0, 1), the rest
    uniform within ±1/√(inputs). This is the definition; what trains is `structured_gradient`, tested equal to it.
    """

    def __init__(self, symbols: int, width: int, hidden: int, *, summed: bool = False) -> None:
        super().__init__()  # nn.Module demands it
        self.summed = summed
        self.embedding = nn.Embedding(symbols, width)
        self.hidden = nn.Linear(width if summed else 2 * width, hidden)
        self.readout = nn.Linear(hidden, symbols)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the logits `[n c]` of the pairs (left[n], right[n])."""
        a, b = self.embedding(left), self.embedding(right)
        both = a + b if self.summed else torch.cat([a, b], dim=1)
        logits: Tensor = self.readout(self.hidden(both).relu())
        return logits


@dataclass(frozen=True)
class Lookup:
    """Where n pairs find their rows in the table `[2p h]` of first-layer outputs, and back.

    `rows[n 2]` are the table rows of each pair's left and right symbol. `pairs[2n]` lists the pairs that use row 0,
    then those that use row 1, and so on; `starts[2p]` says where each row's list begins.
    """

    rows: Tensor
    pairs: Tensor
    starts: Tensor
    labels: Tensor


def lookup_of(pairs: Pairs, symbols: int) -> Lookup:
    """Return the lookup of some pairs of `symbols` symbols.

    >>> one = torch.tensor([1])
    >>> lookup_of(Pairs(one, one, one), symbols=2).rows
    tensor([[1, 3]])
    """
    rows = torch.stack([pairs.left, pairs.right + symbols], dim=1)
    users = torch.cat([pairs.left.argsort(stable=True), pairs.right.argsort(stable=True)])
    count = torch.bincount(rows.flatten(), minlength=2 * symbols)
    return Lookup(rows, users, count.cumsum(0) - count, pairs.labels)


def pairs_at(rows: Tensor, pairs: Pairs) -> Pairs:
    """Return the pairs numbered `rows`.

    >>> pairs_at(torch.tensor([2, 0]), Pairs(*3 * [torch.tensor([7, 8, 9])])).left
    tensor([9, 7])
    """
    return Pairs(pairs.left[rows], pairs.right[rows], pairs.labels[rows])


def embedding_mlp(task: PairTask, width: int, hidden: int, *, summed: bool = False) -> Problem:
    """Return an EmbeddingMLP (width of one embedding, number of hidden units) set on a task of pairs."""
    lookups = {"train": lookup_of(task.train, task.classes), "heldout": lookup_of(task.heldout, task.classes)}

    def gradient(weights: Weights, rows: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        lookup = lookups["train"] if rows is None else lookup_of(pairs_at(rows, task.train), task.classes)
        return structured_gradient(weights, lookup)

    def forward(weights: Weights, split: str) -> tuple[Tensor, Tensor]:
        features = structured_features(weights, lookups[split])
        return features, readout_logits(weights, features)

    return Problem(
        labels={split: lookup.labels for split, lookup in lookups.items()},
        blocks=BLOCKS,
        readout=("readout.weight", "readout.bias"),
        initial=lambda seed: initial_weights(task.classes, width, hidden, seed, summed=summed),
        forward=forward,
        gradient=gradient,
    )


def initial_weights(symbols: int, width: int, hidden: int, seed: int, *, summed: bool = False) -> dict[str, Tensor]:
    """Return the weights that PyTorch gives a new EmbeddingMLP after `torch.manual_seed(seed)`, by name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EmbeddingMLP(symbols, width, hidden, summed=summed)
        return {name: w.detach() for name, w in model.named_parameters()}


def first_layer_halves(weights: Weights) -> tuple[Tensor, Tensor]:
    """Return what the first layer does to the left and to the right symbol, `[h d]` each: the same where they are summed."""
    hidden, width = weights["hidden.weight"], weights["embedding.weight"].shape[1]
    return (hidden, hidden) if hidden.shape[1] == width else (hidden[:, :width], hidden[:, width:])


def structured_features(weights: Weights, lookup: Lookup) -> Tensor:
    """Return the hidden layer's outputs `[n h]`, which enter the readout."""
    embedding, bias = weights["embedding.weight"], weights["hidden.bias"]
    left, right = first_layer_halves(weights)
    table = torch.cat([torch.addmm(bias, embedding, left.T), embedding @ right.T])
    return F.embedding_bag(lookup.rows, table, mode="sum").relu_()


def readout_logits(weights: Weights, features: Tensor) -> Tensor:
    """Return the logits `[n c]` of features `[n h]`."""
    return torch.addmm(weights["readout.bias"], features, weights["readout.weight"].T)


def structured_gradient(weights: Weights, lookup: Lookup) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits `[n c]`, and by name the gradient of the mean cross-entropy over the n pairs."""
    embedding = weights["embedding.weight"]
    left, right = first_layer_halves(weights)
    features = structured_features(weights, lookup)
    logits = readout_logits(weights, features)
    by_logits = cross_entropy_gradient(logits, lookup.labels)
    by_table = gradient_of_table(by_logits @ weights["readout.weight"], features, lookup)
    by_left, by_right = by_table.chunk(2)
    by_halves = (by_left.T @ embedding, by_right.T @ embedding)
    return logits, {
        "embedding.weight": by_left @ left + by_right @ right,
        "hidden.weight": by_halves[0] + by_halves[1] if left is right else torch.cat(by_halves, dim=1),
        "hidden.bias": by_left.sum(0),
        "readout.weight": by_logits.T @ features,
        "readout.bias": by_logits.sum(0),
    }


class TwoHotMLP(nn.Module):
    """Two symbols as two ones among 2p inputs, one hidden ReLU layer with bias, a linear readout without.

    Initial weights are normal with variance 2/(2p) below and 1/hidden above, times `scale`; the bias is 0. Source: the code
    of arXiv 2311.18817. This is the definition; what trains is `two_hot_gradient`, tested equal to it.
    """

    def __init__(self, symbols: int, hidden: int, scale: float) -> None:
        super().__init__()  # nn.Module demands it
        self.hidden = nn.Linear(2 * symbols, hidden)
        self.readout = nn.Linear(hidden, symbols, bias=False)
        for layer, gain in ((self.hidden, 2.0), (self.readout, 1.0)):
            nn.init.normal_(layer.weight, std=scale * (gain / layer.in_features) ** 0.5)
        nn.init.zeros_(self.hidden.bias)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the logits `[n c]` of the pairs (left[n], right[n])."""
        symbols = self.readout.out_features
        ones = F.one_hot(left, 2 * symbols) + F.one_hot(right + symbols, 2 * symbols)
        logits: Tensor = self.readout(self.hidden(ones.to(self.hidden.weight.dtype)).relu())
        return logits


def two_hot_mlp(
    task: PairTask, hidden: int, scale: float, *, by_logits: LogitGradient = cross_entropy_gradient
) -> Problem:
    """Return a TwoHotMLP (number of hidden units, scale of its initial weights) set on a task of pairs.

    `by_logits` is the gradient that training follows; the problem states no loss but the cross-entropy.
    """
    lookups = {"train": lookup_of(task.train, task.classes), "heldout": lookup_of(task.heldout, task.classes)}

    def gradient(weights: Weights, rows: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        lookup = lookups["train"] if rows is None else lookup_of(pairs_at(rows, task.train), task.classes)
        return two_hot_gradient(weights, lookup, by_logits)

    def forward(weights: Weights, split: str) -> tuple[Tensor, Tensor]:
        features = two_hot_features(weights, lookups[split])
        return features, features @ weights["readout.weight"].T

    return Problem(
        labels={split: lookup.labels for split, lookup in lookups.items()},
        blocks=TWO_HOT_BLOCKS,
        readout=("readout.weight", None),
        initial=lambda seed: two_hot_weights(task.classes, hidden, scale, seed),
        forward=forward,
        gradient=gradient,
    )


def two_hot_weights(symbols: int, hidden: int, scale: float, seed: int) -> dict[str, Tensor]:
    """Return the weights of a new TwoHotMLP after `torch.manual_seed(seed)`, by name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: w.detach() for name, w in TwoHotMLP(symbols, hidden, scale).named_parameters()}


def two_hot_features(weights: Weights, lookup: Lookup) -> Tensor:
    """Return the hidden layer's outputs `[n h]`: the first layer's weight, transposed, is the table of its symbols."""
    left, right = weights["hidden.weight"].T.chunk(2)
    return F.embedding_bag(lookup.rows, torch.cat([left + weights["hidden.bias"], right]), mode="sum").relu_()


def two_hot_gradient(
    weights: Weights, lookup: Lookup, by_logits: LogitGradient = cross_entropy_gradient
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits `[n c]`, and by name the gradient of the loss whose gradient by the logits is given."""
    features = two_hot_features(weights, lookup)
    logits = features @ weights["readout.weight"].T
    back = by_logits(logits, lookup.labels)
    by_table = gradient_of_table(back @ weights["readout.weight"], features, lookup)
    return logits, {
        "hidden.weight": by_table.T,
        "hidden.bias": by_table.chunk(2)[0].sum(0),
        "readout.weight": back.T @ features,
    }


def gradient_of_table(by_features: Tensor, features: Tensor, lookup: Lookup) -> Tensor:
    """Return the gradient by the table `[2p h]`: through the ReLU, then summed over the pairs that use each row."""
    by_inputs = torch.ops.aten.threshold_backward.grad_input(by_features, features, 0, grad_input=by_features)
    return F.embedding_bag(lookup.pairs, by_inputs, lookup.starts, mode="sum")
