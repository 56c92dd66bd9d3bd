"""This file knows the tangent kernel of a network, split into what its readout and what its encoder contribute.

For logits f(x) = W φ(x) (+ b) the kernel of the gradients of all parameters, Θ((x, c), (x', c')) = ∇f_c(x) · ∇f_c'(x'), is
exactly δ_cc' (φ(x)·φ(x') (+ 1)), the readout's part, plus w_cᵀ J_φ(x) J_φ(x')ᵀ w_c', the encoder's. It is that of the
weights at hand, not of infinite width. Two forms of each: between all pairs of outputs, `[n c n c]`, and traced over
classes, Σ_c Θ((x, c), (x', c)), `[n n]`, which is had without the larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from twoclocks.measures.spectrum import check_matrix

Inputs = Tensor | tuple[Tensor, ...]
Block = tuple[slice, slice]  # of examples and of classes

BUDGET = 2**30  # bytes of working memory: 1 GiB
NUMBER = 8  # bytes of a float64
SIGNALS_HELD = 4  # a signal, the one below it, and what a product of signals sets aside
# Blocks of gradients: so many are held while the others pass by; one has passed, and making the next takes two more.
HELD = 5
SHARES = HELD + 3
SAME = 1e-9  # share of the largest logit by which two ways to the same float64 logits may differ


@dataclass(frozen=True)
class TangentKernel:
    """The two parts of a tangent kernel, both `[n c n c]`, or both `[n n]` where traced over classes, in float64."""

    readout: Tensor
    encoder: Tensor

    @property
    def whole(self) -> Tensor:
        """The kernel of all parameters: the sum of its parts."""
        return self.readout + self.encoder


def readout_ntk(features: Tensor, classes: int, *, bias: bool = True) -> Tensor:
    """Return the readout's part of the tangent kernel, δ_cc' (φ(x)·φ(x') + 1), `[n c n c]`; without a bias, no 1.

    Source: arXiv 2605.27078.

    Args:
        features: `[n d]`, the exact input of the readout.
        classes: c.
        bias: whether the readout has one.

    Raises:
        ValueError: the features are not a finite matrix, or there is no class.

    >>> readout_ntk(torch.tensor([[1.0], [2.0]]), 2)[0, :, 1].tolist()  # 1 · 2 + 1 within a class, 0 between
    [[3.0, 0.0], [0.0, 3.0]]
    """
    one_class = traced_readout_ntk(features, classes, bias=bias) / classes
    eye = torch.eye(classes, dtype=torch.float64, device=features.device)
    return one_class[:, None, :, None] * eye[:, None]


def traced_readout_ntk(features: Tensor, classes: int, *, bias: bool = True) -> Tensor:
    """Return the trace over classes of the readout's part, C (φ(x)·φ(x') + 1), `[n n]`; without a bias, no 1.

    Source, arguments and what raises: as `readout_ntk`.

    >>> traced_readout_ntk(torch.tensor([[1.0], [2.0]]), 2).tolist()
    [[4.0, 6.0], [6.0, 10.0]]
    """
    check_matrix(features, "features")
    if classes < 1:
        raise ValueError(f"classes: expected at least 1, got {classes}")
    return classes * gram(features.detach().double(), bias)


def mlp_ntk(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    x: Tensor,
    *,
    activation: Callable[[Tensor], Tensor] | None = torch.relu,
) -> TangentKernel:
    """Return both parts of the tangent kernel of a multilayer perceptron or linear net, `[n c n c]`, in closed form.

    Θ = Σ_l (a_l(x)·a_l(x') (+ 1)) (B_l(x) B_l(x')ᵀ)_cc', with a_l what enters layer l and B_l = ∂f/∂z_l `[c d]` of what it
    gives; the last layer, B = I, is the readout's part. Source: Jacot et al. 2018; the split, arXiv 2605.27078.

    Args:
        weights: matrices `[d_out d_in]`, the input side first; the last is the readout.
        biases: a vector `[d_out]` for each, or None where a layer has none: it counts as a parameter.
        x: `[n d]`.
        activation: elementwise, after every layer but the last, with the slope that autograd gives; None: a linear net.

    Raises:
        ValueError: the matrices do not follow each other, a bias or x does not fit, the activation changes shapes, or a
            value is not finite.

    >>> two, three = torch.tensor([[2.0]]), torch.tensor([[3.0]])
    >>> kernel = mlp_ntk([two, three], [None, None], torch.tensor([[1.0], [-1.0]]))  # f = 3 relu(2x)
    >>> kernel.readout[:, 0, :, 0].tolist(), kernel.encoder[:, 0, :, 0].tolist()  # φφ' = 4; 3² x x' where both are on
    ([[4.0, 0.0], [0.0, 0.0]], [[9.0, 0.0], [0.0, 0.0]])
    """
    check_mlp(weights, biases, x)
    layers = [weight.detach().double() for weight in weights]
    entering, slopes = passed_through(layers, biases, x, activation)
    classes, n = len(layers[-1]), len(x)
    encoder = layers[-1].new_zeros(n, classes, n, classes)
    for layer, signal in backwards(layers, slopes, layers[-1][None]):
        flat = signal.flatten(0, 1)
        products = (flat @ flat.T).view(len(signal), classes, len(signal), classes)
        encoder.addcmul_(gram(entering[layer], biases[layer] is not None)[:, None, :, None], products)
    return TangentKernel(readout_ntk(entering[-1], classes, bias=biases[-1] is not None), encoder)


def traced_mlp_ntk(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    x: Tensor,
    *,
    activation: Callable[[Tensor], Tensor] | None = torch.relu,
    budget: int = BUDGET,
) -> TangentKernel:
    """Return both parts of the tangent kernel of a multilayer perceptron or linear net, traced over classes, `[n n]`.

    Σ_l (A_l A_lᵀ (+ 1)) ∘ (B_l B_lᵀ), with a_l(x) and all of B_l(x) as rows. For the last hidden layer B_l B_lᵀ needs only
    the lengths of the readout's columns, for a linear net only ‖B_l‖²; else classes are taken a few at a time. Source and
    what raises: as `mlp_ntk`.

    Args:
        weights: as `mlp_ntk`.
        biases: as `mlp_ntk`.
        x: as `mlp_ntk`.
        activation: as `mlp_ntk`.
        budget: bytes that the signals B_l may take; one class at a time where that is more. The `[n n]` of each layer
            come on top.

    >>> weights = [torch.tensor([[2.0]]), torch.tensor([[3.0], [4.0]])]
    >>> kernel = traced_mlp_ntk(weights, [None, None], torch.tensor([[1.0], [3.0]]), activation=None)
    >>> kernel.readout[0, 1], kernel.encoder[0, 1]  # 2 classes · 2 · 6, and (3² + 4²) · 1 · 3
    (tensor(24., dtype=torch.float64), tensor(75., dtype=torch.float64))
    """
    check_mlp(weights, biases, x)
    layers = [weight.detach().double() for weight in weights]
    entering, slopes = passed_through(layers, biases, x, activation)
    encoder = layers[-1].new_zeros(len(x), len(x))
    for layer, sensitivity in enumerate(traced_sensitivities(layers, slopes, budget)):
        encoder.addcmul_(gram(entering[layer], biases[layer] is not None), sensitivity)
    return TangentKernel(traced_readout_ntk(entering[-1], len(layers[-1]), bias=biases[-1] is not None), encoder)


def entk(network: nn.Module, inputs: Inputs, *, readout: str, budget: int = BUDGET) -> TangentKernel:
    """Return both parts of the empirical tangent kernel of any network with a linear readout, `[n c n c]`.

    Gradients of single examples by `torch.func`, in float64 whatever the type of the network, in blocks of outputs that
    fit the budget. All parameters count, also those that do not require a gradient; one used twice counts once, with
    the sum of its gradients. Buffers are constants. For multilayer perceptrons `mlp_ntk` is far faster. Source: Jacot et
    al. 2018; Novak et al. 2022 (2206.08720); the split, arXiv 2605.27078.

    Args:
        network: in evaluation mode; gives `[n c]`, the output of its readout, each row from its own example alone.
        inputs: what it is called with, `[n ...]`, or a tuple of such.
        readout: the name of its last linear layer, an nn.Linear called once.
        budget: bytes of working memory, besides network, inputs and result. What a layer of torch itself sets aside is
            not counted.

    Raises:
        ValueError: the network is in training mode, mixes examples, or does not end in that readout; the readout shares
            a parameter; the inputs are of different lengths or none; a logit is not finite; or not even the gradient of
            one output fits the budget.

    >>> network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).eval()
    >>> _ = [nn.init.constant_(weight, size) for weight, size in zip(network.parameters(), (2.0, 3.0))]
    >>> kernel = entk(network, torch.tensor([[1.0]]), readout="2")  # f = 3 relu(2x)
    >>> float(kernel.readout), float(kernel.encoder)
    (4.0, 9.0)
    """
    subject = studied(network, inputs, readout, budget)
    return TangentKernel(readout_ntk(subject.features, subject.classes, bias=subject.bias), encoder_part(subject))


def traced_entk(network: nn.Module, inputs: Inputs, *, readout: str, budget: int = BUDGET) -> TangentKernel:
    """Return both parts of the empirical tangent kernel of any network, traced over classes, `[n n]`.

    Source, arguments and what raises: as `entk`.

    >>> network = nn.Sequential(nn.Linear(2, 3, bias=False)).eval()  # nothing but a readout
    >>> kernel = traced_entk(network, torch.tensor([[1.0, 2.0]]), readout="0")
    >>> float(kernel.readout), float(kernel.encoder)  # 3 classes · (1 + 4)
    (15.0, 0.0)
    """
    subject = studied(network, inputs, readout, budget)
    part = traced_readout_ntk(subject.features, subject.classes, bias=subject.bias)
    return TangentKernel(part, traced_encoder_part(subject))


def encoder_ntk(network: nn.Module, inputs: Inputs, *, readout: str, budget: int = BUDGET) -> Tensor:
    """Return the encoder's part w_cᵀ J_φ(x) J_φ(x')ᵀ w_c' alone, `[n c n c]`: that of all parameters but the readout's.

    Source, arguments and what raises: as `entk`.

    >>> network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)).eval()
    >>> _ = nn.init.constant_(network[1].weight, 3.0)
    >>> float(encoder_ntk(network, torch.tensor([[2.0]]), readout="1"))  # 3² (2 · 2 + 1)
    45.0
    """
    return encoder_part(studied(network, inputs, readout, budget))


def traced_encoder_ntk(network: nn.Module, inputs: Inputs, *, readout: str, budget: int = BUDGET) -> Tensor:
    """Return the encoder's part alone, traced over classes, `[n n]`.

    Source, arguments and what raises: as `entk`.

    >>> network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2)).eval()
    >>> _ = nn.init.constant_(network[1].weight, 3.0)
    >>> float(traced_encoder_ntk(network, torch.tensor([[2.0]]), readout="1"))  # (3² + 3²) (2 · 2 + 1)
    90.0
    """
    return traced_encoder_part(studied(network, inputs, readout, budget))


def gram(rows: Tensor, bias: bool) -> Tensor:
    """Return the inner products of rows `[n d]`, and 1 more for a bias."""
    products = rows @ rows.T
    return products + 1 if bias else products


def passed_through(
    layers: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    x: Tensor,
    activation: Callable[[Tensor], Tensor] | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what enters each layer `[n d]`, and the slopes after each but the last: `[n d]`, in a linear net `[1 d]`."""
    entering, slopes = [x.detach().double()], []
    for weight, bias in zip(layers[:-1], biases[:-1], strict=True):
        z = entering[-1] @ weight.T
        value, slope = activated(z if bias is None else z + bias.detach().double(), activation)
        entering.append(value)
        slopes.append(slope)
    return entering, slopes


def activated(z: Tensor, activation: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor]:
    """Return the activation and its slope, which in a linear net is 1 for all examples at once."""
    if activation is None:
        return z, torch.ones_like(z[:1])
    value, pull = vjp(activation, z)[:2]
    if value.shape != z.shape:
        raise ValueError(f"activation: expected an elementwise function, got {list(value.shape)} of {list(z.shape)}")
    return value, pull(torch.ones_like(z))[0]


def backwards(layers: Sequence[Tensor], slopes: Sequence[Tensor], signal: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Give each hidden layer, last first, with ∂f/∂z of it `[m k d]`, from ∂f/∂a of the last; m = 1 in a linear net."""
    for layer in reversed(range(len(slopes))):
        signal = signal * slopes[layer][:, None]
        yield layer, signal
        signal = signal @ layers[layer]


def traced_sensitivities(layers: Sequence[Tensor], slopes: Sequence[Tensor], budget: int) -> list[Tensor]:
    """Return Σ_c (∂f_c/∂z)(x) · (∂f_c/∂z)(x') of each hidden layer, `[n n]`, in a linear net `[1 1]`."""
    if not slopes:
        return []
    lengths = slopes[-1] * torch.linalg.vector_norm(layers[-1], dim=0)
    below = [slope.new_zeros(len(slope), len(slope)) for slope in slopes[:-1]]
    widest = max(weight.shape[0] for weight in layers[:-1])
    size = max(1, budget // (SIGNALS_HELD * NUMBER * len(slopes[0]) * widest))
    for some in slices(len(layers[-1]), size) if below else []:
        for layer, signal in backwards(layers, slopes, layers[-1][None, some]):
            if layer < len(below):
                below[layer].addmm_(signal.flatten(1), signal.flatten(1).T)
    return [*below, lengths @ lengths.T]


@dataclass(frozen=True)
class Body:
    """A network as a function of its encoder's parameters, in float64; one used in several places has one name."""

    network: nn.Module
    encoder: Mapping[str, Tensor]
    names: Mapping[str, str]  # of the parameter in each place
    constants: Mapping[str, Tensor]

    def output(self, encoder: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Any:
        """Return what the network gives with other parameters in its encoder."""
        placed = {place: encoder[name] for place, name in self.names.items()}
        return functional_call(self.network, {**placed, **self.constants}, inputs, tie_weights=False)


@dataclass(frozen=True)
class Subject:
    """A network and its examples: what enters the readout, and of how many outputs the gradients fit at once."""

    body: Body
    inputs: tuple[Tensor, ...]
    features: Tensor
    classes: int
    bias: bool
    outputs_at_once: int


def studied(network: nn.Module, inputs: Inputs, readout: str, budget: int) -> Subject:
    """Return a checked network, ready to be differentiated."""
    given, layer = checked_inputs(inputs), checked_readout(network, readout)
    body = body_of(network, layer)
    kept = kept_for_gradient(body, given)
    outputs = outputs_that_fit(budget, sum(tensor.numel() for tensor in body.encoder.values()) + kept)
    features = features_of(body, layer, given, max(1, budget // (NUMBER * max(kept, 1))))
    return Subject(body, given, features, layer.out_features, layer.bias is not None, outputs)


def body_of(network: nn.Module, layer: nn.Linear) -> Body:
    """Return the network with its parameters and buffers apart, the readout's parameters among the constants."""
    placed, own = places(network, nn.Module.named_parameters), {id(parameter) for parameter in layer.parameters()}
    first = {id(tensor): place for place, tensor in reversed(placed.items())}
    names = {place: first[id(tensor)] for place, tensor in placed.items() if id(tensor) not in own}
    fixed = {place: tensor for place, tensor in placed.items() if id(tensor) in own}
    constants = {**fixed, **places(network, nn.Module.named_buffers)}
    return Body(
        network,
        {name: doubled(placed[name]) for name in dict.fromkeys(names.values())},
        names,
        {place: doubled(tensor) for place, tensor in constants.items()},
    )


def places(network: nn.Module, named: Callable[..., Iterator[tuple[str, Tensor]]]) -> dict[str, Tensor]:
    """Return every place of a network that holds a parameter, or a buffer; a module used twice has one name.

    With two names `functional_call` would fill the places of such a module twice and leave the first filling in it.
    """
    modules = network.named_modules()
    return dict(
        pair for prefix, module in modules for pair in named(module, prefix, recurse=False, remove_duplicate=False)
    )


def outputs_that_fit(budget: int, entries: int) -> int:
    """Return of how many outputs the gradients may be held at once, at so many numbers an output."""
    needed = SHARES * NUMBER * entries
    if budget < needed:
        raise ValueError(f"budget: expected at least {needed} bytes, for the gradients of one output, got {budget}")
    return budget // max(needed, 1)


def kept_for_gradient(body: Body, inputs: tuple[Tensor, ...]) -> int:
    """Return how many numbers, besides its parameters, a network keeps of one example for the gradient."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in body.encoder.items()}
    known = {tensor.untyped_storage().data_ptr() for tensor in (*leaves.values(), *body.constants.values())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            kept[place] = tensor.numel()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _output = body.output(leaves, tuple(tensor[:1] for tensor in inputs))
    return sum(kept.values())


def features_of(body: Body, layer: nn.Linear, inputs: tuple[Tensor, ...], size: int) -> Tensor:
    """Return what enters the readout, `[n d]`, a few examples at a time, and refuse a network that is more than that."""
    parts = [tuple(tensor[some] for tensor in inputs) for some in slices(len(inputs[0]), size)]
    looks = [look(body, layer, part) for part in parts]
    features, logits = (torch.cat(of_each) for of_each in zip(*looks, strict=True))
    check_matrix(logits, "logits")
    bias = 0.0 if layer.bias is None else doubled(layer.bias)
    if not alike(logits, features @ doubled(layer.weight).T + bias):
        raise ValueError("network: expected its output to be that of its readout, got something made of it")
    alone = look(body, layer, tuple(tensor[:1] for tensor in inputs))[1]
    if not alike(logits[:1], alone):
        raise ValueError("network: expected each row of logits from its own example alone, got other logits in a batch")
    return features


def look(body: Body, layer: nn.Linear, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return features `[n d]` and logits `[n c]` of one batch."""
    caught: list[Tensor] = []

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else kwargs["input"])

    hook = layer.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            logits = body.output(body.encoder, inputs)
    finally:
        hook.remove()
    check_shapes(layer, len(inputs[0]), caught, logits)
    return caught[0], logits


def check_shapes(layer: nn.Linear, examples: int, caught: Sequence[Tensor], logits: Any) -> None:
    """Refuse a readout that is not called once with a row an example, or a network that does not give such rows."""
    shapes = [list(tensor.shape) for tensor in caught]
    if shapes != [[examples, layer.in_features]]:
        raise ValueError(
            f"readout: expected one call with [n, {layer.in_features}], got calls with {shapes or 'nothing'}"
        )
    got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != [examples, layer.out_features]:
        raise ValueError(f"network: expected one tensor of logits [n, {layer.out_features}], got {got}")


def alike(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors of logits are the same but for rounding."""
    return bool((first - second).abs().max() <= SAME * first.abs().max())


def encoder_part(subject: Subject) -> Tensor:
    """Return the kernel of the encoder's parameters, `[n c n c]`."""
    n, c = len(subject.features), subject.classes
    kernel = subject.features.new_zeros(n, c, n, c)
    if not subject.body.encoder:
        return kernel
    classes = min(c, subject.outputs_at_once)
    blocks = [(a, b) for a in slices(n, subject.outputs_at_once // classes) for b in slices(c, classes)]
    for first, second, left, right in pairs_of_gradients(subject, blocks):
        products = sum_of_products([part.flatten(0, 1) for part in left], [part.flatten(0, 1) for part in right])
        product = products.view(*left[0].shape[:2], *right[0].shape[:2])
        kernel[first + second] = product
        kernel[second + first] = product.permute(2, 3, 0, 1)
    return kernel


def traced_encoder_part(subject: Subject) -> Tensor:
    """Return the kernel of the encoder's parameters, traced over classes, `[n n]`."""
    n, c = len(subject.features), subject.classes
    kernel = subject.features.new_zeros(n, n)
    if not subject.body.encoder:
        return kernel
    examples = min(n, subject.outputs_at_once)
    for classes in slices(c, min(c, subject.outputs_at_once // examples)):
        blocks = [(some, classes) for some in slices(n, examples)]
        for (first, _), (second, _), left, right in pairs_of_gradients(subject, blocks):
            product = sum_of_products([part.flatten(1) for part in left], [part.flatten(1) for part in right])
            kernel[first, second] += product
            if first != second:
                kernel[second, first] += product.T
    return kernel


def pairs_of_gradients(
    subject: Subject, blocks: Sequence[Block]
) -> Iterator[tuple[Block, Block, list[Tensor], list[Tensor]]]:
    """Give every unordered pair of blocks with the gradients of both, holding a few blocks while the others pass by."""
    for start in range(0, len(blocks), HELD):
        yield from pairs_with_some(subject, blocks[start : start + HELD], blocks[start + HELD :])


def pairs_with_some(
    subject: Subject, some: Sequence[Block], others: Sequence[Block]
) -> Iterator[tuple[Block, Block, list[Tensor], list[Tensor]]]:
    """Give the pairs among some blocks, whose gradients are held, and those of each with the others, made one by one."""
    held = [(block, gradients(subject, *block)) for block in some]
    for place, (first, left) in enumerate(held):
        yield from ((first, second, left, right) for second, right in held[place:])
    for second in others:
        right = gradients(subject, *second)
        yield from ((first, second, left, right) for first, left in held)


def gradients(subject: Subject, examples: slice, classes: slice) -> list[Tensor]:
    """Return the gradients of some logits of some examples, `[n k p]` for each parameter of the encoder."""

    def logits(encoder: Mapping[str, Tensor], *one: Tensor) -> Tensor:
        outputs: Tensor = subject.body.output(encoder, tuple(tensor[None] for tensor in one))
        return outputs[0, classes]

    of_each = vmap(jacrev(logits), in_dims=(None, *[0] * len(subject.inputs)))
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no rule for gradients of single examples
        found = of_each(dict(subject.body.encoder), *[tensor[examples] for tensor in subject.inputs])
    return [part.reshape(*part.shape[:2], -1).contiguous() for part in found.values()]


def sum_of_products(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return Σ_l A_l B_lᵀ over parameters."""
    total = left[0].new_zeros(len(left[0]), len(right[0]))
    for a, b in zip(left, right, strict=True):
        total.addmm_(a, b.T)
    return total


def slices(count: int, size: int) -> list[slice]:
    """Return 0 … count in slices of a size."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def doubled(tensor: Tensor) -> Tensor:
    """Return a tensor cut from its graph, in float64 where it holds floating-point numbers."""
    tensor = tensor.detach()
    return tensor.double() if tensor.is_floating_point() else tensor


def checked_inputs(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple, in float64, and refuse none or those of different lengths."""
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    lengths = [len(tensor) if tensor.ndim else 0 for tensor in given]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"inputs: expected tensors of one number of examples, at least 1, got {lengths}")
    return tuple(doubled(tensor) for tensor in given)


def checked_readout(network: nn.Module, readout: str) -> nn.Linear:
    """Return the layer of that name, and refuse one that is no plain linear layer with parameters of its own."""
    if any(module.training for module in network.modules()):
        raise ValueError(
            "network: expected evaluation mode, where a row of logits is a fixed function of its example; "
            "call network.eval() before"
        )
    layer = dict(network.named_modules(remove_duplicate=False)).get(readout)
    if not isinstance(layer, nn.Linear) or not {name for name, _ in layer.named_parameters()} <= {"weight", "bias"}:
        kind = "no such layer" if layer is None else f"a {type(layer).__name__}"
        raise ValueError(f"readout: expected the name of a plain nn.Linear, got {readout!r}, {kind}")
    own = {id(parameter) for parameter in layer.parameters()}
    holding = [place for place, tensor in places(network, nn.Module.named_parameters).items() if id(tensor) in own]
    if len(holding) > len(own):
        raise ValueError(
            f"readout: expected parameters of its own, got one in several places ({', '.join(holding)}): the kernel has "
            "cross terms then, and does not split"
        )
    return layer


def check_mlp(weights: Sequence[Tensor], biases: Sequence[Tensor | None], x: Tensor) -> None:
    """Refuse weights, biases and inputs that do not make a network."""
    check_matrix(x, "x")
    for place, weight in enumerate(weights):
        check_matrix(weight, f"weights[{place}]")
    for before, after in pairwise([x.T, *weights]):
        if after.shape[1] != len(before):
            shapes = [list(weight.shape) for weight in weights]
            raise ValueError(
                f"weights: expected each to take what the one before gives, from {x.shape[1]} on, got {shapes}"
            )
    got = [None if bias is None else list(bias.shape) for bias in biases]
    if not weights or len(biases) != len(weights):
        raise ValueError(
            f"expected at least one matrix and a bias or None for each, got {len(weights)} and {len(biases)}"
        )
    if any(shape not in (None, [len(weight)]) for shape, weight in zip(got, weights, strict=True)):
        raise ValueError(
            f"biases: expected one number a row of {[len(weight) for weight in weights]}, or None, got {got}"
        )
    if not all(bias is None or bool(bias.isfinite().all()) for bias in biases):
        raise ValueError("biases: expected finite numbers, got NaN or infinity; leave that moment out")
