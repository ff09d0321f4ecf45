"""What is done to overrides before Hydra sees them: globs over nested groups, aliases, quotes, and clear mistakes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from peftbench.common.config_files import elsewhere, groups, names, roots
from peftbench.common.errors import UserError, nearest
from peftbench.common.other_words import ABSENT
from peftbench.common.terminal import visible
from peftbench.common.vtab_tasks import ALIASES
from peftbench.common.yaml_text import DEEPEST
from peftbench.config import MAY_BE_NULL, SECTIONS, TOP
from peftbench.config.foreign_yaml import refuse_endless_yaml
from peftbench.config.logger_schema import OLD_KEYS
from peftbench.config.messages import shown, text_hint
from peftbench.config.near_keys import known_keys, near_key_hint
from peftbench.config.plain_text import quoted, value_read

_IN_LIST = r"[^\[\],\s]+"
_OLD_RECIPES = re.compile(
    r"experiment=(glob\(vtab1k/(?P<pattern>[^,()]+)\)|(?P<names>vtab1k/[^,()]+(,vtab1k/[^,()]+)*))"
)


def prepare(overrides: Sequence[str], folders: Sequence[Path] | None = None, sweep: bool = False) -> list[str]:
    """The overrides with `group=glob(…)` expanded (Hydra 1.3 does not reach nested groups), aliases resolved, and plain
    text quoted that Hydra's grammar has no place for, such as `~/photos`.

    Args:
        folders: where configs are read from; by default peftbench's own, and those of `hydra.searchpath=…`.
        sweep: whether a key may have several values.

    Raises:
        UserError: an unknown group, a choice that does not exist, or a glob that matches nothing.
    """
    for override in overrides:
        _refuse_unreadable(override)
    overrides = [_key_of_tracker(_tasks_of_data(override), sweep) for override in overrides]
    folders = roots(overrides) if folders is None else folders
    refuse_endless_yaml(folders, overrides)
    overrides = _recipe_and_method(overrides, folders)
    known_groups = groups(folders)
    for override in overrides:
        _refuse_unknown_key(override, overrides, folders, known_groups)
    return [_prepared(override, folders, known_groups, sweep) for override in overrides]


def _refuse_unreadable(override: str) -> None:
    """Raises UserError for what Hydra's parser ends at in other ways than by an error of its own."""
    if "\0" in override:
        raise UserError(f"{visible(override)}: holds a NUL character, which no name and no path has.")
    if digits := re.search(r"\d{400,}", override):
        raise UserError(f"{override}: holds a number of {len(digits[0]):,} digits; expected one to compute with.")
    depth = deepest = 0
    for character in override:
        depth += (character in "[{(") - (character in "]})")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise UserError(f"{override}: is nested {deepest:,} levels deep; expected at most {DEEPEST}.")


def _tasks_of_data(override: str) -> str:
    """`data.task=x`, as a data set had one task once, as `data.tasks=[x]`."""
    key, sign, value = override.partition("=")
    return f"data.tasks=[{value}]" if sign and key == "data.task" else override


def _key_of_tracker(override: str, sweep: bool) -> str:
    """`logger.project=x`, as there was one tracker once, as `logger.wandb.project=x`; `logger.name=x` as `logger=x`."""
    key, sign, value = override.partition("=")
    plain = key.lstrip("+")
    marks, name = key.removesuffix(plain), plain.removeprefix("logger.")
    if not sign or plain == name:
        return override
    if name == "name":
        return f"logger={value}"
    if name not in OLD_KEYS or not readable(quoted(override, sweep)):  # an unreadable word is told as it was given
        return override
    return f"{marks}logger.wandb.{name}={value}"


def readable(word: str) -> bool:
    """Whether Hydra can read an override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _recipe_and_method(arguments: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """`experiment=vtab1k/lora`, as there was a recipe for each method once, as `experiment=vtab1k method=lora`.

    A method that is given besides wins, as it did over the recipe's.

    Raises:
        UserError: the recipe was of no method, or it stands among others in a list.
    """
    words: list[str] = []
    for argument in arguments:
        old = _OLD_RECIPES.fullmatch(argument)
        if old is None and argument.startswith("experiment=") and "vtab1k/" in argument:
            raise UserError(f"{argument}: one recipe of VTAB-1k serves all methods; give experiment=vtab1k method=….")
        if old is None:
            words.append(argument)
            continue
        words.append("experiment=vtab1k")
        for recipe in old["names"].split(",") if old["names"] else ():
            _resolved("method", recipe.removeprefix("vtab1k/"), names("method", folders))
        if not any(a.startswith("method=") for a in arguments):
            pattern = old["pattern"]
            words.append(f"method=glob({pattern})" if pattern else f"method={old['names'].replace('vtab1k/', '')}")
    return words


def _refuse_unknown_key(
    override: str, overrides: Sequence[str], folders: Sequence[Path], known_groups: list[str]
) -> None:
    """Refuses a word that is no key=value, and a plain key that is neither a group nor a key of train.yaml."""
    key, sign, value = override.partition("=")
    group = key.lstrip("+~").partition("@")[0]
    if not group:
        raise UserError(f"'{override}': names no key; expected key=value, such as method=lora.")
    if group in known_groups or group.startswith("hydra/"):
        if group in SECTIONS and key == f"~{group}":
            raise _needed(override, group, names(group, folders))
        chosen_by_file = key == group and group in known_groups  # which tells the names there are
        if not chosen_by_file and isinstance(value_read(value), int | float | dict):
            raise UserError(f"{override}: expected the name of a {group}, not {value}; see peftbench list.")
    if not sign and not override.startswith("~"):
        raise UserError(f"'{override}': expected key=value, such as method=lora.")
    name = key.replace("-", "_")
    if sign and name.isidentifier() and key not in (*known_groups, *TOP, "hydra"):
        hint = near_key_hint(key, known_keys(overrides, folders))
        raise UserError(f"{key}: there is no such key{hint}; see peftbench --help.")


def _prepared(override: str, folders: Sequence[Path], known_groups: list[str], sweep: bool) -> str:
    key, sign, value = override.partition("=")
    group = key.lstrip("+")
    if TOP.get(key) is str and (
        (value == "null" and key not in MAY_BE_NULL) or isinstance(value_read(value), int | float | list | dict)
    ):
        read = value_read(value)
        raise UserError(f"{key}={shown(read)}: expected a string{text_hint(key, read)}.")
    if not sign or group not in known_groups:
        return quoted(override, sweep)
    choices = names(group, folders)
    if "glob(" in value:
        return f"{key}={','.join(_matching(group, value, choices))}"
    if value == "null" and group in SECTIONS:
        raise _needed(override, group, choices)
    if value.startswith("[") and not set("$'\"(") & set(value):
        return f"{key}={re.sub(_IN_LIST, lambda name: _resolved(group, name[0], choices), value)}"
    if value.startswith("[") or value in ("null", "~"):
        return override
    chosen = [_resolved(group, v.strip(), choices) for v in _split(value)]
    return f"{key}={','.join(chosen)}"


def _needed(override: str, group: str, choices: dict[str, Path]) -> UserError:
    article = "an" if group.startswith(tuple("aeiou")) else "a"
    return UserError(f"{override}: a run needs {article} {group}; there are {', '.join(choices)}.")


def _split(value: str) -> list[str]:
    if value.startswith("choice(") and value.endswith(")"):
        value = value[len("choice(") : -1]
    return [v for v in value.split(",") if v.strip()] or [value]


def _resolved(group: str, name: str, choices: dict[str, Path]) -> str:
    plain = name.strip("'\"")
    if group == "data":
        family, slash, task = plain.partition("/")
        if slash and family == "vtab":
            plain = f"vtab/{ALIASES.get(task, task)}"
    if plain in choices or plain == "null":
        return plain
    of_images = group == "data" and (plain.startswith(("/", "./", "../", "~")) or os.path.isdir(plain))
    if "(" in plain and not of_images:
        return plain
    hint = nearest(plain, choices, _called_elsewhere(group, choices))
    if group == "backbone":
        hint += f"; for any timm model: backbone=timm backbone.name={plain}"
    if of_images:
        hint = f"; for a folder of images: data=folder data.root={plain}"
    some = ", ".join([c for c in choices if "/" not in c] or list(choices))
    raise UserError(f"{group}={plain}: there is no such {group}{hint}; there are {some}.")


def _called_elsewhere(group: str, choices: dict[str, Path]) -> dict[str, tuple[str, ...]]:
    """What the choices of a group are called in other tools -> the choice; nothing for what peftbench has not."""
    absent: dict[str, tuple[str, ...]] = dict.fromkeys(ABSENT.get(group, "").split(), ())
    return absent | {word: (name,) for name, path in choices.items() for word in elsewhere(path)}


def _matching(group: str, value: str, choices: dict[str, Path]) -> list[str]:
    """The choices that `glob(pattern)`, `glob([a, b])` or `glob(pattern, exclude=…)` name."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"{group}={value}").value()
    except HydraException as problem:
        raise UserError(f"{group}={value}: cannot be read ({str(problem).splitlines()[0]}).") from None
    if not isinstance(parsed, Glob):
        raise UserError(f"{group}={value}: expected glob(pattern) alone, such as {group}=glob(*).")
    included = [name for name in choices if any(fnmatchcase(name, pattern) for pattern in parsed.include)]
    matching = [name for name in included if not any(fnmatchcase(name, pattern) for pattern in parsed.exclude)]
    if not matching:
        raise UserError(f"{group}={value}: matches none of the {len(choices)} there are; see peftbench list.")
    return matching
