"""The list files of a VTAB task: lines of `<path> <label>`, the paths relative to the task's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.regular_files import text_in

FILES = {"train": "train800.txt", "val": "val200.txt", "trainval": "train800val200.txt", "test": "test.txt"}

_LONGEST = 18  # digits of a label; Python makes no number of thousands


@dataclass(frozen=True)
class Listed:
    """What a list file says: names and labels of its good lines, and a sentence for each of the others."""

    path: Path
    names: list[str]
    labels: list[int]
    problems: list[str]


def read_list(folder: Path, file: str, classes: int | None) -> Listed:
    """Reads a list; labels must be 0 to classes - 1, or any number from 0 where `classes` is not known.

    Raises:
        UserError: there is no such list, or it is no text.
    """
    path = folder / file
    if not path.is_file():
        raise UserError(f"{path}: is missing; expected the four lists {', '.join(FILES.values())}.")
    try:
        return parse_list(path, text_in(path), classes)
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text; expected lines of '<path> <label>'.") from None


def parse_list(path: Path, text: str, classes: int | None) -> Listed:
    """As `read_list`, of text that was read already."""
    listed = Listed(path, [], [], [])
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        name = name.strip()
        if not name or not label.removeprefix("-").isdecimal() or len(label) > _LONGEST:
            listed.problems.append(f"{path}:{number}: expected '<path> <label>', found '{shortened(line, 80)}'.")
        elif int(label) < 0 or (classes is not None and int(label) >= classes):
            listed.problems.append(f"{path}:{number}: label {label}; expected 0 to {(classes or 0) - 1}.")
        elif "\0" in name:
            listed.problems.append(f"{path}:{number}: holds a NUL character, which no file's name has.")
        elif ".." in Path(name).parts or Path(name).is_absolute():
            listed.problems.append(f"{path}:{number}: {name} leads out of the task's folder.")
        else:
            listed.names.append(name)
            listed.labels.append(int(label))
    return listed
