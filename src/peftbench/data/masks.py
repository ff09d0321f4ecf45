"""What a segmentation data set is: images with the class of each pixel, read from mask files. Needs no torch."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.data.base import Split, stamp_of_bytes, stamps_of_files
from peftbench.data.boxes import HASHED
from peftbench.data.media import DAMAGED, open_image

IGNORED = 255
"""The class of a pixel that is neither learned from nor judged."""
MOST = 255
"""Classes that there may be: a mask holds a byte a pixel."""
_UNKNOWN = -1

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Coding:
    """What mask files hold.

    Attributes:
        values: value of an index mask -> class, or `IGNORED`.
        colours: RGB -> class, or `IGNORED`; empty where masks hold values alone.
        classes: how many there are.
    """

    values: dict[int, int]
    classes: int
    colours: dict[Colour, int] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """A hash of it."""
        return hashlib.sha256(repr((sorted(self.values.items()), sorted(self.colours.items()))).encode()).hexdigest()

    def decode(self, image: Image.Image, name: str) -> np.ndarray:
        """uint8 (H, W), classes and `IGNORED`, of an opened mask; `name` is what messages call it.

        A mask with a palette is read by its colours where all that it uses are known, else by its indices.

        Raises:
            UserError: it holds a value or a colour that stands for no class, or colours where none are known.
        """
        if image.mode in ("RGB", "RGBA"):
            return self._of_colours(np.asarray(image.convert("RGB")), name)
        pixels = np.asarray(image)
        if pixels.ndim != 2 or pixels.dtype.kind not in "biu":
            raise UserError(
                f"{name}: is of mode {image.mode}; expected a mask of one value a pixel (modes P, L, 1, I;16 or I), or "
                f"of colours (RGB)."
            )
        if image.mode == "P" and self.colours and (by_colour := self._of_palette(image, pixels)) is not None:
            return by_colour
        if pixels.dtype != np.uint8:
            there, at = np.unique(pixels, return_inverse=True)
            classes = np.array([self.values.get(int(value), _UNKNOWN) for value in there])[at].reshape(pixels.shape)
        else:
            classes = self._table[pixels]
        if classes.size and classes.min() < 0:
            value = int(pixels[classes < 0].min())
            raise UserError(f"{name}: holds the value {value}; expected {self._expected()}.")
        return np.asarray(classes, dtype=np.uint8)

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """int16 (256,): the class of each value of a byte."""
        table = np.full(256, _UNKNOWN, dtype=np.int16)
        for value, class_ in self.values.items():
            if 0 <= value < 256:
                table[value] = class_
        return table

    def _expected(self) -> str:
        counted = sorted(value for value, class_ in self.values.items() if class_ != IGNORED)
        ignored = sorted(value for value, class_ in self.values.items() if class_ == IGNORED)
        span = f"{counted[0]} to {counted[-1]}" if counted else "no value"
        also = f", and {', '.join(map(str, ignored[:3]))} where no class is" if ignored else ""
        return f"{span} ({plural(self.classes, 'class')}){also}"

    def _of_colours(self, pixels: np.ndarray, name: str) -> np.ndarray:
        if not self.colours:
            raise UserError(
                f"{name}: is in RGB, and nothing says which colour is which class; expected a mask of one value a "
                f"pixel, or a classes.csv with the columns name, r, g and b."
            )
        codes = _codes(pixels)
        there, at = np.unique(codes, return_inverse=True)
        table = np.array([self.colours.get(_colour(code), _UNKNOWN) for code in there])
        if (table == _UNKNOWN).any():
            red, green, blue = _colour(there[int((table == _UNKNOWN).argmax())])
            raise UserError(
                f"{name}: holds the colour ({red}, {green}, {blue}), which is of no class; expected one of the "
                f"{plural(len(self.colours), 'colour')} of classes.csv (one that was saved as JPEG, or resized, holds "
                f"others)."
            )
        return table.astype(np.uint8)[at].reshape(pixels.shape[:2])

    def _of_palette(self, image: Image.Image, indices: np.ndarray) -> np.ndarray | None:
        palette = (image.getpalette() or [])[:768]
        colours = [(palette[i], palette[i + 1], palette[i + 2]) for i in range(0, len(palette) - 2, 3)]
        used = np.unique(indices)
        if used[-1] >= len(colours) or any(colours[i] not in self.colours for i in used):
            return None
        table = np.full(256, IGNORED, dtype=np.uint8)
        for i in used:
            table[i] = self.colours[colours[i]]
        return np.asarray(table[indices])


def _codes(pixels: np.ndarray) -> np.ndarray:
    """Of RGB (H, W, 3) one number a pixel."""
    wide = pixels.astype(np.uint32)
    return np.asarray((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2])


def _colour(code: Any) -> Colour:
    return int(code) >> 16, int(code) >> 8 & 255, int(code) & 255


class Mask(ABC):
    """The classes of the pixels of one image."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call it."""

    @property
    @abstractmethod
    def stamp(self) -> str:
        """A hash of what it holds."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """How large its file is; 0 where it has none."""

    @abstractmethod
    def read(self) -> np.ndarray:
        """uint8 (H, W): indices of classes, `IGNORED` elsewhere. Raises UserError."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (n,): the classes that it has a pixel of, in ascending order. Raises UserError."""
        there = np.flatnonzero(np.bincount(self.read().reshape(-1), minlength=256))
        return there[there != IGNORED]


@dataclass(frozen=True)
class MaskInFile(Mask):
    """A mask in an image file of its own; `reading` tells apart in how many ways its pixels can be read."""

    path: Path

    @property
    @abstractmethod
    def reading(self) -> str: ...

    @abstractmethod
    def decoded(self, image: Image.Image) -> np.ndarray:
        """The classes of an open image's pixels, uint8 (H, W). Raises UserError."""

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def stamp(self) -> str:
        (stamp,) = stamps_of_files([self.path])
        return f"{stamp}-{self.reading[:8]}"

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size

    def read(self) -> np.ndarray:
        try:
            with open_image(self.path) as image:
                image.load()
                return self.decoded(image)
        except DAMAGED as problem:
            raise UserError(f"{self.path}: cannot be read as a mask ({problem}).") from None


@dataclass(frozen=True)
class MaskFile(MaskInFile):
    """A mask whose values or colours are classes."""

    coding: Coding

    @property
    def reading(self) -> str:
        return self.coding.stamp

    def decoded(self, image: Image.Image) -> np.ndarray:
        return self.coding.decode(image, self.name)


@dataclass(frozen=True)
class MaskSplit(Split):
    """Images whose `labels` are an object array of `Mask`."""

    def unknown(self, classes: int) -> tuple[int, int] | None:
        """None: what masks hold is seen when they are read."""
        return None

    def fault(self, at: int, size: tuple[int, int]) -> str:
        """That its mask cannot be read, is of another size, or has no pixel of a class."""
        mask: Mask = self.labels[at]
        try:
            pixels = mask.read()
        except UserError as problem:
            return str(problem).rstrip(".")
        if pixels.shape != size:
            return f"{mask.name}: is {pixels.shape[1]} x {pixels.shape[0]} pixels, and its image {size[1]} x {size[0]}"
        return "" if (pixels != IGNORED).any() else f"{mask.name}: has no pixel of a class"

    def lines(self) -> list[str]:
        """One line an image: its name, its mask's hash and that of its bytes.

        Where the files hold more than 2 GB together, each file's size stands for its bytes.
        """
        assert not isinstance(self.images, np.ndarray)
        try:
            sizes = [path.stat().st_size for path in self.images]
            masks = [mask.bytes for mask in self.labels]
        except OSError as problem:
            raise UserError(f"{problem.filename}: cannot be read ({problem.strerror}).") from None
        if sum(sizes) + sum(masks) <= HASHED:
            stamps, of_masks = stamps_of_files(self.images), stamps_of_masks(list(self.labels))
        else:
            stamps, of_masks = [f"{size}B" for size in sizes], [f"{size}B" for size in masks]
        return [f"{n} {m} {s}" for n, m, s in zip(self.names, of_masks, stamps, strict=True)]


def stamps_of_masks(masks: Sequence[Mask]) -> list[str]:
    """The hash of each mask; their files are read together."""
    files = [mask for mask in masks if isinstance(mask, MaskFile)]
    if len(files) < len(masks):
        return [mask.stamp for mask in masks]
    codings = {id(mask.coding): mask.coding.stamp[:8] for mask in files}
    stamps = stamps_of_files([mask.path for mask in files])
    return [f"{stamp}-{codings[id(mask.coding)]}" for stamp, mask in zip(stamps, files, strict=True)]


def mask_split(images: Sequence[Path], masks: Sequence[Mask], names: Sequence[str]) -> MaskSplit:
    """The split of these images."""
    labels = np.empty(len(masks), dtype=object)
    labels[:] = masks
    return MaskSplit(list(images), labels, list(names))


def stamp_of_mask(mask: np.ndarray) -> str:
    """The hash of a mask that no file holds."""
    return stamp_of_bytes(repr(mask.shape).encode() + np.ascontiguousarray(mask).tobytes())


def counts_of_pixels(masks: Sequence[Mask], classes: int) -> np.ndarray:
    """int64 (N, classes + 1): pixels of each class in each mask, and in the last column those that are ignored.

    Raises:
        UserError: a mask cannot be read.
    """
    from concurrent.futures import ThreadPoolExecutor

    def count(mask: Mask) -> np.ndarray:
        pixels = np.bincount(mask.read().reshape(-1), minlength=256)
        return np.append(pixels[:classes], pixels[IGNORED])

    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(count, masks)), dtype=np.int64).reshape(len(masks), classes + 1)
