"""Which values of a grey image are black and white: by its type, or as `data.range` says."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from peftbench.common.errors import Refusal

Range = Literal["auto"] | tuple[float, float]
"""`auto`, by the type of an image, or the values that become black and white."""
_USUAL = ((0, 1), (0, 255), (0, 1023), (0, 4095), (0, 65535))  # ranges to propose, the narrowest that fits


def in_eight_bits(image: Image.Image, opened: Image.Image, wanted: Range, name: str) -> Image.Image:
    """The image with 8 bits a channel: one of grey values in more bits is scaled, others are as they were.

    By `auto` 12 and 16 bits have their whole range, and floats are from 0 to 1. Otherwise `wanted` are the values that
    become black and white; what lies beyond is cut, and what is no number is black. A TIFF in which 0 is white comes
    out as it is to be seen.

    Args:
        image: with its pixels.
        opened: what it comes from, which knows its file; a turned copy does not.
        wanted: which values are black and white.
        name: the file's, for messages.

    Raises:
        Refusal: the type says too little, or the range is not for this image.
    """
    if not _deep(image):
        if wanted != "auto" and wanted != (0, 255):
            raise Refusal(
                f"{name}: is of mode {image.mode}, whose black and white are known, and data.range={_written(wanted)} "
                f"is for grey images of 16 bits, 32 bits or floats alone; leave data.range out, or convert this image."
            )
        if _of_tiff(opened, SAMPLEFORMAT) == 2:  # which Pillow takes for unsigned
            raise Refusal(f"{name}: holds signed numbers of 8 bits, which are not read; convert it to unsigned ones.")
        if _of_tiff(opened, PLANAR_CONFIGURATION) == 2 and (_of_tiff(opened, BITSPERSAMPLE) or 8) > 8:
            raise Refusal(  # Pillow takes the bytes of a plane for pixels, and says nothing
                f"{name}: holds colours of {_of_tiff(opened, BITSPERSAMPLE)} bits, one plane after another, which are "
                f"not read; convert it to interleaved colours, or to 8 bits."
            )
        return image
    values = np.asarray(image, dtype=np.float64)
    black, white = _by_type(opened, values, name) if wanted == "auto" else wanted
    if _of_tiff(opened, PHOTOMETRIC_INTERPRETATION) == 0:
        black, white = white, black
    shares = np.nan_to_num((values - black) / (white - black), nan=0.0, posinf=1.0, neginf=0.0)
    return Image.fromarray((shares * 255).round().clip(0, 255).astype(np.uint8))


def _deep(image: Image.Image) -> bool:
    """Whether it has grey values in more than 8 bits; Pillow itself makes 8 bits of colours in more."""
    return image.mode == "F" or image.mode.startswith("I")


def _by_type(opened: Image.Image, values: np.ndarray, name: str) -> tuple[float, float]:
    """Black and white of an image of this type. Raises Refusal where the type does not say."""
    if opened.mode.startswith("I;16"):
        return 0, 2 ** (12 if _of_tiff(opened, BITSPERSAMPLE) == 12 else 16) - 1
    if opened.mode == "I" and opened.format in ("PNG", "PPM"):  # of 16 bits there, scaled to them
        return 0, 65535
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if opened.mode == "F" and finite.size == values.size and least >= 0 and most <= 1:
        return 0, 1
    kind = "floats" if opened.mode == "F" else "signed or 32-bit whole numbers"
    others = f" and {values.size - finite.size:,} that are no numbers" if finite.size < values.size else ""
    why = "where only 0 to 1 are known to be black and white" if opened.mode == "F" else "which may mean anything"
    raise Refusal(
        f"{name}: holds {kind} from {least:.9g} to {most:.9g}{others}, {why}; give the values that are black and "
        f"white, such as data.range={_written(_proposed(least, most, opened.mode == 'F'))}."
    )


def _proposed(least: float, most: float, floats: bool) -> tuple[float, float]:
    """A range for values like these: the narrowest usual one, unless floats fill little of it."""
    for black, white in _USUAL:
        if least >= black and most <= white and (not floats or white == 1 or most > white / 4):
            return black, white
    return min(least, 0), most if most > min(least, 0) else most + 1


def _of_tiff(image: Image.Image, tag: int) -> Any:
    """The value of a TIFF's tag, or the first of several; None where it has none."""
    if not isinstance(image, TiffImageFile):
        return None
    value = image.tag_v2.get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def _written(limits: tuple[float, float]) -> str:
    """As the command line has it."""
    return f"[{limits[0]:.9g},{limits[1]:.9g}]"
