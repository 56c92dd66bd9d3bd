from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import examples
from browser import chromium
from twoclocks.report.page import render_page
from twoclocks.trajectory import Series

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.find() is None, reason="no chromium on this machine"),
]

# In each panel: for each line, how many pixels of the canvas have its colour (to within rounding and smoothing).
DRAWN = """(() => [...document.querySelectorAll("[data-panel]")].map((figure) => {
  const canvas = figure.querySelector("canvas");
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const pen = copy.getContext("2d", { willReadFrequently: true });
  const colours = [...figure.querySelectorAll(".swatch line")].map((line) => {
    pen.fillStyle = getComputedStyle(line).stroke;
    pen.fillRect(0, 0, 1, 1);
    return pen.getImageData(0, 0, 1, 1).data;
  });
  pen.clearRect(0, 0, 1, 1);
  pen.drawImage(canvas, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  const distance = (i, colour) => [0, 1, 2].reduce((sum, k) => sum + Math.abs(pixels[i + k] - colour[k]), 0);
  return colours.map((colour) => {
    let count = 0;
    for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 200 && distance(i, colour) < 30) count++;
    return count;
  });
}))()"""
READ = """[...document.querySelectorAll("[data-panel]")].map((figure) =>
  [...figure.querySelectorAll(".at, .value")].map((cell) => cell.textContent).reverse())"""
PLACE = """(() => { const over = document.querySelector(".u-over"); over.scrollIntoView({ block: "center" });
  const box = over.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; })()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    running = chromium.launch(str(chromium.find()), tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("run") / "report.html"
    path.write_text(render_page(*examples.grokking()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def represented(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("represented") / "report.html"
    path.write_text(render_page(*examples.represented()), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_panel_is_drawn_without_complaint_or_request(browser, report, width: int, scheme: str):
    page = chromium.open_page(browser, report, width=width, scheme=scheme)
    assert page.complaints() == []
    assert page.requests() == [report]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    drawn = page.evaluate(DRAWN)
    assert [len(lines) for lines in drawn] == [2, 2, 3, 3, 3, 6, 4]
    assert min(min(lines) for lines in drawn) > 40
    page.close()


def test_without_scripts_the_static_drawings_stand_there(browser, report):
    page = chromium.open_page(browser, report, scripts=False)
    heights = page.evaluate(
        '[...document.querySelectorAll(".static svg")].map((svg) => svg.getBoundingClientRect().height)'
    )
    assert len(heights) == 7
    assert min(heights) > 100
    assert page.evaluate('document.querySelector(".toolbar").offsetHeight') == 0
    page.close()


def test_print_shows_the_static_drawings_in_light_colours(browser, report):
    page = chromium.open_page(browser, report, scheme="dark", media="print")
    shown = page.evaluate('[".static", ".live"].map((name) => document.querySelector(name).offsetHeight > 0)')
    assert shown == [True, False]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()


def test_the_pointer_reads_all_panels_and_a_drag_zooms_them(browser, report):
    page = chromium.open_page(browser, report)
    left, top, width, height = page.evaluate(PLACE)
    page.mouse("mouseMoved", left + 0.5 * width, top + height / 2)
    read = page.evaluate(READ)
    assert len(read) == 7
    assert all(all(cells) for cells in read)
    assert all(cells[0].startswith("at optimiser step ") for cells in read)
    before = page.evaluate(DRAWN)
    page.mouse("mousePressed", left + 0.6 * width, top + height / 2, button="left", clickCount=1, buttons=1)
    page.mouse("mouseMoved", left + 0.9 * width, top + height / 2, button="left", buttons=1)
    page.mouse("mouseReleased", left + 0.9 * width, top + height / 2, button="left", clickCount=1)
    zoomed = page.evaluate(DRAWN)
    assert all(a != b for a, b in zip(before, zoomed, strict=True))
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            page.mouse(kind, left + 0.5 * width, top + height / 2, button="left", clickCount=count)
    assert page.evaluate(DRAWN) == before
    assert page.complaints() == []
    page.close()


def test_keys_read_values_and_zoom(browser, report):
    page = chromium.open_page(browser, report)
    whole = page.evaluate(DRAWN)
    page.evaluate('document.querySelector(".live").focus()')
    page.press("ArrowRight")
    assert page.evaluate('document.querySelector(".spoken").textContent').startswith("optimiser step 0: train0.00")
    page.press("ArrowRight")
    assert page.evaluate(READ)[0][0] == "at optimiser step 1"
    page.press("+")
    assert page.evaluate(DRAWN) != whole
    page.press("Escape")
    assert page.evaluate(DRAWN) == whole
    page.close()


def test_a_line_of_the_legend_can_be_hidden_and_stays_so_on_another_axis(browser, report):
    page = chromium.open_page(browser, report)
    page.evaluate('document.querySelectorAll(".legend button")[1].click()')
    assert page.evaluate('document.querySelectorAll(".legend button")[1].getAttribute("aria-pressed")') == "false"
    train, held_out = page.evaluate(DRAWN)[0]
    assert (train > 40, held_out) == (True, 0)
    page.evaluate('document.querySelector("input[value=linear]").click()')
    assert page.evaluate(DRAWN)[0][1] == 0
    page.evaluate('document.querySelectorAll(".legend button")[1].click()')
    assert page.evaluate(DRAWN)[0][1] > 40
    page.close()


def test_the_axis_switches_to_linear_and_to_optimiser_time(browser, report):
    page = chromium.open_page(browser, report)
    logarithmic = page.evaluate(DRAWN)
    page.evaluate('document.querySelector("input[value=linear]").click()')
    assert all(a != b for a, b in zip(logarithmic, page.evaluate(DRAWN), strict=True))
    page.evaluate('document.querySelector("input[value=flow]").click()')
    assert min(min(lines) for lines in page.evaluate(DRAWN)) > 40
    left, top, width, height = page.evaluate(PLACE)
    page.mouse("mouseMoved", left + 0.5 * width, top + height / 2)
    assert page.evaluate(READ)[0][0].startswith("at Σ lr ")
    assert page.complaints() == []
    page.close()


def test_optimiser_time_is_closed_where_it_was_not_recorded_and_strangers_run_nothing(browser, tmp_path: Path):
    step = np.arange(0, 3)
    names = ("train_accuracy", f"rank {examples.HOSTILE}")
    evidence, diagnosis = examples.plain({name: Series(name, "", step, np.full((1, 3), 0.5)) for name in names})
    diagnosis = replace(diagnosis, label=examples.HOSTILE, summary=examples.HOSTILE)
    path = tmp_path / "report.html"
    path.write_text(render_page(evidence, diagnosis), encoding="utf-8")
    page = chromium.open_page(browser, path.as_uri())
    assert page.complaints() == []
    assert page.evaluate('document.querySelector("input[value=flow]").disabled') is True
    assert page.evaluate('document.querySelectorAll("h1 *, h1 ~ script, img").length') == 0
    assert len(page.evaluate(DRAWN)) == 2
    page.close()


def test_several_runs_are_all_drawn(browser, tmp_path: Path):
    for runs in (3, 12):
        path = tmp_path / f"{runs}.html"
        path.write_text(render_page(*examples.grokking(runs)), encoding="utf-8")
        page = chromium.open_page(browser, path.as_uri())
        assert page.complaints() == []
        assert min(min(lines) for lines in page.evaluate(DRAWN)) > 20
        page.close()


MOVED = """(() => [document.querySelector(".plane .dots g").getAttribute("transform"),
  document.querySelector(".sliding .bars").getAttribute("d"), document.querySelector("output").textContent])()"""


def test_a_slider_shows_the_moments_by_keys_and_by_name(browser, represented):
    page = chromium.open_page(browser, represented)
    assert page.evaluate('document.querySelector(".stills").offsetHeight') == 0
    end = page.evaluate(MOVED)
    assert end[2] == "optimiser step 20,000 (end)"
    page.evaluate('document.querySelector("#moment").focus()')
    page.press("ArrowLeft")
    before = page.evaluate(MOVED)
    assert all(a != b for a, b in zip(before, end, strict=True))
    assert page.evaluate('document.querySelector("#moment").getAttribute("aria-valuetext")') == before[2]
    page.evaluate('document.querySelector(".chooser button").click()')
    assert page.evaluate(MOVED)[2] == "optimiser step 0 (start)"
    assert page.evaluate('document.querySelector(".chooser button").getAttribute("aria-pressed")') == "true"
    assert page.complaints() == []
    page.close()


def test_without_scripts_and_in_print_three_moments_stand_still(browser, represented):
    for how in ({"scripts": False}, {"media": "print"}):
        page = chromium.open_page(browser, represented, **how)
        heights = page.evaluate('[...document.querySelectorAll(".stills figure")].map((f) => f.offsetHeight)')
        assert len(heights) == 3
        assert min(heights) > 150
        assert page.evaluate('document.querySelector(".sliding").offsetHeight') == 0
        page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_strip_fits_its_column_and_stands_below_the_ladder(browser, represented, width: int):
    page = chromium.open_page(browser, represented, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    places = page.evaluate("""[...document.querySelectorAll('[data-panel="ladder"] .u-over, .heats div:not(.heat-time) svg')]
      .map((box) => box.getBoundingClientRect()).map((box) => [box.left, box.right])""")
    assert len(places) == 3
    assert all(abs(a - b) <= 2 for place in places[1:] for a, b in zip(places[0], place, strict=True))
    assert page.complaints() == []
    page.close()


def test_a_group_can_be_closed_and_opened_again(browser, represented):
    page = chromium.open_page(browser, represented)
    before = page.evaluate(DRAWN)
    page.evaluate('document.querySelector(".group summary").click()')
    assert (
        page.evaluate('document.querySelector(".group .panel").checkVisibility({ contentVisibilityAuto: true })')
        is False
    )
    page.evaluate('document.querySelector(".group summary").click()')
    assert page.evaluate(DRAWN) == before
    assert page.complaints() == []
    page.close()
