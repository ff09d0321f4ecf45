"""Masks of pixels from COCO's annotations: polygons and run lengths of objects, drawn one over the other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.json_text import json_of
from peftbench.common.regular_files import content_of
from peftbench.data.annotations import Annotations, read_annotations
from peftbench.data.masks import IGNORED, MOST, Mask

BACKGROUND = "background"
"""The class of pixels without an object, the first."""


@dataclass(frozen=True)
class Segment:
    """One object: its class, how messages name it, and its polygons, or its run lengths."""

    class_: int
    name: str
    area: float
    form: Any


@dataclass(frozen=True)
class SegmentMask(Mask):
    """The objects of an image of `shape`, (height, width). Larger ones lie under smaller ones (our reading)."""

    label: str
    shape: tuple[int, int]
    segments: tuple[Segment, ...]

    @property
    def name(self) -> str:
        return self.label

    @property
    def stamp(self) -> str:
        whole = repr((self.shape, [(s.class_, s.form) for s in self.segments]))
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    @property
    def bytes(self) -> int:
        return 0

    def read(self) -> np.ndarray:
        mask = np.zeros(self.shape, dtype=np.uint8)
        for segment in sorted(self.segments, key=lambda s: -s.area):
            mask[drawn_segment(segment, self.shape)] = segment.class_
        return mask


def read_segments(file: Path) -> tuple[tuple[str, ...], list[tuple[str, SegmentMask]]]:
    """The classes of a file in COCO's format, background first, and (file name, mask) of each image.

    The pixels of crowds are ignored.

    Raises:
        UserError: it is not COCO's, or an object has no segmentation, one that is none, or one outside of its image.
    """
    listed = read_annotations(file)
    if len(listed.categories) + 1 > MOST:
        raise UserError(f"{file}: names {len(listed.categories)} categories; expected at most {MOST - 1}.")
    if listed.orphan:
        raise UserError(f"{file}: {listed.orphan} is not listed; expected each image_id among the images' ids.")
    raw = json_of(content_of(file))["annotations"]
    of_image: list[list[Segment]] = [[] for _ in listed.names]
    for at, entry in enumerate(raw):
        image, class_ = int(listed.image[at]), int(listed.labels[at]) + 1
        name = f"{file}: annotation {entry['id']}"
        form = _checked(entry.get("segmentation"), _size(listed, image, file), name)
        left, top, right, bottom = listed.boxes[at]
        area = float(listed.area[at])
        area = (right - left) * (bottom - top) if math.isnan(area) else area
        of_image[image].append(Segment(IGNORED if listed.crowd[at] else class_, name, area, form))
    names = (BACKGROUND, *(name for _, name in listed.categories))
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{file}: names the category '{twice[0]}' twice, or one as what is left, {BACKGROUND}.")
    masks = [
        (name, SegmentMask(f"{file}: {name}", _size(listed, i, file), tuple(of_image[i])))
        for i, name in enumerate(listed.names)
    ]
    return names, masks


def drawn_segment(segment: Segment, shape: tuple[int, int]) -> np.ndarray:
    """bool (H, W): the pixels of an object, as COCO's tools draw it. Raises UserError where it has none inside."""
    height, width = shape
    if isinstance(segment.form, dict):
        counts = segment.form["counts"]
        runs = np.array(run_lengths(counts) if isinstance(counts, str) else counts, dtype=np.int64)
        if (runs < 0).any() or runs.sum() != height * width:
            raise UserError(
                f"{segment.name}: its run lengths are of {int(runs.sum()):,} pixels, and its image has "
                f"{height * width:,} ({width} x {height}); expected all of them, column after column."
            )
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return flat.reshape(width, height).T
    from faster_coco_eval.core import mask as coco

    drawn: np.ndarray = coco.decode(coco.frPyObjects([list(p) for p in segment.form], height, width))
    return np.asarray(drawn.reshape(height, width, -1).any(axis=2))


def run_lengths(text: str) -> list[int]:
    """The counts of COCO's compressed form: groups of 5 bits from a character each, differences from the fourth on.

    Source: rleFrString of cocoapi's maskApi.c.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value = shift = 0
    return counts


def _size(listed: Annotations, image: int, file: Path) -> tuple[int, int]:
    height, width = listed.sizes[image].tolist()
    if not height:
        raise UserError(f"{file}: does not say height and width of {listed.names[image]}, which its masks need.")
    return height, width


def _checked(form: Any, shape: tuple[int, int], name: str) -> Any:
    """A segmentation in a form that can be compared: polygons as tuples, or run lengths. Raises UserError."""
    height, width = shape
    if isinstance(form, dict):
        counts, size = form.get("counts"), form.get("size")
        if size != [height, width]:
            raise UserError(
                f"{name}: its run lengths are of the size {size}, and its image is [{height}, {width}]; expected the "
                f"same (height, width)."
            )
        whole = isinstance(counts, list) and all(type(count) is int for count in counts)
        if not whole and not isinstance(counts, str):
            raise UserError(f"{name}: counts is {shortened(repr(counts), 60)}; expected run lengths, or COCO's text.")
        return {"counts": counts}
    if not isinstance(form, list) or not form:
        raise UserError(
            f"{name}: segmentation is {shortened(repr(form), 60)}; expected polygons [[x1, y1, …]], or run lengths."
        )
    for polygon in form:
        if not (isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and _numbers(polygon)):
            raise UserError(
                f"{name}: a polygon is {shortened(repr(polygon), 60)}; expected x and y of three corners or more."
            )
    corners = np.array([corner for polygon in form for corner in polygon], dtype=np.float64).reshape(-1, 2)
    low, high = corners.min(0), corners.max(0)
    if (high <= 0).any() or (low >= [width, height]).any():
        raise UserError(
            f"{name}: its polygons lie from x {low[0]:g} to {high[0]:g} and y {low[1]:g} to {high[1]:g}, outside of "
            f"its image, {width} x {height}; expected corners in pixels of the image."
        )
    return tuple(tuple(map(float, polygon)) for polygon in form)


def _numbers(polygon: Sequence[Any]) -> bool:
    return all(type(corner) in (int, float) and math.isfinite(corner) for corner in polygon)
