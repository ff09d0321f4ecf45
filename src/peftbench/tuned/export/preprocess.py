"""`preprocess.json`: what a program that runs an exported file must do to an image, told for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftbench.data.images import Transform
from peftbench.tuned.export.detector import output_names
from peftbench.tuned.load import Tuned
from peftbench.tuned.run_folder import PREPROCESS, companions, file_hash

INSIDE = ("normalise", "all")
"""What a graph does itself: normalise, or resize and normalise."""
_CHANNELS_FIRST, _CHANNELS_LAST = "NCHW", "NHWC"


def told_of(tuned: Tuned, format_: str, inside: str) -> dict[str, Any]:
    """All that is to be done to an image before the file answers, and what it answers.

    Args:
        tuned: what was exported.
        format_: of the file.
        inside: an entry of `INSIDE`, or `nothing` where the file holds weights alone.
    """
    transform: Any = tuned.transform
    boxes = tuned.model.task.finds_boxes
    told: dict[str, Any] = {
        "format": format_,
        "input": _input(tuned, inside),
        "outputs": output_names(tuned) if boxes else ["logits"],
        "decode": "upright, as its EXIF says; RGB of 8 bits; transparency is dropped",
        "channels": "RGB",
        "resized": "inside" if inside == "all" else "outside",
        "normalised": "outside" if inside == "nothing" else "inside",
        "interpolation": transform.interpolation,
        "antialias": True,
        "mean": list(transform.mean),
        "std": list(transform.std),
        "deep": transform.range if transform.range == "auto" else list(transform.range),
        "classes": list(tuned.classes),
    }
    return told | (_of_square(transform) if isinstance(transform, Transform) else _of_scene(transform))


def _input(tuned: Tuned, inside: str) -> dict[str, Any]:
    if tuned.model.task.finds_boxes:
        shape: list[Any] = [3, "height", "width"]
        return {"name": "image", "dtype": "float32", "layout": "CHW", "shape": shape, "range": [0, 1]}
    if inside == "all":
        shape = ["batch", "height", "width", 3]
        return {"name": "images", "dtype": "uint8", "layout": _CHANNELS_LAST, "shape": shape, "range": [0, 255]}
    size: Any = tuned.transform.size
    height, width = (size, size) if isinstance(size, int) else size
    frames = [] if tuned.run.frames is None else [tuned.run.frames]
    layout = _CHANNELS_FIRST if not frames else "NTCHW"
    about = {"name": "images", "dtype": "float32", "layout": layout, "shape": ["batch", *frames, 3, height, width]}
    return {**about, "range": [0, 1]} if inside == "normalise" else {**about, "range": None}


def _of_square(transform: Transform) -> dict[str, Any]:
    size: Any = transform.size
    height, width = (size, size) if isinstance(size, int) else size
    crop = {"keeps": "the largest part of the input's shape", "from": "the middle"}
    return {
        "size": [height, width],
        "resize": transform.resize,
        "crop": crop if transform.resize == "crop" else None,
        "pad": list(transform.colour) if transform.resize == "pad" else None,
        "draft": transform.draft,
    }


def _of_scene(transform: Any) -> dict[str, Any]:
    """A detector's: an image keeps its shape."""
    if transform.size is not None:
        return {"size": list(transform.size), "resize": "fit", "crop": None, "pad": None}
    return {
        "size": None,
        "resize": "sides",
        "shorter_side": transform.min_size[-1],
        "longest_side": transform.max_size,
        "crop": None,
        "pad": None,
    }


def write_preprocess(part: Path, name: str, told: Mapping[str, Any]) -> None:
    """Writes it as JSON beside an exported file, which will be called `name`; it holds the hashes of that."""
    files = [part, *companions(part, told["format"])]
    places = [Path(name), *companions(Path(name), told["format"])]
    hashes = {place.name: file_hash(made) for made, place in zip(files, places, strict=True) if made.is_file()}
    text = json.dumps({"file": name, "sha256": hashes, **told}, indent=2, ensure_ascii=False)
    part.with_name(part.name + PREPROCESS).write_text(text + "\n", encoding="utf-8")
