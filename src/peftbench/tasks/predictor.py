"""How a task's predictions for files become rows of a table, and files: `peftbench predict`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from peftbench.common.errors import Refusal, UserError
from peftbench.common.progress import Watch
from peftbench.common.readable_names import readable_in
from peftbench.data.decoding import decode_clip
from peftbench.data.images import Transform
from peftbench.data.media import DAMAGED

Skip = Callable[[Path, str], None]
"""Called with a file that is left out, and why."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one file; `values` are in the task's own form."""

    path: Path
    values: Any


@dataclass(frozen=True)
class Seen:
    """How an image came to the input of a model.

    Attributes:
        original: its (height, width), upright.
        scale: (x, y), pixels of the input for one of its own.
        offset: (x, y), where its corner lies on the input.
    """

    original: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)


class Predictor:
    """Carries out one call of `peftbench predict`. Here for a task that predicts a row of numbers for an image.

    Args:
        options: those of the verb that are this task's alone, by name.
        images: what the user gave: a file, a folder or a glob.
        items: the files, or folders of frames, that it stands for.
        force: whether files that are there may be replaced.

    Raises:
        UserError: an option without sense, or a file that is in the way.
    """

    batch_size = 64

    def __init__(self, options: Mapping[str, Any], images: str, items: Sequence[Path], force: bool) -> None:
        self.options, self.items = options, items

    def take_folder(self, out: str, images: str, force: bool) -> None:
        """Has it write a file for each image into the folder `out`; for tasks whose schema says `into_folder`.

        Raises:
            UserError: something is in the way.
        """
        raise UserError(f"out={out}: expected a name that ends in .csv or .json.")

    @property
    def written(self) -> list[str]:
        """What it writes besides the table."""
        return []

    def predictions(self, tuned: Any, skip: Skip, watch: Watch) -> Iterator[Prediction]:
        """What the tuned model says of each item that can be read, in the precision of the run."""
        for paths, pixels in read_batches(tuned, self.items, self.batch_size, skip, watch):
            with torch.no_grad(), tuned.precision():
                values = tuned(pixels.to(tuned.device)).float().reshape(len(pixels), -1).cpu()
            for path, row in zip(paths, values.tolist(), strict=True):
                yield Prediction(path, row)

    def write_csv(self, file: IO[str], tuned: Any, predictions: Iterable[Prediction]) -> None:
        """A row for each file. Nothing at all is written where no file can be read."""
        rows = csv.writer(file, lineterminator="\n")
        for number, prediction in enumerate(predictions):
            if not number:
                rows.writerow(self.heading(tuned, prediction))
            for row in self.rows(prediction):
                rows.writerow(row)

    def heading(self, tuned: Any, first: Prediction) -> list[str]:
        """The names of the columns of the table."""
        return ["image", *(f"value_{i}" for i in range(1, len(first.values) + 1))]

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        """The rows of the table for one file."""
        yield [prediction.path, *(f"{value:.6f}" for value in prediction.values)]

    def write_json(
        self, file: IO[str], tuned: Any, predictions: Iterable[Prediction], skipped: Sequence[tuple[Path, str]]
    ) -> None:
        """One object: the run, an entry for each file, and the files that were skipped, with the reason."""
        images = [{"image": str(p.path), "predictions": self.plain(p)} for p in predictions]
        left_out = [{"file": str(path), "why": why} for path, why in skipped]
        content = {"run": tuned.run.record.id, "images": images, "skipped": left_out}
        json.dump(readable_in(content), file, indent=1, ensure_ascii=False)
        file.write("\n")

    @staticmethod
    def served(task: Any, answer: Any, seen: Seen) -> dict[str, Any]:
        """What a server says of one image, in plain values of JSON.

        Args:
            task: the task module that answered.
            answer: that of one image, as `MultiTask` gives it, on the CPU.
            seen: how the image came to the input.
        """
        return {"values": answer.float().reshape(-1).tolist()}

    def plain(self, prediction: Prediction) -> Any:
        """What JSON holds of one prediction."""
        return [round(value, 6) for value in prediction.values]


def read_batches(
    tuned: Any, items: Sequence[Path], batch_size: int, skip: Skip, watch: Watch
) -> Iterator[tuple[list[Path], Tensor]]:
    """Batches of (files, pixels (B, 3, S, S) or (B, T, 3, S, S)), decoded as in training, without damaged ones."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            readable: list[tuple[Path, Tensor]] = []
            for path, pixels in zip(batch, pool.map(lambda path: _read_pixels(tuned, path), batch), strict=True):
                if isinstance(pixels, str):
                    skip(path, pixels)
                else:
                    readable.append((path, pixels))
            if readable:
                yield [path for path, _ in readable], torch.stack([pixels for _, pixels in readable])
            watch(start + len(batch), len(items))


def why_unreadable(path: Path, problem: UserError) -> str:
    """The reason in an error's sentence, without the name of the file."""
    why = str(problem).removeprefix(f"{path}: ").rstrip(".")
    if isinstance(problem, Refusal):  # what it advises is for training
        return f"{why.partition(';')[0]}; convert it to the kind of image that the run was trained on"
    return why


def _read_pixels(tuned: Any, path: Path) -> Tensor | str:
    """Pixels, or why there are none."""
    transform, frames = tuned.transform, tuned.run.frames
    assert isinstance(transform, Transform)
    try:
        if frames is None:
            return transform(path)
        return torch.from_numpy(decode_clip(path, frames, transform.size, transform.resizing, transform.range))
    except UserError as problem:
        return why_unreadable(path, problem)
    except DAMAGED as problem:
        return f"cannot be read as a clip ({problem})"
