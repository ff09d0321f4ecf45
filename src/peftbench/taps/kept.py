"""The kept taps of one split: how rows of them come from a file, from memory or from a GPU."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from peftbench.taps.buffers import Buffers
from peftbench.taps.eight_bits import decoded
from peftbench.taps.in_file import InFile, read_rows

CPU = torch.device("cpu")
_COPIED_AT_ONCE = 2**26
"""Bytes that are on their way to a GPU at once while taps are put there."""


@dataclass
class Taps:
    """The taps of one split, row by row.

    Attributes:
        tensors: one (rows, …) tensor for each that is stored of a row, in a file, in memory or on a GPU.
        mode: memory or disk.
        filled: rows that went through the backbone for it in this process.
        seconds: how long that took.
        key: the name of the entry on disk.
        device: where rows of it are given.
        held_on: the GPU that holds all of it, if one does.
        held_seconds: how long putting it there took.
        more: what the description of the entry says besides.
    """

    tensors: Sequence[Tensor | InFile]
    mode: str
    filled: int = 0
    seconds: float = 0.0
    key: str = ""
    device: torch.device = CPU
    held_on: torch.device | None = None
    held_seconds: float = 0.0
    more: Mapping[str, Any] = field(default_factory=dict)
    _locks: list[Any] = field(default_factory=list)
    _buffers: Buffers = field(default_factory=Buffers)

    def __call__(self, rows: Tensor) -> list[Tensor]:
        """The taps of some rows, on `device`: for each tap (len(rows), …).

        What is read comes into pinned memory where it goes to a GPU, and is copied without the host waiting for it, on
        the stream that is current in this thread.

        Raises:
            UserError: they cannot be read back.
        """
        return decoded([t.to(self.device, non_blocking=True) for t in self._stored(rows)])

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])

    @property
    def bytes(self) -> int:
        """The size of all taps."""
        return sum(t.nbytes for t in self.tensors)

    def put_on(self, device: torch.device) -> bool:
        """Has the GPU hold all of it, so that nothing is read and copied any more; False where it has no room."""
        begun, rows = time.perf_counter(), len(self)
        at_once = max(_COPIED_AT_ONCE * rows // max(self.bytes, 1), 1)
        try:
            there = [torch.empty(tuple(t.shape), dtype=t.dtype, device=device) for t in self.tensors]
            for part in torch.arange(rows).split(at_once):
                for whole, piece in zip(there, self._stored(part), strict=True):
                    whole[part[0] : part[-1] + 1].copy_(piece, non_blocking=True)
        except torch.OutOfMemoryError:
            return False
        self.tensors, self.held_on, self.device = there, device, device
        self.held_seconds = time.perf_counter() - begun
        return True

    def forget_pages(self) -> None:
        """Has the system forget what it keeps of the files in memory, so that the next reading is from the disk."""
        for tensor in self.tensors:
            if isinstance(tensor, InFile):
                tensor.forget_pages()

    def _stored(self, rows: Tensor) -> list[Tensor]:
        """What is stored of some rows, where it is held or else on the CPU."""
        if self.held_on is not None:
            pinned = rows.pin_memory() if self.held_on.type == "cuda" else rows
            there = pinned.to(self.held_on, non_blocking=True)
            return [tensor.index_select(0, there) for tensor in self.tensors if isinstance(tensor, Tensor)]
        pin = self.device.type == "cuda"
        into = [self._buffers.empty((len(rows), *t.shape[1:]), t.dtype, pin) for t in self.tensors]
        files = [t for t in self.tensors if isinstance(t, InFile)]
        if files:
            read_rows(files, rows, into)
        for whole, part in zip(self.tensors, into, strict=True):
            if isinstance(whole, Tensor):
                torch.index_select(whole, 0, rows, out=part)
        return into


def room_on(device: torch.device, most_gb: float | None) -> int:
    """Bytes of kept taps that a GPU may hold: half of what is free on it now, or `most_gb` of it; none elsewhere.

    The other half is for training and for testing, which runs the backbone.
    """
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0]
    return free // 2 if most_gb is None else min(free, int(most_gb * 2**30))
