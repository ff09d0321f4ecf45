"""What each picture of docs/pictures is made from, and whether it is older than that. Nothing but Python is needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "pictures"
RECORDS = FOLDER / "records"
MANIFEST = FOLDER / "manifest.json"
MOST_BYTES = 150_000


@dataclass(frozen=True)
class Source:
    """What a picture is made from.

    Attributes:
        scripts: files beside this one that make it.
        shows: files of the package whose form it shows, below src/peftbench.
        runs: the group of runs whose records it shows; empty where it shows none.
    """

    scripts: Sequence[str]
    shows: Sequence[str] = ()
    runs: str = ""

    def hashes(self) -> dict[str, str]:
        """Path in the repository -> sha256, of everything that it is made from."""
        here = Path(__file__).parent
        files = [*(here / name for name in self.scripts), *(ROOT / "src" / "peftbench" / name for name in self.shows)]
        if self.runs:
            files += sorted(RECORDS.glob(f"{self.runs}-*.json"))
        return {file.relative_to(ROOT).as_posix(): hash_of(file) for file in files}


_PAGE = ("results/page.css", "results/page_pieces.py", "results/marks.js", "results/axes.js", "results/sorting.js")
_REPORT = Source(("pages.py",), (*_PAGE, "results/page.py", "results/page.js", "results/charts.js"), "sweep")
_RUN = Source(("pages.py",), (*_PAGE, "results/run_page.py", "results/run_page.css", "results/run_page.js"), "sweep")
PICTURES = {
    "report-light.png": _REPORT,
    "report-dark.png": _REPORT,
    "report-phone.png": _REPORT,
    "run-light.png": _RUN,
    "run-dark.png": _RUN,
    "terminal.svg": Source(("terminal.py",), ("results/text_table.py", "results/answer_text.py"), "sweep"),
    "detections.png": Source(("drawn.py",), ("tasks/detection/result_files.py",), "detection"),
    "masks.png": Source(("drawn.py",), ("tasks/segmentation/predictor.py", "tasks/segmentation/colours.py"), "masks"),
    "architecture.svg": Source(("architecture.py",)),
}


def hash_of(file: Path) -> str:
    """sha256 of a file; of text whatever its ends of lines."""
    content = file.read_bytes()
    return hashlib.sha256(content if file.suffix == ".png" else content.replace(b"\r\n", b"\n")).hexdigest()


def noted(name: str) -> dict[str, object]:
    """The entry of the manifest of a picture as it and its sources are now."""
    return {"sha256": hash_of(FOLDER / name), "of": PICTURES[name].hashes()}


def manifest() -> dict[str, dict]:
    """The committed one: of each picture its hash and those of what it was made from."""
    return json.loads(MANIFEST.read_text(encoding="utf-8")) if MANIFEST.is_file() else {}


def stale(name: str) -> str:
    """Why a picture is to be made anew; empty where it is as it should be."""
    if not (FOLDER / name).is_file() or name not in manifest():
        return f"docs/pictures/{name} has not been made"
    was, now = manifest()[name], noted(name)
    if was["sha256"] != now["sha256"]:
        return f"docs/pictures/{name} is another picture than the script made"
    changed = sorted(path for path in was["of"].keys() | now["of"].keys() if was["of"].get(path) != now["of"].get(path))
    return f"docs/pictures/{name} is older than {', '.join(changed)}" if changed else ""
