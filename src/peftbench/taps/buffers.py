"""Memory that batches are read into: used again as soon as nothing refers to a batch any more."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """Gives uninitialised tensors on the CPU.

    A large block that the system has just given is zeroed and mapped page by page when it is first written, which takes
    as long as reading the taps into it. So blocks are kept: as many as were in use at once.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self, shape: Sequence[int], dtype: torch.dtype, pin: bool = False) -> Tensor:
        """A tensor whose values are any; `pin` puts it in pinned memory, of which torch keeps a store of its own."""
        if pin:
            return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.empty(tuple(shape), dtype=dtype)
        block = self._taken(size)
        # The tensor's storage, which all views of it and autograd share, keeps `lent` alive.
        lent = block[:size]
        weakref.finalize(lent, self._free.append, block).atexit = False
        return torch.from_numpy(lent).view(dtype).view(tuple(shape))

    def _taken(self, size: int) -> np.ndarray:
        """The smallest free block that is large enough; else a new one, in the place of one that is too small."""
        with self._lock:
            fitting = [i for i, block in enumerate(self._free) if block.nbytes >= size]
            if fitting:
                return self._free.pop(min(fitting, key=lambda i: self._free[i].nbytes))
            if self._free:
                self._free.pop()
        return np.empty(size, dtype=np.uint8)
