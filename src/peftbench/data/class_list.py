"""The classes of masks, as a file names them: a name a line, or a CSV with the values or colours of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.text_files import table_of, text_of
from peftbench.data.masks import IGNORED, MOST, Coding, Colour

FILES = ("classes.csv", "classes.txt")
"""Where they are looked for."""
NO_CLASS = "ignored"
"""The name of a row whose value or colour stands for no class."""
_COLOURS = ("r", "g", "b")


def coding_of_values(names: Sequence[str], ignored: Sequence[int] = (IGNORED,)) -> Coding:
    """That of masks whose values are the places of the names."""
    return Coding({i: i for i in range(len(names))} | dict.fromkeys(ignored, IGNORED), len(names))


def read_classes(file: Path, ignored: Sequence[int]) -> tuple[tuple[str, ...], Coding]:
    """The names of the classes of a file, in its order, and what masks hold for them.

    Args:
        file: a text with a name a line; or a CSV with the column name and, if you like, value (the row's place, where
            there is none), or r, g and b. A row called `ignored` is no class.
        ignored: values of masks that stand for no class.

    Raises:
        UserError: no text, a name, value or colour twice, or what is no number.
    """
    text = text_of(file)
    if file.suffix.lower() == ".csv":
        return _of_table(text, file, ignored)
    names = [line.strip() for line in text.splitlines() if line.strip()]
    _refuse_names(names, file)
    return tuple(names), coding_of_values(names, ignored)


def _of_table(text: str, file: Path, ignored: Sequence[int]) -> tuple[tuple[str, ...], Coding]:
    with table_of(file, text, trimmed=True) as table:
        columns = {(column or "").strip().lower(): column for column in table.fieldnames or ()}
        if "name" not in columns:
            raise UserError(f"{file}: expected the column name, found {', '.join(columns) or 'nothing'}.")
        rows = [({key: (row.get(c) or "").strip() for key, c in columns.items()}, table.line_num) for row in table]
    coloured = set(_COLOURS) <= set(columns)
    if not coloured and set(_COLOURS) & set(columns):
        raise UserError(f"{file}: has some of the columns r, g and b; expected all of them, or none.")
    names: list[str] = []
    values: dict[int, int] = {}
    colours: dict[Colour, int] = {}
    for row, line in rows:
        place = f"{file}:{line}"
        if not row["name"]:
            raise UserError(f"{place}: expected the name of a class.")
        no_class = row["name"].lower() == NO_CLASS
        class_ = IGNORED if no_class else len(names)
        if "value" in columns or not (no_class or coloured):
            value = _number(row["value"], place, 65535) if "value" in columns else class_
            if value in values:
                raise UserError(f"{place}: the value {value} stands for two rows; expected one each.")
            values[value] = class_
        if coloured:
            red, green, blue = (_number(row[key], place, 255) for key in _COLOURS)
            if (red, green, blue) in colours:
                raise UserError(f"{place}: the colour ({red}, {green}, {blue}) stands for two rows; expected one each.")
            colours[red, green, blue] = class_
        if not no_class:
            names.append(row["name"])
    _refuse_names(names, file)
    if coloured and "value" not in columns:
        values = {i: i for i in range(len(names))}
    known: Mapping[int, int] = {value: IGNORED for value in ignored if value not in values}
    return tuple(names), Coding({**values, **known}, len(names), colours)


def _number(text: str, place: str, most: int) -> int:
    if not text.isdecimal() or int(text) > most:
        raise UserError(f"{place}: '{text}' is no whole number from 0 to {most}.")
    return int(text)


def _refuse_names(names: Sequence[str], file: Path) -> None:
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise UserError(f"{file}: names the class '{twice}' twice; expected different names.")
    if not 2 <= len(names) <= MOST:
        raise UserError(f"{file}: names {len(names)} classes; expected 2 to {MOST}.")
