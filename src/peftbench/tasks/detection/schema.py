"""What detection says of itself without torch: its section, its rules, how its results are shown."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass as checked

from peftbench.common.errors import UserError
from peftbench.config.schema import Config
from peftbench.config.task_schema import STRICT, TaskSchema, TaskSection
from peftbench.tasks.detection.results import RESULTS

__all__ = ["RESULTS", "SCHEMA"]


@checked(config=STRICT, frozen=True, kw_only=True)
class Detection(TaskSection):
    """A detector of torchvision over the backbone's maps.

    `weights`: a whole detector to start from, backbone included: `coco` (torchvision's), `package:<name>` or a file.
    `neck`, `rpn` and `head` say what of it trains besides the method; `rpn` is Faster R-CNN's alone. `width`: channels
    of the pyramid; `hidden`: of Faster R-CNN's box head, which learns from `rois` regions an image. `anchor_scale`:
    side of an anchor in strides of its level.
    """

    name: Literal["detection"]
    detector: Literal["fasterrcnn", "retinanet", "fcos"] = "fasterrcnn"
    weights: str | None = None
    neck: bool = True
    rpn: bool = True
    head: Literal["all", "predictor"] = "all"
    width: int = 256
    hidden: int = 1024
    rois: int = 512
    anchor_scale: float | None = None
    score_threshold: float = 0.05
    nms_threshold: float = 0.5


def check_config(config: Config) -> None:
    """What only detection asks for, and what it does not offer."""
    task = config.task
    assert isinstance(task, Detection)
    for key, value in (("width", task.width), ("hidden", task.hidden), ("rois", task.rois)):
        if value < 1:
            raise UserError(f"task.{key}={value}: expected at least 1.")
    for key in ("min_size", "max_size"):
        found = config.data.options.get(key, 1)
        if min(found if isinstance(found, list | tuple) else [found], default=0) < 1:
            raise UserError(f"data.{key}={found}: expected at least 1 pixel.")
    if task.detector == "fcos" and (task.width % 32 or task.width < 64):
        raise UserError(
            f"task.width={task.width}: FCOS norms its channels in 32 groups; expected a multiple of 32, at least 64."
        )
    if task.anchor_scale is not None and task.detector == "fcos":
        raise UserError("task.anchor_scale: FCOS has points instead of anchors; leave it out.")
    if task.weights is not None and not config.backbone.pretrained:
        raise UserError(
            f"task.weights={task.weights}: holds the backbone too, and backbone.pretrained=false wants a random one; "
            f"leave one of them out."
        )
    if task.anchor_scale is not None and task.anchor_scale <= 0:
        raise UserError(f"task.anchor_scale={task.anchor_scale}: expected a number above 0, or null.")
    for key, share in (("score_threshold", task.score_threshold), ("nms_threshold", task.nms_threshold)):
        if not 0 <= share <= 1:
            raise UserError(f"task.{key}={share}: expected a number from 0 to 1.")
    refused = {
        "data.ood": (config.data.ood, "shifted test sets are of classification; leave it out"),
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
    for key, (found, why) in refused.items():
        if found:
            raise UserError(f"{key}={list(found) if isinstance(found, tuple) else found}: with task=detection, {why}.")
    if config.taps.mode in ("memory", "disk") and config.data.size is None:
        raise UserError(
            f"taps={config.taps.mode}: images of different sizes have no taps of one shape; give data.size=[H,W]."
        )


SCHEMA = TaskSchema(
    section=Detection,
    augmentations=("none", "flip", "multiscale", "lsj", "ssd"),
    check=check_config,
    files=("weights",),
    predicts={"score": 0.5, "draw": None},
    smoke=("data=digits_det",),
)
