"""Describable Textures: lists of `<class>/<file>` in labels/, of which the first of ten partitions is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftbench.common.errors import UserError
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base

_LISTS = {"train": "labels/train1.txt", "validation": "labels/val1.txt", "test": "labels/test1.txt"}


class Reader(base.Reader):
    """Reads Describable Textures."""

    def splits(self) -> dict[str, list[Entry]]:
        tree = self.files.tree("dtd-r1.0.1.tar.gz")
        contents = tree.ending(*_LISTS.values())
        names = {split: contents[file].decode().split() for split, file in _LISTS.items()}
        self.classes = tuple(sorted({name.partition("/")[0] for listed in names.values() for name in listed}))
        if len(self.classes) != 47:
            raise UserError(f"{tree.title}: its lists name {len(self.classes)} classes, expected 47.")
        label = {name: i for i, name in enumerate(self.classes)}
        return {
            split: [Entry(name, label[name.partition("/")[0]], name) for name in listed]
            for split, listed in names.items()
        }

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        return base.pictures_from_tree(self.files.tree("dtd-r1.0.1.tar.gz"), entries, base.path_after("images"))
