"""Which method, and how good, within a budget of memory, time and trainable parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from peftbench.common.errors import UserError
from peftbench.results.boards import Board, Row
from peftbench.results.collect import TOGETHER, Run
from peftbench.results.stats import paired
from peftbench.results.table import count, seconds, size

_SIZES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_TIMES = {"": 1, "s": 1 / 60, "min": 1, "m": 1, "h": 60}
_COUNTS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Limit:
    """`worst` of a row's runs on a task must not be above `most`."""

    key: str
    most: float
    given: str
    of: Callable[[Run], float | None]
    form: Callable[[float], str]


@dataclass(frozen=True)
class Candidate:
    """A method in one setting on the tasks of a question; `over` names what it exceeds and by which factor."""

    board: Board
    row: Row
    value: float
    half: float | None
    worst: Mapping[str, float | None]
    over: Mapping[str, float]

    @property
    def miss(self) -> float:
        """The largest factor by which a limit is exceeded; infinite where a cost is not known."""
        return max(self.over.values(), default=1.0)


def limits(options: Mapping[str, str]) -> list[Limit]:
    """The limits among `max_memory`, `max_minutes` and `max_params`. Raises UserError for what is no amount."""
    kinds: dict[str, tuple[Mapping[str, float], str, Callable[[Run], float | None], Callable[[float], str]]] = {
        "max_memory": (_SIZES, "bytes, such as 2GB or 500MB", lambda r: r.costs.memory, size),
        "max_minutes": (_TIMES, "minutes, such as 5, or with a unit: 90s, 2h", _minutes, lambda v: seconds(60 * v)),
        "max_params": (_COUNTS, "a count, such as 10k or 0.4M", lambda r: r.costs.parameters, count),
    }
    found = []
    for key, (units, expected, of, form) in kinds.items():
        if key in options:
            found.append(
                Limit(key, amount(f"{key}={options[key]}", options[key], units, expected), options[key], of, form)
            )
    return found


def amount(word: str, text: str, units: Mapping[str, float], expected: str) -> float:
    """A number with a unit, case ignored: `0.4M`, `2 GB`. Raises UserError."""
    read = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not read or read[2].lower() not in units or float(read[1]) <= 0:
        raise UserError(f"{word}: expected {expected}.")
    return float(read[1]) * units[read[2].lower()]


def _minutes(run: Run) -> float | None:
    """Training, validation and filling taps; of runs trained together the time of all of them."""
    parts = [run.costs.train, run.costs.validate or 0.0, run.costs.fill or 0.0]
    return None if run.costs.train is None else sum(p for p in parts if p) / 60


def candidates(boards: Sequence[Board], tasks: Sequence[str], bounds: Sequence[Limit]) -> list[Candidate]:
    """All rows that have every one of the tasks, the best first."""
    found = []
    for board in boards:
        if not set(tasks) <= set(board.tasks):
            continue
        for row in board.rows:
            if all(row.runs.get(t) for t in tasks):
                mean = board.grouped(row, False) if board.vtab and len(tasks) == 19 else board.mean(row, tasks, False)
                assert mean.value is not None
                worst = {b.key: _worst(row, tasks, b) for b in bounds}
                over = {b.key: _ratio(worst[b.key], b.most) for b in bounds}
                over = {k: v for k, v in over.items() if v > 1}
                found.append(Candidate(board, row, mean.value, mean.half, worst, over))
    return sorted(found, key=lambda c: -c.value)


def _worst(row: Row, tasks: Sequence[str], bound: Limit) -> float | None:
    values = [bound.of(run) for t in tasks for run in row.runs[t]]
    return None if None in values else max(v for v in values if v is not None)


def _ratio(value: float | None, most: float) -> float:
    return float("inf") if value is None else value / most


def cheaper(best: Candidate, others: Sequence[Candidate], tasks: Sequence[str]) -> list[tuple[Candidate, str]]:
    """Fitting candidates of the same board that are inside the noise of the best and cost less, and what less."""
    found = []
    for other in others:
        if other.board is not best.board or other.row is best.row or other.over:
            continue
        differences = _differences(best, other, tasks)
        if not differences or paired(differences).verdict not in ("inside the noise", "equal"):
            continue
        less = [
            w
            for w, n in (("parameters", "parameters"), ("time", "train"), ("memory", "memory"))
            if _less(other, best, n)
        ]
        if less:
            found.append((other, " and ".join(less)))
    return found


def _differences(a: Candidate, b: Candidate, tasks: Sequence[str]) -> list[float]:
    metric, by_task = a.board.metric, []
    for task in tasks:
        mine = {r.seed: r.metrics[metric] for r in a.row.runs[task]}
        theirs = {r.seed: r.metrics[metric] for r in b.row.runs[task]}
        by_task.append([mine[s] - theirs[s] for s in mine.keys() & theirs.keys()])
    if sum(bool(d) for d in by_task) >= 3:
        return [fmean(d) for d in by_task if d]
    return [d for own in by_task for d in own]


def _less(a: Candidate, b: Candidate, name: str) -> bool:
    if name != "parameters" and (a.row.machines != b.row.machines or TOGETHER in (a.row.times, b.row.times)):
        return False
    mine, theirs = a.row.cost(name), b.row.cost(name)
    return mine is not None and theirs is not None and mine < 0.9 * theirs
