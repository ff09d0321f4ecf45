"""`peftbench predict` for multi-label runs: the labels of each image, and the probability of every label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from peftbench.common.progress import Watch
from peftbench.tasks.predictor import Prediction, Predictor, Seen, Skip, read_batches


class LabelPredictor(Predictor):
    """`values` of a prediction: (labels, {label: probability}); a label is said from the run's threshold on."""

    def predictions(self, tuned: Any, skip: Skip, watch: Watch) -> Iterator[Prediction]:
        threshold = tuned.model.task.threshold.item()
        for paths, pixels in read_batches(tuned, self.items, self.options["batch_size"], skip, watch):
            with torch.no_grad(), tuned.precision():
                logits = tuned(pixels.to(tuned.device))
            for path, row in zip(paths, logits.double().sigmoid().tolist(), strict=True):
                probabilities = dict(zip(tuned.classes, row, strict=True))
                yield Prediction(path, ([name for name, p in probabilities.items() if p >= threshold], probabilities))

    def heading(self, tuned: Any, first: Prediction) -> list[str]:
        return ["image", "labels", *(f"probability_{name}" for name in tuned.classes)]

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        labels, probabilities = prediction.values
        yield [prediction.path, ";".join(labels), *(f"{p:.6f}" for p in probabilities.values())]

    def plain(self, prediction: Prediction) -> dict[str, Any]:
        labels, probabilities = prediction.values
        return {"labels": labels, "probabilities": {name: round(p, 6) for name, p in probabilities.items()}}

    @staticmethod
    def served(task: Any, answer: Any, seen: Seen) -> dict[str, Any]:
        """The labels from the run's threshold on, and the probability of each."""
        probabilities = dict(zip(task.classes, answer.double().sigmoid().tolist(), strict=True))
        threshold = task.threshold.item()
        labels = [name for name, p in probabilities.items() if p >= threshold]
        return {"labels": labels, "probabilities": {name: round(p, 6) for name, p in probabilities.items()}}
