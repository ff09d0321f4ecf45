"""The import path of a class or of a task's package, by the name that YAML files give it.

A run's folder may come from anywhere. What it holds is data: a method is looked up by its name in the YAML files of
peftbench and of the user, and an import path that the folder holds is never followed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peftbench.common.config_files import CONFIGS
from peftbench.common.errors import UserError, nearest
from peftbench.common.regular_files import text_in
from peftbench.common.task_lookup import shipped_tasks


def method_path(name: Any, folders: Iterable[Path] = ()) -> str:
    """The import path of the class of the method called `name`, by peftbench's YAML files or those in `folders`.

    Raises:
        UserError: no YAML is of that method, or one cannot be read.
    """
    return _path("method", name, paths_by_name("method", [CONFIGS, *folders]))


def own_task_path(name: Any, folders: Iterable[Path] = ()) -> str:
    """The import path of the package of the task called `name`; an empty string for one that peftbench ships.

    Raises:
        UserError: as `method_path`.
    """
    if isinstance(name, str) and name in shipped_tasks():
        return ""
    return _path("task", name, paths_by_name("task", folders))


def data_path(name: Any, folders: Iterable[Path] = ()) -> str:
    """The import path of the class of the data set called `name`; an empty string where no YAML is of it.

    A tuned model is used without the data that it was trained on, so that the user's YAML need not be there.

    Raises:
        UserError: a YAML cannot be read.
    """
    return paths_by_name("data", [CONFIGS, *folders]).get(str(name), "")


def paths_by_name(group: str, folders: Iterable[Path]) -> dict[str, str]:
    """Name -> import path, as the YAML files of a group have them; the first file of a name counts.

    Raises:
        UserError: a file cannot be read as YAML.
    """
    paths: dict[str, str] = {}
    files = (file for folder in folders for file in sorted((folder / group).glob("**/*.yaml")))
    for file in files:
        section = _mapping_in(file)
        if isinstance(section.get(group), Mapping):  # under @package _global_
            section = section[group]
        if "name" in section and isinstance(section.get("path"), str):
            paths.setdefault(str(section["name"]), section["path"])
    return paths


def _mapping_in(file: Path) -> Mapping[str, Any]:
    """What a YAML file holds; an empty mapping where it holds another thing. Raises UserError."""
    import yaml

    try:
        state = file.stat()
        return _parsed(file, state.st_mtime_ns, state.st_size)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        why = getattr(problem, "strerror", None) or str(problem).splitlines()[0]
        raise UserError(f"{file}: cannot be read as YAML ({why}).") from None


@functools.lru_cache(maxsize=1024)
def _parsed(file: Path, modified: int, size: int) -> Mapping[str, Any]:
    """As it was then. All files are asked for whenever a run is opened, and a process may open many."""
    from peftbench.common.yaml_text import yaml_of

    content = yaml_of(text_in(file))
    return content if isinstance(content, Mapping) else {}


def _path(group: str, name: Any, paths: Mapping[str, str]) -> str:
    if not isinstance(name, str) or name not in paths:
        raise UserError(
            f"{group}.name={name}: there is no YAML of this {group}{nearest(str(name), paths)}; a {group} of your own "
            f"needs --config-dir DIR, in Python config_dir=DIR."
        )
    return paths[name]
