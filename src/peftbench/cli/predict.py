"""`peftbench predict`: a table of what a tuned model says of images."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from peftbench.cli.words import NEEDED, given
from peftbench.errors import UserError

USAGE = (
    "peftbench predict run=FOLDER images=FILE|FOLDER|GLOB [out=FILE.csv|.json] [top_k=5] [batch_size=64] "
    "[device=cpu|cuda] [weights=FILE] [adapter=FOLDER]"
)
_KNOWN = {
    "run": NEEDED,
    "images": NEEDED,
    "out": None,
    "top_k": 5,
    "batch_size": 64,
    "device": "auto",
    "weights": None,
    "adapter": None,
    "force": False,
}


def run(arguments: list[str]) -> int:
    """Writes a row for each image to `out`, or to the standard output. Raises UserError where no image can be read."""
    want = given(arguments, "predict", _KNOWN, USAGE)
    out = None if want["out"] is None else Path(want["out"]).expanduser()
    if out is not None and out.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"out={out}: expected a name that ends in .csv or .json.")
    if out is not None and out.exists() and not want["force"]:
        raise UserError(f"out={out}: exists already; give another name, or force=true.")

    from peftbench.finished import load, open_run, place
    from peftbench.predict import find, predict
    from peftbench.progress import counted

    console = Console(stderr=True)
    skipped: list[tuple[Path, str]] = []

    def skip(path: Path, why: str) -> None:
        skipped.append((path, why))
        console.print(f"skipped {path}: {why}", highlight=False, markup=False, soft_wrap=True)

    finished = open_run(want["run"], want["config_dir"])
    items = find(want["images"], finished.frames is not None, skip)
    if not items:
        _none(want["images"], skipped)
    # Unmerged, in the run's own precision: what the record's accuracy is of.
    tuned = load(finished, merge=False, weights=want["weights"], adapter=want["adapter"]).to(place(want["device"]))
    count = 0
    shown = out is not None or not sys.stdout.isatty()  # else the rows themselves are what moves
    with counted(console, "predicting", shown) as watch, _writer(out) as file:

        def counting() -> Iterator[Any]:
            nonlocal count
            for one in predict(
                tuned, items, top_k=want["top_k"], batch_size=want["batch_size"], skip=skip, watch=watch
            ):
                count += 1
                yield one
            if not count:
                _none(want["images"], skipped)

        if out is not None and out.suffix.lower() == ".json":
            _json(file, finished.record.id, counting(), skipped)
        else:
            _csv(file, min(want["top_k"], len(tuned.classes)), counting())
    if out is not None or skipped:
        what = "clips" if finished.frames else "images"
        told = f"{count} {what}" + (f", {len(skipped)} files skipped" if skipped else "")
        console.print(told + (f": {out}" if out else ""), highlight=False, markup=False, soft_wrap=True)
    return 0


def _none(images: str, skipped: list[tuple[Path, str]]) -> None:
    raise UserError(f"images={images}: none is left; {len(skipped)} files were skipped.")


@contextmanager
def _writer(out: Path | None) -> Iterator[IO[str]]:
    if out is None:
        yield sys.stdout
        return
    from peftbench.deltas import replacing

    with replacing(out) as part, part.open("w", encoding="utf-8", newline="") as file:
        yield file


def _csv(file: IO[str], k: int, found: Iterable[Any]) -> None:
    rows = csv.writer(file, lineterminator="\n")
    head = ["image", *(f"{name}_{i}" for i in range(1, k + 1) for name in ("class", "probability"))]
    for i, one in enumerate(found):
        if not i:  # nothing at all is written where no image can be read
            rows.writerow(head)
        rows.writerow([one.path, *(v for name, p in one.best for v in (name, f"{p:.6f}"))])


def _json(file: IO[str], run: str, found: Iterable[Any], skipped: list[tuple[Path, str]]) -> None:
    images = [
        {"image": str(one.path), "predictions": [{"class": n, "probability": round(p, 6)} for n, p in one.best]}
        for one in found
    ]
    left_out = [{"file": str(path), "why": why} for path, why in skipped]
    json.dump({"run": run, "images": images, "skipped": left_out}, file, indent=1, ensure_ascii=False)
    file.write("\n")
