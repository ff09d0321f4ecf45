"""Files of detections: COCO's JSON, CSV, and pictures with boxes and masks."""

from __future__ import annotations

import colorsys
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageDraw, ImageFont
from pydantic_core import to_json
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from peftbench.common.atomic_files import replacing
from peftbench.common.readable_names import readable_in
from peftbench.data.decoding import open_rgb
from peftbench.data.pixel_values import Range
from peftbench.data.segment_forms import pixels_of

DETECTIONS = "detections.json"
"""The file in a run's folder that holds what it found on the test images."""
_OPAQUE = 0.5


@dataclass(frozen=True)
class Detected:
    """What was found on an upright image of `size` (height, width), the best first: `boxes` (n, 4) as x1, y1, x2, y2 in
    pixels, `labels` indices of `classes`, and `segments` the run lengths of each, where masks were found.
    """

    path: Path
    size: tuple[int, int]
    boxes: Tensor
    labels: tuple[int, ...]
    scores: tuple[float, ...]
    classes: tuple[str, ...]
    segments: tuple[dict[str, Any], ...] | None = None

    @property
    def names(self) -> list[str]:
        """The class of each box."""
        return [self.classes[label] for label in self.labels]


def write_results(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes rows of COCO's result JSON (https://cocodataset.org/#format-results), whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with replacing(path) as part:
        part.write_bytes(to_json(list(rows)) + b"\n")


def as_coco(
    file: IO[str],
    run: str,
    categories: Mapping[str, int],
    detections: Iterable[Detected],
    skipped: Sequence[tuple[Path, str]],
) -> None:
    """COCO's JSON: `images` with name and size, also those without a box, `annotations` with a score each (the rows of
    a result file; with masks `segmentation`, compressed run lengths, and the area of these), `categories` with the ids
    that they had in the training data, and what was skipped.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for one in detections:
        height, width = one.size
        images.append({"id": len(images) + 1, "file_name": str(one.path), "height": height, "width": width})
        segments = one.segments or [None] * len(one.scores)
        corners = one.boxes.double().tolist()
        for name, score, (x1, y1, x2, y2), segment in zip(one.names, one.scores, corners, segments, strict=True):
            box = [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
            place = {"id": len(annotations) + 1, "image_id": len(images), "category_id": categories[name]}
            area = round(box[2] * box[3], 2) if segment is None else pixels_of(segment)
            masks = {} if segment is None else {"segmentation": segment}
            annotations.append(place | {"bbox": box, "area": area, "score": round(score, 6), **masks})
    content = {
        "info": {"run": run},
        "images": images,
        "annotations": [a | {"iscrowd": 0} for a in annotations],
        "categories": [{"id": i, "name": n} for n, i in categories.items()],
        "skipped": [{"file": str(path), "why": why} for path, why in skipped],
    }
    json.dump(readable_in(content), file, indent=1, ensure_ascii=False)
    file.write("\n")


def draw(
    image_file: Path,
    boxes: Tensor,
    labels: Sequence[str],
    scores: Sequence[float],
    out: Path,
    values: Range = "auto",
    masks: Tensor | None = None,
) -> None:
    """Writes the upright image with its boxes, their classes and scores to `out`, in the form that its name says. The
    first box, which is the surest, lies on top.

    Args:
        boxes: (n, 4) as x1, y1, x2, y2 in pixels of the upright image.
        values: which of the image's values are black and white.
        masks: bool (n, h, w), the pixels of each, laid over the image in the colour of its box.

    Raises:
        UserError: `out` cannot be written.
    """
    image = drawn(open_rgb(image_file, values), boxes, labels, scores, masks)
    with replacing(out) as part:
        image.save(part, Image.registered_extensions()[out.suffix.lower()], quality=95)


def drawn(
    image: Image.Image,
    boxes: Tensor,
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    masks: Tensor | None = None,
) -> Image.Image:
    """The image with boxes (n, 4) in its pixels, their classes and, if any, their scores and masks (n, h, w)."""
    if not len(boxes):
        return image
    line, height = (max(least, round(max(image.size) / part)) for least, part in ((1, 300), (10, 50)))
    texts = list(labels) if scores is None else [f"{n} {score:.2f}" for n, score in zip(labels, scores, strict=True)]
    named = list(zip(boxes.tolist(), texts, map(_color, labels), strict=True))[::-1]
    colors = [color for *_, color in named]
    pixels = pil_to_tensor(image)
    if masks is not None:
        pixels = draw_segmentation_masks(pixels, masks.cpu().flip(0), alpha=_OPAQUE, colors=colors)
    image = to_pil_image(draw_bounding_boxes(pixels, boxes.cpu().flip(0), colors=colors, width=line))
    # torchvision would write ten pixels high, whatever the image's size
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(height)
    for (x, y, *_), text, color in named:
        place = (x + 2 * line, y + line)
        pen.text(place, text, color, font, stroke_width=max(1, line // 2), stroke_fill="black")
    return image


def _color(name: str) -> tuple[int, int, int]:
    """A bright colour, the same for a class on every image."""
    red, green, blue = colorsys.hsv_to_rgb(zlib.crc32(name.encode()) % 360 / 360, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
