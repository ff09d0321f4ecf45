"""Where the tasks of VTAB-1k lie, for the commands that make and check them."""

from __future__ import annotations

import os
from pathlib import Path

from peftbench.cli.arguments import Argument
from peftbench.common.vtab_tasks import TASKS

TASK_WORDS = ("vtab", *(f"vtab/{task}" for task in TASKS))
DIR = Argument("dir", "the folder of the tasks; by default vtab in $PEFTBENCH_DATA, or data", kind="folder")


def data_folder() -> Path:
    """$PEFTBENCH_DATA, or `data`."""
    return Path(os.environ.get("PEFTBENCH_DATA", "data"))


def folder_of_tasks(folder: str | None) -> Path:
    """The folder of the tasks, as a run looks for them: data.root's default."""
    return Path(folder or data_folder() / "vtab").expanduser()


def find_task(root: Path, task: str) -> Path | None:
    """The folder of a task below `root`, not `root` itself."""
    from peftbench.data.vtab.dataset import find_task_folder

    folder = find_task_folder(root, task)
    return None if folder == root else folder
