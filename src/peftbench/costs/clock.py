"""Step times: from the end of one batch to the end of the next, data loading included."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import Any

import torch

from peftbench.costs.waiting import wait_for

WARM_UP = 5


class StepClock:
    """Collects step times within stretches; the gap between stretches (validation, checkpoints) is not a step.

    On CUDA the times are those of events on the device, so that measuring does not make the host wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self._stretches: list[list[Any]] = []

    def begin(self) -> None:
        """A stretch of steps begins now."""
        self._stretches.append([self._mark()])

    def step(self) -> None:
        """A step ends now."""
        self._stretches[-1].append(self._mark())

    def seconds(self) -> list[float]:
        """The time of every step so far."""
        wait_for(self._device)
        return [self._between(a, b) for s in self._stretches for a, b in pairwise(s)]

    def summary(self) -> dict[str, Any]:
        """Median and 95th percentile in seconds, after five warm-up steps where there are more than five."""
        times = self.seconds()
        if not times:
            return {"median": None, "p95": None, "steps": 0}
        warm = times[WARM_UP:] if len(times) > WARM_UP else times
        ordered = sorted(warm)
        return {
            "median": statistics.median(ordered),
            "p95": ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)],
            "steps": len(times),
        }

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, a: Any, b: Any) -> float:
        return a.elapsed_time(b) / 1000 if self._cuda else b - a
