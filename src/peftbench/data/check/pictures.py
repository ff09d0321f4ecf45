"""Every image of a data set, read once: whether it can be, and what it looks like in small."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.common.progress import Watch
from peftbench.data.base import Split
from peftbench.data.decoding import open_rgb
from peftbench.data.media import DAMAGED, read_clip
from peftbench.data.pixel_values import Range

SIDE = 16
"""Pixels of a side of the small grey picture by which images are compared."""
_AT_ONCE = 16


@dataclass(frozen=True)
class Looks:
    """What N images of a split look like.

    Attributes:
        hashes: uint64 (N,), the difference hash: whether each of 8 x 8 places is brighter than the next to its right.
        small: uint8 (N, SIDE * SIDE), the image in grey, squashed.
        broken: index -> why it cannot be read; its hash and picture are 0.
        faults: index -> what is wrong with its target.
    """

    hashes: np.ndarray
    small: np.ndarray
    broken: dict[int, str]
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def whole(self) -> np.ndarray:
        """The indices of the images that can be read."""
        return np.array([at for at in range(len(self.hashes)) if at not in self.broken], dtype=np.int64)


def look_at(split: Split, values: Range = "auto", watch: Watch = lambda done, of: None) -> Looks:
    """Reads every image of a split, or the middle frame of each clip.

    Args:
        split: what to read.
        values: which values of images of more than 8 bits are black and white.
        watch: called with the number of images that have been read, and of how many; what it raises ends the look.
    """
    count = len(split)
    hashes, small = np.zeros(count, dtype=np.uint64), np.zeros((count, SIDE * SIDE), dtype=np.uint8)
    broken: dict[int, str] = {}
    faults: dict[int, str] = {}

    def look(indices: range) -> dict[int, str]:
        problems = {}
        for at in indices:
            try:
                image = picture_of(split, at, values).convert("L")
                if fault := split.fault(at, (image.height, image.width)):
                    faults[at] = fault
            except DAMAGED as problem:
                problems[at] = first_sentence(problem)
                continue
            except UserError as problem:  # nothing says which values are black and white
                problems[at] = str(problem)
                continue
            small[at] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1)
            hashes[at] = _difference_hash(image)
        return problems

    pieces = [range(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE)]
    with ThreadPoolExecutor() as pool:
        try:
            for indices, problems in zip(pieces, pool.map(look, pieces), strict=True):
                broken |= problems
                watch(indices.stop, count)
        except BaseException:  # who watches has seen enough: what was not begun is not waited for
            pool.shutdown(cancel_futures=True)
            raise
    return Looks(hashes, small, broken, dict(sorted(faults.items())))


def picture_of(split: Split, at: int, values: Range = "auto") -> Image.Image:
    """An image of a split in RGB, upright; of a clip its middle frame. Raises what `open_rgb` raises."""
    source = split.images[at]
    if split.frames is None or isinstance(source, np.ndarray):
        return open_rgb(source, values)
    (frame,) = read_clip(Path(source), 1, lambda picture: np.asarray(open_rgb(picture, values)))
    return Image.fromarray(frame)


def _difference_hash(image: Image.Image) -> np.uint64:
    """dHash (Neal Krawetz, 2013): 64 comparisons of neighbours in a picture of 9 x 8."""
    grey = np.asarray(image.resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    return np.frombuffer(bits.tobytes(), dtype=">u8")[0].astype(np.uint64)


def thumbnail(split: Split, at: int, values: Range = "auto", side: int = 96) -> bytes:
    """An image of a split as a JPEG file of `side` pixels at most a side. Raises what `open_rgb` raises."""
    picture = picture_of(split, at, values)
    picture.thumbnail((side, side))
    with io.BytesIO() as file:
        picture.save(file, "JPEG", quality=80)
        return file.getvalue()
