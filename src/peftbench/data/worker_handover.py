"""How a process that reads images hands a batch over: in memory that processes share, of which there may be too little.

A batch goes through a queue, whose thread moves it into shared memory; where that fails, the thread prints an error and
goes on, and who waits for the batch waits for ever. So tensors are moved before, where an error is handed over too, and
a process whose thread fails all the same ends, which is noticed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from multiprocessing.queues import Queue
from typing import Any

from torch import Tensor
from torch.utils.data import get_worker_info

from peftbench.common.amounts import size
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence


def whole_batch(batch: Any) -> Any:
    """Collates nothing, since `Images` gives whole batches; in a process that reads it moves tensors to shared memory.

    Raises:
        UserError: there is no room for them.
    """
    if get_worker_info() is not None:
        try:
            _share(batch)
        except (RuntimeError, OSError) as problem:
            raise UserError(
                f"data.workers: the memory that processes share cannot take a batch of {size(_bytes(batch))} "
                f"({first_sentence(problem)}); give data.workers=0, a smaller data.batch_size or, in a container, more "
                f"of /dev/shm (docker run --shm-size=2g)."
            ) from None
    return batch


def end_where_nothing_comes(worker: int) -> None:
    """For a process that reads images: an error of the thread that hands batches over ends the process."""
    setattr(Queue, "_on_queue_feeder_error", staticmethod(_end))  # noqa: B010  (its stubs do not know it)


def _end(problem: Exception, batch: Any) -> None:
    print(f"data.workers: a batch could not be handed over ({first_sentence(problem)})", file=sys.stderr, flush=True)
    os._exit(1)


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    elif not isinstance(batch, list | tuple):
        batch = list(getattr(batch, "__dict__", {}).values())
    return [tensor for part in batch for tensor in _tensors(part)]


def _share(batch: Any) -> None:
    for tensor in _tensors(batch):
        tensor.share_memory_()


def _bytes(batch: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors(batch))
