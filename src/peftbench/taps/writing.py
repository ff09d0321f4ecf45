"""Writing the files of an entry while its taps are computed: one thread writes, another adds up checksums."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftbench.taps import in_file

WAITING = 2**29
"""Bytes of computed taps that may wait to be written while the next are computed, and at most two chunks of them."""


def write_taps(
    part: Path, chunks: Iterable[list[Tensor]], writing: Callable[[], AbstractContextManager[None]]
) -> tuple[int, list[dict[str, Any]]]:
    """Writes a file a tap into the folder `part`; (rows, shape, dtype and checksums of each tap).

    The next chunk is computed, in this thread, while the last ones are written and added up.

    Args:
        part: the folder, which is there.
        chunks: the taps of all rows in order, on the CPU; nobody changes them afterwards.
        writing: what OSErrors of writing are met with; errors in computing are passed on as they are.
    """
    rows, shapes = 0, []
    files: list[Checked] = []
    waiting: deque[tuple[int, list[Future[None]]]] = deque()
    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="taps")) for _ in range(2)]
        for chunk in chunks:
            with writing():
                if not files:
                    files = [stack.enter_context(Checked(part / file_name(i))) for i in range(len(chunk))]
                    shapes = [(list(t.shape[1:]), str(t.dtype).removeprefix("torch.")) for t in chunk]
                rows += len(chunk[0])
                size = sum(t.nbytes for t in chunk)
                works = (Checked.write, Checked.sum)
                jobs = [
                    thread.submit(_on_each, work, files, chunk) for thread, work in zip(threads, works, strict=True)
                ]
                waiting.append((size, jobs))
                while len(waiting) > 2 or sum(bytes_ for bytes_, _ in waiting) > WAITING:
                    _finish(waiting.popleft()[1])
        with writing():
            while waiting:
                _finish(waiting.popleft()[1])
            for file in files:
                file.close()
    return rows, [
        {"shape": shape, "dtype": dtype, "crc32": file.sums} for file, (shape, dtype) in zip(files, shapes, strict=True)
    ]


def _on_each(work: Callable[[Checked, Tensor], None], files: list[Checked], chunk: list[Tensor]) -> None:
    for file, tap in zip(files, chunk, strict=True):
        work(file, tap)


def _finish(jobs: list[Future[None]]) -> None:
    for job in jobs:
        job.result()


class Checked:
    """A file that is written from start to end; `sums` are the CRC-32 of its blocks."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._sum, self._in_block = 0, 0
        self.sums: list[int] = []

    def write(self, tap: Tensor) -> None:
        """Writes the taps of the next rows."""
        data = memoryview(_bytes(tap)).cast("B")  # type: ignore[arg-type]
        while len(data):  # no mapped write: on a full disk that would kill the process
            data = data[self._file.write(data) :]

    def sum(self, tap: Tensor) -> None:
        """Adds the taps of the next rows to the checksums."""
        data = memoryview(_bytes(tap)).cast("B")  # type: ignore[arg-type]
        while len(data):
            piece = data[: in_file.BLOCK - self._in_block]
            self._sum, self._in_block = zlib.crc32(piece, self._sum), self._in_block + len(piece)
            data = data[len(piece) :]
            if self._in_block == in_file.BLOCK:
                self._close_block()

    def _close_block(self) -> None:
        self.sums.append(self._sum)
        self._sum, self._in_block = 0, 0

    def close(self) -> None:
        """All was written: it is on the disk when this returns."""
        if self._in_block:
            self._close_block()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Checked:
        return self

    def __exit__(self, *problem: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _bytes(tap: Tensor) -> np.ndarray:
    return tap.contiguous().flatten().view(torch.uint8).numpy()


def file_name(index: int) -> str:
    """The file of a tap in the folder of its entry."""
    return f"tap-{index:02d}.bin"
