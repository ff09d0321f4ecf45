"""A classifier on new labelled images: accuracy, figures of each class, AUROC and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peftbench.results import class_figures
from peftbench.tasks.evaluator import Evaluator


class ClassEvaluator(Evaluator):
    """Predictions are logits (N, classes), over all classes of the run."""

    def figures(self, predictions: Any, labels: np.ndarray, classes: Sequence[str], seed: int) -> Mapping[str, Any]:
        logits = predictions.numpy()
        probabilities, said = class_figures.probabilities_of(logits), logits.argmax(1)
        confusion = class_figures.confusion_of(labels, said, len(classes))
        areas = [class_figures.auroc(probabilities[:, i], labels == i) for i in range(len(classes))]
        curve = class_figures.reliability(probabilities.max(1), said == labels)
        rows, columns = np.nonzero(confusion)
        there = confusion.sum(1)
        return {
            **class_figures.means(labels, said, len(classes)),
            "auroc": float(np.mean(known)) if (known := [area for area in areas if area is not None]) else None,
            "intervals": class_figures.intervals(labels, said, len(classes), seed),
            "classes": [
                {"name": name, "images": int(there[i]), **row, "auroc": areas[i]}
                for i, (name, row) in enumerate(zip(classes, class_figures.by_class(confusion), strict=True))
            ],
            "confusion": [
                [classes[row], classes[column], int(confusion[row, column])]
                for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            ],
            "calibration": {"error": class_figures.calibration_error(curve), "curve": curve},
        }

    def lines(self, figures: Mapping[str, Any]) -> list[str]:
        words = {"accuracy": "accuracy", "class_accuracy": "mean over classes", "f1": "F1, mean over classes"}
        lines = []
        for name, told in words.items():
            low, high = figures["intervals"][name]
            lines.append(f"{told}: {_percent(figures[name])} % (95 % interval {_percent(low)} to {_percent(high)})")
        lines.append(f"AUROC, one class against the others: {_percent(figures['auroc'])} %")
        lines.append(f"expected calibration error: {_percent(figures['calibration']['error'])} points")
        width = max(5, *(len(row["name"]) for row in figures["classes"]))
        columns = ("images", "precision", "recall", "f1", "auroc")
        lines.append(f"{'class':{width}}" + "".join(f"{name:>11}" for name in columns))
        for row in figures["classes"]:
            values = [f"{row['images']:,}", *(_percent(row[name]) for name in columns[1:])]
            lines.append(f"{row['name']:{width}}" + "".join(f"{value:>11}" for value in values))
        return lines


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
