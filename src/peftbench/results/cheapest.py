"""Which of several rows is the cheapest, by each cost that can be compared: time, memory, trainable parameters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean

from peftbench.results.board import Row, has_comparable_costs
from peftbench.results.summary import KEPT, TOGETHER, Run

TIME, MEMORY, PARAMETERS = "time", "memory", "parameters"
COSTS = (TIME, MEMORY, PARAMETERS)
LESS = 0.9  # of a cost: what is less by under a tenth is not called cheaper


@dataclass(frozen=True)
class Cheapest:
    """The row that costs least, of those that can be compared; `of_first` is what the first of the rows costs.

    `uncompared` are the rows whose cost is unknown, or is of another machine or kind, each with the reason.
    """

    row: Row
    value: float
    of_first: float | None
    uncompared: tuple[tuple[Row, str], ...]


def cheapest(rows: Sequence[Row], tasks: Sequence[str], cost: str) -> Cheapest | None:
    """The cheapest of the rows that compare with the first, or where it has no cost, with most; None where none has.

    Args:
        rows: each has runs on all of the tasks.
        cost: one of `COSTS`.
    """
    values = [cost_of(row, tasks, cost) for row in rows]
    kinds = [None if value is None else _kind(row, tasks, cost) for row, value in zip(rows, values, strict=True)]
    known = [kind for kind in kinds if kind is not None]
    if not known:
        return None
    kind = kinds[0] or max(known, key=known.count)
    at = min((i for i in range(len(rows)) if kinds[i] == kind), key=lambda i: values[i] or 0.0)
    differing = [i for i in range(len(rows)) if kinds[i] != kind]
    reasons = tuple((rows[i], _why_not(rows[i], values[i], rows[at], tasks)) for i in differing)
    return Cheapest(rows[at], values[at] or 0.0, values[0] if kinds[0] == kind else None, reasons)


def recommended(rows: Sequence[Row], tasks: Sequence[str]) -> Row:
    """Of rows that are equally good the one to take: the fastest to train, of these the one that needs least memory,
    then the fewest parameters, then the first. What differs by less than a tenth counts as equal; a cost that cannot
    be compared among all of them decides nothing.
    """
    left = list(rows)
    for cost in COSTS:
        least = cheapest(left, tasks, cost)
        if least is not None and not least.uncompared:
            left = [row for row in left if LESS * (cost_of(row, tasks, cost) or 0.0) <= least.value]
    return left[0]


def cost_of(row: Row, tasks: Sequence[str], cost: str) -> float | None:
    """Seconds, bytes or a count, averaged over the tasks; of memory the largest. None where a run does not say it.

    Time is that of training and validation, averaged over seeds, and of filling taps, that of the seed which filled
    them.
    """
    by_task = [_cost_on_task(row.runs[task], cost) for task in tasks]
    known = [value for value in by_task if value is not None]
    if len(known) < len(by_task):
        return None
    return max(known) if cost == MEMORY else fmean(known)


def _cost_on_task(runs: Sequence[Run], cost: str) -> float | None:
    values = [_cost_of_run(run, cost) for run in runs]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if cost == MEMORY:
        return max(known)
    return fmean(known) + (_fill(runs) if cost == TIME else 0.0)


def _cost_of_run(run: Run, cost: str) -> float | None:
    if cost == PARAMETERS:
        return run.costs.parameters
    if cost == MEMORY:
        return run.costs.memory
    return None if run.costs.train is None else run.costs.train + (run.costs.validate or 0.0)


def _fill(runs: Sequence[Run]) -> float:
    return max(run.costs.fill or 0.0 for run in runs)


def _kind(row: Row, tasks: Sequence[str], cost: str) -> Hashable | None:
    """Equal where costs may be compared; None where they may not at all."""
    if cost == PARAMETERS:
        return (PARAMETERS,)
    if not has_comparable_costs(row):
        return None
    if cost == MEMORY:
        return row.machines, tuple(sorted({run.costs.measure for run in row.all_runs()}))
    return row.machines, _leaves_out_filling(row, tasks)


def _leaves_out_filling(row: Row, tasks: Sequence[str]) -> bool:
    """Whether the row trained on kept taps that were there already on some task."""
    return row.times == KEPT and any(_fill(row.runs[task]) <= 0 for task in tasks)


def _why_not(row: Row, value: float | None, other: Row, tasks: Sequence[str]) -> str:
    """Why the row's cost, a time or memory, does not compare with that of the other."""
    if value is None:
        return "not recorded"
    if row.times == TOGETHER:
        return "of runs that were trained together"
    if len(row.machines) > 1:
        return f"of {len(row.machines)} machines"
    if row.machines != other.machines:
        return "of another machine"
    if _leaves_out_filling(row, tasks) != _leaves_out_filling(other, tasks):
        return "without filling taps" if _leaves_out_filling(row, tasks) else "with filling taps, or without any"
    return "measured in another way"
