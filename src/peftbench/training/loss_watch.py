"""Notices that a loss, or a weight, is no longer a number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from peftbench.common.errors import UserError

ADVICE = "a lower optimizer.lr or trainer.clip=1 usually helps, and bf16 instead of 16"


class Diverged(UserError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class _Copy:
    """A loss () on its way from the GPU to the CPU, and the step that it is of."""

    loss: Tensor
    arrived: torch.cuda.Event
    epoch: int
    step: int


class LossWatch:
    """Looks at the loss of each step. On a GPU it looks one step late: that loss has arrived by then, nobody waits."""

    def __init__(self) -> None:
        self._on_its_way: _Copy | None = None

    def look(self, loss: Tensor, epoch: int, step: int) -> None:
        """Raises Diverged where the loss (), or on a GPU that of the step before, is not finite."""
        if not loss.is_cuda:
            _refuse_infinite(loss.detach(), epoch, step)
            return
        before, self._on_its_way = self._on_its_way, _send(loss.detach(), epoch, step)
        if before is not None:
            before.arrived.synchronize()
            _refuse_infinite(before.loss, before.epoch, before.step)


def _send(loss: Tensor, epoch: int, step: int) -> _Copy:
    """Starts copying the loss to the CPU."""
    copy = torch.empty((), pin_memory=True).copy_(loss, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return _Copy(copy, arrived, epoch, step)


def _refuse_infinite(loss: Tensor, epoch: int, step: int) -> None:
    if not torch.isfinite(loss):
        raise Diverged(f"the loss became {loss.item()} in epoch {epoch}, step {step}; {ADVICE}")
