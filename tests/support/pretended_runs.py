"""Whole runs on the pretended GPU: Lightning's trainer, evaluation and filling of taps, with the waits of each step."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from support.pretend_gpu import NAME, Waits, counting, device, pretending


class PretendedAccelerator(CPUAccelerator):
    """One pretended GPU."""

    def setup_device(self, device: torch.device) -> None: ...

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return int(devices)

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [device()] * int(devices)

    @staticmethod
    def name() -> str:
        return NAME


@dataclass
class Seen(Callback):
    """The waits of a run: of all of it, of each training step and of each evaluated batch.

    A step is from the end of one batch to the end of the next, its optimizer step and the reading of images included.
    """

    run: Waits
    steps: list[Waits] = field(default_factory=list)
    evaluated: list[Waits] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._before: Waits = Counter()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._begin()

    def on_validation_batch_start(self, *_: Any) -> None:
        self._begin()

    on_test_batch_start = on_validation_batch_start

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps.append(self._since())

    def on_validation_batch_end(self, *_: Any) -> None:
        self.evaluated.append(self._since())

    on_test_batch_end = on_validation_batch_end

    def _begin(self) -> None:
        self._before = Counter(self.run)

    def _since(self) -> Waits:
        before = self._before
        self._begin()
        return self.run - before


@contextlib.contextmanager
def pretended_runs() -> Iterator[Seen]:
    """Within it every run is on the pretended GPU, whatever `trainer.accelerator` says."""
    from peftbench import costs
    from peftbench.training import module, trainer

    fused = module.Fit.fused.fget  # type: ignore[attr-defined]

    def fused_on_cuda(fit: Any) -> bool:
        return fused(SimpleNamespace(config=fit.config, device=torch.device("cuda")))

    with pretending() as place, counting() as waits, contextlib.ExitStack() as stack:
        seen = Seen(waits)

        def on_the_gpu(*, callbacks: list[Callback], **options: Any) -> Trainer:
            # Lightning itself takes the CPU for an accelerator that it does not know.
            chosen = {"accelerator": PretendedAccelerator(), "devices": 1, "strategy": SingleDeviceStrategy(place)}
            return Trainer(**{**options, **chosen}, callbacks=[*callbacks, seen])

        stack.enter_context(mock.patch.object(trainer, "Trainer", on_the_gpu))
        stack.enter_context(mock.patch.object(costs, "latency", partial(costs.latency, repeats=1)))  # not measured here
        stack.enter_context(mock.patch.object(module.Fit, "fused", property(fused_on_cuda)))
        for name, known in list(sys.modules.items()):
            if name.startswith("peftbench.") and hasattr(known, "device_of_process"):
                stack.enter_context(mock.patch.object(known, "device_of_process", return_value=place))
        yield seen
