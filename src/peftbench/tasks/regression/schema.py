"""What regression says of itself without torch: its section, its rules, how its results are shown."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass as checked

from peftbench.common.errors import UserError
from peftbench.config.bounds import AboveZero
from peftbench.config.schema import Config
from peftbench.config.task_schema import STRICT, TaskSchema, TaskSection
from peftbench.tasks.regression.results import RESULTS
from peftbench.tasks.square_images import refuse_other_shapes

__all__ = ["RESULTS", "SCHEMA"]


@checked(config=STRICT, frozen=True, kw_only=True)
class Regression(TaskSection):
    """A linear head on pooled features. `huber_delta` is in deviations of the training targets."""

    name: Literal["regression"]
    loss: Literal["mse", "huber"] = "mse"
    huber_delta: AboveZero = 1.0


def check_config(config: Config) -> None:
    """Raises UserError: images that are not square, or a delta without Huber's loss."""
    refuse_other_shapes(config)
    assert isinstance(config.task, Regression)
    if config.task.huber_delta != 1.0 and config.task.loss != "huber":
        raise UserError(
            f"task.huber_delta={config.task.huber_delta:g}: is of Huber's loss, and task.loss={config.task.loss}; give "
            f"task.loss=huber too, or leave it out."
        )


SCHEMA = TaskSchema(
    section=Regression,
    augmentations=("none", "flip", "crop", "rrc", "trivial", "randaugment"),
    # Not cutmix: a rectangle's share of an image is no share of a number.
    takes=("resize", "jitter", "erase", "mixup", "tta", "augment_on", "draft"),
    check=check_config,
    smoke=("data=digits", "task=regression"),
    targets="numbers",
)
