"""A table that fits the terminal: words are folded, columns left out by rank or put below, and no figure is cut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import JustifyMethod
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from peftbench.common.amounts import agreeing, plural

_LEAST = (12, 8, 4, 1)  # how narrow a column of words may be made, tried in turn
_LOOSE, _TIGHT = 3, 2  # cells between two columns
_EDGES = 2  # cells of the two edges of box.SIMPLE, which are blank
PIPED = 200
"""The width where the output is no terminal."""


@dataclass(frozen=True)
class Column:
    """A heading, and whether figures stand below it, which are never folded.

    `rank` says when the column is left out where there is no room: the highest first, and one of rank 0 never.
    `right` is for words that stand on the right, as figures do.
    """

    heading: str
    number: bool = False
    rank: int = 0
    right: bool = False


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and rich's style of it."""

    text: str
    style: str = ""


Rows = Sequence[Sequence[Cell]]


def fitted(columns: Sequence[Column], rows: Rows, width: int) -> tuple[Table, list[str]]:
    """The table with as many of its columns as fit the width, and the headings of those that are left out.

    Args:
        columns: one at least is of rank 0.
        rows: a cell for each column.
        width: cells of the terminal.
    """
    order = sorted((i for i, column in enumerate(columns) if column.rank), key=lambda i: -columns[i].rank)
    for least in _LEAST:
        for dropped in range(len(order) + 1):
            kept = [i for i in range(len(columns)) if i not in order[:dropped]]
            table = _folded([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], width, least)
            if table is not None:
                return table, [columns[i].heading for i in sorted(order[:dropped])]
    kept = [i for i, column in enumerate(columns) if not column.rank]
    table = _squeezed([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], width)
    return table, [columns[i].heading for i in sorted(order)]


def in_parts(columns: Sequence[Column], rows: Rows, width: int, repeated: int = 1) -> list[Table]:
    """The whole table, where it fits; else cut into several, each of which repeats the first columns.

    Args:
        columns: their ranks do not matter.
        rows: a cell for each column.
        width: cells of the terminal.
        repeated: how many columns say what a row is.
    """
    whole = _folded(columns, rows, width, _LEAST[0])
    if whole is not None:
        return [whole]
    parts, first = [], min(repeated, len(columns))
    while first < len(columns):
        last, part = _part(columns, rows, width, repeated, first)
        parts.append(part)
        first = last
    return parts or [_squeezed(columns, rows, width)]


def left_out_in_words(headings: Sequence[str], width: int, where: str) -> str:
    """`80 columns: images/s and delta are left out; a wider terminal or result.json shows them.`

    Args:
        headings: those of `fitted`, at least one.
        where: what else shows them.
    """
    named = " and ".join([", ".join(headings[:-1]), headings[-1]] if len(headings) > 1 else headings)
    are, them = agreeing(len(headings)), agreeing(len(headings), "it", "them")
    return f"{plural(width, 'column')}: {named} {are} left out; a wider terminal or {where} shows {them}."


def _part(columns: Sequence[Column], rows: Rows, width: int, repeated: int, first: int) -> tuple[int, Table]:
    """The part that begins with column `first`, with as many columns as fit, and the column behind it."""
    for least in _LEAST:
        for last in range(len(columns), first, -1):
            shown = [*range(repeated), *range(first, last)]
            part = _folded([columns[i] for i in shown], [[row[i] for i in shown] for row in rows], width, least)
            if part is not None:
                return last, part
    shown = [*range(repeated), first]
    return first + 1, _squeezed([columns[i] for i in shown], [[row[i] for i in shown] for row in rows], width)


def _folded(columns: Sequence[Column], rows: Rows, width: int, least: int) -> Table | None:
    """The table in this width, words folded to `least` cells where they must be; None where that is too wide."""
    for between in (_LOOSE, _TIGHT):
        room = width - _EDGES - between * (len(columns) - 1)
        natural = [_natural(i, column, rows) for i, column in enumerate(columns)]
        if sum(natural) <= room:
            return _table(columns, rows, natural, between)
    widths = _shrunk(columns, rows, room, least)
    return None if widths is None else _table(columns, rows, widths, _TIGHT)


def _natural(at: int, column: Column, rows: Rows) -> int:
    return max(_longest(column.heading.split("\n")), _content(at, rows))


def _content(at: int, rows: Rows) -> int:
    return _longest([line for row in rows for line in row[at].text.split("\n")])


def _longest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _shrunk(columns: Sequence[Column], rows: Rows, room: int, least: int) -> list[int] | None:
    """Widths that sum to the room: headings are folded first, then words, the widest column always next."""
    contents = [_content(i, rows) for i in range(len(columns))]
    words = [_longest(_WORDS.findall(column.heading)) for column in columns]
    widths = [_natural(i, column, rows) for i, column in enumerate(columns)]
    with_headings_folded = [max(content, word) for content, word in zip(contents, words, strict=True)]
    narrowest = [
        floor if column.number else min(floor, max(least, min(word, least)))
        for column, floor, word in zip(columns, with_headings_folded, words, strict=True)
    ]
    for floors in (with_headings_folded, narrowest):
        while sum(widths) > room:
            widest = max(range(len(widths)), key=lambda i: widths[i] if widths[i] > floors[i] else -1)
            if widths[widest] <= floors[widest]:
                break
            widths[widest] -= 1
    return widths if sum(widths) <= room else None


def _squeezed(columns: Sequence[Column], rows: Rows, width: int) -> Table:
    """For a terminal that is too narrow for what must be shown: everything is folded, figures too."""
    room = max(width - _EDGES - _TIGHT * (len(columns) - 1), len(columns))
    widths = [_natural(i, column, rows) for i, column in enumerate(columns)]
    while sum(widths) > room:
        widths[widths.index(max(widths))] -= 1
    return _table(columns, rows, widths, _TIGHT)


def _table(columns: Sequence[Column], rows: Rows, widths: Sequence[int], between: int) -> Table:
    headed = any(column.heading for column in columns)
    padding = (0, 1) if between == _LOOSE else (0, 1, 0, 0)
    table = Table(header_style="bold", box=box.SIMPLE, pad_edge=False, padding=padding, show_header=headed)
    for column, width in zip(columns, widths, strict=True):
        justify: JustifyMethod = "right" if column.number or column.right else "left"
        table.add_column(escape(fold(column.heading, width)), justify=justify, no_wrap=True, width=max(width, 1))
    for row in rows:
        table.add_row(*(_styled(cell, width) for cell, width in zip(row, widths, strict=True)))
    return table


def _styled(cell: Cell, width: int) -> Text:
    return Text(fold(cell.text, width), style=cell.style)


def fold(text: str, width: int, indent: str = "") -> str:
    """Lines of at most the width, broken between words, and in a longer one behind `=` and the like.

    A figure stays with its unit and its interval, `84.1 ± 1.9 %`, where they fit a line.

    Args:
        indent: what each line but the first begins with.
    """
    lines = text.split("\n")
    if _longest(lines) <= width:
        return text
    parts = [part for line in lines for part in _fold_line(line, max(width, 1), indent)]
    return "\n".join(parts)


def _fold_line(line: str, width: int, indent: str) -> list[str]:
    beginning = line[: len(line) - len(line.lstrip())]
    folded = [beginning]
    for word in _WORDS.findall(line):
        between = "" if folded[-1] in (beginning, indent) else " "
        if cell_len(folded[-1] + between + word) <= width:
            folded[-1] += between + word
        elif cell_len(indent + word) <= width:
            folded.append(indent + word)
        else:
            _add_in_pieces(folded, between, word, width, indent)
    return [part for part in folded if part.strip()] or [""]


def _add_in_pieces(folded: list[str], between: str, word: str, width: int, indent: str) -> None:
    """A word that is longer than a line."""
    for piece in _PIECES.findall(word):
        if cell_len(folded[-1] + between + piece) <= width:
            folded[-1] += between + piece
        elif cell_len(indent + piece) <= width:
            folded.append(indent + piece)
        else:
            folded += [indent + part for part in chop_cells(piece, max(width - len(indent), 1))]
        between = ""


_WORDS = re.compile(r"\S*\d(?: ± [\d.]+)?(?: (?:%|s|ms|min|B|kB|MB|GB|M)(?!\w)\S*)?(?=\s|$)|\S+ %(?!\S)|\S+")
_PIECES = re.compile(r".+?(?:[=,/_:()\s]+|(?<=[a-zA-Z])\.|\.(?=[a-zA-Z]))|.+")
