"""Forward FLOPs and latency of the finished model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from peftbench.common.foreign_text import first_sentence
from peftbench.costs.waiting import wait_for
from peftbench.models.model import Model

T = TypeVar("T")


@torch.no_grad()
def flops(model: Model, image: Tensor) -> int:
    """Floating-point operations of one forward pass for `image` (1, 3, H, W); a multiply-add counts as two.

    Counted are matrix products, convolutions and attention, as torch's FlopCounterMode does.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with _in_eval_mode(model):
        for parameter in trained:  # the counter would hook their gradients, which a pass without any does not have
            parameter.requires_grad_(False)
        try:
            with FlopCounterMode(display=False) as counter:
                model(image)
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
    return counter.get_total_flops()


@torch.no_grad()
def latency(model: Model, image: Tensor, repeats: int = 20, budget: float = 2.0) -> float:
    """Median seconds of one forward pass at batch 1, after three warm-up passes; stops early at `budget` seconds."""
    times: list[float] = []
    with _in_eval_mode(model):
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
    return statistics.median(times)


@contextmanager
def _in_eval_mode(model: Model) -> Iterator[None]:
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)


def measured(name: str, meter: Callable[[], T], tell: Callable[[str], None]) -> dict[str, T]:
    """The figure under its name; nothing, which is told, where the meter fails: that is no reason to lose a run.

    Args:
        name: of the figure, as records have it.
        meter: measures it.
        tell: takes a sentence.
    """
    try:
        return {name: meter()}
    except Exception as problem:  # a meter looks into models of all kinds
        tell(f"costs.{name}: could not be measured ({first_sentence(problem)}); the record goes without it")
        return {}
