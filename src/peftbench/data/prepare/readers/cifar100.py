"""CIFAR-100's binary version: records of two label bytes (coarse, fine) and 3072 of pixels, channel by channel.

TFDS's keys are the numbers of the records. The version for Python is a pickle, and is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from peftbench.common.errors import UserError
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base

_RECORD = 2 + 3 * 32 * 32


class Reader(base.Reader):
    """Reads CIFAR-100."""

    def splits(self) -> dict[str, list[Entry]]:
        tree = self.files.tree("cifar-100-binary.tar.gz")
        contents = tree.ending("train.bin", "test.bin", "fine_label_names.txt")
        self.classes = tuple(contents["fine_label_names.txt"].decode().split())
        self.records = {}
        for split in ("train", "test"):
            content = np.frombuffer(contents[f"{split}.bin"], dtype=np.uint8)
            if not len(content) or len(content) % _RECORD:
                raise UserError(f"{tree.title}: {split}.bin has {len(content):,} bytes, no multiple of {_RECORD}.")
            self.records[split] = content.reshape(-1, _RECORD)
        return {
            split: [Entry(str(i), int(row[1]), (split, i)) for i, row in enumerate(records)]
            for split, records in self.records.items()
        }

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        for at, entry in enumerate(entries):
            split, i = entry.place
            yield at, base.png_bytes(self.records[split][i, 2:].reshape(3, 32, 32).transpose(1, 2, 0))
