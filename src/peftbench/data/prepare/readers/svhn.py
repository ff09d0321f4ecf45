"""SVHN, cropped: .mat files with X (32, 32, 3, N) and y (N, 1), where the digit 0 has the label 10."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from peftbench.common.errors import UserError
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base
from peftbench.data.prepare.readers.mat import read_variables


class Reader(base.Reader):
    """Reads SVHN."""

    def splits(self) -> dict[str, list[Entry]]:
        self.pixels, entries = {}, {}
        for split in ("train", "test"):
            path = self.files.path(f"{split}_32x32.mat")
            pixels, labels = read_variables(path, "X", "y")
            if pixels.dtype != np.uint8 or pixels.shape[:3] != (32, 32, 3) or pixels.shape[3:] != (labels.size,):
                raise UserError(
                    f"{path}: X is {pixels.dtype} of shape {list(pixels.shape)} for {labels.size} labels, "
                    f"expected uint8 of [32, 32, 3, N]."
                )
            self.pixels[split] = pixels
            entries[split] = [Entry(str(i), int(y) % 10, (split, i)) for i, y in enumerate(labels.ravel())]
        return entries

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        for at, entry in enumerate(entries):
            split, i = entry.place
            yield at, base.png_bytes(np.ascontiguousarray(self.pixels[split][..., i]))
