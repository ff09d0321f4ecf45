"""EuroSAT and RESISC45: a folder of jpg a class. TFDS's key is `<class>_<file>`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftbench.common.errors import UserError
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base


class Reader(base.Reader):
    """Reads EuroSAT or RESISC45."""

    def splits(self) -> dict[str, list[Entry]]:
        self.classes = self.files.source.names
        tree = self._tree()
        label = {name: i for i, name in enumerate(self.classes)}
        entries = []
        for name in tree.names():
            folder, _, file = name.rpartition("/")
            class_ = folder.rpartition("/")[2]
            if class_ in label and file.endswith(".jpg") and not file.startswith("."):
                entries.append(Entry(f"{class_}_{file}", label[class_], name))
        if lost := set(label) - {self.classes[entry.label] for entry in entries}:
            others = f" and {len(lost) - 1} other classes" if len(lost) > 1 else ""
            raise UserError(f"{tree.title}: holds no jpg of {min(lost)}{others}.")
        return {"train": entries}

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        return base.pictures_from_tree(self._tree(), entries)

    def _tree(self):
        return self.files.tree(self.files.source.files[0].name)
