"""How figures are written in the cells and heads of tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peftbench.common.amounts import plural
from peftbench.results.board import Board, Mean, Row
from peftbench.results.row_names import cut
from peftbench.results.task_results import less_is_better, unit
from peftbench.results.text_table import Best

UNTOLD = "‡"
BOLD_NOTE = "Bold is the best figure of its column"


def best_note(board: Board) -> str:
    """What bold and `UNTOLD` mean: of VTAB the methods are compared over all tasks, and in no column else."""
    of = "in a mean over all tasks, " if board.vtab else ""
    return (
        f"{BOLD_NOTE}; {of}{UNTOLD} cannot be told from it after correction for all comparisons of methods (Holm), or "
        "there are too few pairs to tell."
    )


def in_per_cent(mean: Mean, failed: int = 0) -> str:
    """`91.2 ± 0.4`; `*` marks a mean over fewer tasks than there are, `†` failed runs."""
    fewer = "*" if mean.missing else ""
    dagger = "†" if failed else ""
    if mean.value is None:
        return dagger or f"–{fewer}"
    half = "" if mean.half is None else f" ± {100 * mean.half:.1f}"
    return f"{100 * mean.value:.1f}{half}{fewer}{dagger}"


def known(value: float | None, form: Callable[[float], str]) -> str:
    """The value as `form` writes it; a dash where there is none."""
    return "–" if value is None else form(value)


def with_best(
    cells: Sequence[str], values: Sequence[float | None], untold: Sequence[bool] = (), least: bool = False
) -> list[str]:
    """The cells of a column, the best of several marked, and likewise those that show the same figure.

    Args:
        untold: for each cell, whether it cannot be told from the best; empty where nothing says it.
        least: whether the best is the least, as of losses.
    """
    there = [value for value in values if value is not None]
    if len(there) < 2:
        return list(cells)
    best = f"{100 * (min(there) if least else max(there)):.1f}"
    marked: list[str] = []
    for i, (cell, value) in enumerate(zip(cells, values, strict=True)):
        if value is not None and f"{100 * value:.1f}" == best:
            marked.append(Best(cell))
        else:
            marked.append(f"{cell}{UNTOLD}" if value is not None and untold and untold[i] else cell)
    return marked


def not_told_from_best(board: Board, rows: Sequence[Row | None], values: Sequence[float | None]) -> list[bool]:
    """For each row whether no verdict says that it differs from the best of a column; False where none was asked for.

    Args:
        rows: of the board, those of the column; None where a line has none.
        values: the column's figures.
    """
    there = [(value, row) for value, row in zip(values, rows, strict=True) if value is not None and row is not None]
    if not there:
        return [False] * len(rows)
    _, best = (min if less_is_better(board.metric) else max)(there, key=lambda pair: pair[0])
    if best is not board.rows[0] and not board.compares_all:
        return [False] * len(rows)
    told = {id(best)}
    for first, second, difference, _ in board.pairs():
        if difference.verdict in ("better", "worse") and (first is best or second is best):
            told |= {id(first), id(second)}
    return [row is not None and id(row) not in told for row in rows]


def head(board: Board, task: str, words: str | None = None) -> str:
    """A column's head: the data set, and below it how many images its figures are counted on, where records say it."""
    name = cut(task.removeprefix("vtab/"))
    words = unit(board.metric) if words is None else words
    return f"{name} {words}".rstrip() + images_line(board, task)


def images_line(board: Board, task: str) -> str:
    """A second line for a head: `599 images`, or `598–599 images` where runs differ."""
    numbers = {run.images_behind(board.metric) for row in board.rows for run in row.runs.get(task, ())}
    counts = sorted(number for number in numbers if number is not None)
    if not counts or len(counts) < len(numbers):
        return ""
    text = f"{counts[0]:,}" if counts[0] == counts[-1] else f"{counts[0]:,}–{counts[-1]:,}"
    return f"\n{plural(text, 'image')}"
