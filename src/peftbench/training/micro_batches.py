"""A batch in parts: images that are computed together are fewer than those of an optimizer step."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def sizes_of_parts(size: int, most: int | None) -> list[int]:
    """How many images each part has: as few parts as go with `most` images each, as equal as can be."""
    if most is None or size <= most:
        return [size]
    count = -(-size // most)
    small, larger = divmod(size, count)
    return [small + (i < larger) for i in range(count)]


def parts_of_batch(batch: Any, size: int, most: int | None) -> list[tuple[Any, int]]:
    """The parts of a batch of `size` images, each with its number of images.

    A batch is a tuple of tensors or lists with a row an image; its `taps` may have several rows an image, its frames.
    """
    parts, begin = [], 0
    sizes = sizes_of_parts(size, most)
    if len(sizes) == 1:
        return [(batch, size)]
    for count in sizes:
        parts.append((_rows(batch, begin, begin + count, size), count))
        begin += count
    return parts


def _rows(batch: Any, begin: int, end: int, size: int) -> Any:
    taps: list[Tensor] | None = getattr(batch, "taps", None)
    if taps is not None:
        each = [len(tap) // size for tap in taps]
        taps = [tap[begin * rows : end * rows] for tap, rows in zip(taps, each, strict=True)]
    images, targets = batch[0][begin:end], batch[1][begin:end]
    if hasattr(batch, "_replace"):
        return batch._replace(images=images, targets=targets, taps=taps)
    return images, targets
