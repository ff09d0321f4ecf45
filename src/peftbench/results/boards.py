"""Leaderboards: runs that may be compared, averaged over seeds and tasks, and what stands apart and why."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

from peftbench.common.vtab_tasks import GROUPS
from peftbench.results.collect import TOGETHER, Run, Setting
from peftbench.results.primary import BESIDE
from peftbench.results.stats import Difference, half_width, holm, paired, weighted

MEAN, FLAT = "mean of groups", "flat mean"
_ALL_PAIRS = 30  # rows; among more, each is compared with the best alone
_TASKS = tuple(t for group in GROUPS.values() for t in group)


@dataclass(frozen=True)
class Mean:
    """A mean with its interval's half width (None without two seeds everywhere); `missing` tasks are not in it."""

    value: float | None
    half: float | None = None
    missing: tuple[str, ...] = ()


@dataclass
class Row:
    """One method in one setting on the tasks of a board: `runs` by task, `failed` runs that have no figure."""

    method: str
    setting: Setting
    tuned: str
    times: str
    label: str = ""
    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    failed: Counter[str] = field(default_factory=Counter)

    def values(self, task: str, metric: str) -> list[float]:
        """A value for each seed."""
        return [r.metrics[metric] for r in self.runs.get(task, ())]

    @property
    def seeds(self) -> str:
        """How many seeds a task has: `3`, or `2–3` where tasks differ."""
        counts = {len(runs) for runs in self.runs.values()} or {0}
        return f"{min(counts)}–{max(counts)}" if len(counts) > 1 else str(min(counts))

    def over(self, name: str) -> list[float]:
        """A cost of every run that has it."""
        found = (getattr(run.costs, name) for runs in self.runs.values() for run in runs)
        return [v for v in found if v is not None]

    def cost(self, name: str) -> float | None:
        """A cost, averaged over tasks of their means over seeds; of memory the largest."""
        if name == "memory":
            return max(self.over(name), default=None)
        by_task = ([c for r in runs if (c := getattr(r.costs, name)) is not None] for runs in self.runs.values())
        means = [fmean(values) for values in by_task if values]
        return fmean(means) if means else None

    @cached_property
    def machines(self) -> tuple[str, ...]:
        """Where the runs took place; times and memory of several machines are not averaged."""
        return tuple(sorted({run.machine for runs in self.runs.values() for run in runs}))


@dataclass
class Board:
    """Rows that may be compared. `apart` says in what it differs from the boards before it.

    `twice` are further runs of the same setting and seed on the same task, which do not count.
    """

    basis: Setting
    metric: str
    tasks: tuple[str, ...]
    rows: list[Row]
    twice: list[Run]
    apart: str = ""

    @property
    def vtab(self) -> bool:
        return ("data", "VTAB-1k") in self.basis

    def mean(self, row: Row, tasks: Sequence[str], incomplete: bool) -> Mean:
        """Over tasks, each alike; refused where one is missing, unless `incomplete`."""
        return self._mean(row, {t: 1 / len(tasks) for t in tasks}, incomplete)

    def grouped(self, row: Row, incomplete: bool) -> Mean:
        """The mean of VTAB's three group means; of what is there where `incomplete`, but never without a group."""
        weights: dict[str, float] = {}
        for tasks in GROUPS.values():
            there = [t for t in tasks if not incomplete or row.runs.get(named(t))]
            if not there:
                return Mean(None, missing=_missing(row, map(named, _TASKS)))
            weights |= {named(t): 1 / 3 / len(there) for t in there}
        found = self._mean(row, weights, incomplete)
        return Mean(found.value, found.half, _missing(row, map(named, _TASKS)))

    def _mean(self, row: Row, weights: Mapping[str, float], incomplete: bool) -> Mean:
        missing = _missing(row, weights)
        there = {t: w for t, w in weights.items() if t not in missing}
        if not there or (missing and not incomplete):
            return Mean(None, missing=missing)
        total = sum(there.values())
        cells = {t: row.values(t, self.metric) for t in there}
        return Mean(*weighted(cells, {t: w / total for t, w in there.items()}), missing)

    def cell(self, row: Row, task: str) -> Mean:
        """Of one task, over seeds."""
        values = row.values(task, self.metric)
        return Mean(fmean(values), half_width(values)) if values else Mean(None)

    @property
    def beside(self) -> str | None:
        """A metric to show next to the board's own, where every run has it."""
        role, _, name = self.metric.partition("/")
        metric = f"{role}/{BESIDE.get(name, '')}"
        every = (run.metrics for row in self.rows for runs in row.runs.values() for run in runs)
        return metric if name in BESIDE and all(metric in m for m in every) else None

    def means(self, row: Row, incomplete: bool = False) -> dict[str, Mean]:
        """By name: VTAB's groups, the mean of their means, and the flat mean; elsewhere the flat mean alone."""
        if not self.vtab:
            return {FLAT: self.mean(row, self.tasks, incomplete)}
        groups = {g: self.mean(row, [named(t) for t in tasks], incomplete) for g, tasks in GROUPS.items()}
        flat = self.mean(row, [named(t) for t in _TASKS], incomplete)
        return groups | {MEAN: self.grouped(row, incomplete), FLAT: flat}

    def rank(self) -> None:
        """Sorts the rows: by their mean where all tasks are there, then by how many are."""

        def key(row: Row) -> tuple[int, float]:
            mean = self.mean(row, [t for t in self.tasks if row.runs.get(t)], True).value
            if self.vtab and (grouped := self.grouped(row, False).value) is not None:
                mean = grouped
            return sum(bool(row.runs.get(t)) for t in self.tasks), -1.0 if mean is None else mean

        self.rows.sort(key=key, reverse=True)

    def pairs(self) -> list[tuple[Row, Row, Difference, str]]:
        """Every two rows with tasks in common: the paired difference first minus second, and what was paired.

        A pair is a task, its seeds averaged, where at least three tasks are shared; else it is a task and seed. Among
        many rows each is compared with the first alone.
        """
        rows = self.rows
        firsts = range(len(rows)) if len(rows) <= _ALL_PAIRS else range(1)
        found = []
        for i in firsts:
            for j in range(i + 1, len(rows)):
                differences, over = self._differences(rows[i], rows[j])
                if differences:
                    found.append((rows[i], rows[j], paired(differences), over))
        corrected = holm([d for _, _, d, _ in found])
        return [(a, b, d, over) for (a, b, _, over), d in zip(found, corrected, strict=True)]

    def _differences(self, a: Row, b: Row) -> tuple[list[float], str]:
        by_task = []
        for task in self.tasks:
            mine = {r.seed: r.metrics[self.metric] for r in a.runs.get(task, ())}
            theirs = {r.seed: r.metrics[self.metric] for r in b.runs.get(task, ())}
            shared = [mine[s] - theirs[s] for s in sorted(mine.keys() & theirs.keys())]
            if shared:
                by_task.append(shared)
        if len(by_task) >= 3:
            return [fmean(d) for d in by_task], f"{len(by_task)} tasks"
        each = [d for differences in by_task for d in differences]
        many = f" on {len(by_task)} tasks" if len(by_task) > 1 else ""
        return each, f"{len(each)} seed{'s' * (len(each) != 1)}{many}"


def named(task: str) -> str:
    """A VTAB task as it is called in records."""
    return f"vtab/{task}"


def boards(runs: Iterable[Run], metric: str | None = None) -> list[Board]:
    """Leaderboards of all complete runs that have the metric, or else the one that their task is judged by on test
    images; the one with most runs first.
    """
    kinds: dict[tuple[Setting, int], list[Run]] = defaultdict(list)
    bases: dict[Setting, list[Run]] = defaultdict(list)
    for run in runs:
        if run.status in ("complete", "failed"):
            bases[run.basis].append(run)
    for basis, own in bases.items():
        splits: dict[str, Counter[str]] = defaultdict(Counter)
        for run in own:
            splits[run.task][run.split] += 1
        order = {t: [s for s, _ in sorted(c.items(), key=lambda i: (-i[1], i[0]))] for t, c in splits.items()}
        for run in own:
            kinds[basis, order[run.task].index(run.split)].append(run)
    found = []
    for (basis, _), own in kinds.items():
        told = metric or f"test/{own[0].primary}"  # runs of one basis have one task
        done = [r for r in own if r.status == "complete" and told in r.metrics]
        if done:
            found.append((len(done), _board(basis, told, done, [r for r in own if r.status == "failed"])))
    found.sort(key=lambda item: -item[0])
    ranked = [board for _, board in found]
    for board in ranked[1:]:
        board.apart = _apart(board, ranked)
    return ranked


def _board(basis: Setting, metric: str, done: Sequence[Run], failed: Sequence[Run]) -> Board:
    tasks = {r.task for r in done}
    ordered = [named(t) for t in _TASKS if named(t) in tasks]
    ordered += sorted(tasks - set(ordered))
    board = Board(basis, metric, tuple(ordered), *_rows(done, failed))
    board.rank()
    return board


def _rows(done: Sequence[Run], failed: Sequence[Run]) -> tuple[list[Row], list[Run]]:
    """Runs by method, setting and kind of times. What the data sets choose parts rows only where it must."""
    clashing = _clashing(done)
    rows: dict[tuple[str, Setting, str, str], Row] = {}
    twice = []

    def key(run: Run) -> tuple[str, Setting, str, str]:
        setting = run.setting + (run.batch if (run.method, run.setting) in clashing else ())
        return run.method, setting, run.tuned, run.times

    for run in done:
        row = rows.setdefault(key(run), Row(*key(run)))
        there = next((i for i, r in enumerate(row.runs[run.task]) if r.seed == run.seed), None)
        if there is None:
            row.runs[run.task].append(run)
            continue
        before = row.runs[run.task][there]
        more = "ood/accuracy" in run.metrics.keys() - before.metrics.keys()  # the same run, with shifted test sets
        row.runs[run.task][there] = run if more else before
        twice.append(before if more else run)
    for run in failed:
        mine = [r for k, r in rows.items() if k[:3] == key(run)[:3]]  # its kind of times is not known
        if mine:
            mine[0].failed[run.task] += 1
    _label(list(rows.values()))
    return list(rows.values()), twice


def _clashing(runs: Sequence[Run]) -> set[tuple[str, Setting]]:
    seen: set[tuple[str, Setting, str, str, str, int]] = set()
    found = set()
    for run in runs:
        place = (run.method, run.setting, run.tuned, run.times, run.task, run.seed)
        if place in seen:
            found.add((run.method, run.setting))
        seen.add(place)
    return found


def _label(rows: Sequence[Row]) -> None:
    """The method's name, and of its settings what tells its rows apart."""
    by_method: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_method[row.method].append(row)
    for method, own in by_method.items():
        values: dict[str, set[str]] = defaultdict(set)
        for row in own:
            given = dict(row.setting)
            for key in {k for r in own for k, _ in r.setting} if len(own) > 1 else ():
                values[key].add(given.get(key, ""))
        telling = sorted(k for k, v in values.items() if len(v) > 1)
        tuned = len({r.tuned for r in own}) > 1
        for row in own:
            given = dict(row.setting)
            parts = [f"{_short(k, telling)}={_plain(given[k])}" for k in telling if k in given]
            parts += [row.tuned.partition(" (")[0]] * (tuned and bool(row.tuned))
            parts += [row.times] * (bool(row.times) and len({r.times for r in own}) > 1)
            row.label = ", ".join([f"{method} {parts[0]}", *parts[1:]]) if parts else method


def _short(key: str, among: Sequence[str]) -> str:
    last = key.rpartition(".")[2]
    return key if sum(k.rpartition(".")[2] == last for k in among) > 1 else last


def _plain(value: str) -> str:
    content = json.loads(value)
    return f"{content:g}" if isinstance(content, float) else str(content)


def _missing(row: Row, tasks: Iterable[str]) -> tuple[str, ...]:
    return tuple(t for t in tasks if not row.runs.get(t))


def _apart(board: Board, ranked: Sequence[Board]) -> str:
    """Why this board does not stand with the first that differs least from it."""

    def differing(other: Board) -> list[str]:
        theirs = dict(other.basis)
        return [k for k, v in board.basis if theirs[k] != v]

    before = ranked[: ranked.index(board)]
    nearest = min(before, key=lambda b: len(differing(b)))
    keys = differing(nearest)
    if not keys:
        split = {t: r.split for row in board.rows for t, runs in row.runs.items() for r in runs}
        other = {t: r.split for row in nearest.rows for t, runs in row.runs.items() for r in runs}
        told = [f"{t}: {s}, not {other[t]}" for t, s in split.items() if t in other]
        return f"another split of the same task ({'; '.join(told[:3])}{'; …' * (len(told) > 3)})"
    mine, theirs = dict(board.basis), dict(nearest.basis)
    if "backbone" in keys:
        return f"another backbone ({mine['backbone']}, not {theirs['backbone']})"
    if keys == ["fingerprint"]:
        return f"other weights under the same name (fingerprint {mine['fingerprint']}, not {theirs['fingerprint']})"
    shown = [k for k in keys if k != "fingerprint"]
    return "; ".join(f"{k}: {mine[k]}, not {theirs[k]}" for k in shown)


def timed(row: Row) -> bool:
    """Whether the row's times may be compared at all: of one machine, and each run alone."""
    return len(row.machines) == 1 and row.times != TOGETHER


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, merit) that none beats in both, by rising cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best, found = -1.0, []
    for i in order:
        if points[i][1] > best:
            best = points[i][1]
            found.append(i)
    return found
