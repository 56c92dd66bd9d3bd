from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import examples
from twoclocks.clocks import Between, Clocks, clock_curve, read_clocks
from twoclocks.conditions import Conditions, conditions_of
from twoclocks.diagnosis import Diagnosis
from twoclocks.evidence import Evidence
from twoclocks.fits import Fit, FitOutcome, fit_growth, lojasiewicz_exponent, phase_exponent
from twoclocks.report.page import LARGEST_PAGE, absences, plot_description, render_page
from twoclocks.report.panels import figure_data
from twoclocks.report.plot_figures import apart, draw_plot
from twoclocks.report.plots import (
    POINTS_A_CURVE,
    Curve,
    Plot,
    clock_plot,
    growth_plot,
    kappa_plot,
    order_table,
    phase_plot,
    plots_of,
    side_of,
    sparse,
)
from twoclocks.trajectory import Float, Series
from twoclocks.verdicts import Outcome, Verdict

STRUCTURE = "structural gap: rule residual (end_to_end: logits on recorded examples)"
BLOCKS = ("embed", "attention", "mlp")
OUTCOMES = (Outcome.SUPPORTED, Outcome.UNDETERMINED, Outcome.NOT_APPLICABLE)
CLAIMS = {
    "TC3": (
        "the smallest logit gap grows linearly",
        "each step takes a constant share of the loss",
        "the loss has a floor",
    ),
    "TC4": ("the slack of the factorisation is gone", "the tail is exponential", "the clocks strike in order"),
    "TC5": ("the gates stand still", "the gates stand still from the fit", "no gate can have flipped"),
    "TC6": ("the readout leads", "the readout moves faster", "the embedding takes most of the decrease"),
}


def spread_over(runs: int) -> Float:
    return np.linspace(0.8, 1.25, runs)[:, None] if runs > 1 else np.ones((1, 1))


def theory_series(runs: int) -> tuple[dict[str, Series], dict[str, Series]]:
    """Return scalars and measured series of runs with a fast clock that is linear and a slow one with θ = 3/4."""
    rng = np.random.default_rng(5)
    step = examples.log_steps(20_000, 40)
    t, spread = step[None].astype(float), spread_over(runs)
    rough = np.exp(rng.normal(0, 0.01, (runs, len(step))))
    age = 1 + 1e-3 * t * 40 * spread
    margin = np.minimum(-3 + 0.02 * t * spread, 33) + rng.normal(0, 0.1, rough.shape)
    scalars = {
        "train_margin_min": margin,
        "train_margin_q01": margin + 2,
        "train_loss": np.log1p(112 * np.exp(-margin)),
        "objective": 0.3 + 0.5 / age**2 * rough,
        "squared_gradient_norm": 4 / age**3 * rough,
        **{f"gradient_norm.{block}": 1e-2 * rough for block in BLOCKS},
        **{f"loss_decrease.{block}": 1e-4 * rough for block in BLOCKS},
    }
    gates = 0.6 + 0.4 * (1 - np.exp(-t / 3000)) * np.ones_like(rough)
    measured = {
        "objective gap": scalars["objective"] - 0.3,
        STRUCTURE: np.clip(1 / (1 + (t / (1500 * spread)) ** 2), 5e-3, 1) * rough,
        "relative_slack": 0.4 * np.exp(-t / 4000) * rough,
        "balancedness_defect.1": 3 * np.exp(-t / 2000) * rough,
        "gate_agreement(last)": gates,
        "gate_jaccard(last)": gates**2,
        "whole_pattern_share(last)": gates**6,
        "gate_flips_per_step(previous)": 40 * np.exp(-t / 2000) * rough,
    }
    for i, block in enumerate(BLOCKS):
        measured[f"gradient_ratio.{block}"] = (0.3 + i) * np.exp(rng.normal(0, 0.1, rough.shape)) * (1 + 2 * gates)
        measured[f"relative_speed_ratio.{block}"] = (0.2 + 0.5 * i) * np.exp(rng.normal(0, 0.1, rough.shape))
        measured[f"loss_decrease_share.{block}"] = (0.5, 0.3, 0.2)[i] + rng.normal(0, 0.03, rough.shape)
    named = [{name: Series(name, "", step, value) for name, value in group.items()} for group in (scalars, measured)]
    return named[0], named[1]


def theory(runs: int = 1) -> tuple[Evidence, Diagnosis]:
    """Return a grokking run of which everything about the two clocks is known too."""
    evidence, diagnosis = examples.grokking(runs)
    scalars, derived = theory_series(runs)
    trajectory = replace(evidence.trajectory, scalars={**evidence.trajectory.scalars, **scalars})
    measured = {**evidence.measured, **derived}
    clocks = read_clocks(trajectory, structure=measured[STRUCTURE])
    conditions = tuple(conditions_of(trajectory, measured, clocks, r) for r in range(runs))
    evidence = replace(evidence, trajectory=trajectory, measured=measured, clocks=clocks, conditions=conditions)
    verdicts = [
        Verdict(f"{code}0{i}", claim, OUTCOMES[i % 3], "slope", 0.02, (0.018, 0.022), 40, evidence=(f"why {code}0{i}",))
        for code, claims in CLAIMS.items()
        for i, claim in enumerate(claims, 1)
    ]
    return evidence, replace(diagnosis, verdicts=(*diagnosis.verdicts, *verdicts))


def evidence_of(scalars: Mapping[str, Float], step: Float, **more: object) -> Evidence:
    """Return one run with these scalars and whatever else is given."""
    evidence, _ = examples.plain({name: Series(name, "", step, value[None]) for name, value in scalars.items()})
    return replace(evidence, **more)


def law_of(plot: Plot) -> Curve:
    laws = [curve for curve in plot.curves if curve.kind == "law"]
    assert len(laws) == 1
    return laws[0]


def clocks_of(loss: Float, gap: Float, step: Float) -> Clocks:
    """Return the clocks of runs whose loss and structural gap `[r t]` are known, at thresholds .1, .01, .001."""
    series = [Series(name, "", step, value) for name, value in (("train_loss", loss), (STRUCTURE, gap))]
    curves = [
        clock_curve(name, one, (0.1, 0.01, 0.001), 3) for name, one in zip(("T_cls", "T_rep"), series, strict=True)
    ]
    return Clocks(curves[0], curves[1], series[1], None, {}, {}, ())


def test_a_linear_gap_has_its_law_drawn_over_its_window_and_told_with_its_precision():
    step = np.arange(0.0, 101.0)
    gap = np.where(step <= 60, 2 + 0.5 * step, 32.0)
    window = (step >= 10) & (step <= 60)
    growth = {"train_margin_min": fit_growth(step[window], gap[window])}
    plot = growth_plot(
        evidence_of({"train_margin_min": gap}, step, conditions=(Conditions(window=(10, 60), growth=growth),))
    )
    law = law_of(plot)
    assert (law.x[0], law.x[-1]) == (10, 60)
    np.testing.assert_allclose(law.y, 2 + 0.5 * law.x, rtol=1e-9)
    assert plot.curves[0].x.max() == 72  # a quarter of the window after it
    assert plot.notes[0].startswith(
        "Smallest gap: linear law, slope = 0.5 [0.5, 0.5], over optimiser step 10 to 60, n = 51"
    )


def test_the_relaxation_time_of_a_power_law_is_a_line_of_its_kappa():
    step = np.geomspace(1, 1000, 60)
    norms = (1 + step) ** -3.0  # R = (1 + t) / 3
    conditions = (Conditions(kappa=lojasiewicz_exponent(step, norms)),)
    plot = kappa_plot(evidence_of({"squared_gradient_norm": norms}, step, conditions=conditions))
    np.testing.assert_allclose(plot.curves[0].y, (1 + plot.curves[0].x) / 3, rtol=0.02)
    line = law_of(plot)
    assert np.diff(line.y)[0] / np.diff(line.x)[0] == pytest.approx(1 / 3, abs=1e-6)
    np.testing.assert_allclose(line.y, (1 + line.x) / 3, rtol=0.02, atol=0.3)
    assert any(note.startswith("θ = 1 / (2 (1 − κ)) = 0.75 [") for note in plot.notes)


def test_a_relaxation_time_far_above_the_others_is_told_and_not_drawn():
    step = np.arange(1.0, 101.0)
    logs = -0.1 * step
    logs[50] = logs[49] - 1e-6
    logs[51] = logs[49] - 2e-6
    plot = kappa_plot(evidence_of({"squared_gradient_norm": np.exp(logs)}, step))
    assert plot.curves[0].y.max() < 25
    assert any(note.startswith("Not drawn: 1 R above 20") for note in plot.notes)


def test_the_phase_plot_has_the_slope_theta_through_its_points():
    step = np.arange(60.0)
    delta = 10 ** np.linspace(0, -5, 60)
    norms = 4 * delta**1.5
    measured = {"objective gap": Series("objective gap", "nats", step, delta[None])}
    conditions = (Conditions(phase=phase_exponent(delta, norms)),)
    plot = phase_plot(evidence_of({"squared_gradient_norm": norms}, step, measured=measured, conditions=conditions))
    line = law_of(plot)
    np.testing.assert_allclose(line.y, 2 * line.x**0.75, rtol=1e-6)
    np.testing.assert_allclose(line.x, [1e-5, 1.0], rtol=1e-9)
    assert "θ = 0.75 [0.75, 0.75]" in plot.notes[0]


def test_a_fit_that_failed_is_told_and_draws_no_line():
    step = np.arange(60.0)
    delta = 10 ** np.linspace(0, -5, 60)
    measured = {"objective gap": Series("objective gap", "nats", step, delta[None])}
    failed = Fit("phase", {}, {}, FitOutcome.FLAT, 60, 60.0, (0.0, 0.0), "no change stands out: take a longer window")
    evidence = evidence_of(
        {"squared_gradient_norm": delta}, step, measured=measured, conditions=(Conditions(phase=failed),)
    )
    plot = phase_plot(evidence)
    assert [curve.kind for curve in plot.curves] == ["points"]
    assert "no fit" in plot.notes[0]
    assert "flat: no change stands out" in plot.notes[0]


def test_clock_curves_strike_where_they_should_and_censored_ones_are_hollow():
    step = np.arange(1.0, 401.0)
    clocks = clocks_of(np.exp(-step / 10)[None], 1 / step[None], step)
    plot = clock_plot(evidence_of({}, step, clocks=clocks))
    cls, rep = plot.curves
    np.testing.assert_allclose(cls.x, [10, 100, 1000])
    assert cls.y.tolist() == [24, 47, 70]  # 10 ln 10^k, rounded up
    assert rep.y.tolist() == [10, 100, 400]
    assert [curve.open.tolist() for curve in (cls, rep) if curve.open is not None] == [
        [False] * 3,
        [False, False, True],
    ]
    assert "T_rep: 1 of 3 thresholds are not reached; their triangles stand at the last step." in plot.notes
    assert "1 not reached" in plot_description(plot)
    without = replace(plot, curves=tuple(replace(curve, open=None) for curve in plot.curves))
    assert len(set(re.findall(r'<path id="([^"]+)"', draw_plot(plot)))) > len(
        set(re.findall(r'<path id="([^"]+)"', draw_plot(without)))
    )


def test_the_order_is_a_ratio_a_bound_or_a_dash():
    step = np.arange(1.0, 401.0)
    loss = np.stack([np.exp(-step / 10), np.full(400, 0.5)])
    gap = np.stack([1 / step, 1 / step])
    first = order_table(evidence_of({}, step, clocks=clocks_of(loss[:1], gap[:1], step)))
    texts = [[cell.text for cell in cells] for _, cells in first.rows]
    assert first.columns == ("0.1", "0.01", "0.001")
    assert [row for row, _ in first.rows] == ["0.1", "0.01", "0.001"]
    assert texts == [["0.417", "0.213", "0.143"], ["4.17", "2.13", "1.43"], ["> 16.7", "> 8.51", "> 5.71"]]
    assert [cells[0].side for _, cells in first.rows] == ["earlier", "later", "later"]
    never = order_table(evidence_of({}, step, clocks=clocks_of(loss[1:], gap[1:] + 1, step)))
    assert {cell.text for _, cells in never.rows for cell in cells} == {"–"}
    assert {cell.side for _, cells in never.rows for cell in cells} == {"open"}


def test_the_side_is_left_open_where_bounds_allow_both():
    cases = {(2.0, None): "later", (None, 0.5): "earlier", (0.5, 2.0): "open", (None, None): "open", (0.0, 3.0): "open"}
    assert len(cases) == 5
    for ends, side in cases.items():
        assert side_of(Between(*ends)) == side, ends


def test_several_runs_have_intervals_thin_lines_and_a_number_of_runs():
    evidence, _ = theory(8)
    growth, clocks, _, _ = plots_of(evidence)
    assert sum(curve.faint for curve in growth.curves) == 14
    assert clocks.curves[0].low is not None
    assert (clocks.curves[0].low < clocks.curves[0].y).all()
    cell = order_table(evidence).rows[0][1][0]
    assert cell.below[0].startswith("[")
    assert cell.below[1] == "8 of 8"
    assert any("(8 of 8 runs)" in note for note in growth.notes)


def test_the_page_draws_and_describes_every_plot_and_tells_its_fits():
    page = render_page(*theory())
    described = re.findall(r'class="drawing" role="img" aria-label="([^"]+)"', page)
    assert len(described) == 4
    assert described[0].startswith("Gap growth: logit gap, logits against optimiser step. smallest gap: from ")
    said = ["linear law, slope", "effective", "clock law", "κ = 0.33", "θ = 0.75", "Order of the clocks"]
    assert [phrase for phrase in said if phrase not in page] == []
    absent = page[page.index('class="not-drawn"') :]
    assert "This is measured of the features in front of the readout" in absent  # of which this run kept none
    assert not [title for title in ("Gap growth", "Order of the clocks", "Structural gap") if f"<dt>{title}" in absent]
    assert len(page.encode()) <= LARGEST_PAGE


def test_drawings_of_plots_are_well_formed_legible_and_the_same_each_time():
    plots = plots_of(theory(3)[0])
    assert len(plots) == 4
    for plot in plots:
        drawing = draw_plot(plot)
        assert ElementTree.fromstring(drawing).tag.endswith("svg")
        assert "style=" not in drawing
        sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)', drawing)]
        assert len(sizes) > 5
        assert min(sizes) >= 8
        assert drawing == draw_plot(plot)


def test_a_log_says_once_and_shortly_what_is_not_drawn():
    step = np.arange(1, 60)
    evidence, diagnosis = examples.plain({"train_accuracy": Series("train_accuracy", "", step, np.full((1, 59), 0.5))})
    page = render_page(evidence, diagnosis)
    assert page.count("Not drawn, and why") == 1
    assert "Laws of the two clocks" not in page
    assert page.count('<figure class="panel"') == 1
    assert '<figure class="plot"' not in page
    missing = absences((*figure_data(evidence, diagnosis).panels, *plots_of(evidence), order_table(evidence)))
    assert sum(len(titles.split("; ")) for titles, _ in missing) == 27
    assert len(missing) == len({why for _, why in missing}) <= 14
    reasons = dict(missing)
    assert "Training margins; Gap growth" in reasons
    assert all(why.endswith(".") for why in reasons.values())


def test_derived_series_stand_in_their_own_panels_and_crowd_no_other():
    figure = figure_data(*theory())
    names = {panel.key: [line.name for line in panel.lines] for panel in figure.panels}
    assert len(names) == 23
    assert names["ranks"] == ["stable_rank.end_to_end", "effective_rank.features", "participation_ratio.features"]
    assert not [name for name in names["norms"] if "gradient" in name]
    assert names["gates"] == ["gates agreeing (last)", "open gates shared (last)", "whole patterns kept (last)"]
    assert names["structure"] == ["rule residual (end_to_end: logits on recorded examples)"]
    assert sorted(names["leads"])[:2] == ["gradient: attention", "gradient: embed"]
    assert names["balance"] == ["relative slack", "balancedness defect 1"]
    assert names["objective"] == ["objective gap"]
    assert "gradient_norm.<block> (3)" in figure.not_drawn
    assert {panel.key for panel in figure.panels if panel.log} >= {"leads", "structure", "balance", "objective"}


def test_shares_far_outside_are_told_instead_of_squeezing_the_rest():
    step = np.arange(100)
    share = np.full((1, 100), 0.4)
    share[0, 50] = 900.0
    evidence, diagnosis = examples.plain(
        {"loss_decrease_share.mlp": Series("loss_decrease_share.mlp", "", step, share)}
    )
    panel = next(panel for panel in figure_data(evidence, diagnosis).panels if panel.key == "decreases")
    assert panel.bounds == (0.0, 1.5)
    assert "mlp: 1 of 100 values lie beyond the drawn 0 to 1.5." in panel.notes


def test_verdicts_stand_under_their_headings_and_inapplicable_ones_are_folded():
    page = render_page(*theory())
    claims = page[page.index('id="claims"') :]
    headings = re.findall(r'class="chapter"><td colspan="4"><h3>([^<]+)', claims)
    assert headings == ["Curves", "Fast clock", "Slow clock", "Gates", "Block speeds"]
    folded = claims[claims.index('<details class="inapplicable">') : claims.index('id="cannot-tell"')]
    assert folded.count(">not applicable</span>") == 5
    assert claims.count(">not applicable</span>") == 5
    assert "5 not applicable here" in folded
    why = page[page.index('id="why"') : page.index('id="clocks"')]
    assert "TC301" not in why


def test_strangers_names_stay_text_in_plots():
    evidence, diagnosis = theory()
    clocks = evidence.clocks
    assert clocks is not None
    assert clocks.representation is not None
    hostile = replace(clocks, representation=replace(clocks.representation, of=examples.HOSTILE))
    page = render_page(replace(evidence, clocks=hostile), diagnosis)
    assert examples.HOSTILE not in page
    assert "&lt;img src=x" in page
    assert "<img" not in page


def test_the_page_stays_under_its_limit_with_everything_at_once():
    evidence, diagnosis = theory(6)
    rng = np.random.default_rng(1)
    step = np.arange(1, 3001)
    prefixes = (
        "update_size.",
        "block_norm.",
        "gradient_ratio.",
        "loss_decrease_share.",
        "balancedness_defect.",
        "gate_x",
    )
    more = {
        f"{prefix}{i}": Series(f"{prefix}{i}", "", step, np.exp(0.3 * rng.normal(size=(6, 3000))))
        for prefix in prefixes
        for i in range(14)
    }
    page = render_page(replace(evidence, measured={**evidence.measured, **more}), diagnosis)
    assert len(page.encode()) <= LARGEST_PAGE
    assert page.count('<figure class="plot"') == 4


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=3000))
def test_sparse_curves_keep_their_extremes(values: list[float]):
    y = np.array(values)
    short = sparse(Curve("a", 1, np.arange(len(y), dtype=float), y))
    assert len(short.x) <= POINTS_A_CURVE
    assert (short.y.min(), short.y.max()) == (y.min(), y.max())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted))
def test_labels_beside_a_plot_lie_apart(heights: list[float]):
    moved = apart(heights, 0.1)
    assert len(moved) == len(heights)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(moved))
    assert moved[-1] <= 1 + 1e-9
