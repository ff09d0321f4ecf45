"""Notices what a method added and nothing trains: a run of it would be recorded as something that it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from peftbench.common.errors import UserError

LEAST = 10
"""Steps after which a tensor without a gradient is no accident: by the second or third all that takes part has one."""


class GradientWatch(Callback):
    """Looks at the gradients of what the method added until each has been something else than zero once.

    What it sees stays on the device, where it is asked for after 1, 2, 4, 8, … steps and when an epoch ends: a GPU that
    is asked in each step would be waited for in each.

    When an epoch ends, at least `LEAST` steps after the start, a run with a tensor that never had one fails by its
    name. Heads, the parts of a detector and the backbone's own weights are no additions. A checkpoint holds what was
    seen so far, so that a resumed run goes on from it.

    Attributes:
        steps: optimizer steps so far, all sessions together.
        idle: the names of the added tensors that have had no gradient yet; None before the first step.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.idle: list[str] | None = None
        self._moves: Tensor | None = None  # of each that is idle, whether it has had a gradient since it was asked

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        self.steps += 1
        if self.idle is not None and not self.idle:
            return
        named = dict(module.model.named_parameters())
        if self.idle is None:
            self.idle = [n for n, p in named.items() if p.requires_grad and _is_added(n, module.start)]
        if any(n not in named for n in self.idle):
            self._ask(trainer)
            self.idle = [n for n in self.idle if n in named]
        if self.idle:
            moves = torch.stack([_moves(named[n]) for n in self.idle])
            self._moves = moves if self._moves is None else self._moves | moves
            if self.steps.bit_count() == 1:
                self._ask(trainer)

    def _ask(self, trainer: Trainer) -> None:
        """Crosses off what has had a gradient, in any of the processes."""
        if self._moves is None or not self.idle:
            return
        moves = self._moves.float()
        moves = trainer.strategy.reduce(moves, reduce_op="sum") if trainer.world_size > 1 else moves
        self.idle = [n for n, some in zip(self.idle, moves.tolist(), strict=True) if not some]
        self._moves = None

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self._ask(trainer)
        if self.steps >= LEAST:
            for name in self._idle(module):
                module.fail(
                    name,
                    f"{_in_run(name)} trains nothing: its gradient was zero in each of {self.steps} steps, and a run "
                    f"without it would pass for one of method={module.config.method.name}; leave this layer out, or "
                    f"take another method.",
                )

    def note(self, module: Any) -> dict[str, str]:
        """After training: name -> what to tell of an added tensor that had no gradient in the few steps of the run."""
        why = f"its gradient was zero in each of {self.steps} steps, too few to tell whether it ever trains"
        few = 1 < self.steps < LEAST  # in the first step half of each low-rank update is behind zeros
        return dict.fromkeys(self._idle(module), why) if few else {}

    def state_dict(self) -> dict[str, Any]:
        idle = self.idle or []
        if self._moves is not None:  # of this process: others may know of more, and are asked again after resuming
            idle = [n for n, some in zip(idle, self._moves.tolist(), strict=True) if not some]
        return {"steps": self.steps, "idle": idle}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        steps, idle = state_dict.get("steps"), state_dict.get("idle")
        if not isinstance(steps, int) or not isinstance(idle, list) or not all(isinstance(n, str) for n in idle):
            raise UserError(
                "checkpoint: its GradientWatch holds no count of steps and names of tensors; remove the checkpoint, or "
                "give force=true, to start again."
            )
        self.steps, self.idle = steps, idle if steps else None

    def _idle(self, module: Any) -> list[str]:
        if not self.idle:
            return []
        training = {n for n, p in module.model.named_parameters() if p.requires_grad}
        return [n for n in self.idle if n in training]


def _is_added(name: str, start: Mapping[str, str]) -> bool:
    """Whether a parameter is neither the backbone's own (`start` has those) nor the task's."""
    return f"model.{name}" not in start and not _in_run(name).startswith("task.")


def _in_run(name: str) -> str:
    """A parameter's name in its run's model, where several train jointly too."""
    return name.split(".", 2)[2] if name.startswith("runs.") else name


def _moves(parameter: Tensor) -> Tensor:
    """Whether this process's share of the gradient has anything but zeros, () of bool, on the parameter's device."""
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros((), dtype=torch.bool, device=parameter.device)
    local = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return local.any()
