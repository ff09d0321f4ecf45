"""Which method, and how good, within a budget of memory, time and trainable parameters."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from peftbench.common.amounts import count, seconds, size
from peftbench.common.errors import UserError
from peftbench.results.board import ONLY, VTAB_TASKS, Board, Choice, Row
from peftbench.results.chosen import choose, settings_by_arm
from peftbench.results.pairing import pair_up
from peftbench.results.stats import paired
from peftbench.results.summary import TOGETHER, Run
from peftbench.results.validation import Trials, is_of_test_images

_SIZES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_TIMES = {"": 1, "s": 1 / 60, "min": 1, "m": 1, "h": 60}
_COUNTS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Limit:
    """`cost` of a row's worst run on a task must not be above `most`; `written` is how the user gave it."""

    key: str
    most: float
    written: str
    cost: Callable[[Run], float | None]
    form: Callable[[float], str]


@dataclass(frozen=True)
class Candidate:
    """A method in one setting on the tasks of a question.

    `value` is the board's metric, a share, and `half` half of its interval. `worst` has the cost of the worst run by
    key of the limit, and `over` the factor by which it exceeds the limit, for the limits that it exceeds. `choice` says
    how the setting was chosen among those of its method.
    """

    board: Board
    row: Row
    value: float
    half: float | None
    worst: Mapping[str, float | None]
    over: Mapping[str, float]
    choice: Choice = ONLY

    @property
    def miss(self) -> float:
        """The largest factor by which a limit is exceeded; infinite where a cost is not known."""
        return max(self.over.values(), default=1.0)


def limits(options: Mapping[str, str]) -> list[Limit]:
    """The limits among `max_memory`, `max_minutes` and `max_params`.

    Raises:
        UserError: what is given is no amount.
    """
    kinds: dict[str, tuple[Mapping[str, float], str, Callable[[Run], float | None], Callable[[float], str]]] = {
        "max_memory": (_SIZES, "bytes, such as 2GB or 500MB", lambda run: run.costs.memory, size),
        "max_minutes": (_TIMES, "minutes, such as 5, or with a unit: 90s, 2h", _minutes, lambda v: seconds(60 * v)),
        "max_params": (_COUNTS, "a count, such as 10k or 0.4M", lambda run: run.costs.parameters, count),
    }
    bounds = []
    for key, (units, expected, cost, form) in kinds.items():
        if key in options:
            most = amount(f"{key}={options[key]}", options[key], units, expected)
            bounds.append(Limit(key, most, options[key], cost, form))
    return bounds


def amount(word: str, text: str, units: Mapping[str, float], expected: str) -> float:
    """A number with a unit, case ignored: `0.4M`, `2 GB`.

    Args:
        word: `key=text`, for the message; `expected` says there what would do.
        units: what a number of each unit is multiplied by, by the unit in lower case.

    Raises:
        UserError: it is no such number, or not above 0.
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not parts or parts[2].lower() not in units or float(parts[1]) <= 0:
        raise UserError(f"{word}: expected {expected}.")
    return float(parts[1]) * units[parts[2].lower()]


def _minutes(run: Run) -> float | None:
    """Training, validation and filling taps; for runs trained together the time of all of them."""
    if run.costs.train is None:
        return None
    return (run.costs.train + (run.costs.validate or 0.0) + (run.costs.fill or 0.0)) / 60


def candidates(boards: Sequence[Board], tasks: Sequence[str], bounds: Sequence[Limit]) -> list[Candidate]:
    """All rows that have every one of the tasks, the best first."""
    all_rows = [(board, row) for board in boards for row in board.rows if not row.missing(tasks)]
    return sorted((_candidate(board, row, tasks, bounds) for board, row in all_rows), key=lambda c: -c.value)


def _candidate(board: Board, row: Row, tasks: Sequence[str], bounds: Sequence[Limit]) -> Candidate:
    """The row has all of the tasks."""
    whole_vtab = board.vtab and len(tasks) == len(VTAB_TASKS)
    mean = board.grouped(row, False) if whole_vtab else board.mean(row, tasks, False)
    assert mean.value is not None
    worst = {bound.key: _worst(row, tasks, bound) for bound in bounds}
    factors = {bound.key: _factor(worst[bound.key], bound.most) for bound in bounds}
    over = {key: factor for key, factor in factors.items() if factor > 1}
    return Candidate(board, row, mean.value, mean.half, worst, over)


def _worst(row: Row, tasks: Sequence[str], bound: Limit) -> float | None:
    values = [bound.cost(run) for task in tasks for run in row.runs[task]]
    return None if None in values else max(value for value in values if value is not None)


def _factor(value: float | None, most: float) -> float:
    return float("inf") if value is None else value / most


def one_setting_each(every: Sequence[Candidate], tasks: Sequence[str], trials: Trials) -> list[Candidate]:
    """Of each method on each board the candidates of one setting: validation images choose it. The best comes first."""
    by_board: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in every:
        by_board[id(candidate.board)].append(candidate)
    chosen: list[Candidate] = []
    for alike in by_board.values():
        board = alike[0].board
        if not is_of_test_images(board.metric):
            chosen += alike
            continue
        by_row = {id(candidate.row): candidate for candidate in alike}
        for settings in settings_by_arm(candidate.row for candidate in alike).values():
            at, choice = choose(board, settings, tasks, trials)
            chosen += [replace(by_row[id(row)], choice=choice) for row in settings[at]]
    return sorted(chosen, key=lambda c: -c.value)


def closest(every: Sequence[Candidate], tasks: Sequence[str], trials: Trials) -> Candidate:
    """The candidate that exceeds a limit by the smallest factor; of several settings of a method that do, one."""
    least = min(c.miss for c in every)
    return one_setting_each([c for c in every if c.miss == least], tasks, trials)[0]


def cheaper(best: Candidate, others: Sequence[Candidate], tasks: Sequence[str]) -> list[tuple[Candidate, str]]:
    """Fitting candidates of the same board that are inside the noise of the best and cost less, and what less."""
    cheaper_ones = []
    for other in others:
        if other.board is not best.board or other.row is best.row or other.over:
            continue
        pairs = pair_up(best.row.runs, other.row.runs, tasks, best.board.metric)
        verdict = paired(pairs.differences, pairs.floor).verdict if pairs.differences else "no telling"
        if verdict not in ("inside the noise", "equal"):
            continue
        less = [word for word, cost in _CHEAPER_IN.items() if _costs_less(other.row, best.row, cost)]
        if less:
            cheaper_ones.append((other, " and ".join(less)))
    return cheaper_ones


_CHEAPER_IN = {"parameters": "parameters", "time": "train", "memory": "memory"}


def _costs_less(row: Row, other: Row, name: str) -> bool:
    """By a tenth at least."""
    if name != "parameters" and (row.machines != other.machines or TOGETHER in (row.times, other.times)):
        return False
    cost, other_cost = row.cost(name), other.cost(name)
    return cost is not None and other_cost is not None and cost < 0.9 * other_cost
