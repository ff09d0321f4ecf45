"""Of each method's settings the one that is shown: validation images choose it, and test images judge it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from peftbench.results.board import ONLY, Arm, Board, Choice, Row, Tried, weights_of
from peftbench.results.settings import Setting
from peftbench.results.validation import Trials, validation_metric

ON_VALIDATION, ON_TEST = "chosen on validation", "chosen on test: optimistic"


def settings_by_arm(rows: Iterable[Row]) -> dict[Arm, list[list[Row]]]:
    """The rows of each setting (they differ in their kind of times alone), by what is compared with others."""
    by_setting: dict[tuple[str, Setting, str], list[Row]] = defaultdict(list)
    arms: dict[Arm, list[list[Row]]] = defaultdict(list)
    for row in rows:
        alike = by_setting[row.method, row.setting, row.tuned]
        if not alike:
            arms[row.arm].append(alike)
        alike.append(row)
    return arms


def show_chosen(board: Board, trials: Trials) -> None:
    """Leaves on the board one setting of each method, and notes all in `board.tried`.

    Where settings were tried on different tasks, no task loses its figure: a setting gives way only to one that has
    all of its tasks.
    """
    shown: list[Row] = []
    for settings in settings_by_arm(board.rows).values():
        left, several = settings, len(settings) > 1
        while left:
            tasks = max((_tasks(board, rows) for rows in left), key=len)
            alike = [rows for rows in left if _tasks(board, rows) == tasks]
            at, choice = choose(board, alike, tasks, trials)
            for row in alike[at]:
                row.choice = choice
                shown.append(row)
            covered = [rows for rows in left if set(_tasks(board, rows)) <= set(tasks)]
            if several:
                board.tried += [_tried(board, rows, tasks, trials, rows is alike[at]) for rows in covered]
            left = [rows for rows in left if not any(rows is other for other in covered)]
    board.unchosen = [row for row in board.rows if not any(row is other for other in shown)]
    board.rows = [row for row in board.rows if any(row is other for other in shown)]


def choose(board: Board, settings: Sequence[Sequence[Row]], tasks: Sequence[str], trials: Trials) -> tuple[int, Choice]:
    """Which of several settings of a method is shown, and how that was chosen; each has runs on all of the tasks.

    It is the best on validation images of those that have any; only where none has, the best on test images. Ties go to
    the lower validation loss, then to the first by the setting's values: never to an order that test images gave.
    """
    if len(settings) == 1:
        return 0, ONLY
    in_order = sorted(range(len(settings)), key=lambda i: (settings[i][0].setting, settings[i][0].tuned))
    merits = [_merit(board, rows, tasks, trials) for rows in settings]
    if any(merit is not None for merit in merits):
        at = max(in_order, key=lambda i: merits[i] or (-math.inf, -math.inf))
        return at, Choice(ON_VALIDATION, len(settings))
    reached = [_mean({task: _test(board, rows, task) for task in tasks}) for rows in settings]
    at = max(in_order, key=lambda i: -math.inf if (mean := reached[i]) is None else mean)
    return at, Choice(ON_TEST, len(settings))


def _tasks(board: Board, rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(task for task in board.tasks if any(row.runs.get(task) for row in rows))


def _merit(board: Board, rows: Sequence[Row], tasks: Sequence[str], trials: Trials) -> tuple[float, float] | None:
    """The mean over tasks on validation images, and minus the mean loss there; None where a task has no figure."""
    metric = validation_metric(board.metric, board.primary)
    value, loss = (_validated(rows, tasks, trials, name) for name in (metric, "val/loss"))
    return None if value is None else (value, -math.inf if loss is None else -loss)


def _validated(rows: Sequence[Row], tasks: Sequence[str], trials: Trials, metric: str) -> float | None:
    runs = {task: [run for row in rows for run in row.runs.get(task, ())] for task in tasks}
    return _mean({task: trials.validated(of_task, metric) for task, of_task in runs.items()})


def _mean(values: dict[str, float | None]) -> float | None:
    """Weighted as the mean of a board is; None where a task has no value."""
    weights = weights_of(list(values))
    known = {task: value for task, value in values.items() if value is not None}
    return sum(weights[task] * value for task, value in known.items()) if len(known) == len(values) else None


def _test(board: Board, rows: Sequence[Row], task: str) -> float:
    return fmean(value for row in rows for value in row.values(task, board.metric))


def _tried(board: Board, rows: Sequence[Row], tasks: Sequence[str], trials: Trials, shown: bool) -> Tried:
    its_tasks = _tasks(board, rows)
    value = _validated(rows, its_tasks, trials, validation_metric(board.metric, board.primary))
    return Tried(rows[0], len(its_tasks), value, shown, len(its_tasks) < len(tasks))
