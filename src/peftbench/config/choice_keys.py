"""Keys beside the choice that they were given to: it has none of that name, or holds another folder by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from peftbench.common.config_files import CONFIGS, names
from peftbench.common.notes import note
from peftbench.common.regular_files import text_in
from peftbench.common.yaml_text import yaml_of
from peftbench.config.logger_schema import OLD_KEYS
from peftbench.config.schema import Config

_CHOSEN_BY_OTHERS = ("task", "optimizer", "pruning")  # by the data set or the method, where no word chooses them
_SHIPPED = "package:"
_OF_OWN_IMAGES = ("root", "labels", "label_columns", "group")


def lacking_choice(key: str, words: Sequence[str], folders: Sequence[Path]) -> str:
    """``; method=linear has no rank, which lora, losa have``, or an empty string where that is not what is wrong.

    Args:
        key: a key that the composed config has not, such as `method.rank`.
        words: the overrides, with several values of a group in a sweep.
        folders: where configs are read from.
    """
    group, _, below = key.lstrip("+~").partition(".")
    name = below.partition(".")[0]
    if not name:
        return ""
    choices = names(group, folders)
    if group == "logger" and name in choices:
        chosen = [choice for choice in _chosen(group, words) if choice in choices and choice != "none"]
        if name in chosen:
            return ""
        return f"; the logger {name} is not chosen: give logger={_listed([*chosen, name])}"
    having = [choice for choice, path in choices.items() if name in _section(path, group)]
    lacking = [choice for choice in _chosen(group, words) if choice in choices and choice not in having]
    if not having or not lacking:
        return ""
    if group == "data" and name in _OF_OWN_IMAGES and (of_user := _choice_for_own_images(lacking[0], choices)):
        word = next((w for w in words if w.startswith("data.root=")), "data.root=…")
        return f"; data={lacking[0]} has no {name}; for your own images: data={of_user} {word}"
    return f"; {group}={lacking[0]} has no {name}, which {', '.join(having)} {'has' if len(having) == 1 else 'have'}"


def no_choice(word: str, folders: Sequence[Path]) -> str:
    """What to give instead of a null that stands where a YAML is chosen; an empty string for other words.

    Args:
        word: an override, such as `method@protocol.told_by=null`.
        folders: where configs are read from.
    """
    key, _, value = word.partition("=")
    group, _, place = key.lstrip("+").partition("@")
    choices = names(group, folders)
    if value != "null" or not choices:
        return ""
    instead = f", or {place}=null" if place else ""
    return f"{word}: null is no {group}; give one of {', '.join(choices)}{instead}."


def given_key(key: str, words: Sequence[str]) -> str:
    """The key of the word that asks for what is not there, for the tracker that it is below.

    `logger.project` stands for `logger.wandb.project`, and whoever wrote the one has not written the other: both.
    """
    if key.count(".") != 1 or not key.startswith("logger."):
        return key
    below = (word.partition("=")[0].lstrip("+~") for word in words if word.lstrip("+~").startswith(f"{key}."))
    given = next(below, key)
    old = given.removeprefix("logger.wandb.")
    return f"logger.{old} (or {given})" if old in OLD_KEYS and old != given else given


def note_of_own_images(config: Config) -> None:
    """Tells that a data set which peftbench ships is read from a folder of the user's, by rules made for the former."""
    choice, root = config.choices.get("data", ""), config.data.options.get("root")
    choices = names("data", [CONFIGS])
    if not isinstance(root, str) or root.startswith(_SHIPPED) or choice not in choices:
        return
    if str(_section(choices[choice], "data").get("root")).startswith(_SHIPPED):
        of_user = _choice_for_own_images(choice, choices)
        validated = config.data.options.get("val_fraction")
        none = "" if validated else ", and nothing is held out to validate on (data.val_fraction=0)"
        note(
            f"data={choice} data.root={root}: tables call these images '{choice}'{none}; for your own images: "
            f"data={of_user} data.root={root}"
        )


def _chosen(group: str, words: Sequence[str]) -> list[str]:
    """The choices of a group that the words make, or the one of train.yaml."""
    given = [value for key, _, value in (word.partition("=") for word in words) if key == group]
    if given:
        return [choice.strip(" '\"[]") for choice in given[-1].split(",")]
    if group in _CHOSEN_BY_OTHERS or any(word.startswith("experiment=") for word in words):
        return []
    defaults = _mapping(CONFIGS / "train.yaml")["defaults"]
    assert isinstance(defaults, list)
    of_group = [entry[group] for entry in defaults if isinstance(entry, Mapping) and group in entry]
    return [str(one) for choice in of_group for one in (choice if isinstance(choice, list) else [choice])]


def _listed(choices: Sequence[str]) -> str:
    """One choice by its name, several as a list of the command line."""
    return choices[0] if len(choices) == 1 else f"[{','.join(choices)}]"


def _choice_for_own_images(data: str, choices: Mapping[str, Path]) -> str | None:
    """The first data set of the same task whose folder, and nothing else, the user has to give."""
    of_all = {choice: _section(path, "data") for choice, path in choices.items()}
    task = _default_task(of_all[data])
    needs = {choice: [key for key, value in keys.items() if value == "???"] for choice, keys in of_all.items()}
    return next((c for c, keys in of_all.items() if needs[c] == ["root"] and _default_task(keys) == task), None)


def _default_task(keys: Mapping[str, object]) -> object:
    """The task that a data set chooses, or its base for it."""
    tasks = keys.get("tasks") or _mapping(CONFIGS / "data" / "_base.yaml").get("tasks")
    return tasks[0] if isinstance(tasks, list) else None


def _section(path: Path, group: str) -> Mapping[str, object]:
    """What a YAML file says of its own group, whose keys stand in it bare or below the group's name."""
    values = _mapping(path)
    below = values.get(group)
    return below if isinstance(below, Mapping) else values


def _mapping(path: Path) -> Mapping[str, object]:
    """The mapping in a YAML file; an empty one where it holds none."""
    try:
        values = yaml_of(text_in(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return values if isinstance(values, Mapping) else {}
