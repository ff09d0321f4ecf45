"""The configured optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from peftbench import config
from peftbench.errors import UserError, nearest
from peftbench.optim.ftp import FTP


def optimizer(
    spec: config.Optimizer,
    named: Sequence[tuple[str, nn.Parameter]],
    anchors: Mapping[str, Tensor] | None = None,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """AdamW or SGD over named parameters, under FTP where the spec says so.

    Vectors and scalars (biases, norms, class tokens) are not decayed. `fused` steps in one kernel, several times
    faster on many small tensors. `anchors` are FTP's; None takes the values that the parameters have now.

    Raises:
        UserError: an exclusion that matches no name.
    """
    plain = _plain(spec, named, fused)
    if spec.name != "ftp":
        return plain
    exclude = matching(spec.exclude, [n for n, _ in named], "optimizer.exclude")
    own = None if anchors is None else {n: anchors[n] for n, _ in named}
    return FTP(plain, anchors=own, exclude=exclude, kappa=spec.kappa, gamma_lr=spec.gamma_lr, norm=spec.norm)


def matching(patterns: Sequence[str], names: Sequence[str], key: str) -> list[str]:
    """The names that any pattern matches. Raises UserError, with the config key, for a pattern that matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in names):
            raise UserError(
                f"{key}={list(patterns)}: '{pattern}' matches no trained tensor{nearest(pattern, names)}; there are "
                f"{', '.join(names[:3])}, …"
            )
    return [n for n in names if any(fnmatchcase(n, p) for p in patterns)]


def _plain(spec: config.Optimizer, named: Sequence[tuple[str, nn.Parameter]], fused: bool) -> torch.optim.Optimizer:
    decayed = [(n, p) for n, p in named if p.squeeze().ndim > 1]
    others = [(n, p) for n, p in named if p.squeeze().ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if (spec.inner or spec.name) != "sgd":
        return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas or (0.9, 0.999), fused=fused)
    momentum = 0.9 if spec.momentum is None else spec.momentum
    nesterov = bool(momentum) if spec.nesterov is None else spec.nesterov
    return torch.optim.SGD(groups, lr=spec.lr, momentum=momentum, nesterov=nesterov, fused=fused)


def schedule(spec: config.Optimizer, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
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

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
