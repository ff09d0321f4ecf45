"""Which files hold the same bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.regular_files import open_binary
from peftbench.data.base import stamps_of_files
from peftbench.data.media import frame_files

_END = 4096  # bytes of each end of a file by which most files of one size are told apart
_CHUNK = 64  # paths that a thread asks for in one go
_T = TypeVar("_T")
_LOOKS = ContextVar("looks", default=True)


@contextmanager
def copies_not_looked_for(passed_over: bool = True) -> Iterator[None]:
    """Within this block no file is opened to find copies, and each path counts as an image of its own.

    A trial of a few batches needs no whole data set, and a look at the files of a large one takes minutes.
    """
    before = _LOOKS.set(_LOOKS.get() and not passed_over)
    try:
        yield
    finally:
        _LOOKS.reset(before)


def first_copies(paths: Sequence[Path]) -> np.ndarray:
    """int64 (N,): the index of the first path that holds the same bytes, which of most is their own.

    Only files of equal size are opened, and of these only such as begin and end alike are read. A clip that is a
    folder is its frames. Empty files hold no image, and are no copies.

    Raises:
        UserError: a file cannot be read.
    """
    first = np.arange(len(paths))
    if not _LOOKS.get():
        return first
    facts = _of_each(_facts, paths)
    ways: dict[Hashable, int] = {}  # file -> the first way to it: one that is named twice need not be read
    for at, (file, _) in enumerate(facts):
        first[at] = ways.setdefault(file, at)
    alike = _several({at: size for at in ways.values() if (size := facts[at][1])})  # nothing is no copy of nothing
    ends = _of_each(_ends, [paths[at] for at in alike])
    alike = _several({at: (facts[at][1], end) for at, end in zip(alike, ends, strict=True)})
    same: dict[Hashable, int] = {}
    for at, stamp in zip(alike, stamps_of_files([paths[at] for at in alike]), strict=True):
        first[at] = same.setdefault(stamp, at)
    return first[first]  # the first file of the first way


def first_within(first: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The same for some of the images alone: int64 (len(indices),), places among the `indices`."""
    _, place, copy = np.unique(first[indices], return_index=True, return_inverse=True)
    return place[copy]


def _several(facts: Mapping[int, Hashable]) -> list[int]:
    """The indices that share what is known of them with another."""
    counts: dict[Hashable, int] = defaultdict(int)
    for fact in facts.values():
        counts[fact] += 1
    return [at for at, fact in facts.items() if counts[fact] > 1]


def _of_each(ask: Callable[[Path], _T], paths: Sequence[Path]) -> list[_T]:
    """The answers for all paths, many at a time: a disk, or a network, is slow to answer each."""
    chunks = [paths[at : at + _CHUNK] for at in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor() as pool:
        return [answer for answers in pool.map(lambda chunk: [*map(ask, chunk)], chunks) for answer in answers]


def _facts(path: Path) -> tuple[Hashable, Hashable]:
    """(which file it is, by whatever way; its size), of a clip the sizes of its frames."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return (status.st_dev, status.st_ino), tuple(frame.stat().st_size for frame in frame_files(path))
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
    return (status.st_dev, status.st_ino), status.st_size


def _ends(path: Path) -> bytes:
    """A hash of how a file begins and ends; for a clip, its first frame."""
    try:
        if path.is_dir():
            path = frame_files(path)[0]
        with open_binary(path, 0) as file:
            ends = file.read(_END)
            if (size := os.fstat(file.fileno()).st_size) > _END:
                file.seek(max(size - _END, _END))
                ends += file.read(_END)
            return hashlib.sha256(ends).digest()
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
