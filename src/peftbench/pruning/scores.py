"""What a weight is worth: its magnitude, or a first-order estimate of what its loss would change."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError

BATCH = 16
TAYLOR_IMAGES = 64
"""So many images are looked at; more would change few scores."""


def taylor_scores(backbone: Backbone, parameters: Mapping[str, nn.Parameter], images: Tensor) -> dict[str, Tensor]:
    """|weight x gradient| of each parameter, over normalised images (N, 3, H, W) (Molchanov et al., 1611.06440).

    The loss is half the mean squared norm of the pooled features, which needs no labels and no head, so that the
    pruned backbone belongs to no task (our choice: the upstream loss is not to be had).

    Raises:
        UserError: a score that is no number.
    """
    chosen = list(parameters.values())
    trains = [p.requires_grad for p in chosen]
    sums = [torch.zeros_like(p) for p in chosen]
    try:
        for p in chosen:
            p.requires_grad = True
        for batch in images.split(BATCH):
            features = backbone.pool(backbone.taps(batch, (-1,))[0])
            gradients = torch.autograd.grad(features.square().sum() / 2 / len(images), chosen, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient
    finally:
        for p, before in zip(chosen, trains, strict=True):
            p.requires_grad = before
    scores = {n: (p.detach() * s).abs() for (n, p), s in zip(parameters.items(), sums, strict=True)}
    for name, score in scores.items():
        if not score.isfinite().all():
            raise UserError(f"pruning.criterion=taylor: the score of {name} is no number; use criterion=magnitude.")
    return scores


def magnitude_scores(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """|weight| of each parameter."""
    return {n: p.detach().abs() for n, p in parameters.items()}
