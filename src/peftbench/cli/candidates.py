"""What the last of some words may become: verbs, arguments, config groups and their names, keys, files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from peftbench.cli.arguments import Argument, Command, CommandGroup
from peftbench.cli.hydra_options import HYDRA_OPTIONS, hydra_option, is_value
from peftbench.cli.parser import find_argument
from peftbench.cli.verbs import VERBS, command_of, split_verb
from peftbench.common.config_files import groups, names, roots

_RECORD = "result.json"


def candidates(words: Sequence[str]) -> list[str]:
    """The words that the last one, which may be empty, can be completed to."""
    *before, current = [_unquoted(word) for word in words] or [""]
    verb, others = split_verb(before)
    if verb in VERBS:
        offered = _of_verb(command_of(verb), others, current)
    elif is_value([*before, current], len(before)):
        offered = _of_hydra_value(before[-1], current)
    else:
        offered = _of_run(before, current)
        if not verb:
            offered = [*VERBS, *offered]
    return sorted({word for word in offered if word.startswith(current)}, key=lambda word: ("/" in word, word))


def _unquoted(word: str) -> str:
    """A word as the shell would hand it on, roughly: without an opening quote and backslashes."""
    quote = word[:1] if word[:1] in ("'", '"') else ""
    return word.strip(quote) if quote else word.replace("\\", "")


def _of_verb(command: Command | CommandGroup, before: list[str], current: str) -> list[str]:
    if isinstance(command, CommandGroup):
        if not before:
            return [c.name.split()[-1] for c in command.commands]
        command, before = command.choose(before)
    arguments = command.shown_arguments()
    if before and "=" not in before[-1]:
        argument, _ = find_argument(command, before[-1])
        if argument is not None and argument.kind != "flag":
            return _values(argument, current)
    argument, value = find_argument(command, current)
    if argument is not None and value is not None:
        key = current[: len(current) - len(value)]
        return [key + word for word in _values(argument, value)]
    dashes = "--" if current.startswith("-") else ""
    named = [a for a in arguments if not a.place and (dashes or not a.short)]
    offered = [_key(a, dashes) for a in named]
    if dashes:
        return [*offered, "--help"]
    for place in [a for a in arguments if a.place]:
        offered += _values(place, current)
    if command.takes_overrides:
        offered += _of_run(before, current)
    return offered


def _key(argument: Argument, dashes: str) -> str:
    name = argument.name.replace("_", "-") if dashes else argument.name
    if dashes and argument.kind == "flag":
        return f"{dashes}{name}"
    return f"{dashes}{name}="


def _values(argument: Argument, start: str) -> list[str]:
    """What the value of an argument may be."""
    listed = [*argument.choices, *argument.suggestions]
    if argument.kind == "flag":
        return ["true", "false"]
    if argument.kind == "run":
        return [*listed, *_run_folders(start)]
    if argument.kind in ("file", "folder"):
        return [*listed, *paths(start, files=argument.kind == "file")]
    return listed


def _of_hydra_value(option_word: str, current: str) -> list[str]:
    option = hydra_option(option_word)
    if option is None:
        return []
    if option.name in ("--config-dir", "--config-path"):
        return paths(current, files=False)
    return list(option.values)


def _of_run(before: Sequence[str], current: str) -> list[str]:
    """Overrides of a run, and Hydra's flags."""
    if current.startswith("-"):
        return [option.name for option in HYDRA_OPTIONS]
    sign = current[:1] if current[:1] in ("+", "~") else ""
    folders = roots(before)
    key, equals, value = current[len(sign) :].partition("=")
    known_groups = [*groups(folders), "hydra/launcher", "hydra/sweeper"]
    if equals and key in known_groups:
        done, comma, _ = value.rpartition(",")  # of several values, for a sweep
        return [f"{sign}{key}={done}{comma}{name}" for name in names(key, folders)]

    from peftbench.cli.config_keys import config_keys, may_be_path, possible_values

    keys = config_keys(before, folders)
    if equals and key in keys:
        values = possible_values(keys[key]) or (paths(value) if may_be_path(keys[key]) else [])
        return [f"{sign}{key}={word}" for word in values]
    end = "" if sign == "~" else "="
    if "." in key:
        return [f"{sign}{name}{end}" for name in keys]
    first_parts = {name.partition(".")[0] + "." for name in keys if "." in name}
    plain = [f"{name}{end}" for name in (*known_groups, *(name for name in keys if "." not in name)) if name != "hydra"]
    return [f"{sign}{word}" for word in (*plain, *(sorted(first_parts) if key else ()))]


def paths(start: str, files: bool = True) -> list[str]:
    """The folders, with a slash at the end, and files that a path may become; hidden ones where a dot is written."""
    folder, name = os.path.split(start)
    try:
        entries = list(os.scandir(os.path.expanduser(folder) or "."))
    except OSError:
        return []
    prefix = start[: len(start) - len(name)]
    return [prefix + word for word in _entry_words(entries, files) if word.startswith(".") == name.startswith(".")]


def _entry_words(entries: Iterable[os.DirEntry[str]], files: bool) -> list[str]:
    words = []
    for entry in entries:
        if entry.is_dir():
            words.append(f"{entry.name}/")
        elif files:
            words.append(entry.name)
    return words


def _run_folders(start: str) -> list[str]:
    """The folders of runs that a path may become; where there is none, folders."""
    folders = [path for path in paths(start, files=False) if path.startswith(start)]
    runs = [path for path in folders if (Path(path).expanduser() / _RECORD).is_file()]
    return [path.rstrip("/") for path in runs] or folders
