"""What is not compared on some tasks, and why: methods without a run there, with one that failed, on another split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from peftbench.common.amounts import plural
from peftbench.results.summary import Run

Pair = tuple[str, str]
"""A method, and the backbone that it was run on."""


@dataclass(frozen=True)
class LeftOut:
    """What was not compared, and why."""

    names: tuple[str, ...]
    reason: str


def left_out(tasks: Sequence[str], metric: str, compared: Collection[Pair], runs: Sequence[Run]) -> list[LeftOut]:
    """Methods on a backbone that are not compared, by why. A method is named alone where its backbone says nothing.

    Args:
        compared: those that have a figure on all of the tasks.
        runs: all that were read.
    """
    runs_by_pair: dict[Pair, list[Run]] = defaultdict(list)
    for run in runs:
        runs_by_pair[run.method, run.backbone].append(run)
    why_by_pair: dict[Pair, str] = {}
    for pair, of_pair in runs_by_pair.items():
        if pair not in compared and (reason := _why_not(of_pair, tasks, metric)):
            why_by_pair[pair] = reason
    names: dict[str, dict[str, None]] = defaultdict(dict)
    several = len({backbone for _, backbone in runs_by_pair}) > 1
    for (method, backbone), reason in why_by_pair.items():
        reasons = {other for (name, _), other in why_by_pair.items() if name == method}
        alone = len(reasons) == 1 and not any(name == method for name, _ in compared)
        names[reason][method if alone or not several else f"{method} on {backbone}"] = None
    return [LeftOut(tuple(of_reason), reason) for reason, of_reason in names.items()]


def _why_not(runs: Sequence[Run], tasks: Sequence[str], metric: str) -> str:
    """Why a method on a backbone is not compared; empty where its runs are judged by something else."""
    figured = {run.task for run in runs if run.status == "complete" and metric in run.metrics}
    missing = [task for task in tasks if task not in figured]
    if not missing:
        one = "on another split, or trained on other images"
        return one if len(tasks) == 1 else "not all of them in one setting, or on other splits"
    if len(missing) < len(tasks):
        return f"lacks {plural(len(missing), 'task')}"
    here = {run.status for run in runs if run.task in tasks}
    if not here:
        return "no run on it" if figured and len(tasks) == 1 else ""
    if here & {"failed", "refused"}:
        return "failed"
    return "not complete" if here != {"complete"} else f"no {metric}"
