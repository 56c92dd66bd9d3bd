"""This file knows how fast the readout moves against every other block, as series over training.

A block is a named group of parameters. Adam divides the scale out of a gradient, so under Adam the ratio of gradients
says who is pulled harder and only the ratio of updates says who moves faster (science of both: arXiv 2606.05863).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from twoclocks.trajectory import Float, Series, Trajectory

READOUT = "readout"
RATIOS: Mapping[str, str] = {"gradient_norm": "gradient_ratio", "update_size": "relative_speed_ratio"}


def block_speeds(trajectory: Trajectory) -> dict[str, Series]:
    """Return, by name, the readout's lead over every other block and every block's share of the loss decrease.

    `gradient_ratio.<block>`: ‖∇_readout loss‖ / ‖∇_block loss‖, of the loss without its decay.
    `relative_speed_ratio.<block>`: (‖Δθ‖ / ‖θ‖) of the readout ÷ that of the block, from the updates really made.
    `loss_decrease_share.<block>`: −⟨∇_b loss, Δθ_b⟩ / Σ_b of the same, to first order; NaN where the step as a whole did not
    lower the loss to first order, because there a share has no meaning.
    """
    lead = readout_block(trajectory)
    speeds: dict[str, Series] = {}
    for recorded, name in RATIOS.items():
        of_block = blocks_of(trajectory, recorded)
        if lead in of_block:
            speeds |= {
                f"{name}.{block}": ratio(of_block[lead], series, f"{name}.{block}")
                for block, series in of_block.items()
                if block != lead
            }
    return speeds | decrease_shares(blocks_of(trajectory, "loss_decrease"))


def readout_block(trajectory: Trajectory) -> str | None:
    """Return the block that holds the readout: the one called so, else the recorded layer, else the last one."""
    names = list(blocks_of(trajectory, "block_norm"))
    layer = trajectory.settings.get("readout")
    known = [name for name in (READOUT, layer) if name in names]
    return known[0] if known else names[-1] if names else None


def blocks_of(trajectory: Trajectory, recorded: str) -> dict[str, Series]:
    """Return the series `<recorded>.<block>` of a trajectory, by block."""
    prefix = f"{recorded}."
    return {name.removeprefix(prefix): s for name, s in trajectory.scalars.items() if name.startswith(prefix)}


def ratio(over: Series, under: Series, name: str) -> Series:
    """Return one series over another at the steps that both have; NaN where the lower one is 0."""
    step, places_over, places_under = np.intersect1d(over.step, under.step, return_indices=True)
    above, below = over.value[:, places_over], under.value[:, places_under]
    return Series(name, "ratio", step, divided(above, below))


def decrease_shares(decrease: Mapping[str, Series]) -> dict[str, Series]:
    """Return each block's share of the loss decrease, at the steps at which all blocks were recorded."""
    if not decrease:
        return {}
    step = next(iter(decrease.values())).step
    for series in decrease.values():
        step = np.intersect1d(step, series.step)
    values = {block: series.value[:, np.isin(series.step, step)] for block, series in decrease.items()}
    total = np.sum(list(values.values()), axis=0)
    total = np.where(total > 0, total, 0.0)
    return {
        f"loss_decrease_share.{block}": Series(
            f"loss_decrease_share.{block}", "share of the decrease", step, divided(value, total)
        )
        for block, value in values.items()
    }


def divided(above: Float, below: Float) -> Float:
    """Return above / below, NaN where below is 0."""
    quotient: Float = np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
    return quotient
