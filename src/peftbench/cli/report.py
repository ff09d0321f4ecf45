"""`peftbench report [FOLDER …]`: what any number of records say together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common import terminal
from peftbench.common.amounts import agreeing
from peftbench.common.errors import UserError, nearest
from peftbench.common.regular_files import open_text
from peftbench.common.status_line import doing, doing_import
from peftbench.common.terminal import Visible

if TYPE_CHECKING:
    from peftbench.results.board import Board
    from peftbench.results.collect import Collected

FORMATS = ("terminal", "markdown", "csv", "latex", "html")


def print_report(words: Words) -> int:
    """Prints or writes the report. Raises UserError where there is nothing to report, or a file is in the way."""
    if words["run"]:
        return _write_page_of_run(words)
    for name in _OF_PAGE:
        if name in words.written:
            raise UserError(f"{words.written[name]}: is for the page of one run; give run=FOLDER too.")
    from peftbench.results.boards import boards
    from peftbench.results.collect import collect

    form, output = words["format"], words["output"]
    if words["table"] and form != "csv":
        raise UserError(f"table={words['table']}: only format=csv has one table; the others show all.")
    if form == "terminal" and output:
        raise UserError("output: format=terminal is shown, not written; give format=markdown, csv, latex or html.")
    places = record_places(words["folders"])
    doing("reading the records")
    collected = collect(places)
    all_boards = boards(
        collected.runs, words["metric"], words["settings"] == "all", words["means"] == "all" or words["incomplete"]
    )
    if not all_boards:
        raise _no_board(collected, words["metric"])
    if form == "html" and not output:
        output = str((places[0] if places[0].is_dir() else places[0].parent) / "report.html")
    content = _report_content(form, all_boards, collected, words)
    if output:
        _write_report(content, form, Path(output).expanduser())
    else:
        Visible(sys.stdout).write(content)
    return 0


_OF_PAGE = ("all", "device", "config_dir")


def _write_page_of_run(words: Words) -> int:
    """Writes `page.html` into a run's folder. Raises UserError: there is no such run, or a file is in the way."""
    others = [word for name, word in words.written.items() if name not in ("run", *_OF_PAGE)]
    if others := [*others, *words["folders"]]:
        raise UserError(f"{others[0]}: is for a report of many runs; run={words['run']} writes the page of one.")

    from peftbench.common.progress import counted
    from peftbench.results import read_record

    folder = Path(words["run"]).expanduser()
    record = read_record(folder)
    if record is None:
        raise UserError(f"run={words['run']}: there is no result.json; give the folder of a run.")
    doing_import("torch")
    from peftbench.tuned.run_page import write_page

    doing(f"opening {folder.name}")
    with counted(terminal.console(stderr=True), "looking at images", True) as watch:
        path = write_page(folder, record, words["config_dir"], words["all"], words["device"], watch)
    print(f"page: {path}")
    return 0


def record_places(folders: Sequence[str]) -> list[Path]:
    """Where records are looked for: the given places, or `outputs`."""
    return [Path(folder).expanduser() for folder in folders or ["outputs"]]


def _no_board(collected: Collected, metric: str | None) -> UserError:
    known = sorted({m for r in collected.runs for m in r.metrics if "loss" not in m and "/AP/" not in m})
    metric = metric or " or ".join(sorted({f"test/{r.primary}" for r in collected.runs}))
    there = f"there are {', '.join(known)}" if known else "no run is complete"
    number = len(collected.runs)
    lack = agreeing(number, "the one record has it not", f"none of the {number:,} records has it")
    return UserError(f"metric={metric}: {lack}{nearest(metric, known)}; {there}.")


def _report_content(form: str, all_boards: Sequence[Board], collected: Collected, words: Words) -> str:
    """The report as text; one for the terminal is printed at once."""
    from peftbench.results import csv_tables, formats
    from peftbench.results.answer_tables import answer_table
    from peftbench.results.answers import answers
    from peftbench.results.page import html_page
    from peftbench.results.report import report_tables

    incomplete = words["incomplete"]
    if form == "csv" and words["table"] == "pairs":
        return csv_tables.pairs_csv(all_boards)
    if form == "csv" and words["table"] == "weights":
        return csv_tables.weights_csv(all_boards)
    if form == "csv":
        return csv_tables.leaderboard_csv(all_boards, incomplete)
    if form == "html":
        return html_page(all_boards, collected, incomplete)
    answered = answers(all_boards, collected.runs)
    tables = [*([answer_table(answered)] if answered else []), *report_tables(all_boards, collected, incomplete)]
    if form == "terminal":
        formats.print_tables(tables, terminal.console())
        return ""
    return formats.to_markdown(tables) if form == "markdown" else formats.to_latex(tables)


def _write_report(content: str, form: str, path: Path) -> None:
    """To a file; one that is there is replaced only if it is a report of this format. Raises UserError."""
    from peftbench.common.atomic_files import replacing
    from peftbench.common.readable_names import HANDLER
    from peftbench.results import csv_tables, formats
    from peftbench.results.page_pieces import page_mark

    beginnings = csv_tables.BEGINNINGS if form == "csv" else (formats.MARKS[form],)
    if form == "html":  # the page of a run is another thing
        beginnings = (page_mark("report"),)
    try:
        if path.exists():
            with open_text(path, errors="replace") as file:
                if not file.read(2000).startswith(beginnings):
                    raise UserError(f"output={path}: is there and is no {form} report; give another name.")
        path.parent.stat()  # a report makes no folders
        with replacing(path, lambda why: f"output={path}: cannot be written ({why}).") as part:
            part.write_text(content, encoding="utf-8", errors=HANDLER)
    except OSError as problem:
        raise UserError(f"output={path}: cannot be written ({problem.strerror}).") from None
    print(f"report: {path}")


FOLDERS = Argument(
    "folders", "folders of records, or records; outputs if none is given", kind="folder", place=True, several=True
)
METRIC = Argument("metric", "what the methods are compared by, such as test/accuracy", placeholder="METRIC")
COMMAND = Command(
    "report",
    "what all records say together; markdown, csv, latex, html",
    print_report,
    (
        FOLDERS,
        Argument("format", "of the report", default="terminal", choices=FORMATS),
        Argument("output", "the file; without it html goes to report.html, all else to the terminal", kind="file"),
        METRIC,
        Argument(
            "means", "over tasks: of VTAB's groups, or over all data sets too", default="vtab", choices=("vtab", "all")
        ),
        Argument("incomplete", "show means of methods that lack a task, too", kind="flag", default=False),
        Argument(
            "settings",
            "of each method the one that validation chose, or all",
            default="chosen",
            choices=("chosen", "all"),
        ),
        Argument("table", "which of three tables, with format=csv", choices=("leaderboard", "pairs", "weights")),
        Argument("run", "one run instead: writes FOLDER/page.html, with its mistakes as pictures", kind="run"),
        Argument("all", "with run: look at all images, however long it takes", kind="flag", default=False),
        Argument("device", "with run: auto, cpu, cuda, …", default="auto", suggestions=("auto", "cpu", "cuda")),
        CONFIG_DIR,
    ),
    examples=(
        "peftbench report outputs",
        "peftbench report outputs more/outputs --format=html",
        "peftbench report run=outputs/RUN",
    ),
)
