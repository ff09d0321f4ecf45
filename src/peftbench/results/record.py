"""A run's record, `result.json`. The schema is documented in docs/record.md."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError

SCHEMA = 1
FILE = "result.json"


@dataclass(repr=False)
class Record:
    """What a run was, what it reached, and what it cost; docs/record.md describes each part with its units.

    `status` is one of running, complete, interrupted, failed, refused; `reason` says why it is not complete. `folder`
    is where the record lies, and `was_there` whether it was read, not made, by this command; both are no part of it.
    """

    id: str
    status: str
    config: dict[str, Any]
    stamps: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    folder: str = ""
    schema: int = SCHEMA
    was_there: bool = field(default=False, compare=False, repr=False)

    def write(self, folder: Path) -> None:
        """Writes `folder/result.json`, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        content = {k: v for k, v in asdict(self).items() if k not in ("folder", "was_there")}
        path = folder / FILE
        with replacing(path, lambda why: f"{path}: could not be written ({why}).") as part:
            part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        self.folder = str(folder)

    def __repr__(self) -> str:
        from peftbench.results.record_view import as_line

        return as_line(self)

    def _repr_html_(self) -> str:
        """The short table that notebooks show."""
        from peftbench.results.record_view import as_html

        return as_html(self)


_LIKE: dict[str, type] = {"id": str, "status": str, "config": dict, "stamps": dict, "metrics": dict, "costs": dict}


def read_record(folder: Path, remedy: str = "") -> Record | None:
    """The record in a run's folder, None where there is none.

    Args:
        folder: a run's folder, in which `result.json` lies.
        remedy: what to do about a damaged record, for the message.

    Raises:
        UserError: the file is damaged, or of a schema that this version does not know.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    known = {f.name for f in fields(Record)} - {"was_there"}
    try:
        content = from_json(path.read_bytes())  # twice as fast as json
    except ValueError as problem:
        raise UserError(f"{path}: is not a record, since it is not JSON ({problem}){remedy}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a record but {_kind(content)}; expected a mapping with an id{remedy}.")
    if content.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"{path}: has record schema {content['schema']}, this version reads {SCHEMA}.")
    needed = [f.name for f in fields(Record) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [n for n in ("schema", *needed) if n not in content]:
        raise UserError(f"{path}: is not a whole record; it has no {missing[0]}{remedy}.")
    for name, kind in _LIKE.items():
        value = content.get(name, kind())
        if not isinstance(value, kind):
            raise UserError(f"{path}: is not a record; its {name} is {_kind(value)}, no {_KINDS[kind]}{remedy}.")
    return Record(**{k: v for k, v in content.items() if k in known}, folder=str(folder))


def read_complete(folder: Path, word: str, remedy: str, unfinished: str) -> Record:
    """The record of a complete run in a folder.

    Args:
        folder: a run's folder.
        word: what the user gave, such as `run=outputs/x`, for messages.
        remedy, unfinished: what to do about a damaged record, and about a run that is not complete.

    Raises:
        UserError: there is no record, it is damaged or that of a sequence, or says that the run is not complete.
    """
    record = read_record(folder, remedy)
    if record is None:
        raise UserError(f"{word}: holds no {FILE}; give the folder of a finished run, such as outputs/<run id>.")
    if runs := (record.stamps.get("continual") or {}).get("runs"):
        raise UserError(
            f"{word}: is the record of a sequence of groups of classes, which has no model of its own; give one of its "
            f"runs, such as {folder.parent / str(runs[-1])}."
        )
    if record.status != "complete":
        why = f" ({record.reason})" if record.reason else ""
        raise UserError(f"{word}: is not complete but {record.status}{why}; {unfinished}.")
    return record


_KINDS = {dict: "mapping", list: "list", str: "string", int: "number", float: "number", bool: "truth value"}


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {_KINDS[type(value)]}"
