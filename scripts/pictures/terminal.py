"""The terminal: the command of a sweep and the table at its end, as an SVG of text."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text
from sources import FOLDER

import runs
from peftbench.results import read_record
from peftbench.results.table import print_table

COLUMNS = 128


def sweep(name: str, work: Path) -> None:
    """`terminal.svg`, of the kept records of the sweep."""
    folder = runs.kept("sweep", work / "records")
    records = [record for place in folder.iterdir() if (record := read_record(place))]
    records.sort(key=lambda record: record.stamps["ended"])
    console = Console(record=True, width=COLUMNS, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(Text.assemble(("$ ", "bold green"), runs.command("sweep")))
    print_table(records, console)
    svg = console.export_svg(title="peftbench", theme=MONOKAI)
    svg = re.sub(r"@font-face\s*{.*?}", "", svg, flags=re.DOTALL)  # it would be fetched
    svg = svg.replace("Fira Code", "ui-monospace, DejaVu Sans Mono")
    (FOLDER / name).write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE), encoding="utf-8")
