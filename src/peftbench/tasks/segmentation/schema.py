"""What segmentation says of itself without torch: its section, its rules, how its results are shown."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic.dataclasses import dataclass as checked

from peftbench.common.errors import UserError
from peftbench.config.bounds import Amount, Positive
from peftbench.config.schema import Config
from peftbench.config.task_schema import STRICT, PredictOption, TaskSchema, TaskSection
from peftbench.tasks.segmentation.results import RESULTS

__all__ = ["RESULTS", "SCHEMA"]

Decoders = Literal["linear", "fpn", "upernet", "segformer", "deeplabv3plus"]
LIBRARY = "segmentation_models_pytorch"
"""The module that all decoders but the linear one are from."""


@checked(config=STRICT, frozen=True, kw_only=True)
class Segmentation(TaskSection):
    """A decoder over the backbone's maps, and a 1 x 1 convolution to the classes.

    `maps`: how many maps the linear decoder reads, from the last. `width`: channels of the other decoders.
    `class_weights`: a factor of the loss for each class, in their order, or `balanced`: by how few pixels it has.
    `dice`: how much the Dice loss counts beside cross-entropy.
    """

    name: Literal["segmentation"]
    decoder: Decoders = "linear"
    maps: Positive = 1
    width: Positive = 256
    class_weights: Literal["balanced"] | tuple[Amount, ...] | None = None
    dice: Amount = 0.0


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
    refused = {
        "data.ood": (config.data.ood, "shifted test sets are of classification; leave it out"),
        "taps.views": (config.taps.views, "masks of augmented views are not kept; give taps.views=0"),
        "trainer.strategy": (config.trainer.strategy == "fsdp" and "fsdp", "a decoder is not sharded; use trainer=ddp"),
        "backbone.stream": (
            config.backbone.stream and "true",
            "a decoder reads all of the backbone at once; leave it out",
        ),
    }
    for key, (asked, why) in refused.items():
        if asked:
            raise UserError(
                f"{key}={list(asked) if isinstance(asked, tuple) else asked}: with task=segmentation, {why}."
            )


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
