"""What is done to the command line before Hydra sees it: globs over nested groups, aliases, and clear mistakes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from peftbench.common.errors import UserError, nearest
from peftbench.common.vtab_tasks import ALIASES
from peftbench.config import SECTIONS, TOP
from peftbench.config.groups import groups, names, roots

_TAKES_VALUE = {
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--package",
    "-p",
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
}
_TAKES_VALUE |= {"--config-name", "-cn", "--experimental-rerun", "--shell-completion", "-sc"}
_OLD_RECIPES = re.compile(
    r"experiment=(glob\(vtab1k/(?P<pattern>[^,()]+)\)|(?P<names>vtab1k/[^,()]+(,vtab1k/[^,()]+)*))"
)
_MODES = {"--multirun", "-m", "--run", "-r", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
_OPTIONS = _TAKES_VALUE | _MODES | {"--resolve", "--hydra-help", "--help", "-h", "--version"}


def prepare(arguments: Sequence[str]) -> list[str]:
    """The arguments with `group=glob(…)` expanded (Hydra 1.3 does not reach nested groups) and aliases resolved.

    Raises:
        UserError: an unknown group, a choice that does not exist, or a glob that matches nothing.
    """
    arguments = _recipe_and_method(arguments)
    folders = roots(arguments)
    known = groups(folders)
    _known_keys(arguments, known)
    return [_one(a, folders, known) for a in arguments]


def _recipe_and_method(arguments: Sequence[str]) -> list[str]:
    """`experiment=vtab1k/lora`, as there was a recipe for each method once, as `experiment=vtab1k method=lora`.

    A method that is given besides wins, as it did over the recipe's.
    """
    words: list[str] = []
    for argument in arguments:
        old = _OLD_RECIPES.fullmatch(argument)
        if old is None:
            words.append(argument)
            continue
        words.append("experiment=vtab1k")
        if not any(a.startswith("method=") for a in arguments):
            pattern = old["pattern"]
            words.append(f"method=glob({pattern})" if pattern else f"method={old['names'].replace('vtab1k/', '')}")
    return words


def options_first(words: Sequence[str]) -> list[str]:
    """Options, such as `-m`, before all overrides: argparse takes overrides in one piece only.

    Raises:
        UserError: an option that is not there, or two of which each asks for something else.
    """
    options: list[str] = []
    others: list[str] = []
    modes: list[str] = []
    value_follows = False
    for word in words:
        option, name = word.startswith("-") and not value_follows, word.partition("=")[0]
        if option and name not in _OPTIONS:
            known = [o for o in _OPTIONS if o.startswith("--")]
            raise UserError(f"{name}: there is no such option{nearest(name, known)}; see peftbench --help.")
        modes += [name] * (option and name in _MODES)
        (options if option or value_follows else others).append(word)
        value_follows = option and word in _TAKES_VALUE
    if len({m.lstrip("-")[0] for m in modes}) > 1:  # short for the same have the same letter
        raise UserError(f"{' '.join(modes)}: each asks for something else; give one of them.")
    return [*options, *others]


def _known_keys(arguments: Sequence[str], known: list[str]) -> None:
    """Refuses words that are no key=value, and plain keys that are neither a group nor a key of train.yaml."""
    value_follows = False
    for argument in arguments:
        if argument.startswith("-") or value_follows:
            value_follows = argument in _TAKES_VALUE
            continue
        key, sign, _ = argument.partition("=")
        if not sign and not argument.startswith("~"):
            raise UserError(f"'{argument}': expected key=value, such as method=lora.")
        if sign and key.isidentifier() and key not in known and key not in TOP and key != "hydra":
            raise UserError(f"{key}: there is no such key{nearest(key, [*known, *TOP])}; see peftbench --help.")


def _one(argument: str, folders: list[Path], known: list[str]) -> str:
    key, sign, value = argument.partition("=")
    group = key.lstrip("+")
    if not sign or argument.startswith("-") or group not in known:
        return argument
    choices = names(group, folders)
    if "glob(" in value:
        return f"{key}={','.join(_expand(group, value, choices))}"
    if value == "null" and group in SECTIONS:
        raise UserError(f"{argument}: a run needs a {group}; there are {', '.join(choices)}.")
    if value.startswith("[") or value in ("null", "~"):
        return argument
    chosen = [_resolve(group, v.strip(), choices) for v in _split(value)]
    return f"{key}={','.join(chosen)}"


def _split(value: str) -> list[str]:
    if value.startswith("choice(") and value.endswith(")"):
        value = value[len("choice(") : -1]
    return [v for v in value.split(",") if v.strip()] or [value]


def _resolve(group: str, name: str, choices: dict[str, Path]) -> str:
    plain = name.strip("'\"")
    if group == "data":
        family, slash, task = plain.partition("/")
        if slash and family == "vtab":
            plain = f"vtab/{ALIASES.get(task, task)}"
    if plain in choices or "(" in plain or plain == "null":
        return plain
    hint = nearest(plain, choices)
    if group == "backbone" and not hint:
        hint = f"; for any timm model: backbone=timm backbone.name={plain}"
    some = ", ".join([c for c in choices if "/" not in c] or list(choices))
    raise UserError(f"{group}={plain}: there is no such {group}{hint}; there are {some}.")


def _expand(group: str, value: str, choices: dict[str, Path]) -> list[str]:
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
    found = [
        name
        for name in choices
        if any(fnmatchcase(name, p) for p in parsed.include) and not any(fnmatchcase(name, p) for p in parsed.exclude)
    ]
    if not found:
        raise UserError(f"{group}={value}: matches none of the {len(choices)} there are; see peftbench list.")
    return found
