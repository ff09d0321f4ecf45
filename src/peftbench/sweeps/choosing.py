"""What protocols share: the points of a grid, trials that may fail, and the choice by validation images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peftbench.common.errors import UserError
from peftbench.config import Config, Protocol
from peftbench.results import Record, results_of_task
from peftbench.sweeps.grouping import arrange_in_groups

CarryOut = Callable[[list[Config]], list[Record]]
Point = dict[str, Any]


def choice_of(
    config: Config,
    rule: Protocol,
    grid: Mapping[str, Sequence[Any]] | None,
    points: Sequence[Point],
    records: Sequence[Record],
) -> dict[str, Any] | None:
    """The point that is best on validation images, as `chosen`, and what was tried; None where every trial failed.

    Ties go to the lower validation loss, then to the earlier point.
    """
    metric = f"val/{results_of_task(config.task.name, config.task.path).metric}"
    judged = [(_merit(r, metric), -i) for i, r in enumerate(records) if r.status == "complete"]
    if not judged:
        return None
    return {
        "name": rule.name,
        "trials": rule.trials,
        "grid": grid,
        "tuned_with_seed": config.seed,
        "chosen": points[-max(judged)[1]],
        "tried": [{"run": r.id, "point": p, metric: r.metrics.get(metric)}
                  for p, r in zip(points, records, strict=True)],
    }  # fmt: skip


_SET = ("seed", "data.stage", "data.class_group", "data.class_groups", "data.class_seed", "data.class_scope")


def points_of(config: Config, rule: Protocol, grid: Mapping[str, Sequence[Any]] | None) -> list[Point]:
    """The settings that a grid names, as many as the protocol's trials.

    Raises:
        UserError: no grid, one with another number of points than `rule.trials`, or keys that a protocol sets.
    """
    if not grid or not all(grid.values()):
        raise UserError(
            f"protocol={rule.name}: method={config.method.name} declares no grid to tune over; give one, such as "
            f"sweep.grid='{{optimizer.lr:[1e-3,1e-2]}}' protocol.trials=2."
        )
    if refused := next((k for k in grid if k in _SET or k.startswith("trainer.dev")), None):
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


def carry_out_all(configs: Sequence[Config], size: int, carry_out: CarryOut) -> list[Record]:
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
