"""The speeds of blocks as series: ratios at shared steps, shares that sum to 1, and what has no meaning as NaN."""

from __future__ import annotations

import numpy as np

from synthetic import series, trajectory
from twoclocks.block_speeds import block_speeds, readout_block

STEP = np.array([1, 2, 3])


def test_ratios_are_the_readouts_over_each_other_block_at_the_steps_that_both_have() -> None:
    of = trajectory(
        *(series(f"block_norm.{name}", STEP, np.ones(3)) for name in ("encoder", "readout")),
        series("gradient_norm.readout", STEP, [2.0, 4.0, 6.0]),
        series("gradient_norm.encoder", STEP[:2], [1.0, 0.0]),
        series("update_size.readout", STEP, [1.0, 1.0, 1.0]),
        series("update_size.encoder", STEP, [2.0, 2.0, np.nan]),
    )
    found = block_speeds(of)
    assert set(found) == {"gradient_ratio.encoder", "relative_speed_ratio.encoder"}
    np.testing.assert_array_equal(found["gradient_ratio.encoder"].value, [[2.0, np.nan]])
    np.testing.assert_array_equal(found["gradient_ratio.encoder"].step, [1, 2])
    np.testing.assert_array_equal(found["relative_speed_ratio.encoder"].value, [[0.5, 0.5, np.nan]])


def test_shares_sum_to_one_where_the_step_lowers_the_loss_and_have_no_meaning_elsewhere() -> None:
    of = trajectory(
        series("loss_decrease.readout", STEP, [3.0, -1.0, -2.0]), series("loss_decrease.encoder", STEP, [1.0, 2.0, 1.0])
    )
    shares = block_speeds(of)
    np.testing.assert_array_equal(shares["loss_decrease_share.readout"].value, [[0.75, -1.0, np.nan]])
    total = sum(one.value for one in shares.values())
    np.testing.assert_array_equal(total, [[1.0, 1.0, np.nan]])


def test_the_readout_is_the_block_called_so_or_the_recorded_layer_or_the_last() -> None:
    def with_blocks(*names: str, **settings: str) -> str | None:
        return readout_block(
            trajectory(*(series(f"block_norm.{n}", STEP, np.ones(3)) for n in names), settings=settings)
        )

    assert with_blocks("readout", "later") == "readout"
    assert with_blocks("fc", "later", readout="fc") == "fc"
    assert with_blocks("first", "last") == "last"
    assert with_blocks() is None
    assert block_speeds(trajectory()) == {}
