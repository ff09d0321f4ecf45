"""One object's segment as COCO's files give it, held small: polygons' corners, or run lengths. Needs no torch."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened

Size = tuple[int, int]
_NUMBER = frozenset({int, float})
_SLACK = 1.0  # pixels by which tools overshoot the border of an image


@dataclass(frozen=True, slots=True)
class Segment:
    """The pixels of one object: `polygons`, float64 x, y, … as bytes, or COCO's compressed run lengths, `counts`."""

    polygons: tuple[bytes, ...] = ()
    counts: bytes = b""

    def run_lengths(self, size: Size) -> dict[str, Any]:
        """COCO's compressed form, `size` [height, width] and `counts` bytes, on an image of `size`.

        What of a polygon lies outside of the image is cut off.
        """
        if not self.polygons:
            return {"size": list(size), "counts": self.counts}
        from faster_coco_eval.core import mask as coco

        corners = [np.frombuffer(polygon).tolist() for polygon in self.polygons]
        drawn: dict[str, Any] = coco.merge(coco.frPyObjects(corners, *size))
        return drawn


def decoded(run_lengths: list[dict[str, Any]], size: Size) -> np.ndarray:
    """uint8 (n, H, W), 1 where an object is, of COCO's compressed forms on an image of `size`, (height, width)."""
    if not run_lengths:
        return np.zeros((0, *size), dtype=np.uint8)
    from faster_coco_eval.core import mask as coco

    return np.ascontiguousarray(coco.decode(run_lengths).transpose(2, 0, 1))


def encoded(mask: np.ndarray) -> bytes:
    """COCO's compressed run lengths of a mask (H, W), column after column."""
    from faster_coco_eval.core import mask as coco

    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed form of a mask (H, W) as JSON holds it, with text for its counts."""
    return {"size": list(mask.shape), "counts": encoded(mask).decode()}


def pixels_of(run_lengths: dict[str, Any]) -> int:
    """How many pixels COCO's compressed form has."""
    from faster_coco_eval.core import mask as coco

    return int(coco.area(run_lengths))


def packed(form: Any) -> Any:
    """Polygons [[x, y, …], …] as float64 in bytes, a fourteenth of Python's lists; anything else as it is."""
    if not (type(form) is list and form):
        return form
    for polygon in form:
        if not (type(polygon) is list and len(polygon) >= 6 and len(polygon) % 2 == 0):
            return form
    if not _NUMBER.issuperset(map(type, chain.from_iterable(form))):
        return form
    try:
        return tuple(array("d", polygon).tobytes() for polygon in form)
    except OverflowError:  # a whole number of hundreds of digits
        return form


def corners_of(form: tuple[bytes, ...]) -> np.ndarray:
    """float64 (n, 2): x and y of the corners of packed polygons."""
    return np.frombuffer(b"".join(form)).reshape(-1, 2)


def beyond(form: tuple[bytes, ...], size: Size) -> str:
    """`outside` where packed polygons lie wholly outside of an image, `part` where a part does, else nothing.

    Tools overshoot the border by up to a pixel, which says nothing.
    """
    corners, limits = corners_of(form), np.array(size[::-1])
    low, high = corners.min(0), corners.max(0)
    if (high <= 0).any() or (low >= limits).any():
        return "outside"
    return "part" if (low < -_SLACK).any() or (high > limits + _SLACK).any() else ""


def read_segment(form: Any, size: Size, name: str) -> Segment:
    """The segment of an annotation, whose polygons are packed.

    Args:
        form: under the key segmentation.
        size: (height, width) of the image.
        name: what messages call the annotation.

    Raises:
        UserError: it is none of COCO's forms, or its run lengths are not those of the image.
    """
    height, width = size
    if isinstance(form, tuple):
        if not np.isfinite(corners_of(form)).all():
            raise UserError(f"{name}: a polygon has a corner that is no finite number; expected x and y in pixels.")
        return Segment(form)
    if not isinstance(form, dict):
        raise UserError(
            f"{name}: segmentation is {shortened(repr(form), 60)}; expected polygons [[x1, y1, …]] of three corners or "
            f"more, or run lengths."
        )
    counts, of = form.get("counts"), form.get("size")
    if of != [height, width]:
        raise UserError(
            f"{name}: its run lengths are of the size {shortened(repr(of), 40)}, and its image is [{height}, {width}]; "
            f"expected the same (height, width)."
        )
    whole = isinstance(counts, list) and all(type(count) is int and 0 <= count <= height * width for count in counts)
    if not whole and not isinstance(counts, str):
        raise UserError(f"{name}: counts is {shortened(repr(counts), 60)}; expected run lengths, or COCO's text.")
    lengths = lengths_in(counts) if isinstance(counts, str) else np.array(counts, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise UserError(
            f"{name}: its run lengths are of {int(lengths.sum()):,} pixels, and its image has {height * width:,} "
            f"({width} x {height}); expected all of them, column after column."
        )
    if isinstance(counts, str):
        return Segment(counts=counts.encode())
    from faster_coco_eval.core import mask as coco

    return Segment(counts=coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"])


def lengths_in(text: str) -> np.ndarray:
    """int64 (n,): the counts of COCO's compressed text.

    Groups of 5 bits from a character each; from the fourth on a count is added to the one before the last. Text that
    holds anything else gives a count below 0. Source: rleFrString of cocoapi's maskApi.c.
    """
    codes = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 32 == 0)
    if not len(codes) or (codes < 0).any() or (codes > 63).any() or codes[-1] & 32:
        return np.array([-1], dtype=np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if place.max() > 7:  # more than any image has pixels
        return np.array([-1], dtype=np.int64)
    counts = np.add.reduceat((codes & 31) << (5 * place), first)
    counts -= np.where(codes[last] & 16, np.int64(1) << (5 * (place[last] + 1)), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts
