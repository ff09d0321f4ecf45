"""What is measured of predicted numbers: R², the mean absolute error and Spearman's correlation of ranks."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from peftbench.tasks.gathered import Gathered


def r2_scores(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """R² of each number (K,): 1 is perfect, 0 as good as the targets' mean, less than 0 worse than that.

    Of constant targets, for which it is not defined, it is not a number.
    """
    off = ((predictions - targets) ** 2).sum(0)
    spread = ((targets - targets.mean(0)) ** 2).sum(0)
    return np.where(spread > 0, 1 - off / np.where(spread > 0, spread, 1), np.nan)


def rank_correlations(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each number (K,), equal values at the mean of their ranks.

    It is 0 of predictions that are all the same, which rank nothing (our reading); of constant targets not a number.
    """
    return correlations(rankdata(predictions, axis=0), rankdata(targets, axis=0))


def correlations(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The correlation of each column (K,) of ranks (N, K), whose mean is (N + 1) / 2; else as `rank_correlations`."""
    ours, theirs = (ranks - (len(ranks) + 1) / 2 for ranks in (predictions, targets))
    spread = np.sqrt((ours**2).sum(0) * (theirs**2).sum(0))
    together = (ours * theirs).sum(0) / np.where(spread > 0, spread, 1)
    return np.where((theirs**2).sum(0) > 0, together, np.nan)


class RegressionFigures(Gathered):
    """`compute` gives `r2`, `mae` and `spearman`, each the mean over the numbers, in float64.

    Predictions and targets are numbers (B, K).
    """

    def compute(self) -> dict[str, Tensor]:
        """Scalars. Numbers whose targets are all the same count in `mae` alone."""
        said, true = (values.cpu().numpy() for values in self.all_seen())
        figures = {
            "r2": r2_scores(said, true),
            "mae": np.abs(said - true).mean(0),
            "spearman": rank_correlations(said, true),
        }
        # A mean over nothing is not a number, as numpy would warn.
        return {
            name: torch.tensor(np.nan if np.isnan(values).all() else np.nanmean(values), dtype=torch.float64)
            for name, values in figures.items()
        }
