"""How the records of a task are judged and shown, as the task's own schema says."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftbench.common.task_lookup import shipped_tasks, task_module
from peftbench.results.record import Record


@dataclass(frozen=True)
class TaskResults:
    """What a task's `schema.py` says to the tables and reports, as `RESULTS`.

    Of the metric that runs are judged by more is better, and 1 is the most; it may be below 0, as R² is. It is shown in
    per cent, as all metrics are but `errors`.

    Attributes:
        metric: what a run is judged by; records have it as `val/<metric>` and `test/<metric>`, histories as
            `val_<metric>`.
        columns: heading -> metric, of the table at the end of a run.
        beside: the metric that a report shows beside `metric`, or several; each where every run of a board has it.
        setting: options of the task's section that are part of a method's setting, with what a record that does not
            have them was run with; None where all of them are.
        errors: metrics of which less is better, in the units of the targets; the table at the end of a run shows them
            so, and reports a hundredfold, as they do a loss. A metric that any task known here calls an error is one.
        later: further ones that came after the first version: a setting names them where they differ from these values.
        apart: options of the section that make another task of it, with what a record without them was run with: runs
            that differ in one are on boards of their own.
        outputs: what the task tells apart or predicts, in the plural: what `stamps.data.classes` of a record counts.
        counted: metrics that count images: shares of them, whose differences spread at least as draws of so many do.
        averaged: those of `counted` that are means of several shares, so that no interval of a single share is theirs.
        hub: what the Hub of Hugging Face calls the task, such as image-classification; empty where it has no word.
    """

    metric: str
    columns: Mapping[str, str]
    beside: str | Sequence[str] = ()
    setting: Mapping[str, Any] | None = None
    later: Mapping[str, Any] = field(default_factory=dict)
    counted: Sequence[str] = ()
    averaged: Sequence[str] = ()
    errors: Sequence[str] = ()
    apart: Mapping[str, Any] = field(default_factory=dict)
    outputs: str = "classes"
    hub: str = ""

    def __post_init__(self) -> None:
        _ERRORS.update(self.errors)

    @property
    def besides(self) -> tuple[str, ...]:
        """The metrics of `beside`."""
        return (self.beside,) if isinstance(self.beside, str) else tuple(self.beside)


_ERRORS = {"loss", "forgetting", "task_forgetting"}
"""What is an error in the eyes of any task that was asked: reports know the names of metrics only."""

FIRST = "classification"
"""The task of a record that names none: the first version of peftbench knew no other."""


def task_name(config: Mapping[str, Any]) -> str:
    """The name of the task in a record's config."""
    return str((config.get("task") or {}).get("name") or FIRST)


def results_of(config: Mapping[str, Any], metrics: Iterable[str] = ()) -> TaskResults:
    """How a record with this config is judged and shown.

    A record may come from anywhere, so nothing that it names is imported: a task from outside peftbench is asked where
    this process has imported it. Elsewhere the first of the record's `metrics` on test or validation images counts.
    """
    name, shipped = task_name(config), shipped_tasks()
    path = (config.get("task") or {}).get("path") or shipped.get(name)
    if path in shipped.values():
        return results_of_task(name, str(path))
    declared = getattr(sys.modules.get(f"{path}.schema"), "RESULTS", None)
    if isinstance(declared, TaskResults):
        return declared
    measured = (m.partition("/")[2] for m in metrics if m.startswith(("test/", "val/")))
    metric = next((m for m in measured if m != "loss"), "accuracy")
    return TaskResults(metric, {f"{metric} %": metric})


def results_of_record(record: Record) -> TaskResults:
    """As `results_of`; a record says which of its metrics its task is judged by."""
    metrics = list(record.metrics or {})
    judged_by = (record.stamps or {}).get("judged_by")
    metrics.sort(key=lambda metric: short(metric) != judged_by)
    return results_of(record.config, metrics)


def results_of_task(name: str, path: str = "") -> TaskResults:
    """How the runs of a task are judged and shown. It imports the task's schema: for configs that the user gave, while
    `results_of` is for records.

    Args:
        path: the import path of the task's package; the empty string stands for the task that peftbench ships.

    Raises:
        UserError: there is no such package.
        KeyError: peftbench ships no task of that name, and there is no path.
    """
    shipped = shipped_tasks()
    path = path or shipped[name]
    # The schema of a shipped task takes it from `results.py`: a report need not import pydantic, nor the config.
    module = task_module(path, "results" if path in shipped.values() else "schema")
    results: TaskResults = module.RESULTS
    return results


def short(metric: str) -> str:
    """The metric without where it was measured: `AP` of `test/AP`."""
    return metric.partition("/")[2] or metric


def less_is_better(metric: str) -> bool:
    """Whether less of it is better: of a loss, and of what a task calls an error; of every other metric more is."""
    return metric.rpartition("/")[2] in _ERRORS


_IMAGES = {"test": "test image", "val": "validation image", "train": "training image"}


def images_of(metric: str) -> str:
    """The kind of image that it is measured on, in the singular: `test image`."""
    return _IMAGES.get(metric.partition("/")[0], "image")


def unit(metric: str) -> str:
    """What stands behind its figures, which tables show a hundredfold: `%`, but an error is no share."""
    return "× 100" if less_is_better(metric) else "%"


def percent(metric: str) -> str:
    """The unit of its figures: `%`, and of what, unless that is accuracy."""
    return "%" if short(metric) == "accuracy" else f"% {short(metric)}"
