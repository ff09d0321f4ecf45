"""A detector on new images with boxes: COCO's table of twelve figures, and the AP of each class; of masks too."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftbench.data.boxes import Objects
from peftbench.data.labelled import Known, Labelled
from peftbench.data.labelled_boxes import boxes_known, read_boxes
from peftbench.tasks.detection.average_precision import BoxAP
from peftbench.tasks.detection.mask_precision import SEGM
from peftbench.tasks.detection.masks import run_lengths_of
from peftbench.tasks.detection.resampled_precision import HEADLINE, intervals_of_precision, mask_overlaps
from peftbench.tasks.evaluator import Evaluator, Judged, between, columns, nulled, percent, without_images

_WORDS = {
    "AP": "AP, IoU 0.50 to 0.95",
    "AP50": "AP, IoU 0.50",
    "AP75": "AP, IoU 0.75",
    "AP_small": "AP of small objects",
    "AP_medium": "AP of medium objects",
    "AP_large": "AP of large objects",
    "AR_1": "AR, 1 detection",
    "AR_10": "AR, 10 detections",
    "AR": "AR, 100 detections",
    "AR_small": "AR of small objects",
    "AR_medium": "AR of medium objects",
    "AR_large": "AR of large objects",
}
"""COCO's table, in its order (https://cocodataset.org/#detection-eval)."""


class BoxEvaluator(Evaluator):
    """Predictions are the detections of each image, as `Detection.evaluate` gives them."""

    def read(self, images: str | Path, labels: str | Path | None, classes: Sequence[str]) -> Labelled:
        return read_boxes(images, labels, self.section.masks)

    def known(self, labelled: Labelled, classes: Sequence[str], categories: Sequence[int], unknown: str) -> Known:
        return boxes_known(labelled, classes, categories, unknown)

    def headline(self, judged: Judged) -> dict[str, float]:
        table = _counted(judged).table()
        return {name: table[name] for name in (*HEADLINE, *(SEGM + name for name in HEADLINE)) if name in table}

    def notes(self, judged: Judged, figures: Mapping[str, Any]) -> list[str]:
        return without_images(judged, _counts(judged)[0] > 0)

    def figures(self, judged: Judged) -> dict[str, Any]:
        table = _counted(judged).table()
        images, objects = _counts(judged)
        count = functools.partial(
            intervals_of_precision, judged.predictions, list(judged.labels), len(judged.classes), judged.seed
        )
        intervals = count()
        if self.section.masks:
            of_masks = count(overlaps=mask_overlaps)
            intervals |= {SEGM + name: interval for name, interval in of_masks.items()}
        return {
            **{name: nulled(table.get(name, float("nan"))) for name in self._names()},
            "intervals": intervals,
            "classes": [
                {
                    "name": name,
                    "images": int(images[i]),
                    "objects": int(objects[i]),
                    **{figure: table.get(f"{figure}/{name}") for figure in self._of_classes()},
                }
                for i, name in enumerate(judged.classes)
            ],
        }

    def _names(self) -> list[str]:
        return [*_WORDS, *(SEGM + name for name in _WORDS)] if self.section.masks else list(_WORDS)

    def _of_classes(self) -> tuple[str, ...]:
        return ("AP", SEGM + "AP") if self.section.masks else ("AP",)

    def lines(self, figures: Mapping[str, Any]) -> list[str]:
        words = {name: _WORDS.get(name) or f"masks: {_WORDS[name.removeprefix(SEGM)]}" for name in self._names()}
        width = max(map(len, words.values()))
        lines = [
            f"{told:{width}} {percent(figures[name]):>7} %{between(figures['intervals'].get(name))}"
            for name, told in words.items()
        ]
        return lines + columns(figures["classes"], ("images", "objects", *self._of_classes()))


def _counted(judged: Judged) -> BoxAP:
    """COCO's count, with all images in it."""
    metric: BoxAP = judged.task.metrics()
    metric.update(judged.predictions, [_truth(objects) for objects in judged.labels])
    return metric


def _counts(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    """(images, objects) of each class, int64 (classes,); crowds, which are not counted as missed, are none."""
    images, objects = np.zeros((2, len(judged.classes)), dtype=np.int64)
    for one in judged.labels:
        alone = np.bincount(one.labels[~one.crowd], minlength=len(judged.classes))
        objects += alone
        images += alone > 0
    return images, objects


def _truth(objects: Objects) -> dict[str, Any]:
    """What `BoxAP` compares detections with."""
    return {
        "image_id": objects.id,
        "true_boxes": torch.from_numpy(objects.boxes),
        "true_labels": torch.from_numpy(objects.labels),
        "true_crowd": torch.from_numpy(objects.crowd.astype(np.int64)),
        "true_area": torch.from_numpy(objects.area),
        "original": objects.size,
        "true_segments": run_lengths_of(objects),
    }
