"""A run's record, `result.json`. The schema is documented in docs/record.md."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.readable_names import readable_in
from peftbench.common.regular_files import content_of
from peftbench.results.record_schema import SCHEMA, kind_of, problem_of

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
        content = readable_in({k: v for k, v in asdict(self).items() if k not in ("folder", "was_there")})
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


def read_record(folder: Path, remedy: str = "") -> Record | None:
    """The record in a run's folder, None where there is none.

    Whatever wrote it, its parts are what docs/record.md says: `record_schema.py` looks at each.

    Args:
        folder: a run's folder, in which `result.json` lies.
        remedy: what to do about a damaged record, for the message.

    Raises:
        UserError: the file cannot be read, is damaged, or is of a schema that this version does not know.
    """
    return read_record_file(folder / FILE, str(folder), remedy)


def read_record_file(path: Path, folder: str, remedy: str = "") -> Record | None:
    """As `read_record`, of a file; `folder` is that of the run."""
    content = _content(path, remedy)
    if content is None:
        return None
    if content.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"{path}: has record schema {shortened(str(content['schema']))}, this version reads {SCHEMA}.")
    if problem := problem_of(content):
        raise UserError(f"{path}: {problem}{remedy}.")
    # A part that is null stands for one that is left out.
    return Record(**{k: v for k, v in content.items() if k in _PARTS and v is not None}, folder=folder)


_PARTS = {f.name for f in fields(Record)} - {"was_there", "folder"}


def _content(path: Path, remedy: str) -> dict[str, Any] | None:
    """The mapping that a file holds, None where there is no file. Raises UserError where it holds something else."""
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last of a path that no system allows
        if _is_link(path):
            raise UserError(f"{path}: is a link to a file that is not there{remedy}.") from None
        return None
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
    if not stat.S_ISREG(kind):  # reading a pipe would wait for ever
        raise UserError(f"{path}: is no regular file{remedy}.")
    try:
        content = from_json(content_of(path))  # twice as fast as json
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
    except ValueError as problem:
        raise UserError(f"{path}: is not a record, since it is not JSON ({problem}){remedy}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a record but {kind_of(content)}; expected a mapping with an id{remedy}.")
    return content


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


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
