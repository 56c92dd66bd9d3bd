"""This file knows how a text file becomes a table of cells: delimited text, JSON lines, a JSON list or a JSON object of lists.

A cell is a number (NaN and infinities included, when written as such), or absent. Text cells are kept apart, since only a
column that names runs is ever asked for its text.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twoclocks.errors import InputError

MISSING = frozenset({"", "none", "null", "na", "n/a", "-", "--", "<na>", "#n/a", "missing"})
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
TENSOR = re.compile(r"tensor\(\[?\s*([^\],)]+)")
DELIMITERS = ("\t", ";", ",", "|")
LARGEST_FILE = 2_000_000_000
DEEPEST = 30  # objects within objects; a log has two or three


@dataclass(frozen=True)
class Table:
    """Named columns of equal length: `cells[name][row]` is a number, a text, or None where nothing was written.

    `exact` says that a NaN in it was recorded as one, and does not only fill a cell where nothing was written.
    """

    cells: Mapping[str, Sequence[float | str | None]]
    rows: int
    notes: tuple[str, ...] = ()
    percent: frozenset[str] = field(default_factory=frozenset)
    exact: bool = False

    def numbers(self, name: str) -> list[float | None]:
        """Return one column with its texts left out."""
        return [cell if isinstance(cell, float) else None for cell in self.cells[name]]

    def is_numeric(self, name: str) -> bool:
        """Return whether the column is one of numbers: it holds some, and more of them than texts."""
        numbers = sum(isinstance(cell, float) for cell in self.cells[name])
        return numbers > sum(isinstance(cell, str) for cell in self.cells[name])


@dataclass(frozen=True)
class Log:
    """What lies at a path: a table a run, by the run's name; what it was read as; the settings of runs, where known."""

    form: str
    runs: Mapping[str, Table]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_table(path: Path) -> Table:
    """Read a table from a file, whatever it is called.

    Raises:
        InputError: the file is missing, empty, binary, or holds no table.
    """
    return table_of_text(read_text(path), path)


def table_of_text(text: str, path: Path) -> Table:
    """Read a table from the text of a file."""
    start = text.lstrip()[:1]
    if start == "{" and not is_one_object(text):
        return table_of_lines(text, path)
    if start in ("[", "{"):
        return table_of_json(text, path)
    return table_of_delimited(text, path)


def read_text(path: Path) -> str:
    """Read a text file as UTF-8 or, by its byte order mark, UTF-16."""
    if not path.exists():
        raise InputError(f"{path} does not exist; give a log file (CSV, TSV, JSONL) or a run folder")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path} is larger than 2 GB; thin it to one row an evaluation and try again")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}; check the path and its permissions"
        ) from None
    if not content.strip():
        raise InputError(f"{path} is empty; expected a table with a header, such as step,train_loss,test_loss")
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if looks_binary(text):
        raise InputError(f"{path} is a binary file; expected a text table (CSV, TSV or JSONL)")
    return text


def looks_binary(text: str) -> bool:
    """Return whether decoded text holds what no text file holds: NULs, or many control characters."""
    sample = text[:20_000]
    control = sum(ch < " " and ch not in "\t\n\r\f\v\x1b" for ch in sample) + sum(
        "\x7f" <= ch < "\xa0" for ch in sample
    )
    return "\x00" in text or control > 0.02 * len(sample)


def is_one_object(text: str) -> bool:
    """Return whether the whole text is one JSON object (and not one object a line)."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def table_of_delimited(text: str, path: Path) -> Table:
    """Read CSV, TSV, or text with another delimiter; a header line that appears again is a restart, not data."""
    written = [line for line in text.splitlines() if line.strip()]
    lines = [line for line in written if not line.lstrip().startswith("#")]
    lines = with_commented_header(written, lines)
    if not lines:
        raise InputError(f"{path} holds only comments; expected a table with a header")
    delimiter = delimiter_of(lines)
    rows = split_rows(lines, delimiter, path) if delimiter else [line.split() for line in lines]
    header = [name.strip() for name in rows[0]]
    if all(number(cell, delimiter) is not None for cell in header):
        raise InputError(
            f"{path} has no header line (its first line is all numbers); add one, such as step,train_loss,test_loss"
        )
    notes = []
    if len(rows) > 1 and len(rows[-1]) < len(header) and not text.endswith(("\n", "\r")):
        rows.pop()
        notes.append("the last line was cut off and is left out")
    body = [row for row in rows[1:] if [cell.strip() for cell in row] != header]
    if len(body) < len(rows) - 1:
        notes.append(f"the header line appears {len(rows) - len(body)} times; the repeated ones are left out")
    body = of_header_width(body, len(header), notes, delimiter, path)
    if not text.endswith(("\n", "\r")):
        notes += without_torn_cell(body, len(header))
    names = unique_names(header)
    cells = {
        name: [cell_of(row[i], delimiter) if i < len(row) else None for row in body] for i, name in enumerate(names)
    }
    percent = {name for i, name in enumerate(names) if is_percent([row[i].strip() for row in body if i < len(row)])}
    return Table(cells, len(body), tuple(notes), frozenset(percent))


def is_percent(cells: Sequence[str]) -> bool:
    """Return whether most of what is written in a column ends with a percent sign."""
    written = [cell for cell in cells if cell.lower() not in MISSING]
    return sum(cell.endswith("%") for cell in written) > 0.5 * len(written)


def split_rows(lines: Sequence[str], delimiter: str, path: Path) -> list[list[str]]:
    """Split lines into cells at a delimiter, quotes respected."""
    try:
        return list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise InputError(
            f"{path} cannot be split into cells ({error}); look for a quote that is never closed"
        ) from None


def of_header_width(body: list[list[str]], width: int, notes: list[str], delimiter: str, path: Path) -> list[list[str]]:
    """Return the rows that have no more cells than the header: in a longer one nobody knows which cell is which."""
    longer = [row for row in body if any(cell.strip() for cell in row[width:])]
    if not longer or (not delimiter and len(longer) > 0.5 * len(body)):  # words after the numbers of a printed log
        return body
    if len(longer) > 0.5 * len(body):
        raise InputError(
            f"{path} has {width} names in its header and {len(longer[0])} cells in most rows; "
            "name every column, and write decimal points"
        )
    notes.append(f"{len(longer)} rows hold more cells than the header has names and are left out")
    return [row for row in body if not any(cell.strip() for cell in row[width:])]


def without_torn_cell(body: list[list[str]], width: int) -> list[str]:
    """Blank the last cell of a text without a last line end where it is shorter than all above it, and say so."""
    above = [len(row[width - 1].strip()) for row in body[:-1] if len(row) >= width and row[width - 1].strip()]
    if len(above) < 2 or len(body[-1]) != width or not 0 < len(body[-1][-1].strip()) < min(above):
        return []
    cell, body[-1][-1] = body[-1][-1].strip(), ""
    return [f"the last line does not end, and its last cell ({cell}) is left out, since it may be cut off"]


def with_commented_header(written: Sequence[str], lines: list[str]) -> list[str]:
    """Return the lines with the comment just before them as their header, where it names as many columns as they have."""
    first = next((i for i, line in enumerate(written) if not line.lstrip().startswith("#")), 0)
    if not first or not lines:
        return lines
    names, cells = written[first - 1].lstrip("# \t").split(), lines[0].split()
    numbers = all(number(cell) is not None for cell in cells)
    return [" ".join(names), *lines] if numbers and len(names) == len(cells) > 1 else lines


def delimiter_of(lines: Sequence[str]) -> str:
    """Return the delimiter that most often splits the first lines alike; an empty one means runs of blanks."""
    head = lines[: min(len(lines), 20)]
    try:
        counts = {d: [len(row) for row in csv.reader(head, delimiter=d)] for d in DELIMITERS}
    except csv.Error:  # a cell longer than any number or name: a quote that is never closed
        counts = {d: [line.count(d) + 1 for line in head] for d in DELIMITERS}
    fitting = {d: c[0] for d, c in counts.items() if c[0] > 1 and sum(n == c[0] for n in c) >= 0.5 * len(c)}
    if fitting:
        return max(fitting, key=lambda d: fitting[d])
    return "" if len(lines[0].split()) > 1 and len(lines[0].split()) == len(lines[-1].split()) else ","


def table_of_lines(text: str, path: Path) -> Table:
    """Read JSON lines: one object a line, nested objects flattened with slashes."""
    records, broken = [], []
    lines = [line for line in text.splitlines() if line.strip()]
    for i, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(flat(record))
        else:
            broken.append(i)
    if not records:
        raise InputError(f'{path} holds no JSON object a line; expected lines such as {{"step": 1, "train_loss": 2.3}}')
    notes = ["the last line was cut off and is left out"] if broken == [len(lines)] else []
    if broken and not notes:
        notes = [f"{len(broken)} lines are not JSON objects and are left out (the first is line {broken[0]})"]
    return table_of_records(records, notes)


def table_of_json(text: str, path: Path) -> Table:
    """Read a JSON list of objects, or an object of equally long lists."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); expected a list of objects, or one object a line"
        ) from None
    if isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        return table_of_records([flat(item) for item in content], [])
    if isinstance(content, dict):
        logs = [v for v in content.values() if isinstance(v, list) and v and all(isinstance(item, dict) for item in v)]
        if len(logs) == 1:  # such as {"log_history": [...]}
            return table_of_records([flat(item) for item in logs[0]], [])
        columns = {k: v for k, v in flat(content, keep_lists=True).items() if isinstance(v, list)}
        if columns:
            rows = max(len(column) for column in columns.values())
            return Table({k: [cell_of(c) for c in v] + [None] * (rows - len(v)) for k, v in columns.items()}, rows)
        return table_of_records([flat(content)], [])
    raise InputError(f"{path} is JSON but not a table; expected a list of objects, or an object of lists")


def table_of_records(records: Sequence[Mapping[str, Any]], notes: Iterable[str]) -> Table:
    """Join records into columns, in the order in which their names first appear. What a record lacks is absent in it."""
    names = dict.fromkeys(name for record in records for name in record)
    cells = {n: [cell_of(record.get(n)) for record in records] for n in names}
    return Table(cells, len(records), tuple(notes))


def flat(record: Mapping[str, Any], prefix: str = "", keep_lists: bool = False) -> dict[str, Any]:
    """Flatten nested objects: {"train": {"loss": 1}} becomes {"train/loss": 1}; lists are left out unless kept."""
    items: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            if prefix.count("/") > DEEPEST:
                continue
            items |= flat(value, f"{prefix}{key}/", keep_lists)
        elif keep_lists or not isinstance(value, list):
            items[f"{prefix}{key}"] = value
    return items


def cell_of(value: Any, delimiter: str = ",") -> float | str | None:
    """Return what a cell holds: a number, a text, or None.

    >>> cell_of("97.3%"), cell_of("nan"), cell_of("tensor(0.5, device='cuda:0')"), cell_of("None"), cell_of("12,345")
    (97.3, nan, 0.5, None, 12345.0)
    """
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return float(value) if abs(value) < 1e308 or not isinstance(value, int) else math.inf
    text = str(value).strip()
    if text.lower() in MISSING:
        return None
    as_number = number(text, delimiter)
    return text if as_number is None else as_number


def number(text: str, delimiter: str = ",") -> float | None:
    """Return the number that a text stands for, or None."""
    text = text.strip().removesuffix("%").rstrip()
    if text.startswith("tensor(") and (match := TENSOR.match(text)):
        text = match[1]
    if "_" in text:  # Python reads 1_000; nobody writes a log so, but run names look so
        return None
    if delimiter == ";" and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    elif THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        return None


def unique_names(header: Sequence[str]) -> list[str]:
    """Return column names made distinct: an empty one is named by its place, a repeated one gets a number."""
    names: list[str] = []
    for i, name in enumerate(header, 1):
        name = name or f"column {i}"
        names.append(name if name not in names else f"{name} ({i})")
    return names
