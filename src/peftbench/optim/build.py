"""The configured optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from peftbench import config


def optimizer(
    spec: config.Optimizer, named: Sequence[tuple[str, nn.Parameter]], fused: bool = False
) -> torch.optim.Optimizer:
    """AdamW or SGD over named parameters; vectors and scalars (biases, norms) are not decayed.

    `fused` steps in one kernel, several times faster on many small tensors.
    """
    return _over(spec.name, _groups(spec, named), fused)


def together(
    specs: Sequence[config.Optimizer], named: Sequence[Sequence[tuple[str, nn.Parameter]]], steps: int, fused: bool
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """One optimizer, and its schedule, that steps several runs' parameters as each run's own would.

    The specs are of the same kind of optimizer; everything else may differ.
    """
    groups = [_groups(s, n) for s, n in zip(specs, named, strict=True)]
    inner = _over(specs[0].name, [g for own in groups for g in own], fused)
    factors = [_factor(s, steps) for s, own in zip(specs, groups, strict=True) for _ in own]
    return inner, torch.optim.lr_scheduler.LambdaLR(inner, factors)


def _groups(spec: config.Optimizer, named: Sequence[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    decayed = [(n, p) for n, p in named if p.ndim > 1]
    others = [(n, p) for n, p in named if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    own: dict[str, Any] = {"lr": spec.lr}
    if spec.name == "adamw":
        own["betas"] = tuple(spec.betas or (0.9, 0.999))
    else:
        own["momentum"] = 0.9 if spec.momentum is None else spec.momentum
        own["nesterov"] = bool(own["momentum"]) if spec.nesterov is None else spec.nesterov
    return [g | own for g in groups if g["params"]]


def _over(name: str, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
    kind: Any = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    return kind(groups, fused=fused)


def schedule(spec: config.Optimizer, inner: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over `warmup` of the steps, then cosine down to `min_lr`, or constant."""
    return torch.optim.lr_scheduler.LambdaLR(inner, _factor(spec, steps))


def _factor(spec: config.Optimizer, steps: int) -> Callable[[int], float]:
    warm = round(spec.warmup * steps)
    floor = min(spec.min_lr / spec.lr, 1.0)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if spec.schedule == "constant":
            return 1.0
        progress = min((step - warm) / max(steps - warm, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor
