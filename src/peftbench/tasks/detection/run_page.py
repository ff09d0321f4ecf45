"""The page of a detector's run: AP by class, and images with the truth and what was found side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import box_iou

from peftbench.common.amounts import plural
from peftbench.data.thumbnails import data_uri, is_tiny, small
from peftbench.results.page_parts import PagePart, Picture
from peftbench.tasks.detection.mask_precision import SEGM
from peftbench.tasks.detection.masks import resized_masks, run_lengths_of, whole_masks
from peftbench.tasks.detection.result_files import drawn
from peftbench.tasks.run_pages import RunPage, Seen, by_class

SIDE = 240
"""Pixels of the longer side of each of the two pictures."""
_SCORE, _OVERLAP = 0.5, 0.5
_PICTURES = 12


class BoxPage(RunPage):
    """AP of each class from the record, and the images with most mistakes."""

    def parts(self, seen: Seen) -> list[PagePart]:
        parts = [_side_by_side(seen), by_class(seen, "AP")]
        if part := by_class(seen, SEGM + "AP"):
            part.title = "Masks by class"
            parts.append(part)
        return [part for part in parts if part]


def _side_by_side(seen: Seen) -> PagePart:
    counted = [_mistakes(seen, i) for i in range(len(seen.split))]
    order = sorted(range(len(counted)), key=lambda i: -sum(counted[i]))[:_PICTURES]
    part = PagePart("The truth, and what was found")
    part.notes.append(
        f"Left the annotated boxes, right those found with a score of {_SCORE:g} or more. The images with most "
        f"mistakes come first: boxes that no found one of the class covers by half (IoU {_OVERLAP:g}), and found "
        f"ones that cover none. A longer side has at most {SIDE} pixels."
    )
    for index in order:
        image = seen.image(index)
        if image is None:
            continue
        truth, found, missed, extra = seen.split.labels[index], seen.predictions[index], *counted[index]
        size, true_masks, masks = (image.height, image.width), None, None
        sure = found["scores"] >= _SCORE
        if truth.segments is not None:
            true_masks = whole_masks([form["counts"] for form in run_lengths_of(truth)], size)
            masks = whole_masks([found["segments"][i] for i in np.flatnonzero(sure.numpy())], size)
        left = _drawn(image, seen, truth.boxes, truth.labels, None, true_masks)
        right = _drawn(image, seen, found["boxes"][sure], found["labels"][sure], found["scores"][sure], masks)
        both = Image.new("RGB", (left.width + right.width + 6, left.height), "white")
        both.paste(left, (0, 0))
        both.paste(right, (left.width + 6, 0))
        told = (f"{plural(missed, 'box')} missed, {extra} found where none is",)
        part.pictures.append(Picture(data_uri(both), str(seen.split.names[index]), told, is_tiny(both), wide=True))
    if len(part.pictures) < len(order):
        part.notes.append(f"{plural(len(order) - len(part.pictures), 'image')} cannot be read any more.")
    return part


def _mistakes(seen: Seen, index: int) -> tuple[int, int]:
    """(annotated boxes that were not found, found boxes where none is), greedily by score; crowds count for nothing."""
    truth, found = seen.split.labels[index], seen.predictions[index]
    sure = found["scores"] >= _SCORE
    boxes, labels = found["boxes"][sure].float(), found["labels"][sure].numpy()
    overlaps = box_iou(boxes, torch.from_numpy(truth.boxes)).numpy()
    overlaps[labels[:, None] != truth.labels[None]] = 0
    free, extra = ~truth.crowd, 0
    for row in overlaps[np.argsort(-found["scores"][sure].numpy(), kind="stable")]:
        open_ = np.where(free, row, 0)
        if len(open_) and open_.max() >= _OVERLAP:
            free[open_.argmax()] = False
        elif not (row[truth.crowd] > 0).any():
            extra += 1
    return int(free.sum()), extra


def _drawn(
    image: Image.Image, seen: Seen, boxes: Any, labels: Any, scores: Any, masks: torch.Tensor | None
) -> Image.Image:
    """The image made small, with boxes and masks that were scaled with it."""
    shown = small(image, SIDE)
    scale = torch.tensor([shown.width / image.width, shown.height / image.height]).repeat(2)
    names = [seen.classes[int(label)] for label in labels]
    if masks is not None:
        masks = resized_masks(masks.to(torch.uint8), (shown.height, shown.width)).bool()
    told = None if scores is None else scores.tolist()
    return drawn(shown, torch.as_tensor(boxes) * scale, names, told, masks)
