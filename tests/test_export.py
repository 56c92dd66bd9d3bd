"""Exports: every format read back gives the same table, nothing is overwritten unasked, nothing is half written."""

from __future__ import annotations

import json
import math
import struct
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twoclocks as tc
from examples import represented
from tracker_files import event_file as event_file_by_definition
from tracker_files import scalar_event, tfrecord
from twoclocks import export as exports
from twoclocks.cli import main
from twoclocks.errors import InputError
from twoclocks.export import EVENTS, export, precision_notes, sheet_of, target_of, with_measured
from twoclocks.sources.formats import open_log
from twoclocks.sources.logs import read_log
from twoclocks.sources.tables import Table
from twoclocks.store import load, open_writer
from twoclocks.trajectory import Series, Source, Trajectory

LOGS = Path(__file__).parent / "data" / "logs"
GROKKING = LOGS / "modadd97_tf1l_f30_wd1.csv"
SUFFIX = {"csv": "table.csv", "parquet": "table.parquet", "tensorboard": "events"}
FORMATS = list(SUFFIX)
ODD = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 1e16, 1e-7]


def series(name: str, step: list[Any], value: Any) -> Series:
    return Series(name, "nats per example", np.array(step), np.atleast_2d(np.array(value, np.float64)))


def trajectory(*held: Series, path: str = "", time: str = "step") -> Trajectory:
    return Trajectory(Source(path, "test", 1, time), {one.name: one for one in held})


def bits(cell: Any) -> Any:
    """Return what distinguishes cells: absent, NaN, or the bytes of a number, so that -0.0 is not 0.0."""
    if cell is None or math.isnan(cell):
        return "absent" if cell is None else "nan"
    return struct.pack("<d", cell)


def wanted(of: Trajectory, single: bool) -> dict[int, dict[str, dict[float, Any]]]:
    """Return {run: {name: {step: bits}}} from the series themselves; absent cells are not in it."""
    found: dict[int, dict[str, dict[float, Any]]] = {}
    for name, one in of.scalars.items():
        for run in range(one.runs):
            with np.errstate(over="ignore"):
                value = one.value[run].astype(np.float32).astype(np.float64) if single else one.value[run]
            cells = {float(step): bits(v) for step, v in zip(one.step.tolist(), value.tolist(), strict=True)}
            if cells:
                found.setdefault(run, {})[name] = cells
    return found


def found_in(tables: dict[str, Table]) -> dict[int, dict[str, dict[float, Any]]]:
    """Return the same of the tables that a reader found, the runs told by their column or their folder."""
    found: dict[int, dict[str, dict[float, Any]]] = {}
    for place, table in tables.items():
        cells = dict(table.cells)
        steps = cells.pop("step", None) or cells.pop("epoch")
        folder = int(place.removeprefix("run")) if place.startswith("run") else 0
        of_row = cells.pop("run", [folder] * table.rows)
        for name, column in cells.items():
            for run, step, cell in zip(of_row, steps, column, strict=True):
                if cell is not None:
                    found.setdefault(int(run), {}).setdefault(name, {})[float(step)] = bits(cell)
    return found


NAMES = st.text(st.characters(blacklist_categories=("C", "Z"), blacklist_characters=";|"), min_size=1, max_size=8)
NUMBERS = st.one_of(st.sampled_from(ODD), st.floats(width=64), st.floats(-10, 10))


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    runs = draw(st.integers(1, 3))
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=str.strip))
    held = []
    for name in (one for one in names if one not in ("run", "step", "epoch") and not one.startswith("epoch_")):
        step = sorted(draw(st.sets(st.integers(0, 2**40), min_size=1, max_size=6)))
        value = [draw(st.lists(NUMBERS, min_size=len(step), max_size=len(step))) for _ in range(runs)]
        held.append(series(name, step, value))
    return trajectory(*(held or [series("lr", [0], [[1.0]] * runs)]))


@pytest.mark.parametrize("to", FORMATS)
@settings(max_examples=100, deadline=None)
@given(of=trajectories())
def test_what_was_written_is_read_back(to: str, of: Trajectory) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / SUFFIX[to]
        written = export(of, to, out)
        assert written.runs == of.runs
        assert found_in(dict(open_log(out).runs)) == wanted(of, single=to == "tensorboard")


@pytest.mark.parametrize("to", FORMATS)
@settings(max_examples=25, deadline=None)
@given(of=trajectories())
def test_equal_trajectories_give_equal_files(to: str, of: Trajectory) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, again = Path(folder) / SUFFIX[to], Path(folder) / f"again-{SUFFIX[to]}"
        export(of, to, first)
        export(of, to, again)
        files = [
            {p.relative_to(one): p.read_bytes() for p in (one, *one.rglob("*")) if p.is_file()}
            for one in (first, again)
        ]
        assert files[0] == files[1]
        assert sum(map(len, files[0].values())) > 0


@st.composite
def finite_logs(draw: st.DrawFn) -> Trajectory:
    """Draw what `read_log` takes as it stands: canonical names, finite numbers, accuracies as shares."""
    runs, held = draw(st.integers(1, 3)), []
    step = sorted(draw(st.sets(st.integers(0, 10**6), min_size=2, max_size=8)))
    for name in draw(st.sets(st.sampled_from(["train_loss", "heldout_accuracy", "weight_norm", "beta"]), min_size=1)):
        numbers = st.floats(0, 1) if name.endswith("accuracy") else st.floats(-(2.0**100), 2.0**100)
        held.append(
            series(name, step, [draw(st.lists(numbers, min_size=len(step), max_size=len(step))) for _ in range(runs)])
        )
    return trajectory(*held)


@pytest.mark.parametrize("to", FORMATS)
@settings(max_examples=100, deadline=None)
@given(of=finite_logs())
def test_a_log_of_finite_numbers_is_the_same_trajectory_again(to: str, of: Trajectory) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / SUFFIX[to]
        export(of, to, out)
        again = read_log(out, run="all" if of.runs > 1 else None)
        assert wanted(again, single=False) == wanted(of, single=to == "tensorboard")


@pytest.mark.parametrize("to", FORMATS)
def test_a_log_keeps_its_series_and_its_diagnosis(to: str, tmp_path: Path) -> None:
    out, log = tmp_path / SUFFIX[to], read_log(GROKKING)
    export(log, to, out)
    again = read_log(out)
    assert list(again.scalars) == list(log.scalars)
    for name, one in log.scalars.items():
        value = one.value.astype(np.float32).astype(np.float64) if to == "tensorboard" else one.value
        np.testing.assert_array_equal(again.scalars[name].value, value)
        np.testing.assert_array_equal(again.scalars[name].step, one.step)
        assert again.scalars[name].unit == one.unit
    assert tc.diagnose(again).label == tc.diagnose(log).label == "grokking"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Return a run folder of two runs, one of which diverges, evaluated less often than it is logged."""
    folder = tmp_path / "runs" / "two"
    folder.parent.mkdir()
    with open_writer(folder, {"seeds": [0, 1]}) as writer:
        for step in range(0, 60, 2):
            late = math.nan if step > 40 else 1.0 / (step + 3)
            values = {"train_loss": [1.0 / (step + 1), late], "lr": [0.1, 0.1]}
            writer.append_scalars(step, values | ({"heldout_accuracy": [0.5, 0.1]} if step % 6 == 0 else {}))
    return folder


@pytest.mark.parametrize("to", FORMATS)
def test_a_run_folder_of_several_runs_is_read_back_as_seeds(to: str, run_folder: Path, tmp_path: Path) -> None:
    out, run = tmp_path / SUFFIX[to], load(run_folder)
    export(run, to, out)
    again = read_log(out)
    assert again.runs == 2
    assert set(again.scalars) == {"train_loss", "lr", "heldout_accuracy"}
    single = np.float32 if to == "tensorboard" else np.float64
    for name in ("lr", "heldout_accuracy"):
        np.testing.assert_array_equal(again.scalars[name].value, run.scalars[name].value.astype(single))
        np.testing.assert_array_equal(again.scalars[name].step, run.scalars[name].step)
    np.testing.assert_array_equal(again.scalars["train_loss"].value, run.scalars["train_loss"].value.astype(single))


def test_csv_spells_what_is_absent_and_what_is_no_number(tmp_path: Path) -> None:
    loss = series("train_loss", [0, 1, 3], [[math.nan, math.inf, 0.1]])
    export(trajectory(loss, series('a "b", c', [1, 2], [[-math.inf, 1.0]])), "csv", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == 'step,train_loss,"a ""b"", c"\n0,nan,\n1,inf,-inf\n2,,1.0\n3,0.1,\n'


def test_parquet_is_typed_and_tells_absent_from_nan(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    loss = series("train_loss", [0, 5], [[math.nan, 0.5], [1.0, 2.0]])
    export(trajectory(loss, series("lr", [5], [[0.1], [0.2]])), "parquet", tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.schema.types == [arrow.int64(), arrow.int64(), arrow.float64(), arrow.float64()]
    assert table.column_names == ["run", "step", "train_loss", "lr"]
    assert table.column("lr").to_pylist() == [None, 0.1, None, 0.2]
    assert table.column("train_loss").null_count == 0
    assert math.isnan(table.column("train_loss").to_pylist()[0])
    assert table.schema.field("train_loss").metadata == {b"unit": b"nats per example"}


def test_events_are_those_of_the_format(tmp_path: Path) -> None:
    rows = [{"step": 0, "train_loss": 0.5}, {"step": 300, "train_loss": math.inf}]
    export(trajectory(series("train_loss", [0, 300], [[0.5, math.inf]])), "tensorboard", tmp_path / "t")
    plain = event_file_by_definition(rows).replace(struct.pack("<d", 1.0), struct.pack("<d", 0.0))
    ours = (tmp_path / "t" / EVENTS).read_bytes()
    assert len(ours) == len(plain)
    events = [scalar_event(int(row["step"]), "train_loss", row["train_loss"], 0.0) for row in rows]
    assert ours.endswith(b"".join(map(tfrecord, events)))


def test_many_quantities_at_one_step_are_split_into_records_that_readers_accept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "LARGEST_RECORD", 200)
    many = trajectory(*(series(f"quantity {i}", [7], [[i]]) for i in range(50)))
    export(many, "tensorboard", tmp_path / "t")
    table = open_log(tmp_path / "t").runs["t"]
    assert {name: table.cells[name] for name in many.scalars} == {f"quantity {i}": [float(i)] for i in range(50)}


def test_what_single_precision_loses_is_said() -> None:
    notes = precision_notes(sheet_of(trajectory(series("x", [0, 1, 2, 3], [[1e300, 1e-60, math.inf, 0.0]]))))
    assert [note[:11] for note in notes] == ["TensorBoard", "1 numbers a", "1 numbers a"]


def test_fractions_of_epochs_are_kept_but_by_tensorboard(tmp_path: Path) -> None:
    log = trajectory(series("train_loss", [0.5, 1.0, 1.5], [[3.0, 2.0, 1.0]]), time="epoch")
    for to in ("csv", "parquet"):
        export(log, to, tmp_path / SUFFIX[to])
        again = read_log(tmp_path / SUFFIX[to])
        assert again.source.time == "epoch"
        assert again.scalars["train_loss"].step.tolist() == [0.5, 1.0, 1.5]
    with pytest.raises(InputError, match="fractions of an epoch"):
        export(log, "tensorboard", tmp_path / "events")
    assert not (tmp_path / "events").exists()


def test_names_that_clash_or_break_lines_are_made_to_fit() -> None:
    held = [series(name, [0], [[1.0]]) for name in ("step", "run", "a\nb", "a b", "\x00")]
    names = [column.name for column in sheet_of(trajectory(*held)).columns]
    assert names == ["step (logged)", "run (logged)", "a b", "a b (2)", "unnamed"]


def test_vectors_become_columns_and_long_ones_are_left_out_and_said() -> None:
    two = Series("norms", "", np.array([0, 1]), np.array([[[1.0, 2.0], [3.0, 4.0]]]))
    long = Series("draws", "", np.array([0]), np.zeros((1, 1, 65)))
    sheet = sheet_of(trajectory(two, long))
    assert {c.name: c.cells for c in sheet.columns} == {"norms[0]": [1.0, 3.0], "norms[1]": [2.0, 4.0]}
    assert sheet.notes == ("of more than 64 numbers a moment, and left out: draws",)


def test_measured_adds_ladder_and_representation(tmp_path: Path) -> None:
    evidence, _ = represented(runs=2)
    assert evidence.ladder is not None
    whole = with_measured(evidence)
    assert set(evidence.trajectory.scalars) < set(whole.scalars)
    assert set(evidence.measured) <= set(whole.scalars)
    np.testing.assert_array_equal(whole.scalars["ladder/train_probe"].value, evidence.ladder.train_probe)
    export(replace(whole, source=evidence.trajectory.source), "csv", tmp_path / "t.csv")
    table = open_log(tmp_path / "t.csv").runs["t"]
    found = [cell for cell in table.cells["ladder/native"] if cell is not None]
    assert found == evidence.ladder.native.ravel().tolist()


# What is not overwritten, and what an interruption leaves


ONE = trajectory(series("train_loss", [0, 1], [[2.0, 1.0]]))


@pytest.mark.parametrize("to", FORMATS)
def test_an_existing_target_stays_unless_forced(to: str, tmp_path: Path) -> None:
    out = tmp_path / SUFFIX[to]
    export(ONE, to, out)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other = trajectory(series("train_loss", [0, 1], [[3.0, 1.0]]))
    with pytest.raises(InputError, match="exists and is left as it is"):
        export(other, to, out)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    export(other, to, out, force=True)
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert set(after) == set(before)
    assert after != before


def test_force_replaces_nothing_but_exports(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    (tmp_path / "log.csv").write_text("step,loss\n0,1\n1,2\n")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    log = replace(ONE, source=Source(str(tmp_path / "log.csv"), "log", 2))
    inside = replace(ONE, source=Source(str(tmp_path), "log", 2))
    refused = [
        (ONE, "tensorboard", "folder", "not a folder that an export wrote"),
        (ONE, "tensorboard", "link", "not a folder that an export wrote"),
        (ONE, "tensorboard", "log.csv", "not a folder that an export wrote"),
        (ONE, "csv", "folder", "not a file"),
        (log, "csv", "log.csv", "part of what is exported"),
        (inside, "csv", "log.csv", "part of what is exported"),
        (ONE, "csv", "nowhere/t.csv", "does not exist"),
    ]
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    for of, to, out, says in refused:
        with pytest.raises(InputError, match=says):
            export(of, to, tmp_path / out, force=True)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("when", [1, 2, 3])
def test_an_interruption_leaves_the_old_or_nothing(
    to: str, when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt the rename that comes `when`-th: of a file into its place, of the old folder away, of the new one in."""
    out, two = tmp_path / SUFFIX[to], trajectory(series("train_loss", [0, 1], [[2.0, 1.0], [1.0, 0.5]]))
    export(ONE, to, out)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    renamed = {"rename": Path.rename, "replace": Path.replace}
    calls = iter(range(1, 100))

    def interrupted(name: str) -> Any:
        def move(path: Path, target: Path) -> Any:
            if next(calls) == when:
                raise KeyboardInterrupt
            return renamed[name](path, target)

        return move

    for name in renamed:
        monkeypatch.setattr(Path, name, interrupted(name))
    if to == "tensorboard" or when == 1:
        with pytest.raises(KeyboardInterrupt):
            export(two, to, out, force=True)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        assert sorted(p.name for p in tmp_path.iterdir()) == [out.name]
    else:
        export(two, to, out, force=True)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for to in FORMATS:
        with pytest.raises(InputError, match="the disk is full"):
            export(ONE, to, tmp_path / SUFFIX[to])
    assert list(tmp_path.iterdir()) == []


# The command, and the tables in memory


def twoclocks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["twoclocks", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    return lambda *words: twoclocks(capsys, monkeypatch, *words)


def test_the_command_writes_where_it_says(cli, run_folder: Path) -> None:  # type: ignore[no-untyped-def]
    for to, name in (("csv", "export.csv"), ("parquet", "export.parquet"), ("tensorboard", "export-tensorboard")):
        code, out, err = cli("export", run_folder, "--to", to, "--json")
        assert (code, err) == (0, "")
        said = json.loads(out)
        assert said["path"] == str(run_folder / "analysis" / name)
        assert (said["rows"], said["runs"]) == (60, 2)
        assert (run_folder / "analysis" / name).exists()
        assert cli("export", run_folder, "--to", to)[0] == 2
        assert cli("export", run_folder / "run.json", "--to", to, "--force", "--measured")[0] == 0
    assert load(run_folder).runs == 2


def test_the_command_reads_logs_as_diagnose_does(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    log = tmp_path / "log.csv"
    log.write_text("when,good\n" + "".join(f"{i},{i / 20}\n" for i in range(20)))
    code, out, _ = cli("export", log, "--to", "csv", "--map", "step=when", "--map", "heldout_accuracy=good")
    assert code == 0
    assert out.endswith(f"exported: {tmp_path / 'log-export.csv'} (20 rows, 2 columns)\n")
    assert (tmp_path / "log-export.csv").read_text().startswith("step,heldout_accuracy\n0,0.0\n1,0.05\n")


BAD = [
    (["export", "good.csv", "--to", "xml"], "'xml' is not a format"),
    (["export", "good.csv", "--to", "cvs"], "Did you mean 'csv'"),
    (["export", "nowhere", "--to", "csv"], "does not exist"),
    (["export", "good.csv", "--to", "csv", "--out", "good.csv"], "exists and is left as it is"),
    (["export", "good.csv", "--to", "csv", "--out", "good.csv", "--force"], "part of what is exported"),
    (["export", "good.csv", "--to", "csv", "--out", "no/t.csv"], "make it first"),
    (["export", "good.csv", "--to", "csv", "--out", ".."], "names no file"),
    (["export", "good.csv", "--to", "csv", "--out", "good.csv/t.csv"], "does not exist"),
    (["export", "good.csv"], "--to"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_gets_one_sentence_and_code_two(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "good.csv").write_text("step,loss\n1,2\n2,1\n3,1\n")
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert says in err
    assert [path.name for path in tmp_path.iterdir()] == ["good.csv"]


def test_absent_packages_are_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in ("pyarrow", "pandas", "xarray"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'twoclocks\[parquet\]'"):
        export(ONE, "parquet", tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"pip install 'twoclocks\[pandas\]'"):
        ONE.to_pandas()
    with pytest.raises(InputError, match=r"pip install 'twoclocks\[xarray\]'"):
        ONE.to_xarray()


def test_pandas_has_a_row_per_run_and_step() -> None:
    held = (series("train_loss", [0, 2], [[1.0, 2.0], [3.0, 4.0]]), series("run", [2], [[5.0], [6.0]]))
    frame = trajectory(*held).to_pandas()
    assert frame.index.to_list() == [(0, 0), (0, 2), (1, 0), (1, 2)]
    assert frame["train_loss"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert frame["run"].tolist()[1::2] == [5.0, 6.0]
    assert trajectory().to_pandas().empty


def test_pandas_reads_the_csv_and_the_parquet_that_were_written(tmp_path: Path) -> None:
    import pandas as pd

    of = trajectory(series("train_loss", [0, 2], [[0.1, math.inf], [1 / 3, 1e-7]]), series("lr", [2], [[5.0], [6.0]]))
    export(of, "csv", tmp_path / "t.csv")
    export(of, "parquet", tmp_path / "t.parquet")
    frame = of.to_pandas()
    read = pd.read_csv(tmp_path / "t.csv").set_index(["run", "step"])
    pd.testing.assert_frame_equal(read, frame, rtol=1e-15)  # before pandas 3 its parser is off by a bit unless told
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet").set_index(["run", "step"]), frame)


@settings(max_examples=100, deadline=None)
@given(of=trajectories())
def test_xarray_holds_every_series_with_its_unit(of: Trajectory) -> None:
    dataset = of.to_xarray()
    assert set(dataset.data_vars) == set(of.scalars)
    for name, one in of.scalars.items():
        variable = dataset[name]
        assert variable.dims == ("run", "step")
        assert variable.attrs == {"units": one.unit}
        assert variable.sel(step=one.step).values.tobytes() == one.value.tobytes()
        others = np.setdiff1d(dataset.step.values, one.step)
        assert np.isnan(variable.sel(step=others).values).all()


def test_xarray_gives_vectors_dims_of_their_own_and_an_empty_trajectory_no_variable() -> None:
    vector = Series("norms", "", np.array([0, 1]), np.arange(6.0).reshape(1, 2, 3))
    dataset = trajectory(vector, series("lr", [1], [[0.1]]), time="epoch").to_xarray()
    assert dataset["norms"].shape == (1, 2, 3)
    assert dataset.step.attrs == {"units": "epoch"}
    assert not trajectory().to_xarray().data_vars


def test_targets_of_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    monkeypatch.chdir(tmp_path / "logs")
    assert target_of(Path(), "csv") == tmp_path / "logs-export.csv"
    assert target_of(Path(".."), "tensorboard").name.endswith("-export-tensorboard")
