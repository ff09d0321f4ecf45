"""Filling and reading entries of the tap cache."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftbench.common.errors import UserError
from peftbench.common.own_folders import holds_only, remove_own_files
from peftbench.taps.entries import (
    ABOUT,
    FILES,
    PARTS,
    CacheError,
    lock_for_filling,
    lock_for_reading,
    make_room,
    mark_used,
    read_about,
    remove_leftovers,
)

Fill = Callable[[], Iterable[list[Tensor]]]
"""Yields the taps of all rows in order, chunk by chunk: for each tap a CPU tensor (rows of the chunk, …)."""

BLOCK = 1 << 24  # bytes under one checksum
_VERIFIED: set[tuple[str, int]] = set()


@dataclass
class Taps:
    """The taps of one split, row by row.

    Attributes:
        tensors: one (rows, …) tensor a tap, in memory or in a file.
        mode: memory or disk.
        filled: rows that went through the backbone for it in this process.
        seconds: how long that took.
        key: the name of the entry on disk.
    """

    tensors: Sequence[Tensor | InFile]
    mode: str
    filled: int = 0
    seconds: float = 0.0
    key: str = ""
    _held: list[Any] = field(default_factory=list)

    def __call__(self, rows: Tensor) -> list[Tensor]:
        """The taps of some rows: for each tap (len(rows), …)."""
        return [t.index_select(0, rows) for t in self.tensors]

    @property
    def bytes(self) -> int:
        """The size of all taps."""
        return sum(t.nbytes for t in self.tensors)


class InFile:
    """A tap (rows, …) in a file.

    It is read, not mapped: mapped pages would count as the memory of the process that reads them, and a file cut short
    would kill it.

    Raises:
        ValueError: the file is not as long as that.
    """

    def __init__(self, path: Path, rows: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.path, self.shape, self.dtype = path, (rows, *shape), dtype
        self.nbytes = math.prod(self.shape) * dtype.itemsize
        if not path.exists():
            raise ValueError(f"{path.name} is missing")
        if (size := path.stat().st_size) != self.nbytes:
            raise ValueError(f"{path.name} has {size} bytes, expected {self.nbytes}")
        self._file, self._lock = path.open("rb", buffering=0), threading.Lock()

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """The taps of some rows, (len(rows), …): torch's `index_select` of the first dimension.

        Raises:
            UserError: the file has been cut short since it was opened.
        """
        assert dim == 0
        values = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        size = self.nbytes // self.shape[0]
        into = memoryview(values.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]
        for i, row in enumerate(rows.tolist()):
            if self._read(into[i * size : (i + 1) * size], row * size) != size:
                raise UserError(f"{self.path}: has been cut short while it was read; run again.")
        return values

    def crc32(self, at: int) -> int:
        """The CRC-32 of the block that begins at byte `at`."""
        block = bytearray(min(BLOCK, self.nbytes - at))
        return zlib.crc32(memoryview(block)[: self._read(memoryview(block), at)])

    def _read(self, into: memoryview, at: int) -> int:
        if hasattr(os, "preadv"):  # not on Windows
            return os.preadv(self._file.fileno(), [into], at)
        with self._lock:
            self._file.seek(at)
            return self._file.readinto(into)


def entry_key(about: dict[str, Any]) -> str:
    """The name of the entry that holds what `about` describes: twenty hex digits of a hash."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]


def taps_in_memory(fill: Fill) -> Taps:
    """All taps in memory."""
    begun = time.perf_counter()
    chunks = list(fill())
    tensors = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
    return Taps(tensors, "memory", len(tensors[0]), time.perf_counter() - begun)


def taps_on_disk(
    root: Path, about: dict[str, Any], bytes_: int, limit: int, fill: Fill, tell: Callable[[str], None]
) -> Taps:
    """The entry that `about` describes, filled first where it is not there or is damaged.

    Where several processes ask for it, one fills it and the others wait.

    Args:
        root: the folder of the cache.
        about: what the entry holds.
        bytes_: the size that the entry will have.
        limit: bytes that the whole cache may have.
        fill: computes the taps.
        tell: shows the user a sentence.

    Raises:
        CacheError: there is no room for it, or the disk cannot be written. What `fill` raises is passed on.
    """
    name = entry_key(about)
    begun, filled = time.perf_counter(), 0
    remove_leftovers(root)
    reading = lock_for_reading(root, name)
    with lock_for_filling(root, name, lambda: tell("waiting for another run that computes the same taps")):
        if (taps := _opened(root / name, about, tell)) is None:
            begun = time.perf_counter()
            make_room(root, bytes_, limit)
            filled = _write(root, name, about, fill)
            taps = _opened(root / name, about, tell)
    if taps is None:
        raise CacheError(f"{root / name}: was written and cannot be read back; give another taps.dir, or taps=off.")
    mark_used(root / name)
    return Taps(taps, "disk", filled, time.perf_counter() - begun if filled else 0.0, name, [reading])


def _write(root: Path, name: str, about: dict[str, Any], fill: Fill) -> int:
    """Fills the entry beside its place and moves it there when it is whole; returns the number of rows."""
    part = root / PARTS / f"{name}.{os.getpid()}"
    rows, shapes = 0, []
    with contextlib.ExitStack() as stack:
        with _writing(root):
            remove_own_files(part, FILES)
            part.mkdir(parents=True)
        stack.callback(remove_own_files, part, FILES)
        files: list[_Checked] = []
        for chunk in fill():  # outside of `_writing`: what goes wrong in there is not the cache's
            with _writing(root):
                if not files:
                    files = [stack.enter_context(_Checked(part / _file(i))) for i in range(len(chunk))]
                    shapes = [(list(t.shape[1:]), str(t.dtype).removeprefix("torch.")) for t in chunk]
                rows += len(chunk[0])
                for file, tap in zip(files, chunk, strict=True):
                    file.write(tap)
        with _writing(root):
            for file in files:
                file.close()
            listed = [
                {"shape": shape, "dtype": dtype, "crc32": file.sums}
                for file, (shape, dtype) in zip(files, shapes, strict=True)
            ]
            content = {"about": about, "rows": rows, "taps": listed}
            (part / ABOUT).write_text(json.dumps(content) + "\n", encoding="utf-8")
            old = root / PARTS / f"{name}.{os.getpid()}.old"
            stack.callback(remove_own_files, old, FILES)
            if (root / name).exists():  # a damaged one
                if not holds_only(root / name, FILES):
                    raise CacheError(
                        f"{root / name}: is damaged, and is a link or holds files that are not of peftbench; move it "
                        f"away, or give another taps.dir."
                    )
                (root / name).rename(old)
            part.rename(root / name)
    return rows


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        why = "the disk is full" if problem.errno == errno.ENOSPC else problem.strerror
        raise CacheError(
            f"taps.dir={root}: the taps could not be written ({why}), and nothing of them is left there; make "
            f"room, give another taps.dir, or taps=memory or taps=off."
        ) from None


class _Checked:
    """A file that is written from start to end; `sums` are the CRC-32 of its blocks."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._sum, self._in_block = 0, 0
        self.sums: list[int] = []

    def write(self, tap: Tensor) -> None:
        data = memoryview(_bytes(tap)).cast("B")  # type: ignore[arg-type]
        self._file.write(data)  # no mapped write: on a full disk that would kill the process
        while len(data):
            piece = data[: BLOCK - self._in_block]
            self._sum, self._in_block = zlib.crc32(piece, self._sum), self._in_block + len(piece)
            data = data[len(piece) :]
            if self._in_block == BLOCK:
                self._close_block()

    def _close_block(self) -> None:
        self.sums.append(self._sum)
        self._sum, self._in_block = 0, 0

    def close(self) -> None:
        if not self._file.closed:
            if self._in_block:
                self._close_block()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, *problem: object) -> None:
        with contextlib.suppress(OSError):  # flushing into a full disk fails again
            self._file.close()


def _opened(folder: Path, about: dict[str, Any], tell: Callable[[str], None]) -> list[InFile] | None:
    """The taps of an entry; None where it is not there or damaged. Damage is told to the user by `tell`."""
    if not folder.is_dir():
        return None
    content = read_about(folder)
    try:
        if content is None:
            raise ValueError(f"its description is {'damaged' if (folder / ABOUT).exists() else 'missing'}")
        theirs = content["about"]
        for key, value in about.items():
            if theirs.get(key, value) != value:
                raise ValueError(f"it is of another {key} ({theirs[key]}, not {value})")
        if theirs != about:
            raise ValueError("its description is damaged")
        rows, listed = content["rows"], content["taps"]
        taps = [InFile(folder / _file(i), rows, t["shape"], getattr(torch, t["dtype"])) for i, t in enumerate(listed)]
        stamp = (str(folder), os.stat(folder / _file(0)).st_mtime_ns)
        if stamp not in _VERIFIED:
            wanted = [s for t in listed for s in t["crc32"]]
            blocks = [(tap, at) for tap in taps for at in range(0, tap.nbytes, BLOCK)]
            with ThreadPoolExecutor() as pool:
                if list(pool.map(lambda block: block[0].crc32(block[1]), blocks)) != wanted:
                    raise ValueError("a checksum differs")
        _VERIFIED.add(stamp)
    except (OSError, ValueError) as problem:
        why = str(problem)
        if isinstance(problem, OSError):
            why = f"{Path(problem.filename or folder).name} cannot be read ({problem.strerror})"
        tell(f"{folder}: {why}; its taps are computed again")
        return None
    return taps


def _bytes(tap: Tensor) -> np.ndarray:
    return tap.contiguous().flatten().view(torch.uint8).numpy()


def _file(index: int) -> str:
    return f"tap-{index:02d}.bin"


def size_of_taps(taps: Sequence[Tensor]) -> int:
    """The bytes of some taps, on any device."""
    return sum(t.numel() * t.element_size() for t in taps)
