"""A report as CSV: a line for every board, method and task, unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from peftbench.results.board import Board, Row
from peftbench.results.same_images import compared_by_image
from peftbench.results.spending import ENERGY, PRICE, kinds_of, spent

_COSTS = ("parameters", "head", "train", "step", "fill", "validate", "latency", "memory", "flops", "delta")
_ANYWHERE = ("parameters", "head", "flops", "delta")  # alike on every machine
_BEFORE = ("board", "backbone", "weights", "split", "apart", "method", "tuned", "times")
_COLUMNS = (*_BEFORE, "metric", "task", "value", "half", "n", "failed", "missing", "machines", *_COSTS, "ood")
_SPENT = ("energy_train", "energy_test", "energy_by", "price", "price_an_hour")
COLUMNS = (*_COLUMNS, "chosen", "settings", "images", *_SPENT)
_PAIRS = ("board", "first", "second", "difference", "half", "n", "over", "p", "p_holm", "p_wilcoxon", "verdict")
PAIRS = (*_PAIRS, "why", "first_chosen", "second_chosen", "task")
WEIGHTS = ("board", "first", "second", "task", "seed", "images", "only_first", "only_second", "p", "p_holm", "verdict")
BEGINNINGS = tuple(",".join(columns) for columns in (_COLUMNS, _PAIRS, WEIGHTS))
"""How the files of the tables begin, older ones too, by which they are told from others."""


def leaderboard_csv(boards: Sequence[Board], incomplete: bool = False) -> str:
    """A line for every board, method and task, and for every mean; shares, seconds and bytes, unrounded.

    Args:
        incomplete: whether a mean over fewer tasks than there are is shown.
    """
    lines: list[Sequence[object]] = [COLUMNS]
    for board in boards:
        basis = dict(board.basis)
        for row in board.rows:
            head = [board.group, basis["backbone"], basis["weights"], basis["split"], board.apart]
            head += [row.label, row.tuned, row.times, board.metric]
            choice = [row.choice.by, row.choice.of]
            for task in board.tasks:
                lines.append(
                    [*head, *_task_cells(board, row, task), *choice, _images(board, row, task), *_spent(row, task)]
                )
            for name, mean in board.means(row, incomplete).items() if board.has_means else ():
                costs = [row.cost(cost) if len(row.machines) == 1 or cost in _ANYWHERE else None for cost in _COSTS]
                counts = [row.seeds, sum(row.failed.values()), " ".join(mean.missing), len(row.machines)]
                lines.append([*head, name, mean.value, mean.half, *counts, *costs, None, *choice, None, *_spent(row)])
    return _as_csv(lines)


def _task_cells(board: Board, row: Row, task: str) -> list[object]:
    cell, runs = board.cell(row, task), row.runs.get(task, [])
    machines = len({run.machine for run in runs})
    alone = replace(row, runs={task: runs})
    costs = [alone.cost(name) if machines == 1 or name in _ANYWHERE else None for name in _COSTS]
    shifted = [run.metrics[mean] for run in runs if (mean := f"ood/{run.primary}") in run.metrics]
    counts = [len(runs), row.failed[task], "", machines]
    return [task, cell.value, cell.half, *counts, *costs, fmean(shifted) if shifted else None]


def _spent(row: Row, task: str | None = None) -> list[object]:
    """Joules and money with their kinds; nothing where a run has none, or where kinds or machines differ."""
    alone = row if task is None else replace(row, runs={task: row.runs.get(task, [])})
    energy, price = (spent(alone, name) is not None for name in (ENERGY, PRICE))
    by, at = (next(iter(kinds_of(alone.all_runs(), name)), None) for name in (ENERGY, PRICE))
    joules = [alone.cost("energy_train"), alone.cost("energy_test"), by] if energy else [None] * 3
    return [*joules, *([alone.cost("amount"), at] if price else [None] * 2)]


def pairs_csv(boards: Sequence[Board]) -> str:
    """A line for every two methods compared; differences are shares. One over several tasks names none."""
    lines: list[Sequence[object]] = [PAIRS]
    for board in boards:
        task = "" if board.has_means else board.tasks[0]
        for a, b, d, over in board.pairs():
            figures = [d.mean, d.half, d.n, over, d.p, d.holm, d.wilcoxon, d.verdict, d.untold]
            lines.append([board.group, a.label, b.label, *figures, a.choice.by, b.choice.by, task])
    return _as_csv(lines)


def weights_csv(boards: Sequence[Board]) -> str:
    """A line for every two runs that are compared image by image: their weights, not their methods."""
    lines: list[Sequence[object]] = [WEIGHTS]
    for board in boards:
        for t in compared_by_image(board, board.pairs())[0]:
            counts = [t.task, t.seed, t.images, t.only_first, t.only_second]
            lines.append([board.group, t.first.label, t.second.label, *counts, t.p, t.holm, t.verdict])
    return _as_csv(lines)


def _images(board: Board, row: Row, task: str) -> int | None:
    """How many images the metric was counted on; None where runs differ in it, or a record does not say it."""
    numbers = {run.images_behind(board.metric) for run in row.runs.get(task, ())}
    return numbers.pop() if len(numbers) == 1 else None


def _as_csv(lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
