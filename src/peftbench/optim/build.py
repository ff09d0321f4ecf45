"""The configured optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    decayed = [(n, p) for n, p in named if p.ndim > 1]
    others = [(n, p) for n, p in named if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if spec.name == "adamw":
        return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas or (0.9, 0.999), fused=fused)
    momentum = 0.9 if spec.momentum is None else spec.momentum
    nesterov = bool(momentum) if spec.nesterov is None else spec.nesterov
    return torch.optim.SGD(groups, lr=spec.lr, momentum=momentum, nesterov=nesterov, fused=fused)


def schedule(spec: config.Optimizer, inner: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over `warmup` of the steps, then cosine down to `min_lr`, or constant."""
    warm = round(spec.warmup * steps)
    floor = min(spec.min_lr / spec.lr, 1.0)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if spec.schedule == "constant":
            return 1.0
        progress = min((step - warm) / max(steps - warm, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return torch.optim.lr_scheduler.LambdaLR(inner, factor)
