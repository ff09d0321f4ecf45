"""Colours of classes, and pictures of masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from peftbench.data.masks import IGNORED

OPACITY = 0.55


def palette() -> np.ndarray:
    """uint8 (256, 3): a colour for each class, far from each other; black for the first, white where there is none.

    Source: the colour map of PASCAL VOC's development kit.
    """
    colours = np.zeros((256, 3), dtype=np.uint8)
    for class_ in range(256):
        code = class_
        for bit in range(7, -1, -1):
            for channel in range(3):
                colours[class_, channel] |= ((code >> channel) & 1) << bit
            code >>= 3
    colours[IGNORED] = 255
    return colours


def as_image(mask: np.ndarray) -> Image.Image:
    """An image of indices with the palette of `palette`, of a mask (H, W) in uint8."""
    image = Image.fromarray(mask)
    image.putpalette(palette().reshape(-1).tolist())
    return image


def overlaid(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The image under the colours of its mask, (H, W) in its size; as it is where the mask is of the first class."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    colours = palette()[mask].astype(np.float32)
    share = np.where(mask == 0, 0.0, OPACITY).astype(np.float32)[..., None]
    return Image.fromarray((pixels + share * (colours - pixels)).round().astype(np.uint8))


def colour_of(class_: int) -> str:
    """A class's colour as CSS writes it."""
    red, green, blue = palette()[class_].tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def shares(mask: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """The share of the pixels that each class has."""
    counts = np.bincount(mask.reshape(-1), minlength=len(classes))
    return {name: int(counts[i]) / max(mask.size, 1) for i, name in enumerate(classes)}
