"""A report as plain tables: those of every board, and what is in none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from peftbench.common.amounts import plural
from peftbench.common.commit import code_commit
from peftbench.common.errors import UserError
from peftbench.results.backbone_tables import backbone_tables
from peftbench.results.board import Board
from peftbench.results.board_tables import group_tables
from peftbench.results.collect import Collected
from peftbench.results.groups import groups_of
from peftbench.results.shipped import read_benchmark, tables_of
from peftbench.results.summary import Run
from peftbench.results.text_table import NAMED, TextTable

_LONGEST_REASON = 160  # characters
_DIGITS = 12  # of a commit


def report_tables(boards: Sequence[Board], collected: Collected, incomplete: bool = False) -> list[TextTable]:
    """For every board its means and costs, its tasks and its differences; then what is in none.

    Args:
        incomplete: whether a mean over fewer tasks than there are is shown.
    """
    tables = backbone_tables(boards, incomplete)
    tables += [table for group in groups_of(boards) for table in group_tables(group, incomplete)]
    return [*tables, *shipped_tables(collected), *closing_tables(boards, collected)]


def shipped_tables(collected: Collected) -> list[TextTable]:
    """What `peftbench benchmark` measured of the files of complete runs, a table for each machine."""
    found, damaged = [], []
    for run in collected.runs:
        if run.status != "complete" or not run.folder:
            continue
        try:
            measured = read_benchmark(Path(run.folder))
        except UserError as problem:
            damaged.append(str(problem))
            continue
        if measured is not None and measured.run == run.id:
            found.append(measured)
    tables = tables_of(found)
    if damaged:
        tables.append(TextTable("As shipped: not read", [], notes=damaged[:NAMED]))
    return tables


def closing_tables(boards: Sequence[Board], collected: Collected) -> list[TextTable]:
    """What stands at the end of a report in every form: what is in no board, then dates and commits."""
    return [*left_out_tables(boards, collected), made_table(collected)]


def made_table(collected: Collected) -> TextTable:
    """When and with which code the complete records were made, and this report."""
    runs = [run for run in collected.runs if run.status == "complete"]
    days, codes = sorted({run.ended for run in runs} - {""}), Counter(run.code for run in runs if run.code)
    parts = [plural(len(runs), "complete record")]
    if days:
        undated = sum(not run.ended for run in runs)
        parts.append(f"of {days[0]}" if len(days) == 1 else f"of {days[0]} to {days[-1]}")
        parts += [f"({undated} without a date)"] if undated else []
    else:
        parts.append("without a date")
    if codes:
        parts.append("made with " + _named_codes(codes))
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    commit = code_commit()
    mine = f"commit {commit[:_DIGITS]}{'+' if commit.endswith('+') else ''}" if commit else f"version {_version()}"
    return TextTable("Made", [], notes=[f"{' '.join(parts)}. This report: {today}, {mine}."])


def _named_codes(codes: Counter[str]) -> str:
    """`commit 0123456789ab` where there is one; else each with its number of records, the most first."""
    if len(codes) == 1:
        return next(iter(codes))
    named = [f"{code} ({number})" for code, number in codes.most_common(NAMED)]
    return ", ".join(named) + (f" and {len(codes) - NAMED} more" if len(codes) > NAMED else "")


def _version() -> str:
    from peftbench import __version__

    return __version__


def left_out_tables(boards: Sequence[Board], collected: Collected) -> list[TextTable]:
    """What is in no board: runs without the metric, runs that did not complete, files that are no records."""
    counted = {run.id for board in boards for run in (*board.all_runs(), *board.twice)}
    counted |= {run.id for board in boards for row in board.unchosen for run in row.all_runs()}
    outside = [run for run in collected.runs if run.id not in counted]
    unmeasured = [run for run in outside if run.status == "complete"]
    broken = [run for run in outside if run.status != "complete"]
    tables = []
    notes = collected.left_out()
    if unmeasured:
        runs = plural(len(unmeasured), "complete run")
        notes.append(f"No table shows {runs} without this metric (of data.stage=tune, say).")
    if notes:
        tables.append(TextTable("Left out", [], notes=notes))
    if broken:
        tables.append(_broken_runs(broken))
    if collected.skipped:
        tables.append(_files("Skipped: no records of this version", collected.skipped))
    if collected.repeated:
        tables.append(_files("Repeated: counted once", collected.repeated))
    return tables


def _broken_runs(runs: Sequence[Run]) -> TextTable:
    counts = Counter(run.status for run in runs)
    title = "Not complete: " + ", ".join(f"{number} {status}" for status, number in counts.most_common())
    rows = [[run.id, run.status, _first_line(run.reason)] for run in runs[:NAMED]]
    return TextTable(title, [("run", False), ("status", False), ("reason", False)], rows, _more(len(runs)))


def _files(title: str, files: Sequence[tuple[str, str]]) -> TextTable:
    rows = [list(file_and_reason) for file_and_reason in files[:NAMED]]
    return TextTable(f"{title} ({len(files)})", [("file", False), ("reason", False)], rows, _more(len(files)))


def _more(number: int) -> list[str]:
    return [f"This table leaves out {number - NAMED} more."] if number > NAMED else []


def _first_line(text: str) -> str:
    first = text.splitlines()[0] if text else ""
    return first if len(first) < _LONGEST_REASON else first[: _LONGEST_REASON - 3] + "…"
