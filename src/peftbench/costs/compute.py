"""Forward FLOPs and latency of the finished model."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from peftbench.costs.waiting import wait_for
from peftbench.models.model import Model


@torch.no_grad()
def flops(model: Model, image: Tensor) -> int:
    """Floating-point operations of one forward pass for `image` (1, 3, H, W); a multiply-add counts as two.

    Counted are matrix products, convolutions and attention, as torch's FlopCounterMode does.
    """
    mode = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(image)
    model.train(mode)
    return counter.get_total_flops()


@torch.no_grad()
def latency(model: Model, image: Tensor, repeats: int = 20, budget: float = 2.0) -> float:
    """Median seconds of one forward pass at batch 1, after three warm-up passes; stops early at `budget` seconds."""
    mode = model.training
    model.eval()
    times: list[float] = []
    begun = time.perf_counter()
    for i in range(repeats + 3):
        wait_for(image.device)
        start = time.perf_counter()
        model(image)
        wait_for(image.device)
        if i >= 3:
            times.append(time.perf_counter() - start)
        if times and time.perf_counter() - begun > budget:
            break
    model.train(mode)
    return statistics.median(times)
