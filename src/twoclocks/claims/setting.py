"""This file knows the runs of one setting, and what is read from each of them for the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twoclocks.claims.answers import Curve, Finding, Part, Table, agreed, finding_of
from twoclocks.claims.words import UNKNOWN, counted, number, time_words
from twoclocks.clocks import Clocks, HittingTime, hitting_time, persistence, read_clocks
from twoclocks.diagnosis import judge_conditions
from twoclocks.evidence import Evidence, examine_clocks
from twoclocks.stats import t_interval
from twoclocks.trajectory import Float, Series, Trajectory
from twoclocks.verdicts import Verdict, over_runs

LOSSES = (0.5, 0.3, 0.2, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
GAPS = (0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001)
SATURATED = 2.0  # times its final level (the median of the last tenth), at which a loss counts as saturated
FALL_BEGINS, FALL_ENDS = 0.9, 0.01  # of the peak of the held-out loss
UNCHANGED = 0.99  # least share of gates that are on at both moments ÷ on at either


@dataclass(frozen=True)
class Setting:
    """The runs of one setting: what was recorded, measured and judged of them; `name` is for legends and tables."""

    name: str
    weight_decay: float
    trajectory: Trajectory
    evidence: Evidence
    clocks: Clocks
    verdicts: tuple[Mapping[str, Verdict], ...]

    @property
    def runs(self) -> int:
        """Return the number of seeds."""
        return self.trajectory.runs

    @property
    def last(self) -> int:
        """Return the last step."""
        return self.trajectory.last_step

    def each(self, what: Callable[[int], float | None]) -> list[float | None]:
        """Return a number of every run."""
        return [what(r) for r in range(self.runs)]


@dataclass(frozen=True)
class DecaySlope:
    """The slope of log T on log λ_w, one a seed: mean and t interval over the `seeds` of `of` whose times are all known."""

    value: float | None
    interval: tuple[float, float] | None
    seeds: int
    of: int

    @property
    def is_of_all(self) -> bool:
        """Return whether there is an interval and no seed was left out, without which nothing is judged."""
        return self.interval is not None and self.seeds == self.of

    def __str__(self) -> str:
        """Return the slope in words."""
        rest = f"{self.seeds} of {self.of} seeds"
        if self.value is None:
            return f"{UNKNOWN} ({rest})"
        bounds = "" if self.interval is None else f" ({number(self.interval[0])} to {number(self.interval[1])})"
        return f"{number(self.value)}{bounds}" + ("" if self.is_of_all else f"; {rest}")


def setting_of(name: str, weight_decay: float, trajectory: Trajectory) -> Setting:
    """Return everything that is measured of the runs of one setting."""
    evidence = examine_clocks(trajectory)
    structure = None if evidence.clocks is None else evidence.clocks.structure
    clocks = read_clocks(trajectory, loss=LOSSES, gap=GAPS, structure=structure)
    verdicts = tuple(judge_conditions(evidence, r) for r in range(trajectory.runs))
    return Setting(name, weight_decay, trajectory, evidence, clocks, verdicts)


def saturation(loss: Series) -> HittingTime:
    """Return when a loss is within a factor SATURATED of its final level, the median of its last tenth, for good."""
    tail = loss.value[:, -max(3, len(loss.step) // 10) :]
    share = loss.value / np.maximum(np.median(tail, axis=1, keepdims=True), 1e-300)
    relative = Series(loss.name, "of its final level", loss.step, share)
    return hitting_time(relative, below=SATURATED, sustained=persistence(loss, None))


def fall(loss: Series) -> tuple[HittingTime, HittingTime]:
    """Return when a loss, past its peak, is at 0.9 and at 0.01 of it for good."""
    finite = np.where(np.isfinite(loss.value), loss.value, -np.inf)
    peak = finite.argmax(axis=1)
    level = np.maximum(finite.max(axis=1, keepdims=True), 1e-300)
    past = np.arange(len(loss.step)) >= peak[:, None]
    share = Series(loss.name, "of its peak", loss.step, np.where(past, loss.value / level, np.inf))
    q = persistence(loss, None)
    return hitting_time(share, below=FALL_BEGINS, sustained=q), hitting_time(share, below=FALL_ENDS, sustained=q)


def frozen_since(unchanged: Series) -> HittingTime:
    """Return the first snapshot from which the gates stay those of the last one, to a Jaccard share of 0.99.

    The last snapshot agrees with itself whatever the gates do, so it is left out: a run in which only that does is
    censored there.
    """
    earlier = Series(unchanged.name, unchanged.unit, unchanged.step[:-1], unchanged.value[:, :-1])
    stays = np.logical_and.accumulate((earlier.value >= UNCHANGED)[:, ::-1], axis=1)[:, ::-1]
    return hitting_time(Series(earlier.name, "", earlier.step, stays.astype(np.float64)), above=1.0, sustained=1)


def slope_on_decay(decays: Sequence[float], times: Sequence[HittingTime]) -> DecaySlope:
    """Return the slope of log T on log λ_w over weight decays, one a seed; a censored time never becomes a number."""
    seeds = list(zip(*(time.values for time in times), strict=True))
    known = [[float(t) for t in seed if t is not None and t > 0] for seed in seeds]
    whole = [seed for seed in known if len(seed) == len(decays)] if len(decays) > 1 else []
    if not whole:
        return DecaySlope(None, None, 0, len(seeds))
    slopes = np.polyfit(np.log(decays), np.log(np.array(whole)).T, 1)[0]
    interval = t_interval(slopes) if len(slopes) > 1 else None
    return DecaySlope(float(slopes.mean()), interval, len(slopes), len(seeds))


def value_at(series: Series, time: HittingTime | None, r: int) -> float | None:
    """Return a series of run r at the first moment from its hitting time on; None where that did not come."""
    step = None if time is None else time.values[r]
    if step is None or step > series.step[-1]:
        return None
    return float(series.value[r][int((series.step >= step).argmax())])


def place_of(series: Series, step: float) -> int:
    """Return the place of the moment closest to a step."""
    return int(np.abs(series.step - step).argmin())


def joint_slope(x: Float, y: Float) -> float | None:
    """Return the least-squares slope of y on x; None with fewer than 3 points."""
    return float(np.polyfit(x, y, 1)[0]) if len(x) >= 3 else None


def curves(settings: Sequence[Setting], series_of: Callable[[Setting], Series | None]) -> tuple[Curve, ...]:
    """Return a series of every run, in groups by setting, without step 0, which a logarithmic axis cannot show."""
    pairs = [(s.name, series) for s in settings if (series := series_of(s)) is not None]
    return tuple(
        Curve(name, series.step[series.step > 0], row[series.step > 0])
        for name, series in pairs
        for row in series.value
    )


def findings(settings: Sequence[Setting], code: str) -> list[Finding]:
    """Return how one claim came out on every run of every setting."""
    return [finding_of(verdicts[code]) for s in settings for verdicts in s.verdicts]


def judged_part(settings: Sequence[Setting], code: str, claim: str) -> Part:
    """Return a part of a claim that is a verdict on every run, which the code that judges it defines."""
    found = findings(settings, code)
    rule = f"{code} is supported: {settings[0].verdicts[0][code].claim}"
    return Part(claim, rule, agreed(found), counted(found))


def scalar(name: str, setting: Setting) -> Series:
    """Return a recorded scalar."""
    return setting.trajectory.scalars[name]


def outcome_words(code: str, setting: Setting) -> str:
    """Return how often which outcome of one claim came, over the runs of a setting."""
    return counted(verdicts[code].outcome.lower().replace("_", " ") for verdicts in setting.verdicts)


def fit_words(setting: Setting) -> str:
    """Return when the runs fit."""
    return UNKNOWN if setting.clocks.fit is None else time_words(setting.clocks.fit)


def generalised_words(alpha: float, setting: Setting) -> str:
    """Return when held-out accuracy reached alpha."""
    return time_words(setting.clocks.generalisation[alpha])


def effect_words(code: str, setting: Setting) -> str:
    """Return the mean effect of a verdict over runs, with its interval."""
    verdict = over_runs([verdicts[code] for verdicts in setting.verdicts])
    if verdict.effect is None:
        return UNKNOWN
    bounds = "" if verdict.interval is None else f" ({number(verdict.interval[0])} to {number(verdict.interval[1])})"
    return f"{number(verdict.effect)}{bounds}"


def by_setting(what: str, settings: Sequence[Setting], rows: Iterable[tuple[str, Callable[[Setting], str]]]) -> Table:
    """Return a table with a column a setting and a row a reading."""
    return Table(
        (what, *(s.name for s in settings)), tuple((name, *(read(s) for s in settings)) for name, read in rows)
    )


def runs_words(settings: Sequence[Setting]) -> str:
    """Return how many runs there are of each setting, for captions."""
    return "; ".join(f"{s.name}: {s.runs} seeds" for s in settings)
