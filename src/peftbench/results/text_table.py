"""A plain table of a report, apart from how it is written (`formats.py`, `page.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

NAMED = 10  # files, runs or tasks that are named before the rest is counted


class Best(str):
    """A cell with the best figure of its column, which is written bold."""

    __slots__ = ()


class Heading(str):
    """A paragraph that is the heading of those which follow."""

    __slots__ = ()


@dataclass
class TextTable:
    """`columns` are (name, whether it is a number), and a name may have a second line; `notes` stand below.

    `values` are the numbers to sort cells by. `label` is what LaTeX refers to the table by, without `tab:`. `text` are
    paragraphs that stand between the title and the rows. Where a terminal has no room for all columns, the rest stands
    below, and the first `repeated` columns again.
    """

    title: str
    columns: list[tuple[str, bool]]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: list[list[float | None]] = field(default_factory=list)
    label: str = ""
    text: list[str] = field(default_factory=list)
    repeated: int = 1


def some(names: Sequence[str], between: str = ", ") -> str:
    """The first of the names, and how many more there are: `a, b and 3 more`."""
    named = between.join(name.removeprefix("vtab/") for name in names[:NAMED])
    return f"{named} and {len(names) - NAMED} more" if len(names) > NAMED else named


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """`a, b and c`, or `a, b and 3 more` where there are more than `most`."""
    shown, rest = list(names[:most]), len(names) - most
    if rest > 0:
        return f"{', '.join(shown)} and {rest} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
