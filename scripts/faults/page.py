"""The campaign's table in docs/reliability.md, between two marks."""

from __future__ import annotations

from typing import Any

from faults.verdicts import VERDICTS

BEGIN, END = "<!-- campaign: made by scripts/faults --write -->", "<!-- end of the campaign -->"
TITLES = {
    "run": "a file of a run damaged, read by ten verbs",
    "entry": "a file of the tap cache damaged",
    "config": "hostile YAML in a folder of configs",
    "archive": "hostile archives of a task",
    "weights": "hostile files of weights",
    "words": "fuzzed overrides",
    "files": "COCO, CSV, YOLO and masks",
    "kill": "kills, at file operations and at random",
    "two": "two writers of one run",
    "reader": "a reader of the output goes away",
    "full": "full disks",
    "rights": "folders that may not be read or written",
    "removed": "folders removed in mid-run",
}


def written(page: str, summary: dict[str, Any]) -> str:
    """The page with the table of a summary in the place of the one before."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = [["", "tries", *VERDICTS], ["---", *["---:"] * (len(VERDICTS) + 1)]]
    for kind, row in [*summary["kinds"].items(), ("all", summary["all"])]:
        name = TITLES.get(kind, f"**{kind}**")
        rows.append([name, *(f"{row[v]:,}" for v in ("tries", *VERDICTS))])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    said = f"Seed {summary['seed']}, {summary['made']}, {summary['seconds'] / 60:.0f} minutes on one core."
    return f"{before}{BEGIN}\n\n{table}\n\n{said}\n\n{END}{after}"
