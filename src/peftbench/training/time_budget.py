"""A budget of time: training ends when it is spent, and the schedule follows the share that is gone."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from lightning.pytorch import Callback, Trainer

from peftbench.training.agreement import Question


class TimeBudget(Callback):
    """Ends training at the first optimizer step after so many minutes; validation of that epoch and the test follow.

    Training counts from its first step to its last, validations and checkpoints between them included, over all
    sessions of a resumed run. The first process's clock is everybody's; several look at it about once in a second.

    Attributes:
        seconds: the budget, None where there is none.
        spent: seconds that earlier sessions took.
        share: of the budget that is gone, at the last step.
    """

    def __init__(self, minutes: float | None) -> None:
        self.seconds = None if minutes is None else 60 * minutes
        self.spent, self.share = 0.0, 0.0
        self._begun: float | None = None
        self._looked_at = 0
        self._trainer: Trainer | None = None
        self._question = Question()

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self._trainer = trainer
        self._begun = perf_counter()
        if not module.place[1]:  # else it takes one more step, to end its epoch with a validation
            self._look(now=True)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.share >= 1:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self._look(now=True)  # its validation may have taken the rest

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        self.spent, self._begun = self.now(), None

    def now(self) -> float:
        """Seconds of training so far."""
        return self.spent + (0.0 if self._begun is None else perf_counter() - self._begun)

    def place(self, step: int, steps: int) -> float:
        """How far the schedule is after so many of `steps`: as far as these, or as the time where that is further."""
        if self.seconds is None or step == 0:
            return step
        if step != self._looked_at:  # it is asked for each group of parameters
            self._looked_at = step
            self._look()
        return max(step, self.share * steps)

    def _look(self, now: bool = False) -> None:
        """Notes the share that is gone, and asks for an end where it is all."""
        if self.seconds is None or self._trainer is None:
            return
        share = min(self.now() / self.seconds, 1.0)
        if self._trainer.world_size > 1:
            answer = self._question.answer(self._trainer, [share if self._trainer.is_global_zero else 0.0], now)
            share = self.share if answer is None else answer[0]
        self.share = share
        if self.share >= 1:
            self._trainer.should_stop = True
