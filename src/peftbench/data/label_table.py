"""A user's CSV of path and label: what each image is, and its split and group."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from peftbench.common.errors import UserError, nearest
from peftbench.common.foreign_text import shortened
from peftbench.common.readable_names import forms_of
from peftbench.common.text_files import table_of, text_of
from peftbench.data.layout import ALL, ROLES, role_of
from peftbench.data.targets import SEPARATOR, Column

_NO_TEXT = ("true", "false", "null", "nan", "inf")  # to Hydra


class Row(NamedTuple):
    """One image, or clip.

    Attributes:
        path: relative to the root of the set.
        label: its class; or all of its labels, or numbers, in one text.
        line: of the table, 0 where there is none.
        group: what `data.group` names, such as the patient; empty where nothing does.
    """

    path: str
    label: str
    line: int = 0
    group: str = ""


def read_table(
    file: Path, root: Path, kind: str, there: Callable[[Path], bool], group: str | None, target: Column
) -> dict[str, list[Row]]:
    """The rows by role: `all` where no row names a split, else train and the like.

    Args:
        file: the CSV, with the column path, those of `target` and, if you like, split.
        root: what paths are relative to.
        kind: image or clip.
        there: whether a path is that of one.
        group: the column that tells groups, or None.
        target: what the columns say of each image.

    Raises:
        UserError: no text, a column or a value that is missing, an image that is not there, or splits in some rows
            only; the line is named.
    """
    rows_of: dict[str, list[Row]] = {}
    with table_of(file, text_of(file)) as rows:
        columns = rows.fieldnames or ()
        if twice := [column for column in _read_of(columns, group, target) if columns.count(column) > 1]:
            raise UserError(f"{file}: has the column '{twice[0]}' twice; expected each that is read once.")
        if not {"path", *(() if target.columns else ("label",))} <= set(columns):
            wanted = "column path" if target.columns else "columns path and label"
            named = shortened(", ".join(columns or ["nothing"]))
            offered = _offered(rows, columns, group, target)
            raise UserError(f"{file}: expected the {wanted}, found {named}{offered}.")
        if unknown := [column for column in target.columns if column not in columns]:
            raise UserError(
                f"data.label_columns: {file} has no column '{unknown[0]}'{nearest(unknown[0], columns)}; it has "
                f"{', '.join(columns)}."
            )
        if group is not None and group not in columns:
            raise UserError(f"data.group={group}: {file} has no such column; it has {', '.join(columns)}.")
        for row in rows:
            name = (row.get("split") or ALL).strip()
            role = role_of(name) or name.lower()
            if role not in (*ROLES, ALL):
                raise UserError(f"{file}:{rows.line_num}: split '{name.lower()}'; expected train, val or test.")
            path, place = (row["path"] or "").strip(), f"{file}:{rows.line_num}"
            if not path:
                raise UserError(f"{place}: expected a path{'' if target.columns else ' and a label'}.")
            label = target.text(row, place)
            near = next((form for form in forms_of(path) if _is_there(there, root / form)), None)
            if near is None:
                raise UserError(f"{file}:{rows.line_num}: there is no {kind} {shortened(str(root / path), 400)}.")
            member = (row[group] or "").strip() if group is not None else ""
            if group is not None and not member:
                raise UserError(f"{file}:{rows.line_num}: expected a {group}, since data.group={group}.")
            rows_of.setdefault(role, []).append(Row(near, label, rows.line_num, member))
    if not rows_of:
        raise UserError(f"{file}: has no rows.")
    if ALL in rows_of and len(rows_of) > 1:
        raise UserError(f"{file}: some rows name a split and some do not; expected all or none.")
    return rows_of


def _read_of(columns: Sequence[str], group: str | None, target: Column) -> list[str]:
    """Those of a table's columns that are read."""
    wanted = {"path", "split", group, *(target.columns or ("label",))}
    return [column for column in columns if column in wanted]


def _offered(rows: Iterable[Mapping[str, str]], columns: Sequence[str], group: str | None, target: Column) -> str:
    """The words that name the columns of a table without the column label that could hold the targets; or nothing."""
    if "path" not in columns or target.columns:
        return ""
    others = [column for column in columns if column not in ("path", "split", group) and SEPARATOR not in column]
    whole = list(rows)
    fit = [column for column in others if whole and all(target.takes(row.get(column) or "") for row in whole)]
    named = ",".join(map(_as_word, fit))
    return f"; data.label_columns=[{named}] would take a column for each of its {target.plural}" if fit else ""


def _as_word(name: str) -> str:
    """A column as a member of a list on the command line: in quotes where it would be read as something else."""
    if re.fullmatch(r"[A-Za-z_]\w*( \w+)*", name, re.ASCII) and name.lower() not in _NO_TEXT:
        return name
    escaped = name.replace("'", "\\'")
    return f"'{escaped}'"


def _is_there(there: Callable[[Path], bool], path: Path) -> bool:
    try:
        return there(path)
    except OSError:  # a name that is too long for any file
        return False
