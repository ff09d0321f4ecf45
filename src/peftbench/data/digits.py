"""scikit-learn's handwritten digits: 1797 grey images of 8 x 8 pixels, ten classes; nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from peftbench.data.base import DataSet, Split, Splits, stratified


@dataclass(frozen=True)
class Digits(DataSet):
    """Split by class with a fixed seed into 55 % train, 11 % val and a third for test."""

    places: ClassVar[tuple[str, ...]] = ()

    def load(self) -> Splits:
        from sklearn.datasets import load_digits

        raw = load_digits()
        images = (raw.images * 255 / 16).round().astype(np.uint8)
        whole = Split(images, raw.target.astype(np.int64), [f"digits/{i:04d}" for i in range(len(images))])
        train, val, test = stratified(whole.labels, (1 / 9, 1 / 3), seed=0)
        classes = tuple(str(i) for i in range(10))
        return Splits("digits-v1", classes, whole.take(train), whole.take(val), whole.take(test))
