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
from twoclocks.report.figures import draw_figure, draw_panel, label_rows, label_span, log_ticks
from twoclocks.report.page import LARGEST_PAGE, asset, render_page, write_report
from twoclocks.report.panels import Line, Mark, TimeAxis, figure_data, thinned
from twoclocks.trajectory import Event, Series, Source

DRAWN = ["accuracy", "loss", "ladder", "ranks", "norms", "margins", "speeds"]
OF_CONDITIONS = ["leads", "decreases", "gates", "structure", "balance", "objective"]  # drawn in test_plots.py


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
    assert [panel.key for panel in figure.panels] == DRAWN + OF_CONDITIONS
    assert [panel.key for panel in figure.panels if panel.lines] == DRAWN
    assert [line.name for line in figure.panels[2].lines] == ["native readout", "train-fit probe", "held-out-fit probe"]
    assert all(line.low is not None for line in figure.panels[2].lines)
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
