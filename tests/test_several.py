"""Several runs in one log: seeds of one experiment become an ensemble with right clocks; all else is listed by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracker_files import csv_text, event_file, json_lines, mlflow_folder, wandb_file
from twoclocks.cli import app
from twoclocks.clocks import hitting_time
from twoclocks.diagnosis import diagnose
from twoclocks.errors import InputError
from twoclocks.sources.logs import read_columns, read_log
from twoclocks.sources.several import why_not_seeds

STEPS = list(range(0, 100, 5))


def rows(shift: float = 0.0, steps: list[int] | None = None) -> list[dict[str, float]]:
    return [{"step": s, "train_loss": 4.0 - s / 32, "val_acc": (s + shift) / 128} for s in steps or STEPS]


def long_table(**columns: list[Any]) -> dict[str, list[Any]]:
    runs = next(iter(columns.values()))
    return {
        **{name: [v for v in values for _ in STEPS] for name, values in columns.items()},
        "step": STEPS * len(runs),
        "train_loss": [4.0 - s / 32 for _ in runs for s in STEPS],
    }


def test_each_run_s_values_stand_in_its_own_row_in_order_of_appearance() -> None:
    table = [{"seed": seed} | row for seed in (3, 1, 2) for row in rows(seed)]
    log = read_columns({name: [row[name] for row in table] for name in table[0]})
    for r, seed in enumerate((3, 1, 2)):
        assert log.scalars["heldout_accuracy"].value[r].tolist() == [(s + seed) / 128 for s in STEPS]
    assert log.source.rows == 3 * len(STEPS)
    assert "3 runs are read as seeds of one experiment: seed=3, seed=1, seed=2" in log.source.assumed


def test_interleaved_rows_of_several_runs_are_told_apart() -> None:
    table = [{"run": run} | row for row in rows() for run in ("run-1", "run-2")]
    log = read_columns({name: [row[name] for row in table] for name in table[0]})
    assert log.scalars["train_loss"].value.shape == (2, len(STEPS))


def test_runs_with_other_steps_meet_at_the_steps_that_all_have_and_their_clocks_stay_right() -> None:
    first, second = list(range(0, 1000, 10)), list(range(0, 1000, 20))
    values = {0: [1.0 if s >= 405 else 0.0 for s in first], 1: [1.0 if s >= 615 else 0.0 for s in second]}
    table = [
        {"seed": r, "step": s, "val_acc": v}
        for r, steps in enumerate((first, second))
        for s, v in zip(steps, values[r], strict=True)
    ]
    log = read_columns({name: [row[name] for row in table] for name in table[0]})
    accuracy = log.scalars["heldout_accuracy"]
    assert accuracy.step.tolist() == second
    assert np.isfinite(accuracy.value).all()
    time = hitting_time(accuracy, above=0.9)
    assert (time.values, time.resolutions) == ((420, 620), (20, 20))
    assert "heldout_accuracy is read at the 50 of 100 steps that all runs have" in log.source.assumed


def test_a_run_that_ended_early_is_not_cut_to_but_named() -> None:
    table = [{"seed": 0} | row for row in rows()] + [{"seed": 1} | row for row in rows(steps=STEPS[:5])]
    columns = {name: [row[name] for row in table] for name in table[0]}
    with pytest.raises(
        InputError, match=r"only 5 steps of train_loss are common to all .seed=0 has 20 to 95, seed=1 has 5 to 20"
    ):
        read_columns(columns)
    assert read_columns(columns, run="0").runs == 1


def test_a_sweep_is_not_an_ensemble(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"they differ in weight_decay .0.1, 1.; choose one with --run NAME"):
        read_columns(long_table(run=["a", "b"], weight_decay=[0.1, 1.0]))
    assert read_columns(long_table(run=["a", "b"], weight_decay=[0.1, 0.1])).runs == 2
    with pytest.raises(InputError, match="differ in optimiser"):
        read_columns(long_table(seed=[0, 1], optimiser=["adam", "sgd"]))
    assert read_columns(long_table(seed=[0, 1], optimiser=["adam", "sgd"]), run=["seed=0", "seed=1"]).runs == 2
    for name, decay in (("a", 0.1), ("b", 1)):
        mlflow_folder(tmp_path / "0" / name, rows(), name)
        (tmp_path / "0" / name / "params" / "wd").write_text(str(decay))
    with pytest.raises(InputError, match=r"2 runs .a, b., and they differ in wd .0.1, 1."):
        read_log(tmp_path)
    assert read_log(tmp_path, run="b").runs == 1
    assert read_log(tmp_path, run="all").runs == 2


def test_names_alone_make_seeds_only_where_they_differ_in_the_number_of_a_seed_or_a_run() -> None:
    alike = (
        ["seed0", "seed1"],
        ["wd1/seed_0", "wd1/seed_1"],
        ["s5-run-1", "s5-run-22"],
        ["a_s1", "a_s2"],
        ["rep1", "rep2"],
    )
    unlike = (
        ["wd0.1", "wd1.0"], ["adam", "sgd"], ["seed0_wd1", "seed1_wd2"], ["fluffy-cat-1", "quiet-sea-2"], ["v1", "v2"],
        ["lr1e-3/seed0", "lr1e-2/seed0"], ["steps10", "steps20"],
    )  # fmt: skip
    assert [why_not_seeds(names, {}) for names in alike] == [None] * 5
    assert all("nothing says" in str(why_not_seeds(names, {})) for names in unlike)
    assert len(unlike) == 7


def test_settings_decide_before_names() -> None:
    names = ["fluffy-cat-1", "quiet-sea-2"]
    assert why_not_seeds(names, {n: {"lr": 0.1, "seed": i, "run_dir": n} for i, n in enumerate(names)}) is None
    assert (
        why_not_seeds(["seed0", "seed1"], {"seed0": {"lr": 0.1}, "seed1": {"lr": 0.2}})
        == "they differ in lr (0.1, 0.2)"
    )


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow", "csv", "jsonl", "json"])
def test_run_folders_or_files_side_by_side_are_an_ensemble_in_every_format(tmp_path: Path, kind: str) -> None:
    for seed in (0, 1):
        at = tmp_path / f"seed{seed}"
        at.mkdir()
        if kind == "tensorboard":
            (at / "events.out.tfevents.1").write_bytes(event_file(rows(seed)))
        elif kind == "wandb":
            (at / "run-a.wandb").write_bytes(wandb_file(rows(seed), name=f"seed{seed}"))
        elif kind == "mlflow":
            mlflow_folder(at, rows(seed), f"seed{seed}")
        elif kind == "csv":
            (at / "metrics.csv").write_text(csv_text(rows(seed)))
        elif kind == "jsonl":
            (at / "metrics.jsonl").write_text(json_lines(rows(seed)))
    if kind == "json":
        (tmp_path / "runs.json").write_text(json.dumps({f"seed{seed}": rows(seed) for seed in (0, 1)}))
    log = read_log(tmp_path / "runs.json" if kind == "json" else tmp_path)
    assert log.scalars["heldout_accuracy"].value.tolist() == [[(s + seed) / 128 for s in STEPS] for seed in (0, 1)]
    assert read_log(tmp_path / "runs.json" if kind == "json" else tmp_path, run="seed1").runs == 1


def test_files_of_splits_are_one_run(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("step,loss\n0,3.0\n5,2.0\n10,1.0\n")
    (tmp_path / "val.csv").write_text("step,loss\n0,3.5\n10,1.5\n")
    log = read_log(tmp_path)
    assert (log.runs, log.scalars["train_loss"].step.tolist()) == (1, [0, 5, 10])
    assert log.scalars["heldout_loss"].value.tolist() == [[3.5, 1.5]]
    content = {"train": [{"step": s, "loss": 3.0 - s} for s in range(3)], "val": [{"step": 2, "loss": 1.5}]}
    (tmp_path / "log.json").write_text(json.dumps(content))
    log = read_log(tmp_path / "log.json")
    assert log.scalars["train_loss"].value.tolist() == [[3.0, 2.0, 1.0]]
    assert log.scalars["heldout_loss"].step.tolist() == [2]


def test_a_table_with_one_quantity_a_row_is_widened() -> None:
    table = {"run": [], "tag": [], "step": [], "value": []}  # type: dict[str, list[Any]]
    for run in ("run0", "run1"):
        for s in STEPS:
            for tag, value in (("train/loss", 4.0 - s / 32), ("val/acc", s / 128)):
                for name, cell in (("run", run), ("tag", tag), ("step", s), ("value", value)):
                    table[name].append(cell)
    log = read_columns(table)
    assert log.scalars["heldout_accuracy"].value.tolist() == [[s / 128 for s in STEPS]] * 2
    assert log.scalars["train_loss"].value.tolist() == [[4.0 - s / 32 for s in STEPS]] * 2


def test_percent_is_settled_for_all_runs_together() -> None:
    low = [1.2 + s / 1000 for s in range(20)]  # percent too, though never above 1.5
    high = [1.2 + 5 * s for s in range(20)]
    table = {"seed": [0] * 20 + [1] * 20, "step": list(range(20)) * 2, "val_acc": low + high}
    value = read_columns(table).scalars["heldout_accuracy"].value
    np.testing.assert_allclose(value, np.array([low, high]) / 100)


def test_runs_that_hold_other_measures_or_count_time_otherwise_are_listed(tmp_path: Path) -> None:
    (tmp_path / "seed0.csv").write_text(csv_text(rows()))
    (tmp_path / "seed1.csv").write_text(csv_text([{"step": r["step"], "train_loss": r["train_loss"]} for r in rows()]))
    with pytest.raises(
        InputError,
        match=r"do not hold the same measures .seed0 has heldout_accuracy, train_loss; seed1 has train_loss.",
    ):
        read_log(tmp_path)
    (tmp_path / "seed1.csv").write_text(csv_text(rows()).replace("step", "epoch"))
    with pytest.raises(InputError, match="count time differently"):
        read_log(tmp_path)


def test_many_runs_are_listed_in_part() -> None:
    names = [f"model{i}" for i in range(30)]
    with pytest.raises(InputError, match=r"30 runs .run=model0, .* and 22 more."):
        read_columns(long_table(run=names, width=[float(i) for i in range(30)]))


def test_a_name_can_mean_two_runs(tmp_path: Path) -> None:
    for folder in ("a/last", "b/last"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "events.out.tfevents.1").write_bytes(event_file(rows()))
    with pytest.raises(InputError, match="'last' could be a/last, b/last; write the whole name"):
        read_log(tmp_path, run="last")
    assert read_log(tmp_path, run="b/last").runs == 1


def test_the_command_takes_runs_by_name(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    path = tmp_path / "log.csv"
    path.write_text(csv_text([{"seed": seed} | row for seed in (0, 1) for row in rows(seed)]))
    several = CliRunner().invoke(app, ["diagnose", str(path), "--run", "0", "--run", "1", "--json"])
    assert (several.exit_code, json.loads(several.output)["runs"]) == (0, 2)
    one = CliRunner().invoke(app, ["diagnose", str(path), "--run", "1", "--json"])
    assert (one.exit_code, json.loads(one.output)["runs"]) == (0, 1)
    assert isinstance(CliRunner().invoke(app, ["diagnose", str(path), "--run", "2"]).exception, InputError)
    assert diagnose(path, run="all").runs == 2
