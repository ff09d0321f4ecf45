"""The words of the command line that give a config again."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.common.errors import UserError
from peftbench.config.compose import compose
from peftbench.config.identity import identity
from peftbench.config.schema import Config

_FIRST = ("method", "backbone", "data")  # of the groups, in the order in which people write them
_NOT_WRITTEN = ("choices", "protocol", "force", "page")
_PLAIN = re.compile(r"[\w./:%+-]+", re.ASCII)


def repeating_words(config: Config) -> list[str]:
    """The command that repeats a run of this config, quoted for a shell, word by word; empty where none does.

    Each word is needed: it chooses a YAML, or sets a key that has another value without it. The command is composed
    and compared: where it does not give the same run (a YAML of one's own is not there, say), there is none.
    """
    chosen = {group: choice for group, choice in config.choices.items() if hasattr(config, group)}
    wanted = _flat(config)
    words = [f"{group}={_written(chosen[group])}" for group in _FIRST if group in chosen]
    try:
        shortest = _composed(words, wanted)[0]
        others = [group for group in chosen if group not in _FIRST and chosen[group] != shortest.choices.get(group)]
        words += [f"{group}={_written(chosen[group])}" for group in others]
        with_needed, needed = _composed(words, wanted)
        base = _flat(with_needed)
        words += needed
        words += [f"{key}={_written(value)}" for key, value in wanted.items() if base.get(key, ...) != value]
        if identity(compose(*words)) != identity(config):
            return []
    except UserError:
        return []
    return ["peftbench", *map(_quoted, words)]


def _composed(words: Sequence[str], wanted: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """The config of some choices, and the words for keys that need a value: the wanted one. Raises UserError."""
    given: dict[str, str] = {}
    while True:
        try:
            return compose(*words, *given.values()), list(given.values())
        except UserError as problem:
            key = str(problem).partition(": needs a value")[0]
            if key not in wanted or key in given:
                raise
            given[key] = f"{key}={_written(wanted[key])}"


def _flat(config: Config) -> dict[str, Any]:
    """Key -> value, as the command line calls them."""
    values = dataclasses.replace(config, protocol={}).to_dict()
    flat: dict[str, Any] = {}
    for section, content in values.items():
        if section in _NOT_WRITTEN:
            continue
        if not isinstance(content, Mapping):
            flat[section] = content
            continue
        options = content.get("options")
        plain = {**content, **(options if isinstance(options, Mapping) and section in ("method", "data") else {})}
        for key, value in plain.items():
            if key not in ("path", "tasks", "options" if section in ("method", "data") else ""):
                flat[f"{section}.{key}"] = value
    return flat


def _written(value: Any) -> str:
    """A value as Hydra's grammar has it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_written(k)}:{_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and not _is_other(value):
        return value
    return "'" + value.replace("\\'", "\\\\'").replace("'", "\\'") + "'"


def _is_other(text: str) -> bool:
    """Whether Hydra would read a number, true, null or the like."""
    if text.lower() in ("true", "false", "null", "nan", "inf", "-inf", "+inf"):
        return True
    try:
        float(text.replace("_", ""))
    except ValueError:
        return False
    return True


def _quoted(word: str) -> str:
    """The word as a shell takes it: in double quotes where it holds single ones, if nothing in it is special there."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)
