"""Accuracy as the mean over classes, of those that have an image."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.classification import MulticlassStatScores


class ClassAccuracy(MulticlassStatScores):
    """The mean, over the classes that have an image, of the share of their images that are told right.

    (torchmetrics' own mean counts a class without images as 0 as soon as an image is taken for it. A shifted test set
    may well lack classes.)

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes, average=None)

    def compute(self) -> Tensor:
        """A scalar, 0 to 1; 0 where no class has an image."""
        right, *_, images = super().compute().unbind(-1)
        there = (images > 0).float()
        return (there * (right / images.clamp(min=1)) / there.sum().clamp(min=1)).sum()
