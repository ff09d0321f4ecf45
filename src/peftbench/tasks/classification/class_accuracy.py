"""Accuracy as the mean over classes, of those that have an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class ClassAccuracy(Metric):
    """The mean, over the classes that have an image, of the share of their images that are told right.

    (torchmetrics' own mean counts a class without images as 0 as soon as an image is taken for it. A shifted test set
    may well lack classes. And it counts by `bincount`, for whose size the host waits in each batch.)

    Args:
        classes: how many there are.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor  # int64 (classes,)
    images: Tensor  # int64 (classes,)

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name in ("right", "images"):
            self.add_state(name, torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Takes logits (B, classes) and labels (B,)."""
        right = (preds.argmax(1) == target).long()
        self.right.scatter_add_(0, target, right)
        self.images.scatter_add_(0, target, torch.ones_like(right))

    def compute(self) -> Tensor:
        """A scalar, 0 to 1; 0 where no class has an image."""
        there = (self.images > 0).float()
        return (there * (self.right / self.images.clamp(min=1)) / there.sum().clamp(min=1)).sum()
