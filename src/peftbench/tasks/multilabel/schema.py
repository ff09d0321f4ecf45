"""What multi-label classification says of itself without torch: its section, its rules, how its results are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic.dataclasses import dataclass as checked

from peftbench.common.errors import UserError
from peftbench.config.bounds import Share
from peftbench.config.task_schema import STRICT, PredictOption, TaskSchema, TaskSection
from peftbench.tasks.multilabel.results import RESULTS
from peftbench.tasks.square_images import refuse_other_shapes

__all__ = ["RESULTS", "SCHEMA"]


@checked(config=STRICT, frozen=True, kw_only=True)
class Multilabel(TaskSection):
    """A linear head on pooled features. `label_smoothing` is of the training loss alone."""

    name: Literal["multilabel"]
    label_smoothing: Share = 0.0


def check_predicts(options: Mapping[str, Any]) -> None:
    """Raises UserError: a number of images below 1."""
    if options["batch_size"] < 1:
        raise UserError(f"batch_size={options['batch_size']}: expected at least 1.")


SCHEMA = TaskSchema(
    section=Multilabel,
    augmentations=("none", "flip", "crop", "rrc", "trivial", "randaugment"),
    takes=("resize", "jitter", "erase", "mixup", "cutmix", "tta", "augment_on", "draft"),
    check=refuse_other_shapes,
    predicts={"batch_size": PredictOption(64, "images at a time")},
    check_predicts=check_predicts,
    smoke=("data=digits", "task=multilabel"),
    targets="labels",
)
