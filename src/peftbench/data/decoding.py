"""From files, clips or arrays to pixels: any mode and rotation, in RGB and resized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.media import DAMAGED, read_clip, upright

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}

Picture = np.ndarray | str | Path | Image.Image
"""What an image is read from: pixels (H, W) or (H, W, 3) in uint8, a file, or PIL's own."""


def decode_image(source: Picture, size: int | tuple[int, int], interpolation: str) -> np.ndarray:
    """An image as uint8 (3, size, size), or (3, *size): turned as its EXIF says, in RGB, resized without its aspect.

    Raises:
        UserError, OSError, ValueError: as `open_image`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    image = to_rgb(open_image(source)).resize((width, height), FILTERS[interpolation])
    return np.asarray(image).transpose(2, 0, 1)


def open_image(source: Picture) -> Image.Image:
    """An image of any mode, turned as its EXIF says.

    Raises:
        UserError: it is of a type, or pixels are of a shape, that holds no image.
        OSError, ValueError: it cannot be read as one (`media.DAMAGED`).
    """
    if isinstance(source, np.ndarray):
        try:
            return Image.fromarray(source)
        except TypeError:
            raise UserError(
                f"pixels of shape {list(source.shape)} in {source.dtype}: expected (H, W) or (H, W, 3) in uint8."
            ) from None
    if isinstance(source, Image.Image):
        source.load()  # some files keep their EXIF behind the pixels
        return upright(source)
    if not isinstance(source, str | Path):
        raise UserError(f"an image in a {type(source).__name__}: expected a file, a PIL image or pixels in NumPy.")
    with Image.open(source) as file:
        file.load()
        return upright(file)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB: 16 bit grey scaled to 8 bit, transparency dropped."""
    if image.mode.startswith("I"):  # 16 bit grey: PIL would clip to 255
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def decode_clip(clip: Path, frames: int, size: int, interpolation: str) -> np.ndarray:
    """A clip, which is a folder of images or a video file, as uint8 (frames, 3, size, size).

    Raises:
        OSError, ValueError: it cannot be read (`media.DAMAGED`), with the frame's name where a frame is at fault.
    """

    def decode_frame(frame: np.ndarray | Path) -> np.ndarray:
        try:
            return decode_image(frame, size, interpolation)
        except DAMAGED as problem:
            raise ValueError(f"{frame.name}: {problem}" if isinstance(frame, Path) else str(problem)) from None

    return np.stack(read_clip(clip, frames, decode_frame))
