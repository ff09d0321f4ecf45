"""A regression run on new labelled images: mean absolute error, R² and Spearman's correlation, of each number too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.data.labelled import Known, Labelled
from peftbench.data.labelled_targets import numbers_known, read_numbers
from peftbench.results.resampled import intervals_of
from peftbench.tasks.evaluator import Evaluator, Judged, nulled, percent
from peftbench.tasks.regression.figures import correlations, r2_scores, rank_correlations


class NumberEvaluator(Evaluator):
    """Predictions are numbers (N, K), in the units of the targets."""

    def read(self, images: str | Path, labels: str | Path | None, classes: Sequence[str]) -> Labelled:
        return read_numbers(images, labels, classes)

    def known(self, labelled: Labelled, classes: Sequence[str], categories: Sequence[int], unknown: str) -> Known:
        return numbers_known(labelled, classes, unknown)

    def headline(self, judged: Judged) -> dict[str, float]:
        return _means(_of_each(judged.predictions.double().numpy(), judged.labels.astype(np.float64)))

    def notes(self, judged: Judged, figures: Mapping[str, Any]) -> list[str]:
        same = [
            name for name, column in zip(judged.classes, judged.labels.T, strict=True) if (column == column[0]).all()
        ]
        return [f"'{name}' is the same for all images, so that it has neither R² nor a correlation" for name in same]

    def figures(self, judged: Judged) -> dict[str, Any]:
        said, true = judged.predictions.double().numpy(), judged.labels.astype(np.float64)
        of_each = _of_each(said, true)
        means = _means(of_each)
        return {
            **{name: nulled(value) for name, value in means.items()},
            "intervals": intervals_of(_Drawn(said, true).means, len(said), judged.seed),
            "numbers": [
                {
                    "name": name,
                    "mean": float(true[:, i].mean()),
                    "deviation": float(true[:, i].std()),
                    **{figure: nulled(values[i]) for figure, values in of_each.items()},
                }
                for i, name in enumerate(judged.classes)
            ],
        }

    def lines(self, figures: Mapping[str, Any]) -> list[str]:
        words = {"r2": "R²", "mae": "mean absolute error", "spearman": "Spearman's correlation of ranks"}
        lines = []
        for name, told in words.items():
            shown = _plain if name == "mae" else percent
            unit = "" if name == "mae" else " %"
            interval = figures["intervals"][name]
            between = f" (95 % interval {shown(interval[0])} to {shown(interval[1])})" if interval else ""
            value = figures[name]
            lines.append(f"{told}: {shown(value)}{unit if value is not None else ''}{between}")
        width = max(6, *(len(row["name"]) for row in figures["numbers"]))
        names = ("mean", "deviation", "mae", "r2", "spearman")
        lines.append(f"{'number':{width}}" + "".join(f"{name:>12}" for name in names))
        for row in figures["numbers"]:
            plain = (_plain(row[name]) for name in names[:3])
            shares = (percent(row[name]) for name in names[3:])
            lines.append(f"{row['name']:{width}}" + "".join(f"{value:>12}" for value in (*plain, *shares)))
        return lines


class _Drawn:
    """The means of predictions and targets (N, K) in draws. Values are sorted once: sorting each draw takes long."""

    def __init__(self, said: np.ndarray, true: np.ndarray) -> None:
        self.said, self.true = said, true
        self.places = [[np.unique(column, return_inverse=True)[1] for column in values.T] for values in (said, true)]

    def means(self, at: np.ndarray) -> dict[str, float]:
        """Those of the images at these places."""
        ours, theirs = (np.stack([_ranks(place[at]) for place in places], axis=1) for places in self.places)
        said, true = self.said[at], self.true[at]
        return _means(
            {"r2": r2_scores(said, true), "mae": np.abs(said - true).mean(0), "spearman": correlations(ours, theirs)}
        )


def _ranks(places: np.ndarray) -> np.ndarray:
    """The ranks (N,) of values that are given by their places among all, equal ones at the mean of theirs."""
    counts = np.bincount(places)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _of_each(said: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """Figure -> its value of each number, float64 (K,), of predictions and targets (N, K)."""
    return {
        "r2": r2_scores(said, true),
        "mae": np.abs(said - true).mean(0),
        "spearman": rank_correlations(said, true),
    }


def _means(of_each: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each over the numbers that have it; not a number where none has."""
    return {
        name: float("nan") if np.isnan(values).all() else float(np.nanmean(values)) for name, values in of_each.items()
    }


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
