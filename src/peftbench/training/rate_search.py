"""A search for the learning rate: a short training at a rising rate, of which nothing is left but the losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn

from peftbench import optim
from peftbench.common.errors import UserError
from peftbench.common.precisions import HALF
from peftbench.common.seeds import mix, random_numbers_kept
from peftbench.config import Config, Optimizer
from peftbench.data.images import Indices, ready
from peftbench.data.loading import BatchOrder, Loaders, Share
from peftbench.data.read_ahead import Loader
from peftbench.data.worker_handover import whole_batch
from peftbench.deltas import drop_cached_values
from peftbench.methods.base import Method
from peftbench.models.model import Model
from peftbench.training.rate_factors import rate_factors

BELOW, ABOVE, STEPS_A_DECADE = 1e-3, 1e2, 10
"""From which to which multiple of `optimizer.lr` the rate rises, and in how many steps for each factor of ten."""
STEPS = 1 + round(STEPS_A_DECADE * math.log10(ABOVE / BELOW))
PASS = 8
"""The search goes over so many steps' batches again and again: losses then differ by the rate, not by the images."""
_LEAST, _HALF, _DIVERGED = 5, 4, 4.0


@dataclass(frozen=True)
class FoundRate:
    """`rate` is in the midst of where the loss fell most; `losses[i]` is that before the step at `rates[i]`.

    `at_end` says that it may fall more at rates `lower` or `higher` than those that were tried, since it falls most
    within half a factor of ten of their end; else it is empty.
    """

    rate: float
    rates: list[float]
    losses: list[float]
    at_end: str = ""


def find_rate(
    model: Model,
    method: Method,
    config: Config,
    loaders: Loaders,
    device: torch.device,
    watch: Callable[[int, int], None] = lambda done, of: None,
) -> FoundRate:
    """Trains for up to `STEPS` steps of rising rate, and puts everything back: weights, statistics, random state.

    The steps are those of the run's own optimizer, without what a method, `optimizer=ftp` or `spd` do after a step to
    stay near the start, with the factors of `rate_factors`, clipping, accumulation and precision. One process takes
    whole batches, in as many parts as there are processes. It ends early where the loss is four times what it was.

    Args:
        model: adapted, on the CPU, where it is afterwards too.
        method: which may have factors on rates.
        config: of the run; `optimizer.lr` is what the tried rates are multiples of.
        loaders: of which those for training are read, from kept taps where these are there.
        device: to train on.
        watch: called with the steps done, and of how many.

    Raises:
        UserError: the loss falls at no rate, or is no number from the start.
    """
    rates = [float(f"{config.optimizer.lr * BELOW * 10 ** (i / STEPS_A_DECADE):.4g}") for i in range(STEPS)]
    one_pass = _one_pass(loaders.order, int(config.trainer.accumulate))
    losses: list[float] = []
    with _untouched(model, device):
        steps = _Steps(model, method, config, rates[0])
        for i, parts in enumerate(_read(loaders, one_pass)):
            there = [ready(move_data_to_device(part, device), model.backbone.facts.input_size) for part in parts]
            loss = steps.take(there, rates[i], i % len(one_pass))
            if not math.isfinite(loss) or loss > _DIVERGED * max(losses[:_LEAST], default=loss):
                break
            losses.append(loss)
            watch(len(losses), STEPS)
    return _steepest(rates, losses, len(one_pass))


def _steepest(rates: Sequence[float], losses: Sequence[float], a_pass: int) -> FoundRate:
    """Where the mean loss over whole passes falls most from one rate to the next, up to where it is lowest."""
    width = a_pass * math.ceil(_LEAST / a_pass)
    means = [sum(losses[i : i + width]) / width for i in range(len(losses) - width + 1)]
    lowest = means.index(min(means)) if means else 0
    falls = {i: means[i] - means[i + 2 * _HALF] for i in range(len(means) - 2 * _HALF) if i + _HALF <= lowest}
    best = max(falls, key=lambda i: falls[i], default=0)
    if not falls or falls[best] <= 0:
        end = rates[len(losses)] if len(losses) < len(rates) else rates[-1]
        raise UserError(
            f"optimizer.find_lr=true: the loss falls at no learning rate from {rates[0]:.3g} to {end:.3g}; give "
            f"another optimizer.lr, of which {BELOW:g} to {ABOVE:g} times are tried, or leave find_lr out."
        )
    centre = best + _HALF + (width - 1) / 2
    rate = float(f"{rates[0] * 10 ** (centre / STEPS_A_DECADE):.3g}")  # so that it can be given by hand
    at_end = "lower" if best <= _HALF else ""
    if len(losses) == len(rates) and best >= len(means) - 1 - 3 * _HALF:
        at_end = "higher"
    return FoundRate(rate, list(rates[: len(losses)]), list(losses), at_end)


def _plain(spec: Optimizer) -> Optimizer:
    """What steps, without what it does after that to stay near the start."""
    return replace(spec, name=spec.inner or "adamw", inner=None) if spec.anchored else spec


def _one_pass(order: BatchOrder, accumulate: int) -> list[list[Indices]]:
    """Of each step of a pass the batches, in as many parts as there are processes; no epoch has this order."""
    processes = order.share.processes
    batches = list(replace(order, seed=mix(order.seed, 5), share=Share(), limit=None, place=lambda: (0, 0)))
    steps = min(PASS, max(len(batches) // accumulate, 1))
    batches = [batches[i % len(batches)] for i in range(steps * accumulate)]
    parts = [[Indices(one[p::processes], one.seed) for p in range(processes)] for one in batches]
    return [
        [part for one in parts[i : i + accumulate] for part in one if part] for i in range(0, len(parts), accumulate)
    ]


def _read(loaders: Loaders, one_pass: Sequence[Sequence[Indices]]) -> Iterator[list[Any]]:
    """The images of each of `STEPS` steps, pass after pass."""
    wanted = [one_pass[i % len(one_pass)] for i in range(STEPS)]
    loader: Any = Loader(
        loaders.train.dataset,
        batch_sampler=[part for parts in wanted for part in parts],
        collate_fn=whole_batch,
        num_workers=loaders.train.num_workers,
    )
    images = iter(loader)
    for parts in wanted:
        yield [next(images) for _ in parts]


class _Steps:
    """Optimizer steps at given rates. Each is seeded by its place in the pass, so that dropout is as it was there."""

    def __init__(self, model: Model, method: Method, config: Config, lowest: float) -> None:
        self.model, self.config = model, config
        spec = replace(_plain(config.optimizer), lr=lowest)
        factors = rate_factors(model, method, config.optimizer)
        self.optimizer = optim.optimizer(spec, model.trainable(), factors=factors)
        self.scaler = torch.amp.GradScaler(model.mean.device.type, enabled=config.trainer.precision == "16")
        self.factors = [group["lr"] / lowest for group in self.optimizer.param_groups]

    def take(self, parts: Sequence[Any], rate: float, place: int) -> float:
        """The loss of these images, and a step upon it where it is a number."""
        trainer, size = self.config.trainer, self.model.task.size
        half, total = HALF[trainer.precision], sum(map(size, parts))
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad()
        sum_of_losses = 0.0
        for i, part in enumerate(parts):
            torch.manual_seed(mix(self.config.seed, place, i, 6))
            with torch.autocast(self.model.mean.device.type, half, enabled=half is not None):
                loss = self.model.loss(part) * (size(part) / total)
            self.scaler.scale(loss).backward()
            sum_of_losses += loss.item()
        if math.isfinite(sum_of_losses):
            self.scaler.unscale_(self.optimizer)
            if trainer.clip is not None:
                nn.utils.clip_grad_norm_([p for _, p in self.model.trainable()], trainer.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return sum_of_losses


@contextmanager
def _untouched(model: Model, device: torch.device) -> Iterator[None]:
    """Inside, the model trains on `device`; after it, its tensors, modes and torch's random state are as before."""
    before = {name: t.detach().clone() for name, t in _moving(model).items()}
    modes = [(module, module.training) for module in model.modules()]
    try:
        with random_numbers_kept(device):
            model.to(device)
            model.train()
            yield
    finally:
        model.to("cpu")
        with torch.no_grad():
            for name, tensor in _moving(model).items():
                tensor.copy_(before[name])
                tensor.grad = None
        drop_cached_values(model)
        for module, mode in modes:
            module.training = mode


def _moving(model: Model) -> dict[str, Tensor]:
    """All that training may move, by name: what trains, and buffers."""
    return {**dict(model.trainable()), **{n: b for n, b in model.named_buffers() if not b.is_meta}}
