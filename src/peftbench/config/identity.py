"""What can change the numbers of a run, and the id that is a hash of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from peftbench.config.declared_fields import class_constant
from peftbench.config.schema import Config
from peftbench.config.task_schema import task_schema

# What cannot change a run's numbers stays out of its id.
_NOT_IDENTITY: dict[str, set[str]] = {
    "backbone": {"stream"},
    "trainer": {"progress", "checkpoint_seconds", "threads"},
    "data": {"workers", "memory_gb", "eval_batch_size"},
    "taps": {"max_gb", "memory_gb", "dir"},
}


def identity(config: Config) -> dict[str, Any]:
    """The part of a config that can change its numbers: what a run's id is a hash of."""
    whole = config.to_dict()
    for key in ("logger", "force", "output_dir", "data_dir", "choices", "protocol"):
        del whole[key]
    for section, keys in _NOT_IDENTITY.items():
        for key in keys:
            del whole[section][key]
    # Where taps are kept changes nothing; without them a run costs more, so it is another one.
    whole["taps"]["mode"] = "off" if config.taps.mode == "off" else "kept"
    # Where files lie does not matter; what is in them is stamped by fingerprint and split hash.
    for key in class_constant(config.data.path, "places", "data.path"):
        whole["data"]["options"].pop(key, None)
    whole["data"]["task"] = config.task.name  # of those that the data set serves
    del whole["data"]["tasks"]
    if not config.task.path:
        del whole["task"]["path"]
    if Path(whole["backbone"]["weights"]).suffix:
        del whole["backbone"]["weights"]
    for key in task_schema(vars(config.task)).files:  # stamped by the hash of its file
        if Path(whole["task"].get(key) or "").suffix:
            del whole["task"][key]
    del whole["pruning"]["images"]
    if config.pruning.name == "none":
        del whole["pruning"]
    return whole


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
