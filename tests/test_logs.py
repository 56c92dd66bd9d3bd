"""Logs: names, units, gaps, restarts and order are understood, and whatever was assumed is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from twoclocks.errors import InputError
from twoclocks.sources.logs import meaning_of, read_columns, read_log
from twoclocks.trajectory import Trajectory

NAMES = {
    "train_loss": "train_loss",
    "Train Loss": "train_loss",
    "train/loss": "train_loss",
    "loss": "train_loss",
    "trainLoss": "train_loss",
    "training_loss": "train_loss",
    "train_nll": "train_loss",
    "train_cross_entropy": "train_loss",
    "train_acc": "train_accuracy",
    "accuracy": "train_accuracy",
    "acc": "train_accuracy",
    "train_error": "train_accuracy",
    "metrics/train_accuracy": "train_accuracy",
    "val_loss": "heldout_loss",
    "eval/loss": "heldout_loss",
    "eval_loss": "heldout_loss",
    "valid_loss": "heldout_loss",
    "validation loss": "heldout_loss",
    "dev_loss": "heldout_loss",
    "test_mse": "heldout_loss",
    "held-out loss": "heldout_loss",
    "heldout_loss": "heldout_loss",
    "val_ppl": "heldout_loss",
    "test_acc": "heldout_accuracy",
    "Val Acc": "heldout_accuracy",
    "test_error": "heldout_accuracy",
    "eval_accuracy": "heldout_accuracy",
    "test_acc_top1": "heldout_accuracy",
    "test_err": "heldout_accuracy",
    "_step": "step",
    "iteration": "step",
    "global_step": "step",
    "trainer/global_step": "step",
    "Step": "step",
    "iter": "step",
    "epoch": "epoch",
    "Epoch": "epoch",
    "lr": "lr",
    "learning_rate": "lr",
    "train/learning_rate": "lr",
    "weight_norm": "weight_norm",
    "wn_total": "weight_norm",
    "beta": None,
    "train_loss_aux": None,
    "time": None,
    "train_test_gap_loss": None,
    "grad_norm": None,
    "steps_per_second": None,
    "test_acc5": None,
    "loss_scale": None,
    "eval_runtime": None,
}


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def scalar(trajectory: Trajectory, name: str) -> tuple[list[float], list[float]]:
    series = trajectory.scalars[name]
    return series.step.tolist(), series.value[0].tolist()


def test_column_names_mean_what_they_say() -> None:
    found = {name: None if (m := meaning_of(name)) is None else m.canonical for name in NAMES}
    assert found == NAMES
    assert len(found) > 45


def test_errors_percentages_and_perplexities_are_turned_and_said() -> None:
    log = read_columns(
        {"step": [0, 1], "train_acc": [1.2, 97.0], "test_error": [0.99, 0.25], "val_ppl": [np.e, np.e**2]}
    )
    assert_allclose(log.scalars["train_accuracy"].value, [[0.012, 0.97]])
    assert_allclose(log.scalars["heldout_accuracy"].value, [[0.01, 0.75]])
    assert_allclose(log.scalars["heldout_loss"].value, [[1.0, 2.0]])
    assert (
        len([note for note in log.source.assumed if "percent" in note or "error rate" in note or "perplexity" in note])
        == 3
    )


def test_a_column_below_one_percent_is_in_percent_where_its_sibling_is() -> None:
    log = read_columns({"step": [0, 1], "train_acc": [1.03, 100.0], "test_acc": [0.97, 0.9]})
    assert_allclose(log.scalars["heldout_accuracy"].value, [[0.0097, 0.009]])
    mixed = read_columns({"step": [0, 1], "train_acc": [1.03, 100.0], "test_acc": [0.0103, 0.9]})
    assert_allclose(mixed.scalars["heldout_accuracy"].value, [[0.0103, 0.9]])


def test_one_odd_value_does_not_make_a_column_percent_and_a_late_rise_does() -> None:
    rising = [i / 20 for i in range(1, 21)]
    odd = read_columns({"step": list(range(20)), "test_acc": [*rising[:10], 4.0, *rising[11:]]})
    assert odd.scalars["heldout_accuracy"].value[0, 9] == 0.5
    late = read_columns({"step": list(range(20)), "test_acc": [0.9, 0.8] * 9 + [1.0, 97.0]})
    assert_allclose(late.scalars["heldout_accuracy"].value[0, [0, -1]], [0.009, 0.97])


def test_percent_signs_decide(tmp_path: Path) -> None:
    log = read_log(csv(tmp_path / "a.csv", "step,train_acc\n0,0.5%\n1,1.2%\n"))
    assert_allclose(log.scalars["train_accuracy"].value, [[0.005, 0.012]])


def test_missing_cells_leave_steps_out_of_their_own_column_only() -> None:
    log = read_columns({"step": [0, 1, 2, 3], "train_loss": [3.0, 2.0, None, 1.0], "val_loss": [3.0, None, None, 1.5]})
    assert scalar(log, "train_loss") == ([0, 1, 3], [3.0, 2.0, 1.0])
    assert scalar(log, "heldout_loss") == ([0, 3], [3.0, 1.5])


def test_nans_that_fill_a_table_are_absent_and_nans_of_a_broken_loss_stay() -> None:
    nan = float("nan")
    log = read_columns(
        {
            "step": list(range(9)),
            "train_loss": [3.0, 2, 1, nan, nan, nan, nan, nan, nan],
            "val_loss": [3.0, nan, nan] * 3,
        }
    )
    assert np.isnan(log.scalars["train_loss"].value[0, 3:]).all()
    assert scalar(log, "heldout_loss")[0] == [0, 3, 6]


def test_repeated_steps_join_their_cells_and_the_last_value_holds() -> None:
    log = read_columns({"step": [1, 1, 2, 2], "train_loss": [3.0, None, 2.0, 1.9], "val_loss": [None, 3.5, None, 2.5]})
    assert scalar(log, "train_loss") == ([1, 2], [3.0, 1.9])
    assert scalar(log, "heldout_loss") == ([1, 2], [3.5, 2.5])


def test_a_restart_replaces_the_branch_it_abandoned() -> None:
    log = read_columns({"step": [0, 10, 20, 30, 40, 15, 25, 35], "train_loss": [9.0, 8, 7, 6, 5, 1.5, 2.5, 3.5]})
    assert scalar(log, "train_loss") == ([0, 10, 15, 25, 35], [9.0, 8.0, 1.5, 2.5, 3.5])
    assert any("restart" in note for note in log.source.assumed)


def test_unsorted_rows_are_sorted_and_none_is_lost() -> None:
    order = np.random.default_rng(0).permutation(200)
    log = read_columns({"step": order.tolist(), "train_loss": (order * 2.0).tolist()})
    assert_array_equal(log.scalars["train_loss"].step, np.arange(200))
    assert_allclose(log.scalars["train_loss"].value[0], np.arange(200) * 2.0)
    swapped = read_columns({"step": [5, 6, 7, 0, 1, 2], "train_loss": [5.0, 6, 7, 0, 1, 2]})
    assert scalar(swapped, "train_loss")[0] == [0, 1, 2, 5, 6, 7]


def test_a_counter_that_starts_again_in_every_epoch_is_added_up() -> None:
    log = read_columns({"epoch": [0, 0, 1, 1, 2, 2], "iter": [0, 1] * 3, "train_loss": [6.0, 5, 4, 3, 2, 1]})
    assert scalar(log, "train_loss") == ([0, 1, 2, 3, 4, 5], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])


def test_time_is_the_step_else_the_epoch_else_the_row() -> None:
    epochs = read_columns({"epoch": [0.5, 1.0, 1.5], "loss": [3.0, 2.0, 1.0]})
    assert epochs.source.time == "epoch"
    assert scalar(epochs, "train_loss")[0] == [0.5, 1.0, 1.5]
    rows = read_columns({"loss": [3.0, 2.0, 1.0]})
    assert rows.source.time == "row"
    assert any("row numbers" in note for note in rows.source.assumed)


def test_the_plainer_of_two_columns_is_read_and_the_choice_is_said() -> None:
    log = read_columns(
        {
            "step": [0, 1],
            "train_loss_step": [9.0, 9.0],
            "train_loss": [2.0, 1.0],
            "val_acc": [0.1, 0.2],
            "test_acc": [0.3, 0.4],
        }
    )
    assert scalar(log, "train_loss")[1] == [2.0, 1.0]
    assert sum("use --map" in note for note in log.source.assumed) == 2
    assert log.source.columns["train_loss"] == "train_loss"


def test_map_names_what_the_name_does_not_say() -> None:
    log = read_columns(
        {"n": [1, 2], "foo": [2.0, 1.0], "bar": [0.1, 0.2]},
        {"step": "n", "train_loss": "foo", "heldout_accuracy": "bar"},
    )
    assert log.source.columns == {"n": "step", "foo": "train_loss", "bar": "heldout_accuracy"}
    with pytest.raises(InputError, match=r"no column 'fo'. Did you mean 'foo'"):
        read_columns({"n": [1, 2], "foo": [2.0, 1.0]}, {"train_loss": "fo"})
    with pytest.raises(InputError, match=r"not a canonical column. Did you mean 'train_loss'"):
        read_columns({"n": [1, 2], "foo": [2.0, 1.0]}, {"trainloss": "foo"})


def test_other_numeric_columns_are_kept() -> None:
    log = read_columns({"step": [0, 1], "loss": [2.0, 1.0], "fourier_gini": [0.1, 0.2], "tag": ["a", "b"]})
    assert "fourier_gini" in log.scalars
    assert "tag" not in log.scalars


def test_of_several_runs_in_one_file_one_is_read_where_it_is_named() -> None:
    table = {"seed": [0, 0, 1, 1, 1, 2], "step": [0, 1, 0, 1, 2, 0], "loss": [9.0, 9, 3, 2, 1, 9]}
    log = read_columns(table, run="1")
    assert scalar(log, "train_loss")[1] == [3.0, 2.0, 1.0]
    assert any("of 3 runs" in note for note in log.source.assumed)
    with pytest.raises(InputError, match=r"holds 3 runs .seed=0, seed=1, seed=2.*only 1 steps of train_loss"):
        read_columns(table)


def test_a_log_without_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no numbers"):
        read_log(csv(tmp_path / "a.csv", "name,tag\na,b\n"))
    with pytest.raises(InputError, match="holds no numbers"):
        read_log(csv(tmp_path / "a.csv", "step,loss\n"))
    with pytest.raises(InputError, match="equal length"):
        read_columns({"step": [1], "loss": [1.0, 2.0]})


NUMBER = st.one_of(st.none(), st.floats(width=32), st.integers(-5, 50).map(float))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    columns=st.dictionaries(
        st.sampled_from(["step", "epoch", "loss", "val_loss", "train_acc", "test_error", "seed", "lr", "x"]),
        st.lists(NUMBER, min_size=6, max_size=6),
        min_size=1,
    )
)
def test_any_table_of_numbers_is_a_trajectory_or_one_sentence(columns: dict[str, list[float | None]]) -> None:
    try:
        log = read_columns(columns)
    except InputError:
        return
    for series in log.scalars.values():
        assert (np.diff(series.step) > 0).all()
        assert series.value.shape == (log.runs, len(series.step))
