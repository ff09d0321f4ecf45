"""Which epoch's weights a run keeps, and when it gives up waiting for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from peftbench.common.errors import UserError
from peftbench.config import Trainer as TrainerConfig
from peftbench.deltas import drop_cached_values


def best_epoch(history: Sequence[Mapping[str, float]], metric: str) -> int | None:
    """The epoch (from 1) with the largest value of a metric, the earlier of equal ones; None before any was validated.

    Args:
        history: a row an epoch.
        metric: the key of the rows, of which more is better; not a number is less than any.
    """
    values = [(row[metric], int(row["epoch"])) for row in history if metric in row]
    finite = [(value, epoch) for value, epoch in values if not math.isnan(value)] or values
    return max(finite, key=lambda one: (one[0], -one[1]))[1] if finite else None


class Keeper(Callback):
    """Holds the weights of the best epoch so far (`trainer.keep=best`), and stops where `trainer.patience` ends.

    Everything but the weights follows from the history. They are in the machine's memory, not the GPU's, and in the
    run's checkpoint, so that a run that was killed goes on as if it had not been.

    Attributes:
        metric: the key of the history's rows that epochs are judged by.
        weights: name in the model -> what training moved, as it was at the end of the best epoch.
    """

    def __init__(self, spec: TrainerConfig, metric: str) -> None:
        self.keeps, self.patience, self.metric = spec.keep == "best", spec.patience, metric
        self._chooses = self.keeps or self.patience is not None
        self.weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        if self._chooses:  # it may have been stopped in what turns out as its last epoch
            trainer.should_stop = trainer.should_stop or self.exhausted(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        if not self._chooses or module.cut_short:  # cut short, this epoch has no validation yet
            return
        best = self._best(trainer, module)
        if best is None:
            raise UserError(
                f"trainer.keep and trainer.patience: task={module.config.task.name} says that its runs are judged by "
                f"{self.metric.removeprefix('val_')!r}, and does not measure it; leave them out."
            )
        self.note(module, best)
        trainer.should_stop = trainer.should_stop or self.exhausted(trainer, module)

    @torch.no_grad()
    def note(self, module: Any, best: int | None) -> None:
        """Takes the weights of now where this epoch, which was just validated, is the best."""
        if not self.keeps or best != len(module.history):
            return
        for name, tensor in module.averaged().items():
            if name in self.weights:
                self.weights[name].copy_(tensor)
            else:
                self.weights[name] = tensor.detach().to("cpu", copy=True)

    def exhausted(self, trainer: Trainer, module: Any) -> bool:
        """Whether there was no better epoch for as many as patience allows."""
        best = self._best(trainer, module)
        return best is not None and self.patience is not None and len(module.history) - best >= self.patience

    @torch.no_grad()
    def restore(self, module: Any) -> int:
        """After training: puts the weights to keep into the model, and returns their epoch."""
        if not self.keeps or not self.weights:
            return len(module.history)
        moving = module.moving()
        for name, tensor in self.weights.items():
            moving[name].copy_(tensor)
        drop_cached_values(module.model)
        return best_epoch(module.history, self.metric) or len(module.history)

    def _best(self, trainer: Trainer, module: Any) -> int | None:
        """The best epoch so far; the first process decides."""
        best = best_epoch(module.history, self.metric)
        return trainer.strategy.broadcast(best) if trainer.world_size > 1 else best
