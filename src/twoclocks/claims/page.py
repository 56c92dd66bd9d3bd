"""This file knows how the answers to published claims are written down: one Markdown page, its pictures beside it.

The page holds one part for each set of claims, between two comments, so that one set can be measured without the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twoclocks.claims.answers import Answer, Picture, Table
from twoclocks.claims.drawing import drawn
from twoclocks.store import replace_file

TITLE = "Published claims, measured again"
PART = r"<!-- begin ([\w-]+) -->\n(.*?)\n<!-- end \1 -->"


@dataclass(frozen=True)
class Section:
    """Answers from other runs than the page's own: a title, what was done and why, a comparison, and which answers.

    `key` goes before the names of its pictures.
    """

    key: str
    title: str
    preface: tuple[str, ...]
    comparison: Table
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Page:
    """The answers of a set of claims: its name and title, what must be said before, and a section on other runs.

    `tables` stand between the short answer and the questions.
    """

    name: str
    title: str
    preface: tuple[str, ...]
    answers: tuple[Answer, ...]
    section: Section | None = None
    tables: tuple[Table, ...] = ()


def write_claims(path: Path, page: Page) -> Path:
    """Write one set of claims into the page and, before it, its pictures in a folder of the page's name.

    Each file is replaced whole; the parts of other sets are kept.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures_of(page).items():
        replace_file(folder / name, drawn(picture))
    parts = parts_of(path.read_text()) if path.exists() else {}
    parts[page.name] = as_text(page, folder.name)
    replace_file(path, joined_parts(parts).encode())
    return path


def parts_of(text: str) -> dict[str, str]:
    """Return the parts of a page by the names of their sets.

    >>> parts_of("# T\\n\\n<!-- begin clocks -->\\nA\\n<!-- end clocks -->\\n")
    {'clocks': 'A'}
    """
    return {name: part.strip() for name, part in re.findall(PART, text, re.DOTALL)}


def joined_parts(parts: Mapping[str, str]) -> str:
    """Return a page of parts, by name, that `parts_of` takes apart again."""
    written = (f"<!-- begin {name} -->\n\n{parts[name].strip()}\n\n<!-- end {name} -->" for name in sorted(parts))
    return "\n\n".join([f"# {TITLE}", *written]) + "\n"


def pictures_of(page: Page) -> dict[str, Picture]:
    """Return every picture of a page by its file name."""
    own = {file_of(picture, page.name): picture for answer in page.answers for picture in answer.pictures}
    if page.section is None:
        return own
    key = f"{page.name}-{page.section.key}"
    return own | {file_of(picture, key): picture for answer in page.section.answers for picture in answer.pictures}


def file_of(picture: Picture, key: str) -> str:
    """Return the file name of a picture."""
    return f"{key}-{picture.key}.svg"


def as_text(page: Page, folder: str) -> str:
    """Return the page as Markdown: the short answer, what was done, and then each question."""
    section = page.section
    parts = [f"## {page.title}", as_markdown(summary(page)), *page.preface, *map(as_markdown, page.tables)]
    for answer in page.answers:
        parts += written(answer, folder, page.name, f"### ({answer.letter}) {answer.question}")
    if section is not None:
        parts += [f"### {section.title}", *section.preface, as_markdown(section.comparison)]
        for answer in section.answers:
            key = f"{page.name}-{section.key}"
            parts += written(answer, folder, key, f"#### ({answer.letter}), {section.title.lower()}")
    return "\n\n".join(parts) + "\n"


def summary(page: Page) -> Table:
    """Return the short answer: each claim and its parts, how they came out, and how on the other runs if there are any."""
    other = {} if page.section is None else {answer.letter: answer for answer in page.section.answers}
    rows = [row for answer in page.answers for row in summary_rows(answer, other.get(answer.letter))]
    head = ("", "claim as published", "here", *([page.section.title.lower()] if page.section else []))
    return Table(head, tuple(row[: len(head)] for row in rows))


def summary_rows(answer: Answer, other: Answer | None) -> list[tuple[str, ...]]:
    """Return the rows of one claim: the whole, its parts, and what else was asked."""
    there = {} if other is None else {part.claim: str(part.finding) for part in (*other.parts, *other.asides)}
    whole = "–" if other is None else f"**{other.finding}**"
    parts = [("", f"· {part.claim}", str(part.finding), there.get(part.claim, "–")) for part in answer.parts]
    asides = [("", f"asked besides: {one.claim}", str(one.finding), there.get(one.claim, "–")) for one in answer.asides]
    return [(f"({answer.letter})", answer.claim, f"**{answer.finding}**", whole), *parts, *asides]


def written(answer: Answer, folder: str, key: str, heading: str) -> list[str]:
    """Return one answer as paragraphs: heading, claim, what was found, parts, tables, pictures and notes."""
    judged = [*answer.parts, *answer.asides]
    parts = Table(
        ("part", "holds if", "found", "outcome"),
        tuple((part.claim, part.rule, part.found, f"**{part.finding}**") for part in judged),
    )
    figures = [
        f"![{picture.title}]({folder}/{file_of(picture, key)})\n\n*{picture.caption}*" for picture in answer.pictures
    ]
    return [
        heading,
        f"Claim: {answer.claim}.",
        f"**{answer.finding.capitalize()}.** {answer.found}",
        *(as_markdown(table) for table in (parts, *answer.tables)),
        *figures,
        *answer.notes,
    ]


def as_markdown(table: Table) -> str:
    """Return a table as Markdown.

    >>> print(as_markdown(Table(("a", "b"), (("1", "x|y"),))))
    | a | b |
    |---|---|
    | 1 | x\\|y |
    """
    lines = [table.head, *table.rows]
    rows = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(table.head), *rows[1:]])
