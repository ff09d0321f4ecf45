"""What is measured of multi-label predictions: mean average precision, F1, and the threshold that serves F1 best."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from peftbench.tasks.gathered import Gathered


def average_precisions(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The average precision of each label, float64 (C,); not a number of a label that no image has.

    Args:
        probabilities: float64 (N, C), 0 to 1.
        labels: (N, C), 1 where an image has a label.
    """
    with warnings.catch_warnings():  # that a label has no image is what the value says
        warnings.simplefilter("ignore")
        figures = [binary_average_precision(*column) for column in zip(probabilities.T, labels.long().T, strict=True)]
    return torch.where(labels.bool().any(0), torch.stack(figures).double(), torch.nan)


def f1_scores(said: Tensor, labels: Tensor) -> Tensor:
    """The F1 of each label, float64 (C,); not a number of a label that no image has.

    Args:
        said: bool (N, C), what is predicted.
        labels: (N, C), 1 where an image has a label.
    """
    there = labels.bool()
    right, either = (said & there).sum(0).double(), (said.sum(0) + there.sum(0)).double()
    return torch.where(there.any(0), 2 * right / either.clamp(min=1), torch.nan)


def best_threshold(probabilities: Tensor, labels: Tensor) -> float:
    """The probability from which on a label is said, so that the F1 over all labels and images together is largest.

    It lies in the middle between the least probability that is said and the largest that is not. Of several that are
    equally good it is the nearest to 0.5, which it also is where no image has a label.
    """
    there = labels.bool().flatten()
    if not there.any():
        return 0.5
    values, order = probabilities.flatten().sort(descending=True)
    right = there[order].cumsum(0).double()
    f1 = 2 * right / (torch.arange(1, len(values) + 1, device=values.device) + there.sum())
    below = torch.cat([values[1:], values.new_zeros(1)])
    possible = values > below  # equal probabilities are said together
    middles = ((values + below) / 2)[possible]
    best = middles[f1[possible] == f1[possible].max()]
    return float(best[(best - 0.5).abs().argmin()])


class MultilabelFigures(Gathered):
    """`compute` gives `mAP`, `f1` over all labels and images together, and `f1_macro`, the mean of the labels' own.

    Predictions are logits (B, C), targets labels (B, C) of 0 and 1.

    Labels that no image has count in neither mean. Probabilities are in float64: in less the surest ones are equal.

    Args:
        labels: how many there are.
        threshold: gives the probability from which on a label is said.
    """

    def __init__(self, labels: int, threshold: Callable[[], float]) -> None:
        super().__init__(labels)
        self.threshold = threshold

    def compute(self) -> dict[str, Tensor]:
        """Scalars, 0 to 1."""
        probabilities, labels = self._all()
        said = probabilities >= self.threshold()
        right = (said & labels.bool()).sum().double()
        either = (said.sum() + labels.sum()).double()
        return {
            "mAP": _mean(average_precisions(probabilities, labels)),
            "f1": 2 * right / either.clamp(min=1),
            "f1_macro": _mean(f1_scores(said, labels)),
        }

    def best_threshold(self) -> float:
        """The threshold that serves F1 best on what was seen, in all processes together. Each process calls this."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return best_threshold(*self._all())

    def _all(self) -> tuple[Tensor, Tensor]:
        logits, labels = self.all_seen()
        return logits.sigmoid(), labels


def _mean(values: Tensor) -> Tensor:
    """Over what is a number; 0 where nothing is."""
    return values.nanmean().nan_to_num(0.0)
