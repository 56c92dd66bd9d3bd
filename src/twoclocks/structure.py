"""This file knows how far the structure of the learned map is from its end: the structural gap S, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from twoclocks.errors import InputError, nearest
from twoclocks.fits import Fit, FitOutcome
from twoclocks.series import SPLITS, held_by, labels_of, measure, natural_order
from twoclocks.tails import compare_tails
from twoclocks.trajectory import Array, Float, Series, Snapshot, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

RULE, SCATTER, COLLAPSE = "rule residual", "within/between scatter", "neural collapse"
RANK, ENERGY = "stable rank gap", "Schatten energy gap"
STRUCTURES = (RULE, SCATTER, COLLAPSE, RANK, ENERGY)
PRODUCT = "end_to_end: product of the weights"
LOGITS = "end_to_end: logits on recorded examples"
VANISHED = 1e-9  # largest singular value of a polished map that is 0: polishing to ‖∇F‖ of 1e-12 tells no less from it
FLOOR_KNOWN = 0.1  # of a fitted limit: one that is known less well leaves no gap of a tenth to be seen
PREFERRED_BY = 2.0  # AICc units by which a law with a floor must be better than every law without


@dataclass(frozen=True)
class Limit:
    """What a quantity tends to, `[r]`, how well it is known, `[r]` in the same unit, and where it is from.

    NaN where a run has none.
    """

    value: Float
    doubt: Float
    words: str


def structural_gap(
    trajectory: Trajectory,
    name: str,
    *,
    limit: float | Sequence[float] | None = None,
    split: str = "train",
    depth: int | None = None,
) -> Series:
    """Return a structural gap S, `value[r t]` without unit: 0 or more, and 0 where the structure is there `[def]`.

    "rule residual": `rule_residual` of the end-to-end logits of all recorded examples. "within/between scatter":
    `within_between_scatter` of the features of `split`. "neural collapse": `nc1` of the training features. "stable rank
    gap": |stable rank / limit − 1|. "Schatten energy gap": |Σσ^{2/L} − limit| / limit. The last two are of the product of
    the weights where these are a chain of L matrices without bias (for the stable rank, if it was polished), else of the
    end-to-end logits, given their `depth` L. The series' name says which map it is of, and where its limit is from.

    A limit is, in this order: given, one number or one a run; that of the polished run (`settings["polish"]`); the floor
    of a law fitted to the quantity, if it converged, beats every law without a floor, and has a floor known to a tenth.
    What is not known of a fitted floor is added to S, which so is an upper bound. The last sample is never taken for a
    limit. Moments that lack the tensors are absent. A run whose tensors were not finite at a moment, or that has no limit,
    has NaN there.

    Raises:
        InputError: the name is unknown, no snapshot holds what it needs, a limit is missing, unusable or not needed, or
            the depth is.
    """
    if name not in STRUCTURES:
        raise InputError(f"unknown structural gap '{name}'.{nearest(name, list(STRUCTURES))}")
    if name in (RANK, ENERGY):
        return distance_to_limit(trajectory, name, limit, depth)
    if limit is not None or depth is not None or (split != "train" and name != SCATTER):
        raise InputError(f"the {name} goes to 0: it takes neither limit= nor depth=, and only the {SCATTER} a split=")
    if name == RULE:
        return rule_series(trajectory)
    from twoclocks.measures.collapse import nc1, within_between_scatter  # they import torch, which a log does not need

    if name == COLLAPSE:
        return renamed(measure(trajectory, nc1), name, "features: train")
    return renamed(measure(trajectory, within_between_scatter, split=split), name, f"features: {split}")


def default_structure(trajectory: Trajectory) -> str | None:
    """Return the structural gap to look at first, by what a run holds; None where it holds nothing to measure one of.

    "Schatten energy gap" for a polished chain of matrices without bias, else "rule residual" where there are logits whose
    labels repeat.
    """
    if is_polished_chain(trajectory):
        return ENERGY
    repeats = bool(known_splits(trajectory)) and len(np.unique(all_labels(trajectory))) < len(all_labels(trajectory))
    return RULE if repeats and labelled_moments(trajectory) else None


def renamed(series: Series, name: str, *words: str) -> Series:
    """Return a series under the name of a structural gap: what it is of, and what else must be said."""
    return Series(f"structural gap: {name} ({'; '.join(words)})", "", series.step, series.value)


def known_splits(trajectory: Trajectory) -> list[str]:
    """Return the splits of which both labels and features were recorded."""
    held = {name for snapshot in trajectory.snapshots for name in snapshot.tensors}
    return [split for split in SPLITS if split in trajectory.batches and f"features/{split}" in held]


def all_labels(trajectory: Trajectory) -> Array:
    """Return the labels of all recorded examples, training then held-out."""
    return np.concatenate([trajectory.batches[split].labels for split in known_splits(trajectory)])


def labelled_moments(trajectory: Trajectory) -> list[Snapshot]:
    """Return the snapshots that hold the readout and the features of every split with labels."""
    required = {"readout/weight", *(f"features/{split}" for split in known_splits(trajectory) or ["train"])}
    return [snapshot for snapshot in trajectory.snapshots if required <= held_by(snapshot)]


def rule_series(trajectory: Trajectory) -> Series:
    """Return the rule residual of the logits of all recorded examples with a label."""
    import torch  # only where tensors are measured: the log path reads series without it

    moments, splits = labelled_moments(trajectory), known_splits(trajectory)
    if not moments:
        raise InputError(
            f"no snapshot of {trajectory.source.path} holds features and readout/weight, which the {RULE} needs; record them"
        )
    labels = torch.cat([labels_of(trajectory, split) for split in splits or ["train"]])
    _, place = torch.unique(labels, return_inverse=True)
    if int(place.bincount().max()) < 2:
        raise InputError(f"the {RULE} needs examples with the same label, and each of these has its own; record more")
    values = [residuals_at(snapshot, splits, place) for snapshot in moments]
    series = Series(RULE, "", np.array([snapshot.step for snapshot in moments], np.int64), np.array(values).T)
    seen = LOGITS if len(splits) > 1 else f"end_to_end: logits on recorded {splits[0]} examples"
    return renamed(series, RULE, seen)


def residuals_at(snapshot: Snapshot, splits: Sequence[str], place: Tensor) -> list[float]:
    """Return the rule residual of every run at one moment; `place` numbers the labels of all examples."""
    import torch  # as above

    weights = as_tensor(snapshot.tensors["readout/weight"]).double()
    parts = [as_tensor(snapshot.tensors[f"features/{split}"]) for split in splits]
    features = (torch.cat([part[run] for part in parts]) for run in range(len(weights)))
    return [residual_of(phi, weight, place) for phi, weight in zip(features, weights, strict=True)]


def residual_of(features: Tensor, weight: Tensor, place: Tensor) -> float:
    """Return `rule_residual` of the logits φWᵀ; NaN where they are not finite.

    The same number as that measure's, but the bias, which changes nothing, is left out and the classes are centred in W:
    a third of the time. Features kept in half precision are multiplied in float32, in which the products of their
    11 significant bits are sums to 1e-7, as of logits a thousand times finer than their own rounding; scatters are in
    float64.
    """
    import torch  # as above

    from twoclocks.measures.collapse import class_means  # it imports torch

    exact = torch.float32 if features.dtype == torch.float16 else torch.float64
    z = (features.to(exact) @ (weight - weight.mean(0)).to(exact).T).double()
    means, counts = class_means(z, place), place.bincount().double()[:, None]
    z -= means.index_select(0, place)
    within = float(torch.dot(z.view(-1), z.view(-1)))
    between = float((counts * (means - (counts * means).sum(0) / counts.sum()).square()).sum())
    if not np.isfinite(within + between):
        return float("nan")
    return within / (within + between) if within > 0 else 0.0


def as_tensor(array: Array) -> Tensor:
    """Return an array as a tensor of its own type."""
    import torch  # as above

    return torch.from_numpy(array if array.flags.writeable else array.copy())


def distance_to_limit(
    trajectory: Trajectory, name: str, given: float | Sequence[float] | None, depth: int | None
) -> Series:
    """Return how far a quantity of the end-to-end map is from its limit, as a share of the limit."""
    if depth is not None and (name == RANK or depth < 1):
        raise InputError(f"depth= is the number of matrices of the {ENERGY}, at least 1; got {depth} for the {name}")
    quantity, of = limited_quantity(trajectory, name, depth)
    limit = limit_of(trajectory, name, quantity, of, given)
    value = (np.abs(quantity.value - limit.value[:, None]) + limit.doubt[:, None]) / limit.value[:, None]
    return renamed(Series(name, "", quantity.step, value), name, of, limit.words)


def limited_quantity(trajectory: Trajectory, name: str, depth: int | None) -> tuple[Series, str]:
    """Return the stable rank or the Schatten energy of the end-to-end map, and which map that is."""
    from twoclocks.measures.spectrum import schatten_energy, stable_rank  # they import torch

    if depth is not None:
        return measure(trajectory, partial(schatten_energy, p=2 / depth)), f"{LOGITS}, L = {depth}"
    if is_polished_chain(trajectory) or (name == ENERGY and chain(trajectory)):
        quantity = stable_rank if name == RANK else partial(schatten_energy, p=2 / len(chain(trajectory)))
        return of_product(trajectory, quantity), PRODUCT
    if name == RANK:
        return measure(trajectory, stable_rank), LOGITS
    raise InputError(
        f"the {ENERGY} is of a chain of weight matrices without bias, which {trajectory.source.path} does not hold; "
        "give depth=, the number of linear maps, to have it of the logits on recorded examples"
    )


def of_product(trajectory: Trajectory, quantity: Callable[[Tensor], Tensor]) -> Series:
    """Return a quantity of the product of all weights, the input side first, multiplied in float64."""

    def of_weights(weights: Sequence[Tensor]) -> Tensor:
        return quantity(reduce(lambda below, above: above @ below, weights))

    return measure(trajectory, of_weights)


def chain(trajectory: Trajectory) -> tuple[str, ...]:
    """Return the names of all weights, the input side first, if they are matrices of which each takes what the last gives.

    Empty where no snapshot keeps weights, where there is a bias or a matrix that does not fit, and where the last matrix
    is not the readout.
    """
    for snapshot in trajectory.snapshots:
        names = sorted((name for name in snapshot.tensors if name.startswith("weights/")), key=natural_order)
        if not names or "readout/weight" not in held_by(snapshot):
            continue
        shapes = [snapshot.tensors[name].shape for name in names]
        if "readout/bias" in snapshot.tensors or any(len(shape) != 3 for shape in shapes):
            return ()
        fits = all(above[2] == below[1] for below, above in pairwise(shapes))
        is_readout = np.array_equal(snapshot.tensors[names[-1]], snapshot.tensors["readout/weight"], equal_nan=True)
        return tuple(names) if fits and is_readout else ()
    return ()


def is_polished_chain(trajectory: Trajectory) -> bool:
    """Return whether the weights are a chain of matrices and the end-to-end map they tend to is known."""
    return bool(polished_spectra(trajectory)) and bool(chain(trajectory))


def polished_spectra(trajectory: Trajectory) -> list[Float | None]:
    """Return the singular values of the polished end-to-end map, one entry a run; empty where there are none."""
    record: Any = trajectory.settings.get("polish") or {}
    spectra = [
        None if values is None else np.array(values, np.float64) for values in record.get("singular_values") or []
    ]
    return spectra if any(spectrum is not None for spectrum in spectra) else []


def limit_of(
    trajectory: Trajectory, name: str, quantity: Series, of: str, given: float | Sequence[float] | None
) -> Limit:
    """Return the limit of a quantity: given, polished or fitted; never its last sample."""
    if given is not None:
        return given_limit(given, quantity.runs)
    spectra = polished_spectra(trajectory) if of == PRODUCT else []
    if spectra:
        values = [polished_value(name, spectrum, len(chain(trajectory))) for spectrum in spectra]
        return checked(Limit(np.array(values), np.zeros(quantity.runs), "limit: of the polished run"), name, trajectory)
    return checked(fitted_limit(quantity), name, trajectory)


def given_limit(given: float | Sequence[float], runs: int) -> Limit:
    """Return a limit given as one number, or as one number a run."""
    value = np.asarray(given, np.float64)
    if value.shape not in ((), (1,), (runs,)) or not bool((np.isfinite(value) & (value > 0)).all()):
        raise InputError(f"limit: expected a positive number, or one for each of {runs} runs, got {given}")
    return Limit(np.broadcast_to(value, (runs,)).copy(), np.zeros(runs), "limit: given")


def checked(limit: Limit, name: str, trajectory: Trajectory) -> Limit:
    """Return a limit with NaN in place of one that is not positive; refuse it where no run has one."""
    usable = np.isfinite(limit.value) & (limit.value > 0)
    if not usable.any():
        raise InputError(
            f"the {name} is the distance to a limit, and none is known for {trajectory.source.path}: it has no polished map "
            "with a positive one, and no law with a floor fits; give limit=, train with coupled decay and polish=true, or "
            "train longer (the last sample is not taken for the limit)"
        )
    return Limit(np.where(usable, limit.value, np.nan), limit.doubt, limit.words)


def polished_value(name: str, spectrum: Float | None, depth: int) -> float:
    """Return the stable rank or the Schatten energy of a polished map from its singular values; NaN where there is none."""
    if spectrum is None or not np.isfinite(spectrum).all() or spectrum.max() <= VANISHED:
        return float("nan")
    import torch  # as above

    from twoclocks.measures.spectrum import schatten_energy, stable_rank  # they import torch

    matrix = torch.diag(torch.from_numpy(spectrum))
    return float(stable_rank(matrix) if name == RANK else schatten_energy(matrix, 2 / depth))


def fitted_limit(quantity: Series) -> Limit:
    """Return the floors of the laws that fit a quantity, and half the width of their precision, run by run."""
    found = [fitted_floor(quantity.step, row) for row in quantity.value]
    value = np.array([np.nan if fit is None else fit.parameters["floor"] for fit in found])
    doubt = np.array([0.0 if fit is None else floor_doubt(fit) for fit in found])
    laws = sorted({fit.law for fit in found if fit is not None})
    known = max((d / v for d, v in zip(doubt, value, strict=True) if np.isfinite(v)), default=0.0)
    return Limit(value, doubt, f"limit: fitted ({', '.join(laws)}), known to {known:.1g} of itself")


def fitted_floor(step: Array, value: Float) -> Fit | None:
    """Return the fit of a law with a floor, if it converged, is the best one and knows its floor well enough."""
    seen = np.isfinite(value) & (value > 0)
    fits = compare_tails(step[seen], value[seen]).fits
    floors = [fit for name, fit in fits.items() if name.endswith("+ floor") and fit.outcome is FitOutcome.CONVERGED]
    best = min(floors, key=score, default=None)
    others = min(scores(fit for name, fit in fits.items() if not name.endswith("+ floor")), default=np.inf)
    if best is None or best.aicc is None or best.aicc > others - PREFERRED_BY:
        return None
    return best if floor_doubt(best) <= FLOOR_KNOWN * best.parameters["floor"] else None


def scores(fits: Iterable[Fit]) -> list[float]:
    """Return the scores of some fits."""
    return [score(fit) for fit in fits]


def score(fit: Fit) -> float:
    """Return the AICc of a fit, infinite where it has none."""
    return np.inf if fit.aicc is None else fit.aicc


def floor_doubt(fit: Fit) -> float:
    """Return how far the floor of a fit may be off within its precision."""
    low, high = fit.precision["floor"]
    return max(fit.parameters["floor"] - low, high - fit.parameters["floor"])
