"""Which files lie below folders. Links to folders are followed, each real folder once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from peftbench.common.errors import UserError

_Id = tuple[int, int]  # of a folder on this machine, by whatever way it is reached


@dataclass
class Tree:
    """What lies below folders, without what is hidden.

    Attributes:
        files: folder -> its files, sorted.
        folders: folder -> the folders in it that are looked into, sorted.
        circular: linked folders that are not looked into, since they lead to one that is, or to one that holds it.
        neither: what is neither a file nor a folder, such as a link that leads nowhere.
    """

    files: dict[Path, list[Path]] = field(default_factory=dict)
    folders: dict[Path, list[Path]] = field(default_factory=dict)
    circular: list[Path] = field(default_factory=list)
    neither: list[Path] = field(default_factory=list)

    def below(self, folder: Path) -> Iterator[Path]:
        """The files below a folder of the tree, at any depth."""
        yield from self.files[folder]
        for inner in self.folders[folder]:
            yield from self.below(inner)


def read_tree(tops: Iterable[Path]) -> Tree:
    """What lies below some folders. Each of them is read, whatever the others hold.

    Folders that are there without a link come first. A linked one is followed afterwards, unless it leads to one that
    has been read, or to one that holds the place of one: that would go round for ever, or far beyond the data.

    Raises:
        UserError: a folder that cannot be read.
    """
    tree = Tree()
    links: list[Path] = []
    known: set[_Id] = set()
    above: set[_Id] = set()
    tops = list(dict.fromkeys(tops))
    for top in tops:
        known |= _read(tree, top, links, set())
        above |= {_id(folder) for folder in top.resolve().parents}
    while links:
        link = links.pop(0)
        if (id_ := _id(link)) in known or id_ in above:
            tree.circular.append(link)
            continue
        tree.folders[link.parent].append(link)
        known |= _read(tree, link, links, known)
        above |= {_id(folder) for folder in link.resolve().parents}
    for folders in tree.folders.values():
        folders.sort()
    return tree


def _read(tree: Tree, top: Path, links: list[Path], known: set[_Id]) -> set[_Id]:
    """Adds `top` and its folders, without those `known`, to the tree, and their links to `links`. Returns their ids."""
    ids: set[_Id] = set()
    todo = [top]
    while todo:
        folder = todo.pop()
        ids.add(_id(folder))
        files, inner = tree.files[folder], tree.folders[folder] = [], []
        for entry in entries(folder):
            if _is(entry.is_dir):
                path = folder / entry.name
                if entry.is_symlink():
                    links.append(path)
                elif not known or _id(path) not in known:
                    inner.append(path)
            elif _is(entry.is_file):
                files.append(folder / entry.name)
            else:
                tree.neither.append(folder / entry.name)
        todo += inner
    return ids


_OF_SYSTEM = {"thumbs.db", "desktop.ini"}
"""Files that Windows leaves in folders, hidden there."""


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, by name, without what is hidden.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as listing:
            shown = (e for e in listing if not e.name.startswith(".") and e.name.lower() not in _OF_SYSTEM)
            return sorted(shown, key=lambda e: e.name)
    except OSError as problem:
        raise UserError(f"{folder}: cannot be read ({problem.strerror}).") from None


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, linked ones too, sorted."""
    return [folder / entry.name for entry in entries(folder) if _is(entry.is_dir)]


def files_in(folder: Path) -> list[Path]:
    """The files in a folder, linked ones too, sorted."""
    return [folder / entry.name for entry in entries(folder) if _is(entry.is_file)]


def holds(folder: Path, fits: Callable[[Path], bool]) -> bool:
    """Whether any file that fits lies below a folder, also beyond links; no more is read than that takes."""
    known: set[_Id] = set()
    todo = [folder]
    while todo:
        at = todo.pop()
        if (id_ := _id(at)) in known:
            continue
        known.add(id_)
        try:
            with os.scandir(at) as listing:
                for entry in listing:
                    if entry.name.startswith("."):
                        continue
                    if _is(entry.is_dir):
                        todo.append(at / entry.name)
                    elif fits(at / entry.name) and _is(entry.is_file):
                        return True
        except OSError as problem:
            raise UserError(f"{at}: cannot be read ({problem.strerror}).") from None
    return False


def _id(folder: Path) -> _Id:
    try:
        status = folder.stat()
    except OSError as problem:
        raise UserError(f"{folder}: cannot be read ({problem.strerror}).") from None
    return status.st_dev, status.st_ino


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link to itself
        return False
