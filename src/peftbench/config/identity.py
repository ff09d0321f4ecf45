"""What can change the numbers of a run, and the id that is a hash of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from peftbench.config.declared_fields import class_constant, declared
from peftbench.config.first_keys import FIRST_KEYS, FIRST_OPTIONS, FIRST_TASK_KEYS
from peftbench.config.schema import Config
from peftbench.config.task_schema import task_schema
from peftbench.config.untrained import as_untrained, solves

# What cannot change a run's numbers stays out of its id; of `start` the hash of the delta is in it, not the place.
NO_PART = ("logger", "force", "page", "output_dir", "data_dir", "choices", "protocol", "start", "costs")
OF_NO_EFFECT = {
    "backbone": ("stream",),
    "trainer": ("progress", "checkpoint_seconds", "threads", "grad_checkpointing", "meet_seconds"),
    "data": ("workers", "memory_gb", "eval_batch_size", "licence"),
    "taps": ("max_gb", "memory_gb", "gpu_gb", "dir"),
}
"""Section -> keys."""


def identity(config: Config) -> dict[str, Any]:
    """The part of a config that can change its numbers: what a run's id is a hash of.

    A key that came after version 0.1.0 is left out while it has its default (`first_keys` lists those of that version).
    That holds for every section, and for the options of methods, data sets and tasks that peftbench ships. The options
    of a class from outside are all in the id, whatever their values: peftbench does not know which came later.
    """
    whole = _without_later_defaults(as_untrained(config) if solves(config) else config)
    for section, keys in OF_NO_EFFECT.items():
        for key in keys:
            whole[section].pop(key, None)
    if (config.trainer.micro_batch or 0) >= config.data.batch_size:  # it divides no batch
        del whole["trainer"]["micro_batch"]
    # Where taps are kept changes nothing; without them a run costs more, so it is another one.
    whole["taps"]["mode"] = "off" if config.taps.mode == "off" else "kept"
    # Where files lie does not matter; what is in them is stamped by fingerprint and split hash.
    for key in class_constant(config.data.path, "places", "data.path"):
        whole["data"]["options"].pop(key, None)
    whole["data"]["task"] = config.task.name  # of those that the data set serves
    del whole["data"]["tasks"]
    if not config.task.path:
        whole["task"].pop("path", None)  # of a task that came later it is left out already
    if Path(whole["backbone"]["weights"]).suffix:
        del whole["backbone"]["weights"]
    for key in task_schema(vars(config.task)).files:  # stamped by the hash of its file
        if Path(whole["task"].get(key) or "").suffix:
            del whole["task"][key]
    if config.pruning.name == "none":
        del whole["pruning"]
    else:  # what the images make of the backbone is in its fingerprint
        del whole["pruning"]["images"]
    return whole


def _without_later_defaults(config: Config) -> dict[str, Any]:
    """The config as plain values, without the keys that came after the first version and have their defaults."""
    values = {key: value for key, value in config.to_dict().items() if key not in NO_PART}
    for section in [name for name in values if is_dataclass(getattr(config, name))]:
        first: Collection[str] | None = FIRST_KEYS.get(section, ())
        if section == "task":
            first = None if config.task.path else FIRST_TASK_KEYS.get(config.task.name, ())
        values[section] = _counted(values[section], first, defaults_of(getattr(config, section)))
        if not values[section]:  # a section that came later, all of it as it is by default
            del values[section]
    for section, path in (("method", config.method.path), ("data", config.data.path)):
        own = path.startswith("peftbench.")
        defaults = {name: default for name, (_, default) in declared(path, f"{section}.path").items()}
        first = FIRST_OPTIONS.get(path, ()) if own else None
        values[section]["options"] = _counted(values[section]["options"], first, defaults)
    return values


def _counted(values: Mapping[str, Any], first: Collection[str] | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are in the id: of the `first` keys (None: of all), and of others where they are no defaults."""
    if first is None:
        return dict(values)
    return {
        key: value
        for key, value in values.items()
        if key in first or key not in defaults or not same_value(value, defaults[key])
    }


def defaults_of(section: Any) -> dict[str, Any]:
    """Key -> default, of a section's fields that have one."""
    return {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(section)
        if f.default is not MISSING or f.default_factory is not MISSING
    }


def same_value(value: Any, default: Any) -> bool:
    """Whether a value read from JSON is the default; false is not 0."""
    if isinstance(value, list) and isinstance(default, list | tuple):
        return len(value) == len(default) and all(map(same_value, value, default))
    return value == default and isinstance(value, bool) == isinstance(default, bool)


def run_id(config: Config, fingerprint: str, split_hash: str) -> str:
    """A readable prefix and ten hex digits over everything that can change the result."""
    stamp = json.dumps([identity(config), fingerprint, split_hash], sort_keys=True)
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:10]
    names = (config.method.name, _short(config, "backbone"), _short(config, "data"), f"s{config.seed}")
    return "-".join([*(n.replace("/", "_").replace("-", "_") for n in names), digest])


def _short(config: Config, group: str) -> str:
    chosen = config.choices.get(group)
    if chosen and chosen != "timm":
        return chosen
    return Path(getattr(config, group).name).name.split(".")[0]
