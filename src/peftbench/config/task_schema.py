"""What the config must know of a task, and what every task's section holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked

from peftbench.common.errors import UserError
from peftbench.common.task_lookup import shipped_tasks, task_module

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@checked(config=STRICT, frozen=True, kw_only=True)
class TaskSection:
    """The section `task` of a config; a task's own schema adds its options.

    `path` is the import path of the task's package; the empty string stands for the one that peftbench ships.
    """

    name: str
    path: str = ""


OFFERED = ("resize", "jitter", "erase", "mixup", "cutmix", "sampler", "tta", "augment_on", "draft", "class_groups")
"""Keys of the section `data` that a task may take. `mixup` and `cutmix` ask for targets that can be mixed in shares (a
label counts as a share of 1), `sampler` and `class_groups` for one class an image, and `tta` for predictions that can
be averaged."""


@dataclass(frozen=True)
class PredictOption:
    """An option of `peftbench predict` that is a task's alone: its default, and a line that says what it is."""

    default: Any
    help: str


@dataclass(frozen=True)
class TaskSchema:
    """What a task's `schema.py` says to the config, as `SCHEMA`.

    Attributes:
        section: the dataclass of its section, a `TaskSection`.
        augmentations: what `data.augment` may be.
        takes: which of `OFFERED`, keys of the section `data` that are off by default, make sense for this task.
        counters: keys of its own section that, unless they have their defaults, act against classes of unequal size,
            and the value that a note offers.
        check: raises UserError where its section does not go with the others; called with the whole config.
        files: options of the section that name files: what is in them is stamped, where they lie is no part of the id.
        predicts: options of `peftbench predict` that are this task's alone, by name.
        check_predicts: raises UserError where one of these has a value without sense.
        into_folder: whether `out` of `peftbench predict` may be a folder, into which the task writes a file an image.
        smoke: the data set, and options, with which `make smoke` tries this task; nothing is downloaded.
        variants: words of other forms of the task that `make smoke` tries with a few methods, and the module that each
            needs besides peftbench's own.
        targets: what a data set that serves several tasks is to give for each image: `own` (one class, boxes: what it
            has by itself), `labels` (several of them) or `numbers`.
        asks: option of the section -> what the data set is to give instead where it is on, such as `masks`.
    """

    section: type[TaskSection]
    augmentations: tuple[str, ...]
    check: Callable[[Any], None]
    takes: tuple[str, ...] = ()
    counters: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    predicts: Mapping[str, PredictOption] = field(default_factory=dict)
    check_predicts: Callable[[Mapping[str, Any]], None] = lambda options: None
    into_folder: bool = False
    smoke: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    targets: Literal["own", "labels", "numbers"] = "own"
    asks: Mapping[str, str] = field(default_factory=dict)

    def targets_for(self, section: TaskSection) -> str:
        """What the data set is to give for a run with this section."""
        return next((wanted for option, wanted in self.asks.items() if getattr(section, option)), self.targets)


def task_path(section: Mapping[str, Any]) -> str:
    """The import path of the package of the task that a section names.

    Raises:
        UserError: peftbench ships no task of that name, and the section gives no path.
    """
    name, path = section.get("name"), section.get("path")
    if isinstance(path, str) and path:
        return path
    if not isinstance(name, str) or name not in shipped_tasks():
        raise UserError(f"task.name={name!r}: expected {' or '.join(shipped_tasks())}.")
    return shipped_tasks()[name]


def task_schema(section: Mapping[str, Any]) -> TaskSchema:
    """The schema of the task that a section names. Raises UserError."""
    schema: TaskSchema = task_module(task_path(section), "schema").SCHEMA
    return schema
