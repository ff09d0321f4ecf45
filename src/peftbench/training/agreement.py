"""What several processes must do at the same step, asked of all of them without a wait in each."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Trainer

EVERY = 1.0
"""Seconds between two questions, about."""
_SLOWLY = 8
"""The pause between two questions, in steps, grows by this factor at most: the first steps may be slow ones."""


class Agreement:
    """Whether to stop, and whether to save: every so many steps, which the first process counts out by its clock."""

    def __init__(self) -> None:
        self._steps, self._pause = 0, 1
        self._stage: Any = None
        self._asked = time.monotonic()

    def of(self, trainer: Trainer, stop: bool, due: bool, now: bool) -> tuple[bool, bool]:
        """Whether any process wants to stop, and whether it is time to save by the clock of the first.

        All processes call it at the same steps. Between two questions, unless it is to be answered `now`, both are no.
        """
        if trainer.world_size == 1:
            return stop, due
        if trainer.state.stage != self._stage:  # whose steps may take another time
            self._steps, self._pause, self._stage = 0, 1, trainer.state.stage
        self._steps += 1
        if self._steps < self._pause and not now:
            return False, False
        first = trainer.is_global_zero
        wanted = [float(stop), float(first and due), float(self._next_pause() if first else 0)]
        sums = trainer.strategy.reduce(torch.tensor(wanted, device=trainer.strategy.root_device), reduce_op="sum")
        stopping, saving, pause = sums.tolist()
        self._steps, self._pause, self._asked = 0, int(pause), time.monotonic()
        return bool(stopping), bool(saving)

    def _next_pause(self) -> int:
        """As many steps as fit into `EVERY` seconds, by those since it was asked."""
        seconds = max(time.monotonic() - self._asked, 1e-6)
        return max(1, min(int(self._steps * EVERY / seconds), _SLOWLY * self._pause))


def without_questions_of_its_own(trainer: Trainer) -> Trainer:
    """Has Lightning not ask in each step whether a process got SIGTERM: `Agreement` asks that, and less often."""
    loop = trainer.fit_loop.epoch_loop
    if hasattr(loop, "_broadcast_sigterm_tensor"):
        loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer
