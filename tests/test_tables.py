"""Tables: text of every common form becomes the same cells, and no text makes a traceback."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from twoclocks.errors import InputError
from twoclocks.sources.tables import cell_of, read_table

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)
SLOW = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@SLOW
@given(rows=st.lists(st.tuples(FINITE, FINITE, FINITE), min_size=1, max_size=20))
def test_every_form_gives_the_same_table(tmp_path: Path, rows: list[tuple[float, float, float]]) -> None:
    names = ["step", "train_loss", "test_acc"]
    texts = {
        sep: sep.join(names) + "\n" + "".join(sep.join(map(repr, row)) + "\n" for row in rows)
        for sep in (",", "\t", ";", "|")
    }
    texts["lines"] = "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    texts["list"] = json.dumps([dict(zip(names, row, strict=True)) for row in rows])
    texts["columns"] = json.dumps({name: [row[i] for row in rows] for i, name in enumerate(names)}, indent=1)
    expected = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    for form, text in texts.items():
        table = read_table(written(tmp_path / "log", text))
        assert {name: list(cells) for name, cells in table.cells.items()} == expected, form
    assert len(texts) == 7


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        (" 97.25% ", 97.25),
        ("1,234,567", 1234567.0),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("tensor(0.25, device='cuda:0')", 0.25),
        ("None", None),
        ("", None),
        ("N/A", None),
        ("null", None),
        ("adam", "adam"),
        (True, 1.0),
        (3, 3.0),
        (None, None),
    ],
)
def test_cells_are_read_as_what_they_say(text: object, value: object) -> None:
    assert cell_of(text) == value


def test_nan_is_a_number_and_a_missing_cell_is_not() -> None:
    nan = cell_of("nan")
    assert isinstance(nan, float)
    assert math.isnan(nan)


def test_decimal_commas_are_read_where_semicolons_separate(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "log.csv", "step;loss\n1;0,5\n2;0,25\n"))
    assert table.cells["loss"] == [0.5, 0.25]


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    for text in ("step,loss,acc\n1,0.5,0.1\n2,0.2", '{"step": 1, "loss": 0.5}\n{"step": 2, "lo'):
        table = read_table(written(tmp_path / "log", text))
        assert table.rows == 1
        assert table.notes == ("the last line was cut off and is left out",)


def test_a_repeated_header_is_left_out_and_said(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "log.csv", "step,loss\n1,3\nstep,loss\n2,2\n"))
    assert table.cells["step"] == [1.0, 2.0]
    assert "repeated" in table.notes[0]


def test_comments_blank_lines_and_byte_order_marks_are_passed_over(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "log.csv", "\ufeff# written by hand\n\nstep,loss\r\n1,3\r\n\r\n"))
    assert list(table.cells) == ["step", "loss"]
    assert read_table(written(tmp_path / "log", "step,loss\n1,3\n".encode("utf-16"))).rows == 1


def test_nested_objects_are_flattened(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "log", '{"step": 1, "train": {"loss": 2.0}, "tags": ["a"]}\n{"step": 2}\n'))
    assert table.cells == {"step": [1.0, 2.0], "train/loss": [2.0, None]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"  \n ", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00", "binary"),
        (b"\x80\x04\x95\x10" * 30, "binary"),
        (b"1,2\n3,4\n", "no header"),
        (b"# nothing\n", "only comments"),
        (b'"just a text"', None),
        (b"[1, 2, 3]", "not a table"),
        (b'[{"a": 1}', "not valid JSON"),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(tmp_path: Path, content: bytes, says: str | None) -> None:
    path = written(tmp_path / "log.csv", content)
    if says is None:
        assert read_table(path).rows == 0
        return
    with pytest.raises(InputError, match=says) as refusal:
        read_table(path)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_table(tmp_path / "nowhere.csv")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@example(b'{"a": 1e999}\n')
@example(b'"a\n,b"\n1,2')
@example(b"{\n")
@example(b'{"a": ' * 50)
def test_any_bytes_are_a_table_or_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path / "log", content)
    try:
        table = read_table(path)
    except InputError as refusal:
        assert str(refusal)
    else:
        assert all(len(cells) == table.rows for cells in table.cells.values())
