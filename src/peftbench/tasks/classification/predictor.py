"""`peftbench predict` for classification: the most probable classes of each image, or clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from peftbench.common.progress import Watch
from peftbench.tasks.predictor import Prediction, Predictor, Seen, Skip, read_batches


class ClassPredictor(Predictor):
    """`values` of a prediction: (class, probability), the best first, `top_k` of them, at most all classes."""

    def predictions(self, tuned: Any, skip: Skip, watch: Watch) -> Iterator[Prediction]:
        k = min(self.options["top_k"], len(tuned.classes))
        for paths, pixels in read_batches(tuned, self.items, self.options["batch_size"], skip, watch):
            with torch.no_grad(), tuned.precision():
                logits = tuned(pixels.to(tuned.device))
            best = logits.float().softmax(1).cpu().topk(k)
            for path, values, indices in zip(paths, best.values.tolist(), best.indices.tolist(), strict=True):
                names = (tuned.classes[index] for index in indices)
                yield Prediction(path, list(zip(names, values, strict=True)))

    def heading(self, tuned: Any, first: Prediction) -> list[str]:
        places = range(1, len(first.values) + 1)
        return ["image", *(f"{name}_{place}" for place in places for name in ("class", "probability"))]

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        pairs = ((name, f"{probability:.6f}") for name, probability in prediction.values)
        yield [prediction.path, *(value for pair in pairs for value in pair)]

    def plain(self, prediction: Prediction) -> list[dict[str, Any]]:
        return [{"class": name, "probability": round(p, 6)} for name, p in prediction.values]

    @staticmethod
    def served(task: Any, answer: Any, seen: Seen) -> dict[str, Any]:
        """The most probable class, and the probability of each."""
        probabilities = answer.float().softmax(0).tolist()
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        each = {name: round(p, 6) for name, p in zip(task.classes, probabilities, strict=True)}
        return {"class": task.classes[best], "probability": round(probabilities[best], 6), "probabilities": each}
