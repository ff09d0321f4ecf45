"""The 19 tasks of VTAB-1k (Zhai et al., 2019, arXiv 1910.04867), read from the layout that PETL repositories share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftbench.data.base import DataSet, Split, Splits
from peftbench.errors import UserError
from peftbench.vtab import ALIASES

_LISTS = {"train": "train800.txt", "val": "val200.txt", "trainval": "train800val200.txt", "test": "test.txt"}


@dataclass(frozen=True)
class Vtab(DataSet):
    """One task: four list files whose lines are `images/<split>/000000.jpg <label>`.

    The task's folder is looked for in `root` under its name and its aliases. `root` may be the folder itself, whatever
    it is called; its labels must then be exactly those of the task, so that no other task's images pass for it.
    """

    task_name: str
    classes: int
    root: str = "data/vtab"

    def load(self) -> Splits:
        folder = self._folder()
        splits = {role: _read(folder, file, self.classes) for role, file in _LISTS.items()}
        if folder == Path(self.root).expanduser() and folder.name not in self._names():
            found = {int(label) for split in splits.values() for label in split.labels}
            if found != set(range(self.classes)):
                raise UserError(
                    f"data.root={self.root}: holds {len(found)} of the {self.classes} labels of vtab/{self.task_name}, "
                    f"so it looks like another task; name the folder {self.task_name} if it is not."
                )
        return Splits(f"vtab/{self.task_name}", _class_names(folder, self.classes), **splits)

    def _names(self) -> tuple[str, ...]:
        return self.task_name, *(alias for alias, name in ALIASES.items() if name == self.task_name)

    def _folder(self) -> Path:
        root = Path(self.root).expanduser()
        for folder in (root, *(root / name for name in self._names())):
            if (folder / _LISTS["train"]).is_file():
                return folder
        raise UserError(
            f"data=vtab/{self.task_name}: {_LISTS['train']} was looked for in {root.absolute()} and its folder "
            f"{self.task_name} and is not there; put the task's folder (four lists and images/) there, or give "
            f"data.root=<folder of the tasks>."
        )


def _read(folder: Path, file: str, classes: int) -> Split:
    path = folder / file
    if not path.is_file():
        raise UserError(f"{path}: is missing; expected the four lists {', '.join(_LISTS.values())}.")
    names, labels = [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text; expected lines of '<path> <label>'.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.removeprefix("-").isdecimal():
            raise UserError(f"{path}:{number}: expected '<path> <label>', found '{line[:80]}'.")
        if not 0 <= int(label) < classes:
            raise UserError(f"{path}:{number}: label {label}; expected 0 to {classes - 1}.")
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise UserError(f"{path}:{number}: {name} leads out of the task's folder.")
        names.append(name)
        labels.append(int(label))
    missing = [n for n in names if not (folder / n).is_file()]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of its {len(names)} images are missing, such as {folder / missing[0]}."
        )
    return Split([folder / n for n in names], np.array(labels, dtype=np.int64), names)


def _class_names(folder: Path, classes: int) -> tuple[str, ...]:
    file = folder / "classes.txt"
    names = file.read_text().split("\n") if file.is_file() else []
    names = [n.strip() for n in names if n.strip()]
    return tuple(names) if len(names) == classes else tuple(str(i) for i in range(classes))
