"""The data.yaml of YOLO's form: where the images are, and the names of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.text_files import text_of
from peftbench.common.yaml_text import yaml_of
from peftbench.data.listing import files_in

_NAMES = ("data.yaml", "data.yml")
_MOST_DIGITS = 9  # of the number of a class


@dataclass(frozen=True)
class DataYaml:
    """What such a file says.

    Attributes:
        content: its keys; every scalar is a text.
        categories: (number, name) of each class, by number.
        points: how many numbers of key points follow each box.
    """

    file: Path
    content: Mapping[str, Any]
    categories: tuple[tuple[int, str], ...]
    points: int


def find_yaml(root: Path) -> Path | None:
    """The file that describes a folder of YOLO's form; None where there is none.

    Raises:
        UserError: several may be it.
    """
    files = [file for file in files_in(root) if file.suffix.lower() in (".yaml", ".yml")]
    for name in _NAMES:
        if root / name in files:
            return root / name
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4]) + (", …" if len(files) > 4 else "")
        raise UserError(f"data.root={root}: holds {names}; expected one of them to be called data.yaml.")
    return files[0] if files else None


def read_yaml(file: Path) -> DataYaml:
    """What a data.yaml says.

    Raises:
        UserError: no YAML, or classes that are wrong; the key is named.
    """
    content = _content(file)
    return DataYaml(file, content, _categories(file, content), _points_of_keys(file, content))


def _content(file: Path) -> dict[str, Any]:
    """The file's mapping, every scalar as text: a class may be called `no` or `1.0`."""
    text = text_of(file)
    try:
        content = yaml_of(text, as_text=True)  # of texts, lists and dicts
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as problem:
        raise UserError(f"{file}: cannot be read as YAML ({' '.join(str(problem).split())}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds {shown(content)}; expected YOLO's keys train, val and names.")
    return content


def _categories(file: Path, content: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    """(number, name) of each class, by number."""
    names, count = content.get("names"), content.get("nc")
    if count is not None and not (_is_whole(count) and 0 < int(count) < 10**6):
        raise UserError(f"{file}: nc is {shown(count)}; expected the number of classes.")
    if names is None and count is not None:
        return tuple((at, f"class_{at}") for at in range(int(count)))
    if isinstance(names, list) and names:
        names = {str(at): name for at, name in enumerate(names)}
    if not isinstance(names, dict) or not names:
        raise UserError(f"{file}: names is {shown(names)}; expected the classes, as a list or by their numbers.")
    for key, name in names.items():
        if not _is_whole(key):
            raise UserError(f"{file}: names holds {shown(key)}; expected the number of a class, 0 or more.")
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{file}: names holds {shown(name)} for {key}; expected the name of a class.")
    categories = {int(key): name.strip() for key, name in names.items()}
    if len(categories) < len(names):
        raise UserError(f"{file}: names gives one class two names; expected each number once.")
    if count is not None and int(count) != len(categories):
        raise UserError(f"{file}: nc is {count}, but names holds {len(categories)}; expected as many names as classes.")
    return tuple(sorted(categories.items()))


def _points_of_keys(file: Path, content: Mapping[str, Any]) -> int:
    """How many numbers of key points follow each box."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(map(_is_whole, shape))):
        raise UserError(f"{file}: kpt_shape is {shown(shape)}; expected [points, 2 or 3].")
    return int(shape[0]) * int(shape[1])


def shown(value: Any) -> str:
    """A value in at most 60 characters; of lists and mappings no more than that, since aliases may make them huge."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return shortened(f"'{value}'", 60) if value else "nothing"


def _is_whole(text: Any) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
