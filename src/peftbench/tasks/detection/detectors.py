"""torchvision's detectors behind one interface: losses and detections from a pyramid's maps."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from peftbench.backbones import Facts
from peftbench.common.errors import Refusal
from peftbench.tasks.detection import schema
from peftbench.tasks.detection.pooling import Pooling
from peftbench.tasks.levels import Levels, choose_levels
from peftbench.tasks.pyramid import Pyramid, extra_block

Maps = OrderedDict[str, Tensor]
Target = dict[str, Tensor]
MASKS = "roi_heads.mask_predictor.mask_fcn_logits"
"""The layer that gives masks, one for each class."""
MOST = 100
"""Detections an image: COCO's limit."""


class Anchors(AnchorGenerator):
    """torchvision's anchors in float32, whatever the maps are.

    In mixed precision torchvision's boxes take the type of the maps and of what heads give, and bf16 cannot tell odd
    pixels past 256 from even ones.

    Raises:
        Refusal: anchors that rounding to whole pixels would leave empty.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[Sequence[float]]) -> None:
        super().__init__(tuple(sizes), tuple(ratios))
        if (least := min(map(min, sizes))) < 1.5:
            raise Refusal(f"task.anchor_scale: makes anchors of {least:g} pixels; expected a larger one.")

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        exact = [m.new_empty((), dtype=torch.float32).expand(m.shape) for m in feature_maps]
        return super().forward(image_list, exact)


class Proposals(RPNHead):
    """The head of the region proposals, giving float32: see `Anchors`."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, offsets = super().forward(x)
        return [s.float() for s in scores], [o.float() for o in offsets]


class Predictor(FastRCNNPredictor):
    """Faster R-CNN's last layers, giving float32: see `Anchors`."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, offsets = super().forward(x)
        return scores.float(), offsets.float()


class MaskPredictor(MaskRCNNPredictor):
    """Mask R-CNN's last layers, giving float32: see `Anchors`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class Detector(nn.Module):
    """One of torchvision's detectors, over a pyramid.

    Attributes:
        finest: about the stride in pixels of the pyramid's finest level.
        most: the number of levels, without the extra ones; fewer where the backbone has no more.
        first: the label of the first class; where it is 1, 0 is the background.
        scale: the side of an anchor over the stride of its level, where `task.anchor_scale` gives none.
        predictors: name in `net` of each layer that gives classes or boxes -> how its rows lie: "class" or "anchor",
            what there is a group of rows for, or None where the layer knows no classes.
        net: torchvision's module; `net.backbone` is the pyramid.
        levels: what the pyramid is made of.

    Raises:
        Refusal: the backbone's taps are no maps, or the images cannot be divided by a stride.
    """

    finest: ClassVar[int]
    most: ClassVar[int]
    first: ClassVar[int] = 0
    scale: ClassVar[float]
    predictors: dict[str, str | None]

    net: Any
    levels: Levels

    @abstractmethod
    def build(self, spec: schema.Detection, pyramid: Pyramid, strides: Sequence[int], classes: int) -> nn.Module:
        """torchvision's detector of so many classes; `strides` are those of all levels, the extra ones too."""

    @abstractmethod
    def losses(self, maps: Maps, images: ImageList, targets: list[Target]) -> dict[str, Tensor]:
        """Its losses by name."""

    @abstractmethod
    def detections(self, maps: Maps, images: ImageList) -> list[Target]:
        """`boxes` (n, 4), x1 y1 x2 y2 in pixels of the input, `scores` (n,) and torchvision's `labels` (n,)."""

    def __init__(self, spec: schema.Detection, facts: Facts, classes: int) -> None:
        super().__init__()
        self.levels = choose_levels(facts, self.finest, self.most)
        coarsest = self.levels.strides[-1]
        if self.finest == 4:
            block, extra_strides = extra_block("pool", spec.width), [2 * coarsest]
        else:
            block, extra_strides = extra_block("convolutions", spec.width), [2 * coarsest, 4 * coarsest]
        pyramid = Pyramid(self.levels, spec.width, block)
        self.net = self.build(spec, pyramid, [*self.levels.strides, *extra_strides], classes)
        self.net.transform = nn.Identity()  # images come resized, normalised and padded

    def loss(self, maps: Sequence[Tensor], canvas: tuple[int, int], targets: Sequence[Target]) -> Tensor:
        """The sum of all losses for images on a canvas (H, W).

        `targets` have `boxes`, `labels` from 0, `size` and, where masks are learned, `masks` (n, h, w).
        """
        shifted = [{"boxes": t["boxes"], "labels": t["labels"] + self.first, **_masks(t)} for t in targets]
        images = _images(maps, canvas, [_size(t["size"]) for t in targets])
        with self._mode(True):
            losses = self.losses(self.net.backbone(maps), images, shifted)
        return torch.stack([x.float() for x in losses.values()]).sum()

    def detect(self, maps: Sequence[Tensor], canvas: tuple[int, int], sizes: Sequence[Any]) -> list[Target]:
        """The detections on images whose valid heights and widths are `sizes`, the best first.

        For each image `boxes` (n, 4), x1 y1 x2 y2 in pixels of the input, `scores` (n,) and `labels` (n,) from 0, all
        with n <= 100; where masks were learned `masks`, the probabilities of pixels within each box, float (n, 28, 28).
        """
        images = _images(maps, canvas, [_size(s) for s in sizes])
        with self._mode(False):
            detections = self.detections(self.net.backbone(maps), images)
        return [self._best(of_image) for of_image in detections]

    def found(self, maps: Sequence[Tensor], image: Tensor, size: tuple[Any, Any]) -> Target:
        """As `detect`, on one image (1, 3, H, W) with `size`, where a trace holds sizes as they are.

        torchvision gives the best first.
        """
        with self._mode(False):
            (found,) = self.detections(self.net.backbone(maps), ImageList(image, [size]))
        masks = {"masks": found["masks"][:, 0]} if "masks" in found else {}
        return {"boxes": found["boxes"], "scores": found["scores"], "labels": found["labels"] - self.first, **masks}

    def without_threshold(self) -> None:
        """Has it give boxes of any score."""
        self.net.score_thresh = 0.0

    def _best(self, detections: Target) -> Target:
        """The best detections of an image, in order; labels from 0."""
        best = detections["scores"].argsort(descending=True, stable=True)[:MOST]
        return {
            "boxes": detections["boxes"][best].float(),
            "scores": detections["scores"][best].float(),
            "labels": detections["labels"][best] - self.first,
            **({"masks": detections["masks"][best, 0].float()} if "masks" in detections else {}),
        }

    @contextmanager
    def _mode(self, training: bool) -> Iterator[None]:
        """torchvision's parts give losses in training mode and detections in the other; no layer of them differs."""
        before = self.net.training
        self.net.train(training)
        try:
            yield
        finally:
            self.net.train(before)


class FasterRCNNDetector(Detector):
    """Faster R-CNN (Ren et al., 2015, arXiv 1506.01497) with a feature pyramid (arXiv 1612.03144).

    With `task.masks` it is Mask R-CNN (He et al., 2017, arXiv 1703.06870): torchvision's mask head, as many channels
    wide as the pyramid (our reading: torchvision has 256 in both).
    """

    finest = 4
    most = 4
    first = 1
    scale = 8.0
    predictors = {"roi_heads.box_predictor.cls_score": "class", "roi_heads.box_predictor.bbox_pred": "class"}

    def build(self, spec: schema.Detection, pyramid: Pyramid, strides: Sequence[int], classes: int) -> nn.Module:
        side = spec.anchor_scale or self.scale
        anchors = Anchors(tuple((side * s,) for s in strides), ((0.5, 1.0, 2.0),) * len(strides))
        net = FasterRCNN(
            pyramid,
            rpn_anchor_generator=anchors,
            rpn_head=Proposals(spec.width, anchors.num_anchors_per_location()[0]),
            box_roi_pool=Pooling(self.levels.strides),
            box_head=TwoMLPHead(spec.width * 49, spec.hidden),
            box_predictor=Predictor(spec.hidden, classes + 1),
            box_score_thresh=spec.score_threshold,
            box_nms_thresh=spec.nms_threshold,
            box_detections_per_img=MOST,
            box_batch_size_per_image=spec.rois,
        )
        if spec.masks:
            heads = net.roi_heads
            heads.mask_roi_pool = Pooling(self.levels.strides, bins=14)
            heads.mask_head = MaskRCNNHeads(spec.width, (spec.width,) * 4, 1)
            heads.mask_predictor = MaskPredictor(spec.width, spec.width, classes + 1)
            self.predictors = {**self.predictors, MASKS: "class"}
        return net

    def without_threshold(self) -> None:
        self.net.roi_heads.score_thresh = 0.0

    def losses(self, maps: Maps, images: ImageList, targets: list[Target]) -> dict[str, Tensor]:
        proposals, first = self.net.rpn(images, maps, targets)
        _, second = self.net.roi_heads(maps, proposals, images.image_sizes, targets)
        return first | second

    def detections(self, maps: Maps, images: ImageList) -> list[Target]:
        proposals, _ = self.net.rpn(images, maps)
        return self.net.roi_heads(maps, proposals, images.image_sizes)[0]


class OneStage(Detector):
    """What RetinaNet and FCOS share: a head over all levels of the pyramid."""

    finest = 8
    most = 3

    def outputs(self, maps: Maps, images: ImageList) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """The head's outputs in float32, each image's anchors, and the number of positions on each level."""
        levels = list(maps.values())
        outputs = {name: x.float() for name, x in self.net.head(levels).items()}
        return outputs, self.net.anchor_generator(images, levels), [m.shape[2] * m.shape[3] for m in levels]

    def detections(self, maps: Maps, images: ImageList) -> list[Target]:
        outputs, anchors, positions = self.outputs(maps, images)
        anchors_per_position = outputs["cls_logits"].shape[1] // sum(positions)
        counts = [p * anchors_per_position for p in positions]
        split = {name: list(x.split(counts, 1)) for name, x in outputs.items()}
        return self.net.postprocess_detections(split, [list(a.split(counts)) for a in anchors], images.image_sizes)


class RetinaNetDetector(OneStage):
    """RetinaNet (Lin et al., 2017, arXiv 1708.02002)."""

    scale = 4.0
    predictors = {"head.classification_head.cls_logits": "anchor", "head.regression_head.bbox_reg": None}

    def build(self, spec: schema.Detection, pyramid: Pyramid, strides: Sequence[int], classes: int) -> nn.Module:
        side = spec.anchor_scale or self.scale
        sizes = tuple(tuple(int(side * s * 2 ** (i / 3)) for i in range(3)) for s in strides)
        return RetinaNet(
            pyramid,
            classes,
            anchor_generator=Anchors(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
            score_thresh=spec.score_threshold,
            nms_thresh=spec.nms_threshold,
            detections_per_img=MOST,
        )

    def losses(self, maps: Maps, images: ImageList, targets: list[Target]) -> dict[str, Tensor]:
        outputs, anchors, _ = self.outputs(maps, images)
        return self.net.compute_loss(targets, outputs, anchors)


class FCOSDetector(OneStage):
    """FCOS (Tian et al., 2019, arXiv 1904.01355)."""

    scale = 1.0
    predictors = {
        "head.classification_head.cls_logits": "anchor",
        "head.regression_head.bbox_reg": None,
        "head.regression_head.bbox_ctrness": None,
    }

    def build(self, spec: schema.Detection, pyramid: Pyramid, strides: Sequence[int], classes: int) -> nn.Module:
        return FCOS(
            pyramid,
            classes,
            anchor_generator=Anchors(tuple((s,) for s in strides), ((1.0,),) * len(strides)),
            score_thresh=spec.score_threshold,
            nms_thresh=spec.nms_threshold,
            detections_per_img=MOST,
        )

    def losses(self, maps: Maps, images: ImageList, targets: list[Target]) -> dict[str, Tensor]:
        outputs, anchors, positions = self.outputs(maps, images)
        return self.net.compute_loss(targets, outputs, anchors, positions)


DETECTORS: dict[str, type[Detector]] = {
    "fasterrcnn": FasterRCNNDetector,
    "retinanet": RetinaNetDetector,
    "fcos": FCOSDetector,
}


def _images(maps: Sequence[Tensor], canvas: tuple[int, int], sizes: list[tuple[int, int]]) -> ImageList:
    """What torchvision's parts ask of the images: a canvas and the valid sizes on it, no pixels."""
    return ImageList(maps[0].new_empty(()).expand(len(sizes), 3, *canvas), sizes)


def _masks(target: Target) -> Target:
    return {"masks": target["masks"]} if "masks" in target else {}


def _size(size: Any) -> tuple[int, int]:
    height, width = (int(n) for n in size)
    return height, width
