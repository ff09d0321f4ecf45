"""scikit-learn's handwritten digits: 1797 grey images of 8 x 8 pixels, ten classes; nothing to download."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from peftbench.data.base import DataSet, Split, Splits, stratified

_TRAITS = {"even": (0, 2, 4, 6, 8), "prime": (2, 3, 5, 7), "above 4": (5, 6, 7, 8, 9), "loop": (0, 6, 8, 9)}


@dataclass(frozen=True)
class Digits(DataSet):
    """Split by class with a fixed seed into 55 % train, 11 % val and a third for test.

    As several labels: what is true of the digit (even, prime, above four, has a loop). As numbers: the digit itself,
    and the share of the image that is ink, 0 to 1.
    """

    places: ClassVar[tuple[str, ...]] = ()

    def load(self) -> Splits:
        return self.load_as("own")

    def load_as(self, targets: str) -> Splits:
        from sklearn.datasets import load_digits

        raw = load_digits()
        images = (raw.images * 255 / 16).round().astype(np.uint8)
        whole = Split(images, raw.target.astype(np.int64), [f"digits/{i:04d}" for i in range(len(images))])
        train, val, test = stratified(whole.labels, (1 / 9, 1 / 3), seed=0)
        classes, name = tuple(str(i) for i in range(10)), "digits-v1"
        if targets == "labels":
            classes, name = tuple(_TRAITS), "digits-traits-v1"
            traits = [np.isin(raw.target, digits) for digits in _TRAITS.values()]
            whole = replace(whole, labels=np.stack(traits, axis=1).astype(np.float32))
        elif targets == "numbers":
            classes, name = ("digit", "ink"), "digits-numbers-v1"
            numbers = np.stack([raw.target, raw.images.mean((1, 2)) / 16], axis=1)
            whole = replace(whole, labels=numbers.astype(np.float32))
        return Splits(name, classes, whole.take(train), whole.take(val), whole.take(test))
