"""Which of several rows is the cheapest, by each cost that can be compared: time, memory, trainable parameters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from peftbench.results.board import Row
from peftbench.results.summary import KEPT, TOGETHER, Run

TIME, MEMORY, PARAMETERS = "time", "memory", "parameters"
COSTS = (TIME, MEMORY, PARAMETERS)
_Kind = tuple[Hashable, ...]  # a machine, and what a cost counts
LESS = 0.9  # of a cost: what is less by under a tenth is not called cheaper


@dataclass(frozen=True)
class Cheapest:
    """Which of some rows cost least, and which could not be compared.

    Attributes:
        rows: those that cost least, and those above them by less than a tenth; none where fewer than two compare.
        value: the least cost; None where none has any.
        of_first: what the first of all rows costs; None where it is not compared.
        compared: the rows of the machine, and of the kind of cost, that most rows share.
        uncompared: the others, each with the reason.
        partly: of those compared the ones that have runs on other machines too, which are left out, and how many.
    """

    rows: tuple[Row, ...]
    value: float | None
    of_first: float | None
    compared: tuple[Row, ...]
    uncompared: tuple[tuple[Row, str], ...]
    partly: tuple[tuple[Row, int], ...] = ()


def cheapest(rows: Sequence[Row], tasks: Sequence[str], cost: str) -> Cheapest:
    """The cheapest of those that compare: of the kind of cost that most rows have, of equals that of the first row.

    Args:
        rows: each has runs on all of the tasks.
        cost: one of `COSTS`.
    """
    by_row = [_by_kind(row, tasks, cost) for row in rows]
    kinds = dict.fromkeys(kind for by_kind in by_row for kind in by_kind)
    if not kinds:
        return Cheapest((), None, None, (), tuple((row, _why_not(row, tasks, {}, None)) for row in rows))

    def spread(kind: _Kind) -> tuple[int, bool, int]:
        runs = sum(by_kind[kind][1] for by_kind in by_row if kind in by_kind)
        return sum(kind in by_kind for by_kind in by_row), kind in by_row[0], runs

    kind = max(kinds, key=spread)
    costs = {i: by_kind[kind] for i, by_kind in enumerate(by_row) if kind in by_kind}
    least = min(value for value, _ in costs.values())
    lowest = tuple(rows[i] for i, (value, _) in costs.items() if LESS * value <= least)
    others = [(row, by_kind) for row, by_kind in zip(rows, by_row, strict=True) if kind not in by_kind]
    left_out = {i: sum(len(rows[i].runs[task]) for task in tasks) - number for i, (_, number) in costs.items()}
    return Cheapest(
        lowest if len(costs) > 1 else (),
        least,
        costs[0][0] if 0 in costs else None,
        tuple(rows[i] for i in costs),
        tuple((row, _why_not(row, tasks, by_kind, kind)) for row, by_kind in others),
        tuple((rows[i], number) for i, number in left_out.items() if number),
    )


def recommended(rows: Sequence[Row], tasks: Sequence[str]) -> Row:
    """Of rows that are equally good the one to take: the fastest to train, of these the one that needs least memory,
    then the fewest parameters, then the first. What differs by less than a tenth counts as equal. A row whose cost
    does not compare leaves only itself out; a cost that compares no two rows decides nothing.
    """
    left = list(rows)
    for cost in COSTS:
        left = list(cheapest(left, tasks, cost).rows) or left
    return left[0]


def cost_of(row: Row, tasks: Sequence[str], cost: str) -> float | None:
    """Seconds, bytes or a count, averaged over the tasks; of memory the largest. None where a run does not say it.

    Time is that of training and validation, averaged over seeds, and of filling taps, that of the seed which filled
    them.
    """
    return _cost_of_runs([row.runs[task] for task in tasks], cost)


def leaves_out_filling(row: Row, tasks: Sequence[str]) -> bool:
    """Whether the row trained on kept taps that were there already on some of the tasks."""
    return _lacks_filling(row, [row.runs[task] for task in tasks])


def machines_of(row: Row, tasks: Sequence[str]) -> set[str]:
    """Where its runs on these tasks took place."""
    return {run.machine for task in tasks for run in row.runs[task]}


def _cost_of_runs(runs_by_task: Sequence[Sequence[Run]], cost: str) -> float | None:
    by_task = [_cost_on_task(runs, cost) for runs in runs_by_task]
    known = [value for value in by_task if value is not None]
    if len(known) < len(by_task):
        return None
    return max(known) if cost == MEMORY else fmean(known)


def _cost_on_task(runs: Sequence[Run], cost: str) -> float | None:
    values = [_cost_of_run(run, cost) for run in runs]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
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


def _by_kind(row: Row, tasks: Sequence[str], cost: str) -> dict[_Kind, tuple[float, int]]:
    """Its cost, and of how many runs, by what must be equal where costs are compared: a machine it ran all tasks on."""
    if cost == PARAMETERS:
        value = cost_of(row, tasks, cost)
        return {} if value is None else {(PARAMETERS,): (value, sum(len(row.runs[task]) for task in tasks))}
    by_kind: dict[_Kind, tuple[float, int]] = {}
    for machine in sorted(machines_of(row, tasks)) if row.times != TOGETHER else ():
        runs_by_task = [[run for run in row.runs[task] if run.machine == machine] for task in tasks]
        value = _cost_of_runs(runs_by_task, cost) if all(runs_by_task) else None
        if value is not None:
            rest = _measures(runs_by_task) if cost == MEMORY else _lacks_filling(row, runs_by_task)
            by_kind[machine, rest] = value, sum(map(len, runs_by_task))
    return by_kind


def _measures(runs_by_task: Sequence[Sequence[Run]]) -> tuple[str, ...]:
    return tuple(sorted({run.costs.measure for runs in runs_by_task for run in runs}))


def _lacks_filling(row: Row, runs_by_task: Sequence[Sequence[Run]]) -> bool:
    return row.times == KEPT and any(_fill(runs) <= 0 for runs in runs_by_task)


def _why_not(row: Row, tasks: Sequence[str], by_kind: Mapping[_Kind, object], kind: _Kind | None) -> str:
    """Why the row's cost, a time or memory, is not compared with those of the kind."""
    machines = machines_of(row, tasks)
    if row.times == TOGETHER:
        return "of runs that were trained together"
    if not by_kind:
        return f"of {len(machines)} machines" if len(machines) > 1 and len(tasks) > 1 else "not recorded"
    if kind is None or kind[0] not in machines:
        return "of another machine" if len(machines) == 1 else f"of {len(machines)} other machines"
    if kind[1] in (True, False):
        return "with filling taps, or without any" if kind[1] else "without filling taps"
    return "measured in another way"
