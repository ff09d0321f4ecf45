"""A report as one HTML page that needs nothing else: tables, and charts drawn by a script of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

from peftbench.common.amounts import plural
from peftbench.results.board import FLAT, MEAN, Board, Row, has_comparable_costs
from peftbench.results.board_tables import group_tables
from peftbench.results.collect import Collected
from peftbench.results.formats import MARKS
from peftbench.results.groups import Group, groups_of
from peftbench.results.pareto import comparable_rows, pareto_front
from peftbench.results.report import left_out_tables
from peftbench.results.summary import Run
from peftbench.results.task_results import short
from peftbench.results.text_table import TextTable

_HERE = Path(__file__).parent
_SCRIPTS = ("charts.js", "page.js")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # nothing is fetched
_CHARTED_COSTS = ("train", "memory", "parameters")


def html_page(boards: Sequence[Board], collected: Collected, incomplete: bool = False) -> str:
    """The whole page. Everything from records is escaped.

    Args:
        incomplete: whether a mean over fewer tasks than there are is shown.
    """
    runs = sum(1 for board in boards for _ in board.all_runs())
    metrics = list(dict.fromkeys(board.metric for board in boards))
    shown = f"{'metrics' if len(metrics) > 1 else 'metric'} {', '.join(metrics)}"
    parts = [
        f'{MARKS["html"]} report -->\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>peftbench report</title>',
        f"<style>\n{_text_of('page.css')}</style></head><body>",
        f'<h1>peftbench report</h1><p class="note">{plural(runs, "run")}, {escape(shown)}</p>',
        '<div class="controls" id="controls" hidden><input type="search" id="search" '
        'placeholder="filter: methods or tasks" aria-label="filter methods or tasks"><span id="count"></span></div>',
    ]
    for group in groups_of(boards):
        parts += _section(group, incomplete)
    for table in left_out_tables(boards, collected):
        parts += _table(table)
    content = json.dumps([_payload(board, incomplete) for board in boards], separators=(",", ":"), allow_nan=False)
    safe = content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    parts.append(f'<script type="application/json" id="data">{safe}</script>')
    parts.append(f"<script>\n{''.join(map(_text_of, _SCRIPTS))}</script></body></html>\n")
    return "\n".join(parts)


def _text_of(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _section(group: Group, incomplete: bool) -> list[str]:
    """The tables of a group with the charts of its first board, and a section for the charts of each other."""
    first, *others = group_tables(group, incomplete)
    parts = [
        f'<section class="board"><h2>{escape(first.title)}</h2>',
        *_grid(first, "means"),
        '<div class="drawn"></div>',
        *(line for table in others for line in _table(table)),
        "</section>",
    ]
    for board in group.boards[1:]:
        heading = escape(f"{board.words} on {board.tasks[0]}")
        parts.append(f'<section class="board"><h3>{heading}</h3><div class="drawn"></div></section>')
    return parts


def _table(table: TextTable) -> list[str]:
    return [f"<h3>{escape(table.title)}</h3>", *_grid(table)]


def _grid(table: TextTable, kind: str = "") -> list[str]:
    lines = []
    if table.rows:
        kinds = [' class="number"' if number else "" for _, number in table.columns]
        head = "".join(f"<th{k}>{escape(name)}</th>" for k, (name, _) in zip(kinds, table.columns, strict=True))
        lines.append(f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>')
        values = table.values or [[] for _ in table.rows]
        for row, numbers in zip(table.rows, values, strict=True):
            cells = zip_longest(kinds, row, numbers)
            lines.append(f"<tr>{''.join(_cell(*cell) for cell in cells)}</tr>")
        lines.append("</tbody></table></div>")
    return [*lines, *(f'<p class="note">{escape(note)}</p>' for note in table.notes)]


def _cell(kind: str, shown: str, value: float | None) -> str:
    exact = f' data-value="{value:.6g}"' if value is not None else ""
    return f"<td{kind}{exact}>{escape(shown)}</td>"


def _payload(board: Board, incomplete: bool) -> dict[str, Any]:
    """What the script draws of a board. Values are shares, costs counts, seconds and bytes.

    `fronts` holds, for each cost, the Pareto fronts of rows that may be compared: lists of indices into `rows`.
    """
    rows = [_row(board, row, incomplete) for row in board.rows]
    return {
        "metric": short(board.metric),
        "primary": board.primary,
        "tasks": [task.removeprefix("vtab/") for task in board.tasks],
        "rows": rows,
        "fronts": {cost: _fronts(board, rows, cost) for cost in _CHARTED_COSTS},
    }


def _fronts(board: Board, drawn: Sequence[dict[str, Any]], cost: str) -> list[list[int]]:
    """Of the figures as they are drawn; rows without a mean or the cost are on none."""
    fronts = []
    for comparable in comparable_rows(board.rows, cost):
        indices = [i for i in comparable if drawn[i]["value"] is not None and drawn[i]["costs"][cost] is not None]
        points = [(drawn[i]["costs"][cost], drawn[i]["value"]) for i in indices]
        fronts.append([indices[at] for at in pareto_front(points)])
    return [front for front in fronts if front]


def _row(board: Board, row: Row, incomplete: bool) -> dict[str, Any]:
    mean = board.means(row, incomplete)[MEAN if board.vtab else FLAT]
    alone = len(row.machines) == 1
    costs = {cost: row.cost(cost) if alone or cost == "parameters" else None for cost in _CHARTED_COSTS}
    runs = {task.removeprefix("vtab/"): row.runs[task] for task in board.tasks if row.runs.get(task)}
    cells = {name: board.cell(row, same_task[0].task) for name, same_task in runs.items()}
    curves = {name: _curve(same_task) for name, same_task in runs.items()}
    layers = {name: same_task[0].layers for name, same_task in runs.items()}
    return {
        "label": row.label,
        "times": row.times,
        "choice": str(row.choice),
        "comparable": has_comparable_costs(row),
        "value": _round(mean.value),
        "half": _round(mean.half),
        "costs": {cost: _round(value) for cost, value in costs.items()},
        "cells": {name: [_round(cell.value), _round(cell.half), len(runs[name])] for name, cell in cells.items()},
        "curves": {name: curve for name, curve in curves.items() if curve},
        "layers": {name: parts for name, parts in layers.items() if parts},
    }


def _curve(runs: Sequence[Run]) -> dict[str, list[float | None]]:
    """Means over the seeds that were recorded at the same epochs as the first."""
    curves = [run.curve for run in runs if len(run.curve[0])]
    same = [curve for curve in curves if curve[0] == curves[0][0]]
    if not same:
        return {}
    losses, values = ([_average(at) for at in zip(*(curve[i] for curve in same), strict=True)] for i in (1, 2))
    return {"epochs": [_round(epoch) for epoch in same[0][0]], "loss": losses, "val": values}


def _average(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return _round(sum(known) / len(known)) if known else None


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
