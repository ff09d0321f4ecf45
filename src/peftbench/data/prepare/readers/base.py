"""What a reader of a source's files is."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.source_files import SourceFiles
from peftbench.data.prepare.tree import Tree


class Reader(ABC):
    """Reads the files of one source for one task.

    Attributes:
        classes: the classes' names in the order of the labels; empty where the files name none.
    """

    def __init__(self, files: SourceFiles, task: str) -> None:
        self.files, self.task = files, task
        self.classes: tuple[str, ...] = ()

    @abstractmethod
    def splits(self) -> dict[str, list[Entry]]:
        """Every image, by split of TFDS's data set. An entry's key is the record's key there, its label the task's.

        Raises UserError where files are missing, damaged, or not of the format.
        """

    @abstractmethod
    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        """(index, image file) of each entry, in any order: the original file's bytes, or a PNG of the same pixels."""


def png_bytes(pixels: np.ndarray) -> bytes:
    """uint8 pixels (H, W) or (H, W, 3) as a PNG file."""
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return packed.getvalue()


def pictures_from_tree(
    files: Tree, entries: Sequence[Entry], key: Callable[[str], str] = str
) -> Iterator[tuple[int, bytes]]:
    """Pictures that are files, whose `key(path)` is the entry's place."""
    index = {entry.place: i for i, entry in enumerate(entries)}
    for place, content in files.read(index, key):
        yield index[place], content


def path_after(folder: str) -> Callable[[str], str]:
    """A key: what follows `folder` in a path; the path as it is where `folder` is not in it."""

    def key(name: str) -> str:
        before, _, rest = f"/{name}".rpartition(f"/{folder}/")
        return rest if before or rest != f"/{name}" else name

    return key
