"""Images of a split made small enough for a page, as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.base import Split
from peftbench.data.decoding import open_rgb
from peftbench.data.media import DAMAGED, read_clip
from peftbench.data.pixel_values import Range

SIDE = 112
"""Pixels of the longer side of a thumbnail at most."""
_FEW = 40  # pixels of the longer side, up to which an image is embedded as it is, without loss


def picture_of(split: Split, index: int, values: Range = "auto") -> Image.Image | None:
    """An image of a split in RGB as it stands upright, of a clip the frame in its middle; None where it is gone.

    Args:
        split: any.
        index: its place in it.
        values: which values of images of more than 8 bits are black and white.
    """
    source = split.images[index]
    annotated = getattr(split.labels[index], "size", None)
    try:
        if split.frames is not None:
            frames = read_clip(Path(source), split.frames, lambda frame: np.asarray(open_rgb(frame, values)))
            return Image.fromarray(frames[len(frames) // 2])
        return open_rgb(source, values, annotated if isinstance(annotated, tuple) else None)
    except (UserError, *DAMAGED):
        return None


def small(image: Image.Image, side: int = SIDE) -> Image.Image:
    """The image with at most so many pixels on its longer side; a smaller one stays as it is."""
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image


def is_tiny(image: Image.Image) -> bool:
    """Whether its pixels are so few that enlarging should keep them apart."""
    return max(image.size) <= _FEW


def data_uri(image: Image.Image) -> str:
    """The image as a data URI: JPEG, or PNG where it is tiny. Nothing but pixels is in it: no EXIF, no name."""
    file = io.BytesIO()
    kind = "png" if is_tiny(image) else "jpeg"
    plain = Image.new("RGB", image.size)
    plain.paste(image)
    plain.save(file, kind, **({} if kind == "png" else {"quality": 78}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
