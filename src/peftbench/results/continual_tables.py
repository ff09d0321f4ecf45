"""The tables of sequences of groups of classes: what is kept of each, and what was learned of it."""

from __future__ import annotations

from dataclasses import replace

from peftbench.results.board import Board, Row
from peftbench.results.cells import in_per_cent
from peftbench.results.groups import Group
from peftbench.results.text_table import TextTable

_FIGURES = {
    "A_N %": "accuracy",
    "A_1:N %": "average_accuracy",
    "forgotten": "forgetting",
    "current %": "current_accuracy",
}
_FORWARD = "test/forward_transfer"
_TITLES = {
    "": "Groups of classes one after the other: the class is said among all so far",
    "task_": "The same where the group of each image is told",
}
_NOTES = {
    "": "A_N is on all classes at the end, A_1:N the mean of that after each group, forgotten what the best accuracy "
    "on a group was above that at the end (in points), current that on a group just after it was learned.",
    "task_": "Forward is the accuracy on a group just after it was learned minus that of learning it alone, in points.",
}


def continual_tables(group: Group) -> list[TextTable]:
    """A table for each way to judge: among all classes, and among those of the group; others are left out."""
    return [_table(group, prefix, title) for prefix, title in _TITLES.items()]


def _table(group: Group, prefix: str, title: str) -> TextTable:
    figures = {head: f"test/{prefix}{name}" for head, name in _FIGURES.items()}
    shown = [
        (board, row)
        for board, row in group.all_rows()
        if any(f"test/{prefix}average_accuracy" in run.metrics for run in row.all_runs())
    ]
    notes = [_NOTES[prefix]]
    if prefix:  # a head that is solved, and protocol.alone=false, learn no group by itself
        notes = []
        if any(_FORWARD in run.metrics for _, row in shown for run in row.all_runs()):
            figures["forward"], notes = _FORWARD, [_NOTES[prefix]]
    which = [("data set", False)] if group.several else []
    columns = [*which, ("method", False), ("seeds", True), *((head, True) for head in figures)]
    table = TextTable(title, columns, label=f"continual-{prefix.rstrip('_') or 'class'}")
    for board, row in shown:
        cells = [_cell(board, row, metric) for metric in figures.values()]
        table.rows.append([*([board.tasks[0]] if group.several else []), row.label, row.seeds, *cells])
    if table.rows:
        table.notes += notes
    return table


def _cell(board: Board, row: Row, metric: str) -> str:
    tasks = [task for task in board.tasks if row.runs.get(task)]
    if not all(metric in run.metrics for run in row.all_runs()):
        return "–"
    return in_per_cent(replace(board, metric=metric).mean(row, tasks, True))
