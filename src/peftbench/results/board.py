"""A leaderboard: rows that may be compared, their means over seeds and tasks, and their differences."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

from peftbench.common.amounts import plural
from peftbench.common.vtab_tasks import GROUPS
from peftbench.results.pairing import ENOUGH_TASKS, pair_up
from peftbench.results.settings import Setting
from peftbench.results.stats import Difference, half_width, holm, mean_difference, paired, weighted
from peftbench.results.summary import TOGETHER, Run
from peftbench.results.task_results import less_is_better

MEAN, FLAT = "mean of groups", "flat mean"
Arm = tuple[str, Setting]
_ALL_PAIRS = 30  # rows; among more, each is compared with the best alone


def vtab_name(task: str) -> str:
    """A VTAB task as it is called in records."""
    return f"vtab/{task}"


VTAB_GROUPS = {group: tuple(vtab_name(task) for task in tasks) for group, tasks in GROUPS.items()}
VTAB_TASKS = tuple(task for tasks in VTAB_GROUPS.values() for task in tasks)


def arm_of(method: str, setting: Setting) -> Arm:
    """What is compared with others: a method over a backbone, and one that was pruned or quantized is its own."""
    return method, tuple(pair for pair in setting if pair[0].startswith(("pruning.", "backbone.quantize")))


@dataclass(frozen=True)
class Mean:
    """A mean with its interval's half width (None without two seeds everywhere); `missing` tasks are not in it."""

    value: float | None
    half: float | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """How a setting was chosen among `of` settings of its method; `by` is empty where there was nothing to choose."""

    by: str = ""
    of: int = 1

    def __str__(self) -> str:
        return f"{self.by} (best of {self.of})" if self.by else ""


ONLY = Choice()
"""There was one setting."""


@dataclass
class Row:
    """One method in one setting on the tasks of a board: `runs` by task, `failed` runs that have no figure.

    `label` names it in tables, and `full_label` where there is room.
    """

    method: str
    setting: Setting
    tuned: str
    times: str
    label: str = ""
    full_label: str = ""
    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    failed: Counter[str] = field(default_factory=Counter)
    choice: Choice = ONLY

    def all_runs(self) -> Iterator[Run]:
        """The runs on all tasks."""
        for runs in self.runs.values():
            yield from runs

    def values(self, task: str, metric: str) -> list[float]:
        """A value for each seed."""
        return [run.metrics[metric] for run in self.runs.get(task, ())]

    def missing(self, tasks: Iterable[str]) -> tuple[str, ...]:
        """Those of the tasks that the row has no run on."""
        return tuple(task for task in tasks if not self.runs.get(task))

    @property
    def seeds(self) -> str:
        """How many seeds a task has: `3`, or `2–3` where tasks differ."""
        counts = {len(runs) for runs in self.runs.values()} or {0}
        return f"{min(counts)}–{max(counts)}" if len(counts) > 1 else str(min(counts))

    @property
    def arm(self) -> Arm:
        """What is compared with others."""
        return arm_of(self.method, self.setting)

    def cost(self, name: str) -> float | None:
        """A cost (a field of `Costs`), averaged over tasks of their means over seeds; of memory the largest."""
        by_task = [_known_costs(runs, name) for runs in self.runs.values()]
        if name == "memory":
            return max((value for values in by_task for value in values), default=None)
        means = [fmean(values) for values in by_task if values]
        return fmean(means) if means else None

    @cached_property
    def machines(self) -> tuple[str, ...]:
        """Where the runs took place; times and memory of several machines are not averaged."""
        return tuple(sorted({run.machine for run in self.all_runs()}))


def _known_costs(runs: Sequence[Run], name: str) -> list[float]:
    return [value for value in (getattr(run.costs, name) for run in runs) if value is not None]


def has_comparable_costs(row: Row) -> bool:
    """Whether the row's times and memory may be compared at all: they are of one machine, and each run was alone."""
    return len(row.machines) == 1 and row.times != TOGETHER


@dataclass(frozen=True)
class Tried:
    """A setting that a method was tried in, on so many `tasks`, and its mean on validation images over them.

    `shown` says whether it is on the board, `narrower` whether it gave way to one that has more tasks.
    """

    row: Row
    tasks: int
    validation: float | None
    shown: bool
    narrower: bool


Compared = tuple[Row, Row, Difference, str]
"""Two rows, the difference first minus second, and in words what was paired."""


def weights_of(tasks: Sequence[str]) -> dict[str, float]:
    """What each of the tasks counts in the mean over them: of all of VTAB, each group counts the same."""
    if set(tasks) != set(VTAB_TASKS):
        return {task: 1 / len(tasks) for task in tasks}
    return {task: 1 / 3 / len(group) for group in VTAB_GROUPS.values() for task in group}


@dataclass
class Board:
    """Rows that may be compared. `apart` says in what it differs from the boards before it.

    `group` numbers the boards that differ in their data set alone: they share a table, with a column for each. `words`
    is its backbone as the user names it, with what tells it from others of that name.

    `twice` are further runs of the same setting and seed on the same task, which do not count. `tried` are the settings
    of the methods that have several, and `unchosen` their rows that are not shown. `failed` are failed runs of none of
    its rows.
    """

    basis: Setting
    metric: str
    tasks: tuple[str, ...]
    rows: list[Row]
    twice: list[Run]
    apart: str = ""
    group: int = 0
    words: str = ""
    failed: list[Run] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    unchosen: list[Row] = field(default_factory=list)

    @property
    def vtab(self) -> bool:
        """Whether the tasks are VTAB's, which has groups."""
        return ("data", "VTAB-1k") in self.basis

    @property
    def has_means(self) -> bool:
        """Whether there are means over tasks: of VTAB, or where they were asked for."""
        return self.vtab or len(self.tasks) > 1

    def all_runs(self) -> Iterator[Run]:
        """The runs of all rows."""
        for row in self.rows:
            yield from row.all_runs()

    @property
    def primary(self) -> str:
        """The metric that the task is judged by, without where it was measured."""
        return next(self.all_runs()).primary  # runs of one board have one task

    @property
    def beside(self) -> list[str]:
        """The metrics to show next to the board's own, of those that every run has."""
        role, _, name = self.metric.partition("/")
        first = next(self.all_runs())
        if name != first.primary:
            return []
        metrics = [f"{role}/{other}" for other in first.beside]
        return [metric for metric in metrics if all(metric in run.metrics for run in self.all_runs())]

    def cell(self, row: Row, task: str) -> Mean:
        """The mean of one task, over seeds."""
        values = row.values(task, self.metric)
        return Mean(fmean(values), half_width(values)) if values else Mean(None)

    def mean(self, row: Row, tasks: Sequence[str], incomplete: bool) -> Mean:
        """The mean over tasks, each alike; refused where one is missing, unless `incomplete`."""
        return self._mean(row, {task: 1 / len(tasks) for task in tasks}, incomplete)

    def grouped(self, row: Row, incomplete: bool) -> Mean:
        """The mean of VTAB's three group means; of what is there where `incomplete`, but never without a group."""
        weights: dict[str, float] = {}
        missing = row.missing(VTAB_TASKS)
        for tasks in VTAB_GROUPS.values():
            counted = [task for task in tasks if not (incomplete and task in missing)]
            if not counted:
                return Mean(None, missing=missing)
            weights |= {task: 1 / 3 / len(counted) for task in counted}
        mean = self._mean(row, weights, incomplete)
        return Mean(mean.value, mean.half, missing)

    def _mean(self, row: Row, weights: Mapping[str, float], incomplete: bool) -> Mean:
        missing = row.missing(weights)
        known = {task: weight for task, weight in weights.items() if task not in missing}
        if not known or (missing and not incomplete):
            return Mean(None, missing=missing)
        total = sum(known.values())
        cells = {task: row.values(task, self.metric) for task in known}
        return Mean(*weighted(cells, {task: weight / total for task, weight in known.items()}), missing)

    def means(self, row: Row, incomplete: bool = False) -> dict[str, Mean]:
        """By name: VTAB's groups, the mean of their means, and the flat mean; elsewhere the flat mean alone."""
        if not self.vtab:
            return {FLAT: self.mean(row, self.tasks, incomplete)}
        groups = {group: self.mean(row, tasks, incomplete) for group, tasks in VTAB_GROUPS.items()}
        flat = self.mean(row, VTAB_TASKS, incomplete)
        return groups | {MEAN: self.grouped(row, incomplete), FLAT: flat}

    def sort_rows(self) -> None:
        """By how many of the tasks are there, then by the mean of those, the best first."""
        sign = -1 if less_is_better(self.metric) else 1

        def key(row: Row) -> tuple[int, float]:
            tasks = [task for task in self.tasks if row.runs.get(task)]
            mean = self.grouped(row, False).value if self.vtab else None
            if mean is None:
                mean = self.mean(row, tasks, True).value
            return len(tasks), -math.inf if mean is None else sign * mean

        self.rows.sort(key=key, reverse=True)

    @property
    def compares_all(self) -> bool:
        """Whether every two rows are compared; among very many, each is compared with the first alone."""
        return len(self.rows) <= _ALL_PAIRS

    @cached_property
    def _pairs(self) -> list[Compared]:
        rows = self.rows
        firsts = rows if self.compares_all else rows[:1]
        pairs = []
        for i, first in enumerate(firsts):
            for second in rows[i + 1 :]:
                compared = self._compared(first, second)
                if compared is not None:
                    difference = replace(compared[0], less_is_better=less_is_better(self.metric))
                    pairs.append((first, second, difference, compared[1]))
        corrected = holm([each for _, _, each, _ in pairs])
        return [(a, b, c, over) for (a, b, _, over), c in zip(pairs, corrected, strict=True)]

    def _compared(self, first: Row, second: Row) -> tuple[Difference, str] | None:
        """The paired difference and what was paired; None where they share nothing.

        VTAB's tasks stand for others: from three on, each is a pair. Other tasks are those that were asked about, so
        that what they differ in is no chance: a pair is a seed, and differences are averaged within each task first.
        """
        by_task = {task: pair_up(first.runs, second.runs, (task,), self.metric) for task in self.tasks}
        by_task = {task: pairs for task, pairs in by_task.items() if pairs.differences}
        if not by_task:
            return None
        if len(by_task) == 1 or (self.vtab and len(by_task) >= ENOUGH_TASKS):
            pairs = pair_up(first.runs, second.runs, tuple(by_task), self.metric)
            return paired(pairs.differences, pairs.floor), pairs.over
        differences = []
        for task, pairs in by_task.items():
            difference = paired(pairs.differences, pairs.floor, ranks=False)
            untold = f"{difference.untold} ({task.removeprefix('vtab/')})" if difference.untold else ""
            differences.append(replace(difference, untold=untold))
        counts = sorted({difference.n for difference in differences})
        seeds = plural(f"{counts[0]}–{counts[-1]}" if len(counts) > 1 else str(counts[0]), "seed")
        return mean_difference(differences), f"{seeds} on each of {len(by_task)} tasks"

    def pairs(self) -> list[Compared]:
        """Every two rows with tasks in common: the paired difference first minus second, and what was paired.

        Where there are many rows, each is compared with the first alone.
        """
        return self._pairs
