"""What segmentation says of itself without torch: its section, its rules, how its results are shown."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from peftbench.common.errors import UserError
from peftbench.config.bounds import AboveZero, Amount, Positive
from peftbench.config.schema import Config
from peftbench.config.task_schema import STRICT, PredictOption, TaskSchema, TaskSection
from peftbench.tasks.segmentation.results import RESULTS

__all__ = ["RESULTS", "SCHEMA"]

Decoders = Literal["linear", "fpn", "upernet", "segformer", "deeplabv3plus"]
LIBRARY = "segmentation_models_pytorch"
"""The module that all decoders but the linear one are from."""
RATIO = 0.02
"""Of an image's diagonal: how far boundary IoU looks from a boundary, where nothing else is said."""
_Ratio = Annotated[float, Field(gt=0, lt=1, description="true, false, or a share of the diagonal above 0 and below 1")]


@checked(config=STRICT, frozen=True, kw_only=True)
class Segmentation(TaskSection):
    """A decoder over the backbone's maps, and a 1 x 1 convolution to the classes.

    `maps`: how many maps the linear decoder reads, from the last. `width`: channels of the other decoders.
    `class_weights`: a factor of the loss for each class, in their order, or `balanced`: by how few pixels it has.
    `dice`: how much the Dice loss counts beside cross-entropy. `boundary`: whether boundary IoU is measured too, within
    0.02 of the diagonal or so much. Outside of training images of `data.size` are looked at in windows of `window`
    pixels, every `stride` of them (2/3 of a window where it is null), and at several `scales`.
    """

    name: Literal["segmentation"]
    decoder: Decoders = "linear"
    maps: Positive = 1
    width: Positive = 256
    class_weights: Literal["balanced"] | tuple[Amount, ...] | None = None
    dice: Amount = 0.0
    window: Positive | tuple[Positive, Positive] | None = None
    stride: Positive | tuple[Positive, Positive] | None = None
    scales: tuple[AboveZero, ...] = ()
    boundary: bool | _Ratio = False

    @property
    def boundary_ratio(self) -> float | None:
        """The share of the diagonal, None where boundary IoU is not asked for."""
        if isinstance(self.boundary, bool):
            return RATIO if self.boundary else None
        return self.boundary


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a size that may be one number."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def stride_of(task: Segmentation) -> tuple[int, int]:
    """Pixels from one window to the next, down and across."""
    assert task.window is not None
    height, width = pair(task.window)
    return (max(2 * height // 3, 1), max(2 * width // 3, 1)) if task.stride is None else pair(task.stride)


def check_config(config: Config) -> None:
    """Raises UserError: what segmentation does not offer, and options that do not go together."""
    task = config.task
    assert isinstance(task, Segmentation)
    if task.maps > 1 and task.decoder != "linear":
        raise UserError(f"task.maps={task.maps}: is of task.decoder=linear; task.decoder={task.decoder} has its own.")
    if task.decoder == "fpn" and task.width % 64:
        raise UserError(
            f"task.width={task.width}: task.decoder=fpn norms half of its channels in 32 groups; expected a multiple "
            f"of 64."
        )
    weights = task.class_weights
    if isinstance(weights, tuple) and not any(weights):
        raise UserError(
            f"task.class_weights={list(weights)}: leaves nothing to learn; expected a number for each class, at least "
            f"one of them above 0, or balanced."
        )
    _check_windows(config, task)
    refused = {
        "taps.views": (config.taps.views, "masks of augmented views are not kept; give taps.views=0"),
        "trainer.strategy": (config.trainer.strategy == "fsdp" and "fsdp", "a decoder is not sharded; use trainer=ddp"),
        "backbone.stream": (
            config.backbone.stream and "true",
            "a decoder reads all of the backbone at once; leave it out",
        ),
    }
    for key, (asked, why) in refused.items():
        if asked:
            raise UserError(f"{key}={asked}: with task=segmentation, {why}.")


def _check_windows(config: Config, task: Segmentation) -> None:
    """Raises UserError: windows without images to cut them from, or that leave pixels out."""
    size, augment = config.data.size, config.data.augment
    if task.window is None:
        if task.stride is not None:
            raise UserError(f"task.stride={_plain(task.stride)}: is from window to window; give task.window, too.")
        return
    window, stride = pair(task.window), stride_of(task)
    if size is None:
        raise UserError(
            f"task.window={_plain(task.window)}: windows are cut from images of data.size, which is null (the "
            f"backbone's own); give the size to which images are resized, such as data.size={2 * max(window)}."
        )
    if stride[0] > window[0] or stride[1] > window[1]:
        raise UserError(
            f"task.stride={_plain(task.stride)}: is longer than task.window={_plain(task.window)}, so that pixels "
            f"would be in no window; expected at most that."
        )
    if augment in ("none", "flip") and window != pair(size):
        raise UserError(
            f"task.window={_plain(task.window)}: the model sees windows of images of data.size={_plain(size)}, and "
            f"data.augment={augment} trains on whole ones; give data.augment=crop, scale or rrc, which train on parts "
            f"of a window's size."
        )


def _plain(size: object) -> str:
    return str(list(size)).replace(" ", "") if isinstance(size, tuple) else str(size)


SCHEMA = TaskSchema(
    section=Segmentation,
    augmentations=("none", "flip", "crop", "rrc", "scale"),
    takes=("jitter", "tta"),  # what hides or mixes pixels would have to do so to masks
    check=check_config,
    predicts={"draw": PredictOption(None, "a folder for pictures with what was found")},
    into_folder=True,
    smoke=("data=digits_seg",),
    variants={f"task.decoder={name}": LIBRARY for name in get_args(Decoders) if name != "linear"},
)
