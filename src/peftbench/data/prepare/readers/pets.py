"""Oxford-IIIT Pet: images/<breed>_<n>.jpg; trainval.txt and test.txt have `<image> <breed> <species> <n>` a line.

Some of the files are no jpg in spite of their names. TFDS 3 kept all files as they are, and so does this reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base


class Reader(base.Reader):
    """Reads Oxford-IIIT Pet."""

    def splits(self) -> dict[str, list[Entry]]:
        tree = self.files.tree("annotations.tar.gz")
        lists = tree.ending("trainval.txt", "test.txt")
        breeds: dict[int, str] = {}
        entries: dict[str, list[Entry]] = {}
        for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
            entries[split] = []
            for number, line in enumerate(lists[file].decode().splitlines(), start=1):
                words = line.split()
                if not words or line.startswith("#"):
                    continue
                if len(words) != 4 or not words[1].isdecimal():
                    raise UserError(
                        f"{tree.title}: line {number} of {file} is '{shortened(line, 60)}', expected four columns."
                    )
                name, label = f"{words[0]}.jpg", int(words[1]) - 1
                breeds[label] = words[0].rpartition("_")[0]
                entries[split].append(Entry(name, label, name))
        self.classes = tuple(breeds[i] for i in sorted(breeds))
        return entries

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        return base.pictures_from_tree(self.files.tree("images.tar.gz"), entries, lambda name: name.rpartition("/")[2])
