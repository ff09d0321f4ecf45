"""The terminal: the command of a sweep, and what a report says of it, as an SVG of text."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text
from sources import FOLDER

import runs
from peftbench.cli.main import main

COLUMNS = 112
LAST = "All runs:"
"""What the report says from here on is not shown."""


def sweep(name: str, work: Path) -> None:
    """`terminal.svg`, of the kept records of the sweep."""
    console = Console(record=True, width=COLUMNS, force_terminal=True, color_system="truecolor", file=io.StringIO())
    said = _report(runs.kept("sweep", work / "records"))
    for typed, told in ((runs.command("sweep"), "…\n"), ("peftbench report outputs", said)):
        console.print(Text.assemble(("$ ", "bold green"), typed))
        console.print(Text(told))
    svg = console.export_svg(title="peftbench", theme=MONOKAI)
    svg = re.sub(r"@font-face\s*{.*?}", "", svg, flags=re.DOTALL)  # it would be fetched
    svg = svg.replace("Fira Code", "ui-monospace, DejaVu Sans Mono")
    (FOLDER / name).write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE), encoding="utf-8")


def _report(records: Path) -> str:
    os.environ["COLUMNS"] = str(COLUMNS)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        if main(["report", str(records)]) != 0:
            raise SystemExit("pictures: no report")
    return told.getvalue().partition(LAST)[0].rstrip()
