"""Images decoded by several threads, some chunks before they are asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

AHEAD = 2
"""Chunks that are decoded, or are being decoded, before they are asked for."""
_AT_ONCE = 4
"""Images that a thread takes at a time."""


def decoded_ahead(chunks: Sequence[Sequence[int]], decode: Callable[[int], np.ndarray]) -> Generator[Tensor]:
    """uint8 (len(chunk), …) of each chunk of indices, in order, while the caller works with the one before.

    Raises:
        UserError: as `decode`, at the chunk that holds the image.
    """
    pool = ThreadPoolExecutor(_cores(), thread_name_prefix="decoding")
    asked: deque[list[Future[list[np.ndarray]]]] = deque()

    def decode_all(indices: Sequence[int]) -> list[np.ndarray]:
        return [decode(index) for index in indices]

    def ask(indices: Sequence[int]) -> None:
        pieces = [indices[i : i + _AT_ONCE] for i in range(0, len(indices), _AT_ONCE)]
        asked.append([pool.submit(decode_all, piece) for piece in pieces])

    try:
        for indices in chunks[:AHEAD]:
            ask(indices)
        for i in range(len(chunks)):
            pieces = asked.popleft()
            if i + AHEAD < len(chunks):
                ask(chunks[i + AHEAD])
            images = [image for piece in pieces for image in piece.result()]
            # Rows of pixels, also where a decoder gives another order: convolutions round by the order in memory.
            yield torch.from_numpy(np.ascontiguousarray(np.stack(images)))
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
