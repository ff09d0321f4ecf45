"""What a classifier says of classes that were learned in groups, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peftbench.tasks.classification.top1 import Remembering


class GroupFigures(Remembering):
    """Accuracy on the images of each group: among all classes, and among those of the group alone.

    Results are `group_<g>/accuracy` and `group_<g>/task_accuracy`, of the groups that have an image, and
    `task_accuracy`, the second over all images. `right` says of each image whether the class that is said for it, among
    all, is one of its group.

    Args:
        groups: the number of each class's group.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    of_class: Tensor
    right_class: Tensor  # int64 (groups,)
    right_within: Tensor
    images: Tensor

    def __init__(self, groups: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.numbers = sorted(set(groups))
        self.register_buffer(
            "of_class", torch.tensor([self.numbers.index(group) for group in groups]), persistent=False
        )
        for name in ("right_class", "right_within", "images"):
            self.add_state(name, torch.zeros(len(self.numbers), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Takes logits (B, classes) and labels (B,)."""
        of_class = self.of_class.to(target.device)
        group, said = of_class[target], preds.argmax(1)
        others = of_class[None, :] != group[:, None]
        within = preds.float().masked_fill(others, -torch.inf).argmax(1)
        for name, right in (("right_class", said == target), ("right_within", within == target)):
            getattr(self, name).scatter_add_(0, group, right.long())
        self.images.scatter_add_(0, group, torch.ones_like(group))
        self.remember((of_class[said] == group).long())

    def compute(self) -> dict[str, Tensor]:
        """Scalars by name, 0 to 1."""
        figures = {"task_accuracy": self.right_within.sum() / self.images.sum().clamp(min=1)}
        for i, number in enumerate(self.numbers):
            if self.images[i] > 0:
                figures[f"group_{number}/accuracy"] = self.right_class[i] / self.images[i]
                figures[f"group_{number}/task_accuracy"] = self.right_within[i] / self.images[i]
        return figures
