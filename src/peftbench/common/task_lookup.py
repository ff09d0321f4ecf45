"""The one look-up against the direction of imports: `config` and `results` find what a task says of itself.

A task is a package, such as `peftbench.tasks.detection`. Its module `schema` is free of torch and says what the task's
section may hold and how its results are shown; the module `task` beside it is the network.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from peftbench.common.errors import UserError

_PACKAGE = "peftbench.tasks"


@cache
def shipped_tasks() -> dict[str, str]:
    """Name -> import path of the tasks that peftbench ships: the packages in `tasks/` that have a schema."""
    folder = Path(__file__).parents[1] / "tasks"
    return {path.parent.name: f"{_PACKAGE}.{path.parent.name}" for path in sorted(folder.glob("*/schema.py"))}


def task_module(path: str, name: str, key: str = "task.path") -> ModuleType:
    """The module `name` of the task package at the import path `path`; `key` names the config key in messages.

    Raises:
        UserError: there is no such package, or it has no such module.
    """
    missing = path
    if all(part.isidentifier() for part in path.split(".")):
        try:
            return importlib.import_module(f"{path}.{name}")
        except ModuleNotFoundError as problem:
            missing = str(problem.name)
            if not f"{path}.{name}".startswith(missing):  # something that the task itself imports
                raise
    raise UserError(
        f"{key}={path}: {missing} is no module that can be imported; expected the import path of a package "
        f"with schema.py and task.py, such as {_PACKAGE}.classification."
    )
