from __future__ import annotations

import json
import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import examples
from twoclocks.errors import InputError
from twoclocks.report.embedding import MOMENTS, embedding_of, ring, told
from twoclocks.report.embedding_figures import cyclic_colours, draw_bars, draw_plane, places
from twoclocks.report.figures import draw_figure, draw_panel, label_rows, label_span, log_ticks
from twoclocks.report.page import LARGEST_PAGE, asset, render_page, write_report
from twoclocks.report.panels import Line, Mark, TimeAxis, figure_data, thinned
from twoclocks.report.strip_figures import draw_heat, edges_of, share_of_width
from twoclocks.report.strips import EDGES, strip_of
from twoclocks.trajectory import EvalBatch, Event, Series, Snapshot, Source, Trajectory

DRAWN = ["accuracy", "loss", "margins", "ladder", "ranks", "norms", "speeds"]
OF_CONDITIONS = ["leads", "decreases", "gates", "structure", "balance", "objective"]  # drawn in test_plots.py
OF_LADDER = ["direction", "alignment"]
OF_GEOMETRY = ["dimension", "capacity", "manifolds", "similarity", "change", "velocity", "scatter", "simplex"]
ALL = [*DRAWN[:4], *OF_LADDER, *OF_GEOMETRY, *DRAWN[4:], *OF_CONDITIONS]


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of those that hold code."""

    def __init__(self, page: str) -> None:
        HTMLParser.__init__(self)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.blocks.append([dict(attrs).get("id") or tag, ""])

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.blocks[-1][1] += data


def constant(value: float, step: np.ndarray, name: str) -> Series:
    return Series(name, "", step, np.full((1, len(step)), value))


def payload_of(page: str) -> dict:
    blocks = [text for name, text in Elements(page).blocks if name == "figure-data"]
    assert len(blocks) == 1
    return json.loads(blocks[0])


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(*examples.grokking())


def test_a_full_run_has_every_panel_with_lines_over_one_axis():
    figure = figure_data(*examples.grokking())
    assert [panel.key for panel in figure.panels] == ALL
    assert [panel.key for panel in figure.panels if panel.lines] == DRAWN
    ladder = figure.panels[ALL.index("ladder")]
    assert [line.name for line in ladder.lines] == ["native readout", "train-fit probe", "held-out-fit probe"]
    assert all(line.low is not None and not line.is_error for line in ladder.lines)
    assert [m.label for m in figure.marks] == ["T_fit", "T_gen_0.9", "T_gen_0.99", "1", "2", "3"]
    assert figure.not_drawn == ("lr",)


def test_what_decides_stands_above_the_figure_and_everything_below(page: str) -> None:
    why, figure, claims = (page.index(f'id="{name}"') for name in ("why", "time", "claims"))
    assert why < figure < claims
    assert ">refuted</span>" not in page[why:figure]
    assert page[why:figure].count('<p class="claim">') > 0
    assert ">refuted</span>" in page[claims:]


def test_the_page_says_verdict_evidence_clocks_and_limits(page: str):
    text = re.sub(r"<[^>]+>", " ", page)
    said = [
        "grokking", "genuine", "confidence: high", "71 times later", "What would overturn this", "supported", "refuted",
        "undetermined", "not applicable", "[66.9, 75.2]", "n = 1 run ", "delay ratio 2", "&gt; 20,000", "−601",
        "What this cannot tell", "killed and resumed", "recipe.weight_decay", "2.13.0", "14 min", "0.65",
    ]  # fmt: skip
    assert [phrase for phrase in said if phrase not in text] == []


def test_the_policy_allows_these_very_blocks_and_nothing_else(page: str):
    elements = Elements(page)
    policy = next(a["content"] for t, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    code = [(name, text) for name, text in elements.blocks if name != "figure-data"]
    assert [name for name, _ in code] == ["style", "script", "script"]
    for _, text in code:
        assert f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in policy


def test_the_page_asks_for_nothing_and_holds_nothing_a_strict_policy_blocks(page: str):
    elements = Elements(page).found
    assert len(elements) > 500
    for tag, attributes in elements:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)


def test_headings_descend_one_level_at_a_time_and_drawings_are_described(page: str):
    elements = Elements(page).found
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    described = [a["aria-label"] for t, a in elements if a.get("role") == "img"]
    assert len(described) == len(DRAWN) + 1  # the gaps' growth, whose margins were recorded
    assert "held-out: from" in (described[0] or "")
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_strangers_cannot_write_into_the_page():
    step = np.arange(1, 40)
    names = (f"rank {examples.HOSTILE}", f"update_size.{examples.HOSTILE}", examples.HOSTILE)
    evidence, diagnosis = examples.plain({name: constant(2.0, step, name) for name in names})
    trajectory = replace(evidence.trajectory, settings={examples.HOSTILE: {examples.HOSTILE: examples.HOSTILE}})
    hostile = replace(
        diagnosis,
        source=Source(examples.HOSTILE, examples.HOSTILE, 1, columns={examples.HOSTILE: examples.HOSTILE}),
        label=examples.HOSTILE,
        summary=examples.HOSTILE,
        events=(Event(3, examples.HOSTILE),),
        cannot_tell=(examples.HOSTILE,),
    )
    page = render_page(replace(evidence, trajectory=trajectory), hostile)
    elements = Elements(page)
    assert [name for name, _ in elements.blocks] == ["style", "figure-data", "script", "script"]
    assert not [tag for tag, _ in elements.found if tag == "img"]
    lines = [line["name"] for panel in payload_of(page)["panels"] for line in panel["lines"]]
    assert lines == [names[0], examples.HOSTILE]
    ElementTree.fromstring(draw_figure(figure_data(evidence, hostile)))


def test_the_same_run_gives_the_same_bytes(page: str):
    assert render_page(*examples.grokking()) == page
    figures = [draw_figure(figure_data(*examples.grokking(3))) for _ in range(2)]
    assert figures[0] == figures[1]


def test_drawings_are_well_formed_and_keep_their_numbers():
    figure = figure_data(*examples.grokking())
    drawings = [draw_panel(figure, panel) for panel in figure.panels if panel.lines] + [draw_figure(figure)]
    assert len(drawings) == 8
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).tag.endswith("svg")
        assert "style=" not in drawing
    assert ">0.001<" in drawings[1]
    assert ">chance 0.0088<" in drawings[0]


def test_a_long_log_stays_small_and_says_that_it_was_thinned():
    evidence, diagnosis = examples.long_log(rows=13_500, names=10)
    page = render_page(evidence, diagnosis)
    assert len(page.encode()) <= LARGEST_PAGE
    lines = [line for panel in payload_of(page)["panels"] for line in panel["lines"]]
    assert len(lines) == 10
    assert max(len(line["y"]) for line in lines) <= 1200
    assert "Thinned for drawing" in page


def test_however_much_is_recorded_the_page_stays_under_its_limit():
    rng = np.random.default_rng(0)
    step = np.arange(3000)
    names = [f"{kind}{i}" for kind in ("update_size.", "block_norm.", "rank ", "train_margin_") for i in range(40)]
    scalars = {name: Series(name, "", step, np.exp(rng.normal(size=(5, len(step))))) for name in names}
    evidence, diagnosis = examples.plain(scalars)
    huge = replace(evidence.trajectory, settings={f"setting {i}": "&" * 5000 for i in range(500)})
    page = render_page(replace(evidence, trajectory=huge), diagnosis)
    assert len(page.encode()) <= LARGEST_PAGE
    assert "40 were recorded; 12 are drawn" in page
    assert "and 400 more, not shown" in page


@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=400),
    st.integers(20, 100),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_thinning_keeps_ends_extremes_and_gaps(values: list[float], limit: int, from_zero: bool):
    y = np.array(values)
    line = Line("loss", "", 0, np.arange(len(y)) + (0 if from_zero else 7), y)
    short = thinned(line, limit)
    assert len(short.x) <= limit
    assert {short.x[0], short.x[-1]} == {line.x[0], line.x[-1]}
    assert np.isnan(short.y).any() == np.isnan(y).any()
    if np.isfinite(y).any():
        assert (np.nanmin(short.y), np.nanmax(short.y)) == (np.nanmin(y), np.nanmax(y))


def test_a_gap_stays_between_the_values_around_it():
    y = np.ones(5000)
    y[2000:2600] = np.nan
    short = thinned(Line("loss", "", 0, np.arange(5000), y), 200)
    inside = (short.x >= 2000) & (short.x < 2600)
    assert inside.any()
    assert np.isnan(short.y[inside]).all()


def test_step_zero_stands_left_of_the_first_step_and_is_never_dropped():
    axis = TimeAxis("step", 1.0, 10_000.0, from_zero=True)
    zero, one = axis.position(np.array([0, 1]))
    assert axis.limits[0] < zero < one == 0.0
    figure = figure_data(*examples.grokking())
    assert figure.time.from_zero
    assert all(line.x[0] == 0 for panel in figure.panels for line in panel.lines)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.text("T_gen0.9", min_size=1, max_size=18)), max_size=20))
@settings(max_examples=60, deadline=None)
def test_labels_of_marks_never_overlap(marks: list[tuple[float, str]]):
    time = TimeAxis("step", 1.0, 1e5, from_zero=True)
    figure = replace(figure_data(*examples.plain({})), time=time, marks=tuple(Mark(s, n, "clock") for s, n in marks))
    placed = [(row, *label_span(mark, time)) for mark, row in zip(figure.marks, label_rows(figure), strict=True)]
    for i, (row, left, right) in enumerate(placed):
        assert 0 <= left < right <= 1.0 + 1e-9
        for other, start, end in placed[:i]:
            assert row is None or row != other or right <= start or end <= left


def test_log_ticks_are_round_and_inside():
    assert log_ticks(1e-7, 30, most=5) == [1e-7, 1e-5, 1e-3, 1e-1, 1e1]
    assert log_ticks(120, 180) == []


def test_several_runs_are_drawn_singly_or_as_a_range():
    few, many = figure_data(*examples.grokking(3)), figure_data(*examples.grokking(12))
    held_out = [line for line in few.panels[0].lines if line.name == "held-out"]
    assert [line.faint for line in held_out] == [True, True, True, False]
    assert few.runs_drawn == "bold: median of 3 runs; thin: each run"
    assert all(line.low is not None and not line.faint for line in many.panels[0].lines)
    assert many.runs_drawn == "bold: median of 12 runs; shaded: their range"
    page = render_page(*examples.grokking(3))
    assert "12,589" in page
    assert "&gt; 20,000" in page


def test_a_plain_log_is_told_what_to_record():
    step = np.arange(1, 60)
    page = render_page(*examples.plain({n: constant(0.5, step, n) for n in ("train_accuracy", "heldout_accuracy")}))
    assert [panel["key"] for panel in payload_of(page)["panels"]] == ["accuracy"]
    told = [
        "Log train_loss",
        "twoclocks.Recorder(",
        "update_size.&lt;block&gt;",
        "Log weight_norm",
        "flow_time, which was not",
    ]
    assert [sentence for sentence in told if sentence not in page] == []


@pytest.mark.parametrize(
    ("scalars", "sentence"),
    [
        ({}, "No accuracy was recorded."),
        ({"train_loss": (4.6, 1)}, "Only train loss was recorded."),
        ({"train_loss": (np.nan, 30)}, "none of its 30 values is finite"),
        ({"train_accuracy": (0.5, 30)}, "Only train accuracy was recorded."),
        ({"train_loss": (0.0, 30), "heldout_loss": (1.0, 30)}, "30 of 30 values are 0 or less"),
        ({"train_loss": (np.inf, 2), "heldout_loss": (1e300, 2)}, "2 of 2 values are NaN or infinite; the first at 0"),
    ],
)
def test_a_degenerate_log_still_has_a_page(scalars: dict, sentence: str):
    page = render_page(*examples.plain({k: constant(v, np.arange(n), k) for k, (v, n) in scalars.items()}))
    assert sentence in page


def test_optimiser_time_is_offered_where_it_was_recorded(page: str):
    steps, flow_time = payload_of(page)["flow"]
    assert (steps[0], flow_time[0]) == (0, 0)
    assert (steps[-1], flow_time[-1]) == (20_000, 20)
    assert "flow_time, which was not" not in page


def test_the_report_is_written_whole_with_a_figure_for_print(tmp_path: Path):
    target = tmp_path / "analysis" / "report.html"
    assert write_report(*examples.grokking(), target) == target
    assert sorted(path.name for path in target.parent.iterdir()) == ["report.html", "report.svg"]
    ElementTree.fromstring(target.with_suffix(".svg").read_text())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="choose another folder"):
        write_report(*examples.grokking(), tmp_path / "file" / "report.html")


def test_the_page_of_a_log_needs_no_torch():
    code = "import sys, twoclocks.report.page; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_both_themes_have_contrast():
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", asset("static", "page.css"), re.S)
    ]
    assert len(themes) == 2
    for theme in themes:
        paper = luminance(theme["paper"])
        for name in ("ink", "muted", "accent", "yes", "no", "open", *(f"line-{i}" for i in range(7))):
            lighter, darker = max(paper, luminance(theme[name])), min(paper, luminance(theme[name]))
            assert (lighter + 0.05) / (darker + 0.05) >= (3 if name.startswith("line") else 4.5), name


def test_the_vendored_library_comes_with_its_licence():
    assert "MIT License" in asset("static", "uPlot-LICENSE")
    assert "v1.6.32" in asset("static", "uPlot.iife.min.js")[:200]


# The representation --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def represented_page() -> str:
    return render_page(*examples.represented())


def test_every_measured_series_of_the_representation_stands_in_one_panel():
    evidence, diagnosis = examples.represented()
    figure = figure_data(evidence, diagnosis)
    assert figure.not_drawn == ("lr",)
    names = {panel.key: [line.name for line in panel.lines] for panel in figure.panels if panel.lines}
    assert list(names) == [key for key in ALL if key not in OF_CONDITIONS]
    assert names["dimension"] == ["held-out, N_crit", "train, N_crit", "manifold dimension (held-out)"]
    assert names["alignment"] == ["train", "held-out", "gap ΔA: train − held-out"]
    assert names["change"] == ["train: from the start"]
    assert len(names["ranks"]) == 3  # no ratio, norm or rank of another panel crowds it
    drawn = sum(len(names[key]) for key in OF_LADDER + OF_GEOMETRY)
    assert drawn == len(examples.representation_series(1)) - 3  # three series of standard errors are bands


def test_standard_errors_are_bands_of_their_own_series_alone():
    panels = {panel.key: panel for panel in figure_data(*examples.represented()).panels}
    held_out, _, other = panels["dimension"].lines
    errors = examples.representation_series(1)["critical_dimension_error(heldout)"].value[0]
    assert held_out.low is not None
    assert held_out.high is not None
    np.testing.assert_allclose(held_out.high - held_out.y, 2 * errors)
    np.testing.assert_allclose(held_out.y - held_out.low, 2 * errors)
    assert other.low is None
    assert "Shaded: 2 standard errors to either side." in panels["dimension"].notes
    assert [line.low is not None for line in panels["alignment"].lines] == [False, False, True]
    plain = [line for key in ("accuracy", "norms", "ranks", "capacity") for line in panels[key].lines]
    assert len(plain) == 12
    assert all(line.low is None for line in plain)


def test_a_kernel_that_has_not_moved_does_not_stretch_the_axis():
    step = np.array([0, 1, 10])
    name = "kernel_change(train: from the start)"
    evidence, diagnosis = examples.plain({})
    moved = replace(evidence, measured={name: Series(name, "", step, np.array([[3e-16, 0.1, 2.0]]))})
    panel = next(panel for panel in figure_data(moved, diagnosis).panels if panel.key == "change")
    assert panel.log
    assert panel.lines[0].y.tolist() == [0.0, 0.1, 2.0]
    assert any("1 of 3 values are 0 or less" in note for note in panel.notes)


def test_panels_stand_in_groups_that_the_contents_name(represented_page: str):
    contents = represented_page[represented_page.index('class="contents"') : represented_page.index('id="why"')]
    links = re.findall(r'href="#([^"]+)"', contents)
    assert len(links) == 14
    assert [link for link in links if f'id="{link}"' not in represented_page] == []
    groups = re.findall(r'<summary><h3 id="group[^>]*>([^<]+)', represented_page)
    assert groups == [
        "Curves",
        "Representation and readout",
        "Geometry of the representation",
        "Norms, updates and gates",
    ]
    levels = [int(level) for level in re.findall(r"<h([1-6])", represented_page)]
    assert max(np.diff(levels)) <= 1


def test_the_page_of_a_representation_stays_small_with_several_runs_too(represented_page: str):
    assert len(represented_page.encode()) <= 0.7 * LARGEST_PAGE
    page = render_page(*examples.represented(6))
    assert len(page.encode()) <= LARGEST_PAGE
    assert "medians over 6 runs" in page
    assert "Shown is run 0 of 0 to 5." in page


def strip_case(train_probe: np.ndarray) -> object:
    """Return the strip of one run at steps 1 and 100 whose native accuracy is .5; penalties .1, 1 and 10."""
    evidence, _ = examples.represented()
    given = evidence.sensitivity
    assert given is not None
    small = replace(
        given, step=np.array([1, 100]), penalty=np.array([0.1, 1.0, 10.0]), native=np.full((1, 2), 0.5),
        train_probe=train_probe, heldout_probe=np.full((1, 2, 3), 0.5),
        train_penalty=np.array([[0.1, 10.0]]), heldout_penalty=np.array([[np.nan, 1.0]]),
    )  # fmt: skip
    return replace(evidence, sensitivity=small)


def test_the_strip_holds_the_gaps_their_colours_and_the_rows_chosen():
    strip = strip_of(strip_case(np.array([[[0.5, 0.6, 0.95], [0.2, 0.5, 0.58]]])))
    train, heldout = strip.heats
    np.testing.assert_allclose(train.gap, [[0.0, -0.3], [0.1, 0.0], [0.45, 0.08]], atol=1e-12)
    middle = len(EDGES) // 2
    assert train.level[:, 1].tolist() == [middle - 3, middle, middle + 1]
    assert train.level[2, 0] == len(EDGES)
    assert train.tuned.tolist() == [0, 2]
    assert heldout.tuned.tolist() == [-1, 1]
    assert (heldout.level == middle).all()
    told_of = "at optimiser step 1, from 0 (penalty 0.1) to +0.45 (penalty 10); 0 at the chosen one. Of 2 moments"
    assert told_of in strip.notes[1]
    assert strip.notes[1].endswith("and on either side, as the penalty has it, in 1.")


def test_the_strip_is_drawn_over_the_time_of_the_panels():
    evidence = strip_case(np.array([[[0.5, 0.6, 0.95], [np.nan, np.nan, np.nan]]]))
    strip, figure = strip_of(evidence), figure_data(*examples.represented())
    edges = edges_of(figure.time, strip)
    np.testing.assert_allclose(edges, [-1.0, 1.0, 3.0], atol=0.8)  # half a gap to either side of 10⁰ and 10²
    assert edges[1] == pytest.approx(1.0)
    shares = share_of_width(figure.time, np.array(figure.time.limits))
    np.testing.assert_allclose(shares, [0, 100])
    drawing = draw_heat(figure, strip, strip.heats[0])
    ElementTree.fromstring(drawing)
    assert drawing.count("<rect") == 3  # what is not finite is left blank
    assert drawing.count("<circle") == 2
    assert drawing.count("stroke-dasharray") == 3  # the clocks
    assert "url(#below)" not in drawing.replace('id="below"', "")


def test_the_strip_marks_what_is_below_zero_without_colour_too():
    evidence = strip_case(np.array([[[0.1, 0.4, 0.5], [0.3, 0.5, 0.5]]]))
    drawing = draw_heat(figure_data(*examples.represented()), strip_of(evidence), strip_of(evidence).heats[0])
    assert drawing.count("url(#below)") == 2  # one stretch over both moments, one cell


def modular(p: int, means: np.ndarray, **settings: object) -> Trajectory:
    """Return a run with `means[t][p d]` of residues, each seen twice, at steps 0, 10, 20, …"""
    labels = np.tile(np.arange(p), 2)
    snapshots = [
        Snapshot(10 * t, None, {"features/heldout": np.asarray(rows, np.float64)[None, labels]})
        for t, rows in enumerate(means)
    ]
    batches = {"heldout": EvalBatch("heldout", labels, len(labels))}
    return Trajectory(Source("run", "run folder", 1), {}, tuple(snapshots), batches, (), settings)


ADDITION = {"recipe": "modular-addition", "settings": {"p": 13}}


def test_circles_of_known_frequencies_are_found_and_put_in_order():
    form = examples.circles(13, (5, 2), (1.0, 0.5))
    view = embedding_of(modular(13, np.array([form, form]), **ADDITION))
    moment = view.moments[-1]
    assert (view.modulus, moment.frequency) == (13, 5)
    np.testing.assert_allclose(moment.share, [0.4, 0.4], rtol=1e-9)  # 1 of 1 + 1/4 is in the plane, evenly
    assert moment.frequency_share == pytest.approx(1.0)
    assert moment.size == pytest.approx(np.sqrt(1.25))
    shares = dict(enumerate(moment.spectrum, 1))
    assert (shares[5], shares[2]) == (pytest.approx(0.8), pytest.approx(0.2))
    assert len(shares) == 6
    ordered = places(view, moment)[ring(13, 5)]
    steps = np.linalg.norm(np.diff(ordered, axis=0), axis=1)
    closest = np.linalg.norm(ordered[1:] - ordered[0], axis=1).min()
    np.testing.assert_allclose(steps, closest, atol=0.5)  # neighbours on the line are neighbours on the circle
    assert "turns with frequency 5" in told(moment, view)
    assert 'class="ring" d="M' in draw_plane(view, moment)
    assert draw_bars(view, moment).count("v-") == 2


def test_the_axes_are_those_of_the_last_moment_and_noise_is_given_no_order():
    rng = np.random.default_rng(0)
    noise, form = rng.normal(size=(13, 4)), examples.circles(13, (5, 2), (1.0, 0.5))
    view = embedding_of(modular(13, np.array([noise, form]), **ADDITION))
    start, end = view.moments
    assert sum(end.share) > 0.79 > sum(start.share)
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    other = embedding_of(modular(13, np.array([noise, form]) @ turned, **ADDITION))
    np.testing.assert_allclose(np.linalg.norm(other.moments[0].points, axis=1), np.linalg.norm(start.points, axis=1))
    assert start.frequency is None
    assert 'class="ring" d=""' in draw_plane(view, start)


def test_only_residues_of_a_known_modulus_have_a_spectrum():
    form = np.array([examples.circles(13, (5,), (1.0,))] * 2)
    cases = (
        {"recipe": "deep-linear", "settings": {"p": 13}},
        {"recipe": "modular-addition", "settings": {"p": 11}},
        {},
    )
    for settings_of in cases:
        view = embedding_of(modular(13, form, **settings_of))
        assert view.modulus is None, settings_of
        assert len(view.moments[0].spectrum) == 0
    named = {"recipe": "deep-linear", "settings": {"p": 13, "task": "modular-addition"}}
    assert embedding_of(modular(13, form, **named)).modulus == 13


def test_moments_are_few_and_hold_the_start_the_fit_the_rise_and_the_end():
    evidence, _ = examples.represented()
    view = embedding_of(evidence.trajectory)
    assert len(view.moments) == MOMENTS < len(evidence.trajectory.snapshots)
    assert [moment.name for moment in view.moments if moment.name] == ["start", "fit", "held-out rise", "end"]
    steps = [moment.step for moment in view.moments]
    assert (steps[0], steps[-1]) == (0, 20_000)
    assert steps == sorted(set(steps))
    assert [view.moments[i].name for i in view.stills] == ["start", "held-out rise", "end"]
    assert view.moments[-1].spectrum.argmax() + 1 == 14


def test_hard_features_are_left_out_and_never_shown_as_numbers():
    form = examples.circles(13, (5,), (1.0,))
    broken = np.array([form, np.full_like(form, np.nan), np.zeros_like(form)])
    view = embedding_of(modular(13, broken, **ADDITION))
    assert [moment.step for moment in view.moments] == [0, 20]
    assert (view.moments[-1].share, view.moments[-1].size) == ((0.0, 0.0), 0.0)
    assert "nan" not in draw_plane(view, view.moments[-1]) + draw_bars(view, view.moments[-1])
    absent = [
        modular(1, np.ones((2, 1, 3))),
        modular(13, np.full((2, 13, 3), np.nan)),
        replace(modular(13, np.ones((2, 13, 3))), batches={}),
        examples.grokking()[0].trajectory,
    ]
    for trajectory in absent:
        assert "Record the run" in embedding_of(trajectory).absent
    assert len(absent) == 4


def test_few_classes_have_labels_and_very_many_are_thinned():
    rng = np.random.default_rng(1)
    few = embedding_of(modular(5, rng.normal(size=(2, 5, 3))))
    assert re.findall(r">(\d)</text>", draw_plane(few, few.moments[0])) == ["0", "1", "2", "3", "4"]
    many = embedding_of(modular(1500, rng.normal(size=(8, 1500, 2))))
    assert len(many.classes) == 1000
    assert many.notes == ("1,000 of 1,500 classes are drawn, evenly chosen; the axes and shares are of all.",)
    assert len(many.moments) * len(many.classes) <= 6000
    assert "</text></g>" not in draw_plane(many, many.moments[0])


def test_the_page_shows_the_moments_still_and_sliding(represented_page: str):
    section = represented_page[represented_page.index('class="embedding"') :]
    section = section[: section.index("</section>")]
    assert 'type="range"' in section
    assert section.count("<figure>") == 3
    assert section.count('role="img"') == 5
    assert "Fourier spectrum of the embedding (weights/embedding.weight)" in section
    moments = payload_of(represented_page)["embedding"]["moments"]
    assert len(moments) == MOMENTS
    assert all(len(moment["points"]) == 2 * 113 for moment in moments)
    assert "<title>112</title>" in section


def test_colours_of_classes_stand_out_from_both_papers():
    colours = cyclic_colours(48)
    assert len(set(colours)) == 48
    for paper in ("#ffffff", "#14171b"):
        for colour in colours:
            lighter, darker = sorted((luminance(paper), luminance(colour)), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 3, colour
