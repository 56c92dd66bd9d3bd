"""This file knows the page: one file with the verdict, its evidence and the figure, which needs no network."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from twoclocks.diagnosis import Clock, Diagnosis
from twoclocks.evidence import Evidence
from twoclocks.report.embedding import Embedding, embedding_of, heading, spectrum_words
from twoclocks.report.embedding import told as moment_words
from twoclocks.report.embedding_figures import (
    MOST_LABELLED,
    draw_bars,
    draw_colours,
    draw_plane,
    payload_of,
    plane_words,
)
from twoclocks.report.figures import COLOURS, DASHES, GRID, INK, MUTED, draw_figure, draw_panel
from twoclocks.report.numbers import count, number, sentence, tick_label
from twoclocks.report.panels import POINTS, FigureData, Line, Panel, alone, figure_data
from twoclocks.report.plans import LADDER
from twoclocks.report.plot_figures import draw_plot
from twoclocks.report.plots import CellTable, Curve, Plot, order_table, plots_of
from twoclocks.report.strip_figures import draw_heat, draw_time
from twoclocks.report.strips import Strip, level_words, strip_of
from twoclocks.store import replace_file, told
from twoclocks.trajectory import Array
from twoclocks.verdicts import Outcome, Verdict

if TYPE_CHECKING:
    from twoclocks.decomposition import Decomposition

LARGEST_PAGE = 1_000_000  # bytes
LONGEST_TEXT, LONGEST_LIST = 400, 100  # logs come from strangers
DIGITS = 5
NOT_SETTINGS = ("versions", "cost")
# What the hundreds of the verdicts' codes are about.
CHAPTERS = {
    "TC1": "Curves",
    "TC2": "Ladder",
    "TC3": "Fast clock",
    "TC4": "Slow clock",
    "TC5": "Gates",
    "TC6": "Block speeds",
}
CONDITIONS = ("TC3", "TC4", "TC5", "TC6")  # they decide no label


def write_report(evidence: Evidence, diagnosis: Diagnosis, path: Path) -> Path:
    """Write the page to `path`, and the same figure for print beside it as .svg; each file whole or not at all."""
    with told(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path.with_suffix(".svg"), draw_figure(figure_data(evidence, diagnosis)).encode())
    replace_file(path, render_page(evidence, diagnosis).encode())
    return path


def render_page(evidence: Evidence, diagnosis: Diagnosis) -> str:
    """Return the page as HTML, at most 1 MB: where it would be larger, its lines are thinned further."""
    page = ""
    for points in (POINTS, POINTS // 2, POINTS // 4, POINTS // 12):
        page = page_of(evidence, diagnosis, figure_data(evidence, diagnosis, points=points))
        if len(page.encode()) <= LARGEST_PAGE:
            break
    return page


def page_of(evidence: Evidence, diagnosis: Diagnosis, figure: FigureData) -> str:
    """Return the page that shows this figure."""
    style = asset("static", "uPlot.min.css") + asset("static", "page.css")
    scripts = [asset("static", "uPlot.iife.min.js"), asset("static", "page.js")]
    settings = evidence.trajectory.settings
    plots, order = plots_of(evidence), order_table(evidence)
    strip, view = strip_of(evidence), embedding_of(evidence.trajectory)
    page: str = template().render(
        diagnosis=diagnosis,
        decisive=[
            verdict
            for verdict in diagnosis.verdicts
            if verdict.outcome in (Outcome.SUPPORTED, Outcome.UNDETERMINED) and verdict.code[:3] not in CONDITIONS
        ],
        source=diagnosis.source,
        figure=figure,
        groups=grouped(figure.panels, strip),
        strip=strip,
        heats=[(heat.title, Markup(draw_heat(figure, strip, heat))) for heat in strip.heats],
        heat_time=Markup(draw_time(figure)),
        penalties=[tick_label(float(penalty)) for penalty in strip.penalty[::-1]],
        levels=level_words(),
        view=view,
        pictures=pictures(view),
        drawings={panel.key: themed(draw_panel(figure, panel)) for panel in figure.panels if panel.lines},
        descriptions={
            panel.key: escape(description(panel, figure.time.name)) for panel in figure.panels if panel.lines
        },
        plots=[plot for plot in plots if plot.curves],
        plot_drawings={plot.key: themed(draw_plot(plot)) for plot in plots if plot.curves},
        plot_descriptions={plot.key: escape(plot_description(plot)) for plot in plots if plot.curves},
        order=order,
        absences=absences((*figure.panels, strip, view, *plots, order)),
        chapters=chapters([v for v in diagnosis.verdicts if v.outcome is not Outcome.NOT_APPLICABLE]),
        inapplicable=[v for v in diagnosis.verdicts if v.outcome is Outcome.NOT_APPLICABLE],
        presets=preset_rows(evidence.presets),
        settings=list(flattened({k: v for k, v in settings.items() if k not in NOT_SETTINGS})),
        versions=list(
            flattened({"twoclocks (this page)": twoclocks_version(), **as_mapping(settings.get("versions"))})
        ),
        cost=list(flattened(as_mapping(settings.get("cost")))),
        policy=policy(style, scripts),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data=Markup(embedded(payload(figure) | {"embedding": payload_of(view)})),
    )
    return page


@cache
def template() -> Any:
    """Return the template of the page, which escapes whatever it is given."""
    environment = Environment(
        loader=FunctionLoader(lambda name: asset("templates", name)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shortened,
    )
    environment.filters |= {
        "number": number, "count": count, "strikes": strikes, "criterion": criterion, "sentence": sentence,
    }  # fmt: skip
    environment.globals |= {"colours": len(COLOURS), "dashes": DASHES, "longest": LONGEST_LIST, "ladder": LADDER}
    return environment.get_template("report.html")


@cache
def asset(*path: str) -> str:
    """Return the text of a file that is installed with this package."""
    return files("twoclocks.report").joinpath(*path).read_text(encoding="utf-8")


def shortened(value: Any) -> Any:
    """Return a text from outside cut to a length that a page can bear."""
    if isinstance(value, Markup) or not isinstance(value, str) or len(value) <= LONGEST_TEXT:
        return value
    return f"{value[:LONGEST_TEXT]}…"


def policy(style: str, scripts: list[str]) -> str:
    """Return the content-security policy: nothing from anywhere but these very blocks, known by their hashes."""
    allowed = " ".join(f"'{hash_of(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src '{hash_of(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def hash_of(block: str) -> str:
    """Return the hash by which a browser knows an inline block."""
    return f"sha256-{b64encode(sha256(block.encode()).digest()).decode()}"


def embedded(value: object) -> str:
    """Return JSON that stands in a script element and cannot end it.

    >>> embedded({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def payload(figure: FigureData) -> dict[str, Any]:
    """Return what the page's script draws: every grid of steps once, then the lines over them."""
    grids: dict[bytes, int] = {}
    lists: list[list[float]] = []
    panels = [
        {
            "key": panel.key,
            "log": panel.log,
            "bounds": panel.bounds,
            "levels": panel.levels,
            "lines": [line_payload(line, grids, lists) for line in panel.lines],
        }
        for panel in figure.panels
        if panel.lines
    ]
    return {
        "unit": figure.time.name,
        "flow": None if figure.flow_time is None else [rounded(values) for values in figure.flow_time],
        "marks": [{"step": mark.step, "label": mark.label, "kind": mark.kind} for mark in figure.marks],
        "dashes": DASHES,
        "colours": len(COLOURS),
        "grids": lists,
        "panels": panels,
    }


def line_payload(line: Line, grids: dict[bytes, int], lists: list[list[float]]) -> dict[str, Any]:
    """Return one line for the page's script, its steps named by their place in `lists`, to which new ones are added."""
    key = np.asarray(line.x, np.float64).tobytes()
    if key not in grids:
        grids[key] = len(lists)
        lists.append(line.x.tolist())
    band = {} if line.low is None or line.high is None else {"low": rounded(line.low), "high": rounded(line.high)}
    dots = [] if line.faint else alone(line).tolist()
    return {
        "name": line.name,
        "style": line.style,
        "faint": line.faint,
        "x": grids[key],
        "y": rounded(line.y),
        "dots": dots,
        **band,
    }


def rounded(values: Array) -> list[float | int | None]:
    """Return values with five significant digits, and None for those that are not finite."""
    return [short(float(f"{v:.{DIGITS}g}")) if np.isfinite(v) else None for v in values.tolist()]


def short(value: float) -> float | int:
    """Return a whole number as such: "1", not "1.0", thousands of times."""
    return int(value) if value.is_integer() and abs(value) < 1e9 else value


def themed(svg: str) -> Markup:
    """Return a drawing in the colours of the page's theme."""
    names = {INK: "ink", MUTED: "muted", GRID: "grid"} | {colour: f"line-{i}" for i, colour in enumerate(COLOURS)}
    for colour, name in names.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg)


def grouped(panels: Iterable[Panel], strip: Strip) -> list[tuple[str, str, list[Panel]]]:
    """Return (id, heading, panels) of every group in which something is drawn, in the order of the panels."""
    found: dict[str, list[Panel]] = {}
    for panel in panels:
        if panel.lines or (panel.group == LADDER and strip.heats):
            found.setdefault(panel.group, []).extend([panel] * bool(panel.lines))
    return [(f"group-{heading.split()[0].lower().strip(',')}", heading, inside) for heading, inside in found.items()]


def pictures(view: Embedding) -> dict[str, Any]:
    """Return the drawings of the embedding view: one that the slider moves, and stills; with what is said of each."""
    if not view.moments:
        return {}
    last = view.moments[-1]
    stills = [view.moments[place] for place in view.stills]
    bars = {moment.step: Markup(draw_bars(view, moment)) if view.modulus else "" for moment in (last, *stills)}
    return {
        "plane": Markup(draw_plane(view, last, titled=True)),
        "bars": bars[last.step],
        "colours": Markup(draw_colours(view)),
        "is_labelled": len(view.classes) <= MOST_LABELLED,
        "stills": [
            {
                "at": heading(moment, view.unit),
                "plane": Markup(draw_plane(view, moment)),
                "bars": bars[moment.step],
                "words": escape(plane_words(view, moment)),
                "told": moment_words(moment, view),
                "spectrum": spectrum_words(moment, view) if view.modulus else "",
            }
            for moment in stills
        ],
        "named": [(place, moment.name) for place, moment in enumerate(view.moments) if moment.name],
    }


def description(panel: Panel, time: str) -> str:
    """Return in words what a panel shows, for those who cannot see it."""
    return f"{panel.title}, {panel.unit}, over {time}. " + " ".join(
        course(line) for line in panel.lines if not line.faint
    )


def course(line: Line) -> str:
    """Return in words where a line begins, ends, and is lowest and highest."""
    seen = np.flatnonzero(np.isfinite(line.y))
    x, y = line.x[seen], line.y[seen]
    low, high = int(y.argmin()), int(y.argmax())
    return (
        f"{line.name}: from {number(y[0])} at {count(x[0])} to {number(y[-1])} at {count(x[-1])}; "
        f"lowest {number(y[low])} at {count(x[low])}, highest {number(y[high])} at {count(x[high])}."
    )


def plot_description(plot: Plot) -> str:
    """Return in words what a plot shows, for those who cannot see it."""
    axes = f"{plot.title}: {plot.y_name} against {plot.x_name}. "
    levels = "".join(f" {label} at {number(level)}." for level, label in plot.levels)
    return axes + " ".join(reach(curve) for curve in plot.curves if not curve.faint) + levels


def reach(curve: Curve) -> str:
    """Return in words from where to where a curve leads."""
    censored = 0 if curve.open is None else int(curve.open.sum())
    ends = [f"{number(float(curve.y[i]))} at {number(float(curve.x[i]))}" for i in (0, -1)]
    return f"{curve.name}: from {ends[0]} to {ends[1]}{f', {censored} not reached' if censored else ''}."


def absences(drawn: Iterable[Panel | Plot | CellTable | Strip | Embedding]) -> list[tuple[str, str]]:
    """Return what is not drawn and why, those with the same reason together."""
    titles: dict[str, list[str]] = {}
    for one in drawn:
        if one.absent:
            titles.setdefault(one.absent, []).append(one.title)
    return [("; ".join(names), why) for why, names in titles.items()]


def chapters(verdicts: Iterable[Verdict]) -> list[tuple[str, list[Verdict]]]:
    """Return verdicts under the headings of their codes' hundreds, in the order of these."""
    found: dict[str, list[Verdict]] = {heading: [] for heading in (*CHAPTERS.values(), "Other claims")}
    for verdict in verdicts:
        found[CHAPTERS.get(verdict.code[:3], "Other claims")].append(verdict)
    return [(heading, judged) for heading, judged in found.items() if judged]


def strikes(clock: Clock) -> str:
    """Return when a clock strikes, or after which step it still had not."""
    return count(clock.value) if clock.value is not None else f"> {count(clock.last)}"


def criterion(clock: Clock) -> str:
    """Return what a clock waits for."""
    past = "≤" if clock.name.startswith(("T_cls", "T_rep")) else "≥"
    series = clock.of.replace("heldout", "held-out").replace("_", " ")
    row = f"{clock.sustained} in a row" if clock.sustained > 1 else "once"
    return f"{series} {past} {tick_label(clock.threshold)}, {row}"


def preset_rows(presets: Mapping[str, Decomposition]) -> list[dict[str, Any]]:
    """Return the ladder under each probe preset, moment by moment, the median over the runs it was fitted to."""
    rows = [
        {
            "preset": name,
            "step": step,
            "native": float(np.nanmedian(preset.native[:, t])),
            "train_probe": float(np.nanmedian(preset.train_probe[:, t])),
            "heldout_probe": float(np.nanmedian(preset.heldout_probe[:, t])),
        }
        for name, preset in presets.items()
        for t, step in enumerate(preset.step.tolist())
        if np.isfinite(preset.native[:, t]).any()
    ]
    return sorted(rows, key=lambda row: row["step"])


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping as it is, nothing as an empty one, and anything else under one name."""
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else {"value": value}


def flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every setting with its path.

    >>> list(flattened({"optimizer": {"lr": 0.001}, "seed": 0}))
    [('optimizer.lr', '0.001'), ('seed', '0')]
    """
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def twoclocks_version() -> str:
    """Return the version of this package, or that it is not installed."""
    try:
        return version("twoclocks")
    except PackageNotFoundError:
        return "not installed"
