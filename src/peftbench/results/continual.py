"""What a sequence of groups of classes comes to: averages, forgetting and transfer."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

Matrix = Sequence[Sequence[float]]
"""Row k has the accuracies on groups 1 to k after group k was learned."""


def figures_of(matrix: Matrix, seen: Sequence[float], prefix: str = "") -> dict[str, float]:
    """The figures of a sequence, from 0 to 1; forgetting may be below 0, and needs two groups.

    - `accuracy`: A_N, on the images of all classes after the last group;
    - `average_accuracy`: A_1:N, the mean over k of A_k, on the images of all classes so far after group k. (Our reading
      of the average; some papers write A_1:N for A_N.)
    - `current_accuracy`: the mean over k of the accuracy on group k when it has just been learned;
    - `forgetting`: the mean over all groups but the last of the best accuracy on it at any time before the end, minus
      that at the end (Chaudhry et al., 2018, arXiv 1801.10112).

    Args:
        matrix: accuracies on each group.
        seen: A_1 to A_N.
        prefix: of the names, `task_` where the group of each image was told.
    """
    count = len(matrix)
    figures = {
        "accuracy": seen[-1],
        "average_accuracy": fmean(seen),
        "current_accuracy": fmean(row[-1] for row in matrix),
    }
    if count > 1:
        best = [max(matrix[k][j] for k in range(j, count - 1)) for j in range(count - 1)]
        figures["forgetting"] = fmean(before - matrix[-1][j] for j, before in enumerate(best))
    return {f"{prefix}{name}": value for name, value in figures.items()}


def forward_transfer(matrix: Matrix, alone: Sequence[float]) -> float:
    """The mean over groups 2 to N of the accuracy on it just after it was learned, minus that of learning it alone.

    Above 0, what was learned before helps. (As in Díaz-Rodríguez et al., 2018, arXiv 1810.13166, what is before does
    count; that the reference is the same setting from the pretrained weights is our reading.)

    Args:
        matrix: accuracies where the group of each image is told.
        alone: of groups 2 to N, learned by themselves.
    """
    return fmean(row[-1] - other for row, other in zip(matrix[1:], alone, strict=True))
