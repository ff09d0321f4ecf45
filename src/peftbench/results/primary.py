"""What a run is judged by: one metric for each task, a share that is shown in per cent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRIMARY = {"classification": "accuracy", "detection": "AP"}
"""By name of the task. Records have it as `val/<metric>` and `test/<metric>`, histories as `val_<metric>`."""

BESIDE = {"AP": "AP50"}
"""What is shown beside it."""


def task_of(config: Mapping[str, Any]) -> str:
    """The task of a record's config."""
    return str((config.get("task") or {}).get("name", "classification"))


def primary(config: Mapping[str, Any]) -> str:
    """The metric that a record with this config is judged by."""
    return PRIMARY.get(task_of(config), "accuracy")


def short(metric: str) -> str:
    """The metric without where it was measured: `AP` of `test/AP`."""
    return metric.partition("/")[2] or metric


def percent(metric: str) -> str:
    """The unit of its figures: `%`, and of what, unless that is accuracy."""
    return "%" if short(metric) == "accuracy" else f"% {short(metric)}"
