"""A tap in a file, and how rows of several such files are read at once."""

from __future__ import annotations

import math
import os
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from peftbench.common.errors import UserError
from peftbench.common.regular_files import open_binary

READERS = 4
"""Threads that read at once: a disk answers several requests sooner than one after the other."""
PIECE = 1 << 20
"""Bytes below which another thread is not worth its start."""
_LARGEST = 1 << 22
"""Bytes that are read in one go at most, so that long stretches can be shared out."""
BLOCK = 1 << 24  # bytes under one checksum


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
        self._file, self._lock = open_binary(path, 0), threading.Lock()

    def read(self, into: memoryview, at: int) -> None:
        """Fills `into` with the bytes from `at` on.

        Raises:
            UserError: the file has been cut short since it was opened, or the disk does not give it back.
        """
        try:
            while len(into):
                count = self._read(into, at)
                if not count:
                    raise UserError(f"{self.path}: has been cut short while it was read; run again.")
                into, at = into[count:], at + count
        except OSError as problem:
            raise UserError(
                f"{self.path}: cannot be read ({problem.strerror}); give another taps.dir, or taps=memory."
            ) from None

    def crc32(self, at: int) -> int:
        """The CRC-32 of the block that begins at byte `at`."""
        block = bytearray(min(BLOCK, self.nbytes - at))
        return zlib.crc32(memoryview(block)[: self._read(memoryview(block), at)])

    def forget_pages(self) -> None:
        """Has the system forget the pages of it that are in memory, where it can be told so."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _read(self, into: memoryview, at: int) -> int:
        if hasattr(os, "preadv"):  # not on Windows
            return os.preadv(self._file.fileno(), [into], at)
        with self._lock:
            self._file.seek(at)
            return self._file.readinto(into)


def read_rows(taps: Sequence[InFile], rows: Tensor, into: Sequence[Tensor]) -> None:
    """Reads the taps of some rows into contiguous tensors on the CPU, (len(rows), …) each; rows in a row in one go.

    Raises:
        UserError: as `InFile.read`.
    """
    runs = _runs(rows.tolist())
    jobs = []
    for tap, tensor in zip(taps, into, strict=True):
        size = tap.nbytes // tap.shape[0]
        if not size:
            continue
        bytes_ = memoryview(tensor.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]
        most = max(_LARGEST // size, 1)
        for first, row, n in runs:
            for done in range(0, n, most):
                begin, end = first + done, first + min(done + most, n)
                jobs.append((tap, bytes_[begin * size : end * size], (row + done) * size))
    readers = min(READERS, sum(len(job[1]) for job in jobs) // PIECE, len(jobs))
    if readers < 2:
        for tap, part, at in jobs:
            tap.read(part, at)
        return
    waiting = [_readers(os.getpid()).submit(_read_all, share) for share in _shares(jobs, readers)]
    problems = [problem for done in waiting if (problem := done.exception()) is not None]  # waits for all of them
    if problems:
        raise problems[0]


def _read_all(jobs: Sequence[tuple[InFile, memoryview, int]]) -> None:
    for tap, part, at in jobs:
        tap.read(part, at)


def _shares(jobs: list[tuple[InFile, memoryview, int]], count: int) -> list[list[tuple[InFile, memoryview, int]]]:
    """The jobs in `count` stretches of about as many bytes."""
    whole = sum(len(job[1]) for job in jobs)
    shares: list[list[tuple[InFile, memoryview, int]]] = [[] for _ in range(count)]
    done = 0
    for job in jobs:
        shares[min(done * count // whole, count - 1)].append(job)
        done += len(job[1])
    return shares


def _runs(rows: Sequence[int]) -> list[tuple[int, int, int]]:
    """(place in the batch, row, length) of each stretch of consecutive rows."""
    runs: list[tuple[int, int, int]] = []
    for place, row in enumerate(rows):
        if runs and row == runs[-1][1] + runs[-1][2]:
            first, begin, length = runs[-1]
            runs[-1] = (first, begin, length + 1)
        else:
            runs.append((place, row, 1))
    return runs


@cache
def _readers(process: int) -> ThreadPoolExecutor:
    """One pool for all entries: what reads at once is the disk's, not theirs. A forked process needs its own."""
    return ThreadPoolExecutor(READERS, thread_name_prefix="taps")
