"""What classification says of itself without torch: its section, its rules, how its results are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic.dataclasses import dataclass as checked

from peftbench.common.errors import UserError
from peftbench.config.bounds import Amount, Share
from peftbench.config.schema import Config
from peftbench.config.task_schema import OFFERED, STRICT, PredictOption, TaskSchema, TaskSection
from peftbench.tasks.classification.results import RESULTS

__all__ = ["RESULTS", "SCHEMA"]


@checked(config=STRICT, frozen=True, kw_only=True)
class Classification(TaskSection):
    """A linear head on pooled features. Its options are of the training loss alone.

    `class_weights`: a factor for each class, in the order of the classes, or `balanced`: by how rare it is.
    `focal_gamma`: the exponent of the focal loss; 0 is cross-entropy.
    """

    name: Literal["classification"]
    label_smoothing: Share = 0.0
    class_weights: Literal["balanced"] | tuple[Amount, ...] | None = None
    focal_gamma: Amount = 0.0


def check_config(config: Config) -> None:
    """Raises UserError: images that are not square, or weights of classes that leave nothing to learn."""
    assert isinstance(config.task, Classification)
    weights = config.task.class_weights
    if isinstance(weights, tuple) and not any(weights):
        raise UserError(
            f"task.class_weights={list(weights)}: leaves nothing to learn; expected a number for each class, at least "
            f"one of them above 0, or balanced."
        )
    if isinstance(config.data.size, tuple):
        raise UserError(
            f"data.size={list(config.data.size)}: task={config.task.name} takes square images; give one number."
        )


def check_predicts(options: Mapping[str, Any]) -> None:
    """Raises UserError: a number of classes, or of images, below 1."""
    for key in ("top_k", "batch_size"):
        if options[key] < 1:
            raise UserError(f"{key}={options[key]}: expected at least 1.")


SCHEMA = TaskSchema(
    section=Classification,
    augmentations=("none", "flip", "crop", "rrc", "trivial", "randaugment"),
    takes=OFFERED,
    counters={"class_weights": "balanced", "focal_gamma": "2"},
    check=check_config,
    predicts={
        "top_k": PredictOption(5, "classes of each image, the most probable first"),
        "batch_size": PredictOption(64, "images at a time"),
    },
    check_predicts=check_predicts,
    smoke=("data=digits",),
)
