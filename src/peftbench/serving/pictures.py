"""From the bytes that a client sent to the input of a model. Nothing is decoded before its size is known."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from peftbench.common.errors import Refusal, UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.data.media import DAMAGED, decode_no_more_than, open_image, upright_size
from peftbench.serving.limits import Refused
from peftbench.tasks.predictor import Seen

_STILL = {"MPO"}  # a photograph with a smaller picture behind it, as phones and cameras write it
FORMS = "JPEG, PNG, WebP, AVIF, BMP, GIF, TIFF or JPEG 2000"


def prepared(name: str, data: bytes, transform: Any, most_pixels: int) -> tuple[Tensor, Seen]:
    """The pixels of one image as `transform` of the tasks makes them, uint8 (3, H, W), and how it came to them.

    Args:
        name: what messages call it.
        data: the file.
        transform: that of `MultiTask`.
        most_pixels: that an image may have.

    Raises:
        Refused: it is no image (415), an animation (415), too large (413), or damaged (422).
    """
    if not data:
        raise Refused(422, f"{name}: holds no bytes; send the file of an image.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is told, and lower
        try:
            image = open_image(io.BytesIO(data))
        except Image.DecompressionBombError:
            raise Refused(413, f"{name}: has more than the {most_pixels:,} pixels that an image may have.") from None
        except UnidentifiedImageError:
            raise Refused(415, f"{name}: is no image that can be read; send {FORMS}.") from None
        except DAMAGED as problem:
            raise _damaged(name, problem) from None
    with image:
        if (pixels := image.width * image.height) > most_pixels:
            raise Refused(
                413,
                f"{name}: has {image.width:,} x {image.height:,} = {pixels:,} pixels, and an image may have "
                f"{most_pixels:,}; send a smaller one.",
            )
        if getattr(image, "is_animated", False) and image.format not in _STILL:
            raise Refused(
                415,
                f"{name}: is an animation, or has several pages ({image.format}), and one picture is answered; send "
                f"the frame that is meant as PNG or JPEG.",
            )
        try:
            original = upright_size(image)
            if getattr(transform, "draft", False):
                decode_no_more_than(image, _sides(transform.size))
            return _transformed(image, transform, original)
        except Refusal as problem:
            raise Refused(422, f"{name}: {str(problem).partition(';')[0].rstrip('.')}.") from None
        except UserError as problem:
            why = str(problem).removeprefix("this image: ").rstrip(".")
            raise Refused(422, f"{name}: {why}; send it again, whole.") from None
        except DAMAGED as problem:
            raise _damaged(name, problem) from None


def _transformed(image: Image.Image, transform: Any, original: tuple[int, int]) -> tuple[Tensor, Seen]:
    made = transform(image)
    if isinstance(made, tuple):  # of detectors alone: pixels, and where they lie
        pixels, place = made
        return pixels, Seen(place["original"], place["scale"])
    return made, Seen(original, *_placed(original, made.shape[-2:], getattr(transform, "resize", "squash")))


def _placed(
    original: tuple[int, int], size: Sequence[int], resize: str
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(scale, offset) of an image that comes to an input of `size`, (height, width), as `decoding.Resizing` does it."""
    x, y = size[1] / original[1], size[0] / original[0]
    if resize == "crop":
        x = y = max(x, y)
    elif resize == "pad":
        x = y = min(x, y)
    return (x, y), ((size[1] - x * original[1]) / 2, (size[0] - y * original[0]) / 2)


def _damaged(name: str, problem: Exception) -> Refused:
    return Refused(422, f"{name}: cannot be read as an image ({first_sentence(problem)}); send it again, whole.")


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
