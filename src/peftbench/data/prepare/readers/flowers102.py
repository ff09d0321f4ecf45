"""Oxford Flowers 102: jpg/image_00001.jpg …, with labels from 1 and the numbers of each split in two .mat files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftbench.common.errors import UserError
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base
from peftbench.data.prepare.readers.mat import read_variables

_SPLITS = {"train": "trnid", "validation": "valid", "test": "tstid"}


class Reader(base.Reader):
    """Reads Oxford Flowers 102."""

    def splits(self) -> dict[str, list[Entry]]:
        (labels,) = read_variables(self.files.path("imagelabels.mat"), "labels")
        numbers = read_variables(self.files.path("setid.mat"), *_SPLITS.values())
        entries: dict[str, list[Entry]] = {}
        for split, chosen in zip(_SPLITS, numbers, strict=True):
            entries[split] = []
            for number in chosen.ravel().tolist():
                if not 1 <= number <= labels.size:
                    raise UserError(f"setid.mat: names image {number}, and imagelabels.mat has {labels.size} labels.")
                name = f"image_{number:05d}.jpg"
                entries[split].append(Entry(name, int(labels.flat[number - 1]) - 1, name))
        return entries

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        return base.pictures_from_tree(self.files.tree("102flowers.tgz"), entries, lambda name: name.rpartition("/")[2])
