"""Masks of objects: drawn from their segments for training, and pasted into images from what the head gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, paste_mask_in_image

from peftbench.data.boxes import Objects
from peftbench.data.segment_forms import decoded, encoded

THRESHOLD = 0.5
"""The least probability of a pixel that is of an object, as torchvision's and COCO's tools have it."""


def run_lengths_of(objects: Objects) -> list[dict[str, Any]]:
    """COCO's compressed run lengths of each object on the original image."""
    return [segment.run_lengths(objects.size) for segment in objects.segments or ()]


def masks_of(objects: Objects, size: tuple[int, int]) -> Tensor:
    """uint8 (n, h, w): the objects that are no crowds, on the image resized to `size`, (height, width)."""
    alone = [s for s, crowd in zip(objects.segments or (), objects.crowd, strict=True) if not crowd]
    whole = decoded([segment.run_lengths(objects.size) for segment in alone], objects.size)
    return resized_masks(torch.from_numpy(whole), size)


def resized_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (n, h, w) in another size, each pixel that of the nearest, which images are resized along with."""
    if tuple(masks.shape[1:]) == tuple(size):
        return masks
    if not len(masks):
        return masks.new_zeros((0, *size))
    return F.interpolate(masks[None], size=size, mode="nearest-exact")[0]


def pasted(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[bytes]:
    """COCO's compressed run lengths of what a mask head gives, one at a time, so that one whole mask is in memory.

    As torchvision pastes them: resized to the box, and cut at the border of the image.

    Args:
        probabilities: float (n, S, S) within the boxes.
        boxes: (n, 4), x1 y1 x2 y2 in pixels of an image of `size`, (height, width).
    """
    sane = torch.isfinite(boxes).all(1) & torch.isfinite(probabilities).flatten(1).all(1)  # no other is counted
    larger, scale = expand_masks(torch.where(sane[:, None, None], probabilities.float(), 0)[:, None], padding=1)
    places = expand_boxes(torch.where(sane[:, None], boxes.float(), 0), scale).to(torch.int64)
    height, width = size
    return [
        encoded((paste_mask_in_image(mask[0], place, height, width) >= THRESHOLD).numpy())
        for mask, place in zip(larger, places, strict=True)
    ]


def whole_masks(segments: list[bytes], size: tuple[int, int]) -> Tensor:
    """bool (n, H, W) of compressed run lengths on an image of `size`, (height, width)."""
    return torch.from_numpy(decoded([{"size": list(size), "counts": c} for c in segments], size).astype(np.bool_))
