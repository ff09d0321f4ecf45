"""Object detection: a detector of torchvision over the maps of the adapted backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from peftbench.backbones import Backbone, Facts, Size
from peftbench.common.errors import Refusal
from peftbench.config import Backbone as BackboneSection
from peftbench.config import Config
from peftbench.data.base import Split
from peftbench.data.boxes import BoxSet
from peftbench.data.moving import to_host
from peftbench.tasks.base import Extract, Metrics, Task, pixel_scale
from peftbench.tasks.detection import pretrained, result_files, schema
from peftbench.tasks.detection.average_precision import BoxAP
from peftbench.tasks.detection.detectors import DETECTORS, Target
from peftbench.tasks.detection.evaluator import BoxEvaluator
from peftbench.tasks.detection.mask_precision import MaskAP
from peftbench.tasks.detection.masks import pasted, whole_masks
from peftbench.tasks.detection.predictor import BoxPredictor
from peftbench.tasks.detection.run_page import BoxPage
from peftbench.tasks.detection.scenes import DIVISOR, SceneTransform, rounded_up
from peftbench.tasks.detection.small_objects import note_small_objects
from peftbench.tasks.evaluator import Evaluator
from peftbench.tasks.predictor import Predictor
from peftbench.tasks.run_pages import RunPage


class Detection(Task):
    """Boxes and classes of objects, with `task.masks` their pixels too.

    Args:
        categories: the number of each class in the data set's own files.
    """

    uses_tail: ClassVar[bool] = False
    moves_statistics: ClassVar[bool] = False
    finds_boxes: ClassVar[bool] = True
    kind_of_model: ClassVar[str] = "detector"
    unforeseen: ClassVar[str] = "a detector's proposals depend on the images"
    predictor: ClassVar[type[Predictor]] = BoxPredictor
    page: ClassVar[type[RunPage]] = BoxPage
    evaluator: ClassVar[type[Evaluator] | None] = BoxEvaluator

    def __init__(
        self, spec: schema.Detection, backbone: Backbone, classes: Sequence[str], categories: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.categories = tuple(categories) or tuple(range(1, len(classes) + 1))
        self.finds_masks = spec.masks
        self.detector = DETECTORS[spec.detector](spec, backbone.facts, len(classes))
        trained = {"neck": spec.neck, "rpn": spec.rpn, "head": spec.head == "all"}
        for name, parameter in self.detector.named_parameters():
            parameter.requires_grad = trained[self._part(name)] or self._predicts(name)

    @classmethod
    def build(
        cls, section: schema.Detection, backbone: Backbone, classes: Sequence[str], categories: Sequence[int] = ()
    ) -> Detection:
        return cls(section, backbone, classes, categories)

    @classmethod
    def input_size(cls, config: Config) -> Size | None:
        """As configured; where images keep their shapes, that of a 4:3 image: costs are measured at it."""
        if config.data.size is not None:
            return super().input_size(config)
        shorter, longest = config.data.options["min_size"][-1], config.data.options["max_size"]
        size = (rounded_up(shorter), rounded_up(min(shorter * 4 // 3, longest)))
        return size[0] if size[0] == size[1] else size

    @classmethod
    def transform(cls, config: Config, facts: Facts) -> SceneTransform:
        interpolation, mean, std = pixel_scale(config, facts)
        size = None if config.data.size is None else facts.canvas
        shorter, longest = tuple(config.data.options["min_size"]), config.data.options["max_size"]
        strides = (round(facts.canvas[0] / tap.grid[0]) for tap in facts.taps if tap.grid)
        divisor = max(DIVISOR, *strides)
        data = config.data
        form = SceneTransform(size, shorter, longest, interpolation, mean, std, divisor=divisor, range=data.range)
        return replace(form, augment=data.augment, jitter=data.jitter)

    @classmethod
    def look_at(
        cls, config: Config, transform: Any, roles: Sequence[Split | None], classes: Sequence[str]
    ) -> list[str]:
        """Counts objects that are too small to learn from on the input: see `note_small_objects`.

        Raises:
            Refusal: masks are asked for, and a data set from outside has none.
        """
        lacking = [split for split in roles if split is not None and any(o.segments is None for o in split.labels)]
        if config.task.masks and lacking:  # type: ignore[attr-defined]
            raise Refusal(
                f"task.masks=true: data={config.data.name} gives objects without their pixels; take data=coco, "
                f"data=coco_folder or data=digits_det, or leave task.masks out."
            )
        return note_small_objects(transform, roles, config.data.options.get("dropped", BoxSet.dropped))

    @classmethod
    def refuse(cls, config: Config, fixed_size: bool, backbone: Backbone) -> None:
        """Raises Refusal where a detector cannot read this backbone, or not with images of different sizes."""
        if config.data.size is None and (fixed_size or not backbone.resizes()):
            who = f"method={config.method.name}" if fixed_size else backbone.facts.name
            raise Refusal(
                f"data.size=null: {who} is built for one input size, and images keep theirs; give data.size=[H,W], "
                f"such as data.size=[512,512], to which images are scaled and padded."
            )
        super().refuse(config, fixed_size, backbone)

    @classmethod
    def start_file(cls, section: schema.Detection, backbone: BackboneSection) -> Path | None:
        return pretrained.detector_file(section, backbone)

    @classmethod
    def settle(cls, backbone: Backbone, file: Path) -> None:
        """Has the backbone compute as it does in torchvision's detector, whose batch norms are without epsilon."""
        pretrained.settle_batch_norms(backbone, file)

    @classmethod
    def stamp(cls, section: schema.Detection, file: Path | None) -> dict[str, str]:
        return pretrained.stamp_of(section, file)

    def begin(self, file: Path) -> str:
        """As `pretrained.begin_detector`: the layers that give classes keep the rows of classes that the file knows."""
        self.start, note = pretrained.begin_detector(self.detector, self.classes, file)
        return note

    def taken_over(self, learned: Mapping[str, Tensor], classes: Sequence[str]) -> tuple[Mapping[str, Tensor], str]:
        """All but the rows of classes that are not of the same name."""
        return pretrained.taken_over(self.detector, self.classes, learned, classes)

    def reads(self, facts: Facts) -> tuple[int, ...]:
        return self.detector.levels.taps

    def predict(self, extract: Extract, backbone: Backbone, images: Tensor) -> list[Target]:
        """`boxes` (n, 4), x1 y1 x2 y2 in pixels of the images (B, 3, H, W), `scores` (n,), `labels` (n,) from 0.

        Where masks are learned also `masks`, float (n, 28, 28): probabilities of pixels within each box.
        """
        sizes = [images.shape[-2:]] * len(images)
        return self.found_within(extract, backbone, images, sizes)

    def evaluate(self, extract: Extract, backbone: Backbone, batch: Any) -> list[Target]:
        """As `predict`, in pixels of the original images.

        In the place of `masks` stand `segments`, COCO's compressed run lengths on the original image, bytes.
        """
        images, targets = batch[0], batch[1]
        detections = self.found_within(extract, backbone, images, [t["size"] for t in targets])
        originals = [t["original"] for t in targets]
        answers = on_originals(detections, [t["scale"] for t in targets], originals)
        return with_segments(answers, originals) if self.finds_masks else answers

    def found(
        self, extract: Extract, backbone: Backbone, images: Tensor, size: tuple[Any, Any]
    ) -> Mapping[str, Tensor]:
        maps = backbone.maps(extract(images), self.detector.levels.taps)
        return self.detector.found(maps, images, size)

    def without_threshold(self) -> None:
        """Has it give boxes of any score."""
        self.detector.without_threshold()

    def unpacked(self, answer: Any, target: Any) -> Any:
        """With `masks`, bool (n, H, W) on the original image, in the place of `segments`."""
        if not self.finds_masks:
            return answer
        boxes = {name: value for name, value in answer.items() if name != "segments"}
        return {**boxes, "masks": whole_masks(answer["segments"], target["original"])}

    def loss(self, extract: Extract, backbone: Backbone, batch: Any) -> Tensor:
        """The sum of the detector's losses for (images, targets), a scalar."""
        images, targets = batch[0], batch[1]
        maps = backbone.maps(extract(images), self.detector.levels.taps)
        return self.detector.loss(maps, _canvas(images, backbone), targets)

    def metrics(self) -> Metrics:
        """COCO's average precision: see `BoxAP` and `MaskAP`."""
        return (MaskAP if self.finds_masks else BoxAP)(self.classes, self.categories)

    def rows(self, metrics: Metrics) -> list[dict[str, Any]]:
        """COCO's result JSON."""
        assert isinstance(metrics, BoxAP)
        return metrics.results()

    def write_rows(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
        """`detections.json`, which COCO's tools read."""
        result_files.write_results(rows, folder / result_files.DETECTIONS)
        return {}

    def parts(self) -> Mapping[str, int]:
        counts = dict.fromkeys(("neck", "rpn", "head"), 0)
        for name, parameter in self.detector.named_parameters():
            if parameter.requires_grad:
                counts[self._part(name)] += parameter.numel()
        return counts

    def found_within(self, extract: Extract, backbone: Backbone, images: Tensor, sizes: Sequence[Any]) -> list[Target]:
        """As `predict`, on images whose valid heights and widths on their canvas are `sizes`."""
        if not sizes:
            return []
        maps = backbone.maps(extract(images), self.detector.levels.taps)
        return self.detector.detect(maps, _canvas(images, backbone), sizes)

    def _part(self, name: str) -> str:
        return {"backbone": "neck", "rpn": "rpn"}.get(name.split(".")[1], "head")

    def _predicts(self, name: str) -> bool:
        """Whether a parameter is of a layer that gives classes or boxes in the end."""
        return name.removeprefix("net.").rpartition(".")[0] in self.detector.predictors


def on_originals(
    detections: Sequence[Target], scales: Sequence[tuple[float, float]], sizes: Sequence[tuple[int, int]]
) -> list[Target]:
    """Detections in pixels of the original images, each of `sizes` (height, width) and scaled by `scales` (x, y)."""
    if not detections:
        return []
    numbers = [[*scale, *scale, size[1], size[0], size[1], size[0]] for scale, size in zip(scales, sizes, strict=True)]
    # One copy for the whole batch, which the host does not wait for.
    on_device = torch.tensor(numbers, dtype=torch.float32).to(detections[0]["boxes"].device, non_blocking=True)
    return [
        {**found, "boxes": torch.minimum((found["boxes"] / scale).clamp(min=0), limits)}
        for found, scale, limits in zip(detections, on_device[:, :4], on_device[:, 4:], strict=True)
    ]


def with_segments(detections: Sequence[Target], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Detections on original images of `sizes` with `segments` in the place of `masks`.

    The host draws them, and waits once for all of the batch.
    """
    on_host = to_host([{name: found[name] for name in ("masks", "boxes")} for found in detections])
    return [
        {
            **{name: value for name, value in found.items() if name != "masks"},
            "segments": pasted(drawn["masks"], drawn["boxes"], size),
        }
        for found, drawn, size in zip(detections, on_host, sizes, strict=True)
    ]


def _canvas(images: Tensor, backbone: Backbone) -> tuple[int, int]:
    """Height and width of the images; of those that kept taps stand in for, what the backbone was built for."""
    height, width = images.shape[-2:]
    return (height, width) if height else backbone.facts.canvas


TASK = Detection
