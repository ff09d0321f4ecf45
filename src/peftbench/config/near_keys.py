"""The key, at any depth, that a wrong one most likely means: by its ending, by other tools' words, by its letters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from peftbench.common.errors import suggested
from peftbench.common.near_names import nearest_name, plainly
from peftbench.common.other_words import KEYS

_ORDER = ("optimizer", "trainer", "data", "task", "backbone", "method", "taps", "pruning", "logger", "costs", "sweep")


def near_key_hint(key: str, known: Iterable[str]) -> str:
    """`` (did you mean 'trainer.epochs'?)`` where one of the known keys is likely meant, else an empty string."""
    return suggested(near_key(key, known))


def near_key(key: str, known: Iterable[str]) -> str | None:
    """The known key that is most likely meant by one that is not known."""
    keys = sorted(dict.fromkeys(known), key=_rank)
    plain = plainly(key.lstrip("+~"))
    section, _, last = plain.rpartition(".")
    if section.partition(".")[0] == "hydra":  # whose keys are of no run
        return None
    sections = list(dict.fromkeys(k.partition(".")[0] for k in keys if "." in k))
    at = nearest_name(section, sections) if section else None
    inside = {k.rpartition(".")[2]: k for k in reversed(keys) if at and k.startswith(f"{at}.")}
    if last in inside:
        return inside[last]
    if (same := nearest_name(plain, keys)) and _letters(same) == _letters(plain):
        return same
    if last in KEYS:
        return next((k for k in KEYS[last] if k in keys), None)
    ends = {k.rpartition(".")[2]: k for k in reversed(keys)}
    for names in (inside, ends):
        if last in names or (near := nearest_name(last, names)):
            return names[last] if last in names else names[str(near)]
    return _containing(last, ends)


def undashed_key(option: str, guess: bool = True) -> str:
    """The key that `--option` means: its own name, or where a guess may help the nearest; else an empty string."""
    from peftbench.common.config_files import roots
    from peftbench.config import SECTIONS, TOP

    key = option.removeprefix("--").replace("-", "_")
    if key.partition(".")[0] in (*SECTIONS, *TOP):
        return key
    return near_key(key, known_keys([], roots())) or "" if guess else ""


def known_keys(words: Sequence[str], folders: Iterable[Path]) -> list[str]:
    """Every key of the config that the choices among the words give, and the groups; none where they give no config."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from peftbench.common.config_files import CONFIGS, groups, names
    from peftbench.config.own_hydra import own_hydra

    folders = list(folders)
    known_groups = groups(folders)
    choices = {}
    for group, _, value in (word.partition("=") for word in words):
        if group not in known_groups:
            continue
        listed = value.partition("]")[0].lstrip("[").split(",") if value.startswith("[") else []
        first = f"[{','.join(listed)}]" if listed else value.split(",")[0]
        if all(choice.strip() in names(group, folders) for choice in listed or [first]):
            choices[group] = f"{group}={first}"
    added = ",".join(f"'file://{folder.absolute().as_posix()}'" for folder in folders if folder != CONFIGS)
    try:
        with own_hydra():
            composed = compose("train", overrides=[f"hydra.searchpath=[{added}]", *choices.values()])
    except (HydraException, OmegaConfBaseException):
        return known_groups
    return [*dict.fromkeys([*dotted_keys(OmegaConf.to_container(composed)), *known_groups])]


def dotted_keys(values: object, prefix: str = "") -> list[str]:
    """The keys of a mapping of mappings, each with those above it; without import paths of classes."""
    if not isinstance(values, dict):
        return [prefix] if prefix.rpartition(".")[2] != "path" else []
    below = [key for name, value in values.items() for key in dotted_keys(value, f"{prefix}.{name}".lstrip("."))]
    return [prefix, *below] if prefix else below


def _rank(key: str) -> tuple[bool, int]:
    section = key.partition(".")[0]
    return "." in key, _ORDER.index(section) if section in _ORDER else len(_ORDER)


def _letters(key: str) -> str:
    return plainly(key).replace("_", "").replace(".", "")


def _containing(last: str, ends: dict[str, str]) -> str | None:
    """The key whose name is a part of a longer one: `head_lr`, `weights_file`; the longest such."""
    inside = [
        name
        for name in ends
        if (last.endswith(f"_{name}") or last.startswith(f"{name}_")) and name not in KEYS and ends[name] not in KEYS
    ]
    return ends[max(inside, key=len)] if inside else None
