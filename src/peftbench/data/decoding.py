"""From files, clips or arrays to pixels: any mode and rotation, in RGB and resized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from peftbench.common.errors import UserError
from peftbench.common.home import with_home
from peftbench.data.media import DAMAGED, decode_no_more_than, load_upright, open_image, read_clip
from peftbench.data.pixel_values import Range, in_eight_bits

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}

Picture = np.ndarray | str | Path | Image.Image
"""What an image is read from: pixels (H, W) or (H, W, 3) in uint8 (grey also in uint16 or floats), a file, or PIL's."""

UNNAMED = "this image"
"""What messages call an image that is no file."""


def at_home(image: Picture) -> Picture:
    """A path that a user wrote, with `~` as the home; any other picture, or a file that is called so, as it is.

    Raises:
        UserError: it names the home of a user who is not there.
    """
    if isinstance(image, str | Path) and str(image).startswith("~") and not Path(image).exists():
        return with_home(str(image), str(image))
    return image


@dataclass(frozen=True)
class Resizing:
    """How an image of any shape comes to the shape of the input.

    Attributes:
        how: `squash` resizes without regard to the shape, `crop` takes the largest part of the input's shape from the
            middle, `pad` resizes all of it to fit and fills what is left at both sides.
        colour: RGB of what is filled.
        draft: a JPEG is decoded in the smallest of its own sizes (all, 1/2, 1/4, 1/8) that is as large as the input;
            the rest of the way it is resized as ever.
    """

    interpolation: str
    how: str = "squash"
    colour: tuple[int, int, int] = (0, 0, 0)
    draft: bool = False

    def __call__(self, image: Image.Image, width: int, height: int) -> Image.Image:
        """An image in RGB, in the size of the input."""
        resample = FILTERS[self.interpolation]
        if self.how == "crop":
            return ImageOps.fit(image, (width, height), resample)
        if self.how == "pad":
            return ImageOps.pad(image, (width, height), resample, color=self.colour)
        return image.resize((width, height), resample)


def decode_image(
    source: Picture, size: int | tuple[int, int], resizing: Resizing | str, values: Range = "auto"
) -> np.ndarray:
    """An image as uint8 (3, size, size), or (3, *size): as `open_rgb` gives it, resized.

    `resizing` may be the name of a filter alone: then without its aspect.

    Raises:
        UserError, OSError, ValueError: as `open_rgb`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    resizing = Resizing(resizing) if isinstance(resizing, str) else resizing
    needed = (height, width) if resizing.draft else None
    return np.asarray(resizing(open_rgb(source, values, needed=needed), width, height)).transpose(2, 0, 1)


def open_rgb(
    source: Picture,
    values: Range = "auto",
    annotated: tuple[int, int] | None = None,
    needed: tuple[int, int] | None = None,
) -> Image.Image:
    """An image of any mode in RGB: turned as its EXIF says, transparency dropped, grey of more bits scaled to 8.

    Args:
        source: a file, or what it holds.
        values: which values are black and white.
        annotated: (height, width) that its annotations say: see `media.load_upright`.
        needed: (height, width) that is enough: the file of a JPEG is then decoded in the smallest of its sizes that is
            not below. None decodes all of it.

    Raises:
        UserError: it is of a type, or pixels are of a shape, that holds no image.
        Refusal: nothing says which of its values are black and white.
        OSError, ValueError: it cannot be read as one (`media.DAMAGED`).
    """
    if isinstance(source, np.ndarray):
        if not source.size:
            raise UserError(f"pixels of shape {list(source.shape)}: hold no pixel; expected (H, W) or (H, W, 3).")
        try:
            image = Image.fromarray(source)
        except TypeError:
            raise UserError(
                f"pixels of shape {list(source.shape)} in {source.dtype}: expected (H, W) or (H, W, 3) in uint8."
            ) from None
        return _as_seen(image, values, None, UNNAMED)
    if isinstance(source, Image.Image):
        if not (source.width and source.height):
            raise UserError(f"{UNNAMED}: holds no pixel; it is {source.width} wide and {source.height} high.")
        return _as_seen(source, values, annotated, UNNAMED)
    if not isinstance(source, str | Path):
        raise UserError(f"an image in a {type(source).__name__}: expected a file, a PIL image or pixels in NumPy.")
    with open_image(source) as file:
        if needed is not None:
            decode_no_more_than(file, needed)
        return _as_seen(file, values, annotated, str(source))


def opened(image: Picture, values: Range = "auto") -> Image.Image:
    """As `open_rgb`, of what a user gives. Raises UserError where it cannot be read."""
    image = at_home(image)
    try:
        return open_rgb(image, values)
    except DAMAGED as problem:
        name = image if isinstance(image, str | Path) else UNNAMED
        raise UserError(f"{name}: cannot be read as an image ({problem}).") from None


def _as_seen(image: Image.Image, values: Range, annotated: tuple[int, int] | None, name: str) -> Image.Image:
    return _to_rgb(in_eight_bits(load_upright(image, annotated), image, values, name))


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image of 8 bits a channel in RGB, transparency dropped."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def decode_clip(clip: Path, frames: int, size: int, resizing: Resizing | str, values: Range = "auto") -> np.ndarray:
    """A clip, which is a folder of images or a video file, as uint8 (frames, 3, size, size).

    Raises:
        Refusal: as `open_rgb`, of a frame.
        OSError, ValueError: it cannot be read (`media.DAMAGED`), with the frame's name where a frame is at fault.
    """

    def decode_frame(frame: np.ndarray | Path) -> np.ndarray:
        try:
            return decode_image(frame, size, resizing, values)
        except DAMAGED as problem:
            raise ValueError(f"{frame.name}: {problem}" if isinstance(frame, Path) else str(problem)) from None

    return np.stack(read_clip(clip, frames, decode_frame))
