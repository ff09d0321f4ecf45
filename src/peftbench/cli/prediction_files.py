"""What `peftbench predict` writes: a row for each image or box, and pictures with boxes."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from peftbench.common.errors import UserError

Skip = Callable[[Path, str], None]
"""What is told of a file that is left out: its path, and why."""


@dataclass
class Prediction:
    """What is asked for, and what came of it.

    Attributes:
        images: the file, folder or glob that the user gave.
        out: the file of the table, or None for the standard output.
        draw: the folder of the pictures, or None.
        options: those of the run's task.
        of_clips: whether the model takes clips.
        skipped: files that are no images, or cannot be read, each with the reason.
        count: how many images were predicted.
    """

    images: str
    out: Path | None
    draw: str | None
    options: Mapping[str, Any]
    of_clips: bool
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    count: int = 0

    @property
    def as_json(self) -> bool:
        return self.out is not None and self.out.suffix.lower() == ".json"


def write_table(
    prediction: Prediction,
    run: Any,
    tuned: Any,
    items: Sequence[Path],
    pictures: Mapping[Path, Path],
    skip: Skip,
    console: Any,
) -> None:
    """Predicts and writes, one image after the other. Raises UserError where none could be read."""
    from peftbench.common.progress import counted
    from peftbench.tasks.detection.result_files import as_coco, as_csv
    from peftbench.tuned.predict import detect, predict

    of_boxes = run.config.task.name == "detection"
    shown = prediction.out is not None or not sys.stdout.isatty()  # else the rows themselves are what moves
    with counted(console, "predicting", shown) as watch, _writer(prediction.out) as file:
        rows: Iterator[Any]
        if of_boxes:
            boxes = detect(tuned, items, score=prediction.options["score"], skip=skip, watch=watch)
            rows = _counted_rows(prediction, _drawn(boxes, pictures))
        else:
            rows = _counted_rows(prediction, predict(tuned, items, **prediction.options, skip=skip, watch=watch))
        if of_boxes and prediction.as_json:
            categories = dict(zip(tuned.classes, run.categories, strict=True))
            as_coco(file, run.record.id, categories, rows, prediction.skipped)
        elif of_boxes:
            as_csv(file, rows)
        elif prediction.as_json:
            _write_json(file, run.record.id, rows, prediction.skipped)
        else:
            _write_csv(file, min(prediction.options["top_k"], len(tuned.classes)), rows)


def _counted_rows(prediction: Prediction, rows: Iterable[Any]) -> Iterator[Any]:
    """The rows, counted. Raises UserError after the last where there was none."""
    for row in rows:
        prediction.count += 1
        yield row
    if not prediction.count:
        raise no_image(prediction)


def summary(prediction: Prediction) -> str:
    """How many were predicted, and where the files are."""
    what = "clips" if prediction.of_clips else "images"
    skipped = f", {_files(prediction.skipped)} skipped" if prediction.skipped else ""
    left = ", ".join(str(p) for p in (prediction.out, prediction.draw) if p)
    return f"{prediction.count} {what}{skipped}" + (f": {left}" if left else "")


def no_image(prediction: Prediction) -> UserError:
    from peftbench.data.media import IMAGES, VIDEOS

    what, suffixes = ("clip", VIDEOS) if prediction.of_clips else ("image", IMAGES)
    more = ", or folders of frames" if prediction.of_clips else ""
    verb = "were" if len(prediction.skipped) > 1 else "was"
    why = f"holds no {what}"
    if prediction.skipped:
        why = f"none is left, {_files(prediction.skipped)} {verb} skipped"
    types = " ".join(sorted(suffixes))
    return UserError(f"images={prediction.images}: {why}; expected whole files of the types {types}{more}.")


def _files(skipped: Sequence[tuple[Path, str]]) -> str:
    return "1 file" if len(skipped) == 1 else f"{len(skipped)} files"


def picture_places(prediction: Prediction, items: Sequence[Path], force: bool) -> dict[Path, Path]:
    """Where the picture of each image goes: as it lies below `images`, or below the folder that holds them all.

    Raises:
        UserError: something is in the way.
    """
    images, draw = prediction.images, prediction.draw
    if draw is None:
        return {}
    source, folder = (Path(os.path.abspath(Path(p).expanduser())) for p in (images, draw))
    real = {item: Path(os.path.abspath(item)) for item in items}
    base = source if source.is_dir() else Path(os.path.commonpath([p.parent for p in real.values()]))
    pictures = {item: folder / path.relative_to(base) for item, path in real.items()}
    sources = {p.resolve() for p in real.values()}
    if folder.is_relative_to(source) or any(p.resolve() in sources for p in pictures.values()):
        raise UserError(f"draw={draw}: lies among the images of images={images}; give a folder apart from them.")
    there = [p for p in pictures.values() if p.exists()]
    if there and not force:
        more = f", as do {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(f"draw={draw}: {there[0]} exists already{more}; give another folder, or force=true.")
    return pictures


def _drawn(rows: Iterable[Any], pictures: Mapping[Path, Path]) -> Iterator[Any]:
    """The boxes of each image, after its picture is drawn."""
    from peftbench.tasks.detection.result_files import draw

    for row in rows:
        if row.path in pictures:
            draw(row.path, row.boxes, row.names, row.scores, pictures[row.path])
        yield row


@contextmanager
def _writer(out: Path | None) -> Iterator[IO[str]]:
    if out is None:
        yield sys.stdout
        return
    from peftbench.common.atomic_files import replacing

    with replacing(out) as part, part.open("w", encoding="utf-8", newline="") as file:
        yield file


def _write_csv(file: IO[str], k: int, rows: Iterable[Any]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    head = ["image", *(f"{name}_{i}" for i in range(1, k + 1) for name in ("class", "probability"))]
    for i, row in enumerate(rows):
        if i == 0:  # nothing at all is written where no image can be read
            writer.writerow(head)
        writer.writerow([row.path, *(v for name, p in row.best for v in (name, f"{p:.6f}"))])


def _write_json(file: IO[str], run: str, rows: Iterable[Any], skipped: list[tuple[Path, str]]) -> None:
    images = [
        {"image": str(row.path), "predictions": [{"class": n, "probability": round(p, 6)} for n, p in row.best]}
        for row in rows
    ]
    left_out = [{"file": str(path), "why": why} for path, why in skipped]
    json.dump({"run": run, "images": images, "skipped": left_out}, file, indent=1, ensure_ascii=False)
    file.write("\n")
