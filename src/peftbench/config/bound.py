"""What a delta is bound to: every value of its run's config that is of some effect, and no place where files lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from peftbench.config.declared_fields import class_constant
from peftbench.config.identity import NO_PART, OF_NO_EFFECT, defaults_of, same_value
from peftbench.config.schema import Config
from peftbench.config.task_schema import task_schema


def bound_values(config: Config) -> dict[str, Any]:
    """Key, such as `trainer.precision` -> value, of all that can change a run's numbers.

    The options of the method are not among them: a delta names these itself. An option of the data set stands as its
    word on the command line does, `data.min_size`.
    """
    values = _values(config)
    for key in class_constant(config.data.path, "places", "data.path"):
        values.pop(f"data.{key}", None)
    return values


def edited_key(bound: Mapping[str, Any], config: Config) -> tuple[str, Any, Any] | None:
    """(key, value bound, value in `config`) of the first key whose value is another; None where none is.

    A key that came after the delta was written must have its default. What is new among the options of a data set is
    not looked at: the data set that says what they mean need not be there where a tuned model is used.
    """
    ours, defaults = _values(config), _defaults(config)
    for key, value in bound.items():
        if not _is_place(key, config) and not same_value(ours.get(key, "nothing"), value):
            return key, value, ours.get(key, "nothing")
    for key in ours.keys() - bound.keys():
        if key in defaults and not same_value(ours[key], defaults[key]):
            return key, defaults[key], ours[key]
    return None


def _values(config: Config) -> dict[str, Any]:
    """Key -> value, without what is of no effect, and without places as far as they are known without the data set."""
    values: dict[str, Any] = {}
    for section, content in config.to_dict().items():
        if section == "method" or section in NO_PART:
            continue
        if not isinstance(content, Mapping):
            values[section] = content
            continue
        flat = {key: value for key, value in content.items() if (section, key) != ("data", "options")}
        if section == "data":
            flat |= content["options"]
        values |= {f"{section}.{key}": value for key, value in flat.items()}
    values["taps.mode"] = "off" if config.taps.mode == "off" else "kept"
    return {key: value for key, value in values.items() if not _is_place(key, config)}


def _is_place(key: str, config: Config) -> bool:
    """Whether a key says where something lies, or is of no effect: what lies there is stamped by its hash."""
    section, _, name = key.partition(".")
    if name in OF_NO_EFFECT.get(section, ()) or name == "path" or key in ("backbone.weights", "pruning.images"):
        return True
    return key == "data.tasks" or (section == "task" and name in task_schema(vars(config.task)).files)


def _defaults(config: Config) -> dict[str, Any]:
    sections = [name for name in vars(config) if is_dataclass(getattr(config, name)) and name != "method"]
    return {f"{name}.{key}": value for name in sections for key, value in defaults_of(getattr(config, name)).items()}
