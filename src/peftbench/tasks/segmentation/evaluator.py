"""A run of segmentation on new images with masks: mIoU and its kin, and the figures of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftbench.data.labelled import Known, Labelled
from peftbench.data.labelled_masks import masks_known, read_masks
from peftbench.results.resampled import intervals_of
from peftbench.tasks.evaluator import Evaluator, Judged, columns, nulled, with_interval, without_images
from peftbench.tasks.segmentation.boundaries import boundary_counts
from peftbench.tasks.segmentation.confusion import confusion

_WORDS = {
    "mIoU": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "accuracy, mean over classes",
    "boundary_mIoU": "mean IoU near boundaries",
}


class MaskEvaluator(Evaluator):
    """Predictions are the class of each pixel of each image, uint8 (H, W)."""

    def read(self, images: str | Path, labels: str | Path | None, classes: Sequence[str]) -> Labelled:
        return read_masks(images, labels, classes)

    def known(self, labelled: Labelled, classes: Sequence[str], categories: Sequence[int], unknown: str) -> Known:
        return masks_known(labelled, classes, unknown)

    def headline(self, judged: Judged) -> dict[str, float]:
        return figures_of_counts(_counts(judged).sum(0))

    def notes(self, judged: Judged, figures: Mapping[str, Any]) -> list[str]:
        return without_images(judged, np.array([row["images"] > 0 for row in figures["classes"]]))

    def figures(self, judged: Judged) -> dict[str, Any]:
        counts = _counts(judged)
        right, true, said, *near = counts.sum(0)
        either = true + said - right
        with np.errstate(invalid="ignore", divide="ignore"):
            overlaps, accuracies = right / either, right / true
            boundaries = near[0] / (near[1] + near[2] - near[0]) if near else None
        return {
            **figures_of_counts(counts.sum(0)),
            "intervals": intervals_of(lambda at: figures_of_counts(counts[at].sum(0)), len(counts), judged.seed),
            "classes": [
                {
                    "name": name,
                    "images": int((counts[:, 1, i] > 0).sum()),
                    "pixels": int(true[i]),
                    "IoU": nulled(overlaps[i]),
                    "accuracy": nulled(accuracies[i]),
                    **({} if boundaries is None else {"boundary IoU": nulled(boundaries[i])}),
                }
                for i, name in enumerate(judged.classes)
            ],
        }

    def lines(self, figures: Mapping[str, Any]) -> list[str]:
        words = {name: told for name, told in _WORDS.items() if name in figures}
        lines = [with_interval(told, figures[name], figures["intervals"][name]) for name, told in words.items()]
        return lines + columns(figures["classes"], [name for name in figures["classes"][0] if name != "name"])


def counts_of_image(
    predicted: np.ndarray, truth: np.ndarray, classes: int, boundary: float | None = None
) -> np.ndarray:
    """int64 (3, classes): pixels of each class that are right, that are there, and that are said to be.

    With `boundary`, as in `near_boundary`, three rows more: the same of the pixels near boundaries.
    """
    said, true = torch.from_numpy(predicted), torch.from_numpy(truth)
    matrix = confusion(said, true, classes).numpy()
    counts = np.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])
    if boundary is None:
        return counts
    return np.concatenate([counts, boundary_counts(said, true, classes, boundary).numpy()])


def figures_of_counts(counts: np.ndarray) -> dict[str, float]:
    """`mIoU`, `pixel_accuracy` and `mean_accuracy` of counts as `counts_of_image` gives them, added up over images.

    They are those of the metric: a class that is neither there nor said counts in no mean. With pixels near boundaries
    also `boundary_mIoU`.
    """
    right, true, said, *near = counts.astype(np.float64)
    more = {"boundary_mIoU": figures_of_counts(np.stack(near))["mIoU"]} if near else {}
    either = true + said - right
    overlaps, accuracies = right[either > 0] / either[either > 0], right[true > 0] / true[true > 0]
    return {
        "mIoU": float(overlaps.mean()) if len(overlaps) else 0.0,
        "pixel_accuracy": float(right.sum() / max(true.sum(), 1)),
        "mean_accuracy": float(accuracies.mean()) if len(accuracies) else 0.0,
        **more,
    }


def _counts(judged: Judged) -> np.ndarray:
    """int64 (N, 3 or 6, classes), of each image."""
    pairs, near = zip(judged.predictions, judged.labels, strict=True), judged.task.boundary
    each = [counts_of_image(said.numpy(), mask.read(), len(judged.classes), near) for said, mask in pairs]
    return np.stack(each)
