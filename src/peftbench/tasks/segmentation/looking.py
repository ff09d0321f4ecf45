"""How an image is looked at outside of training: whole, in windows that slide over it, at several scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.config import Config
from peftbench.tasks.segmentation import schema
from peftbench.tasks.segmentation.decoders import resized

Side = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Looks:
    """What the model is shown of an image; of which the logits are averaged.

    Attributes:
        window: of what the model sees at once; None where that is all.
        stride: from one window to the next.
        scales: by which the image is resized, each for a look of its own; empty stands for 1 alone.
    """

    window: Side | None = None
    stride: Side = (0, 0)
    scales: tuple[float, ...] = ()

    def once(self, height: int, width: int) -> bool:
        """Whether an image of that size is looked at once, as it is."""
        return self.scales in ((), (1.0,)) and self.window in (None, (height, width))


def looks_of(section: schema.Segmentation) -> Looks:
    """As a config's section says."""
    if section.window is None:
        return Looks(scales=section.scales)
    window = schema.pair(section.window)
    return Looks(window, schema.stride_of(section), section.scales)


def told_looks(config: Config, section: schema.Segmentation) -> dict[str, Any]:
    """What a record says of it, in plain values; empty where each image is looked at once."""
    looks = looks_of(section)
    if config.data.size is None or looks.once(*schema.pair(config.data.size)):
        return {"scales": list(looks.scales)} if looks.scales not in ((), (1.0,)) else {}
    windows = {} if looks.window is None else {"window": list(looks.window), "stride": list(looks.stride)}
    return windows | ({"scales": list(looks.scales)} if looks.scales else {})


def averaged(logits_of: Callable[[Tensor], Tensor], images: Tensor, looks: Looks, colour: Sequence[int]) -> Tensor:
    """The mean of the logits over all looks, (B, classes, H, W) in float32; of a single look at its own stride.

    Args:
        logits_of: logits (B, classes, h', w') of images (B, 3, h, w).
        images: (B, 3, H, W), in uint8 or normalised.
        looks: more than one, or `logits_of` is called with the images as they are.
        colour: RGB of what a window holds beyond an image that is smaller.
    """
    height, width = images.shape[-2:]
    if looks.once(height, width):
        return logits_of(images)
    total: Tensor | None = None
    for scale in looks.scales or (1.0,):
        view = rescaled(images, (max(round(height * scale), 1), max(round(width * scale), 1)))
        if looks.window is None:
            logits = logits_of(view).float()
        else:
            logits = slid(logits_of, view, looks.window, looks.stride, colour)
        logits = resized(logits, (height, width))
        total = logits if total is None else total.add_(logits)
    assert total is not None
    return total if len(looks.scales) < 2 else total.div_(len(looks.scales))


def slid(
    logits_of: Callable[[Tensor], Tensor], images: Tensor, window: Side, stride: Side, colour: Sequence[int]
) -> Tensor:
    """Of each pixel the mean of the logits of the windows that it lies in, (B, classes, H, W) in float32.

    All windows have one size: the last of a row or column ends with the image, and an image that is smaller is padded.
    """
    height, width = images.shape[-2:]
    padded = _padded(images, (max(height, window[0]), max(width, window[1])), colour)
    tops, lefts = (corners(s, w, by) for s, w, by in zip(padded.shape[-2:], window, stride, strict=True))
    total: Tensor | None = None
    for top, left in product(tops, lefts):
        rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
        logits = resized(logits_of(padded[..., rows, columns].contiguous()).float(), window)
        if total is None:
            total = logits.new_zeros((*logits.shape[:2], *padded.shape[-2:]))
        total[..., rows, columns] += logits
    assert total is not None
    counts = _counts(padded.shape[-2], tops, window[0])[:, None] * _counts(padded.shape[-1], lefts, window[1])
    if counts.max() > 1:  # counted on the host, which waits for no device
        total /= counts.to(total.device)
    return total[..., :height, :width]


def corners(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side that is at least as long; the last ends with it."""
    last = side - window
    return [*range(0, last, stride), last]


def rescaled(images: Tensor, size: Side) -> Tensor:
    """Images (B, 3, H, W), in uint8 or normalised, in another size, bilinearly and without aliases."""
    if tuple(images.shape[-2:]) == size:
        return images
    changed = F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
    if images.is_floating_point():
        return changed.to(images.dtype)
    return changed.round_().clamp_(0, 255).to(images.dtype)


def _counts(side: int, begins: Sequence[int], window: int) -> Tensor:
    """float32 (side,): how many windows a place along a side is in."""
    counts = torch.zeros(side)
    for begin in begins:
        counts[begin : begin + window] += 1
    return counts


def _padded(images: Tensor, size: Side, colour: Sequence[int]) -> Tensor:
    """At the top left of that size; normalised images have 0 around them, which is the mean's colour."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    if images.is_floating_point():
        return F.pad(images, (0, size[1] - width, 0, size[0] - height))
    canvas = torch.tensor(colour, dtype=images.dtype, device=images.device)[:, None, None].repeat(1, *size)
    canvas = canvas.expand(len(images), *canvas.shape).clone()
    canvas[..., :height, :width] = images
    return canvas
