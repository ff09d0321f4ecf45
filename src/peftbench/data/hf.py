"""A Hugging Face data set on disk: what save_to_disk writes, or Parquet files with the images in them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from peftbench.common.cache_folder import cache
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.json_text import json_of
from peftbench.common.regular_files import text_in
from peftbench.data.base import DataSet, Splits
from peftbench.data.folder import Folder
from peftbench.data.hf_tables import Table, find_image, find_label, read_tables
from peftbench.data.layout import ALL, role_of
from peftbench.data.listing import read_tree
from peftbench.data.made_once import made_once
from peftbench.data.media import IMAGES

_VERSION = 1
_TABLE = "rows.csv"
_NOTES = "notes.json"
_RESERVED = ("path", "label", "split")  # columns of the table that is written


@dataclass(frozen=True)
class HuggingFace(DataSet):
    """Images and classes of the table in `root`, whose columns `image` and `label` are found where they are not named.

    Splits are taken as they are. What has none, or one alone, is split as `Folder` splits. The images are written as
    files into the cache once, byte by byte as they are in the table.
    """

    places: ClassVar[tuple[str, ...]] = ("root",)

    root: str
    image: str | None = None
    label: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    group: str | None = None

    def load(self) -> Splits:
        root = Path(os.path.expanduser(self.root))
        if not root.exists():
            raise UserError(
                f"data.root={self.root}: there is no {root.absolute()}; give the folder of save_to_disk, or a Parquet "
                f"file. Nothing is fetched: save the data set to disk where there is a network."
            )
        if self.group in _RESERVED:
            raise UserError(f"data.group={self.group}: expected a column that is not called {', '.join(_RESERVED)}.")
        name = root.resolve().stem if root.is_file() else root.resolve().name
        recipe = {
            "version": _VERSION,
            "files": _files(root),
            "name": name,
            "columns": [self.image, self.label, self.group],
        }
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
        folder = made_once(cache() / "hf" / key, recipe, lambda part: self._unpack(root, part / name)) / name
        options = {k: getattr(self, k) for k in ("val_fraction", "test_fraction", "split_seed", "group")}
        try:
            splits = Folder(root=str(folder), labels=str(folder / _TABLE), **options).load()
        except UserError as mistake:
            raise UserError(_in_words_of_the_user(str(mistake), folder, self.root)) from None
        lacking = {role: _in_words_of_the_user(why, folder, self.root) for role, why in splits.lacking.items()}
        notes = json_of(text_in(folder / _NOTES))
        return replace(splits, notes=(*notes, *splits.notes), lacking=lacking)

    def _unpack(self, root: Path, folder: Path) -> None:
        """Writes the images, a table of them, and what a user should know. Raises UserError."""
        folder.mkdir()
        notes: list[str] = []
        tables = _by_role(root, read_tables(root), notes)
        with (folder / _TABLE).open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            group = [self.group] if self.group else []
            rows.writerow(["path", "label", *(["split"] if ALL not in tables else []), *group])
            for role, parts in tables.items():
                (folder / role).mkdir()
                labelled = [row for row in self._rows(parts, folder, role) if row[1] is not None]
                count = len(list((folder / role).iterdir()))
                if not labelled:
                    notes.append(f"left out, the split {parts[0].split}, which has no labels ({count:,} images)")
                elif len(labelled) < count:
                    raise UserError(
                        f"{parts[0].file}: {count - len(labelled):,} of {count:,} rows have no label; expected a "
                        f"label in each row of a split, or in none."
                    )
                for path, label, member in labelled:
                    rows.writerow([path, label, *([role] if ALL not in tables else []), *([member] if group else [])])
        (folder / _NOTES).write_text(json.dumps(notes), encoding="utf-8")

    def _rows(self, parts: Sequence[Table], folder: Path, role: str) -> list[tuple[str, str | None, str]]:
        """(path, class or None, group) of each row, whose image is written."""
        written: list[tuple[str, str | None, str]] = []
        for table in parts:
            image, label = find_image(table, self.image), find_label(table, self.label)
            if self.group and self.group not in table.features:
                having = ", ".join(table.features)
                raise UserError(f"data.group={self.group}: {table.file} has no such column; it has {having}.")
            names = getattr(table.features[label], "names", None)
            columns = dict.fromkeys([image, label, *([self.group] if self.group else [])])
            for at, row in enumerate(table.rows(list(columns))):
                where = f"{table.file}: row {at}"
                content, suffix = _image(where, image, row[image])
                path = f"{role}/{len(written):06d}{suffix}"
                (folder / path).write_bytes(content)
                member = str(row[self.group]) if self.group and row[self.group] is not None else ""
                written.append((path, _class(f"{where}: {label}", row[label], names), member))
        return written


def _files(root: Path) -> list[list[str | int]]:
    """Name, size and time of each file: where these are as they were, so is what they hold."""
    files = [root] if root.is_file() else sorted(read_tree([root]).below(root))
    stats = [(file, file.stat()) for file in files]
    return [[str(file.absolute()), status.st_size, status.st_mtime_ns] for file, status in stats]


def _by_role(root: Path, tables: Sequence[Table], notes: list[str]) -> dict[str, list[Table]]:
    """The tables of each split; what is no split is left out with a note, and one split alone is none."""
    splits: dict[str, list[Table]] = {}
    for table in tables:
        splits.setdefault(table.split, []).append(table)
    if len(splits) == 1:
        (name,) = splits
        if name != ALL:
            notes.append(f"{root} holds one split, {name}, of which those to train, validate and test on are made")
        return {ALL: splits[name]}
    roles: dict[str, list[Table]] = {}
    for name, parts in splits.items():
        role = role_of(name)
        if role is None:
            notes.append(f"left out, the split {shortened(name, 60)}, which is none of train, val and test")
        elif role in roles:
            raise UserError(f"data.root={root}: holds two splits that mean {role}, such as {name}; expected one.")
        else:
            roles[role] = parts
    if "train" not in roles:
        raise UserError(f"data.root={root}: holds the splits {', '.join(splits)}, but none that is called train.")
    return roles


def _image(where: str, column: str, cell: Any) -> tuple[bytes, str]:
    """(the bytes of an image file, the suffix that it should have). Raises UserError."""
    content, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if not isinstance(content, bytes) or not content:
        shown = f"the path {shortened(str(name), 60)} alone" if name else shortened(f"{type(cell).__name__}", 60)
        raise UserError(
            f"{where}: {column} holds {shown}, and no image; expected the bytes of an image file, as save_to_disk and "
            f"to_parquet write them from a column of the type Image."
        )
    if content.startswith(b"\x89PNG"):
        return content, ".png"
    if content.startswith(b"\xff\xd8"):
        return content, ".jpg"
    suffix = Path(name).suffix.lower() if isinstance(name, str) else ""
    return content, suffix if suffix in IMAGES else ".img"


def _class(where: str, cell: Any, names: Sequence[str] | None) -> str | None:
    """The name of a row's class, None where it has none. Raises UserError."""
    if cell is None or (names is not None and cell == -1):
        return None
    if names is not None:
        if not isinstance(cell, int) or not 0 <= cell < len(names):
            raise UserError(f"{where} is {shortened(str(cell), 40)}; expected 0 to {len(names) - 1}, or -1 for none.")
        return names[cell]
    if not isinstance(cell, str | int) or not str(cell).strip():
        raise UserError(f"{where} is a {type(cell).__name__}; expected a class, as a text or a whole number.")
    return str(cell)


def _in_words_of_the_user(sentence: str, folder: Path, root: str) -> str:
    """A sentence of the folder in the cache, which the user has never seen, as one of the data set."""
    where = (f"data.labels={folder / _TABLE}", f"data.root={folder}", str(folder / _TABLE))
    for words in where:
        sentence = sentence.replace(words, f"data.root={root}")
    return sentence
