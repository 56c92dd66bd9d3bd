"""This file knows when: the first step from which a series stays past a threshold, or that it has not come yet.

One series and one threshold give a `HittingTime`, a grid of thresholds a `ClockCurve`. A time that is not known is known
to lie between two others, and what is computed from it too (`Between`): a censored time is never a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from twoclocks import thresholds as at
from twoclocks.courses import first_run
from twoclocks.errors import InputError
from twoclocks.optimiser_of import decay_and_reason, nested
from twoclocks.optimiser_of import is_decay_coupled as is_decay_coupled  # asked of the clocks too
from twoclocks.optimiser_of import weight_decay_of as weight_decay_of
from twoclocks.stats import MedianTime, Test, kaplan_meier_median, log_rank, paired_sign_test
from twoclocks.structure import default_structure, structural_gap
from twoclocks.trajectory import Array, Float, Series, Trajectory

SUSTAINED = 5
SUSTAINED_WHERE_SHORT = 3  # evaluations in a row, in a series of fewer than `SHORT`
SHORT = 200
GENERALISED_AT = (0.5, *at.GENERALISED_AT)
LOSSES = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)  # nats
GAPS = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)  # the same thresholds, so that the two clocks can be compared at equal ones
FEWEST_RUNS = 5  # below, the most extreme runs miss their median in more than one case of eight
UNITS = ("step", "flow_time", "decay_time")
Step = int | float


@dataclass(frozen=True)
class Between:
    """A number known to lie from `low` to `high`; None where nothing bounds it on that side."""

    low: float | None
    high: float | None

    @property
    def value(self) -> float | None:
        """Return the number, where both bounds agree on it."""
        return self.low if self.low == self.high else None


@dataclass(frozen=True)
class HittingTime:
    """When a criterion was first met for `sustained` evaluations in a row, one entry a run; None where it was not (censored).

    `last` is the last evaluated step. `resolutions` are the gaps to the evaluation before. `losts` are the steps from
    which, having been met, the criterion then failed `sustained` times in a row. `lefts` says which were met at the first
    evaluation already: their times are upper bounds. `afters` are the last evaluations at which the criterion was seen not
    to hold, before it was met for good: every time, and a censored one too, is later than that; None where there is none.
    """

    values: tuple[Step | None, ...]
    resolutions: tuple[Step | None, ...]
    losts: tuple[Step | None, ...]
    sustained: int
    last: Step
    lefts: tuple[bool, ...]
    afters: tuple[Step | None, ...]

    @property
    def runs(self) -> int:
        """Return the number of runs r."""
        return len(self.values)

    def known(self, run: int) -> Between:
        """Return what is known of the time of one run: the time itself, or its bounds where it is censored.

        Training begins at step 0, so a time met at the first evaluation lies from 0 to that.
        """
        value, after = self.values[run], self.afters[run]
        if value is None:
            return Between(after, None)
        return Between(min(0.0, value), value) if self.lefts[run] else Between(value, value)

    @property
    def value(self) -> Step | None:
        """Return the median time over runs (of an even number, the earlier middle one); None where it is censored."""
        return self.values[self.middle]

    @property
    def censored(self) -> bool:
        """Return whether the median time lies beyond the last evaluation."""
        return self.value is None

    @property
    def resolution(self) -> Step | None:
        """Return the gap between the median time and the evaluation before it."""
        return self.resolutions[self.middle]

    @property
    def lost_at(self) -> Step | None:
        """Return the step at which the run of the median time lost the property for the first time, if it did."""
        return self.losts[self.middle]

    @property
    def middle(self) -> int:
        """Return the run whose time is the median, censored times counting as later than all others."""
        order = sorted(range(len(self.values)), key=lambda r: np.inf if (v := self.values[r]) is None else v)
        return order[(len(order) - 1) // 2]


def hitting_time(
    series: Series, *, below: float | None = None, above: float | None = None, sustained: int = SUSTAINED
) -> HittingTime:
    """Return when a series is first at or past a threshold for `sustained` evaluations in a row, run by run.

    Args:
        series: `value[r, t]`. below, above: the threshold; give one. NaN never meets it. sustained: evaluations in a row.

    Raises:
        ValueError: not exactly one threshold is given, or `sustained` is below 1, or the series has no evaluation.

    >>> loss = Series("train_loss", "nats", np.arange(0, 60, 10), np.array([[3.0, 0.1, 2.0, 0.1, 0.1, 0.1]]))
    >>> time = hitting_time(loss, below=0.5, sustained=2)
    >>> time.value, time.resolution, time.censored
    (30, 10, False)
    >>> hitting_time(loss, below=0.01).value is None
    True
    """
    if above is not None and below is None:
        met = series.value >= above
    elif below is not None and above is None:
        met = series.value <= below
    else:
        raise ValueError("hitting_time: give either below= or above=, and not both")
    if sustained < 1:
        raise ValueError(f"hitting_time: sustained must be at least 1 evaluation, got {sustained}")
    if not len(series.step):
        raise ValueError(f"hitting_time: the series {series.name} has no evaluation")
    found = [first_run(row, sustained) for row in met]
    return HittingTime(
        values=tuple(None if i is None else step_at(series.step, i) for i in found),
        resolutions=tuple(None if not i else step_at(series.step, i) - step_at(series.step, i - 1) for i in found),
        losts=tuple(
            None if i is None else lost_after(series.step, row, i, sustained) for row, i in zip(met, found, strict=True)
        ),
        sustained=sustained,
        last=step_at(series.step, len(series.step) - 1),
        lefts=tuple(i == 0 for i in found),
        afters=tuple(
            last_unmet(series.step, row & np.isfinite(value), i)
            for row, value, i in zip(~met, series.value, found, strict=True)
        ),
    )


def reported_time(series: Series, *, above: float) -> HittingTime:
    """Return the sustained hitting time or, where the whole series has no such run of evaluations, the first crossing.

    The first crossing is told apart by `sustained == 1`; it is used only if no run of the ensemble has a sustained time.
    """
    time = hitting_time(series, above=above)
    if any(value is not None for value in time.values):
        return time
    crossing = hitting_time(series, above=above, sustained=1)
    return crossing if any(value is not None for value in crossing.values) else time


def lost_after(step: Array, met: Array, first: int, sustained: int) -> Step | None:
    """Return the step from which the criterion fails `sustained` times in a row after it was met, if it does."""
    lost = first_run(~met[first:], sustained)
    return None if lost is None else step_at(step, first + lost)


def last_unmet(step: Array, unmet: Array, first: int | None) -> Step | None:
    """Return the last step before the place `first` (None: of all) at which a criterion is seen not to hold."""
    places = np.flatnonzero(unmet[:first])
    return step_at(step, int(places[-1])) if len(places) else None


def step_at(step: Array, place: int) -> Step:
    """Return one step as a plain number: an int, or a float where epochs are fractional."""
    value: Step = step[place].item()
    return value


def decades(first: float, last: float, per_decade: int = 1) -> Float:
    """Return thresholds 10^first … 10^last, `per_decade` a factor of ten.

    >>> decades(-1, -3)
    array([0.1  , 0.01 , 0.001])
    """
    count = round(abs(last - first) * per_decade) + 1
    return np.logspace(first, last, count)


@dataclass(frozen=True)
class ClockCurve:
    """A clock as a curve: one hitting time for each threshold `[k]` of the series `of`, from the largest threshold down."""

    name: str
    of: str
    thresholds: tuple[float, ...]
    times: tuple[HittingTime, ...]

    @property
    def is_monotone(self) -> bool:
        """Return whether no run meets a lower threshold before a higher one, nor meets one whose higher one it misses."""
        runs = range(self.times[0].runs)
        late = [[math.inf if (v := time.values[run]) is None else v for time in self.times] for run in runs]
        return all(times == sorted(times) for times in late)

    def median(self, k: int) -> MedianTime:
        """Return the Kaplan–Meier median over runs of the time of threshold number k, with its 95 % interval."""
        time = self.times[k]
        return kaplan_meier_median(*censored_times(time))


@dataclass(frozen=True)
class Delay:
    """How long after the fit held-out accuracy reached `alpha`, one entry a run.

    `ratio` is T_gen / T_fit; `step`, `flow_time` and `decay_time` are T_gen − T_fit in optimiser steps, in τ = Σ lr, and
    in Σ lr λ_w, which is in units of 1/(lr λ_w). None where a unit is unknown; `why` then says the reason.
    """

    alpha: float
    ratio: tuple[Between, ...]
    step: tuple[Between, ...]
    flow_time: tuple[Between, ...] | None
    decay_time: tuple[Between, ...] | None
    why: Mapping[str, str]


@dataclass(frozen=True)
class Clocks:
    """The clocks of a training: classifier T_cls(ε), representation T_rep(η), T_fit, T_gen(α), and the delays.

    `structure` is the structural gap S that the representation clock is of. What is None, or left out of a mapping, was
    not recorded; `missing` says so in words.
    """

    classifier: ClockCurve | None
    representation: ClockCurve | None
    structure: Series | None
    fit: HittingTime | None
    generalisation: Mapping[float, HittingTime]
    delays: Mapping[float, Delay]
    missing: tuple[str, ...]


def read_clocks(
    trajectory: Trajectory,
    *,
    loss: ArrayLike = LOSSES,
    gap: ArrayLike = GAPS,
    structure: str | Series | None = None,
    sustained: int | None = None,
) -> Clocks:
    """Return the clocks of a training as curves over thresholds of the loss and of the structural gap.

    T_cls(ε) is when train_loss is at most ε and stays so, T_rep(η) the same of a structural gap S; T_fit is of training
    accuracy .99, T_gen(α) of held-out accuracy .5, .9 and .99. Source: arXiv 2606.05863; persistence `[def]`.

    Args:
        trajectory: as loaded, recorded or trained. loss, gap: the thresholds ε and η, e.g. `decades(-1, -6)`.
        structure: the name of a structural gap (`structural_gap`), or one as measured; by default `default_structure`.
        sustained: evaluations in a row that a criterion must hold; by default 5, and 3 in a series of under 200.

    Raises:
        InputError: a threshold is not positive, or a structural gap that was asked for cannot be measured.

    >>> from twoclocks.trajectory import Source
    >>> step = np.arange(100)
    >>> loss = Series("train_loss", "nats per example", step, np.exp(-0.5 * step)[None])
    >>> run = Trajectory(Source("log", "csv", 100), {"train_loss": loss})
    >>> read_clocks(run, loss=decades(-1, -3)).classifier.times[2].value  # ln 1000 / 0.5 = 13.8
    14
    """
    if not isinstance(trajectory, Trajectory):
        raise InputError(f"read_clocks: expected a Trajectory, as tc.load gives it, got {type(trajectory).__name__}")
    epsilons, etas = checked_thresholds("loss", loss), checked_thresholds("gap", gap)
    series, why = structure_of(trajectory, structure)
    scalars = trajectory.scalars
    fit = accuracy_times(trajectory, "train_accuracy", (at.FIT,), sustained)
    generalisation = accuracy_times(trajectory, "heldout_accuracy", GENERALISED_AT, sustained)
    wanted = ("train_loss", "train_accuracy", "heldout_accuracy")
    of_cross_entropy = is_cross_entropy(trajectory)
    unlike = () if of_cross_entropy else ("the training loss is not a cross-entropy, of which T_cls is",)
    return Clocks(
        classifier=curve_of("T_cls", scalars.get("train_loss") if of_cross_entropy else None, epsilons, sustained),
        representation=curve_of("T_rep", series, etas, sustained),
        structure=series,
        fit=fit.get(at.FIT),
        generalisation=generalisation,
        delays={a: delay(trajectory, a, fit[at.FIT], time) for a, time in generalisation.items() if fit},
        missing=(*(f"{name} was not recorded" for name in wanted if is_empty(scalars.get(name))), *unlike, *why),
    )


# The names that recipes give it: by itself, and by how its gradient is computed.
CROSS_ENTROPIES = ("cross-entropy", "faithful", "stable")


def is_cross_entropy(trajectory: Trajectory) -> bool:
    """Return whether the training loss is a cross-entropy, as it is wherever a recipe does not say another."""
    return bool(nested(trajectory.settings, "settings", "loss") in (None, *CROSS_ENTROPIES))


def checked_thresholds(name: str, given: ArrayLike) -> tuple[float, ...]:
    """Return thresholds from the largest down, refusing what is not positive."""
    values = np.unique(np.asarray(given, np.float64))[::-1]
    if not len(values) or not bool((np.isfinite(values) & (values > 0)).all()):
        raise InputError(f"{name}: expected positive thresholds, e.g. decades(-1, -3), got {values[::-1]}")
    return tuple(values.tolist())


def structure_of(trajectory: Trajectory, structure: str | Series | None) -> tuple[Series | None, tuple[str, ...]]:
    """Return the structural gap that was asked for, or by default the one to look at first, and why there is none."""
    if isinstance(structure, Series):
        return structure, ()
    if structure is not None:
        return structural_gap(trajectory, structure), ()
    name = default_structure(trajectory)
    if name is None:
        return None, ("no snapshots with features, readout and repeated labels were recorded, of which S is measured",)
    try:
        return structural_gap(trajectory, name), ()
    except InputError as refused:  # nobody asked for this gap, so that it cannot be had is no error of theirs
        return None, (str(refused),)


def is_empty(series: Series | None) -> bool:
    """Return whether a series is absent or has no evaluation."""
    return series is None or not len(series.step)


def persistence(series: Series, sustained: int | None) -> int:
    """Return how many evaluations in a row a criterion must hold: as given, or by the length of the series."""
    if sustained is not None:
        return sustained
    return SUSTAINED_WHERE_SHORT if len(series.step) < SHORT else SUSTAINED


def curve_of(name: str, series: Series | None, thresholds: Sequence[float], sustained: int | None) -> ClockCurve | None:
    """Return the clock curve of a series; None where it was not recorded."""
    return None if series is None or is_empty(series) else clock_curve(name, series, thresholds, sustained)


def clock_curve(name: str, series: Series, thresholds: Sequence[float], sustained: int | None = None) -> ClockCurve:
    """Return when a series is at or below each of some thresholds for good, thresholds from the largest down.

    Raises:
        ValueError: as `hitting_time`.

    >>> polynomial = Series("S", "", np.arange(1, 301), 1 / np.arange(1.0, 301.0)[None])
    >>> [time.value for time in clock_curve("T_rep", polynomial, (0.1, 0.01, 0.001)).times]
    [10, 100, None]
    """
    ordered = tuple(sorted(thresholds, reverse=True))
    q = persistence(series, sustained)
    return ClockCurve(name, series.name, ordered, tuple(hitting_time(series, below=e, sustained=q) for e in ordered))


def accuracy_times(
    trajectory: Trajectory, name: str, thresholds: Sequence[float], sustained: int | None
) -> dict[float, HittingTime]:
    """Return when an accuracy is at or above each of some thresholds for good; empty where it was not recorded."""
    series = trajectory.scalars.get(name)
    if series is None or is_empty(series):
        return {}
    q = persistence(series, sustained)
    return {alpha: hitting_time(series, above=alpha, sustained=q) for alpha in thresholds}


def censored_times(time: HittingTime) -> tuple[list[float], list[bool]]:
    """Return the time of every run and whether it is censored there, as `stats` takes them.

    A run of which nothing is known is censored before the first evaluation of any other.
    """
    known = [time.known(run) for run in range(time.runs)]
    return [float(one.high if one.high is not None else -1.0 if one.low is None else one.low) for one in known], [
        one.high is None for one in known
    ]


@dataclass(frozen=True)
class Ruler:
    """What a unit of time is at each step: `value[r t]` at `step[t]`.

    Empty for the step itself, and where the unit is unknown; `why` then says so.
    """

    unit: str
    step: Array
    value: Float
    why: str = ""

    def at(self, step: float, run: int) -> float | None:
        """Return the time of one run at a step, linear between evaluations; None outside what was recorded."""
        if self.unit == "step":
            return float(step)
        if self.why:
            return None
        value = self.value[min(run, len(self.value) - 1)]
        seen = np.isfinite(value)
        if not seen.any() or not self.step[seen][0] <= step <= self.step[seen][-1]:
            return None
        return float(np.interp(step, self.step[seen], value[seen]))


def ruler(trajectory: Trajectory, unit: str) -> Ruler:
    """Return a unit of time against steps: "step", "flow_time" τ = Σ lr, or "decay_time" Σ lr λ_w.

    The last counts in units of 1/(lr λ_w), the time in which weight decay alone shrinks weights by a factor e.

    Raises:
        InputError: the unit is unknown.

    >>> from twoclocks.trajectory import Source
    >>> flow = Series("flow_time", "sum of learning rates", np.array([0, 10]), np.array([[0.0, 0.5]]))
    >>> settings = {"settings": {"weight_decay": 0.2}, "decay": "coupled"}
    >>> ruler(Trajectory(Source("x", "csv", 2), {"flow_time": flow}, settings=settings), "decay_time").at(5, run=0)
    0.05
    """
    if unit not in UNITS:
        raise InputError(f"unknown unit of time '{unit}'; known are {', '.join(UNITS)}")
    if unit == "step":
        return Ruler(unit, np.zeros(0), np.zeros((0, 0)))
    flow, why = trajectory.scalars.get("flow_time"), ""
    if flow is None or not len(flow.step):
        why = "flow_time was not recorded; give the Recorder its optimizer"
    decay, unknown = decay_and_reason(trajectory) if unit == "decay_time" else (1.0, "")
    if why or unknown or flow is None or decay is None:
        return Ruler(unit, np.zeros(0), np.zeros((0, 0)), why or unknown)
    began = flow.step[0] > 0  # Σ lr is 0 before the first step, recorded or not
    step = np.concatenate([[0], flow.step]) if began else flow.step
    value = np.pad(flow.value, ((0, 0), (int(began), 0)))
    return Ruler(unit, step, decay * value)


def delay(trajectory: Trajectory, alpha: float, fit: HittingTime, generalised: HittingTime) -> Delay:
    """Return how long after the fit held-out accuracy reached alpha, as a ratio and in every unit of time."""
    rulers = {unit: ruler(trajectory, unit) for unit in UNITS}
    pairs = list(zip(known_of(fit), known_of(generalised), strict=True))
    spans = {
        unit: None if one.why else tuple(
            minus(in_unit(late, one, run), in_unit(early, one, run)) for run, (early, late) in enumerate(pairs)
        )
        for unit, one in rulers.items()
    }  # fmt: skip
    ratio = tuple(over(late, early) for early, late in pairs)
    why = {unit: one.why for unit, one in rulers.items() if one.why}
    return Delay(alpha, ratio, spans["step"] or (), spans["flow_time"], spans["decay_time"], why)


def known_of(time: HittingTime) -> Iterator[Between]:
    """Give what is known of the time of every run."""
    return (time.known(run) for run in range(time.runs))


def in_unit(time: Between, by: Ruler, run: int) -> Between:
    """Return a time, known in steps, of one run in another unit."""
    low, high = (None if end is None else by.at(end, run) for end in (time.low, time.high))
    return Between(low, high)


def minus(later: Between, earlier: Between) -> Between:
    """Return the difference of two numbers between bounds.

    >>> minus(Between(10.0, None), Between(3.0, 3.0))
    Between(low=7.0, high=None)
    """
    low = None if later.low is None or earlier.high is None else later.low - earlier.high
    high = None if later.high is None or earlier.low is None else later.high - earlier.low
    return Between(low, high)


def over(later: Between, earlier: Between) -> Between:
    """Return the ratio of two numbers of at least 0 between bounds; nothing is known of a ratio to 0.

    >>> over(Between(10.0, None), Between(4.0, 4.0))
    Between(low=2.5, high=None)
    """
    low = None if later.low is None or not earlier.high else later.low / earlier.high
    high = None if later.high is None or not earlier.low else later.high / earlier.low
    return Between(low, high)


@dataclass(frozen=True)
class OrderCell:
    """How much later T_rep(η = `gap`) is than T_cls(ε = `loss`), over runs.

    `ratio` is the median over runs of T_rep / T_cls, `interval` that of the median of all such runs at `level`, None with
    fewer than 5 runs. `later`, `earlier` and `undecidable` count the runs in which T_rep is later, earlier, or neither is
    known; `p` is of the exact two-sided sign test that neither tends to come later.
    """

    loss: float
    gap: float
    ratio: Between
    interval: Between | None
    level: float
    later: int
    earlier: int
    undecidable: int
    p: float


@dataclass(frozen=True)
class Order:
    """The order of the two clocks over a grid: `cells[ε][η]`."""

    losses: tuple[float, ...]
    gaps: tuple[float, ...]
    cells: tuple[tuple[OrderCell, ...], ...]


def order(clocks: Clocks) -> Order:
    """Return which clock strikes later, by how much and how surely, for every loss threshold ε and every gap η `[def]`.

    A run's clock is later only if it was seen not to have struck when the other had: times between the same evaluations
    are undecidable, as are two censored ones. A censored clock bounds the ratio from one side, and a time met at the first
    evaluation from the other. The interval is of order statistics of the runs' ratios, interpolated to 95 % between two
    exact ones (of 5 runs: the whole range, 93.75 %); bounds take the place of censored ratios, so that it is never too
    short, whatever censors. Source: Hettmansperger & Sheather 1986.

    Raises:
        InputError: one of the two clocks was not read, or they are of different numbers of runs.
    """
    classifier, representation = clocks.classifier, clocks.representation
    if classifier is None or representation is None:
        raise InputError(
            f"the order of the clocks needs both of them: {'; '.join(clocks.missing) or 'one was not read'}"
        )
    if classifier.times[0].runs != representation.times[0].runs:
        raise InputError(
            "the order of the clocks needs both of the same runs, got "
            f"{classifier.times[0].runs} of the loss and {representation.times[0].runs} of the structural gap"
        )
    cells = tuple(
        tuple(
            order_cell(e, h, cls, rep) for h, rep in zip(representation.thresholds, representation.times, strict=True)
        )
        for e, cls in zip(classifier.thresholds, classifier.times, strict=True)
    )
    return Order(classifier.thresholds, representation.thresholds, cells)


def order_cell(loss: float, gap: float, classifier: HittingTime, representation: HittingTime) -> OrderCell:
    """Return how much later the representation clock is at one pair of thresholds."""
    ratios = [over(late, early) for early, late in zip(known_of(classifier), known_of(representation), strict=True)]
    signs = orders(classifier, representation)
    interval, level = median_interval(ratios)
    return OrderCell(
        loss, gap, median_between(ratios), interval, level,
        signs.count(1), signs.count(-1), signs.count(0), later(classifier, representation).p,
    )  # fmt: skip


def later(a: HittingTime, b: HittingTime, paired: bool = True) -> Test:
    """Return the test that b tends to come neither later nor earlier than a.

    Paired: the exact sign test over runs, of those whose order is known; its statistic counts the runs with b later. Not
    paired, for two groups of runs: the log-rank test.

    Raises:
        ValueError: paired times of different numbers of runs.

    >>> early = HittingTime((10,) * 5, (1,) * 5, (None,) * 5, 3, 90, (False,) * 5, (9,) * 5)
    >>> never = HittingTime((None,) * 5, (None,) * 5, (None,) * 5, 3, 90, (False,) * 5, (90,) * 5)
    >>> later(early, never)
    Test(statistic=5.0, p=0.0625, n=5)
    """
    if not paired:
        return log_rank(*censored_times(a), *censored_times(b))
    signs, all_known = orders(a, b), [False] * a.runs
    return paired_sign_test([0] * a.runs, signs, all_known, all_known)


def orders(a: HittingTime, b: HittingTime) -> list[int]:
    """Return for every run 1 if b is known to be later than a, −1 if earlier, 0 if that is not known.

    Raises:
        ValueError: different numbers of runs.
    """
    if a.runs != b.runs:
        raise ValueError(f"paired times: expected as many runs in both, got {a.runs} and {b.runs}")
    return [int(is_later(b, a, run)) - int(is_later(a, b, run)) for run in range(a.runs)]


def is_later(one: HittingTime, other: HittingTime, run: int) -> bool:
    """Return whether a criterion was seen not to hold yet when the other had been met."""
    after, met = one.afters[run], other.values[run]
    return after is not None and met is not None and after >= met


def median_between(values: Sequence[Between]) -> Between:
    """Return what is known of the median of some numbers of at least 0 (of an even count, the lower middle one).

    >>> median_between([Between(1.0, 1.0), Between(2.0, 2.0), Between(9.0, None)]).value
    2.0
    """
    middle = (len(values) - 1) // 2
    return Between(bounded(ordered_lows(values)[middle]), bounded(ordered_highs(values)[middle]))


def median_interval(values: Sequence[Between], level: float = 0.95) -> tuple[Between | None, float]:
    """Return the interval of the median of which these numbers of at least 0 are a sample, and its level.

    From the k-th smallest lower bound to the k-th largest upper bound, whose level 1 − 2 P(Bin(n, ½) < k) is exact, and
    interpolated in logarithms between the two k around the level asked for. None with fewer than 5 numbers.
    Source: Hettmansperger & Sheather 1986.

    >>> median_interval([Between(float(n), float(n)) for n in range(1, 6)])
    (Between(low=1.0, high=5.0), 0.9375)
    """
    n = len(values)
    if n < FEWEST_RUNS:
        return None, level
    levels = [1 - 2 * sum(math.comb(n, j) for j in range(k)) / 2**n for k in range(1, n // 2 + 2)]
    k = max((k for k, exact in enumerate(levels, 1) if exact >= level), default=0)
    share = 0.0
    if k:
        gained = (levels[k - 1] - level) / (levels[k - 1] - levels[k])
        share = (n - k) * gained / (k + (n - 2 * k) * gained)
    lows, highs, k = ordered_lows(values), ordered_highs(values)[::-1], max(k, 1)
    ends = (geometric(side[k - 1], side[k], share) for side in (lows, highs))
    return Between(*(bounded(end) for end in ends)), min(level, levels[0])


def ordered_lows(values: Sequence[Between]) -> list[float]:
    """Return the lower bounds in order, 0 where there is none."""
    return sorted(0.0 if one.low is None else float(one.low) for one in values)


def ordered_highs(values: Sequence[Between]) -> list[float]:
    """Return the upper bounds in order, infinite where there is none."""
    return sorted(math.inf if one.high is None else float(one.high) for one in values)


def geometric(outer: float, inner: float, share: float) -> float:
    """Return the number a share of the way from one to another in logarithms; the outer one where it is 0 or infinite."""
    if share == 0 or outer <= 0 or math.isinf(outer):
        return outer
    return float(outer * (inner / outer) ** share)


def bounded(end: float) -> float | None:
    """Return a bound, or None where it bounds nothing."""
    return end if 0 < end < math.inf else None
