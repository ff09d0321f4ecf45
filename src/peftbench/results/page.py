"""A report as one HTML page that needs nothing else: tables, and charts drawn by a script of its own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from peftbench.common.amounts import plural
from peftbench.results.answer_tables import answer_table
from peftbench.results.answers import answers
from peftbench.results.backbone_tables import backbone_tables
from peftbench.results.board import Board
from peftbench.results.board_tables import group_tables
from peftbench.results.collect import Collected
from peftbench.results.groups import Group, groups_of
from peftbench.results.page_data import page_data
from peftbench.results.page_pieces import breakable, notes_html, page_end, page_head, rows_html, table_html
from peftbench.results.report import left_out_tables, made_table, shipped_tables
from peftbench.results.text_table import Heading

_SCRIPTS = ("marks.js", "axes.js", "charts.js", "sorting.js", "page.js")


def html_page(boards: Sequence[Board], collected: Collected, incomplete: bool = False) -> str:
    """The whole page. Everything from records is escaped.

    Args:
        incomplete: whether a mean over fewer tasks than there are is shown.
    """
    parts = [
        *page_head("report", "peftbench report", ("page.css",)),
        f'<h1>peftbench report</h1><p class="note">{escape(_counted(boards, collected))}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in made_table(collected).notes),
        '<div class="controls" id="controls" hidden><input type="search" id="search" '
        'placeholder="filter: methods, backbones, data sets" aria-label="filter"><span id="count"></span></div>',
    ]
    parts += _answers(boards, collected)
    by_backbone = backbone_tables(boards, incomplete)
    if by_backbone:
        parts += ['<section class="backbones"><h2>Methods by backbone</h2><div class="tables">']
        parts += [*(line for table in by_backbone for line in table_html(table)), "</div></section>"]
    parts.append('<section id="charts" hidden></section>')
    groups = groups_of(boards)
    for group in groups:
        parts += _section(group, incomplete)
    for table in (*shipped_tables(collected), *left_out_tables(boards, collected)):
        parts += table_html(table)
    parts += page_end(page_data(groups, incomplete), _SCRIPTS)
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
            cards.append([f"<h3>{breakable(paragraph)}</h3>"])
        else:
            cards[-1].append(f"<p>{escape(paragraph)}</p>")
    if table.rows:
        cards.append(["<h3>By data set</h3>", *rows_html(table)])
    for card in cards:
        parts += ['<div class="card">', *card, "</div>"]
    return [*parts, "</div>", *notes_html(table), "</section>"]


def _section(group: Group, incomplete: bool) -> list[str]:
    first, *others = group_tables(group, incomplete)
    return [
        f'<section class="board"><h2>{breakable(first.title)}</h2><div class="tables">',
        *table_html(first, "means", titled=False),
        *(line for table in others for line in table_html(table)),
        "</div></section>",
    ]
