"""SmallNORB's binary matrices: a magic number that gives the type, the number of dimensions, the dimensions (three at
least) and the values, all little-endian.

`dat` is (N, 2, 96, 96), pairs of which the left picture is taken; `info` is (N, 4): instance, elevation, azimuth,
lighting. `smallnorb_ele` is the elevation (0 to 8), `smallnorb_azi` half the azimuth (0, 2, …, 34). TFDS's keys are
the numbers of the pairs in each split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from peftbench.common.errors import UserError
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base
from peftbench.data.prepare.tree import gunzipped_content

_TYPES: dict[int, np.dtype] = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}
_NAMES = {"train": ("46789", "training"), "test": ("01235", "testing")}


class Reader(base.Reader):
    """Reads SmallNORB."""

    def splits(self) -> dict[str, list[Entry]]:
        self.pixels, entries = {}, {}
        for split in _NAMES:
            pixels, info = self._matrix(split, "dat"), self._matrix(split, "info")
            if pixels.shape[1:] != (2, 96, 96) or info.shape != (len(pixels), 4):
                raise UserError(
                    f"smallnorb: the {split} pictures are {list(pixels.shape)} and their facts {list(info.shape)}; "
                    f"expected [N, 2, 96, 96] and [N, 4]."
                )
            self.pixels[split] = pixels[:, 0].copy()
            labels = info[:, 1] if self.task == "smallnorb_ele" else info[:, 2] // 2
            entries[split] = [Entry(str(i), int(label), (split, i)) for i, label in enumerate(labels)]
        return entries

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        for at, entry in enumerate(entries):
            split, i = entry.place
            yield at, base.png_bytes(self.pixels[split][i])

    def _matrix(self, split: str, part: str) -> np.ndarray:
        instances, name = _NAMES[split]
        path = self.files.path(f"smallnorb-5x{instances}x9x18x6x2x96x96-{name}-{part}.mat.gz")
        return parse_matrix(path, gunzipped_content(path))


def parse_matrix(path: Path, content: bytes) -> np.ndarray:
    """The array in the file at `path`. Raises UserError where it is not of the format."""
    head = np.frombuffer(content[: len(content) // 4 * 4][:80], dtype="<i4")
    if len(head) < 5 or int(head[0]) not in _TYPES or not 1 <= head[1] <= 8:
        raise UserError(f"{path}: is none of SmallNORB's matrices.")
    dimensions, dtype = int(head[1]), _TYPES[int(head[0])]
    shape = tuple(int(n) for n in head[2 : 2 + dimensions])
    begin = 4 * (2 + max(3, dimensions))
    if any(n < 0 for n in shape) or len(content) - begin != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
        raise UserError(f"{path}: has {len(content) - begin:,} bytes of values, not those of {list(shape)}.")
    return np.frombuffer(content, dtype=dtype, offset=begin).reshape(shape)
