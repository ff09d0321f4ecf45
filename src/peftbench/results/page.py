"""A report as one HTML page that needs nothing else: tables, and charts drawn by a script of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

from peftbench.results import text
from peftbench.results.boards import FLAT, MEAN, Board, Row, timed
from peftbench.results.collect import Collected
from peftbench.results.formats import MARKS
from peftbench.results.primary import PRIMARY, short

_HERE = Path(__file__).parent
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # nothing is fetched


def page(boards: Sequence[Board], collected: Collected, incomplete: bool = False) -> str:
    """The whole page. Everything from records is escaped."""
    runs = sum(len(r) for b in boards for row in b.rows for r in row.runs.values())
    told = list(dict.fromkeys(b.metric for b in boards))
    metrics = f"metric{'s' * (len(told) > 1)} {', '.join(told)}"
    parts = [
        f'{MARKS["html"]} report -->\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>peftbench report</title>',
        f"<style>\n{(_HERE / 'page.css').read_text()}</style></head><body>",
        f'<h1>peftbench report</h1><p class="note">{runs} runs, {escape(metrics)}</p>',
        '<div class="controls" id="controls" hidden><input type="search" id="search" '
        'placeholder="filter: methods or tasks" aria-label="filter methods or tasks"><span id="count"></span></div>',
    ]
    for number, board in enumerate(boards):
        parts += _section(board, number, incomplete)
    for table in text.rest(boards, collected):
        parts += _table(table)
    content = json.dumps([_payload(b, incomplete) for b in boards], separators=(",", ":"), allow_nan=False)
    safe = content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    parts.append(f'<script type="application/json" id="data">{safe}</script>')
    parts.append(f"<script>\n{(_HERE / 'page.js').read_text()}</script></body></html>\n")
    return "\n".join(parts)


def _section(board: Board, number: int, incomplete: bool) -> list[str]:
    first, *others = text.of(board, number, incomplete)
    return [
        f'<section class="board"><h2>{escape(first.title)}</h2>',
        *_grid(first, "means"),
        '<div class="drawn"></div>',
        *(line for table in others for line in _table(table)),
        "</section>",
    ]


def _table(table: text.Table) -> list[str]:
    return [f"<h3>{escape(table.title)}</h3>", *_grid(table)]


def _grid(table: text.Table, kind: str = "") -> list[str]:
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
    return {
        "metric": short(board.metric),
        "primary": PRIMARY.get(dict(board.basis)["task"], "accuracy"),
        "tasks": [t.removeprefix("vtab/") for t in board.tasks],
        "rows": [_row(board, row, incomplete) for row in board.rows],
    }


def _row(board: Board, row: Row, incomplete: bool) -> dict[str, Any]:
    mean = board.means(row, incomplete)[MEAN if board.vtab else FLAT]
    alone = len(row.machines) == 1
    costs = {n: row.cost(n) if alone or n == "parameters" else None for n in ("train", "memory", "parameters")}
    there = {t.removeprefix("vtab/"): t for t in board.tasks if row.runs.get(t)}
    cells = {short: board.cell(row, t) for short, t in there.items()}
    return {
        "label": row.label,
        "times": row.times,
        "machine": row.machines[0] if alone else "",
        "comparable": timed(row),
        "value": _round(mean.value),
        "half": _round(mean.half),
        "costs": {n: _round(v) for n, v in costs.items()},
        "cells": {short: [_round(c.value), _round(c.half), len(row.runs[there[short]])] for short, c in cells.items()},
        "curves": {short: c for short, t in there.items() if (c := _curve(row, t))},
        "layers": {short: row.runs[t][0].layers for short, t in there.items() if row.runs[t][0].layers},
    }


def _curve(row: Row, task: str) -> dict[str, list[float | None]]:
    """Means over the seeds that were recorded at the same epochs as the first."""
    curves = [r.curve for r in row.runs[task] if len(r.curve[0])]
    same = [c for c in curves if c[0] == curves[0][0]]
    if not same:
        return {}
    losses, values = ([_average(at) for at in zip(*(c[i] for c in same), strict=True)] for i in (1, 2))
    return {"epochs": [_round(e) for e in same[0][0]], "loss": losses, "val": values}


def _average(values: Sequence[float]) -> float | None:
    known = [v for v in values if math.isfinite(v)]
    return _round(sum(known) / len(known)) if known else None


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
