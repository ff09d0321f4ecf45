"""A report in the terminal, in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from statistics import fmean

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from peftbench.results.boards import Board, Row
from peftbench.results.text import Table

MARKS = {
    "markdown": "<!-- peftbench report -->",
    "latex": "% peftbench report",
    "html": "<!doctype html><!-- peftbench",
}
_MOST = 60  # rows of a table in the terminal


def terminal(tables: Sequence[Table], console: Console) -> None:
    """Prints the tables; one that is too wide is turned, or else cut into several."""
    if not console.is_terminal:
        console = Console(width=200, file=console.file)
    for table in tables:
        console.print(f"\n[bold]{escape(table.title)}[/bold]", soft_wrap=True, highlight=False)
        if table.rows:
            for part in _fitting(table, console):
                console.print(part)
        if len(table.rows) > _MOST:
            console.print(f"[dim]{len(table.rows) - _MOST} more rows; --format=html shows all[/dim]")
        for note in table.notes:
            console.print(f"[dim]{escape(note)}[/dim]", soft_wrap=True, highlight=False)


def _fitting(table: Table, console: Console) -> list[RichTable]:
    rows = table.rows[:_MOST]
    whole = _rich(table.columns, rows)
    if _width(whole, console) <= console.width:
        return [whole]
    numbers = all(n for _, n in table.columns[1:])
    if numbers and len(rows) < len(table.columns):
        turned = [("", False), *((row[0], True) for row in rows)]
        other = _rich(turned, [[name, *(r[i] for r in rows)] for i, (name, _) in enumerate(table.columns) if i])
        if _width(other, console) <= console.width:
            return [other]
    if not numbers:
        return [_rich(table.columns, rows, wrap=True)]
    parts, first = [], 1
    while first < len(table.columns):
        last = len(table.columns)
        while last > first + 1 and _width(_cut(table, rows, first, last), console) > console.width:
            last -= 1
        parts.append(_cut(table, rows, first, last))
        first = last
    return parts


def _cut(table: Table, rows: Sequence[Sequence[str]], first: int, last: int) -> RichTable:
    return _rich([table.columns[0], *table.columns[first:last]], [[r[0], *r[first:last]] for r in rows])


def _width(table: RichTable, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _rich(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]], wrap: bool = False) -> RichTable:
    table = RichTable(header_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1))
    for name, number in columns:
        table.add_column(escape(name), justify="right" if number else "left", no_wrap=not wrap)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def markdown(tables: Sequence[Table]) -> str:
    """GitHub's Markdown."""
    lines = [MARKS["markdown"]]
    for table in tables:
        lines += ["", f"## {_md(table.title)}", ""]
        if table.columns:
            lines.append(_line(name for name, _ in table.columns))
            lines.append(_line(("---:" if number else "---") for _, number in table.columns))
            lines += [_line(map(_md, row)) for row in table.rows]
        lines += [f"\n{_md(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def _line(cells: object) -> str:
    return f"| {' | '.join(cells)} |"  # type: ignore[arg-type]


def _md(text: str) -> str:
    for mark in "\\|*_`<":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "†": r"\dag{}", "−": "$-$",
    "…": r"\dots{}", "<": "$<$", ">": "$>$", "\n": " ",
}  # fmt: skip


def latex(tables: Sequence[Table]) -> str:
    """Tables with booktabs' rules, to be included in a document."""
    lines = [MARKS["latex"], r"% needs \usepackage{booktabs}"]
    for table in tables:
        if not table.rows:
            lines += [f"% {note}" for note in table.notes]
            continue
        spec = "".join("r" if number else "l" for _, number in table.columns)
        lines += ["", r"\begin{table}", r"  \centering", rf"  \caption{{{_tex(table.title)}}}"]
        lines += [rf"  \begin{{tabular}}{{{spec}}}", r"    \toprule"]
        lines += [f"    {' & '.join(_tex(n) for n, _ in table.columns)} \\\\", r"    \midrule"]
        lines += [f"    {' & '.join(map(_tex, row))} \\\\" for row in table.rows]
        lines += [r"    \bottomrule", r"  \end{tabular}"]
        lines += [rf"  \par\footnotesize {_tex(note)}" for note in table.notes]
        lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


_COSTS = ("parameters", "head", "train", "step", "fill", "validate", "latency", "memory", "flops", "delta")
_BEFORE = ("board", "backbone", "weights", "split", "apart", "method", "tuned", "times")
COLUMNS = (*_BEFORE, "metric", "task", "value", "half", "n", "failed", "missing", "machines", *_COSTS, "ood")
PAIRS = ("board", "first", "second", "difference", "half", "n", "over", "p", "p_holm", "p_wilcoxon", "verdict")


def leaderboard_csv(boards: Sequence[Board], incomplete: bool = False) -> str:
    """A line for every board, method and task, and for every mean; shares, seconds and bytes, unrounded."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(COLUMNS)
    for number, board in enumerate(boards):
        basis = dict(board.basis)
        for row in board.rows:
            head = [number, basis["backbone"], basis["weights"], basis["split"], board.apart]
            head += [row.label, row.tuned, row.times, board.metric]
            lines.writerows([*head, *_task(board, row, task)] for task in board.tasks)
            for name, mean in board.means(row, incomplete).items():
                alone = len(row.machines) == 1
                figures = [row.cost(n) if alone or n in _PLAIN else None for n in _COSTS]
                counts = [row.seeds, sum(row.failed.values()), " ".join(mean.missing), len(row.machines)]
                lines.writerow([*head, name, mean.value, mean.half, *counts, *figures, None])
    return out.getvalue()


def _task(board: Board, row: Row, task: str) -> list[object]:
    cell, runs = board.cell(row, task), row.runs.get(task, [])
    machines = len({r.machine for r in runs})
    figures = []
    for name in _COSTS:
        own = [c for r in runs if (c := getattr(r.costs, name)) is not None]
        figures.append(fmean(own) if own and (machines == 1 or name in _PLAIN) else None)
    shifted = [r.metrics["ood/accuracy"] for r in runs if "ood/accuracy" in r.metrics]
    counts = [len(runs), row.failed[task], "", machines]
    return [task, cell.value, cell.half, *counts, *figures, fmean(shifted) if shifted else None]


_PLAIN = {"parameters", "head", "flops", "delta"}  # alike on every machine


def pairs_csv(boards: Sequence[Board]) -> str:
    """A line for every two methods compared; shares."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(PAIRS)
    for number, board in enumerate(boards):
        for a, b, d, over in board.pairs():
            lines.writerow([number, a.label, b.label, d.mean, d.half, d.n, over, d.p, d.holm, d.wilcoxon, d.verdict])
    return out.getvalue()
