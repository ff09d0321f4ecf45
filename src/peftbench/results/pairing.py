"""What is paired with what where two methods are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from peftbench.common.amounts import plural
from peftbench.results.summary import Run

_ENOUGH_TASKS = 3  # shared by two methods, for a task to be a pair


def paired_differences(
    first: Mapping[str, Sequence[Run]], second: Mapping[str, Sequence[Run]], tasks: Sequence[str], metric: str
) -> tuple[list[float], str]:
    """First minus second for every pair, and in words what was paired.

    A pair is a task, its seeds averaged, where at least three tasks are shared; else it is a task and seed.

    Args:
        first: runs by task, each with the metric; likewise `second`.
    """
    by_task = []
    for task in tasks:
        values = {run.seed: run.metrics[metric] for run in first.get(task, ())}
        others = {run.seed: run.metrics[metric] for run in second.get(task, ())}
        shared_seeds = sorted(values.keys() & others.keys())
        if shared_seeds:
            by_task.append([values[seed] - others[seed] for seed in shared_seeds])
    if len(by_task) >= _ENOUGH_TASKS:
        return [fmean(of_task) for of_task in by_task], plural(len(by_task), "task")
    differences = [difference for of_task in by_task for difference in of_task]
    seeds = plural(len(differences), "seed")
    return differences, f"{seeds} on {len(by_task)} tasks" if len(by_task) > 1 else seeds
