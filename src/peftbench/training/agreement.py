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


class Question:
    """Numbers that all processes add up, every so many steps, which the first one counts out by its clock."""

    def __init__(self) -> None:
        self._steps, self._pause = 0, 1
        self._stage: Any = None
        self._asked = time.monotonic()

    def answer(self, trainer: Trainer, numbers: list[float], now: bool = False) -> list[float] | None:
        """The sums over all processes, or None in the pause between two questions, unless it is to be asked `now`.

        All processes call it at the same steps.
        """
        if trainer.state.stage != self._stage:  # whose steps may take another time
            self._steps, self._pause, self._stage = 0, 1, trainer.state.stage
        self._steps += 1
        if self._steps < self._pause and not now:
            return None
        pause = float(self._next_pause() if trainer.is_global_zero else 0)
        mine = torch.tensor([*numbers, pause], dtype=torch.float32, device=trainer.strategy.root_device)
        *sums, pause = trainer.strategy.reduce(mine, reduce_op="sum").tolist()
        self._steps, self._pause, self._asked = 0, int(pause), time.monotonic()
        return sums

    def _next_pause(self) -> int:
        """As many steps as fit into `EVERY` seconds, by those since it was asked."""
        seconds = max(time.monotonic() - self._asked, 1e-6)
        return max(1, min(int(self._steps * EVERY / seconds), _SLOWLY * self._pause))


class Agreement:
    """Whether to stop, and whether to save."""

    def __init__(self) -> None:
        self._question = Question()

    def of(self, trainer: Trainer, stop: bool, due: bool, now: bool) -> tuple[bool, bool]:
        """Whether any process wants to stop, and whether it is time to save by the clock of the first.

        In the pause between two questions, unless it is to be answered `now`, both are no.
        """
        if trainer.world_size == 1:
            return stop, due
        sums = self._question.answer(trainer, [float(stop), float(due and trainer.is_global_zero)], now)
        return (False, False) if sums is None else (bool(sums[0]), bool(sums[1]))


def without_questions_of_its_own(trainer: Trainer) -> Trainer:
    """Has Lightning not ask in each step whether a process got SIGTERM: `Agreement` asks that, and less often."""
    loop = trainer.fit_loop.epoch_loop
    if hasattr(loop, "_broadcast_sigterm_tensor"):
        loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer
