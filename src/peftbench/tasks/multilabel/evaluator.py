"""A multi-label run on new labelled images: mean average precision, and F1 at the threshold that the run kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftbench.data.labelled import Known, Labelled
from peftbench.data.labelled_targets import labels_known, read_labels
from peftbench.results.resampled import Ranked, intervals_of, mean_area
from peftbench.tasks.evaluator import Evaluator, Judged, columns, nulled, with_interval, without_images
from peftbench.tasks.multilabel.figures import average_precisions, f1_scores


class LabelEvaluator(Evaluator):
    """Predictions are logits (N, labels), over all labels of the run."""

    def read(self, images: str | Path, labels: str | Path | None, classes: Sequence[str]) -> Labelled:
        return read_labels(images, labels, classes)

    def known(self, labelled: Labelled, classes: Sequence[str], categories: Sequence[int], unknown: str) -> Known:
        return labels_known(labelled, classes, unknown)

    def headline(self, judged: Judged) -> dict[str, float]:
        metric = judged.task.metrics()
        metric.update(judged.predictions, torch.from_numpy(judged.labels))
        return {name: float(value) for name, value in metric.compute().items()}

    def notes(self, judged: Judged, figures: Mapping[str, Any]) -> list[str]:
        return without_images(judged, judged.labels.max(0) > 0)

    def figures(self, judged: Judged) -> dict[str, Any]:
        probabilities, labels = judged.predictions.double().sigmoid(), torch.from_numpy(judged.labels)
        threshold = judged.task.threshold.item()
        said, there = (probabilities >= threshold).numpy(), judged.labels > 0
        precisions, scores = average_precisions(probabilities, labels), f1_scores(torch.from_numpy(said), labels)
        return {
            **self.headline(judged),
            "threshold": threshold,
            "intervals": {
                "mAP": mean_area(probabilities.numpy(), there, Ranked.average_precision, judged.seed),
                **intervals_of(lambda at: _f1(said[at], there[at]), len(said), judged.seed),
            },
            "classes": [
                {
                    "name": name,
                    "images": int(there[:, i].sum()),
                    "said": int(said[:, i].sum()),
                    "average_precision": nulled(precisions[i].item()),
                    "f1": nulled(scores[i].item()),
                }
                for i, name in enumerate(judged.classes)
            ],
        }

    def lines(self, figures: Mapping[str, Any]) -> list[str]:
        words = {
            "mAP": "mean average precision",
            "f1": f"F1 at the threshold {figures['threshold']:.3g}",
            "f1_macro": "F1, mean over labels",
        }
        lines = [with_interval(told, figures[name], figures["intervals"][name]) for name, told in words.items()]
        return lines + columns(figures["classes"], ("images", "said", "average_precision", "f1"), "label")


def _f1(said: np.ndarray, there: np.ndarray) -> dict[str, float]:
    """As `MultilabelFigures` gives them, of what was said and is there, bool (N, labels)."""
    right, either = (said & there).sum(0), said.sum(0) + there.sum(0)
    known = there.any(0)
    macro = (2 * right[known] / either[known]).mean() if known.any() else 0.0
    return {"f1": float(2 * right.sum() / max(int(either.sum()), 1)), "f1_macro": float(macro)}
