"""Caltech-101: 102 class folders of jpg, the background's among them, in a tar.gz inside a zip.

TFDS drew its 30 training images of each class with a seeded generator from the files in the order in which the file
system gave them, which no archive tells; what is drawn here is our own: the first 30 of each class in the order
`peftbench-v1`. Labels are those of TFDS: the folders' names in lower case, sorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftbench.common.errors import UserError
from peftbench.data.prepare.drawing import OURS, Entry, ordered_entries
from peftbench.data.prepare.readers import base
from peftbench.data.prepare.tree import Tree, ZipTree

_TRAIN, _CLASSES = 30, 102


class Reader(base.Reader):
    """Reads Caltech-101."""

    def splits(self) -> dict[str, list[Entry]]:
        tree = self._tree()
        folders: dict[str, list[str]] = {}
        for name in tree.names():
            folder, _, file = name.rpartition("/")
            if file.endswith(".jpg") and not file.startswith("."):  # one 'tmp' lies among them
                folders.setdefault(folder.rpartition("/")[2], []).append(name)
        if len(folders) != _CLASSES:
            raise UserError(f"{tree.title}: has {len(folders)} folders with jpg files, expected {_CLASSES}.")
        self.classes = tuple(sorted(folders, key=str.lower))
        train, test = [], []
        for label, name in enumerate(self.classes):
            entries = [Entry(f"{name}/{path.rpartition('/')[2]}", label, path) for path in folders[name]]
            entries = ordered_entries(entries, f"caltech101/{name.lower()}", OURS)
            count = min(_TRAIN, len(entries) - 1)
            train += entries[:count]
            test += entries[count:]
        return {"train": train, "test": test}

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        return base.pictures_from_tree(self._tree(), entries)

    def _tree(self) -> Tree:
        tree = self.files.tree("caltech-101.zip")
        return tree.inner("101_ObjectCategories.tar.gz") if isinstance(tree, ZipTree) else tree
