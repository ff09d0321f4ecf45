"""COCO's average precision for boxes, counted by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

DETECTIONS = 100
"""COCO looks at as many detections of an image, those of the highest scores, whatever their classes."""
_SIZES = ("small", "medium", "large")
_SIDES = ("height", "width")


class BoxAP(Metric):
    """AP and AR of COCO (https://cocodataset.org/#detection-eval), equal to those of pycocotools.

    In several processes each keeps its own images, as many as it has, also none. An image that two of them were given
    (samplers repeat some to fill up) counts once. Detections that are not finite are left out.

    Args:
        classes: names, in the order of the labels.
        categories: the category id of each in the COCO file.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    # Rows of all images, one after the other, so that those of several processes can be joined.
    images: list[Tensor]  # int64 (id, number of detections, number of truths)
    detections: list[Tensor]  # float (x1, y1, x2, y2, score, label)
    truths: list[Tensor]  # float (x1, y1, x2, y2, label, crowd, area)

    def __init__(self, classes: Sequence[str], categories: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        if len(classes) != len(categories):
            raise ValueError(f"{len(classes)} classes, but {len(categories)} categories")
        self.classes, self.categories = tuple(classes), tuple(categories)
        for name in ("images", "detections", "truths"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Takes the detections and the truth of some images, boxes in pixels of the original image.

        Args:
            predictions: of each image `boxes` (n, 4) as x1, y1, x2, y2, `scores` (n,) and `labels` (n,) from 0.
            targets: of each image `image_id`, `true_boxes` (m, 4), `true_labels` (m,), `true_crowd` (m,), 1 where a box
                holds a crowd, and `true_area` (m,), by which COCO calls an object small, medium or large.
        """
        counts, detections, truths = [], [], []
        for predicted, target in zip(predictions, targets, strict=True):
            counts.append([int(target["image_id"]), len(predicted["scores"]), len(target["true_labels"])])
            detections.append((predicted["boxes"], predicted["scores"], predicted["labels"]))
            truths.append((target["true_boxes"], target["true_labels"], target["true_crowd"], target["true_area"]))
        self._keep(counts, detections, truths)

    def _keep(
        self, counts: list[list[int]], detections: Sequence[tuple[Tensor, ...]], truths: Sequence[tuple[Tensor, ...]]
    ) -> None:
        """Adds rows to the three states: boxes (n, 4) of each image, then its columns (n,)."""
        numbers = torch.tensor(counts, dtype=torch.int64).reshape(-1, 3)
        self.images.append(numbers.to(self.device, non_blocking=True))  # else it would wait for all that runs there
        real = torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64
        for state, images, width in ((self.detections, detections, 6), (self.truths, truths, 7)):
            rows = [torch.zeros(0, width, dtype=real, device=self.device)]
            for boxes, *columns in images:
                columns = [column.to(rows[0]) for column in columns]
                rows.append(torch.column_stack([boxes.to(rows[0]).reshape(-1, 4), *columns]))
            state.append(torch.cat(rows))

    def sync(self, *args: Any, **options: Any) -> None:
        if not self._is_synced:  # a process without images must hand on states of the shape and type that the others do
            self._keep([], [], [])
        super().sync(*args, **options)

    def compute(self) -> dict[str, Tensor]:
        """`AP`, `AP50`, `AP75`, `AP_small`, `AP_medium`, `AP_large`, `AR` (100 detections) and `AP/<class>`, in 0 to 1.

        What has no truth (COCO's -1) is left out; `AP` is then nan.
        """
        evaluation = self._evaluation((DETECTIONS,))
        values = {"AP": float("nan")} if evaluation is None else self._parts(evaluation)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def table(self) -> dict[str, float]:
        """As `compute`, with all of COCO's table: `AR_1` and `AR_10` detections, `AR_small`, `AR_medium`, `AR_large`.

        What has no truth is left out.
        """
        most = (1, 10, DETECTIONS)
        evaluation = self._evaluation(most)
        return {} if evaluation is None else self._table(evaluation, most)

    def _table(self, evaluation: COCOeval_faster, most: Sequence[int]) -> dict[str, float]:
        recall = evaluation.eval["recall"]  # overlaps, classes, sizes, detections
        parts = {f"AR_{number}": recall[:, :, 0, i] for i, number in enumerate(most[:-1])}
        parts |= {f"AR_{size}": recall[:, :, i, -1] for i, size in enumerate(_SIZES, start=1)}
        return {name: float(value) for name, value in (self._parts(evaluation) | _means(parts)).items()}

    def _evaluation(self, most: Sequence[int]) -> COCOeval_faster | None:
        """COCO's count, looking at so many detections of an image and class; None where no image has a truth."""
        ids, detections, truths = self._gathered()
        if not len(truths):
            return None
        return coco_count("bbox", ids, len(self.classes), as_truths(truths), as_detections(detections), most)

    def _parts(self, evaluation: COCOeval_faster) -> dict[str, float]:
        """The figures that `compute` gives, of all detections that were looked at."""
        precision = evaluation.eval["precision"][..., -1]  # overlaps, recalls, classes, sizes
        parts = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
        parts |= {f"AP_{size}": precision[..., i] for i, size in enumerate(_SIZES, start=1)}
        parts["AR"] = evaluation.eval["recall"][:, :, 0, -1]
        parts |= {f"AP/{name}": precision[:, :, i, 0] for i, name in enumerate(self.classes)}
        return {"AP": float("nan")} | _means(parts)

    def results(self) -> list[dict[str, Any]]:
        """The detections in all images as rows of COCO's result JSON. In several processes each calls this."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return self._results()

    def _results(self) -> list[dict[str, Any]]:
        """As `results`, of what this process has."""
        detections = self._gathered()[1]
        return [
            {"image_id": image, "category_id": self.categories[label], "bbox": box, "score": score}
            for image, label, box, score in _columns(detections)
        ]

    def _gathered(self) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Sorted image ids, and the detections (n, 8) and truths (m, 9) of these images.

        Each stands behind its image's id, and in front of its place among the rows of all processes.
        """
        images, detections, truths = (
            dim_zero_cat(s).cpu().numpy() for s in (self.images, self.detections, self.truths)
        )
        ids, first = np.unique(images[:, 0], return_index=True)
        once = np.zeros(len(images), dtype=bool)
        once[first] = True
        sorted_rows = []
        for rows, counts in ((detections, images[:, 1]), (truths, images[:, 2])):
            rows = np.column_stack([np.repeat(images[:, 0], counts), rows, np.arange(len(rows))])
            rows = rows[np.repeat(once, counts)]
            sorted_rows.append(rows[np.argsort(rows[:, 0], kind="stable")])
        return ids.tolist(), _best(sorted_rows[0]), sorted_rows[1]


def coco_count(
    kind: Literal["bbox", "segm"],
    ids: Sequence[int],
    classes: int,
    truths: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    most: Sequence[int],
    sizes: Mapping[int, tuple[int, int]] | None = None,
) -> COCOeval_faster:
    """COCO's count of annotations in images with these ids; `sizes`, (height, width) by id, are for masks."""
    images = [{"id": i, **({} if sizes is None else dict(zip(_SIDES, sizes[i], strict=True)))} for i in ids]
    sets = COCO(), COCO()
    for coco, listed in zip(sets, (truths, detections), strict=True):
        categories = [{"id": i} for i in range(classes)]
        coco.dataset = {"images": images, "categories": categories, "annotations": listed}
        coco.createIndex()
    evaluation = COCOeval_faster(*sets, iouType=kind)
    evaluation.params.maxDets = list(most)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _means(parts: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each over what has a truth; those without any are left out."""
    return {name: part[part > -1].mean() for name, part in parts.items() if (part > -1).any()}


def _best(rows: np.ndarray) -> np.ndarray:
    """Each image's best detections, of those that are finite, in the order that they had.

    `rows` (n, 8) are image id, x1, y1, x2, y2, score, label and place.
    """
    rows = rows[np.isfinite(rows).all(1)]
    by_image_and_score = np.lexsort((-rows[:, 5], rows[:, 0]))
    ids = rows[by_image_and_score, 0]
    place_in_image = np.arange(len(rows)) - np.searchsorted(ids, ids)
    return rows[np.sort(by_image_and_score[place_in_image < DETECTIONS])]


def _boxes(rows: np.ndarray) -> list[list[float]]:
    """x, y, width, height of (image id, x1, y1, x2, y2, …)."""
    return np.column_stack([rows[:, 1:3], rows[:, 3:5] - rows[:, 1:3]]).tolist()


def _columns(detections: np.ndarray) -> Iterator[tuple[int, int, list[float], float]]:
    """Image id, label, box as x, y, width, height, and score of each detection."""
    ids, labels = (detections[:, i].astype(int).tolist() for i in (0, 6))
    return zip(ids, labels, _boxes(detections), detections[:, 5].tolist(), strict=True)


def as_detections(detections: np.ndarray) -> list[dict[str, Any]]:
    """Rows of `BoxAP._gathered` as annotations of COCO's."""
    return [
        {"id": i, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "score": score}
        for i, (image, label, box, score) in enumerate(_columns(detections), start=1)
    ]


def as_truths(truths: np.ndarray) -> list[dict[str, Any]]:
    """Rows of `BoxAP._gathered` as annotations of COCO's."""
    ids, labels, crowds = (truths[:, i].astype(int).tolist() for i in (0, 5, 6))
    columns = zip(ids, labels, crowds, _boxes(truths), truths[:, 7].tolist(), strict=True)
    return [
        {"id": i, "image_id": image, "category_id": label, "iscrowd": crowd, "bbox": box, "area": area}
        for i, (image, label, crowd, box, area) in enumerate(columns, start=1)
    ]
