"""The one table of the benchmarks: rows, how they are printed, and how they get into the page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

HEAD = "| what, against | peftbench | peer | ratio | limit | kept |"
BEGIN, END = "<!-- bench: measured rows -->", "<!-- bench: end -->"
NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what is measured and what it is compared with; `row_name(what)` is the same in every measurement.
        ours: peftbench's value, with its unit.
        peer: the peer's value, with its unit.
        ratio: `ours` divided by `peer`.
        limit: what the ratio, or `ours` where there is no peer, may be at most.
        kept: whether it is at most that; None where there is no limit.
    """

    what: str
    ours: str
    peer: str = NOTHING
    ratio: str = NOTHING
    limit: str = NOTHING
    kept: bool | None = None

    def line(self) -> str:
        verdict = {True: "yes", False: "**no**", None: NOTHING}[self.kept]
        return f"| {self.what} | {self.ours} | {self.peer} | {self.ratio} | {self.limit} | {verdict} |"


def seconds(value: float) -> str:
    """A time in seconds, or below one second in milliseconds."""
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s"


def megabytes(value: float) -> str:
    """A number of bytes in megabytes."""
    return f"{value / 1e6:.0f} MB"


def time_row(what: str, ours: float, peer: float, limit: float | None = None, digits: int = 2) -> Row:
    """A row of two times in seconds; `limit` is what their ratio may be at most, where there is one."""
    kept = None if limit is None else ours <= limit * peer
    shown = NOTHING if limit is None else f"{limit:.2f}"
    return Row(what, seconds(ours), seconds(peer), f"{ours / peer:.{digits}f}", shown, kept)


def memory_row(what: str, ours: float, peer: float, limit: float | None = None, digits: int = 2) -> Row:
    """A row of two numbers of bytes; `limit` is what their ratio may be at most."""
    kept = None if limit is None else ours <= limit * peer
    shown = NOTHING if limit is None else f"{limit:.2f}"
    return Row(what, megabytes(ours), megabytes(peer), f"{ours / peer:.{digits}f}", shown, kept)


_MEASURED = (
    r" \(top-1:[^)]*\)",  # of the quickstart
    r" \(\d+ M(?: multiply-adds)?\)",  # of a pruned backbone and the whole one
    r"(?<= runs) of [\d.]+ s(?= in one process)",  # of the runs of a sweep
)


def row_name(what: str) -> str:
    """What a row is about, without figures that were measured: rows of the same name are the same measurement."""
    for figure in _MEASURED:
        what = re.sub(figure, "", what)
    return what.strip()


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    return "\n".join([HEAD, "|" + " --- |" * 6, *(row.line() for row in rows)])


def lines_of(text: str) -> dict[str, str]:
    """The lines of the benchmarks' tables in a text, by `row_name`; the text may hold other things besides."""
    lines: dict[str, str] = {}
    inside = False
    for line in text.splitlines():
        inside = line == HEAD or (inside and line.startswith("|"))
        if inside and line != HEAD and not line.startswith("| ---"):
            lines[row_name(cells(line)[0])] = line
    return lines


def cells(line: str) -> list[str]:
    """The cells of a line of the table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


_UNITS = {"ms": ("s", 1e-3), "s": ("s", 1), "MB": ("bytes", 1e6), "GB": ("bytes", 1e9), "": ("", 1)}


def value_of(cell: str) -> tuple[float, str] | None:
    """The value of a cell in seconds, bytes or as a bare number, with that unit; None where a cell holds none."""
    number, _, unit = cell.partition(" ")
    if unit not in _UNITS or not re.fullmatch(r"\d+(\.\d+)?", number):
        return None
    base, scale = _UNITS[unit]
    return float(number) * scale, base


def updated(page: str, rows: Iterable[Row], where: str) -> str:
    """The page with these rows in the place of those of the same name; all else that it says stays.

    Rows that the page does not have come last. `where` says on which machine and when the newest rows were measured.

    Raises:
        ValueError: the page lacks the two markers between which the table stands.
    """
    before, begin, rest = page.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no table: expected the lines {BEGIN} and {END}.")
    lines = lines_of(old) | {row_name(row.what): row.line() for row in rows}
    whole = "\n".join([table([]), *lines.values()])
    return f"{before}{begin}\n\n{where}\n\n{whole}\n\n{end}{after}"
