"""The tour runs as written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOUR = Path(__file__).parents[1] / "docs" / "tour.py"


def test_the_tour_runs_and_says_what_it_promises() -> None:
    done = subprocess.run([sys.executable, "-W", "error", str(TOUR)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for part in (
        "GROKKING",
        "stop? undetermined",
        "ORDINARY LEARNING",
        "held-out-fit",
        "stable_rank",
        "2 runs to step 60",
    ):
        assert part in done.stdout
