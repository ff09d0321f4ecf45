"""A metric that is worked out of all predictions at once, as ranks and thresholds are."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Gathered(Metric):
    """Keeps every prediction and target, of all processes.

    Args:
        width: how many values are predicted of an image.
    """

    predictions: list[Tensor]
    targets: list[Tensor]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.add_state("predictions", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Takes predictions (B, width) and targets (B, width)."""
        self.predictions.append(predictions.detach().float())
        self.targets.append(targets.float())

    def sync(self, *args: object, **options: object) -> None:
        if not self._is_synced:  # a process without images must hand on a state of the shape and type of the others
            nothing = torch.zeros(0, self.width, device=self.device)
            self.predictions.append(nothing)
            self.targets.append(nothing)
        super().sync(*args, **options)  # type: ignore[arg-type]

    def all_seen(self) -> tuple[Tensor, Tensor]:
        """Predictions and targets, float64 (N, width)."""
        return dim_zero_cat(self.predictions).double(), dim_zero_cat(self.targets).double()
