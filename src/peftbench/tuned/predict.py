"""What a tuned model says of images, or clips, in files."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from peftbench.common.errors import UserError
from peftbench.common.precisions import HALF
from peftbench.common.progress import Watch
from peftbench.data.decoding import decode_clip
from peftbench.data.images import Transform
from peftbench.data.media import DAMAGED, IMAGES, VIDEOS, find_clips, frame_files, require_reader, visible_entries
from peftbench.tasks.detection.result_files import Detected
from peftbench.tuned.load import Tuned

Skip = Callable[[Path, str], None]
"""Told of a file that is left out, and why."""


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, or clip, with their probabilities, the best first."""

    path: Path
    best: tuple[tuple[str, float], ...]


def find(given: str, of_clips: bool, skip: Skip) -> list[Path]:
    """The images (or clips) that a file, a folder at any depth or a glob stands for, sorted; others are skipped.

    What a glob reaches by several ways, through links to folders, counts once.

    Raises:
        UserError: there is nothing there.
    """
    path = Path(given).expanduser()
    pattern = str(path)
    found = [pattern] if path.exists() else glob.glob(pattern, recursive=True)
    found = found or glob.glob(pattern.replace("[", "[[]"), recursive=True)  # in the name of a folder
    if not found:
        raise UserError(f"images={given}: there is no such file or folder, and no file that matches it.")
    left: set[Path] = set()

    def skip_once(file: Path, why: str) -> None:
        if (real := _real(file)) not in left:
            left.add(real)
            skip(file, why)

    items: dict[Path, Path] = {}
    try:
        for place in sorted(map(Path, found), key=lambda p: (len(p.parts), p)):  # the shortest way first
            for item in (_clips if of_clips else _images)(place, skip_once):
                items.setdefault(_real(item), item)
    except OSError as problem:
        raise UserError(f"images={given}: {problem.filename} cannot be read ({problem.strerror}).") from None
    return sorted(items.values())


def _real(item: Path) -> Path:
    """Where it lies; a link to a file stays what it is called."""
    return item.parent.resolve() / item.name


def _images(place: Path, skip: Skip) -> Iterator[Path]:
    if place.is_dir():
        for inner in visible_entries(place):
            if not (inner.is_dir() and inner.is_symlink()):  # it may lead back to where it lies
                yield from _images(inner, skip)
    elif place.suffix.lower() in IMAGES:
        yield place
    else:
        skip(place, f"is no image ({place.suffix or 'no suffix'})")


def _clips(place: Path, skip: Skip) -> Iterator[Path]:
    if place.is_dir():
        yield from [place] if frame_files(place) else find_clips(place)
        for inner in visible_entries(place):
            if inner.is_file() and inner.suffix.lower() not in VIDEOS | IMAGES:
                skip(inner, f"is no clip ({inner.suffix or 'no suffix'})")
    elif place.suffix.lower() in VIDEOS:
        require_reader(place)
        yield place
    else:
        skip(place, f"is no clip ({place.suffix or 'no suffix'})")


def predict(
    tuned: Tuned,
    items: Sequence[Path],
    *,
    top_k: int,
    batch_size: int,
    skip: Skip,
    watch: Watch = lambda done, of: None,
) -> Iterator[Prediction]:
    """Predictions for images, or clips, decoded and resized as in training, in the precision of the run.

    A file that cannot be read is skipped.

    Args:
        top_k: how many classes of each, at most all.
    """
    k = min(top_k, len(tuned.classes))
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            read = list(zip(batch, pool.map(lambda path: _read(tuned, path), batch), strict=True))
            for path, found in read:
                if isinstance(found, str):
                    skip(path, found)
            good = [(path, found) for path, found in read if isinstance(found, Tensor)]
            if good:
                best = _probabilities(tuned, torch.stack([pixels for _, pixels in good])).topk(k)
                for (path, _), values, indices in zip(good, best.values.tolist(), best.indices.tolist(), strict=True):
                    names = (tuned.classes[i] for i in indices)
                    yield Prediction(path, tuple(zip(names, values, strict=True)))
            watch(start + len(batch), len(items))


def detect(
    tuned: Tuned, items: Sequence[Path], *, score: float, skip: Skip, watch: Watch = lambda done, of: None
) -> Iterator[Detected]:
    """What a detector finds on images with at least that score, in the precision of the run.

    A file that cannot be read is skipped.
    """
    for count, path in enumerate(items, start=1):
        try:
            with _precision(tuned):
                found = tuned.detect(path)
        except UserError as problem:
            skip(path, _why(path, problem))
        else:
            sure = found["scores"] >= score
            boxes, labels, scores = (found[n][sure].cpu() for n in ("boxes", "labels", "scores"))
            yield Detected(path, boxes, tuple(labels.tolist()), tuple(scores.tolist()), tuned.classes)
        watch(count, len(items))


def _read(tuned: Tuned, path: Path) -> Tensor | str:
    """Pixels, or why there are none."""
    transform, frames = tuned.transform, tuned.run.frames
    assert isinstance(transform, Transform)  # of a classifier
    try:
        if frames is None:
            return transform(path)
        pixels = decode_clip(path, frames, transform.size, transform.interpolation)
        return torch.from_numpy(pixels)
    except UserError as problem:
        return _why(path, problem)
    except DAMAGED as problem:
        return f"cannot be read as a clip ({problem})"


def _why(path: Path, problem: UserError) -> str:
    return str(problem).removeprefix(f"{path}: ").rstrip(".")


@torch.no_grad()
def _probabilities(tuned: Tuned, pixels: Tensor) -> Tensor:
    """(B, classes) in float32, on the CPU."""
    with _precision(tuned):
        logits = tuned(pixels.to(tuned.model.mean.device))
    return logits.float().softmax(1).cpu()


def _precision(tuned: Tuned) -> torch.autocast:
    """The arithmetic that the run was tested in."""
    device = tuned.model.mean.device
    half = HALF[tuned.run.config.trainer.precision]
    if half is torch.float16 and device.type == "cpu":  # trained on a GPU; this has no such arithmetic
        half = None
    return torch.autocast(device.type, half, enabled=half is not None)
