"""The run folder: nothing acknowledged is lost, whatever kills the writer; every damage is told in one sentence."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twoclocks import store
from twoclocks.errors import InputError
from twoclocks.store import load, open_writer, read_state
from twoclocks.trajectory import EvalBatch

MANIFEST = {"kind": "test", "recipe": {"lr": 0.1, "widths": (3, 4)}, "created": "today"}
WRITE_UNTIL_KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from twoclocks import store

def write(folder, step):
    with store.open_writer(Path(folder), {"kind": "killed"}) as writer:
        while True:
            step += 1
            writer.append_scalars(step, {"train_loss": [step / 7, float("nan")], "step_again": step})
            os.write(1, f"scalars {step}\\n".encode())
            if step % 3 == 0:
                writer.write_snapshot(step, {"weights/w": np.full((1, 300, 100), step, np.float32)}, step / 2)
                os.write(1, f"snapshot {step}\\n".encode())
            if step % 4 == 0:
                writer.write_state(step, {"moment": np.full((200, 100), step, np.float64)})
                os.write(1, f"state {step}\\n".encode())

for order in sys.stdin:  # fork rather than start anew: the import costs more than the whole life of a writer
    folder, step = order.split()
    pid = os.fork()
    if pid == 0:
        try:
            write(folder, int(step))
        finally:
            os._exit(1)
    os.write(1, f"pid {pid}\\n".encode())
    os.waitpid(pid, 0)
    os.write(1, b"dead 0\\n")
"""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path_factory.mktemp("nursery") / "nursery.py"
    script.write_text(WRITE_UNTIL_KILLED)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def start_writer(nursery: subprocess.Popen[str], folder: Path, step: int) -> tuple[int, list[str]]:
    """Let a writer be born; return its process id and what it acknowledged before that id was known."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(f"{folder} {step}\n")
    nursery.stdin.flush()
    lines = []
    while not (line := nursery.stdout.readline()).startswith("pid"):
        lines.append(line)
    return int(line.split()[1]), lines


def kill_writer(nursery: subprocess.Popen[str], pid: int, lines: list[str]) -> dict[str, list[int]]:
    """Kill a writer with SIGKILL and return what it had acknowledged."""
    assert nursery.stdout is not None
    os.kill(pid, signal.SIGKILL)
    while not (line := nursery.stdout.readline()).startswith("dead"):
        lines.append(line)
    acknowledged: dict[str, list[int]] = {"scalars": [], "snapshot": [], "state": []}
    for what, step in (line.split() for line in lines):
        acknowledged[what].append(int(step))
    return acknowledged


def check_nothing_lost(folder: Path, lives: list[dict[str, list[int]]]) -> None:
    """Check that a folder loads and holds everything that its writers acknowledged."""
    trajectory = load(folder)
    loss = trajectory.scalars.get("train_loss")
    kept = {} if loss is None else dict(zip(loss.step.tolist(), loss.value.T.tolist(), strict=True))
    snapshots = {snapshot.step: snapshot for snapshot in trajectory.snapshots}
    for life in lives:
        for step in life["scalars"]:
            assert kept[step][0] == step / 7
            assert np.isnan(kept[step][1])
        for step in life["snapshot"]:
            assert snapshots[step].flow_time == step / 2
    for step in lives[-1]["snapshot"][-1:]:
        assert np.all(snapshots[step].tensors["weights/w"] == step)
    state = read_state(folder)
    states = [step for life in lives for step in life["state"]]
    if states:
        assert state is not None
        assert state.step >= states[-1]
        assert np.all(state.tensors["moment"] == state.step)


def test_sixty_kills_at_random_moments_lose_nothing(nursery: subprocess.Popen[str], tmp_path: Path) -> None:
    folder, lives, rng = tmp_path / "run", [], random.Random(0)
    open_writer(folder, {"kind": "killed"}).close()
    for _ in range(60):
        scalars = load(folder).scalars
        pid, lines = start_writer(nursery, folder, int(scalars["train_loss"].step[-1]) if scalars else 0)
        time.sleep(rng.uniform(0.0, 0.08))
        lives.append(kill_writer(nursery, pid, lines))
        check_nothing_lost(folder, lives)
    assert len(lives) == 60
    assert sum(len(life["scalars"]) for life in lives) > 100
    assert sum(len(life["snapshot"]) for life in lives) > 20
    with open_writer(folder, {"kind": "killed"}) as writer:
        writer.append_scalars(10**6, {"train_loss": [1.0, 2.0]})
    assert load(folder).last_step == 10**6
    assert not list(folder.rglob("*.tmp")), "the next writer clears away what killed ones left half done"


def test_kills_while_the_folder_is_made_leave_one_that_can_be_taken_up(
    nursery: subprocess.Popen[str], tmp_path: Path
) -> None:
    rng, seen = random.Random(1), set()
    for number in range(25):
        folder = tmp_path / f"run{number}"
        pid, lines = start_writer(nursery, folder, 0)
        time.sleep(rng.uniform(0.0, 0.004))
        life = kill_writer(nursery, pid, lines)
        seen.add(bool(life["scalars"]))
        with open_writer(folder, {"kind": "killed"}) as writer:
            writer.append_scalars(10**6, {"step_again": 1.0})
        assert load(folder).last_step == 10**6
    assert seen, "no writer was killed"


def test_a_live_reader_sees_only_whole_records_and_whole_snapshots(
    nursery: subprocess.Popen[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    open_writer(folder, {"kind": "killed"}).close()
    pid, lines = start_writer(nursery, folder, 0)
    rows, snapshots, end = [0], 0, time.monotonic() + 1.5
    while time.monotonic() < end:
        trajectory = load(folder)
        rows.append(trajectory.source.rows)
        for snapshot in trajectory.snapshots[-2:]:
            assert np.all(snapshot.tensors["weights/w"] == snapshot.step)
            snapshots += 1
        state = read_state(folder)
        assert state is None or np.all(state.tensors["moment"] == state.step)
    check_nothing_lost(folder, [kill_writer(nursery, pid, lines)])
    assert rows == sorted(rows)
    assert rows[-1] > 50
    assert snapshots > 10


def test_a_record_torn_at_any_byte_is_ignored_and_then_cut_off(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with open_writer(folder, MANIFEST) as writer:
        for step in range(3):
            writer.append_scalars(step, {"train_loss": step})
    whole = (folder / store.JOURNAL).read_bytes()
    before = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for end in range(before, len(whole)):
        (folder / store.JOURNAL).write_bytes(whole[:end])
        assert load(folder).scalars["train_loss"].step.tolist() == [0, 1]
        with open_writer(folder, MANIFEST) as writer:
            writer.append_scalars(7, {"train_loss": 7})
        assert load(folder).scalars["train_loss"].step.tolist() == [0, 1, 7]


@pytest.mark.parametrize("torn", [0, 10, store.BLOCK - 1, store.BLOCK, store.BLOCK + 1, 3 * store.BLOCK])
@pytest.mark.parametrize("whole", [b"", b'{"record":"event","step":null,"what":"x"}\n'])
def test_a_torn_line_of_any_length_is_cut_off(tmp_path: Path, whole: bytes, torn: int) -> None:
    open_writer(tmp_path / "run", MANIFEST).close()
    journal = tmp_path / "run" / store.JOURNAL
    journal.write_bytes(whole + b"x" * torn)
    open_writer(tmp_path / "run", MANIFEST).close()
    assert journal.read_bytes() == whole


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**63 - 1), st.lists(st.floats(width=64), min_size=2, max_size=2)),
        min_size=1,
        max_size=8,
    )
)
def test_any_float_at_any_step_comes_back_bit_for_bit_and_the_last_of_a_step_holds(
    records: list[tuple[int, list[float]]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with open_writer(Path(folder), MANIFEST) as writer:
            for step, values in records:
                writer.append_scalars(step, {"anything": values})
        series = load(folder).scalars["anything"]
    wanted = dict(records)
    assert series.step.tolist() == sorted(wanted)
    for step, column in zip(series.step.tolist(), series.value.T.tolist(), strict=True):
        assert [bits(value) for value in column] == [bits(value) for value in wanted[step]]


def bits(value: float) -> bytes:
    """Return the eight bytes of a float; every NaN counts as one."""
    return b"nan" if np.isnan(value) else struct.pack("d", value)


def test_tensors_come_back_with_their_dtype_shape_and_order(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "number": np.array(3.0),
        "bytes": np.arange(5, dtype=np.uint8)[::2],
        "empty": np.zeros((1, 0, 3), np.float32),
    }
    with open_writer(tmp_path / "run", MANIFEST) as writer:
        writer.write_snapshot(2 * 10**9, tensors, np.float64(0.5))
        writer.write_snapshot(5, tensors)
        writer.write_state(7, tensors)
    snapshots = load(tmp_path / "run").snapshots
    state = read_state(tmp_path / "run")
    assert [snapshot.step for snapshot in snapshots] == [5, 2 * 10**9]
    assert [snapshot.flow_time for snapshot in snapshots] == [None, 0.5]
    assert state is not None
    assert state.step == 7
    for held in (*(snapshot.tensors for snapshot in snapshots), state.tensors):
        assert set(held) == set(tensors)
        assert len(held) == 5
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(held[name], tensor, strict=True)
    with pytest.raises(KeyError):
        snapshots[0].tensors["missing"]


def test_the_folder_says_everything_that_was_written(tmp_path: Path) -> None:
    with open_writer(tmp_path / "run", MANIFEST) as writer:
        writer.write_batches({"train": EvalBatch("train", np.array([1, 0, 1]), 50)})
        writer.append_event(None, "began")
        writer.append_scalars(3, {"lr": np.float32(0.5), "train_loss": [1.0]})
        writer.append({"record": "cost", "training_seconds": 2.0, "skipped": np.int64(3), "recording_seconds": np.nan})
        writer.append({"record": "of a later version", "anything": {"deep": [1, None]}})
        writer.append_event(3, "began")
        writer.append_event(3, "began")
    trajectory = load(str(tmp_path / "run"))
    assert trajectory.source.rows == 6
    assert [(event.step, event.what) for event in trajectory.events] == [(None, "began"), (3, "began")]
    assert trajectory.scalars["lr"].value.tolist() == [[0.5]]
    assert trajectory.scalars["train_loss"].unit == "nats per example"
    assert trajectory.settings["recipe"] == {"lr": 0.1, "widths": [3, 4]}
    assert trajectory.settings["cost"] == {"training_seconds": 2.0, "skipped": 3, "recording_seconds": "NaN"}
    assert trajectory.batches["train"].labels.tolist() == [1, 0, 1]
    assert trajectory.batches["train"].population == 50
    assert load(empty_run(tmp_path / "other")).scalars == {}
    assert "cost" not in load(tmp_path / "other").settings


def empty_run(folder: Path) -> Path:
    """Make a run folder that holds nothing yet."""
    open_writer(folder, MANIFEST).close()
    return folder


def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    with open_writer(tmp_path / "run", MANIFEST) as writer:
        with pytest.raises(InputError, match="being written by another process; wait for it"):
            open_writer(tmp_path / "run", MANIFEST)
        writer.append_event(1, "still the writer")
    writer.close()
    with open_writer(tmp_path / "run", MANIFEST | {"created": "tomorrow"}):
        pass
    assert load(tmp_path / "run").settings["created"] == "today"


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("with_lock", [True, False])
def test_the_folder_of_another_run_is_refused_and_left_as_it_was(tmp_path: Path, with_lock: bool) -> None:
    with open_writer(tmp_path / "run", MANIFEST) as writer:
        writer.append_scalars(1, {"train_loss": 1.0})
    if not with_lock:
        (tmp_path / "run" / store.LOCK).unlink()
    with (tmp_path / "run" / store.JOURNAL).open("ab") as journal:
        journal.write(b"torn")
    before = contents(tmp_path / "run")
    other = MANIFEST | {"recipe": {"lr": 0.2, "widths": (3, 4)}, "seeds": [1]}
    sentence = (
        r"run holds another run .it differs in recipe.lr: 0.1 there, 0.2 here; seeds: nothing there, \[1\] here.; "
    )
    with pytest.raises(InputError, match=sentence):
        open_writer(tmp_path / "run", other)
    assert contents(tmp_path / "run") == before


def test_of_many_differences_three_are_named_and_long_values_are_cut(tmp_path: Path) -> None:
    open_writer(tmp_path / "run", {"settings": {"p": 59, "a": 1, "b": "x\ny", "c": 1}, "names": ["fc"] * 99}).close()
    with pytest.raises(InputError) as refusal:
        open_writer(tmp_path / "run", {"settings": {"p": 97, "a": 1, "b": "z", "c": 2}, "names": []})
    names = f"names: {json.dumps(['fc'] * 99)[:37]}... there, [] here"
    assert str(refusal.value) == (
        f"{tmp_path / 'run'} holds another run (it differs in {names}; settings.b: x y there, z here; "
        "settings.c: 1 there, 2 here; and 1 more); choose another folder"
    )


def test_words_about_a_run_do_not_make_it_another(tmp_path: Path) -> None:
    told = {"title": "old", "reference": "paper", "expected": {"grokking": True}}
    open_writer(tmp_path / "run", MANIFEST | told).close()
    open_writer(tmp_path / "run", MANIFEST | {"title": "new", "expected": None}).close()
    assert load(tmp_path / "run").settings["title"] == "old"


def test_a_restart_drops_what_was_recorded_before_it_from_its_step_on(tmp_path: Path) -> None:
    with open_writer(tmp_path / "run", MANIFEST) as writer:
        for step in (0, 1, 10, 100, 555):
            writer.append_scalars(step, {"train_loss": step} | ({"only_late": 1.0} if step > 1 else {}))
            writer.write_snapshot(step, {"weights/w": np.full(1, step)})
        writer.append_event(555, "of the first")
        writer.append_restart(1)
        assert [snapshot.step for snapshot in load(tmp_path / "run").snapshots] == [0]
        assert {name: series.step.tolist() for name, series in load(tmp_path / "run").scalars.items()} == {
            "train_loss": [0]
        }
        for step in (1, 10, 74):
            writer.append_scalars(step, {"train_loss": -step})
        for step in (10, 74):
            writer.write_snapshot(step, {"weights/w": np.full(1, -step)}, restarts=1)
        after_one = load(tmp_path / "run")
        writer.append_restart(50)
        writer.append_scalars(60, {"train_loss": 6.0})
    assert after_one.scalars["train_loss"].value.tolist() == [[0, -1, -10, -74]]
    assert [(snapshot.step, int(snapshot.tensors["weights/w"][0])) for snapshot in after_one.snapshots] == [
        (0, 0),
        (10, -10),
        (74, -74),
    ], "the first training's snapshot of step 1, which the second evaluated too, is not shown"
    after_two = load(tmp_path / "run")
    assert after_two.scalars["train_loss"].step.tolist() == [0, 1, 10, 60]
    assert [snapshot.step for snapshot in after_two.snapshots] == [0, 10]
    assert [event.what for event in after_two.events] == ["of the first"]
    assert len(list((tmp_path / "run" / "snapshots").iterdir())) == 6, "nothing is deleted"


def test_a_foreign_folder_or_file_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear reader")
    for path in (tmp_path / "thesis", tmp_path / "thesis" / "chapter.tex", tmp_path / "thesis" / "chapter.tex" / "run"):
        with pytest.raises(
            InputError, match=r"not a run folder .it holds chapter.tex|is in the way|part of that path is a"
        ):
            open_writer(path, MANIFEST)
    assert contents(tmp_path) == {"thesis/chapter.tex": b"dear reader"}


DAMAGES = {
    "not there": (lambda folder: shutil.rmtree(folder), "does not exist; give a run folder or a log file"),
    "no manifest": (lambda folder: (folder / "run.json").unlink(), "is not a run folder: it has no run.json"),
    "later schema": (
        lambda folder: (folder / "run.json").write_text('{"schema": 99}'),
        "has schema version 99, this twoclocks reads 1; install the version that wrote it",
    ),
    "manifest a list": (lambda folder: (folder / "run.json").write_text("[1]"), "run.json is damaged"),
    "manifest empty": (lambda folder: (folder / "run.json").write_text(""), "run.json is damaged"),
    "manifest bytes": (lambda folder: (folder / "run.json").write_bytes(b"\xff\xfe{"), "run.json is damaged"),
    "manifest without schema": (lambda folder: (folder / "run.json").write_text("{}"), "run.json is damaged"),
    "truncated snapshot": (lambda folder: cut(snapshot_of(folder), 100), "step-000000002.safetensors is damaged"),
    "empty snapshot": (lambda folder: cut(snapshot_of(folder), 0), "step-000000002.safetensors is damaged"),
    "foreign snapshot": (
        lambda folder: snapshot_of(folder).write_bytes(store.encode_tensors({"a": np.zeros(3)}, {"x": "y"})),
        "damaged .it does not say its step.; delete it to go on without it",
    ),
    "truncated labels": (lambda folder: cut(folder / "eval.safetensors", 30), "eval.safetensors is damaged"),
    "journal with a list": (lambda folder: add_line(folder, b"[1, 2]"), "damaged in line 3: expected one JSON record"),
    "journal with a bare NaN": (lambda folder: add_line(folder, b'{"record": NaN}'), "damaged in line 3"),
    "journal with zeros": (lambda folder: add_line(folder, bytes(20)), "damaged in line 3"),
    "journal with bad text": (lambda folder: add_line(folder, b'{"record":"\xff"}'), "damaged in line 3"),
    "journal with an empty line": (lambda folder: add_line(folder, b""), "damaged in line 3"),
    "record without kind": (lambda folder: add_line(folder, b'{"step": 1}'), "damaged in line 3"),
    "scalars without step": (lambda folder: add_line(folder, b'{"record":"scalars","values":{}}'), "damaged in line 3"),
    "restart without step": (lambda folder: add_line(folder, b'{"record":"restart"}'), "damaged in line 3"),
    "negative step": (lambda folder: add_line(folder, scalars_line(-1, [1])), "damaged in line 3"),
    "enormous step": (lambda folder: add_line(folder, scalars_line(2**70, [1])), "damaged in line 3"),
    "uneven runs": (lambda folder: add_line(folder, scalars_line(9, [1, 2])), "train_loss should be one number a run"),
    "a word for a number": (
        lambda folder: add_line(folder, scalars_line(9, ["x"])),
        "train_loss should be one number a",
    ),
}


def snapshot_of(folder: Path) -> Path:
    return folder / "snapshots" / "step-000000002.safetensors"


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def add_line(folder: Path, line: bytes) -> None:
    with (folder / store.JOURNAL).open("ab") as journal:
        journal.write(line + b'\n{"record":"event","step":1,"what":"later"}\n')


def scalars_line(step: int, values: list[Any]) -> bytes:
    return json.dumps({"record": "scalars", "step": step, "values": {"train_loss": values}}).encode()


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_told_in_one_sentence(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "run"
    with open_writer(folder, MANIFEST) as writer:
        writer.write_batches({"train": EvalBatch("train", np.array([1, 0, 1]), 50)})
        writer.append_scalars(1, {"train_loss": 1.0})
        writer.append_scalars(2, {"train_loss": 1.0})
        writer.write_snapshot(2, {"weights/w": np.zeros((1, 100))})
    inflict, sentence = DAMAGES[damage]
    inflict(folder)
    with pytest.raises(InputError, match=sentence) as refusal:
        load(folder)
    assert "\n" not in str(refusal.value)
    assert str(folder) in str(refusal.value)


def test_a_damaged_state_is_told_and_an_absent_one_is_none(tmp_path: Path) -> None:
    with open_writer(tmp_path / "run", MANIFEST) as writer:
        assert read_state(tmp_path / "run") is None
        writer.write_state(3, {"a": np.zeros(100)})
    cut(tmp_path / "run" / "state" / "latest.safetensors", 200)
    with pytest.raises(InputError, match=r"latest.safetensors is damaged"):
        read_state(tmp_path / "run")


def test_what_cannot_be_a_record_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with open_writer(tmp_path / "run", MANIFEST) as writer:
        with pytest.raises(InputError, match="0 or more, got -1"):
            writer.append_scalars(-1, {"train_loss": 1.0})
        with pytest.raises(InputError, match="0 or more, got -3"):
            writer.write_snapshot(-3, {"weights/w": np.zeros(3)})
        with pytest.raises(InputError, match=r"scalar train_loss: expected one number, .* shape \[2, 2\]"):
            writer.append_scalars(1, {"train_loss": np.zeros((2, 2))})
    assert load(tmp_path / "run").source.rows == 0
    assert load(tmp_path / "run").snapshots == ()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow past `size`: a write beyond is cut short and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_only_partly_fits_is_taken_back_and_writing_goes_on_later(tmp_path: Path) -> None:
    with open_writer(tmp_path / "run", MANIFEST) as writer:
        writer.append_event(1, "fits")
        before = (tmp_path / "run" / store.JOURNAL).read_bytes()
        for room in (0, 1, 20):
            with (
                file_size_limit(len(before) + room),
                pytest.raises(InputError, match=r"events.jsonl: the file would pass"),
            ):
                writer.append_event(2, "does not fit")
            assert (tmp_path / "run" / store.JOURNAL).read_bytes() == before
        with file_size_limit(1000), pytest.raises(InputError, match=r"cannot write .*step-000000003.safetensors"):
            writer.write_snapshot(3, {"weights/w": np.zeros((1, 5000))})
        writer.append_event(3, "there is room again")
    trajectory = load(tmp_path / "run")
    assert [event.what for event in trajectory.events] == ["fits", "there is room again"]
    assert trajectory.snapshots == ()
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    folder = empty_run(tmp_path / "run")
    (folder / store.JOURNAL).unlink()
    (folder / store.JOURNAL).symlink_to("/dev/full")
    writer = open_writer(folder, MANIFEST)
    with pytest.raises(
        InputError, match=r"cannot append to .* the disk is full; free some space and run the same command"
    ):
        writer.append_event(1, "no room")
    with pytest.raises(InputError, match="cannot flush"):
        writer.close()
    (folder / store.JOURNAL).unlink()
    with open_writer(folder, MANIFEST):
        pass  # the failed close let go of the folder


def test_a_disk_that_fills_up_keeps_every_acknowledged_record(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=128k"):
        folder, written = tmp_path / "disk" / "run", 0
        with open_writer(folder, MANIFEST) as writer:
            with pytest.raises(InputError, match="the disk is full"):
                while True:
                    writer.append_event(written, "x" * 700)
                    written += 1
            with pytest.raises(InputError, match="the disk is full"):
                writer.write_snapshot(1, {"weights/w": np.zeros((1, 50_000))})
        assert written > 20
        assert len(load(folder).events) == written
        assert not list(folder.rglob("*.tmp"))
        with pytest.raises(InputError, match=r"cannot make the run folder|cannot write .* the disk is full"):
            open_writer(tmp_path / "disk" / "other", MANIFEST | {"long": "x" * 9000})


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a small disk in memory at `folder`; where that is not allowed, limit what one file may hold instead."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    sentence = store.told.REMEDIES[errno.EFBIG]
    store.told.REMEDIES[errno.EFBIG] = store.told.REMEDIES[errno.ENOSPC]
    try:
        with file_size_limit(1 << 15):
            yield
    finally:
        store.told.REMEDIES[errno.EFBIG] = sentence


WRITE_WITHOUT_RIGHTS = """
import os, sys
from pathlib import Path
from twoclocks import store
from twoclocks.errors import InputError
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for folder in ("run", "new"):
    try:
        store.open_writer(Path(folder), {"kind": "test"})
    except InputError as refusal:
        print(refusal)
"""


def test_a_folder_without_write_permission_is_told_in_one_sentence(tmp_path: Path) -> None:
    open_writer(tmp_path / "run", {"kind": "test"}).close()
    before = contents(tmp_path)
    for folder in (tmp_path / "run", tmp_path):
        folder.chmod(0o555)
    try:
        child = subprocess.run(
            [sys.executable, "-c", WRITE_WITHOUT_RIGHTS], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    finally:
        for folder in (tmp_path, tmp_path / "run"):
            folder.chmod(0o755)
    said = child.stdout.splitlines()
    assert [line.split(":")[0] for line in said] == ["cannot make the run folder run", "cannot make the run folder new"]
    assert all("permission is denied; choose a folder that you may use" in line for line in said), child.stderr
    assert contents(tmp_path) == before


def test_a_read_only_disk_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(store, "FileIO", refuse)
    with pytest.raises(
        InputError, match=r"cannot make the run folder .* read-only file system; choose a folder that can be"
    ):
        open_writer(tmp_path / "run", MANIFEST)


def test_ten_thousand_records_of_fifteen_scalars_load_within_a_second(tmp_path: Path) -> None:
    values = {f"scalar{i}": [value] for i, value in enumerate(np.random.default_rng(0).normal(size=15).tolist())}
    records = ({"record": "scalars", "step": step, "values": values} for step in range(10_000))
    empty_run(tmp_path / "run")
    (tmp_path / "run" / store.JOURNAL).write_bytes(b"".join(store.encode_record(record) + b"\n" for record in records))
    seconds = []
    for _ in range(3):
        began = time.process_time()
        assert len(load(tmp_path / "run").scalars) == 15
        seconds.append(time.process_time() - began)
    assert min(seconds) < 1.0  # 0.3 s of CPU time on a machine of its own, twice that beside other work
