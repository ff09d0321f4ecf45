"""What detection says of itself without torch: its section, its rules, how its results are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic.dataclasses import dataclass as checked

from peftbench.common.errors import UserError
from peftbench.config.bounds import AboveZeroOrNull, FromZeroToOne, Positive
from peftbench.config.schema import Config
from peftbench.config.task_schema import STRICT, PredictOption, TaskSchema, TaskSection
from peftbench.tasks.detection.results import RESULTS

__all__ = ["RESULTS", "SCHEMA"]


@checked(config=STRICT, frozen=True, kw_only=True)
class Detection(TaskSection):
    """A detector of torchvision over the backbone's maps.

    `weights`: a whole detector to start from, backbone included: `coco` (torchvision's), `package:<name>` or a file.
    `neck`, `rpn` and `head` say what of it trains besides the method; `rpn` is Faster R-CNN's alone. `width`: channels
    of the pyramid; `hidden`: of Faster R-CNN's box head, which learns from `rois` regions an image. `anchor_scale`:
    side of an anchor in strides of its level. `masks` finds the pixels of each object too: Mask R-CNN.
    """

    name: Literal["detection"]
    detector: Literal["fasterrcnn", "retinanet", "fcos"] = "fasterrcnn"
    weights: str | None = None
    neck: bool = True
    rpn: bool = True
    head: Literal["all", "predictor"] = "all"
    width: Positive = 256
    hidden: Positive = 1024
    rois: Positive = 512
    anchor_scale: AboveZeroOrNull = None
    score_threshold: FromZeroToOne = 0.05
    nms_threshold: FromZeroToOne = 0.5
    masks: bool = False


def check_config(config: Config) -> None:
    """Raises UserError: what detection does not offer, and options that do not go together."""
    assert isinstance(config.task, Detection)
    for rule in (
        _sides_are_positive,
        _fcos_norms_in_groups,
        _fcos_has_no_anchors,
        _weights_hold_the_backbone,
        _masks_need_regions,
    ):
        rule(config, config.task)
    _offered(config)
    if config.taps.mode in ("memory", "disk") and config.data.size is None:
        raise UserError(
            f"taps={config.taps.mode}: images of different sizes have no taps of one shape; give data.size=[H,W]."
        )


def _sides_are_positive(config: Config, task: Detection) -> None:
    for key in ("min_size", "max_size"):
        pixels = config.data.options.get(key, 1)
        if min(pixels if isinstance(pixels, list | tuple) else [pixels], default=0) < 1:
            raise UserError(f"data.{key}={pixels}: expected at least 1 pixel.")


def _fcos_norms_in_groups(config: Config, task: Detection) -> None:
    if task.detector == "fcos" and (task.width % 32 or task.width < 64):
        raise UserError(
            f"task.width={task.width}: FCOS norms its channels in 32 groups; expected a multiple of 32, at least 64."
        )


def _fcos_has_no_anchors(config: Config, task: Detection) -> None:
    if task.anchor_scale is not None and task.detector == "fcos":
        raise UserError("task.anchor_scale: FCOS has points instead of anchors; leave it out.")


def _weights_hold_the_backbone(config: Config, task: Detection) -> None:
    if task.weights is not None and not config.backbone.pretrained:
        raise UserError(
            f"task.weights={task.weights}: holds the backbone too, and backbone.pretrained=false wants a random one; "
            f"leave one of them out."
        )


def _masks_need_regions(config: Config, task: Detection) -> None:
    if task.masks and task.detector != "fasterrcnn":
        raise UserError(
            f"task.masks=true: needs regions, which task.detector={task.detector} has not; expected "
            f"task.detector=fasterrcnn, which becomes Mask R-CNN."
        )


def _offered(config: Config) -> None:
    refused = {
        "taps.views": (config.taps.views, "boxes of augmented views are not kept; give taps.views=0"),
        "trainer.strategy": (
            config.trainer.strategy == "fsdp" and "fsdp",
            "a detector is not sharded; use trainer=ddp",
        ),
        "backbone.stream": (
            config.backbone.stream and "true",
            "detection reads all of the backbone at once; leave it out",
        ),
    }
    for key, (asked, why) in refused.items():
        if asked:
            raise UserError(f"{key}={asked}: with task=detection, {why}.")


def check_predicts(options: Mapping[str, Any]) -> None:
    """Raises UserError: a score that is no share."""
    if not 0 <= options["score"] <= 1:
        raise UserError(f"score={options['score']:g}: expected 0 to 1.")


SCHEMA = TaskSchema(
    section=Detection,
    augmentations=("none", "flip", "multiscale", "lsj", "ssd"),
    takes=("jitter",),  # what moves, hides or mixes pixels would have to do so to boxes
    check=check_config,
    files=("weights",),
    predicts={
        "score": PredictOption(0.5, "the least score of a box"),
        "draw": PredictOption(None, "a folder for pictures with the boxes"),
    },
    check_predicts=check_predicts,
    smoke=("data=digits_det",),
    variants={"task.masks=true": "faster_coco_eval"},
    asks={"masks": "masks"},
)
