"""The page of a run of segmentation: IoU by class, and images with the truth and what was found side by side."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.data.masks import IGNORED
from peftbench.data.thumbnails import data_uri, is_tiny, small
from peftbench.results.page_parts import PagePart, Picture
from peftbench.tasks.run_pages import RunPage, Seen, by_class
from peftbench.tasks.segmentation.colours import colour_of, overlaid

SIDE = 200
"""Pixels of the longer side of each of the three pictures."""
_PICTURES = 12
_GAP = 6


class MaskPage(RunPage):
    """IoU of each class from the record, and the images with most wrong pixels."""

    def parts(self, seen: Seen) -> list[PagePart]:
        part = by_class(seen, "IoU")
        if part is not None and (absent := [n for n in seen.classes if f"{seen.role}/IoU/{n}" not in seen.metrics]):
            part.notes.append(f"Neither in the masks nor predicted: {', '.join(absent)}.")
        return [_side_by_side(seen), *([part] if part else [])]


def _side_by_side(seen: Seen) -> PagePart:
    part = PagePart("The truth, and what was found")
    part.notes.append(
        "Each image, the same under its true mask, and under what was found; white is not judged, and the first class "
        "is not coloured. The images with the largest share of wrong pixels come first. A longer side has at most "
        f"{SIDE} pixels."
    )
    truths: dict[int, np.ndarray] = {}
    wrong: dict[int, float] = {}
    for index in range(len(seen.split)):
        try:
            truths[index] = truth = seen.split.labels[index].read()
        except UserError:
            continue
        found, judged = seen.predictions[index].numpy(), truth != IGNORED
        wrong[index] = float((found != truth)[judged].mean()) if judged.any() else 0.0
    order = sorted(wrong, key=lambda index: -wrong[index])[:_PICTURES]
    shown = set()
    for index in order:
        image = seen.image(index)
        if image is None or (image.height, image.width) != truths[index].shape:
            continue
        found = seen.predictions[index].numpy()
        shown |= {int(class_) for class_ in np.unique([*np.unique(truths[index]), *np.unique(found)])}
        whole = _row([small(each, SIDE) for each in (image, overlaid(image, truths[index]), overlaid(image, found))])
        told = (f"{100 * wrong[index]:.1f} % of the pixels are wrong",)
        part.pictures.append(Picture(data_uri(whole), str(seen.split.names[index]), told, is_tiny(whole), wide=True))
    if named := sorted(shown - {0, IGNORED}):
        legend = _legend([(seen.classes[class_], colour_of(class_)) for class_ in named])
        part.pictures.insert(0, Picture(data_uri(legend), "colours of the classes"))
    if len(part.pictures) - bool(named) < len(order):
        part.notes.append(f"{plural(len(order) - len(part.pictures) + bool(named), 'image')} cannot be read any more.")
    return part


def _row(images: list[Image.Image]) -> Image.Image:
    """Images of one height beside each other."""
    width = sum(image.width for image in images) + _GAP * (len(images) - 1)
    row, left = Image.new("RGB", (width, images[0].height), "white"), 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + _GAP
    return row


def _legend(classes: list[tuple[str, str]]) -> Image.Image:
    """The colour of each class beside its name."""
    line, font = 18, ImageFont.load_default(13)
    width = 30 + max(round(font.getlength(name)) for name, _ in classes)
    image = Image.new("RGB", (max(width, 60), line * len(classes) + 4), "white")
    pen = ImageDraw.Draw(image)
    for i, (name, colour) in enumerate(classes):
        pen.rectangle((4, 4 + i * line, 18, 16 + i * line), fill=colour, outline="#888888")
        pen.text((24, 2 + i * line), name, "#222222", font)
    return image
