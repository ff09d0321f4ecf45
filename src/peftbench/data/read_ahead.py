"""Batches of kept taps: a thread reads the next while one is computed with, and a side stream copies to a GPU."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from peftbench.common.errors import UserError
from peftbench.common.out_of_memory import is_out_of_memory

AHEAD = {"cuda": 2}
"""Batches that are read before they are asked for, by the kind of device that computes; 1 elsewhere."""


LEAST = 2**20
"""Bytes of a batch below which, on a processor, handing it over takes as long as reading it."""


class Loader(DataLoader):
    """A `DataLoader` of `Images`, which reads kept taps ahead where these stand in for the images.

    Taps that are read need no worker processes: a thread reads as fast, and hands over without a copy. Those that a GPU
    holds, and small batches on a processor, need not even a thread.

    It knows how long starting its workers took: they are started before anybody could begin to count.
    """

    starting = 0.0

    def __iter__(self) -> Any:
        begun = time.perf_counter()
        batches = self._begun()
        self.starting += time.perf_counter() - begun
        return batches

    def take_starting(self) -> float:
        """The seconds since this was last asked that went into starting workers."""
        seconds, self.starting = self.starting, 0.0
        return seconds

    def _begun(self) -> Any:
        taps = getattr(self.dataset, "stored", None)
        if taps is None:
            return super().__iter__()
        before = self.num_workers, self.pin_memory
        self.num_workers, self.pin_memory = 0, False  # taps come on their device already
        try:
            batches = super().__iter__()
        finally:
            self.num_workers, self.pin_memory = before
        size = getattr(self.batch_sampler, "batch_size", 1) * taps.bytes // len(taps)
        small = taps.device.type == "cpu" and size < LEAST
        return batches if taps.held_on is not None or small else ReadAhead(batches, taps.device)


class ReadAhead(Iterator[Any]):
    """Takes batches from an iterator in a thread of its own, some before they are asked for.

    What goes wrong there is raised where the batch would have been handed over.

    Args:
        batches: whose tensors are on `device`, or on the CPU.
        device: where they are computed with.
    """

    def __init__(self, batches: Iterator[Any], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._coming: deque[Future[tuple[Any, Any]]] = deque()
        self._ask()
        wait(self._coming)  # so that the order of batches begins where the run is now
        for _ in range(AHEAD.get(device.type, 1) - 1):
            self._ask()

    def __next__(self) -> Any:
        if not self._coming:
            raise StopIteration
        batch, ready = self._result(self._coming.popleft())
        if batch is None:
            self._coming.clear()
            self._thread.shutdown(wait=False)
            raise StopIteration
        self._ask()
        return self._received(batch, ready)

    def _ask(self) -> None:
        self._coming.append(self._thread.submit(self._read))

    def _read(self) -> tuple[Any, Any]:
        """The next batch, None where there is none, and an event that tells when it has arrived on a GPU."""
        on_side = contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with on_side:
            batch = next(self._batches, None)
            if self._stream is None or batch is None:
                return batch, None
            if isinstance(batch.targets, Tensor):
                batch = batch._replace(targets=batch.targets.pin_memory())
            return batch, self._stream.record_event()

    def _result(self, coming: Future[tuple[Any, Any]]) -> tuple[Any, Any]:
        try:
            return coming.result()
        except BaseException as problem:
            if isinstance(problem, UserError | KeyboardInterrupt) or is_out_of_memory(problem):
                raise
            what = f"{type(problem).__name__}: {problem}".rstrip(": ")
            raise UserError(f"taps: the thread that reads them ahead has died ({what}); run again.") from problem

    def _received(self, batch: Any, ready: Any) -> Any:
        """The batch, with what computes next in this thread told to wait for its copy, which the host does not."""
        if ready is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(ready)
            for tensor in _tensors(batch):
                if tensor.device.type == self._device.type:
                    tensor.record_stream(computing)  # else its memory could be used again by the side stream
        return batch


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
