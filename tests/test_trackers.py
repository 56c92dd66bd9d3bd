"""Trackers: what their own packages wrote is read back number by number, from files and folders, alone and as seeds.

The files under data/trackers were written by the real packages (data/make_tracker_logs.py; versions.json names which).
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tracker_files import (
    event_file,
    field,
    json_lines,
    leveldb,
    mlflow_folder,
    scalar_event,
    tfrecord,
    wandb_file,
)
from twoclocks.diagnosis import diagnose
from twoclocks.errors import InputError
from twoclocks.sources.logs import read_log
from twoclocks.sources.tensorboard import masked_crc
from twoclocks.trajectory import Trajectory

DATA = Path(__file__).parent / "data" / "trackers"
TRUTH = json.loads((DATA / "truth.json").read_text())
NAMES = {
    "train_loss": "train_loss",
    "train_acc": "train_accuracy",
    "val_loss": "heldout_loss",
    "val_acc": "heldout_accuracy",
}
# Each place, how many runs it holds, and how many of the four measures.
PLACES = {
    "tensorboard-v1": (2, 4),
    "tensorboard-v1/seed1": (1, 4),
    "tensorboard-v2": (1, 4),
    "tensorboardx": (1, 4),
    "wandb": (2, 4),
    "trackio": (2, 4),
    "trackio/grokking.db": (2, 4),
    "trackio/grokking.parquet": (2, 4),
    "mlflow-files": (2, 4),
    "mlflow-files/mlruns": (2, 4),
    "mlflow-database": (2, 4),
    "mlflow-database/mlflow.db": (2, 4),
    "lightning": (2, 4),
    "lightning/lightning_logs/version_0": (1, 4),
    "lightning/lightning_logs/version_0/metrics.csv": (1, 4),
    "tables/runs.parquet": (2, 4),
    "tables/one.parquet": (1, 4),
    "tables/records.json": (1, 4),
    "tables/columns.json": (1, 4),
    "tables/wandb-export-one-column-a-run.csv": (2, 2),
}


def truth(seed: int, name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in TRUTH[f"seed {seed}"] if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


def compare(log: Trajectory, seeds: list[int], measures: int) -> None:
    """Check every value of every measure of every run against what was written, and that nothing is missing."""
    seen = 0
    for name, canonical in NAMES.items():
        if canonical in log.scalars:
            for r, seed in enumerate(seeds):
                step, value = truth(seed, name)
                assert log.scalars[canonical].step.tolist() == step
                assert log.scalars[canonical].value[r].tolist() == value
            seen += 1
    assert seen == measures
    assert log.runs == len(seeds)


@pytest.mark.parametrize("place", PLACES)
def test_what_a_package_wrote_is_read_back_number_by_number(place: str) -> None:
    runs, measures = PLACES[place]
    seeds = [1] if place.endswith("seed1") else list(range(runs))
    compare(read_log(DATA / place, run="all" if runs > 1 else None), seeds, measures)


@pytest.mark.parametrize(
    "place", [place for place, (runs, _) in PLACES.items() if runs > 1 and "lightning" not in place]
)
def test_runs_that_differ_in_their_seed_alone_are_seeds_without_being_asked(place: str) -> None:
    log = read_log(DATA / place)
    assert log.runs == 2
    assert any("2 runs are read as seeds" in note for note in log.source.assumed)
    diagnosis = diagnose(DATA / place)
    assert (diagnosis.label, diagnosis.runs) == ("grokking", 2)
    times = {clock.name: clock.per_run for clock in diagnosis.clocks}
    assert times["T_gen_0.9"] == (130, 140)
    if "T_fit" in times:
        assert times["T_fit"] == (30, 35) or times["T_fit"] == (30, 30)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("tensorboard-v1", "seed1"),
        ("wandb", "grok-seed1"),
        ("trackio", "seed-1"),
        ("mlflow-files", "seed-1"),
        ("mlflow-database", "seed-1"),
        ("lightning", "version_1"),
        ("tables/runs.parquet", "1"),
        ("tables/runs.parquet", "seed=1"),
        ("tables/wandb-export-one-column-a-run.csv", "grok-seed1"),
    ],
)
def test_one_of_several_runs_is_read_by_name(place: str, name: str) -> None:
    log = read_log(DATA / place, run=name)
    compare(log, [1], PLACES[place][1])
    assert any(note.startswith("of 2 runs") for note in log.source.assumed)
    with pytest.raises(InputError, match="holds no run 'nobody'"):
        read_log(DATA / place, run="nobody")


def test_keras_counts_epochs_in_its_csv_and_in_tensorboard() -> None:
    for place in ("keras/training.csv", "tensorboard-v2"):
        assert read_log(DATA / place).source.time == "epoch"
    step, value = truth(0, "val_loss")
    log = read_log(DATA / "keras/training.csv")
    assert log.scalars["heldout_loss"].step.tolist() == list(range(len(step)))
    for place in ("keras/training.csv", "keras/history.json"):
        assert read_log(DATA / place).scalars["heldout_loss"].value[0].tolist() == value


def test_a_trainer_state_gives_its_history_and_not_the_mean_loss_at_its_end(tmp_path: Path) -> None:
    state = json.loads((DATA / "hugging-face/trainer_state.json").read_text())
    rows = [(row["step"], row["loss"]) for row in state["log_history"] if "loss" in row]
    evals = [(row["step"], row["eval_accuracy"]) for row in state["log_history"] if "eval_accuracy" in row]
    for place in ("hugging-face", "hugging-face/trainer_state.json", "hugging-face/checkpoint-40"):
        log = read_log(DATA / place)
        loss, accuracy = log.scalars["train_loss"], log.scalars["heldout_accuracy"]
        assert list(zip(loss.step.tolist(), loss.value[0].tolist(), strict=True)) == rows
        assert list(zip(accuracy.step.tolist(), accuracy.value[0].tolist(), strict=True)) == evals
    assert state["log_history"][-1]["train_loss"] not in [value for _, value in rows]
    short = {"log_history": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, state["log_history"][-1]]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(short))
    assert read_log(tmp_path).scalars["train_loss"].value.tolist() == [[2.0, 1.0]]
    assert read_log(DATA / "hugging-face/checkpoint-20").scalars["train_loss"].step[-1] == 20
    assert (len(rows), len(evals)) == (10, 5)


@pytest.mark.parametrize("place", ["mlflow-files", "mlflow-database", "trackio"])
def test_a_value_that_was_logged_as_nan_or_infinite_stays_so(place: str) -> None:
    odd = read_log(DATA / place).scalars["odd"]
    assert odd.step[:3].tolist() == [0, 5, 10]
    assert np.isnan(odd.value[:, 0]).all()
    assert np.isposinf(odd.value[:, 1]).all()
    assert (odd.value[:, 2] == 1.0).all()


def test_deleted_runs_of_mlflow_are_not_read() -> None:
    for place in ("mlflow-files", "mlflow-database"):
        with pytest.raises(InputError, match="holds no run 'mistake'"):
            read_log(DATA / place, run="mistake")


def test_the_checksum_is_the_published_one() -> None:
    crc = 0xE3069283  # CRC-32C of "123456789" (RFC 3720)
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize("form", ["simple", "content", "double", "listed", "half", "whole", "bfloat16"])
def test_every_form_of_a_scalar_in_tensorboard_is_read(tmp_path: Path, form: str) -> None:
    rows = [{"step": s, "train/loss": float(4 - s)} for s in range(3)]
    (tmp_path / "events.out.tfevents.1").write_bytes(event_file(rows, form))
    assert read_log(tmp_path).scalars["train_loss"].value[0].tolist() == [4.0, 3.0, 2.0]


def test_what_is_no_scalar_is_not_read(tmp_path: Path) -> None:
    histogram = field(
        1, field(1, b"loss") + field(8, field(1, 1) + field(2, field(2, field(1, 3))) + field(4, b"\0" * 12))
    )
    picture = field(1, field(1, b"loss") + field(8, field(1, 7)) + field(9, field(1, field(1, b"images"))))
    other = b"".join(tfrecord(field(2, 7) + field(5, summary)) for summary in (histogram, picture))
    (tmp_path / "events.out.tfevents.1").write_bytes(
        event_file([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]) + other
    )
    assert read_log(tmp_path).scalars["train_loss"].step.tolist() == [1, 2]
    (tmp_path / "events.out.tfevents.1").write_bytes(other)
    with pytest.raises(InputError, match="no scalars"):
        read_log(tmp_path)


def test_a_restart_in_a_second_event_file_replaces_what_it_wrote_again(tmp_path: Path) -> None:
    first = [{"step": s, "loss": 9.0 - s} for s in range(6)]
    second = [{"step": s, "loss": 0.5} for s in (4, 6, 7)]
    (tmp_path / "events.out.tfevents.1").write_bytes(event_file(first))
    (tmp_path / "events.out.tfevents.2").write_bytes(event_file(second))
    log = read_log(tmp_path)
    assert log.scalars["train_loss"].step.tolist() == [0, 1, 2, 3, 4, 6, 7]  # 5 was abandoned
    assert log.scalars["train_loss"].value[0].tolist() == [9.0, 8.0, 7.0, 6.0, 0.5, 0.5, 0.5]
    assert any("restart" in note for note in log.source.assumed)


def test_a_quantity_that_counts_epochs_stands_at_the_steps_of_its_time(tmp_path: Path) -> None:
    events = [(100.0 + s, scalar_event(s, "train/loss", 1.0, 100.0 + s)) for s in range(0, 1000, 10)]
    events += [(100.5 + 99 * (e + 1), scalar_event(e, "val/acc", e / 10, 100.5 + 99 * (e + 1))) for e in range(10)]
    content = b"".join(tfrecord(event) for _, event in sorted(events, key=lambda pair: pair[0]))
    (tmp_path / "events.out.tfevents.1").write_bytes(content)
    log = read_log(tmp_path)
    assert log.scalars["heldout_accuracy"].step.tolist() == [90, 190, 290, 390, 490, 590, 690, 790, 890, 990]
    assert any("val/acc counts 0 to 9 while train/loss counts to 990" in note for note in log.source.assumed)


def test_a_torn_tail_and_a_damaged_record_are_left_out_and_said(tmp_path: Path) -> None:
    rows = [{"step": s, "loss": 9.0 - s} for s in range(6)]
    whole = event_file(rows)
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(whole[:-5])
    log = read_log(tmp_path)
    assert log.scalars["train_loss"].step.tolist() == [0, 1, 2, 3, 4]
    assert any("ends within a record" in note for note in log.source.assumed)
    flipped = bytearray(whole)
    flipped[len(event_file(rows[:2])) + 20] ^= 4
    path.write_bytes(bytes(flipped))
    log = read_log(tmp_path)
    assert log.scalars["train_loss"].step.tolist() == [0, 1, 3, 4, 5]
    assert any("1 records" in note for note in log.source.assumed)


@pytest.mark.parametrize("form", ["nested", "plain", "typed"])
def test_every_form_of_wandb_history_is_read(tmp_path: Path, form: str) -> None:
    rows = [{"step": s, "train/loss": 4.0 - s / 8, "long" + "x" * 3000: float(s)} for s in range(40)]
    content = wandb_file(rows, form)
    assert len(content) > 3 * 32768
    (tmp_path / "run-a.wandb").write_bytes(content)
    log = read_log(tmp_path)
    assert log.scalars["train_loss"].step.tolist() == list(range(40))
    assert log.scalars["train_loss"].value[0].tolist() == [row["train/loss"] for row in rows]


def test_a_run_of_wandb_that_was_resumed_goes_on_in_its_next_file(tmp_path: Path) -> None:
    parts = {"offline-run-1-abc": range(6), "offline-run-2-abc": range(4, 9)}
    for i, (folder, steps) in enumerate(parts.items()):
        (tmp_path / folder).mkdir()
        content = wandb_file([{"step": s, "train/loss": 9.0 - s - i} for s in steps])
        (tmp_path / folder / "run-abc.wandb").write_bytes(content)
    loss = read_log(tmp_path).scalars["train_loss"]
    assert loss.step.tolist() == list(range(9))
    assert loss.value[0].tolist() == [9.0, 8.0, 7.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_a_table_of_runs_is_no_log_and_a_folder_of_run_folders_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("Name,State,val_acc\na,finished,0.5\nb,crashed,0.7\n")
    with pytest.raises(InputError, match="one row a run"):
        read_log(tmp_path / "runs.csv")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "run.json").write_text("{}")
    (tmp_path / "runs" / "one" / "events.jsonl").write_text('{"record": "scalars", "step": 1}\n')
    with pytest.raises(InputError, match=r"name one of the run folders in it .one."):
        read_log(tmp_path / "runs")
    with pytest.raises(InputError, match="--run chooses among the runs of a log"):
        diagnose(tmp_path / "runs" / "one", run="a")


def test_a_run_s_own_count_of_steps_is_used_and_not_wandb_s_count_of_calls(tmp_path: Path) -> None:
    rows = [{"step": s, "trainer/global_step": 50.0 * s, "train/loss": 4.0 - s} for s in range(4)]
    (tmp_path / "run-a.wandb").write_bytes(wandb_file(rows))
    assert read_log(tmp_path).scalars["train_loss"].step.tolist() == [0, 50, 100, 150]


def test_values_logged_to_mlflow_without_steps_count_in_order_of_writing(tmp_path: Path) -> None:
    mlflow_folder(tmp_path / "0" / "a", [{"step": 0, "train_loss": 3.0 - i / 4, "val_acc": i / 8} for i in range(6)])
    log = read_log(tmp_path)
    assert log.source.time == "row"
    assert log.scalars["heldout_accuracy"].value[0].tolist() == [i / 8 for i in range(6)]
    assert any("without steps" in note for note in log.source.assumed)


def test_map_names_odd_columns_in_every_format(tmp_path: Path) -> None:
    rows = [{"step": s, "dev_score": s / 8, "energy": 4.0 - s / 8} for s in range(8)]
    (tmp_path / "tb").mkdir()
    (tmp_path / "tb" / "events.out.tfevents.1").write_bytes(event_file(rows))
    (tmp_path / "run-a.wandb").write_bytes(wandb_file(rows))
    mlflow_folder(tmp_path / "ml" / "0" / "a", rows)
    (tmp_path / "log.jsonl").write_text(json_lines(rows))
    asked = {"heldout_accuracy": "dev_score", "train_loss": "energy"}
    places = ["tb", "run-a.wandb", "ml", "log.jsonl"]
    for place in places:
        log = read_log(tmp_path / place, asked)
        assert log.scalars["heldout_accuracy"].value[0].tolist() == [row["dev_score"] for row in rows]
        assert log.scalars["train_loss"].value[0].tolist() == [row["energy"] for row in rows]
    assert len(places) == 4


def test_what_a_file_is_shows_in_its_content_whatever_it_is_called(tmp_path: Path) -> None:
    places = [
        next((DATA / "tensorboardx").iterdir()),
        next((DATA / "wandb").rglob("*.wandb")),
        DATA / "trackio/grokking.db",
        DATA / "mlflow-database/mlflow.db",
        DATA / "tables/one.parquet",
        DATA / "hugging-face/trainer_state.json",
        DATA / "lightning/lightning_logs/version_0/metrics.csv",
    ]
    for i, place in enumerate(places):
        shutil.copy(place, tmp_path / f"log{i}.dat")
        assert read_log(tmp_path / f"log{i}.dat").scalars.keys() >= {"train_loss", "heldout_loss", "heldout_accuracy"}
    assert i == 6


def test_reading_leaves_nothing_behind_and_sees_what_still_waits_in_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "project.db"
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE metrics (id INTEGER PRIMARY KEY, run_name TEXT, step INTEGER, metrics TEXT)")
    for step in range(4):
        writer.execute("INSERT INTO metrics (run_name, step, metrics) VALUES ('a', ?, ?)", (step, '{"loss": 1.5}'))
    writer.commit()
    assert path.with_name("project.db-wal").stat().st_size
    assert read_log(path).scalars["train_loss"].step.tolist() == [0, 1, 2, 3]
    writer.close()
    before = sorted(p.name for p in tmp_path.iterdir())
    assert read_log(path).scalars["train_loss"].step.tolist() == [0, 1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_log_of_any_kind_is_read_without_torch() -> None:
    places = [
        str(DATA / place) for place in ("tensorboard-v1", "wandb", "trackio", "mlflow-database", "tables/runs.parquet")
    ]
    code = "import sys, twoclocks as tc\nfor p in sys.argv[1:]: tc.diagnose(p)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *places], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_parquet_without_pyarrow_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'twoclocks\[parquet\]'"):
        read_log(DATA / "tables/one.parquet")


def test_a_folder_with_two_kinds_says_which_was_left(tmp_path: Path) -> None:
    shutil.copytree(DATA / "tensorboardx", tmp_path / "tb")
    shutil.copy(DATA / "hugging-face/trainer_state.json", tmp_path)
    log = read_log(tmp_path)
    assert log.scalars["train_loss"].step[-1] == 40
    assert any("also holds TensorBoard" in note for note in log.source.assumed)


def foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TABLE t (a)")


BAD = {
    "empty folder": (lambda at: None, "is not a run folder .* holds no log"),
    "no scalars": (lambda at: (at / "x.tfevents").write_bytes(tfrecord(field(3, b"brain.Event:2"))), "no scalars"),
    "not events": (
        lambda at: (at / "x.tfevents").write_bytes(b"hello, world, hello"),
        "no scalars .*damaged at byte 0",
    ),
    "empty events": (lambda at: (at / "x.tfevents").write_bytes(b""), "no scalars"),
    "no history": (lambda at: (at / "run-a.wandb").write_bytes(leveldb([field(17, field(1, b"a"))])), "no history"),
    "not wandb": (lambda at: (at / "run-a.wandb").write_bytes(b"hello"), "no file of W&B"),
    "state cut off": (lambda at: (at / "trainer_state.json").write_text('{"log_history": ['), "not valid JSON"),
    "state of nothing": (lambda at: (at / "trainer_state.json").write_text('{"log_history": []}'), "no log_history"),
    "not parquet": (lambda at: (at / "x.parquet").write_bytes(b"PAR1 and so on"), "parquet file that cannot be read"),
    "other database": (
        lambda at: foreign_database(at / "x.db"),
        "neither MLflow nor",
    ),
    "two databases": (
        lambda at: [shutil.copy(DATA / "trackio/grokking.db", at / name) for name in ("a.db", "b.db")],
        "holds 2 databases .a.db, b.db.",
    ),
    "torn database": (
        lambda at: (at / "x.db").write_bytes((DATA / "trackio/grokking.db").read_bytes()[:20_000]),
        "SQLite file that cannot be read",
    ),
    "only words": (lambda at: (at / "a.csv").write_text("name,tag\na,b\n"), "holds no numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    make, says = BAD[case]
    make(tmp_path)
    with pytest.raises(InputError, match=says) as refusal:
        read_log(tmp_path)
    assert "\n" not in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


def test_an_event_file_of_twenty_thousand_scalars_is_read_in_seconds(tmp_path: Path) -> None:
    one = [tfrecord(scalar_event(s, "train/loss", 1.0)) for s in range(500)]
    (tmp_path / "events.out.tfevents.1").write_bytes(b"".join(one) * 40)
    start = time.monotonic()
    log = read_log(tmp_path)
    assert time.monotonic() - start < 10
    assert log.scalars["train_loss"].value.shape == (1, 500)


def test_a_text_without_a_last_line_end_loses_a_cell_that_may_be_torn(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,train_loss\n1,0.512\n2,0.255\n3,0.2")
    log = read_log(path)
    assert log.scalars["train_loss"].step.tolist() == [1, 2]
    assert any("may be cut off" in note for note in log.source.assumed)
    path.write_text("step,train_loss\n1,0.512\n2,0.255\n3,0.251")
    assert_array_equal(read_log(path).scalars["train_loss"].step, [1, 2, 3])


def test_rows_longer_than_the_header_are_left_out_and_decimal_commas_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,train_loss,test_loss\n1,0.5,0.7\n2,,0.4,0.6\n3,0.3,0.5\n4,0.2,0.4,\n")
    log = read_log(path)
    assert log.scalars["train_loss"].step.tolist() == [1, 3, 4]
    assert any("more cells than the header" in note for note in log.source.assumed)
    path.write_text("step,train_loss,test_loss\n1,0,5,0,7\n2,0,4,0,6\n")
    with pytest.raises(InputError, match="write decimal points"):
        read_log(path)
