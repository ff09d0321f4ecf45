"""Top-1 accuracy that remembers which images were right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.utilities import dim_zero_cat


class Remembering(Metric):
    """A metric that remembers of each image whether something of it is right, as `remember` is told.

    In several processes each evaluates every so-many-th image of a batch, as `data.loading.Share` deals them out.
    """

    seen: list[Tensor]  # int64 rows (batch, place in this process's part of it, 1 where it is right)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_state("seen", [], dist_reduce_fx="cat")

    def remember(self, right: Tensor) -> None:
        """Takes of a batch what is right, 0 or 1, int64 (B,)."""
        places = torch.arange(len(right), device=right.device)
        self.seen.append(torch.stack([torch.full_like(places, len(self.seen)), places, right], 1))

    def sync(self, *args: Any, **options: Any) -> None:
        if not self._is_synced:  # a process without images must hand on a state of the shape and type of the others
            self.seen.append(torch.zeros(0, 3, dtype=torch.long, device=self.device))
        super().sync(*args, **options)

    def right(self) -> Tensor:
        """Of each image, in the order of the split, whether it is right: bool (N,). Each process calls this."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            seen = dim_zero_cat(self.seen)
        # Rows of the processes follow one another, and of equal places the first process has the first image.
        batches, places, right = seen.cpu().unbind(1)
        return right[torch.argsort(batches * 2**32 + places, stable=True)].bool()


class Top1(Remembering, MulticlassAccuracy):
    """The share of images whose class has the highest logit; `right` says of each image whether it is one of them."""

    def __init__(self, classes: int, **options: Any) -> None:
        super().__init__(classes, average="micro", **options)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Takes logits (B, classes) and labels (B,)."""
        super().update(preds, target)
        self.remember((preds.argmax(1) == target).long())
