"""This file knows how a diagnosis reads as text: the page that a tired person sees in a terminal.

It renders the JSON form, so that what is printed can never say more than what is stored.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MARKS = {"SUPPORTED": "yes", "REFUTED": "no", "UNDETERMINED": "open"}
STYLES = {"bold": "1", "dim": "2", "yes": "32", "no": "31", "open": "33"}
CURVES = ("T_cls", "T_rep")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
Paint = Callable[[str, str], str]


def as_text(diagnosis: Mapping[str, Any], *, width: int = 88, colour: bool = False) -> str:
    """Return a diagnosis as text of at most `width` columns, with ANSI styles if `colour` is set."""
    paint: Paint = painted if colour else lambda style, text: text
    width, diagnosis = max(48, width), cleaned(diagnosis)
    blocks = [
        heading(diagnosis, width, paint),
        section(
            "Stop now?", [f"{paint('bold', diagnosis['stop']['answer'])}: {diagnosis['stop']['why']}"], width, paint
        ),
        section("Clocks", [*clock_lines(diagnosis["clocks"]), *curve_lines(diagnosis["clocks"])], width, paint),
        section("Why", verdict_lines(diagnosis["verdicts"], ("SUPPORTED", "UNDETERMINED"), paint), width, paint),
        section(
            "Ruled out",
            [f"{v['claim']} [{v['code']}]" for v in diagnosis["verdicts"] if v["outcome"] == "REFUTED"],
            width,
            paint,
        ),
        section("Overturned by", [diagnosis["overturned_by"]] if diagnosis["overturned_by"] else [], width, paint),
        section("You could", [offer_line(offer) for offer in diagnosis["offers"]], width, paint),
        section("Events", event_lines(diagnosis["events"]), width, paint),
        section("Cannot tell", diagnosis["cannot_tell"], width, paint),
        section("Measure next", diagnosis["measure_next"], width, paint),
        section("Read as", source_lines(diagnosis["source"]), width, paint),
    ]
    return "\n".join(block for block in blocks if block)


def heading(diagnosis: Mapping[str, Any], width: int, paint: Paint) -> str:
    """Return the label with its kind and confidence, and the summary."""
    kind = f" · {diagnosis['kind']}" if diagnosis["kind"] else ""
    if diagnosis["label"] == "grokking" and diagnosis["kind"] == "undetermined":
        kind = " · kind undetermined"
    label = f"{diagnosis['label'].upper()}{kind}"
    confidence = f"confidence: {diagnosis['confidence']}"
    gap = " " * max(2, width - len(label) - len(confidence))
    return f"{paint('bold', label)}{gap}{confidence}\n{wrapped(diagnosis['summary'], width, '')}\n"


def section(title: str, lines: Sequence[str], width: int, paint: Paint) -> str:
    """Return a titled block: the title in the left margin, each entry wrapped beside it; nothing where there is no entry."""
    if not lines:
        return ""
    margin = 15
    body = [wrapped(line, width, " " * margin) for line in lines]
    first = body[0].removeprefix(" " * margin)
    return "\n".join([paint("bold", f"{title:<{margin - 1}}") + " " + first, *body[1:]]) + "\n"


def clock_lines(clocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for every clock that is not part of a curve."""
    return [clock_line(clock) for clock in clocks if not clock["name"].startswith(CURVES)]


def curve_lines(clocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each clock that is a curve: the times (medians over runs) of its thresholds, largest first."""
    lines = []
    for name in CURVES:
        curve = [clock for clock in clocks if clock["name"].startswith(name)]
        times = [
            f"{clock['threshold']:g}: {'> ' if clock['censored'] else ''}"
            f"{clock['last'] if clock['censored'] else clock['value']:g}"
            for clock in curve
        ]
        if curve:
            rule = f"{spoken(curve[0]['of'])} at most this, {curve[0]['sustained']} in a row"
            lines.append(f"{name:<11}{curve[0]['unit']} by threshold  {', '.join(times)} ({rule})")
    return lines


def spoken(of: str) -> str:
    """Return the name of a series as it is said."""
    return of.replace("heldout", "held-out").replace("_", " ")


def clock_line(clock: Mapping[str, Any]) -> str:
    """Return one clock: its time with resolution, or the last step it is known to lie beyond."""
    rule = f"{spoken(clock['of'])} ≥ {clock['threshold']:g}"
    rule += f" ({clock['sustained']} in a row)" if clock["sustained"] > 1 else " (first crossing; never 5 in a row)"
    time = f"> {clock['last']:g}" if clock["censored"] else f"{clock['value']:g}"
    spacing = f" −{clock['resolution']:g}" if clock["resolution"] else ""
    several = len(clock["per_run"]) > 1
    runs = "; per run " + ", ".join("–" if v is None else f"{v:g}" for v in clock["per_run"]) if several else ""
    return f"{clock['name']:<11}{clock['unit']} {time + spacing:<12} {rule}{runs}{bounds_of(clock)}"


def bounds_of(clock: Mapping[str, Any]) -> str:
    """Return the interval of the median over runs, where there are several."""
    if clock.get("interval") is None:
        return ""
    low, high = clock["interval"]
    beyond = f"> {clock['last']:g}"
    return f"; 95 % of the median {beyond if low is None else f'{low:g}'} to {beyond if high is None else f'{high:g}'}"


def verdict_lines(verdicts: Sequence[Mapping[str, Any]], outcomes: Sequence[str], paint: Paint) -> list[str]:
    """Return the verdicts of some outcomes: claim, outcome, effect with interval and n, evidence."""
    return [
        f"{paint(MARKS[v['outcome']], MARKS[v['outcome']])}: {v['claim']} — "
        f"{'; '.join([*effect_words(v), *v['evidence']])} [{v['code']}]"
        for v in verdicts
        if v["outcome"] in outcomes
    ]


def effect_words(verdict: Mapping[str, Any]) -> list[str]:
    """Return the effect with its interval and the sample it comes from."""
    if verdict["effect"] is None:
        return []
    interval = verdict["interval"]
    bounds = f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else ""
    return [f"{verdict['effect_is']} {verdict['effect']:.3g}{bounds}, n = {verdict['n']} {verdict['unit_of_n']}"]


def offer_line(offer: Mapping[str, Any]) -> str:
    """Return what could be done, and what it would give."""
    low, high = offer["interval"]
    return (
        f"{offer['what']}: held-out accuracy {offer['heldout_accuracy']:.3f} ({low:.3f} to {high:.3f}, n = {offer['n']}) "
        f"instead of {offer['now']:.3f}"
    )


def event_lines(events: Sequence[Mapping[str, Any]], most: int = 6) -> list[str]:
    """Return the events, the first few of many."""
    lines = [
        event["what"] if event["step"] is None else f"step {event['step']}: {event['what']}" for event in events[:most]
    ]
    return lines + ([f"and {len(events) - most} more"] if len(events) > most else [])


def source_lines(source: Mapping[str, Any]) -> list[str]:
    """Return what was read, and what was assumed in reading it."""
    columns = ", ".join(
        f"{name} → {canonical}" if name != canonical else name for name, canonical in source["columns"].items()
    )
    what = ("row" if source["kind"] == "log" else "record") + ("" if source["rows"] == 1 else "s")
    return [f"{source['path']} ({source['rows']} {what})", *([columns] if columns else []), *source["assumed"]]


def wrapped(text: str, width: int, margin: str) -> str:
    """Return text wrapped to the width, continued lines indented by two."""
    return textwrap.fill(
        text,
        width,
        initial_indent=margin,
        subsequent_indent=margin + ("  " if margin else ""),
        break_on_hyphens=False,
    )


def cleaned(value: Any) -> Any:
    """Return a JSON value without control characters, which a stranger's log may send to the terminal."""
    if isinstance(value, str):
        return CONTROL.sub("", value)
    if isinstance(value, Mapping):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    return [cleaned(item) for item in value] if isinstance(value, (list, tuple)) else value


def painted(style: str, text: str) -> str:
    """Return text in an ANSI style."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style in STYLES else text
