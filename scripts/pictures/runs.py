"""The real runs that the pictures show, carried out where they are not there yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sources import RECORDS

from peftbench.cli.main import main

_QUIET = ("trainer.progress=false",)
WORDS = {
    "sweep": (
        *("-m", "method=linear,bitfit,losa", "backbone=efficientnet_lite0", "data=photos", "data.size=96"),
        *("trainer.epochs=2", "seed=range(3)"),
    ),
    "detection": ("method=full", "backbone=resnet_nano", "data=digits_det", "optimizer.lr=1e-3", "trainer.epochs=10"),
    "masks": (
        *("method=full", "backbone=efficientnet_lite0", "data=digits_seg", "data.images=[300,10,20]"),
        *("task.decoder=fpn", "optimizer.lr=1e-3", "trainer.epochs=12"),
    ),
}
"""Group of runs -> the words that carry it out."""


def command(group: str) -> str:
    """The words as a reader types them."""
    quoted = [f"'{word}'" if set("()[]") & set(word) else word for word in WORDS[group]]
    return " ".join(["peftbench", *quoted])


def folders(group: str, work: Path) -> list[Path]:
    """The folders of the runs of a group, below `work`, which are complete; their records are kept in RECORDS.

    Raises:
        SystemExit: a run fails.
    """
    place = work / group
    known = [place / file.stem.removeprefix(f"{group}-") for file in sorted(RECORDS.glob(f"{group}-*.json"))]
    if known and all((folder / "result.json").is_file() for folder in known):
        return known
    if main([*WORDS[group], *_QUIET, f"output_dir={place}"]) != 0:
        raise SystemExit(f"pictures: the runs of {group} failed")
    found = sorted(file.parent for file in place.glob("*/result.json"))
    keep(group, found)
    return found


def keep(group: str, found: list[Path]) -> None:
    """Puts the records of runs into RECORDS, in the place of those of the group before."""
    for old in RECORDS.glob(f"{group}-*.json"):
        old.unlink()
    RECORDS.mkdir(parents=True, exist_ok=True)
    for folder in found:
        record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        record["stamps"]["machine"]["system"] = record["stamps"]["machine"]["system"].partition("-")[0]
        kept = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (RECORDS / f"{group}-{folder.name}.json").write_text(kept, encoding="utf-8")


def kept(group: str, place: Path) -> Path:
    """A folder of runs in `place` that holds the kept records of a group, and nothing else of these runs."""
    shutil.rmtree(place, ignore_errors=True)
    for file in RECORDS.glob(f"{group}-*.json"):
        folder = place / file.stem.removeprefix(f"{group}-")
        folder.mkdir(parents=True)
        shutil.copyfile(file, folder / "result.json")
    return place
