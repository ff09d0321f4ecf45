"""A user's own images: class folders, or a CSV of path and label."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.errors import UserError
from peftbench.data.base import DataSet, Split, Splits, stratified
from peftbench.data.media import IMAGES, visible_entries

_ROLES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SHIPPED = "package:"


@dataclass(frozen=True)
class Folder(DataSet):
    """Images under `root`, in one of three forms.

    - `root/train/<class>/…`, and `val/`, `test/` beside it: the splits are taken as they are;
    - `root/<class>/…`: split by class with `split_seed`, `val_fraction` and `test_fraction`;
    - `labels`, a CSV with the columns path (relative to `root`), label and, if you like, split.

    `root=package:<name>` is a folder that peftbench ships.
    """

    places: ClassVar[tuple[str, ...]] = ("root", "labels")

    root: str
    labels: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0

    kind: ClassVar[str] = "image"
    forms: ClassVar[str] = ", ".join(sorted(IMAGES))

    def items(self, folder: Path) -> Iterable[Path]:
        """The images of a class folder, at any depth."""
        images = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGES and self.is_item(p))
        return (p for p in images if not any(part.startswith(".") for part in p.relative_to(folder).parts))

    def is_item(self, path: Path) -> bool:
        """Whether `path`, which a CSV names, may be an image."""
        return path.is_file()

    def split(self, root: Path, rows: list[tuple[str, str]], number: dict[str, int]) -> Split:
        """The split of (path relative to `root`, class) in `rows`; `number` gives each class its label."""
        labels = np.array([number[label] for _, label in rows], dtype=np.int64)
        return Split([root / path for path, _ in rows], labels, [path for path, _ in rows])

    def load(self) -> Splits:
        for key, value in (("val_fraction", self.val_fraction), ("test_fraction", self.test_fraction)):
            if not 0 <= value < 1:
                raise UserError(f"data.{key}={value}: expected at least 0 and below 1.")
        root = _resolve(self.root)
        if not root.is_dir():
            raise UserError(
                f"data.root={self.root}: there is no folder {root.absolute()}; give the folder of your {self.kind}s."
            )
        rows_of = self._from_csv(root) if self.labels else self._from_folders(root)
        classes = tuple(sorted({label for rows in rows_of.values() for _, label in rows}, key=_natural))
        number = {name: i for i, name in enumerate(classes)}
        splits = {role: self.split(root, rows, number) for role, rows in rows_of.items()}
        return self._complete(root, classes, splits)

    def _complete(self, root: Path, classes: tuple[str, ...], splits: dict[str, Split]) -> Splits:
        """Makes the splits that are not given; classes that train does not know are an error."""
        name = root.name
        if set(splits) == {"all"}:
            train, val, test = stratified(
                splits["all"].labels, (self.val_fraction, self.test_fraction), self.split_seed
            )
            parts = {"train": train, "val": val, "test": test}
            splits = {role: splits["all"].take(i) for role, i in parts.items() if len(i)}
            name = f"{root.name}-made-{self.val_fraction:g}-{self.test_fraction:g}-s{self.split_seed}"
        elif "train" in splits and "val" not in splits and self.val_fraction:
            train, val = stratified(splits["train"].labels, (self.val_fraction,), self.split_seed)
            if len(val):
                splits |= {"train": splits["train"].take(train), "val": splits["train"].take(val)}
        if "train" not in splits:
            raise UserError(f"data.root={self.root}: there are {', '.join(splits)} {self.kind}s but none to train on.")
        trained = set(np.unique(splits["train"].labels))
        for role in ("val", "test"):
            if role in splits and (new := sorted(set(np.unique(splits[role].labels)) - trained)):
                at = int(np.flatnonzero(splits[role].labels == new[0])[0])
                raise UserError(
                    f"data.root={self.root}: {splits[role].names[at]} is labelled '{classes[new[0]]}', "
                    f"a class without training {self.kind}s; expected one of {len(trained)} classes."
                )
        return Splits(name, classes, splits["train"], splits.get("val"), splits.get("test"))

    def _from_csv(self, root: Path) -> dict[str, list[tuple[str, str]]]:
        assert self.labels is not None
        file = next((p for p in (Path(self.labels).expanduser(), root / self.labels) if p.is_file()), None)
        if file is None:
            raise UserError(f"data.labels={self.labels}: there is no such file, nor one in {root}.")
        rows_of: dict[str, list[tuple[str, str]]] = {}
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as problem:
            raise UserError(f"{file}: is not text in UTF-8 ({problem.reason} at byte {problem.start}).") from None
        with io.StringIO(text, newline="") as lines:
            rows = csv.DictReader(lines)
            if not {"path", "label"} <= set(rows.fieldnames or ()):
                raise UserError(
                    f"{file}: expected the columns path and label, found {', '.join(rows.fieldnames or ['nothing'])}."
                )
            for row in rows:
                name = (row.get("split") or "all").strip().lower()
                role = next((r for r, names in _ROLES.items() if name in names), name)
                if role not in (*_ROLES, "all"):
                    raise UserError(f"{file}:{rows.line_num}: split '{name}'; expected train, val or test.")
                path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
                if not path or not label:
                    raise UserError(f"{file}:{rows.line_num}: expected a path and a label.")
                if not self.is_item(root / path):
                    raise UserError(f"{file}:{rows.line_num}: there is no {self.kind} {root / path}.")
                rows_of.setdefault(role, []).append((path, label))
        if not rows_of:
            raise UserError(f"{file}: has no rows.")
        if "all" in rows_of and len(rows_of) > 1:
            raise UserError(f"{file}: some rows name a split and some do not; expected all or none.")
        return rows_of

    def _from_folders(self, root: Path) -> dict[str, list[tuple[str, str]]]:
        places = {role: root / name for role, names in _ROLES.items() for name in names if (root / name).is_dir()}
        if "train" not in places:  # a class may be called 'test': then it is one of several class folders
            places = {"all": root}
        rows_of = {role: list(self.class_folders(folder, root)) for role, folder in places.items()}
        for role, rows in rows_of.items():
            if not rows:
                raise UserError(
                    f"{places[role]}: holds no class folders with {self.kind}s ({self.forms}); "
                    f"expected <class>/<{self.kind}>."
                )
        return rows_of

    def class_folders(self, folder: Path, root: Path) -> Iterable[tuple[str, str]]:
        """(path relative to `root`, class) of what lies in the class folders of `folder`."""
        for label in filter(Path.is_dir, visible_entries(folder)):
            for item in self.items(label):
                yield item.relative_to(root).as_posix(), label.name


def _resolve(root: str) -> Path:
    if root.startswith(SHIPPED):
        return Path(__file__).parent / root.removeprefix(SHIPPED)
    return Path(root).expanduser()


def _natural(label: str) -> tuple[int, int, str]:
    """Numbers as numbers, then words: '2' before '10'."""
    return (0, int(label), label) if label.isdecimal() else (1, 0, label)
