"""Which method, and how good, within a budget of memory, time, trainable parameters, energy and money."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from peftbench.common.amounts import count, joules, plain, seconds, size
from peftbench.common.errors import UserError
from peftbench.results.board import ONLY, Choice, Row
from peftbench.results.chosen import choose, settings_by_arm
from peftbench.results.questions import Contender, Question, contenders
from peftbench.results.spending import ENERGY, PRICE, WAYS, kinds_of, written
from peftbench.results.summary import Run
from peftbench.results.text_table import listed
from peftbench.results.validation import Trials, is_of_test_images

_SIZES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_TIMES = {"": 1, "s": 1 / 60, "min": 1, "m": 1, "h": 60}
_ENERGIES = {"": 1, "j": 1, "kj": 1e3, "mj": 1e6, "wh": 3600, "kwh": 3.6e6}
_COUNTS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Limit:
    """`cost` of a row's worst run on a task must not be above `most`; `written` is how the user gave it.

    Where the user gave none, `most` is infinite, `written` empty, and the cost is only shown.
    """

    key: str
    most: float
    written: str
    cost: Callable[[Run], float | None]
    form: Callable[[float], str]


@dataclass(frozen=True)
class Candidate:
    """A method in one setting on the tasks of a question.

    `worst` has the cost of the worst run by key of the limit, and `over` the factor by which it exceeds the limit, for
    the limits that it exceeds. `choice` says how the setting was chosen among those of its method.
    """

    contender: Contender
    worst: Mapping[str, float | None]
    over: Mapping[str, float]
    choice: Choice = ONLY

    @property
    def row(self) -> Row:
        """The method in its setting."""
        return self.contender.row

    @property
    def miss(self) -> float:
        """The largest factor by which a limit is exceeded; infinite where a cost is not known."""
        return max(self.over.values(), default=1.0)


def limits(options: Mapping[str, str]) -> list[Limit]:
    """What is limited by `max_memory`, `max_minutes`, `max_params`, `max_joules`, `max_price`, each where it is given.

    Raises:
        UserError: what is given is no amount.
    """
    kinds: dict[str, tuple[Mapping[str, float], str, Callable[[Run], float | None], Callable[[float], str]]] = {
        "max_minutes": (_TIMES, "minutes, such as 5, or with a unit: 90s, 2h", _minutes, lambda v: seconds(60 * v)),
        "max_memory": (_SIZES, "bytes, such as 2GB or 500MB", lambda run: run.costs.memory, size),
        "max_params": (_COUNTS, "a count, such as 10k or 0.4M", lambda run: run.costs.parameters, count),
        "max_joules": (_ENERGIES, "joules, such as 500, 20kJ or 0.1kWh", lambda run: run.costs.energy, joules),
        "max_price": ({"": 1}, "an amount above 0, such as 0.5", lambda run: run.costs.amount, lambda v: plain(v, 3)),
    }
    bounds = []
    for key, (units, expected, cost, form) in kinds.items():
        given = options.get(key, "")
        most = amount(f"{key}={given}", given, units, expected) if key in options else math.inf
        bounds.append(Limit(key, most, given, cost, form))
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


def candidates(question: Question, bounds: Sequence[Limit]) -> list[Candidate]:
    """All rows that have every one of the tasks, the highest first."""
    return [_candidate(contender, question.tasks, bounds) for contender in contenders(question)]


def _candidate(contender: Contender, tasks: Sequence[str], bounds: Sequence[Limit]) -> Candidate:
    worst = {bound.key: _worst(contender.row, tasks, bound) for bound in bounds}
    factors = {bound.key: _factor(worst[bound.key], bound.most) for bound in bounds}
    return Candidate(contender, worst, {key: factor for key, factor in factors.items() if factor > 1})


def _worst(row: Row, tasks: Sequence[str], bound: Limit) -> float | None:
    values = [bound.cost(run) for task in tasks for run in row.runs[task]]
    return None if None in values else max(value for value in values if value is not None)


def _factor(value: float | None, most: float) -> float:
    if math.isinf(most):
        return 0.0
    return math.inf if value is None else value / most


_SPENT = {"max_joules": (ENERGY, "of energy at most"), "max_price": (PRICE, "of money at most")}


def most_spent(candidate: Candidate, bounds: Sequence[Limit]) -> list[str]:
    """`910 J est. of energy at most`: what the worst run took of what has a limit, where it was given."""
    parts = []
    for bound in bounds:
        if bound.key in _SPENT and bound.written and (value := candidate.worst[bound.key]) is not None:
            name, words = _SPENT[bound.key]
            kinds = kinds_of(candidate.row.all_runs(), name)
            parts.append(f"{written(value, name, kinds[0] if len(kinds) == 1 else '')} {words}")
    return parts


def spent_told(every: Sequence[Candidate], bounds: Sequence[Limit]) -> list[str]:
    """Of limits on energy and price that were given: what has no figure to hold to them, and what figures are mixed."""
    lines = []
    for key, (name, _) in _SPENT.items():
        if not any(bound.key == key and bound.written for bound in bounds):
            continue
        if without := [c.contender.name for c in every if c.worst[key] is None]:
            lines.append(f"{key}: left out, since not all of their runs have a figure: {listed(without)}.")
        kinds: dict[str, list[str]] = defaultdict(list)
        for candidate in every:
            if candidate.worst[key] is not None:
                for kind in kinds_of(candidate.row.all_runs(), name):
                    words = WAYS.get(str(kind), str(kind)) if name == ENERGY else f"at {kind:g} an hour"
                    kinds[words].append(candidate.contender.name)
        if len(kinds) > 1:
            ways = "; ".join(f"{words} ({listed(names)})" for words, names in kinds.items())
            lines.append(f"{key}: the figures are of several kinds, which do not compare: {ways}.")
    return lines


def one_setting_each(every: Sequence[Candidate], tasks: Sequence[str], trials: Trials) -> list[Candidate]:
    """Of each method on each board the candidates of one setting: validation images choose it. The best comes first."""
    by_board: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in every:
        by_board[id(candidate.contender.board)].append(candidate)
    chosen: list[Candidate] = []
    for alike in by_board.values():
        board = alike[0].contender.board
        if not is_of_test_images(board.metric):
            chosen += alike
            continue
        by_row = {id(candidate.row): candidate for candidate in alike}
        for settings in settings_by_arm(candidate.row for candidate in alike).values():
            at, choice = choose(board, settings, tasks, trials)
            chosen += [replace(by_row[id(row)], choice=choice) for row in settings[at]]
    return sorted(chosen, key=lambda c: -c.contender.value)


def closest(every: Sequence[Candidate], tasks: Sequence[str], trials: Trials) -> Candidate:
    """The candidate that exceeds a limit by the smallest factor; of several settings of a method that do, one."""
    least = min(c.miss for c in every)
    return one_setting_each([c for c in every if c.miss == least], tasks, trials)[0]


def times_over(factor: float) -> str:
    """How many times a limit a cost is: `1.5 times`, `250 times`, `1.004 times`."""
    if factor >= 10:
        return f"{factor:,.0f} times"
    digits = next((n for n in range(2, 7) if float(f"{factor:.{n}g}") > 1), 7)
    return f"{factor:.{digits}g} times"
