"""This file knows the one-layer transformer on pairs of symbols: as a plain module, and as the same function with less work.

The input is [a, b, =] and only the last position is read. There the query is a constant, so that each head gives each
symbol at each place one score, and what a symbol adds is a row of a table of values. The products of neighbouring
matrices (into the hidden layer and into the logits) are taken once for all pairs. The function and its gradient are
exactly those of the plain module; only the order of the sums differs, and probabilities below 1e-30 count as none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twoclocks.errors import InputError
from twoclocks.training.models import pairs_at
from twoclocks.training.optimizers import Rule
from twoclocks.training.recipe import Problem, Weights
from twoclocks.training.tasks import Pairs, PairTask, modular_addition_task

PIECE = 768  # pairs taken at once: so many that the products are fast, so few that they stay in a core's cache
NEGLIGIBLE = 1e-30  # probability
BLOCKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "embedding": ("embedding.weight", "positions"),
        "attention": ("query.weight", "key.weight", "value.weight", "output.weight"),
        "mlp": ("hidden.weight", "project.weight"),
        "bias": ("hidden.bias", "project.bias"),
        "readout": ("readout.weight",),
    }
)


def check_heads(recipe: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings of a recipe whose heads do not divide the width."""
    width, heads = settings["width"], settings["heads"]
    if width % heads:
        raise InputError(f"recipe {recipe}: heads must divide the width, got {heads} heads and width {width}")


class PairTransformer(nn.Module):
    """Two symbols and "=" through one layer of attention and one of hidden ReLU units, read at the last position.

    Learned positions, causal attention, no layer norm, no biases but the hidden layer's two. Initial weights are normal
    with variance 1/width, the readout's 1/(symbols + 1); biases are 0 (the public code of arXiv 2301.05217, whose readout
    has one class more, "=" itself, which is never right). This is the definition; what trains is `structured_gradient`,
    tested equal to it.
    """

    def __init__(self, symbols: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()  # nn.Module demands it
        self.symbols, self.heads = symbols, heads
        self.embedding = nn.Embedding(symbols + 1, width)
        self.positions = nn.Parameter(torch.empty(3, width))
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.hidden, self.project = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.readout = nn.Linear(width, symbols, bias=False)
        for name, weight in self.named_parameters():
            variance = 1 / (symbols + 1) if name.startswith("readout") else 1 / width
            nn.init.normal_(weight, std=0.0 if name.endswith("bias") else variance**0.5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the logits `[n c]` of the pairs (left[n], right[n])."""
        equals = torch.full_like(left, self.symbols)
        stream = self.embedding(torch.stack([left, right, equals], dim=1)) + self.positions
        stream = stream + self.output(self.mixed(stream))
        stream = stream + self.project(self.hidden(stream).relu())
        logits: Tensor = self.readout(stream[:, -1])
        return logits

    def mixed(self, stream: Tensor) -> Tensor:
        """Return what attention gathers at each position of `[n 3 d]`, all heads side by side."""
        query, key, value = (
            layer(stream).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        later = torch.ones(3, 3, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        together: Tensor = (weights @ value).transpose(1, 2).flatten(2)
        return together


@dataclass(frozen=True)
class Places:
    """Where n pairs find their rows in a table over [left symbols, right symbols, "="] `[2p+1 …]`, and back.

    `rows[n 2]` are the table rows of each pair's symbols; `pairs[2n]` lists the pairs that use row 0 (those of right
    symbols counted on from n), then those that use row 1, and so on; `starts[2p]` says where each row's list begins.
    """

    rows: Tensor
    pairs: Tensor
    starts: Tensor
    labels: Tensor


def places_of(pairs: Pairs, symbols: int) -> Places:
    """Return the places of some pairs of `symbols` symbols.

    >>> one = torch.tensor([1])
    >>> places_of(Pairs(one, one, one), symbols=2).rows
    tensor([[1, 3]])
    """
    rows = torch.stack([pairs.left, pairs.right + symbols], dim=1)
    count = torch.bincount(rows.flatten(), minlength=2 * symbols)
    return Places(rows, rows.T.flatten().argsort(stable=True), count.cumsum(0) - count, pairs.labels)


def pair_transformer(
    task: PairTask,
    width: int,
    heads: int,
    hidden: int,
    *,
    dtype: torch.dtype = torch.float32,
    rules: Mapping[str, Rule] | None = None,
    warmup: int = 0,
) -> Problem:
    """Return a PairTransformer set on a task of pairs, with every learning rate growing over the first `warmup` updates."""
    places = {split: places_of(getattr(task, split), task.classes) for split in ("train", "heldout")}

    def gradient(weights: Weights, rows: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = places["train"] if rows is None else places_of(pairs_at(rows, task.train), task.classes)
        return structured_gradient(weights, chosen, heads)

    def forward(weights: Weights, split: str) -> tuple[Tensor, Tensor]:
        features = structured_features(weights, places[split], heads)
        return features, features @ weights["readout.weight"].T

    return Problem(
        labels={split: of_split.labels for split, of_split in places.items()},
        blocks=BLOCKS,
        readout=("readout.weight", None),
        initial=lambda seed: initial_weights(task.classes, width, heads, hidden, seed, dtype),
        forward=forward,
        gradient=gradient,
        rules=rules,
        schedule=(lambda update: min(update / warmup, 1.0)) if warmup else None,
    )


def addition_transformer(settings: Mapping[str, Any], rules: Mapping[str, Rule] | None = None) -> Problem:
    """Return a PairTransformer set on addition mod p, as the settings of a recipe say."""
    task = modular_addition_task(
        settings["p"],
        settings["train_fraction"],
        shuffle_labels=False,
        generator=torch.Generator().manual_seed(settings["data_seed"]),
    )
    return pair_transformer(
        task,
        settings["width"],
        settings["heads"],
        settings["hidden"],
        dtype=getattr(torch, settings["dtype"]),
        rules=rules,
        warmup=settings["warmup"],
    )


def initial_weights(
    symbols: int, width: int, heads: int, hidden: int, seed: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Return the weights of a new PairTransformer after `torch.manual_seed(seed)`, by name; drawn in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PairTransformer(symbols, width, heads, hidden)
        return {name: w.detach().to(dtype) for name, w in model.named_parameters()}


@dataclass(frozen=True)
class Tables:
    """What is computed once for all pairs; rows are the p symbols on the left, those on the right, and "=".

    `stream[2p+1 d]` enters attention, where `query[d]` and `keys[2p+1 d]` meet within each head. As a pair's weights in a
    head sum to one, `values[2p d]` and `scores[2p heads]` are taken relative to those of "=", whose value `of_equals[d]` is
    a constant. `spread[heads d]` says which features are a head's. What attention gathers goes through `upward[h+c d]` to
    the hidden units and, past them, to the logits, both from `constant[h+c]`; hidden units go through `onward[c h]`.
    """

    stream: Tensor
    query: Tensor
    keys: Tensor
    values: Tensor
    scores: Tensor
    of_equals: Tensor
    spread: Tensor
    upward: Tensor
    constant: Tensor
    onward: Tensor


def tables_of(weights: Weights, heads: int) -> Tables:
    """Return the tables of some weights."""
    stream = stream_of(weights)
    size = stream.shape[1] // heads
    spread = torch.eye(heads, dtype=stream.dtype).repeat_interleave(size, dim=1)
    query = weights["query.weight"] @ stream[-1] / size**0.5
    keys, values = stream @ weights["key.weight"].T, stream @ weights["value.weight"].T
    scores = (keys * query) @ spread.T
    above, readout = entrances(weights), weights["readout.weight"]
    biases = torch.cat([weights["hidden.bias"], readout @ weights["project.bias"]])
    return Tables(
        stream=stream,
        query=query,
        keys=keys,
        values=values[:-1] - values[-1],
        scores=scores[:-1] - scores[-1],
        of_equals=values[-1],
        spread=spread,
        upward=above @ weights["output.weight"],
        constant=above @ (stream[-1] + weights["output.weight"] @ values[-1]) + biases,
        onward=(weights["project.weight"].T @ readout.T).T,
    )


def stream_of(weights: Weights) -> Tensor:
    """Return what enters attention `[2p+1 d]`: the symbols on the left, those on the right, and "="."""
    embedding, positions = weights["embedding.weight"], weights["positions"]
    symbols, equals = embedding[:-1], embedding[-1:]
    return torch.cat([symbols + positions[0], symbols + positions[1], equals + positions[2]])


def entrances(weights: Weights) -> Tensor:
    """Return the maps of the stream after attention, `[h+c d]`: into the hidden units, and past them into the logits."""
    return torch.cat([weights["hidden.weight"], weights["readout.weight"]])


@dataclass(frozen=True)
class Gathered:
    """What attention gathers for n pairs: the `sum[n d]` of both symbols' `values[n d]`, each times its `spread[2 n d]`.

    `spread` holds the attention `weights[2 n heads]`, one for each feature.
    """

    weights: Tensor
    spread: Tensor
    values: tuple[Tensor, Tensor]
    sum: Tensor


def gathered(tables: Tables, rows: Tensor) -> Gathered:
    """Return what attention gathers for the pairs with these rows `[n 2]` of the tables, relative to the value of "="."""
    left, right = tables.scores[rows[:, 0]], tables.scores[rows[:, 1]]
    weights = torch.stack([left, right, torch.zeros_like(left)]).softmax(0)[:2]
    spread = weights @ tables.spread
    values = (tables.values[rows[:, 0]], tables.values[rows[:, 1]])
    return Gathered(weights, spread, values, (spread[0] * values[0]).addcmul_(spread[1], values[1]))


def structured_features(weights: Weights, places: Places, heads: int) -> Tensor:
    """Return the stream at the last position after the hidden layer, `[n d]`, which enters the readout."""
    tables = tables_of(weights, heads)
    attended = gathered(tables, places.rows).sum + tables.of_equals
    stream = torch.addmm(tables.stream[-1], attended, weights["output.weight"].T)
    hidden = torch.addmm(weights["hidden.bias"], stream, weights["hidden.weight"].T).relu_()
    return torch.addmm(stream + weights["project.bias"], hidden, weights["project.weight"].T)


@dataclass(frozen=True)
class Sums:
    """What the backward pass sums over the pairs, piece by piece, in the shapes of the tables; and the logits `[n c]`.

    `values[2 n d]` and `scores[2 n heads]` are the gradients by each pair's own copies of its two rows.
    """

    logits: Tensor
    upward: Tensor
    constant: Tensor
    onward: Tensor
    values: Tensor
    scores: Tensor


def no_sums(tables: Tables, pairs: int) -> Sums:
    """Return the sums before the first piece."""
    (classes, _), (heads, width) = tables.onward.shape, tables.spread.shape
    empty = tables.upward.new_empty
    return Sums(
        logits=empty(pairs, classes),
        upward=torch.zeros_like(tables.upward),
        constant=torch.zeros_like(tables.constant),
        onward=torch.zeros_like(tables.onward),
        values=empty(2, pairs, width),
        scores=empty(2, pairs, heads),
    )


def structured_gradient(weights: Weights, places: Places, heads: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits `[n c]`, and by name the gradient of the mean cross-entropy over the n pairs."""
    tables = tables_of(weights, heads)
    sums = no_sums(tables, len(places.labels))
    for start in range(0, len(places.labels), PIECE):
        add_piece(sums, tables, places, slice(start, start + PIECE))
    return sums.logits, gradient_above(weights, tables, sums) | gradient_below(weights, tables, sums, places)


def add_piece(sums: Sums, tables: Tables, places: Places, piece: slice) -> None:
    """Write the logits of some of the pairs and add their backward pass; what is no longer needed is written over."""
    units, found = tables.onward.shape[1], gathered(tables, places.rows[piece])
    both = (found.sum @ tables.upward.T).add_(tables.constant)
    hidden, past = both[:, :units].relu_(), both[:, units:]
    logits = torch.addmm(past, hidden, tables.onward.T, out=sums.logits[piece])
    past.copy_(by_logits(logits, places.labels[piece]).mul_(1 / len(places.labels)))
    sums.onward.addmm_(past.T, hidden)
    torch.ops.aten.threshold_backward.grad_input(past @ tables.onward, hidden, 0, grad_input=hidden)
    sums.upward.addmm_(both.T, found.sum)
    sums.constant.addmv_(both.T, both.new_ones(len(both)))
    put_attention(sums, tables, found, both @ tables.upward, piece)


def by_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the summed cross-entropy by the logits, softmax − one-hot, `[n c]`.

    Probabilities below 1e-30 are taken as 0: products of such numbers have no normal form in float32, and a matrix product
    over them takes four times as long.

    >>> by_logits(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([[ 0.5000, -0.5000]])
    """
    gradient = torch.threshold_(torch.softmax(logits, dim=1), NEGLIGIBLE, 0.0)
    gradient[torch.arange(len(labels)), labels] -= 1
    return gradient


def put_attention(sums: Sums, tables: Tables, found: Gathered, by_sum: Tensor, piece: slice) -> None:
    """Write the gradients by each pair's rows of values and scores, given those by what was gathered `[n d]`."""
    by_weights = torch.stack([(value * by_sum) @ tables.spread.T for value in found.values])
    by_scores = found.weights * (by_weights - (found.weights * by_weights).sum(0))
    sums.scores[:, piece] = by_scores
    torch.mul(found.spread, by_sum, out=sums.values[:, piece])


def gradient_above(weights: Weights, tables: Tables, sums: Sums) -> dict[str, Tensor]:
    """Return the gradient by the weights between attention and the logits."""
    above, readout, output = entrances(weights), weights["readout.weight"], weights["output.weight"]
    constant_stream = tables.stream[-1] + output @ tables.of_equals
    by_above = sums.upward @ output.T + torch.outer(sums.constant, constant_stream)
    by_hidden, past = by_above.tensor_split([len(weights["hidden.weight"])])
    by_bias, by_past = sums.constant.tensor_split([len(weights["hidden.weight"])])
    through_bias = torch.outer(by_past, weights["project.bias"])
    return {
        "output.weight": above.T @ sums.upward + torch.outer(above.T @ sums.constant, tables.of_equals),
        "hidden.weight": by_hidden,
        "hidden.bias": by_bias,
        "project.weight": readout.T @ sums.onward,
        "project.bias": readout.T @ by_past,
        "readout.weight": past + sums.onward @ weights["project.weight"].T + through_bias,
    }


def gradient_below(weights: Weights, tables: Tables, sums: Sums, places: Places) -> dict[str, Tensor]:
    """Return the gradient by the weights up to attention."""
    stream, size = tables.stream, tables.stream.shape[1] // len(tables.spread)
    by_values = with_equals(rows_summed(sums.values, places), sums.constant @ tables.upward)
    by_scores = with_equals(rows_summed(sums.scores, places), sums.scores.new_zeros(())) @ tables.spread
    by_keys, by_query = by_scores * tables.query, (by_scores * tables.keys).sum(0) / size**0.5
    by_stream = by_values @ weights["value.weight"] + by_keys @ weights["key.weight"]
    by_stream[-1] += weights["query.weight"].T @ by_query + entrances(weights).T @ sums.constant
    left, right, equals = by_stream.tensor_split([len(stream) // 2, len(stream) - 1])
    return {
        "embedding.weight": torch.cat([left + right, equals]),
        "positions": torch.stack([left.sum(0), right.sum(0), equals[0]]),
        "query.weight": torch.outer(by_query, stream[-1]),
        "key.weight": by_keys.T @ stream,
        "value.weight": by_values.T @ stream,
    }


def rows_summed(by_pair: Tensor, places: Places) -> Tensor:
    """Return what each row of the tables gets from all pairs that use it, `[2p …]`."""
    return F.embedding_bag(places.pairs, by_pair.flatten(0, 1), places.starts, mode="sum")


def with_equals(by_rows: Tensor, by_total: Tensor) -> Tensor:
    """Return gradients by rows relative to that of "=" with its own row below: what is not theirs of the total's."""
    return torch.cat([by_rows, (by_total - by_rows.sum(0))[None]])
