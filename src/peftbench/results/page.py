"""A report as one HTML page that needs nothing else: tables, and charts drawn by a script of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path

from peftbench.common.amounts import plural
from peftbench.results.answer_tables import answer_table
from peftbench.results.answers import answers
from peftbench.results.backbone_tables import backbone_tables
from peftbench.results.board import Board
from peftbench.results.board_tables import group_tables
from peftbench.results.collect import Collected
from peftbench.results.formats import MARKS
from peftbench.results.groups import Group, groups_of
from peftbench.results.page_data import page_data
from peftbench.results.report import left_out_tables, made_table
from peftbench.results.text_table import Best, Heading, TextTable

_HERE = Path(__file__).parent
_SCRIPTS = ("marks.js", "axes.js", "charts.js", "page.js")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # nothing is fetched


def html_page(boards: Sequence[Board], collected: Collected, incomplete: bool = False) -> str:
    """The whole page. Everything from records is escaped.

    Args:
        incomplete: whether a mean over fewer tasks than there are is shown.
    """
    parts = [
        f'{MARKS["html"]} report -->\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>peftbench report</title>',
        f"<style>\n{_text_of('page.css')}</style></head><body>",
        f'<h1>peftbench report</h1><p class="note">{escape(_counted(boards, collected))}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in made_table(collected).notes),
        '<div class="controls" id="controls" hidden><input type="search" id="search" '
        'placeholder="filter: methods, backbones, data sets" aria-label="filter"><span id="count"></span></div>',
    ]
    parts += _answers(boards, collected)
    by_backbone = backbone_tables(boards, incomplete)
    if by_backbone:
        parts += ['<section class="backbones"><h2>Methods by backbone</h2><div class="tables">']
        parts += [*(line for table in by_backbone for line in _table(table)), "</div></section>"]
    parts.append('<section id="charts" hidden></section>')
    groups = groups_of(boards)
    for group in groups:
        parts += _section(group, incomplete)
    for table in left_out_tables(boards, collected):
        parts += _table(table)
    content = json.dumps(page_data(groups, incomplete), separators=(",", ":"), allow_nan=False)
    safe = content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    parts.append(f'<script type="application/json" id="data">{safe}</script>')
    parts.append(f"<script>\n{''.join(map(_text_of, _SCRIPTS))}</script></body></html>\n")
    return "\n".join(parts)


def _counted(boards: Sequence[Board], collected: Collected) -> str:
    """How many runs the figures are of, by which metrics, and why these are not all that completed."""
    shown = sum(1 for board in boards for _ in board.all_runs())
    complete = sum(run.status == "complete" for run in collected.runs)
    unchosen = sum(1 for board in boards for row in board.unchosen for _ in row.all_runs())
    metrics = list(dict.fromkeys(board.metric for board in boards))
    words = f"{'metrics' if len(metrics) > 1 else 'metric'} {', '.join(metrics)}"
    if shown >= complete:
        return f"{plural(shown, 'run')}, {words}"
    others = complete - shown - unchosen
    why = [f"{unchosen:,} in settings that were not chosen (settings=all shows them)"] if unchosen else []
    why += [f"{others:,} named in the notes or left out below"] if others > 0 else []
    return f"Figures are of {shown:,} of {plural(complete, 'complete run')}, {words}; others: {', '.join(why)}."


def _breakable(text: str) -> str:
    """Escaped, and on narrow screens broken after an underscore, not within a word."""
    return escape(text).replace("_", "_<wbr>")


def _answers(boards: Sequence[Board], collected: Collected) -> list[str]:
    """What a report begins with: a card for each data set, or for many of them one with a table."""
    answered = answers(boards, collected.runs)
    if not answered:  # nothing is asked of a loss
        return []
    table = answer_table(answered)
    parts = [f'<section class="answers"><h2>{escape(table.title)}</h2><div class="cards">']
    cards: list[list[str]] = []
    for paragraph in table.text:
        if isinstance(paragraph, Heading):
            cards.append([f"<h3>{_breakable(paragraph)}</h3>"])
        else:
            cards[-1].append(f"<p>{escape(paragraph)}</p>")
    if table.rows:
        cards.append(["<h3>By data set</h3>", *_rows(table)])
    for card in cards:
        parts += ['<div class="card">', *card, "</div>"]
    return [*parts, "</div>", *_notes(table), "</section>"]


def _text_of(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _section(group: Group, incomplete: bool) -> list[str]:
    first, *others = group_tables(group, incomplete)
    return [
        f'<section class="board"><h2>{_breakable(first.title)}</h2><div class="tables">',
        *_table(first, "means", titled=False),
        *(line for table in others for line in _table(table)),
        "</div></section>",
    ]


def _table(table: TextTable, kind: str = "", titled: bool = True) -> list[str]:
    title = [f"<h3>{_breakable(table.title)}</h3>"] if titled else []
    return ['<div class="table">', *title, *_grid(table, kind), "</div>"]


def _grid(table: TextTable, kind: str = "") -> list[str]:
    return [*(_rows(table, kind) if table.rows else []), *_notes(table)]


def _notes(table: TextTable) -> list[str]:
    return [f'<p class="note">{escape(note)}</p>' for note in table.notes]


def _rows(table: TextTable, kind: str = "") -> list[str]:
    kinds = [' class="number"' if number else "" for _, number in table.columns]
    names = (escape(name).replace("\n", "<br>") for name, _ in table.columns)
    head = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, names, strict=True))
    lines = [f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>']
    values = table.values or [[] for _ in table.rows]
    for row, numbers in zip(table.rows, values, strict=True):
        cells = zip_longest(kinds, row, numbers)
        lines.append(f"<tr>{''.join(_cell(*cell) for cell in cells)}</tr>")
    return [*lines, "</tbody></table></div>"]


def _cell(kind: str, shown: str, value: float | None) -> str:
    exact = f' data-value="{value:.6g}"' if value is not None else ""
    text = f"<b>{escape(shown)}</b>" if isinstance(shown, Best) else escape(shown) if kind else _breakable(shown)
    return f"<td{kind}{exact}>{text}</td>"
