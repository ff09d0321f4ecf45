"""A run's record and config as others may see them: without places and the user's name of this machine."""

from __future__ import annotations

import dataclasses
import getpass
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftbench.common.errors import UserError
from peftbench.config import Config
from peftbench.config.declared_fields import class_constant
from peftbench.config.task_schema import task_schema
from peftbench.results import Record

FOLDER, FILE = "FOLDER", "FILE"
"""What stands for a place that is left out."""
_PATH = re.compile(
    r"(?<![\w.:/~-])(?:~[\w.-]*)?/(?:[^\s'\",;:()<>\[\]{}|/]+/)*[^\s'\",;:()<>\[\]{}|/]+/?"  # /home/me/x, ~/x
    r"|(?<!\w)[A-Za-z]:[\\/][^\s'\",;()<>\[\]{}|]*"  # C:\Users\me
    r"|\\\\[^\s'\",;()<>\[\]{}|]+"  # \\server\share
)
_PACKAGE = "package:"


@dataclasses.dataclass(frozen=True)
class Shown:
    """What may be shown, and which keys had a place that is left out."""

    record: Record
    config: Config
    left_out: tuple[str, ...]


def without_places(record: Record, config: Config) -> Shown:
    """The record and the config without places: a folder becomes `FOLDER`, a file `FILE`, others their defaults.

    Where data, weights and the like lie is left out by key. Text that holds such a place, another whole path, or a path
    of the user's folder loses it wherever it stands. What trackers were told, and the names of files that were
    damaged, are left out.
    """
    values = config.to_dict()
    places: dict[str, tuple[str, str]] = {}  # key -> (place, what stands for it)

    def hide(section: dict[str, Any], key: str, name: str, instead: Any) -> None:
        old = section.get(key)
        if isinstance(old, str) and old and not old.startswith(_PACKAGE) and old != instead:
            places[name] = (old, str(instead or ""))
            section[key] = instead

    for key in _places_of(config.data.path):
        hide(values["data"]["options"], key, f"data.{key}", FOLDER)
    for section, key in (("pruning", "images"), ("taps", "dir")):
        hide(values[section], key, f"{section}.{key}", FOLDER if section == "pruning" else None)
    if Path(config.backbone.weights).suffix:
        hide(values["backbone"], "weights", "backbone.weights", FILE)
    for key in task_schema(vars(config.task)).files:
        if Path(str(values["task"].get(key) or "")).suffix:
            hide(values["task"], key, f"task.{key}", FILE)
    for key, default in (("output_dir", "outputs"), ("data_dir", "data")):
        hide(values, key, key, default)
    if config.start:
        hide(values, "start", "start", f"outputs/{Path(config.start).name}")
    values["logger"] = {name: told if told == {} else None for name, told in values["logger"].items()}
    told = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    told["stamps"] = {**record.stamps, "data": {**(record.stamps.get("data") or {}), "skipped": []}}
    told |= {"folder": "", "config": {**record.config, **values}}
    literal = [(old, new) for old, new in places.values() if re.search(r"[/\\]", old.strip("/"))]
    literal.sort(key=lambda pair: -len(pair[0]))
    shown = _cleaned(told, literal)
    return Shown(Record(**shown), Config.from_dict(_cleaned(values, literal)), tuple(sorted(places)))


def holds_places(content: bytes, config: Config) -> str:
    """A place of this machine that the bytes of a file hold: the home folder, or a whole path of the config; or ""."""
    sure = [str(Path.home()), *_whole_paths(config)]
    return next((place for place in sure if len(place) > 5 and place.encode() in content), "")


def _whole_paths(config: Config) -> list[str]:
    texts: list[str] = []

    def gather(value: Any) -> None:
        if isinstance(value, str) and Path(value).is_absolute():
            texts.append(value)
        elif isinstance(value, Mapping):
            for inner in value.values():
                gather(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                gather(inner)

    gather(config.to_dict())
    return texts


def _places_of(path: str) -> tuple[str, ...]:
    try:
        return tuple(class_constant(path, "places", "data.path"))
    except UserError:  # the class of a data set of one's own that is not there
        return ("root", "labels")


def _cleaned(value: Any, literal: list[tuple[str, str]]) -> Any:
    if isinstance(value, str):
        for old, new in literal:
            if value != new:
                value = value.replace(old, new or "…")
        return _unnamed(_PATH.sub(lambda match: _instead(match[0]), value))
    if isinstance(value, Mapping):
        return {_cleaned(k, literal): _cleaned(v, literal) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(v, literal) for v in value]
    return value


def _instead(path: str) -> str:
    return FILE if Path(path.rstrip("/")).suffix else FOLDER


def _unnamed(text: str) -> str:
    """The text without the user's name, where it is part of a path or an address."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        return text
    if len(user) < 3 or user == "root" or not re.search(r"[/\\@]", text):
        return text
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])", "USER", text)
