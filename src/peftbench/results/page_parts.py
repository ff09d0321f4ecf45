"""What a run's page is put together of: sections with notes, tables, charts and pictures. A task makes some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftbench.results.text_table import TextTable


@dataclass(frozen=True)
class Picture:
    """One image that is embedded.

    Attributes:
        source: a data URI.
        name: says which image it is.
        told: what there is to say of it, a line each.
        squares: whether its pixels are so few that each is shown as a square.
        wide: whether it stands for two images side by side.
    """

    source: str
    name: str = ""
    told: Sequence[str] = ()
    squares: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing that the page's script makes: `kind` is a function of `run_page.js`, `content` what it draws.

    `title` stands above it; `content` is plain JSON with finite numbers alone.
    """

    kind: str
    title: str
    content: Mapping[str, Any]


@dataclass
class PagePart:
    """A section of the page: a heading, and below it notes, charts, tables and pictures, in this order."""

    title: str
    notes: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[TextTable] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
