"""A report as CSV: a line for every board, method and task, unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from statistics import fmean

from peftbench.results.board import Board, Row

_COSTS = ("parameters", "head", "train", "step", "fill", "validate", "latency", "memory", "flops", "delta")
_ANYWHERE = ("parameters", "head", "flops", "delta")  # alike on every machine
_BEFORE = ("board", "backbone", "weights", "split", "apart", "method", "tuned", "times")
COLUMNS = (*_BEFORE, "metric", "task", "value", "half", "n", "failed", "missing", "machines", *_COSTS, "ood")
PAIRS = ("board", "first", "second", "difference", "half", "n", "over", "p", "p_holm", "p_wilcoxon", "verdict")
BEGINNINGS = (",".join(COLUMNS), ",".join(PAIRS))
"""How the files of both tables begin, by which they are told from others."""


def leaderboard_csv(boards: Sequence[Board], incomplete: bool = False) -> str:
    """A line for every board, method and task, and for every mean; shares, seconds and bytes, unrounded.

    Args:
        incomplete: whether a mean over fewer tasks than there are is shown.
    """
    lines: list[Sequence[object]] = [COLUMNS]
    for number, board in enumerate(boards):
        basis = dict(board.basis)
        for row in board.rows:
            head = [number, basis["backbone"], basis["weights"], basis["split"], board.apart]
            head += [row.label, row.tuned, row.times, board.metric]
            lines += [[*head, *_task_cells(board, row, task)] for task in board.tasks]
            for name, mean in board.means(row, incomplete).items():
                costs = [row.cost(cost) if len(row.machines) == 1 or cost in _ANYWHERE else None for cost in _COSTS]
                counts = [row.seeds, sum(row.failed.values()), " ".join(mean.missing), len(row.machines)]
                lines.append([*head, name, mean.value, mean.half, *counts, *costs, None])
    return _as_csv(lines)


def _task_cells(board: Board, row: Row, task: str) -> list[object]:
    cell, runs = board.cell(row, task), row.runs.get(task, [])
    machines = len({run.machine for run in runs})
    costs = []
    for name in _COSTS:
        values = [value for value in (getattr(run.costs, name) for run in runs) if value is not None]
        costs.append(fmean(values) if values and (machines == 1 or name in _ANYWHERE) else None)
    shifted = [run.metrics["ood/accuracy"] for run in runs if "ood/accuracy" in run.metrics]
    counts = [len(runs), row.failed[task], "", machines]
    return [task, cell.value, cell.half, *counts, *costs, fmean(shifted) if shifted else None]


def pairs_csv(boards: Sequence[Board]) -> str:
    """A line for every two methods compared; differences are shares."""
    lines: list[Sequence[object]] = [PAIRS]
    for number, board in enumerate(boards):
        for a, b, d, over in board.pairs():
            lines.append([number, a.label, b.label, d.mean, d.half, d.n, over, d.p, d.holm, d.wilcoxon, d.verdict])
    return _as_csv(lines)


def _as_csv(lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
