"""How a record is called, and what tells records of the same names apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.results.record import Record

_PLACES = ("choices", "output_dir", "data_dir", "force", "page", "logger", "costs")  # sections that change no number
_TASKS_OF_DATA = ("data.task", "data.tasks")  # the section `task` says which it was; older records have the first


def label(record: Record) -> str:
    """method backbone data seed, as the user named them."""
    config = record.config
    chosen = config.get("choices") or {}
    names = [chosen.get(g) or config.get(g, {}).get("name", "?") for g in ("method", "backbone")]
    return f"method={names[0]} backbone={names[1]} data={data_name(config)} seed={config.get('seed', '?')}"


def data_name(config: Mapping[str, Any]) -> str:
    """What results call the data set: the user's own folder by its name, any other as it was chosen."""
    data = config.get("data") or {}
    chosen = str((config.get("choices") or {}).get("data") or data.get("name", "?"))
    if chosen.rpartition("_")[2] != "folder":  # all others have names of their own
        return chosen
    root = str((data.get("options") or {}).get("root") or "")
    name = re.split(r"[/\\]", root.rstrip("/\\"))[-1]
    return chosen if name in ("", ".", "..", "~") else name


def differences(records: Sequence[Record]) -> dict[int, str]:
    """The options in which each record differs from others of its method, backbone, data and seed.

    By id of the record object: "rank=4 pruning=none", say; the empty string where no other record bears the same names.
    A record of a job that came to no config is compared, by what the job was given, with others of that kind.
    """
    alike: dict[tuple[str, bool], list[Record]] = {}
    configs = [_options(record.config) for record in records if "given" not in record.config]
    for record in records:
        alike.setdefault((label(record), "given" in record.config), []).append(record)
    by_record: dict[int, str] = {}
    for group in alike.values():
        options = [_options(record.config) for record in group]
        keys = _differing_keys(options)
        for record, its_options in zip(group, options, strict=True):
            asked = keys
            if "given" in record.config:  # beside jobs that came to a config, too
                asked = [key for key in its_options if key in keys or _is_not_in_all(key, its_options[key], configs)]
            by_record[id(record)] = _in_words(its_options, asked)
    return by_record


def _differing_keys(options: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for each in options for key in each)
    return [key for key in keys if len({str(each.get(key)) for each in options}) > 1]


def _is_not_in_all(key: str, value: str, configs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a word that a job was given is not what each of the configs says; names of groups tell the label."""
    if "." not in key:
        return False
    section, _, rest = key.partition(".")
    said = [config.get(key, config.get(f"{section}.options.{rest}")) for config in configs]
    return any(_alike(value) != _alike(_word(one)) for one in said)


def _alike(word: str) -> str | float:
    """`1e-3` as 0.001 is written in a config, and `null` as None."""
    try:
        return float(word)
    except ValueError:
        return {"None": "null"}.get(word, word).replace(" ", "")


def _in_words(options: Mapping[str, Any], keys: Sequence[str]) -> str:
    """`rank=4 pruning=none`; options of a section that is switched off by `name: none` are left out."""
    off = tuple(key.removesuffix("name") for key, value in options.items() if key.endswith(".name") and value == "none")
    words = []
    for key in keys:
        value = options.get(key)
        if value is None or (key.startswith(off) and not key.endswith(".name")):
            continue
        words.append(f"{key.removesuffix('.name').removeprefix('method.options.')}={_word(value)}")
    return " ".join(words)


def _word(value: Any) -> str:
    """As it is given on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _options(config: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted key."""
    if "given" in config:
        return {word.partition("=")[0]: word.partition("=")[2] for word in config["given"]}
    options = dict(_flat({key: value for key, value in config.items() if key not in _PLACES}))
    for key in _TASKS_OF_DATA:
        options.pop(key, None)
    if not options.get("task.path"):  # older records do not have the empty one
        options.pop("task.path", None)
    return options


def _flat(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(values, dict):
        return [(prefix.rstrip("."), values)]
    return [pair for name, value in values.items() for pair in _flat(value, f"{prefix}{name}.")]
