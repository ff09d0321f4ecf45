"""Methods by backbone, across boards: a table for each data set whose figures may stand beside each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from peftbench.common.amounts import plural
from peftbench.results.board import FLAT, MEAN, Board, Row
from peftbench.results.board_tables import Figures, add_figures, slug, task_figures
from peftbench.results.cells import UNTOLD, best_note, images_line, in_per_cent, not_told_from_best
from peftbench.results.chosen import ON_TEST
from peftbench.results.groups import Line, lines_of
from peftbench.results.settings import OWN
from peftbench.results.task_results import less_is_better, short, unit
from peftbench.results.text_table import NAMED, TextTable, some


def backbone_tables(boards: Sequence[Board], incomplete: bool = False) -> list[TextTable]:
    """A table of methods by backbone for every data set, and for VTAB's mean, that several backbones were run on.

    Only figures of the same test images, after training on the same images, stand beside each other; the notes name
    what else there is.

    Args:
        incomplete: whether a mean over fewer tasks than there are is shown.
    """
    beside: dict[Hashable, list[Board]] = defaultdict(list)
    for board in boards:
        beside[_same_images(board)].append(board)
    tables = []
    for key, alike in beside.items():
        if len(alike) > 1 and _has_figures(alike, incomplete):
            others = [b for k, of_key in beside.items() if k != key for b in of_key if _same_question(b, alike[0])]
            tables.append(_table(alike, others, incomplete))
    return tables


def _same_images(board: Board) -> Hashable:
    """Equal for boards that were trained and tested on the same images and are judged by the same metric."""
    basis = dict(board.basis)
    splits = frozenset((run.task, run.split) for run in board.all_runs())
    return board.metric, basis["task"], basis["trained on"], splits


def _same_question(board: Board, other: Board) -> bool:
    return board.metric == other.metric and bool(set(board.tasks) & set(other.tasks))


def _has_figures(boards: Sequence[Board], incomplete: bool) -> bool:
    return not boards[0].has_means or all(
        any(board.means(row, incomplete)[_mean(board)].value is not None for row in board.rows) for board in boards
    )


def _mean(board: Board) -> str:
    return MEAN if board.vtab else FLAT


def _table(boards: Sequence[Board], others: Sequence[Board], incomplete: bool) -> TextTable:
    first, lines = boards[0], lines_of(boards)
    data = "VTAB-1k, mean of groups" if first.vtab else some(first.tasks)
    table = TextTable(f"{data}: methods by backbone, {short(first.metric)} {unit(first.metric)}", [("method", False)])
    table.label = slug(
        f"{'vtab' if first.vtab else ' '.join(first.tasks)} {first.metric.removeprefix('test/')} backbones"
    )
    table.rows = [[line.label] for line in lines]
    table.values = [[None] for _ in lines]
    for at, board in enumerate(boards):
        images = "" if first.has_means else images_line(board, board.tasks[0])
        figures = (
            _mean_figures(lines, board, at, incomplete)
            if first.has_means
            else task_figures(lines, board, at, board.tasks[0])
        )
        add_figures(table, f"{board.words}{images}", figures, less_is_better(board.metric))
    table.notes.append(best_note(first))
    table.notes.append(
        "Each backbone was trained and tested on the same images as the others here, at its own input size; "
        f"{UNTOLD} is of methods on one backbone."
    )
    if any("†" in cell for cells in table.rows for cell in cells):
        table.notes.append("† marks cells in which runs failed; the means leave them out.")
    optimistic = [
        f"{line.label} on {boards[at].words}"
        for line in lines
        for at, row in line.rows.items()
        if row.choice.by == ON_TEST
    ]
    if optimistic:
        table.notes.append(f"The settings of {some(optimistic)} were {ON_TEST}.")
    if others:
        named = [_named(board, first) for board in others[:NAMED]]
        more = f"; and {plural(len(others) - NAMED, 'more board')}" if len(others) > NAMED else ""
        table.notes.append(f"Not compared: {'; '.join(named)}{more}.")
    return table


def _mean_figures(lines: Sequence[Line], board: Board, at: int, incomplete: bool) -> Figures:
    rows: list[Row | None] = [line.rows.get(at) for line in lines]
    means = [None if row is None else board.means(row, incomplete)[_mean(board)] for row in rows]
    cells = ["–" if mean is None else in_per_cent(mean) for mean in means]
    values = [None if mean is None or mean.missing else mean.value for mean in means]
    return cells, values, not_told_from_best(board, rows, values)


def _named(board: Board, first: Board) -> str:
    """A board that has other images than these, and in what they differ."""
    basis, other = dict(board.basis), dict(first.basis)
    if basis["trained on"] != other["trained on"]:
        return f"{board.words}, trained on {basis['trained on']}"
    if basis["split"] != other["split"]:
        return f"{board.words}, {'split as listed' if basis['split'] == OWN else 'split ' + basis['split']}"
    if set(board.tasks) != set(first.tasks):
        return f"{board.words}, {plural(len(board.tasks), 'task')}"
    return f"{board.words}, another split"
