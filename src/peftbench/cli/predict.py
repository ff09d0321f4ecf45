"""`peftbench predict`: a table of what a tuned model says of images, and pictures of what a detector finds."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from peftbench.cli.words import NEEDED, given
from peftbench.common.errors import UserError

USAGE = (
    "peftbench predict run=FOLDER images=FILE|FOLDER|GLOB [out=FILE.csv|.json] [top_k=5] [batch_size=64] "
    "[device=cpu|cuda] [weights=FILE] [adapter=FOLDER]; of a detector [score=0.5] [draw=FOLDER]"
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
    "score": 0.5,
    "draw": None,
    "force": False,
}
_NOT_FOR = {"classification": ("score", "draw"), "detection": ("top_k", "batch_size")}


def run(arguments: list[str]) -> int:
    """Writes a row for each image, or box, to `out`, or to the standard output, and pictures with boxes into `draw`.

    Raises:
        UserError: no image can be read, or a file is in the way.
    """
    want = given(arguments, "predict", _KNOWN, USAGE)
    out = None if want["out"] is None else Path(want["out"]).expanduser()
    if out is not None and out.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"out={out}: expected a name that ends in .csv or .json.")
    if out is not None and out.exists() and not want["force"]:
        raise UserError(f"out={out}: exists already; give another name, or force=true.")
    for key in ("top_k", "batch_size"):
        if want[key] < 1:
            raise UserError(f"{key}={want[key]}: expected at least 1.")
    if not 0 <= want["score"] <= 1:
        raise UserError(f"score={want['score']:g}: expected 0 to 1.")

    from peftbench.common.progress import counted
    from peftbench.tasks.detection.result_files import as_coco, as_csv
    from peftbench.tuned.load import load, open_run, place
    from peftbench.tuned.predict import detect, find, predict

    console = Console(stderr=True)
    skipped: list[tuple[Path, str]] = []

    def skip(path: Path, why: str) -> None:
        skipped.append((path, why))
        console.print(f"skipped {path}: {why}", highlight=False, markup=False, soft_wrap=True)

    finished = open_run(want["run"], want["config_dir"])
    task = finished.config.task.name
    if foreign := [w for w in arguments if w.partition("=")[0] in _NOT_FOR[task]]:
        raise UserError(f"{foreign[0]}: is not for a run of task={task}; leave it out.")
    device = place(want["device"])
    items = find(want["images"], finished.frames is not None, skip)
    if not items:
        _none(want["images"], skipped, finished.frames is not None)
    places = {} if want["draw"] is None else _places(want["images"], items, want["draw"], want["force"])
    # Unmerged, in the run's own precision: what the record's accuracy is of.
    tuned = load(finished, merge=False, weights=want["weights"], adapter=want["adapter"]).to(device)
    count = 0
    shown = out is not None or not sys.stdout.isatty()  # else the rows themselves are what moves
    with counted(console, "predicting", shown) as watch, _writer(out) as file:

        def counting() -> Iterator[Any]:
            nonlocal count
            each: Iterator[Any]
            if task == "detection":
                each = _drawn(detect(tuned, items, score=want["score"], skip=skip, watch=watch), places)
            else:
                how = {"top_k": want["top_k"], "batch_size": want["batch_size"]}
                each = predict(tuned, items, **how, skip=skip, watch=watch)
            for one in each:
                count += 1
                yield one
            if not count:
                _none(want["images"], skipped, finished.frames is not None)

        as_json = out is not None and out.suffix.lower() == ".json"
        if task == "detection" and as_json:
            categories = dict(zip(tuned.classes, finished.categories, strict=True))
            as_coco(file, finished.record.id, categories, counting(), skipped)
        elif task == "detection":
            as_csv(file, counting())
        elif as_json:
            _json(file, finished.record.id, counting(), skipped)
        else:
            _csv(file, min(want["top_k"], len(tuned.classes)), counting())
    if out is not None or places or skipped:
        what = "clips" if finished.frames else "images"
        told = f"{count} {what}" + (f", {_files(skipped)} skipped" if skipped else "")
        left = ", ".join(str(p) for p in (out, want["draw"]) if p)
        console.print(told + (f": {left}" if left else ""), highlight=False, markup=False, soft_wrap=True)
    return 0


def _none(images: str, skipped: list[tuple[Path, str]], of_clips: bool) -> None:
    from peftbench.data.media import IMAGES, VIDEOS

    what, suffixes = ("clip", VIDEOS) if of_clips else ("image", IMAGES)
    more = ", or folders of frames" if of_clips else ""
    verb = "were" if len(skipped) > 1 else "was"
    found = f"none is left, {_files(skipped)} {verb} skipped" if skipped else f"holds no {what}"
    raise UserError(f"images={images}: {found}; expected whole files of the types {' '.join(sorted(suffixes))}{more}.")


def _files(skipped: list[tuple[Path, str]]) -> str:
    return f"{len(skipped)} file{'s' if len(skipped) > 1 else ''}"


def _places(images: str, items: Sequence[Path], draw: str, force: bool) -> dict[Path, Path]:
    """Where the picture of each image goes: as it lies below `images`, or below the folder that holds them all.

    Raises:
        UserError: something is in the way.
    """
    given, folder = (Path(os.path.abspath(Path(p).expanduser())) for p in (images, draw))
    real = {item: Path(os.path.abspath(item)) for item in items}
    base = given if given.is_dir() else Path(os.path.commonpath([p.parent for p in real.values()]))
    found = {item: folder / path.relative_to(base) for item, path in real.items()}
    sources = {p.resolve() for p in real.values()}
    if folder.is_relative_to(given) or any(p.resolve() in sources for p in found.values()):
        raise UserError(f"draw={draw}: lies among the images of images={images}; give a folder apart from them.")
    there = [p for p in found.values() if p.exists()]
    if there and not force:
        more = f", as do {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(f"draw={draw}: {there[0]} exists already{more}; give another folder, or force=true.")
    return found


def _drawn(found: Iterable[Any], places: Mapping[Path, Path]) -> Iterator[Any]:
    from peftbench.tasks.detection.result_files import draw

    for one in found:
        if one.path in places:
            draw(one.path, one.boxes, one.names, one.scores, places[one.path])
        yield one


@contextmanager
def _writer(out: Path | None) -> Iterator[IO[str]]:
    if out is None:
        yield sys.stdout
        return
    from peftbench.common.atomic_files import replacing

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
