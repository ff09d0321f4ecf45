"""AP of synthetic detections, with that of every class; pycocotools on the same, from its loading on."""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass, field
from typing import Any

from bench.tables import Row, seconds

IMAGES, CLASSES, LIMIT = 5000, 80, 20


def _what(images: int) -> str:
    return f"AP of {images:,} images with 100 detections each, {CLASSES} classes, pycocotools"


def names() -> list[str]:
    return [_what(IMAGES)]


def measure(quick: bool = False) -> list[Row]:
    """`quick` takes 50 images."""
    from peftbench.tasks.detection.average_precision import BoxAP

    count = 50 if quick else IMAGES
    scenes = _scenes(count)
    begun = time.perf_counter()
    metric = BoxAP([str(i) for i in range(CLASSES)], range(CLASSES))
    for first in range(0, count, 8):
        metric.update(scenes.predictions[first : first + 8], scenes.targets[first : first + 8])
    values = metric.compute()
    ours, results = time.perf_counter() - begun, metric.results()
    peer, stats = _pycocotools(count, scenes.annotations, results)
    assert abs(values["AP"] - stats[0]) < 1e-6
    return [Row(_what(count), seconds(ours), seconds(peer), f"{ours / peer:.2f}", f"{LIMIT} s", ours < LIMIT)]


@dataclass
class _Scenes:
    """For each image what was predicted and what is true, and the truths once more as COCO's annotations."""

    predictions: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)


def _scenes(images: int) -> _Scenes:
    """100 detections an image: 60 lie near one of its truths (about 7, of all sizes) and have its class."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)

    def boxes(count: int) -> np.ndarray:
        side, corner = np.exp(rng.uniform(2, 5.5, (count, 2))), rng.uniform(0, 400, (count, 2))
        return np.concatenate([corner, corner + side], axis=1)

    scenes = _Scenes()
    for image in range(images):
        count = max(int(rng.poisson(7)), 1)
        true, labels, near = boxes(count), rng.integers(0, CLASSES, count), rng.integers(0, count, 60)
        side = true[:, 2:] - true[:, :2]
        predicted = np.concatenate([true[near] + rng.normal(0, 0.08, (60, 4)) * np.tile(side[near], 2), boxes(40)])
        classes = np.concatenate([labels[near], rng.integers(0, CLASSES, 40)])
        scores = rng.random(100)
        prediction = {"boxes": predicted, "scores": scores, "labels": classes}
        target = {"true_boxes": true, "true_labels": labels, "true_area": side.prod(1), "true_crowd": np.zeros(count)}
        scenes.predictions.append({name: torch.tensor(value) for name, value in prediction.items()})
        scenes.targets.append(
            {name: torch.tensor(value) for name, value in target.items()} | {"image_id": torch.tensor(image)}
        )
        first = len(scenes.annotations)
        scenes.annotations += [
            {"id": first + i, "image_id": image, "category_id": int(label), "iscrowd": 0}
            | {"bbox": [*box[:2], *(box[2:] - box[:2])], "area": float(area)}
            for i, (label, box, area) in enumerate(zip(labels, true, target["true_area"], strict=True), start=1)
        ]
    return scenes


def _pycocotools(images: int, annotations: list[dict[str, Any]], results: Any) -> tuple[float, Any]:
    """Seconds that pycocotools takes, and its twelve figures."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    listed = [{"id": i} for i in range(images)], [{"id": i} for i in range(CLASSES)]
    with contextlib.redirect_stdout(io.StringIO()):
        begun, coco = time.perf_counter(), COCO()
        coco.dataset = {"info": {}, "images": listed[0], "categories": listed[1], "annotations": annotations}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return time.perf_counter() - begun, evaluation.stats
