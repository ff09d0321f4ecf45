"""The focal loss: what is predicted well already counts less (Lin et al., 2017, https://arxiv.org/abs/1708.02002)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(
    logits: Tensor, targets: Tensor, gamma: float, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """-(1 - p)^gamma · log p of the target's class, (B,), under softmax; with gamma = 0 that is cross-entropy.

    Of targets that are shares, each class's term counts by its share (our reading; the paper has one class). Weights
    and smoothing act as in torch's cross-entropy.

    Args:
        logits: (B, C).
        targets: labels (B,), or shares (B, C).
        weights: (C,), a factor for the term of each class.
        smoothing: the share of each target that goes to all classes alike.
    """
    classes = logits.shape[1]
    shares = targets if targets.is_floating_point() else F.one_hot(targets, classes)
    shares = shares * (1 - smoothing) + smoothing / classes
    log = F.log_softmax(logits.float(), dim=1)
    # Where p rounds to 1 the slope of a power below 1 would be infinite.
    missed = (-torch.expm1(log)).clamp(min=torch.finfo(log.dtype).tiny)
    terms = shares * missed**gamma * log
    return -(terms if weights is None else terms * weights).sum(1)
