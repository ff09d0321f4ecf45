"""The pieces that our pages are made of: the head with its policy, tables, and the data that scripts read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

from peftbench.results.formats import MARKS
from peftbench.results.text_table import Best, TextTable

_HERE = Path(__file__).parent
# Nothing is fetched; a page with pictures holds them itself.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page_head(kind: str, title: str, styles: Sequence[str], pictures: bool = False) -> list[str]:
    """The page up to what it says, whose landmark is opened.

    Args:
        kind: what page it is, for whoever would replace it.
        title: of the window.
        styles: names of style sheets beside this module.
        pictures: whether images are embedded.
    """
    policy = f"{_POLICY}; img-src data:" if pictures else _POLICY
    return [
        f'{page_mark(kind)}\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>',
        f"<style>\n{''.join(map(text_of, styles))}</style></head><body><main>",
    ]


def page_mark(kind: str) -> str:
    """How a page of a kind begins: by that it is known."""
    return f"{MARKS['html']} {kind} -->"


def page_end(data: Any, scripts: Sequence[str]) -> list[str]:
    """What the scripts read, as JSON that closes no element, and they themselves: names of files beside this module."""
    content = json.dumps(data, separators=(",", ":"), allow_nan=False)
    safe = content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return [
        f'</main><script type="application/json" id="data">{safe}</script>',
        f"<script>\n{''.join(map(text_of, scripts))}</script></body></html>\n",
    ]


def breakable(text: str) -> str:
    """Escaped, and on narrow screens broken after an underscore, not within a word."""
    return escape(text).replace("_", "_<wbr>")


def text_of(name: str) -> str:
    """The text of a file beside this module."""
    return (_HERE / name).read_text(encoding="utf-8")


def table_html(table: TextTable, kind: str = "", titled: bool = True) -> list[str]:
    """A table under its title, with its notes; `kind` is its class."""
    title = [f"<h3>{breakable(table.title)}</h3>"] if titled else []
    return ['<div class="table">', *title, *_grid(table, kind), "</div>"]


def _grid(table: TextTable, kind: str = "") -> list[str]:
    return [*(rows_html(table, kind) if table.rows else []), *notes_html(table)]


def notes_html(table: TextTable) -> list[str]:
    """The notes of a table."""
    return [f'<p class="note">{escape(note)}</p>' for note in table.notes]


def rows_html(table: TextTable, kind: str = "") -> list[str]:
    """The rows of a table, which scroll where they are wider than the screen."""
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
    text = f"<b>{escape(shown)}</b>" if isinstance(shown, Best) else escape(shown) if kind else breakable(shown)
    return f"<td{kind}{exact}>{text}</td>"
