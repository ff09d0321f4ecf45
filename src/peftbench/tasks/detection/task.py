"""Object detection: a detector of torchvision over the maps of the adapted backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from peftbench.backbones import Backbone, Facts
from peftbench.tasks.base import Extract, Metrics, Task
from peftbench.tasks.detection import schema
from peftbench.tasks.detection.average_precision import BoxAP
from peftbench.tasks.detection.detectors import DETECTORS, Target


class Detection(Task):
    """Boxes and classes of objects.

    Args:
        categories: the number of each class in the data set's own files.
    """

    uses_tail: ClassVar[bool] = False
    moves_statistics: ClassVar[bool] = False

    def __init__(
        self, spec: schema.Detection, backbone: Backbone, classes: Sequence[str], categories: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.categories = tuple(categories) or tuple(range(1, len(classes) + 1))
        self.detector = DETECTORS[spec.detector](spec, backbone.facts, len(classes))
        trained = {"neck": spec.neck, "rpn": spec.rpn, "head": spec.head == "all"}
        for name, parameter in self.detector.named_parameters():
            parameter.requires_grad = trained[self._part(name)] or self._predicts(name)

    def reads(self, facts: Facts) -> tuple[int, ...]:
        return self.detector.levels.taps

    def predict(self, extract: Extract, backbone: Backbone, images: Tensor) -> list[Target]:
        """`boxes` (n, 4), x1 y1 x2 y2 in pixels of the images (B, 3, H, W), `scores` (n,), `labels` (n,) from 0."""
        sizes = [images.shape[-2:]] * len(images)
        return self._detect(extract, backbone, images, sizes)

    def evaluate(self, extract: Extract, backbone: Backbone, batch: Any) -> list[Target]:
        """As `predict`, in pixels of the original images."""
        images, targets = batch[0], batch[1]
        found = self._detect(extract, backbone, images, [t["size"] for t in targets])
        return [original(f, t["scale"], t["original"]) for f, t in zip(found, targets, strict=True)]

    def loss(self, extract: Extract, backbone: Backbone, batch: Any) -> Tensor:
        """The sum of the detector's losses for (images, targets), a scalar."""
        images, targets = batch[0], batch[1]
        maps = backbone.maps(extract(images), self.detector.levels.taps)
        return self.detector.loss(maps, _canvas(images, backbone), targets)

    def metrics(self) -> Metrics:
        """COCO's average precision: see `BoxAP`."""
        return BoxAP(self.classes, self.categories)

    def rows(self, metrics: Metrics) -> list[dict[str, Any]]:
        """COCO's result JSON."""
        assert isinstance(metrics, BoxAP)
        return metrics.results()

    def targets(self, batch: Any) -> list[Target]:
        return batch[1]

    def size(self, batch: Any) -> int:
        return len(batch[1])

    def parts(self) -> Mapping[str, int]:
        found = dict.fromkeys(("neck", "rpn", "head"), 0)
        for name, parameter in self.detector.named_parameters():
            found[self._part(name)] += parameter.numel() * parameter.requires_grad
        return found

    def _detect(self, extract: Extract, backbone: Backbone, images: Tensor, sizes: Sequence[Any]) -> list[Target]:
        if not sizes:
            return []
        maps = backbone.maps(extract(images), self.detector.levels.taps)
        return self.detector.detect(maps, _canvas(images, backbone), sizes)

    def _part(self, name: str) -> str:
        return {"backbone": "neck", "rpn": "rpn"}.get(name.split(".")[1], "head")

    def _predicts(self, name: str) -> bool:
        """Whether a parameter is of a layer that gives classes or boxes in the end."""
        return name.removeprefix("net.").rpartition(".")[0] in self.detector.predictors


def original(found: Target, scale: Tensor, size: Tensor) -> Target:
    """Detections in pixels of the original image of height and width `size`, which was scaled by `scale` (x, y)."""
    height, width = (float(n) for n in size)
    boxes = found["boxes"] / scale.to(found["boxes"]).repeat(2)
    limits = torch.tensor([width, height, width, height], device=boxes.device)
    return {**found, "boxes": torch.minimum(boxes.clamp(min=0), limits)}


def _canvas(images: Tensor, backbone: Backbone) -> tuple[int, int]:
    """Height and width of the images; of those that kept taps stand in for, what the backbone was built for."""
    height, width = images.shape[-2:]
    return (height, width) if height else backbone.facts.canvas
