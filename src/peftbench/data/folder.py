"""A user's own images: class folders, or a CSV of path and label."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError
from peftbench.data.base import DataSet, Split, Splits, stratified
from peftbench.data.class_folders import read_class_folders
from peftbench.data.copies import first_copies, first_within
from peftbench.data.heif import require_heif
from peftbench.data.label_table import Row, read_table
from peftbench.data.layout import ALL, Kind, find_layout
from peftbench.data.leaks import notes_of_copies, notes_of_groups, refuse_two_labels
from peftbench.data.listing import Tree, holds
from peftbench.data.media import IMAGES, is_image
from peftbench.data.splitting import split_groups, split_images
from peftbench.data.targets import KINDS, SEPARATOR, Column, OneClass, strata

SHIPPED = "package:"
_CUT = {"val": "validation", "test": "test"}


def _images(tree: Tree, folder: Path) -> Iterable[Path]:
    return sorted(filter(is_image, tree.below(folder)))


@dataclass(frozen=True)
class Folder(DataSet):
    """Images under `root`, in one of three forms.

    - `root/train/<class>/…`, and `val/`, `test/` beside it: the splits are taken as they are;
    - `root/<class>/…`: split by class with `split_seed`, `val_fraction` and `test_fraction`;
    - `labels`, a CSV with the columns path (relative to `root`), label and, if you like, split.

    Several labels, or numbers, for an image are in the CSV: in the columns `label_columns`, or in label, split at `;`.

    In the splits that are made, an image and its copies are in one of them. So is all that is equal in `group`, a
    column of the CSV, such as the patient. `root=package:<name>` is a folder that peftbench ships.
    """

    places: ClassVar[tuple[str, ...]] = ("root", "labels")

    root: str
    labels: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    group: str | None = None
    label_columns: tuple[str, ...] = ()

    kind: ClassVar[Kind] = Kind(
        "image", ", ".join(sorted(IMAGES)), is_image, lambda folder: holds(folder, is_image), _images
    )

    def is_item(self, path: Path) -> bool:
        """Whether `path`, which a CSV names, may be an image."""
        return path.is_file()

    def split(self, root: Path, rows: Sequence[Row], labels: np.ndarray) -> Split:
        """The split of `rows`, whose paths are relative to `root`, with their labels."""
        return Split([root / row.path for row in rows], labels, [row.path for row in rows])

    def load(self) -> Splits:
        return self.load_as("own")

    def load_as(self, targets: str) -> Splits:
        self.refuse_fractions()
        target = self._target(targets)
        root = self.folder()
        rows_of, notes = self.rows(root, target)
        texts = [row.label for rows in rows_of.values() for row in rows]
        classes = target.names(texts, self._table(root) if self.labels else root)
        if targets == "own" and len(classes) == 1:
            raise UserError(self._one_class(root, next(iter(rows_of.values()))[0]))
        splits = {
            role: self.split(root, rows, target.array([row.label for row in rows], classes))
            for role, rows in rows_of.items()
        }
        return self._complete(root, classes, splits, rows_of, notes)

    def refuse_fractions(self) -> None:
        """Raises UserError: a share of the images that is none, or a negative seed."""
        for key, value in (("val_fraction", self.val_fraction), ("test_fraction", self.test_fraction)):
            if not 0 <= value < 1:
                raise UserError(f"data.{key}={value}: expected at least 0 and below 1.")
        if self.split_seed < 0:
            raise UserError(f"data.split_seed={self.split_seed}: expected 0 or more.")

    def _target(self, targets: str) -> Column:
        """How the CSV says what is to be predicted. Raises UserError."""
        if targets == "own" and self.label_columns:
            raise UserError(
                f"data.label_columns={list(self.label_columns)}: is for several labels, or numbers, of an image; "
                f"its one class is in the column label."
            )
        if targets != "own" and not self.labels:
            raise UserError(
                f"data.root={self.root}: class folders say one class of each {self.kind.name}; give a CSV of the "
                f"{targets} (data.labels=FILE)."
            )
        twice = [name for name, times in Counter(self.label_columns).items() if times > 1]
        if twice or (bad := [name for name in self.label_columns if SEPARATOR in name]):
            name, what = (twice[0], "twice") if twice else (bad[0], f"with a '{SEPARATOR}' in its name")
            raise UserError(f"data.label_columns: names the column '{name}' {what}; expected different columns.")
        return KINDS[targets](tuple(self.label_columns))

    def folder(self) -> Path:
        """The folder that `root` names. Raises UserError."""
        shipped = self.root.startswith(SHIPPED)
        root = (
            Path(__file__).parent / self.root.removeprefix(SHIPPED) if shipped else Path(os.path.expanduser(self.root))
        )
        if not root.is_dir():
            raise UserError(
                f"data.root={self.root}: there is no folder {root.absolute()}; give the folder of your "
                f"{self.kind.name}s."
            )
        return root

    def rows(self, root: Path, target: Column) -> tuple[dict[str, list[Row]], list[str]]:
        """(the rows of each role, notes), as the folders or the CSV say.

        Raises:
            UserError: what is in no form of these, or has nothing to train on.
        """
        if not self.labels:
            if self.group:
                raise UserError(f"data.group={self.group}: is a column of a CSV; give that too (data.labels=FILE).")
            rows_of, notes = read_class_folders(root, find_layout(root, self.kind), self.kind)
        else:
            table = self._table(root)
            rows_of, notes = read_table(table, root, self.kind.name, self.is_item, self.group, target), []
        if "train" not in rows_of and ALL not in rows_of:
            raise UserError(
                f"data.root={self.root}: there are {', '.join(rows_of)} {self.kind.name}s but none to train on."
            )
        return rows_of, notes

    def training_files(self) -> list[Path]:
        """The files to train on, or all where there are no splits yet; one class will do. Raises UserError."""
        root = self.folder()
        rows_of, _ = self.rows(root, OneClass())
        files = [root / row.path for row in rows_of.get("train", rows_of.get(ALL, []))]
        require_heif(files)
        return files

    def _table(self, root: Path) -> Path:
        assert self.labels is not None
        file = next((p for p in (Path(os.path.expanduser(self.labels)), root / self.labels) if p.is_file()), None)
        if file is None:
            raise UserError(f"data.labels={self.labels}: there is no such file, nor one in {root}.")
        return file

    def _one_class(self, root: Path, row: Row) -> str:
        if self.labels:
            return f"{self._table(root)}: all rows are labelled '{row.label}'; expected two classes or more."
        folder = root / row.path
        while folder.name != row.label:
            folder = folder.parent
        return (
            f"data.root={self.root}: {folder} is the one folder of a class that holds {self.kind.name}s; expected two "
            f"or more, as {root}/<class>/<{self.kind.name}> or {root}/train/<class>/<{self.kind.name}>."
        )

    def _complete(
        self,
        root: Path,
        classes: tuple[str, ...],
        splits: dict[str, Split],
        rows_of: Mapping[str, Sequence[Row]],
        notes: list[str],
    ) -> Splits:
        """Makes the splits that are not given; classes that train does not know are an error."""
        rows = [row for role in splits for row in rows_of[role]]
        roles = np.array([role for role, split in splits.items() for _ in split.names])
        paths = [path for split in splits.values() for path in split.images if isinstance(path, Path)]
        require_heif(paths)
        first = first_copies(paths)
        if self.labels:
            refuse_two_labels(self._table(root), root, rows, roles.tolist(), first, self.kind.name)
        notes += [*notes_of_copies(rows, roles.tolist(), first, self.kind.name)]
        name = root.name
        if set(splits) == {ALL}:
            splits = self._cut(splits[ALL], rows, first, {"val": self.val_fraction, "test": self.test_fraction}, notes)
            name = f"{root.name}-made-{self.val_fraction:g}-{self.test_fraction:g}-s{self.split_seed}"
            name += f"-by-{self.group}" if self.group else ""
        else:
            if self.group:
                notes += notes_of_groups(self.group, rows, roles.tolist())
            if "train" in splits and "val" not in splits and self.val_fraction:
                copies = first_within(first, np.flatnonzero(roles == "train"))
                splits |= self._cut(splits["train"], rows_of["train"], copies, {"val": self.val_fraction}, notes)
        trained = set(np.unique(strata(splits["train"].labels)))
        for role in ("val", "test"):
            if role in splits and (new := sorted(set(np.unique(strata(splits[role].labels))) - trained)):
                at = int(np.flatnonzero(splits[role].labels == new[0])[0])
                raise UserError(
                    f"data.root={self.root}: {splits[role].names[at]} is labelled '{classes[new[0]]}', "
                    f"a class without training {self.kind.name}s; expected one of {len(trained)} classes."
                )
        return Splits(
            name,
            classes,
            splits["train"],
            splits.get("val"),
            splits.get("test"),
            notes=tuple(dict.fromkeys(notes)),
            lacking={role: self._why_none(role, rows, first, rows_of) for role in _CUT if role not in splits},
        )

    def _why_none(self, role: str, rows: Sequence[Row], first: np.ndarray, rows_of: Mapping[str, Sequence[Row]]) -> str:
        """The sentence that says why there are no images to validate on or to test; empty where none were wanted."""
        where = f"data.labels={self.labels}" if self.labels else f"data.root={self.root}"
        kind, key = self.kind.name, f"data.{role}_fraction"
        place = f"rows of split {role}" if self.labels else f"{role}/<class>/<{kind}>"
        if role == "test" and ALL not in rows_of:
            return (
                f"{where}: has {kind}s to train on and none to test; expected {place} too, or data.stage=tune, which "
                f"tests nothing."
            )
        fraction = getattr(self, f"{role}_fraction")
        if not fraction:
            return ""
        once = first == np.arange(len(first))
        largest = Counter(row.label for row, counts in zip(rows, once, strict=True) if counts).most_common(1)[0][1]
        fractions = [self.val_fraction, self.test_fraction][: 1 + (role == "test")]
        least = next((n for n in range(2, 1000) if len(stratified(np.zeros(n), fractions, 0)[-1])), 1000)
        count = int(once.sum())
        return (
            f"{where}: {plural(count, kind)} {agreeing(count)} too few to be split: of {key}={fraction:g} a class "
            f"gives {_CUT[role]} {kind}s from {least} {kind}s on, and the largest has {largest}; expected more "
            f"{kind}s, or {place}."
        )

    def _cut(
        self, split: Split, rows: Sequence[Row], first: np.ndarray, fractions: Mapping[str, float], notes: list[str]
    ) -> dict[str, Split]:
        """The split in parts, of which the first is to train on; parts without images are left out."""
        if self.group:
            groups = [row.group for row in rows]
            parts = split_groups(strata(split.labels), first, groups, [*fractions.values()], self.split_seed)
            counts = [len({groups[i] for i in part}) for part in parts]
            for (role, fraction), count in zip(fractions.items(), counts[1:], strict=True):
                if not count and round(fraction * len(rows)):
                    raise UserError(
                        f"data.group={self.group}: of {len(set(groups))} groups none can be spared for {role}, since "
                        f"training needs every class; expected more groups, or data.{role}_fraction=0."
                    )
            shown = zip(("train", *fractions), counts, strict=True)
            notes.append(f"groups of {self.group}: " + ", ".join(f"{count:,} in {role}" for role, count in shown))
        else:
            parts = split_images(strata(split.labels), first, [*fractions.values()], self.split_seed)
        taken = zip(("train", *fractions), parts, strict=True)
        return {role: split.take(part) for role, part in taken if len(part)}
