"""`peftbench report [FOLDER …]`: what any number of records say together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from peftbench.cli.options import BOOLEAN, parse
from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError, nearest
from peftbench.results import csv_tables, formats
from peftbench.results.boards import boards
from peftbench.results.collect import collect
from peftbench.results.page import html_page
from peftbench.results.report import report_tables

FORMATS = ("terminal", "markdown", "csv", "latex", "html")
_OPTIONS: dict[str, Sequence[str] | None] = {
    "format": FORMATS,
    "output": None,
    "metric": None,
    "incomplete": BOOLEAN,
    "table": ("leaderboard", "pairs"),
}


def run(arguments: list[str]) -> int:
    """Prints or writes the report. Raises UserError where there is nothing to report, or a file is in the way."""
    places, options = parse("report", arguments, _OPTIONS)
    metric, form = options.get("metric"), options.get("format", "terminal")
    incomplete = options.get("incomplete") == "true"
    if "table" in options and form != "csv":
        raise UserError(f"table={options['table']}: only format=csv has one table; the others show all.")
    if form == "terminal" and "output" in options:
        raise UserError("output: format=terminal is shown, not written; give format=markdown, csv, latex or html.")
    collected = collect(places)
    found = boards(collected.runs, metric)
    if not found:
        known = sorted({m for r in collected.runs for m in r.metrics if "loss" not in m and "/AP/" not in m})
        metric = metric or " or ".join(sorted({f"test/{r.primary}" for r in collected.runs}))
        hint = nearest(metric, known)
        there = f"there are {', '.join(known)}" if known else "no run is complete"
        raise UserError(f"metric={metric}: none of the {len(collected.runs)} records has it{hint}; {there}.")
    if form == "csv":
        pairs = options.get("table") == "pairs"
        content = csv_tables.pairs_csv(found) if pairs else csv_tables.leaderboard_csv(found, incomplete)
        return _write(content, form, options)
    tables = report_tables(found, collected, incomplete)
    if form == "terminal":
        formats.print_tables(tables, Console())
        return 0
    if form == "html":
        base = places[0] if places[0].is_dir() else places[0].parent
        options.setdefault("output", str(base / "report.html"))
        return _write(html_page(found, collected, incomplete), form, options)
    return _write(formats.to_markdown(tables) if form == "markdown" else formats.to_latex(tables), form, options)


def _write(content: str, form: str, options: dict[str, str]) -> int:
    """To the file that was asked for, or to the terminal; of files that are there only reports are replaced."""
    if "output" not in options:
        sys.stdout.write(content)
        return 0
    path = Path(options["output"]).expanduser()
    begins = (",".join(csv_tables.COLUMNS), ",".join(csv_tables.PAIRS)) if form == "csv" else (formats.MARKS[form],)
    try:
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as file:
                if not file.read(2000).startswith(begins):
                    raise UserError(f"output={path}: is there and is no {form} report; give another name.")
        path.parent.stat()  # a report makes no folders
        with replacing(path, lambda why: f"output={path}: cannot be written ({why}).") as part:
            part.write_text(content, encoding="utf-8")
    except OSError as problem:
        raise UserError(f"output={path}: cannot be written ({problem.strerror}).") from None
    print(f"report: {path}")
    return 0
