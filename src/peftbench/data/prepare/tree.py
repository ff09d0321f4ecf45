"""Files in a folder, a zip or a tar archive, read where they are: nothing is ever unpacked to disk."""

from __future__ import annotations

import gzip
import lzma
import posixpath
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from peftbench.common.errors import UserError

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)


class Tree(ABC):
    """Named files. Names are posix paths relative to the root; what leads out of it is refused.

    Raises, from every method:
        UserError: a damaged archive, or one with a path that leads out of its folder.
    """

    def __init__(self, title: str) -> None:
        self.title = title

    def names(self) -> list[str]:
        """Every file, in the archive's order; a folder's are sorted."""
        return [name for name, _ in self.walk(lambda name: False)]

    @abstractmethod
    def walk(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes] | None]]:
        """Every file once, those that are `wanted` opened for as long as the iterator stays there."""

    def read(self, wanted: Collection[str], key: Callable[[str], str] = str) -> Iterator[tuple[str, bytes]]:
        """(key, bytes) of the files whose `key(path)` is wanted, in the archive's order.

        Raises:
            UserError: at the end, where one is not there.
        """
        left = set(wanted)
        for name, file in self.walk(lambda name: key(name) in left) if left else ():
            if file is not None and key(name) in left:
                with self.guarded():
                    content = file.read()
                yield key(name), content
                left.discard(key(name))
                if not left:
                    return
        if left:
            raise UserError(
                f"{self.title}: holds no {min(left)}{_more(len(left))}; it is not whole, or not the right one."
            )

    def ending(self, *endings: str) -> dict[str, bytes]:
        """The contents of the files whose paths have these endings, by ending.

        Raises:
            UserError: one is not there.
        """
        contents: dict[str, bytes] = {}
        for name, file in self.walk(lambda name: any(_ends(name, e) for e in endings)):
            if file is not None:
                with self.guarded():
                    content = file.read()
                contents |= {e: content for e in endings if _ends(name, e)}
                if len(contents) == len(endings):
                    break
        if lost := [e for e in endings if e not in contents]:
            raise UserError(
                f"{self.title}: holds no {lost[0]}{_more(len(lost))}; it is not whole, or not the right one."
            )
        return contents

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turns what a damaged archive raises into one sentence."""
        try:
            yield
        except _BROKEN as problem:
            raise UserError(
                f"{self.title}: is damaged or not whole ({problem or type(problem).__name__}); "
                f"remove it and fetch it again."
            ) from None


class FolderTree(Tree):
    """A folder on disk."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root

    def walk(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes] | None]]:
        for path in sorted(p for p in self.root.rglob("*") if p.is_file()):
            name = path.relative_to(self.root).as_posix()
            if wanted(name):
                with path.open("rb") as file:
                    yield name, file
            else:
                yield name, None


class ZipTree(Tree):
    """A zip archive, by random access."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        with self.guarded(), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                _inside(self.title, info.filename)
            yield archive

    def walk(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes] | None]]:
        with self._opened() as archive:
            for info in archive.infolist():
                if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
                    continue
                if wanted(info.filename):
                    with archive.open(info) as file:
                        yield info.filename, file
                else:
                    yield info.filename, None

    def inner(self, ending: str) -> TarTree:
        """The tar archive that is a member of this one."""
        with self._opened() as archive:
            member = next((n for n in archive.namelist() if _ends(n, ending)), None)
        if member is None:
            raise UserError(f"{self.title}: holds no {ending}; it is not whole, or not the right one.")

        @contextmanager
        def opened() -> Iterator[IO[bytes]]:
            with self._opened() as archive, archive.open(member) as file:
                yield file

        return TarTree(f"{self.title}/{member}", opened)


class TarTree(Tree):
    """A tar archive, compressed or not, read from beginning to end each time."""

    def __init__(self, title: str, opened: Callable[[], AbstractContextManager[IO[bytes]]]) -> None:
        super().__init__(title)
        self.opened = opened

    def walk(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes] | None]]:
        with self.guarded(), self.opened() as raw, tarfile.open(fileobj=raw, mode="r|*") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                _inside(self.title, name)
                if member.issym() or member.islnk():
                    base = posixpath.dirname(name) if member.issym() else ""
                    _inside(self.title, posixpath.normpath(posixpath.join(base, member.linkname)))
                if member.isreg():
                    yield name, archive.extractfile(member) if wanted(name) else None


def open_tree(path: Path) -> Tree:
    """The folder, zip or tar archive at `path`.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    if path.is_dir():
        return FolderTree(path)
    try:
        if zipfile.is_zipfile(path):
            return ZipTree(path)
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
    if head[:2] == b"\x1f\x8b" or tarfile.is_tarfile(path):
        return TarTree(str(path), lambda: path.open("rb"))
    kind = (
        "a rar archive; unpack it, and put the folder here"
        if head[:4] == b"Rar!"
        else "neither a zip nor a tar archive"
    )
    raise UserError(f"{path}: is {kind}.")


def gunzipped_content(path: Path) -> bytes:
    """The content of a file, unpacked where its name ends in .gz.

    Raises:
        UserError: it is damaged or cannot be read.
    """
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (*_BROKEN, OSError) as problem:
        raise UserError(f"{path}: is damaged or not whole ({problem}); remove it and fetch it again.") from None


def _inside(title: str, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise UserError(f"{title}: holds '{name}', which leads out of its folder; the archive is refused.")


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith("/" + ending)


def _more(count: int) -> str:
    return f" and {count - 1} other files" if count > 1 else ""
