"""How a task judges a finished run on new labelled images: `peftbench evaluate`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Evaluator(ABC):
    """Of a task in which each image has one class, which class folders and the column label say."""

    @abstractmethod
    def figures(self, predictions: Any, labels: np.ndarray, classes: Sequence[str], seed: int) -> Mapping[str, Any]:
        """What the record of the evaluation holds, in plain values.

        Args:
            predictions: what `Task.evaluate` gave for N images.
            labels: (N,), indices of classes.
            classes: all names, in the order of the predictions.
            seed: of the intervals.
        """

    @abstractmethod
    def lines(self, figures: Mapping[str, Any]) -> list[str]:
        """The figures in words, for the terminal."""
