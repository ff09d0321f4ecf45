"""The keys of a run's config and what their values may be, for completion: read from YAML and schemas, without Hydra.

Composing with Hydra takes half a second; a shell that completes a word should not wait for it.
"""

from __future__ import annotations

import contextlib
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from peftbench.common.config_files import names
from peftbench.common.errors import UserError
from peftbench.common.regular_files import text_in
from peftbench.common.yaml_text import yaml_of
from peftbench.config import SECTIONS, TOP, Protocol, Sweep, task_schema
from peftbench.config.declared_fields import declared
from peftbench.config.logger_schema import SCHEMAS as TRACKERS

_NOT_KEYS = ("name", "path", "options", "tasks", "defaults")


def config_keys(words: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
    """Key -> type of its value, such as `optimizer.lr` -> float, of the config that the words choose."""
    chosen = chosen_names(words, folders)
    keys: dict[str, Any] = dict(TOP)
    for section in (*SECTIONS, "sweep", "protocol"):
        keys |= {f"{section}.{name}": kind for name, kind in _section_keys(section, chosen, folders).items()}
    return keys


def chosen_names(words: Sequence[str], folders: Sequence[Path]) -> dict[str, str]:
    """Group -> name of its file: the words', else a recipe's (experiment=…), else the default."""
    written = dict(word.split("=", 1) for word in words if "=" in word)
    chosen = _defaults(_content(folders[0] / "train.yaml"))
    for recipe in ("experiment", "debug"):
        if path := names(recipe, folders).get(written.get(recipe, "")):
            chosen |= _defaults(_content(path))
    data = written.get("data") or chosen.get("data", "")
    if path := names("data", folders).get(data):
        chosen |= _defaults(_content(path))  # which choose the task
    return chosen | {group: name for group, name in written.items() if group in chosen}


def _section_keys(section: str, chosen: Mapping[str, str], folders: Sequence[Path]) -> dict[str, Any]:
    if section == "logger":  # one choice or a list of them, each with keys of its own
        trackers = [name for name in re.findall(r"\w+", chosen.get(section, "")) if name in TRACKERS]
        return {f"{name}.{key}": kind for name in trackers for key, kind in _hints(TRACKERS[name]).items()}
    path = names(section, folders).get(chosen.get(section, ""))
    content = _content(path) if path else {}
    content = content.get(section, content)  # a file with `@package _global_` names its section
    if not isinstance(content, dict):
        content = {}
    kinds: dict[str, Any] = {name: type(value) for name, value in content.items()}
    kinds |= _hints(_schema(section, content))
    if isinstance(content.get("path"), str):
        with contextlib.suppress(UserError):  # a class that is not there: what is known so far is offered
            kinds |= {name: kind for name, (kind, _) in declared(content["path"], section).items()}
    needed = [name for name, value in content.items() if value == "???"]
    return {name: kind for name, kind in kinds.items() if name not in _NOT_KEYS or name in needed}


def _schema(section: str, content: Mapping[str, Any]) -> Any:
    if section == "task":
        try:
            return task_schema(content).section
        except UserError:
            return None
    return {"sweep": Sweep, "protocol": Protocol}.get(section) or SECTIONS[section]


def _hints(schema: Any) -> dict[str, Any]:
    if not is_dataclass(schema):
        return {}
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in fields(schema)}


def possible_values(kind: Any) -> list[str]:
    """What a value of a type may be, where that can be listed."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if get_origin(kind) in (Union, types.UnionType):
        values = [value for part in get_args(kind) for value in possible_values(part)]
        return [*values, "null"] if values and type(None) in get_args(kind) else values
    return []


def may_be_path(kind: Any) -> bool:
    """Whether a value of a type may name a file: whether it may be any text, or nothing is known of it."""
    return kind in (str, type(None)) or str in get_args(kind)


def _content(path: Path) -> dict[str, Any]:
    """What a YAML file holds; nothing where it cannot be read."""
    try:
        content = yaml_of(text_in(path))
    except (OSError, UnicodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _defaults(content: Mapping[str, Any]) -> dict[str, str]:
    """Group -> name, of a defaults list."""
    entries = content.get("defaults")
    chosen: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else []:
        for key, name in entry.items() if isinstance(entry, dict) else []:
            chosen[str(key).split()[-1].lstrip("/")] = str(name)
    return chosen
