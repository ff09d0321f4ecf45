"""Which files hold the same bytes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from peftbench.common.errors import UserError
from peftbench.data.base import stamps_of_files
from peftbench.data.media import frame_files

_END = 4096  # bytes of each end of a file by which most files of one size are told apart


def first_copies(paths: Sequence[Path]) -> np.ndarray:
    """int64 (N,): the index of the first path that holds the same bytes, which of most is their own.

    Only files of equal size are opened, and of these only such as begin and end alike are read. A clip that is a
    folder is its frames. Empty files hold no image, and are no copies.

    Raises:
        UserError: a file cannot be read.
    """
    first = np.arange(len(paths))
    with ThreadPoolExecutor() as pool:
        facts = list(pool.map(_facts, paths))
    ways: dict[Hashable, int] = {}  # file -> the first way to it: one that is named twice need not be read
    for at, (file, _) in enumerate(facts):
        first[at] = ways.setdefault(file, at)
    alike = _several({at: size for at in ways.values() if (size := facts[at][1])})  # nothing is no copy of nothing
    with ThreadPoolExecutor() as pool:
        alike = _several(dict(zip(alike, pool.map(lambda at: (facts[at][1], _ends(paths[at])), alike), strict=True)))
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


def _facts(path: Path) -> tuple[Hashable, Hashable]:
    """(which file it is, by whatever way; its size), of a clip the sizes of its frames."""
    try:
        found = path.stat()
        if path.is_dir():
            return (found.st_dev, found.st_ino), tuple(frame.stat().st_size for frame in frame_files(path))
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
    return (found.st_dev, found.st_ino), found.st_size


def _ends(path: Path) -> bytes:
    """How a file begins and ends; for a clip, its first frame."""
    try:
        if path.is_dir():
            frames = frame_files(path)
            if not frames:
                return b""
            path = frames[0]
        with path.open("rb") as file:
            begin = file.read(_END)
            file.seek(max(os.fstat(file.fileno()).st_size - _END, 0))
            return begin + file.read(_END)
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
