"""Tasks: head, loss and metrics."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench import config
from peftbench.backbones import Backbone
from peftbench.tasks.base import Task
from peftbench.tasks.classification.task import Classification
from peftbench.tasks.detection import schema
from peftbench.tasks.detection.start import begin, file_of, save, settle, stamp
from peftbench.tasks.detection.task import Detection

__all__ = ["Classification", "Detection", "Task", "file_of", "make", "save", "settle", "stamp", "start"]


def make(spec: config.TaskSection, backbone: Backbone, classes: Sequence[str], categories: Sequence[int] = ()) -> Task:
    """The task that a config asks for, with fresh parameters.

    `categories` number the classes in a detection set's own files. Raises Refusal where this backbone cannot do it.
    """
    if isinstance(spec, schema.Detection):
        return Detection(spec, backbone, classes, categories)
    return Classification(backbone, classes, spec.label_smoothing)  # type: ignore[attr-defined]


def start(task: Task, spec: config.TaskSection, backbone: config.Backbone) -> str:
    """Has the task start from the file that the config names, if any; returns what the user should know of it."""
    file = file_of(spec, backbone)
    if file is None or not isinstance(task, Detection):
        return ""
    return begin(task, file)
