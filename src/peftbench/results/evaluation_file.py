"""The record of an evaluation, `evaluation-<name>-<hash8>.json`, beside the run's (docs/evaluation.md)."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.json_text import json_of
from peftbench.common.readable_names import readable, readable_in
from peftbench.common.regular_files import content_of

SCHEMA = 1


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a finished run.

    Attributes:
        path: its record's file.
        content: what the file holds; docs/evaluation.md describes it.
        was_there: whether it was read, not made, by this call.
    """

    path: Path
    content: Mapping[str, Any]
    was_there: bool

    @property
    def figures(self) -> Mapping[str, Any]:
        """The figures, such as `accuracy`."""
        figures: Mapping[str, Any] = self.content["figures"]
        return figures


def place_of(folder: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Where the record of an evaluation lies, in the folder of its run.

    Args:
        folder: the run's.
        name: of the images.
        identity: all that can change the figures, in plain values.
    """
    hash_ = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    short = re.sub(r"[^\w.-]+", "-", name)[:60].strip("-.") or "images"
    return folder / f"evaluation-{short}-{hash_}.json"


def read_evaluation(path: Path, identity: Mapping[str, Any]) -> Evaluation | None:
    """The evaluation that lies there, None where none does.

    Raises:
        UserError: the file is damaged, of another evaluation, or cannot be read.
    """
    try:
        content = json_of(content_of(path))
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        content = None
    whole = isinstance(content, dict) and content.get("schema") == SCHEMA and isinstance(content.get("figures"), dict)
    if not whole or content.get("identity") != identity:
        raise UserError(f"{path}: is there and is not the record of this evaluation; move it, and evaluate again.")
    return Evaluation(path, content, was_there=True)


def write_tables(path: Path, tables: Mapping[str, Sequence[Sequence[Any]]], missing: bool = False) -> dict[str, Path]:
    """Writes the tables of an evaluation as CSV beside its record, `<record>-<name>.csv`; returns where they are.

    Args:
        path: the record's.
        tables: by name, the heading first.
        missing: whether those that are there stay, whatever they hold.

    Raises:
        UserError: a file is in the way that holds another thing, or one cannot be written.
    """
    files = {name: path.with_name(f"{path.stem}-{name}.csv") for name in tables}
    texts: dict[Path, str] = {}
    for name, file in files.items():
        with io.StringIO(newline="") as text:
            csv.writer(text, lineterminator="\n").writerows(tables[name])
            texts[file] = readable(text.getvalue())
        if file.exists():
            if not missing and content_of(file) != texts[file].encode():
                raise UserError(f"{file}: is there and is not of this evaluation; move it, and evaluate again.")
            del texts[file]
    for file, text_of_file in texts.items():
        with replacing(file) as part:
            part.write_text(text_of_file, encoding="utf-8", newline="")
    return files


def write_evaluation(path: Path, content: Mapping[str, Any]) -> Evaluation:
    """Writes the record, whole or not at all. Raises UserError where it cannot be written."""
    content = readable_in({"schema": SCHEMA, **content})
    with replacing(path, lambda why: f"{path}: could not be written ({why}).") as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Evaluation(path, content, was_there=False)
