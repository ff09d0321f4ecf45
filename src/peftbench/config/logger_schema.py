"""The section `logger`: what each tracker of figures may be told; a tracker that is not chosen is null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic.dataclasses import dataclass as checked

from peftbench.common.errors import UserError
from peftbench.config.messages import shown
from peftbench.config.sections import checked_section, refuse_unknown_keys
from peftbench.config.task_schema import STRICT

OLD_KEYS = ("project", "group", "tags")
"""Keys of W&B, which stood in the section itself while there was one tracker at a time."""


@checked(config=STRICT, frozen=True)
class Csv:
    """`metrics.csv` in the run's folder; there is nothing to tell it."""


@checked(config=STRICT, frozen=True)
class Wandb:
    project: str = "peftbench"
    group: str | None = None
    tags: tuple[str, ...] = ()


@checked(config=STRICT, frozen=True)
class TensorBoard:
    """Event files in the run's folder; there is nothing to tell it."""


@checked(config=STRICT, frozen=True)
class MLflow:
    tracking_uri: str | None = None
    experiment: str = "peftbench"


@checked(config=STRICT, frozen=True)
class Logger:
    """The trackers of a run; null is one that is not chosen."""

    csv: Csv | None = None
    wandb: Wandb | None = None
    tensorboard: TensorBoard | None = None
    mlflow: MLflow | None = None


SCHEMAS: dict[str, type] = {"csv": Csv, "wandb": Wandb, "tensorboard": TensorBoard, "mlflow": MLflow}
"""Tracker -> its schema."""


def logger_section(values: Mapping[str, Any]) -> Logger:
    """The section `logger`, each tracker checked by its own schema; forms of earlier versions are read as well.

    Raises:
        UserError: an unknown tracker or key, or a wrong type; the key is named as `logger.wandb.project`.
    """
    values = _of_trackers(values)
    others = [f"logger.{name}.{f.name}" for name, schema in SCHEMAS.items() for f in fields(schema)]
    refuse_unknown_keys(values, SCHEMAS, "logger.", others)
    trackers = {}
    for name, options in values.items():
        if options is None:
            continue
        if not isinstance(options, Mapping):
            raise UserError(f"logger.{name}={shown(options)}: expected a mapping of keys; logger={name} chooses it.")
        trackers[name] = checked_section(SCHEMAS[name], options, f"logger.{name}")
    return Logger(**trackers)


def _of_trackers(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """`{name: wandb, project: x}`, as there was one tracker once, as `{wandb: {project: x}}`."""
    if "name" not in values and not any(key in values for key in OLD_KEYS):
        return values
    kept = {key: value for key, value in values.items() if key not in ("name", *OLD_KEYS)}
    if "name" in values:
        name = values["name"]
        if name not in ("none", *SCHEMAS):
            raise UserError(f"logger.name={shown(name)}: expected none, {', '.join(SCHEMAS)}.")
        foreign = {key: value for key, value in kept.items() if key not in SCHEMAS}
        kept = foreign | ({} if name == "none" else {name: kept.get(name) or {}})
    if isinstance(kept.get("wandb"), Mapping):
        kept["wandb"] = {**kept["wandb"], **{key: values[key] for key in OLD_KEYS if key in values}}
    return kept
