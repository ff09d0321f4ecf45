"""`peftbench predict` for regression: a column for each number, called as the data call it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peftbench.common.progress import Watch
from peftbench.tasks.predictor import Prediction, Predictor, Seen, Skip


class NumberPredictor(Predictor):
    """`values` of a prediction: {name: number}, in the units of the targets."""

    def predictions(self, tuned: Any, skip: Skip, watch: Watch) -> Iterator[Prediction]:
        for prediction in super().predictions(tuned, skip, watch):
            yield Prediction(prediction.path, dict(zip(tuned.classes, prediction.values, strict=True)))

    def heading(self, tuned: Any, first: Prediction) -> list[str]:
        return ["image", *first.values]

    def rows(self, prediction: Prediction) -> Iterator[list[Any]]:
        yield [prediction.path, *(f"{value:.7g}" for value in prediction.values.values())]

    def plain(self, prediction: Prediction) -> dict[str, float]:
        return {name: float(f"{value:.7g}") for name, value in prediction.values.items()}

    @staticmethod
    def served(task: Any, answer: Any, seen: Seen) -> dict[str, Any]:
        """The numbers, in the units of the targets."""
        numbers = zip(task.classes, answer.float().tolist(), strict=True)
        return {"values": {name: float(f"{value:.7g}") for name, value in numbers}}
