"""The 19 tasks of VTAB-1k (Zhai et al., 2019, arXiv 1910.04867), read from the layout that PETL repositories share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.amounts import agreeing
from peftbench.common.errors import UserError
from peftbench.common.regular_files import text_in
from peftbench.common.vtab_tasks import TASKS, spellings
from peftbench.data.base import DataMissing, DataSet, Split, Splits
from peftbench.data.vtab import list_files, provenance


@dataclass(frozen=True)
class Vtab(DataSet):
    """One task: four list files whose lines are `images/<split>/000000.jpg <label>`.

    The task's folder is looked for in `root` under its name and its aliases. `root` may be the folder itself, whatever
    it is called; its labels must then be exactly those of the task, so that no other task's images pass for it.
    A split that peftbench made bears its name after the task's: `vtab/cifar@peftbench-v1`.
    """

    places: ClassVar[tuple[str, ...]] = ("root",)

    task_name: str
    classes: int
    root: str = "data/vtab"

    def load(self) -> Splits:
        folder = self._folder()
        splits = {role: _read(folder, file, self.classes) for role, file in list_files.FILES.items()}
        if folder == Path(os.path.expanduser(self.root)) and folder.name not in spellings(self.task_name):
            labels = {int(label) for split in splits.values() for label in split.labels}
            if labels != set(range(self.classes)):
                raise UserError(
                    f"data.root={self.root}: holds {len(labels)} of the {self.classes} labels of "
                    f"vtab/{self.task_name}, so it looks like another task; "
                    f"name the folder {self.task_name} if it is not."
                )
        made = provenance.read_provenance(folder)
        name = f"vtab/{self.task_name}"
        if made and made.split != provenance.ADOPTED:
            name += f"@{made.split}"
        kinds = sorted({Path(n).suffix.removeprefix(".") for split in splits.values() for n in split.names})
        source = f"{made.source if made else 'as found'}; {', '.join(kinds)}"
        train, val, test, both = (splits[role] for role in ("train", "val", "test", "trainval"))
        return Splits(name, _class_names(folder, self.classes), train, val, test, both, source)

    def outline(self) -> Splits | None:
        """The sizes of the published protocol: 800 images to train on, 200 to validate, and the test set."""
        train, val, both, test = (
            _unread(images, self.classes) for images in (800, 200, 1000, TASKS[self.task_name].test[0])
        )
        return Splits(f"vtab/{self.task_name}", tuple(map(str, range(self.classes))), train, val, test, both)

    def _folder(self) -> Path:
        root = Path(os.path.expanduser(self.root))
        folder = find_task_folder(root, self.task_name)
        if folder is None and not root.is_dir():  # which all tasks lack: one sentence for a sweep over them
            raise DataMissing(
                f"data=vtab/…: there is no folder {root.absolute()}, where the tasks of VTAB-1k are looked for; make "
                f"them with peftbench data prepare vtab, or give data.root=<folder of the tasks>."
            )
        if folder is None:
            raise DataMissing(
                f"data=vtab/{self.task_name}: {list_files.FILES['train']} was looked for in {root.absolute()} and its "
                f"folder {self.task_name} and is not there; put the task's folder (four lists and images/) there, "
                f"make it with peftbench data prepare vtab/{self.task_name}, or give data.root=<folder of the tasks>."
            )
        return folder


def find_task_folder(root: Path, task: str) -> Path | None:
    """The folder of a task: `root` itself, or its folder of one of the task's names."""
    for folder in (root, *(root / name for name in spellings(task))):
        if (folder / list_files.FILES["train"]).is_file():
            return folder
    return None


def _read(folder: Path, file: str, classes: int) -> Split:
    listed = list_files.read_list(folder, file, classes)
    if listed.problems:
        raise UserError(listed.problems[0])
    missing = [n for n in listed.names if not (folder / n).is_file()]
    if missing:
        raise DataMissing(
            f"{listed.path}: {len(missing)} of its {len(listed.names)} images {agreeing(len(missing))} missing, "
            f"such as {folder / missing[0]}."
        )
    return Split([folder / n for n in listed.names], np.array(listed.labels, dtype=np.int64), listed.names)


def _unread(images: int, classes: int) -> Split:
    return Split([Path()] * images, np.arange(images) % classes, [""] * images)


def _class_names(folder: Path, classes: int) -> tuple[str, ...]:
    file = folder / "classes.txt"
    names = text_in(file).split("\n") if file.is_file() else []
    names = [n.strip() for n in names if n.strip()]
    return tuple(names) if len(names) == classes else tuple(str(i) for i in range(classes))
