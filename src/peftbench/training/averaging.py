"""The exponential moving average of what trains, in the place of which a run is validated, tested and saved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from peftbench.deltas import drop_cached_values

_STATISTICS = ("running_mean", "running_var")


class Average(Callback):
    """After each optimizer step average = d · average + (1 - d) · now, with d = min(decay, (1 + t) / (10 + t)).

    t is the number of steps before this one: the start is soon forgotten.

    Weights and the statistics of batch-norms are averaged; every other buffer (counters) is copied. While the model is
    validated the average is in its place; training goes on from the weights that were there before.

    Attributes:
        decay: None where nothing is averaged.
        steps: t.
        tensors: name in the model -> the average; empty before training, and once it is in the model for good.
    """

    def __init__(self, decay: float | None) -> None:
        self.decay, self.steps = decay, 0
        self.tensors: dict[str, Tensor] = {}
        self._seen = 0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        if self.decay is None:
            return
        self._seen = trainer.global_step
        moving = module.moving()
        if not self.tensors:
            self.tensors = {name: tensor.detach().clone() for name, tensor in moving.items()}
        self.tensors = {name: tensor.to(moving[name].device) for name, tensor in self.tensors.items()}
        averaged = _averaged(module.model, moving)
        self._pairs = [(self.tensors[n], moving[n]) for n in averaged]
        self._copies = [(self.tensors[n], t) for n, t in moving.items() if n not in averaged]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        if self.decay is None or trainer.global_step == self._seen:  # of several batches for a step, one but the last
            return
        self._seen = trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        averages, tensors = zip(*self._pairs, strict=True)
        torch._foreach_lerp_(averages, tensors, 1 - decay)
        for copy, tensor in self._copies:
            copy.copy_(tensor)

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        self._swap(module)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        self._swap(module)

    @torch.no_grad()
    def settle(self, module: Any) -> None:
        """After training: puts the average into the model for good."""
        if not self.tensors:
            return
        moving = module.moving()
        for name, tensor in self.tensors.items():
            moving[name].copy_(tensor)
        self.tensors, self._pairs, self._copies = {}, [], []
        drop_cached_values(module.model)

    def _swap(self, module: Any) -> None:
        """Exchanges the memory of the model's tensors and of the average's; nothing is copied."""
        if not self.tensors:
            return
        for name, tensor in module.moving().items():
            average = self.tensors[name]
            here = average.to(tensor.device)
            tensor.data, average.data = here.data, tensor.data
        drop_cached_values(module.model)


def _averaged(model: torch.nn.Module, moving: Iterable[str]) -> list[str]:
    """The names of what is averaged: parameters, and the statistics of norms."""
    norms = {name for name, module in model.named_modules() if isinstance(module, _NormBase)}
    parameters = dict(model.named_parameters())
    statistics = {f"{name}.{own}" for name in norms for own in _STATISTICS}
    return [name for name in moving if name in parameters or name in statistics]
