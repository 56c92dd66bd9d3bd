"""Text: what a person reads in a terminal is complete, fits its width, and never passes on control characters."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from twoclocks.diagnosis import Diagnosis, diagnose
from twoclocks.text import as_text

LOGS = Path(__file__).parent / "data" / "logs"


def fields(diagnosis: Diagnosis) -> dict[str, object]:
    return dict(msgspec.to_builtins(diagnosis))


@pytest.mark.parametrize("width", [48, 72, 100])
def test_text_keeps_its_width(width: int) -> None:
    diagnosed = [diagnose(path) for path in sorted(LOGS.glob("*.csv"))]
    lines = [line for one in diagnosed for line in as_text(fields(one), width=width).splitlines()]
    assert len(diagnosed) == 19
    # a word longer than the line (a path) cannot be broken; nothing else may stick out
    assert all(len(line) <= width or len(line.split()) <= 2 for line in lines)


def test_a_censored_clock_is_later_than_the_last_step_and_never_a_number() -> None:
    text = as_text(fields(diagnose(LOGS / "modadd59_mlp_f15.csv")))
    assert "T_gen_0.9  step > 100000" in text
    assert "None" not in text
    assert "nan" not in text.lower().replace("cannot", "")


def test_colour_is_added_only_when_asked_for() -> None:
    diagnosis = fields(diagnose(LOGS / "modadd97_tf2l_muon.csv"))
    assert "\x1b[" in as_text(diagnosis, colour=True)
    assert "\x1b" not in as_text(diagnosis)


def test_control_characters_of_a_strangers_log_do_not_reach_the_terminal() -> None:
    diagnosis = diagnose({"step": [0, 1, 2], "train_loss\x1b[2J": [3.0, 2.0, 1.0], "val_loss": [3.0, 2.0, 1.0]})
    assert "\x1b" not in as_text(fields(diagnosis))
    assert "\x1b[2J" not in as_text(fields(diagnosis), colour=True)
