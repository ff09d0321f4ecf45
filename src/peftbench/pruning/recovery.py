"""What pruning cost is won back without labels: the pruned backbone learns to give the whole one's taps."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError

_BATCH, _RATE, _LEAST_SIDE = 16, 1e-3, 0.5
_WARM = 0.1  # of the steps of a round


def recover(
    pruned: Backbone, whole: Backbone, images: Tensor, steps: int, generator: torch.Generator, device: torch.device
) -> float:
    """Trains all weights of `pruned` towards the taps and pooled features of `whole`; statistics stay as they are.

    The loss is the mean squared difference of each tap, as a share of that tap's variance (so that deep and shallow
    ones count alike), over random cuts of the images and their mirror images.

    Args:
        pruned, whole: on the CPU, where they are afterwards.
        images: normalised, (N, 3, H, W).
        steps: optimizer steps, with a rate that rises and falls by a cosine.
        generator: of the cuts.
        device: where it is computed.

    Returns:
        The loss of the last tenth of the steps; 0 with no steps.

    Raises:
        UserError: the loss is no number.
    """
    if not steps:
        return 0.0
    parameters = list(pruned.net.parameters())
    trained = [p.requires_grad for p in parameters]
    last: list[float] = []
    pruned.to(device), whole.to(device)
    try:
        for p in parameters:
            p.requires_grad_(True)
        optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        for step in range(steps):
            batch = _cut(images, generator).to(device)
            with torch.no_grad():
                wanted = _seen(whole, batch)
            loss = torch.stack([_apart(a, b) for a, b in zip(_seen(pruned, batch), wanted, strict=True)]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if not bool(loss.isfinite()):
                raise UserError("pruning.recovery: the loss is no number; give pruning.recovery=0.")
            if step >= 0.9 * steps:
                last.append(float(loss.detach()))
    finally:
        for p, before in zip(parameters, trained, strict=True):
            p.requires_grad_(before)
            p.grad = None
        pruned.to("cpu"), whole.to("cpu")
    return sum(last) / max(len(last), 1)


def _rate(step: int, steps: int) -> float:
    """The factor on the rate: a short rise, and a fall by a cosine."""
    return min(1.0, (step + 1) / max(1.0, _WARM * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _seen(backbone: Backbone, batch: Tensor) -> list[Tensor]:
    taps = backbone.taps(batch)
    return [*taps, backbone.pool(taps[-1])]


def _apart(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).square().mean() / theirs.var().clamp_min(1e-8)


def _cut(images: Tensor, generator: torch.Generator) -> Tensor:
    """A batch of random images: of all the same random cut, enlarged to their size, mirrored or not."""
    count, _, height, width = images.shape
    chosen = images[torch.randint(count, (min(_BATCH, count),), generator=generator)]
    side = _LEAST_SIDE + (1 - _LEAST_SIDE) * float(torch.rand((), generator=generator))
    high, wide = max(1, round(side * height)), max(1, round(side * width))
    top = int(torch.randint(height - high + 1, (), generator=generator))
    left = int(torch.randint(width - wide + 1, (), generator=generator))
    cut = chosen[..., top : top + high, left : left + wide]
    if torch.rand((), generator=generator) < 0.5:
        cut = cut.flip(3)
    return F.interpolate(cut, (height, width), mode="bilinear", align_corners=False, antialias=True)
