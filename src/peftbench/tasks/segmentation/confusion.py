"""What is measured of segmentations: one count of (true class, predicted class) over all pixels of a set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from peftbench.data.masks import IGNORED
from peftbench.tasks.segmentation.boundaries import boundary_counts


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """int64 (classes, classes): pixels of each true class (row) and predicted one (column); ignored ones are none.

    Args:
        predicted: uint8 (…), each below `classes`.
        truth: uint8 (…), classes and `IGNORED`.
        classes: how many there are.
    """
    # Ignored pixels are a row of their own, behind the others: leaving them out first takes sixty times as long.
    pairs = truth.to(torch.int32).mul_(classes).add_(predicted)
    counts = torch.bincount(pairs.view(-1), minlength=(IGNORED + 1) * classes)
    return counts[: classes * classes].view(classes, classes)


def figures_of(matrix: Tensor, classes: Sequence[str]) -> dict[str, Tensor]:
    """`mIoU`, `pixel_accuracy`, `mean_accuracy` and `IoU/<class>`, scalars in float64, 0 to 1.

    A class that is neither in the truth nor in a prediction has no IoU, and counts in no mean; one that is not in the
    truth has no accuracy. Where no pixel counts, all means are 0.
    """
    counts = matrix.double()
    right, true, said = counts.diag(), counts.sum(1), counts.sum(0)
    either = true + said - right
    overlap, accuracy = right / either.clamp(min=1), right / true.clamp(min=1)
    figures = {
        "mIoU": _mean(overlap, either > 0),
        "pixel_accuracy": right.sum() / true.sum().clamp(min=1),
        "mean_accuracy": _mean(accuracy, true > 0),
    }
    return figures | {f"IoU/{name}": overlap[i] for i, name in enumerate(classes) if either[i]}


def figures_of_boundaries(counts: Tensor, classes: Sequence[str]) -> dict[str, Tensor]:
    """`boundary_mIoU` and `boundary_IoU/<class>`, of what `boundary_counts` gives, added up over images."""
    right, true, said = counts.double()
    either = true + said - right
    overlap = right / either.clamp(min=1)
    each = {f"boundary_IoU/{name}": overlap[i] for i, name in enumerate(classes) if either[i]}
    return {"boundary_mIoU": _mean(overlap, either > 0), **each}


def absent(matrix: Tensor, classes: Sequence[str]) -> list[str]:
    """The classes that are neither in the truth nor in a prediction."""
    either = matrix.sum(0) + matrix.sum(1)
    return [name for i, name in enumerate(classes) if not either[i]]


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return values[counted].mean() if counted.any() else values.new_zeros(())


class Confusion(Metric):
    """Counts pixels, in memory that does not grow with the number of images.

    Args:
        classes: their names, in the order of their indices.
        boundary: as in `near_boundary`, where boundary IoU is measured too.
    """

    matrix: Tensor
    near: Tensor

    def __init__(self, classes: Sequence[str], boundary: float | None = None) -> None:
        super().__init__()
        self.names, self.boundary = tuple(classes), boundary
        if boundary is not None:
            self.add_state("near", torch.zeros(3, len(self.names), dtype=torch.int64), dist_reduce_fx="sum")
        zeros = torch.zeros(len(self.names), len(self.names), dtype=torch.int64)
        self.add_state("matrix", zeros, dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Takes what is predicted of images, and the truth: uint8 (H, W) each."""
        for predicted, truth in zip(predictions, targets, strict=True):
            self.matrix += confusion(predicted, truth, len(self.names))
            if self.boundary is not None:
                self.near += boundary_counts(predicted, truth, len(self.names), self.boundary)

    def compute(self) -> dict[str, Tensor]:
        """As `figures_of`, and as `figures_of_boundaries` where these are measured."""
        figures = figures_of(self.matrix, self.names)
        return figures if self.boundary is None else figures | figures_of_boundaries(self.near, self.names)
