"""The page of one run: what its record says, and what was made of its predictions, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from peftbench.common.amounts import size
from peftbench.results.labels import label
from peftbench.results.page_parts import PagePart, Picture
from peftbench.results.page_pieces import breakable, notes_html, page_end, page_head, page_mark, rows_html, table_html
from peftbench.results.record import Record
from peftbench.results.run_tables import curves_of, what_it_cost, what_it_reached, what_was_trained
from peftbench.results.text_table import TextTable

FILE = "page.html"
KIND = "run"
MARK = page_mark(KIND)
"""How such a file begins: nothing else is replaced by one."""
_SCRIPTS = ("marks.js", "axes.js", "sorting.js", "run_page.js")


def run_page(record: Record, parts: Sequence[PagePart], command: Sequence[str], notes: Sequence[str] = ()) -> str:
    """The whole page. All that comes from the record, the data or a file's name is escaped.

    Args:
        record: the run's.
        parts: what its predictions give, in their order; none where there is nothing to predict with.
        command: the words that repeat the run; none where they are not known.
        notes: what the reader must know first, such as that the images are gone.
    """
    try:
        name = label(record)
    except (AttributeError, TypeError):  # a config of another form
        name = record.id
    embedded = sum(len(picture.source) for part in parts for picture in part.pictures)
    count = sum(len(part.pictures) for part in parts)
    status = record.status if not record.reason else f"{record.status}: {record.reason}"
    lines = [
        *page_head(KIND, f"peftbench run: {record.id}", ("page.css", "run_page.css"), pictures=True),
        f"<h1>{breakable(name)}</h1>",
        f'<p class="note">{breakable(record.id)}, {escape(status)}</p>',
    ]
    if count:
        lines.append(f'<p class="note">This file holds {count} small pictures of the data, {size(embedded)}.</p>')
    lines += [f'<p class="note warned">{escape(note)}</p>' for note in notes]
    tables = [table for table in (what_it_reached(record), what_it_cost(record)) if table.rows]
    lines += ['<section><h2>What it reached, and what it cost</h2><div class="tables">']
    lines += [*(line for table in tables for line in table_html(table, "pairs")), "</div></section>"]
    curves = curves_of(record)
    charts: list[dict[str, object]] = []
    for part in [*([curves] if curves else []), *parts]:
        lines += _section(part, charts)
    lines += _command(command)
    trained = what_was_trained(record)
    lines += [f"<section><h2>{escape(trained.title)}</h2>", *_plain_table(trained, "pairs"), "</section>"]
    lines += page_end({"methods": [""], "variants": [""], "charts": charts}, _SCRIPTS)
    return "\n".join(lines)


def _section(part: PagePart, charts: list[dict[str, object]]) -> list[str]:
    """A part of the page; what its charts draw is added to `charts`, which the script reads."""
    lines = [f"<section><h2>{breakable(part.title)}</h2>"]
    lines += [f'<p class="note">{escape(note)}</p>' for note in part.notes]
    if part.charts or part.tables:
        lines.append('<div class="beside">')
        for chart in part.charts:
            lines.append(f'<div data-drawing="{len(charts)}"></div>')
            charts.append({"kind": chart.kind, "title": chart.title, "content": chart.content})
        tables = (line for table in part.tables for line in table_html(table, titled=bool(table.title)))
        lines += [*tables, "</div>"]
    if part.pictures:
        kind = "pictures wide" if any(picture.wide for picture in part.pictures) else "pictures"
        lines += [f'<div class="{kind}">', *map(_figure, part.pictures), "</div>"]
    return [*lines, "</section>"]


def _figure(picture: Picture) -> str:
    told = "".join(f"<span>{breakable(line)}</span>" for line in picture.told)
    name = f"<b>{breakable(picture.name).replace('/', '/<wbr>')}</b>" if picture.name else ""
    kind = ' class="squares"' if picture.squares else ""
    image = f'<img src="{escape(picture.source)}" alt="{escape(picture.name)}"{kind}>'
    return f"<figure>{image}<figcaption>{name}{told}</figcaption></figure>"


def _plain_table(table: TextTable, kind: str) -> list[str]:
    return [*(rows_html(table, kind) if table.rows else []), *notes_html(table)]


def _command(words: Sequence[str]) -> list[str]:
    head = "<section><h2>To repeat it</h2>"
    if not words:
        told = "The words that gave this config are not known; config.yaml beside this file holds all of it."
        return [head, f'<p class="note">{told}</p></section>']
    shown = " ".join(f"<span>{escape(word)}</span>" for word in words)
    note = "It gives a run with this id where the data and the weights are the same."
    return [head, f'<pre class="command">{shown}</pre><p class="note">{note}</p></section>']
