"""This file knows how the answers to published claims are written down: one Markdown page, its pictures beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twoclocks.claims.answers import Answer, Picture, Table
from twoclocks.claims.drawing import drawn
from twoclocks.store import replace_file


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
    """A page of answers: its title, what must be said before them, the answers, and a section on other runs."""

    title: str
    preface: tuple[str, ...]
    answers: tuple[Answer, ...]
    section: Section


def write_claims(path: Path, page: Page) -> Path:
    """Write the page and, before it, its pictures in a folder of the page's name; each file is replaced whole."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures_of(page).items():
        replace_file(folder / name, drawn(picture))
    replace_file(path, as_text(page, folder.name).encode())
    return path


def pictures_of(page: Page) -> dict[str, Picture]:
    """Return every picture of a page by its file name."""
    own = {file_of(picture): picture for answer in page.answers for picture in answer.pictures}
    others = {
        file_of(picture, page.section.key): picture for answer in page.section.answers for picture in answer.pictures
    }
    return own | others


def file_of(picture: Picture, key: str = "") -> str:
    """Return the file name of a picture."""
    return f"{key}-{picture.key}.svg" if key else f"{picture.key}.svg"


def as_text(page: Page, folder: str) -> str:
    """Return the page as Markdown: the short answer, what was done, and then each question."""
    section = page.section
    parts = [f"# {page.title}", as_markdown(summary(page)), *page.preface]
    for answer in page.answers:
        parts += written(answer, folder, "", f"## ({answer.letter}) {answer.question}")
    parts += [f"## {section.title}", *section.preface, as_markdown(section.comparison)]
    for answer in section.answers:
        parts += written(answer, folder, section.key, f"### ({answer.letter}), {section.title.lower()}")
    return "\n\n".join(parts) + "\n"


def summary(page: Page) -> Table:
    """Return the short answer: each claim and its parts, how they came out, and how on the other runs."""
    other = {answer.letter: answer for answer in page.section.answers}
    rows = [row for answer in page.answers for row in summary_rows(answer, other.get(answer.letter))]
    return Table(("", "claim as published", "here", page.section.title.lower()), tuple(rows))


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
