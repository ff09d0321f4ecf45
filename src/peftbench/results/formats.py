"""A report in the terminal, in Markdown and in LaTeX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from peftbench.common.amounts import plural
from peftbench.results.text_table import Best, TextTable

MARKS = {
    "markdown": "<!-- peftbench report -->",
    "latex": "% peftbench report",
    "html": "<!doctype html><!-- peftbench",
}
_MOST = 60  # rows of a table in the terminal


def print_tables(tables: Sequence[TextTable], console: Console) -> None:
    """Prints the tables; one that is too wide is turned, or else cut into several."""
    if not console.is_terminal:
        console = Console(width=200, file=console.file)
    for table in tables:
        console.print(f"\n[bold]{escape(table.title)}[/bold]", soft_wrap=True, highlight=False)
        if table.rows:
            for part in _fitting(table, console):
                console.print(part)
        if len(table.rows) > _MOST:
            console.print(f"[dim]--format=html shows {plural(len(table.rows) - _MOST, 'more row')}[/dim]")
        for note in table.notes:
            console.print(f"[dim]{escape(note)}[/dim]", soft_wrap=True, highlight=False)


def _fitting(table: TextTable, console: Console) -> list[RichTable]:
    """The table as it is where it fits; else turned, with wrapped cells, or in parts that repeat the first column."""
    rows = table.rows[:_MOST]
    whole = _rich(table.columns, rows)
    if _width(whole, console) <= console.width:
        return [whole]
    numbers = all(is_number for _, is_number in table.columns[1:])
    if not numbers:
        return [_rich(table.columns, rows, wrap=True)]
    if len(rows) < len(table.columns):
        turned = _turned(table, rows)
        if _width(turned, console) <= console.width:
            return [turned]
    parts, first = [], 1
    while first < len(table.columns):
        last = len(table.columns)
        while last > first + 1 and _width(_cut(table, rows, first, last), console) > console.width:
            last -= 1
        parts.append(_cut(table, rows, first, last))
        first = last
    return parts


def _turned(table: TextTable, rows: Sequence[Sequence[str]]) -> RichTable:
    """A column for each row."""
    columns = [("", False), *((row[0], True) for row in rows)]
    lines = [[name, *(row[i] for row in rows)] for i, (name, _) in enumerate(table.columns)]
    return _rich(columns, lines[1:])


def _cut(table: TextTable, rows: Sequence[Sequence[str]], first: int, last: int) -> RichTable:
    return _rich([table.columns[0], *table.columns[first:last]], [[r[0], *r[first:last]] for r in rows])


def _width(table: RichTable, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _rich(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]], wrap: bool = False) -> RichTable:
    table = RichTable(header_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1))
    for name, number in columns:
        table.add_column(escape(name), justify="right" if number else "left", no_wrap=not wrap)
    for row in rows:
        table.add_row(*map(_styled, row))
    return table


def _styled(cell: str) -> str:
    """As rich's markup, with the best figure of a column bold."""
    return f"[bold]{escape(cell)}[/bold]" if isinstance(cell, Best) else escape(cell)


def to_markdown(tables: Sequence[TextTable]) -> str:
    """GitHub's Markdown."""
    lines = [MARKS["markdown"]]
    for table in tables:
        lines += ["", f"## {_md(table.title)}", ""]
        if table.columns:
            lines.append(_line(name.replace("\n", "<br>") for name, _ in table.columns))
            lines.append(_line(("---:" if number else "---") for _, number in table.columns))
            lines += [_line(map(_md_cell, row)) for row in table.rows]
        lines += [f"\n{_md(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _md_cell(cell: str) -> str:
    return f"**{_md(cell)}**" if isinstance(cell, Best) else _md(cell)


def _md(text: str) -> str:
    for mark in "\\|*_`<":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "†": r"\dag{}", "‡": r"\ddag{}",
    "×": r"$\times$", "−": "$-$",
    "…": r"\dots{}", "<": "$<$", ">": "$>$", "\n": " ",
}  # fmt: skip


def to_latex(tables: Sequence[TextTable]) -> str:
    """Tables with booktabs' rules, to be included in a document."""
    lines, labels = [MARKS["latex"], r"% needs \usepackage{booktabs}"], Counter[str]()
    for table in tables:
        if not table.rows:
            lines += [f"% {note}" for note in table.notes]
            continue
        spec = "".join("r" if number else "l" for _, number in table.columns)
        lines += ["", r"\begin{table}", r"  \centering", rf"  \caption{{{_tex(table.title)}}}"]
        if table.label:
            lines.append(rf"  \label{{tab:{_unique(table.label, labels)}}}")
        lines += [rf"  \begin{{tabular}}{{{spec}}}", r"    \toprule"]
        lines += [*_latex_head(table), r"    \midrule"]
        lines += [f"    {' & '.join(map(_tex_cell, row))} \\\\" for row in table.rows]
        lines += [r"    \bottomrule", r"  \end{tabular}"]
        lines += [rf"  \par\footnotesize {_tex(note)}" for note in table.notes]
        lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _unique(label: str, labels: Counter[str]) -> str:
    """The label, with its number where there was such a one before."""
    labels[label] += 1
    return label if labels[label] == 1 else f"{label}-{labels[label]}"


def _latex_head(table: TextTable) -> list[str]:
    """The columns' names, in as many lines as they have."""
    heads = [name.split("\n") for name, _ in table.columns]
    lines = [[_tex(part) for part in of_line] for of_line in zip_longest(*heads, fillvalue="")]
    return [f"    {' & '.join(line)} \\\\" for line in lines]


def _tex_cell(cell: str) -> str:
    return rf"\textbf{{{_tex(cell)}}}" if isinstance(cell, Best) else _tex(cell)


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)
