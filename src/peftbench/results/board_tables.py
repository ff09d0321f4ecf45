"""The first tables of a group of boards: what its methods reached on each data set, and what that cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from peftbench.common.amounts import count, milliseconds, plural, seconds, size
from peftbench.results.board import FLAT, MEAN, Board, Row
from peftbench.results.board_notes import full_names, group_notes
from peftbench.results.cells import head, in_per_cent, known, not_told_from_best, with_best
from peftbench.results.continual_tables import continual_tables
from peftbench.results.detail_tables import published_table, settings_table, shifted_table, tasks_table
from peftbench.results.difference_tables import difference_tables
from peftbench.results.groups import Group, Line
from peftbench.results.spending import PRICE, kinds_of, spent, spent_cell, spent_columns
from peftbench.results.task_results import less_is_better, short, unit
from peftbench.results.text_table import TextTable, some

_COSTS = ("parameters", "head", "train", "step", "memory")
_HEADS = ("params", "head", "train", "step", "peak mem")
_ANYWHERE = ("parameters", "head")  # alike on every machine


def group_tables(group: Group, incomplete: bool = False) -> list[TextTable]:
    """The tables of boards that differ in their data set alone, that of what the methods reached first.

    Args:
        incomplete: whether a mean over fewer tasks than there are is shown.
    """
    board = group.first
    tables = [reached_table(group, incomplete)]
    if group.several:
        tables.append(costs_table(group))
    if any(board.tried for board in group.boards):
        tables.append(settings_table(group))
    if board.has_means and not _shows_tasks(board, incomplete):
        tables.append(tasks_table(board))
    tables += [table for table in (shifted_table(group), *continual_tables(group)) if table.rows]
    if any(len(board.rows) > 1 for board in group.boards):
        tables += difference_tables(group)
    if board.vtab:
        tables += published_table(board)
    tables += [table for table in (full_names(group),) if table.rows]
    for table, kind in zip(tables, _kinds(tables), strict=True):
        table.label = f"{_slug(group)}-{kind}" if kind else _slug(group)
    return tables


def _kinds(tables: Sequence[TextTable]) -> list[str]:
    return ["", *(table.label for table in tables[1:])]


def _slug(group: Group) -> str:
    """`vit-nano-accuracy`: what LaTeX calls a group's first table by, whatever data sets are beside."""
    words = [group.first.words, *(["vtab"] if group.first.vtab else []), group.first.metric.removeprefix("test/")]
    return slug(" ".join(words))


def slug(words: str) -> str:
    """Words as a part of a label: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "table"


def title(group: Group) -> str:
    """The backbone and the data, as the user calls them: `vit_nano on digits, photos`."""
    board = group.first
    metric = "" if board.metric == "test/accuracy" else f", {board.metric}"
    data = "VTAB-1k" if board.vtab else some(group.data_sets)
    return f"{board.words} on {data}{metric}"


def reached_table(group: Group, incomplete: bool) -> TextTable:
    """A line for each method: a figure for each data set, or means over tasks; the arguments are those of
    `group_tables`.
    """
    table = TextTable(f"Apart: {title(group)}" if group.first.apart else title(group), [("method", False)])
    table.rows = [[line.label] for line in group.lines]
    table.values = [[None] for _ in group.lines]
    _add(table, ("seeds", True), [line.seeds for line in group.lines])
    for at, board in enumerate(group.boards):
        for name, figures in _figures(group, at, incomplete).items():
            add_figures(table, name, figures, less_is_better(board.metric))
        for metric in board.beside:
            add_figures(table, *_beside(group, at, metric))
    if group.several:
        _add(table, ("params", True), [_parameters(line) for line in group.lines])
        _add(table, ("times", False), [_times(line) for line in group.lines])
    else:
        rows = [line.rows[0] for line in group.lines]
        costs, values = [costs_of(row) for row in rows], [_cost_values(row) for row in rows]
        for i, name in enumerate(_HEADS):
            _add(table, (name, True), [cost[i] for cost in costs], [value[i] for value in values])
        _add(table, ("times", False), [cost[-1] for cost in costs])
        for name, cells, known_values in _spent_columns(rows):
            _add(table, (name, True), cells, known_values)
    choices = [_choice(group, line) for line in group.lines]
    if any(choices):
        _add(table, ("setting", False), [choice or "–" for choice in choices])
    table.notes = group_notes(group, incomplete, _shows_tasks(group.first, incomplete))
    return table


Figures = tuple[list[str], list[float | None], list[bool]]
"""Cells of a column, their values, and whether each cannot be told from the best."""


def _add(
    table: TextTable, column: tuple[str, bool], cells: Sequence[str], values: Sequence[float | None] | None = None
) -> None:
    table.columns.append(column)
    for i, cell in enumerate(cells):
        table.rows[i].append(cell)
        table.values[i].append(values[i] if values else None)


def add_figures(table: TextTable, name: str, figures: Figures, least: bool = False) -> None:
    """Adds a column of figures with the best one marked.

    Args:
        least: whether the best is the least, as of losses.
    """
    cells, values, untold = figures
    _add(table, (name, True), with_best(cells, values, untold, least), values)


def _figures(group: Group, at: int, incomplete: bool) -> dict[str, Figures]:
    """By head of the column: of each task, or of VTAB's groups, or of the mean over all tasks."""
    board = group.boards[at]
    if not board.has_means:
        return {head(board, board.tasks[0]): task_figures(group.lines, board, at, board.tasks[0])}
    rows = [line.rows[at] for line in group.lines]
    if _shows_tasks(board, incomplete):
        return {head(board, task): task_figures(group.lines, board, at, task, tested=False) for task in board.tasks}
    means = [board.means(row, incomplete) for row in rows]
    figures: dict[str, Figures] = {}
    for name in means[0]:
        values = [None if mean[name].missing else mean[name].value for mean in means]
        untold = not_told_from_best(board, rows, values) if name in (FLAT, MEAN) else []  # no test is of a group alone
        figures[f"{name} {unit(board.metric)}"] = [in_per_cent(mean[name]) for mean in means], values, untold
    return figures


def task_figures(lines: Sequence[Line], board: Board, at: int, task: str, tested: bool = True) -> Figures:
    """Figures of a data set; a line that lacks it has a dash.

    Args:
        at: the board's number in the lines.
        tested: whether the board compares its rows by this task alone.
    """
    cells, values, rows = [], [], [line.rows.get(at) for line in lines]
    for line, row in zip(lines, rows, strict=True):
        failed = row.failed[task] if row else line.failed_alone(board, task)
        mean = board.cell(row, task) if row else None
        cells.append(in_per_cent(mean, failed) if mean else "†" if failed else "–")
        values.append(mean.value if mean else None)
    return cells, values, not_told_from_best(board, rows, values) if tested else []


def _shows_tasks(board: Board, incomplete: bool) -> bool:
    """Whether the first table shows tasks since there is no mean to show: no row has a whole group of VTAB's."""
    if not board.vtab or incomplete:
        return False
    return all(mean.value is None for row in board.rows for mean in board.means(row).values())


def _beside(group: Group, at: int, metric: str) -> tuple[str, Figures]:
    board = group.boards[at]
    other = replace(board, metric=metric)
    means = [other.mean(line.rows[at], board.tasks, True) if at in line.rows else None for line in group.lines]
    where = f"{board.tasks[0]} " if group.several else ""
    cells = ["–" if mean is None else in_per_cent(mean) for mean in means]
    values = [None if mean is None else mean.value for mean in means]
    return f"{where}{short(metric)} {unit(metric)}", (cells, values, [])


def _parameters(line: Line) -> str:
    """Of all data sets; a range where they differ."""
    values = [value for row in line.rows.values() if (value := row.cost("parameters")) is not None]
    if not values:
        return "–"
    return count(values[0]) if min(values) == max(values) else f"{count(min(values))}–{count(max(values))}"


def _times(line: Line) -> str:
    return line.trait.times or "live"


def _choice(group: Group, line: Line) -> str:
    """How the setting was chosen, by data set where that differs."""
    choices = {group.boards[at].tasks[0]: str(row.choice) for at, row in line.rows.items()}
    if len(set(choices.values())) == 1:
        return next(iter(choices.values()))
    return "; ".join(f"{task}: {choice}" for task, choice in choices.items() if choice)


def costs_table(group: Group) -> TextTable:
    """What a method cost on each data set."""
    columns = [("data set", False), ("method", False), *((name, True) for name in _HEADS), ("times", False)]
    table = TextTable(f"Costs by data set, {group.first.words}", columns, label="costs", repeated=2)
    rows = [row for _, row in group.all_rows()]
    for board, row in group.all_rows():
        table.rows.append([board.tasks[0], row.label, *costs_of(row)])
        table.values.append([None, None, *_cost_values(row), None])
    for name, cells, values in _spent_columns(rows):
        _add(table, (name, True), cells, values)
    return table


def _spent_columns(rows: Sequence[Row]) -> list[tuple[str, list[str], list[float | None]]]:
    """Heading, cells and values of energy and price, each where a run has it."""
    columns: list[tuple[str, list[str], list[float | None]]] = []
    for name in spent_columns(rows):
        several = name == PRICE and len(kinds_of((run for row in rows for run in row.all_runs()), name)) > 1
        columns.append((name, [spent_cell(row, name, several) for row in rows], [spent(row, name) for row in rows]))
    return columns


def costs_of(row: Row) -> list[str]:
    """Parameters, head, training and step time, memory, and what kind of times these are."""
    counts = [known(row.cost("parameters"), count), known(row.cost("head"), count)]
    if len(row.machines) > 1:
        return [*counts, "–", "–", "–", plural(len(row.machines), "machine")]
    step = known(row.cost("step"), milliseconds)
    return [*counts, known(row.cost("train"), seconds), step, known(row.cost("memory"), size), row.times or "live"]


def _cost_values(row: Row) -> list[float | None]:
    """The same as numbers: counts, seconds, bytes."""
    return [row.cost(name) if len(row.machines) == 1 or name in _ANYWHERE else None for name in _COSTS]
