"""Copies between the host and a GPU on a stream of their own, beside what the GPU computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class SideStream:
    """On another device than CUDA's it copies as usual."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; what is computed there next waits for it, and the host does not."""
        if self._stream is None:
            return tensor.to(self.device)
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            there = tensor.pin_memory().to(self.device, non_blocking=True)
        computing.wait_stream(self._stream)
        there.record_stream(computing)
        return there

    def to_host(self, tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Begins to copy tensors to the host; what it returns waits for them and gives them."""
        if self._stream is None:
            here = [tensor.cpu() for tensor in tensors]
            return lambda: here
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            coming = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
            for here_, there in zip(coming, tensors, strict=True):
                here_.copy_(there, non_blocking=True)
                there.record_stream(self._stream)
            done = self._stream.record_event()

        def arrived() -> list[Tensor]:
            done.synchronize()
            return coming

        return arrived
