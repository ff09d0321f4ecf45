"""Protocols: how a setting is chosen on validation images before it is tested once."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peftbench.common.errors import UserError
from peftbench.config import Config, Protocol, Sweep, replaced
from peftbench.results import Record, results_of_task
from peftbench.sweeps.grouping import arrange_in_groups

CarryOut = Callable[[list[Config]], list[Record]]
Point = dict[str, Any]


def carry_out_vtab1k(config: Config, rule: Protocol, sweep: Sweep, carry_out: CarryOut) -> list[Record]:
    """VTAB-1k's (Zhai et al., 2019): every point of the grid is trained on train and judged on val; the best one is
    trained on both and tested once, with each seed. Nothing looks at test images before.

    Returns the records of the final runs; of the trials where one was interrupted or all failed. What is complete is
    not run again. Ties go to the lower validation loss, then to the earlier point.

    Raises:
        UserError: no grid, one with another number of points than `rule.trials`, or keys that are not there.
    """
    grid = sweep.grid
    points = _points(config, rule, grid)
    replaced(config, {**points[0], "data.stage": "final"})  # what cannot be run then is said now, before the trials
    trials = [replaced(config, {**point, "data.stage": "tune", "seed": config.seed}) for point in points]
    records = _carry_out_all(trials, sweep.together, carry_out)
    if len(records) < len(trials) or any(r.status == "interrupted" for r in records):
        return records
    metric = f"val/{results_of_task(config.task.name, config.task.path).metric}"
    judged = [(_merit(r, metric), -i) for i, r in enumerate(records) if r.status == "complete"]
    if not judged:
        return records
    best = -max(judged)[1]
    choice = {
        "name": rule.name,
        "trials": rule.trials,
        "grid": grid,
        "tuned_with_seed": config.seed,
        "chosen": points[best],
        "tried": [{"run": r.id, "point": p, metric: r.metrics.get(metric)}
                  for p, r in zip(points, records, strict=True)],
    }  # fmt: skip
    finals = []
    for seed in range(config.seed, config.seed + rule.seeds):
        final = replaced(config, {**points[best], "data.stage": "final", "seed": seed})
        finals.append(dataclasses.replace(final, protocol=choice))
    return _carry_out_all(finals, sweep.together, carry_out)


def _points(config: Config, rule: Protocol, grid: Mapping[str, Sequence[Any]] | None) -> list[Point]:
    if not grid or not all(grid.values()):
        raise UserError(
            f"protocol={rule.name}: method={config.method.name} declares no grid to tune over; give one, such as "
            f"sweep.grid='{{optimizer.lr:[1e-3,1e-2]}}' protocol.trials=2."
        )
    if refused := next((k for k in grid if k in ("seed", "data.stage") or k.startswith("trainer.dev")), None):
        raise UserError(f"sweep.grid: {refused} is not to be tuned; the protocol sets it.")
    if "optimizer.lr" in grid and (config.optimizer.find_lr or True in grid.get("optimizer.find_lr", ())):
        raise UserError(
            "sweep.grid: optimizer.lr is not to be tuned where optimizer.find_lr=true has each run look for its rate; "
            "leave one of them out."
        )
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if len(points) != rule.trials:
        raise UserError(
            f"sweep.grid: has {len(points)} points for method={config.method.name}, and protocol.trials={rule.trials} "
            f"is the budget of every method; give as many points, or protocol.trials={len(points)} for all methods."
        )
    return points


def _carry_out_all(configs: Sequence[Config], size: int, carry_out: CarryOut) -> list[Record]:
    """A record each, in order; after an interruption, or a run that could not begin, the others have none."""
    records: dict[int, Record] = {}
    for indices in arrange_in_groups(configs, size):
        for index, record in zip(indices, carry_out([configs[i] for i in indices]), strict=True):
            records[index] = record
        group = [records[i] for i in indices]
        if any(r.status == "interrupted" for r in group) or not any(r.id for r in group):
            break  # nor would the others begin where one could not
    return [records[i] for i in sorted(records)]


def _merit(record: Record, metric: str) -> tuple[float, float]:
    value, loss = (record.metrics.get(n, math.nan) for n in (metric, "val/loss"))
    return (value if math.isfinite(value) else -1.0), (-loss if math.isfinite(loss) else -math.inf)
