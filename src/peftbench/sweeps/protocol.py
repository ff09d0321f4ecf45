"""Protocols: how a setting is chosen on validation images before it is tested once."""

from __future__ import annotations

import dataclasses

from peftbench.config import Config, Protocol, Sweep, replaced
from peftbench.results import Record
from peftbench.sweeps.choosing import CarryOut, carry_out_all, choice_of, points_of
from peftbench.sweeps.continual import carry_out_continual


def carry_out_vtab1k(config: Config, rule: Protocol, sweep: Sweep, carry_out: CarryOut) -> list[Record]:
    """VTAB-1k's (Zhai et al., 2019): every point of the grid is trained on train and judged on val; the best one is
    trained on both and tested once, with each seed. Nothing looks at test images before.

    Returns the records of the final runs; of the trials where one was interrupted or all failed. What is complete is
    not run again. Ties go to the lower validation loss, then to the earlier point.

    Raises:
        UserError: no grid, one with another number of points than `rule.trials`, or keys that are not there.
    """
    grid = sweep.grid
    points = points_of(config, rule, grid)
    replaced(config, {**points[0], "data.stage": "final"})  # what cannot be run then is said now, before the trials
    trials = [replaced(config, {**point, "data.stage": "tune", "seed": config.seed}) for point in points]
    records = carry_out_all(trials, sweep.together, carry_out)
    if len(records) < len(trials) or any(r.status == "interrupted" for r in records):
        return records
    choice = choice_of(config, rule, grid, points, records)
    if choice is None:
        return records
    finals = []
    for seed in range(config.seed, config.seed + rule.seeds):
        final = replaced(config, {**choice["chosen"], "data.stage": "final", "seed": seed})
        finals.append(dataclasses.replace(final, protocol=choice))
    return carry_out_all(finals, sweep.together, carry_out)


PROTOCOLS = {"vtab1k": carry_out_vtab1k, "continual": carry_out_continual}
"""Name -> what carries a job of it out."""
