"""Boxes that are written in shares of their image, 0 to 1, instead of pixels: recognised, and made into pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from peftbench.common.errors import UserError
from peftbench.data.annotations import Annotations

_SLACK = 0.01  # by which tools overshoot the border of an image


def are_shares(values: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether no number of so many boxes is below 0 or above 1, though images are larger, and some are no whole ones.

    In pixels all of them would lie in the first pixel of their image, and be smaller than it.

    Args:
        values: (n, 4), the numbers as they are written.
        sizes: (n, 2), height and width of the image of each.
    """
    if not len(values) or not (sizes > 1).any():
        return False
    within = (values >= -_SLACK).all() and (values <= 1 + _SLACK).all()
    return bool(within and (values != values.round()).any())


def in_pixels(annotations: Annotations, sizes: np.ndarray, notes: list[str]) -> Annotations:
    """The annotations with boxes in pixels; where they were shares of their image, `notes` says so.

    Areas are scaled along where they are shares too.

    Args:
        annotations: what a file lists.
        sizes: (M, 2), height and width of each image, 0 where they are not known.
        notes: sentences for the user.

    Raises:
        UserError: boxes are shares, but not of x, y, width and height.
    """
    known = (annotations.image >= 0) & (sizes[annotations.image, 0] > 0)
    boxes, size = annotations.boxes[known], sizes[annotations.image[known]]
    written = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    if not are_shares(written, size):
        return annotations
    beyond = np.flatnonzero((boxes > 1 + _SLACK).any(axis=1))
    if len(beyond):
        at = int(beyond[0])
        x, y, width, height = written[at].tolist()
        name = annotations.names[annotations.image[known][at]]
        raise UserError(
            f"{annotations.file}: its boxes are in shares of the image, 0 to 1, but bbox [{x:.4g}, {y:.4g}, "
            f"{width:.4g}, {height:.4g}] of {name} reaches beyond it, so they are not COCO's x, y, width, height (are "
            f"they two corners, or a centre and a size?); expected [x, y, width, height] from the top left corner, in "
            f"pixels or in shares."
        )
    if annotations.segments is not None:
        raise UserError(
            f"{annotations.file}: its boxes are in shares of the image, 0 to 1, and segments in shares are not read; "
            f"expected both in pixels, or leave task.masks out to train on boxes alone."
        )
    notes.append(
        f"{annotations.file.name}: its boxes are in shares of the image, 0 to 1, instead of pixels; they are read as "
        f"x, y, width, height and scaled to the size of each image"
    )
    sides = np.where(sizes > 0, sizes, 1)[annotations.image].astype(np.float64)
    area = annotations.area
    if not (area > 1 + _SLACK).any():
        area = area * sides.prod(axis=1)
    return replace(annotations, boxes=annotations.boxes * sides[:, [1, 0, 1, 0]], area=area)
