"""This file knows what the closed form of the tangent kernel gains over the gradients of single examples.

All ways run in turn in one process, in float64 and on one thread, so that a machine busy with other things slows all; the
ratios are the evidence. Run it with `python -m benchmarks` or `python benchmarks/tangent_kernel.py`; about half a
minute on an idle core.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from twoclocks.measures.tangent import entk, mlp_ntk, traced_entk, traced_mlp_ntk

WIDTHS, EXAMPLES = (64, 128, 128, 10), 128  # a perceptron on 8 × 8 digits
ROUNDS, WARM_UP = 5, 1
PLAIN = "torch.func, all gradients at once"


def main() -> None:
    """Print the ways to the whole kernel and to its trace over classes side by side."""
    torch.set_num_threads(1)
    network, x = subject()
    check_equal(network, x)
    size = f"{'-'.join(map(str, WIDTHS))} ReLU perceptron, {EXAMPLES} examples, float64, 1 thread, median of {ROUNDS}"
    print_ways(f"tangent kernel [n c n c] of a {size}", ways_to_whole(network, x))
    print_ways(f"tangent kernel traced over classes [n n] of a {size}", ways_to_trace(network, x))


def subject() -> tuple[nn.Sequential, Tensor]:
    """Return the network and its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [layer for before, after in pairwise(WIDTHS) for layer in (nn.Linear(before, after), nn.ReLU())]
        return nn.Sequential(*layers[:-1]).double().eval(), torch.randn(EXAMPLES, WIDTHS[0], dtype=torch.float64)


def ways_to_whole(network: nn.Sequential, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to the kernel between all pairs of outputs."""
    readout = str(len(network) - 1)

    def plain() -> Tensor:
        flat = plain_gradients(network, x).flatten(0, 1)
        return (flat @ flat.T).view(EXAMPLES, WIDTHS[-1], EXAMPLES, WIDTHS[-1])

    return {
        PLAIN: plain,
        "entk, any network, in blocks": lambda: entk(network, x, readout=readout).whole,
        "mlp_ntk, closed form": lambda: mlp_ntk(*layers_of(network), x).whole,
    }


def ways_to_trace(network: nn.Sequential, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to the kernel traced over classes."""
    readout = str(len(network) - 1)

    def plain() -> Tensor:
        flat = plain_gradients(network, x).flatten(1)
        return flat @ flat.T

    return {
        PLAIN: plain,
        "traced_entk, any network, in blocks": lambda: traced_entk(network, x, readout=readout).whole,
        "traced_mlp_ntk, closed form": lambda: traced_mlp_ntk(*layers_of(network), x).whole,
    }


def plain_gradients(network: nn.Module, x: Tensor) -> Tensor:
    """Return the gradients of every logit of every example, [n c p], as `torch.func` gives them."""
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    of_each = vmap(jacrev(lambda given, one: functional_call(network, given, (one[None],))[0]), in_dims=(None, 0))
    return torch.cat([part.flatten(2) for part in of_each(parameters, x).values()], 2)


def layers_of(network: nn.Sequential) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights and biases of the linear layers."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    return [layer.weight for layer in linear], [layer.bias for layer in linear]


def check_equal(network: nn.Sequential, x: Tensor) -> None:
    """Check that all ways lead to one kernel."""
    for ways in (ways_to_whole(network, x), ways_to_trace(network, x)):
        expected = ways[PLAIN]()
        for way in ways.values():
            torch.testing.assert_close(way(), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def print_ways(title: str, ways: dict[str, Callable[[], Tensor]]) -> None:
    """Print one table: a line a way, with how many times faster than the plain one it is, and the quartiles of that."""
    taken = timed_in_turn(ways)
    print(f"\n{title}\n{'':38}{'CPU ms':>9}{'faster':>9}   quartiles")
    for name, times in taken.items():
        ratios = [plain / own for plain, own in zip(taken[PLAIN], times, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:38}{statistics.median(times):9.1f}{middle:8.1f}x   {low:.1f} to {high:.1f}")


def timed_in_turn(ways: dict[str, Callable[[], Tensor]]) -> dict[str, list[float]]:
    """Return the milliseconds of processor time that each way takes, the ways taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM_UP + ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if number >= WARM_UP:
                taken[name].append(1e3 * (time.process_time() - start))
    return taken


if __name__ == "__main__":
    main()
