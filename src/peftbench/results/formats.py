"""A report in the terminal, in Markdown and in LaTeX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from peftbench.common import terminal
from peftbench.common.amounts import plural
from peftbench.common.fitted_table import PIPED, Cell, Column, fold, in_parts
from peftbench.results.text_table import Best, Heading, TextTable

MARKS = {
    "markdown": "<!-- peftbench report -->",
    "latex": "% peftbench report",
    "html": "<!doctype html><!-- peftbench",
}
_MOST = 60  # rows of a table in the terminal


def print_tables(tables: Sequence[TextTable], console: Console) -> None:
    """Prints the tables; one that is too wide is turned, or has its words folded, or goes on below."""
    piped = not console.is_terminal
    if piped:
        console = terminal.console(width=PIPED, file=console.file)

    def say(text: str, style: str = "") -> None:
        """Where it is piped, a paragraph is a line."""
        shown = text if piped else fold(text, console.width)
        console.print(Text(shown, style=style), soft_wrap=True)

    for table in tables:
        console.print()
        say(table.title, "bold")
        for i, paragraph in enumerate(table.text):
            is_heading = isinstance(paragraph, Heading)
            say(f"\n{paragraph}" if is_heading and i else paragraph, "italic" if is_heading else "")
        if table.rows:
            for part in _fitting(table, console.width):
                console.print(part)
        if len(table.rows) > _MOST:
            say(f"--format=html shows {plural(len(table.rows) - _MOST, 'more row')}", "dim")
        for note in table.notes:
            say(note, "dim")


def _fitting(table: TextTable, width: int) -> list[RichTable]:
    """The table as it is where it fits; a narrow one of figures turned; else with words folded, in parts if it must."""
    columns = [Column(name, number) for name, number in table.columns]
    rows = [[_cell(cell) for cell in row] for row in table.rows[:_MOST]]
    parts = in_parts(columns, rows, width, table.repeated)
    if len(parts) > 1 and all(column.number for column in columns[1:]) and len(rows) < len(columns):
        turned = in_parts(*_turned(columns, rows), width)
        return turned if len(turned) == 1 else parts
    return parts


def _turned(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> tuple[list[Column], list[list[Cell]]]:
    """A column for each row."""
    heads = [Column(columns[0].heading), *(Column(row[0].text, True) for row in rows)]
    return heads, [[Cell(column.heading), *(row[i] for row in rows)] for i, column in enumerate(columns)][1:]


def _cell(cell: str) -> Cell:
    """The best figure of a column is bold."""
    return Cell(cell, "bold" if isinstance(cell, Best) else "")


def to_markdown(tables: Sequence[TextTable]) -> str:
    """GitHub's Markdown."""
    lines = [MARKS["markdown"]]
    for table in tables:
        lines += ["", f"## {_md(table.title)}", ""]
        lines += [_md_paragraph(paragraph) for paragraph in table.text]
        if table.columns:
            lines.append(_line(name.replace("\n", "<br>") for name, _ in table.columns))
            lines.append(_line(("---:" if number else "---") for _, number in table.columns))
            lines += [_line(map(_md_cell, row)) for row in table.rows]
        lines += [f"\n{_md(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _md_paragraph(text: str) -> str:
    return f"### {_md(text)}\n" if isinstance(text, Heading) else f"{_md(text)}\n"


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
        if table.text:
            lines += ["", rf"\paragraph{{{_tex(table.title)}}}", *map(_tex_paragraph, table.text)]
        if not table.rows:
            lines += [_tex(note) if table.text else f"% {note}" for note in table.notes]
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


def _tex_paragraph(text: str) -> str:
    return rf"\par\textit{{{_tex(text)}.}}" if isinstance(text, Heading) else _tex(text)


def _tex_cell(cell: str) -> str:
    return rf"\textbf{{{_tex(cell)}}}" if isinstance(cell, Best) else _tex(cell)


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)
