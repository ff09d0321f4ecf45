"""Files in a folder, a zip or a tar archive, read where they are: nothing is ever unpacked to disk."""

from __future__ import annotations

import gzip
import lzma
import os
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Self

from peftbench.common.errors import UserError
from peftbench.common.regular_files import open_binary

_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile),
    *(NotImplementedError, RuntimeError, UnicodeError, struct.error, OverflowError, MemoryError),
)
"""What zipfile and tarfile raise: for an unknown way of packing, a password, a name or a number that is none, too."""
_FREE, _RATIO = 64 * 2**20, 250
"""Bytes that anything may unpack to, and beyond those how many times its size. dSprites has about 120."""
_LONGEST_HEADER = 2**20
"""Bytes of a long name, or of other words about a file, in a tar archive."""


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

    def __init__(self, root: Path, within: Path | None = None) -> None:
        super().__init__(str(root))
        self.root = root
        self._within = (within or root).resolve()

    def path(self, name: str) -> Path:
        """The file of that name; a link may lead to it within the folder that was given, and not out of that.

        Raises:
            UserError: a link leads out of it.
        """
        path = self.root / name
        real = path.resolve()
        if not real.is_relative_to(self._within):
            raise UserError(
                f"{path}: is, or lies below, a link to {real}, out of {self._within}; only what lies there is copied: "
                f"put the files themselves there."
            )
        return path

    def walk(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes] | None]]:
        for path in sorted(p for p in self.root.rglob("*") if p.is_file()):
            name = path.relative_to(self.root).as_posix()
            if wanted(name):
                with open_binary(self.path(name)) as file:
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
                if not info.filename:
                    raise UserError(f"{self.title}: holds a file without a name; the archive is refused.")
                _inside(self.title, info.filename)
            yield archive

    def walk(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes] | None]]:
        with self._opened() as archive:
            for info in archive.infolist():
                if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
                    continue
                if wanted(info.filename):
                    refuse_swelling(self.title, info.file_size, info.compress_size)
                    with archive.open(info) as file:
                        yield info.filename, file
                else:
                    yield info.filename, None

    def inner(self, ending: str) -> TarTree:
        """The tar archive that is a member of this one."""
        with self._opened() as archive:
            member = next((n for n in archive.namelist() if _ends(n, ending)), None)
            size = archive.getinfo(member).file_size if member else 0
        if member is None:
            raise UserError(f"{self.title}: holds no {ending}; it is not whole, or not the right one.")

        @contextmanager
        def opened() -> Iterator[IO[bytes]]:
            with self._opened() as archive, archive.open(member) as file:
                yield file

        return TarTree(f"{self.title}/{member}", opened, size)


class TarTree(Tree):
    """A tar archive, compressed or not, read from beginning to end each time."""

    def __init__(self, title: str, opened: Callable[[], AbstractContextManager[IO[bytes]]], size: int) -> None:
        super().__init__(title)
        self.opened, self.size = opened, size

    def walk(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes] | None]]:
        with self.guarded(), self.opened() as raw, tarfile.open(fileobj=raw, mode="r|*", tarinfo=_Header) as archive:
            unpacked = 0
            for member in archive:
                unpacked += member.size
                refuse_swelling(self.title, unpacked, self.size)
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
        with open_binary(path) as file:
            head = file.read(512)
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
    if head[:2] == b"\x1f\x8b" or tarfile.is_tarfile(path):
        return TarTree(str(path), lambda: open_binary(path), path.stat().st_size)
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
    return b"".join(gunzipped(path))


def gunzipped(path: Path) -> Iterator[bytes]:
    """As `gunzipped_content`, in pieces. Raises UserError."""
    unpacked = 0
    try:
        with open_binary(path) as packed:
            size = os.fstat(packed.fileno()).st_size
            plain: IO[bytes] = gzip.GzipFile(fileobj=packed) if path.suffix == ".gz" else packed  # type: ignore[assignment]
            while piece := plain.read(2**20):
                unpacked += len(piece)
                refuse_swelling(str(path), unpacked, size)
                yield piece
    except (*_BROKEN, OSError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise UserError(f"{path}: is damaged or not whole ({why}); remove it and fetch it again.") from None


def refuse_swelling(title: str, unpacked: int, packed: int) -> None:
    """Raises UserError for what would unpack to far more than its size: it is made to fill memory or disk."""
    if unpacked > _FREE + _RATIO * packed:
        raise UserError(
            f"{title}: would unpack to more than {_RATIO} times its size, as no images do; it is not the right one."
        )


class _Header(tarfile.TarInfo):
    """What an archive says of a file; one with words about it that are longer than any is refused."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        long = header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if (long and header.size > _LONGEST_HEADER) or header.size < 0:
            raise UserError(f"a tar archive says more of one file than {_LONGEST_HEADER:,} bytes; it is damaged.")
        return header


def _inside(title: str, name: str) -> None:
    if "\0" in name:
        raise UserError(f"{title}: holds a file with a NUL character in its name; the archive is refused.")
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise UserError(f"{title}: holds '{name}', which leads out of its folder; the archive is refused.")


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith("/" + ending)


def _more(count: int) -> str:
    return f" and {count - 1} other files" if count > 1 else ""
