"""New labelled images for a finished run: class folders, or a CSV of path and label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError, nearest
from peftbench.data.base import Split
from peftbench.data.class_folders import read_class_folders
from peftbench.data.copies import first_copies
from peftbench.data.folder import Folder
from peftbench.data.heif import require_heif
from peftbench.data.label_table import Row, read_table
from peftbench.data.layout import ALL, find_layout
from peftbench.data.leaks import refuse_two_labels
from peftbench.data.listing import folders_in
from peftbench.data.media import is_image
from peftbench.data.targets import OneClass

UNKNOWN = ("refuse", "skip")
"""What may be done with images whose label the run does not know."""


@dataclass(frozen=True)
class Labelled:
    """Images with the names of their classes.

    Attributes:
        name: what the set is called, in records and names of files.
        split: the images; its labels are indices of `classes`.
        classes: names of all the labels that occur.
        notes: what a user should know of how they were read, a sentence each.
    """

    name: str
    split: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_labelled(images: str | Path, labels: str | Path | None = None) -> Labelled:
    """The images in the class folders of `images`, or those that the CSV `labels` names, with paths relative to it.

    Of a CSV with the column split, the rows of test are read.

    Raises:
        UserError: there is no such place, it holds no image in a class folder, it holds splits, or the CSV is wrong.
    """
    root = Path(images).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "there is no such folder"
        raise UserError(f"images={images}: {what}; give the folder of the labelled images.")
    if labels is None:
        rows, notes = _in_folders(root)
    else:
        rows, notes = _in_table(root, Path(labels).expanduser(), labels)
    paths = [root / row.path for row in rows]
    require_heif(paths)
    classes = OneClass().names([row.label for row in rows], root)
    numbers = OneClass().array([row.label for row in rows], classes)
    name = (root if labels is None else Path(labels)).resolve().stem
    return Labelled(name, Split(paths, numbers, [row.path for row in rows]), classes, tuple(notes))


def _in_folders(root: Path) -> tuple[list[Row], list[str]]:
    layout = find_layout(root, Folder.kind)
    if set(layout.places) != {ALL}:
        names = ", ".join(place.name for place in layout.places.values())
        role = "test" if "test" in layout.places else next(iter(layout.places))
        raise UserError(
            f"images={root}: holds the splits {names}; give the folder of one, such as images={layout.places[role]}."
        )
    place = layout.places[ALL]
    if not any(map(Folder.kind.is_class, folders_in(place))):
        raise UserError(
            f"images={root}: holds no class folder with an image; expected {root}/<class>/<image>, or a CSV of path "
            f"and label (labels=FILE)."
        )
    rows_of, notes = read_class_folders(root, layout, Folder.kind)
    return rows_of[ALL], notes


def _in_table(root: Path, file: Path, written: str | Path) -> tuple[list[Row], list[str]]:
    table = next((path for path in (file, root / file) if path.is_file()), None)
    if table is None:
        raise UserError(f"labels={written}: there is no such file, nor one in {root}.")
    if table.suffix.lower() != ".csv":
        raise UserError(f"labels={written}: expected a CSV with the columns path and label.")
    rows_of = read_table(table, root, "image", lambda path: path.is_file() and is_image(path), None, OneClass())
    notes = []
    if ALL not in rows_of:
        if "test" not in rows_of:
            raise UserError(f"{table}: its column split names no test image; expected some, or no such column.")
        notes.append(f"of {table} the rows of split test are read")
    rows = rows_of.get(ALL) or rows_of["test"]
    first = first_copies([root / row.path for row in rows])
    refuse_two_labels(table, root, rows, [ALL] * len(rows), first, "image")
    return rows, notes


def as_known(labelled: Labelled, classes: Sequence[str], unknown: str = "refuse") -> tuple[Split, dict[str, int]]:
    """(the images with labels that are indices of `classes`, matched by name; unknown label -> images left out).

    Args:
        labelled: the images.
        classes: what the run knows.
        unknown: `refuse`, or `skip` to leave images with other labels out.

    Raises:
        UserError: a label that the run does not know, or no image is left.
    """
    if unknown not in UNKNOWN:
        raise UserError(f"unknown={unknown}: expected {' or '.join(UNKNOWN)}.")
    place = {name: i for i, name in enumerate(classes)}
    numbers = np.array([place.get(name, -1) for name in labelled.classes], dtype=np.int64)[labelled.split.labels]
    counts = np.bincount(labelled.split.labels[numbers < 0], minlength=len(labelled.classes))
    others = {name: int(n) for name, n in zip(labelled.classes, counts, strict=True) if n}
    kept = np.flatnonzero(numbers >= 0)
    if others and (unknown == "refuse" or not len(kept)):
        shown = ", ".join(f"'{name}'{nearest(name, classes)}" for name in list(others)[:5])
        shown += f" and {len(others) - 5:,} more" if len(others) > 5 else ""
        known = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
        number = sum(others.values())
        if not len(kept):
            raise UserError(f"{labelled.name}: the run knows none of its labels: {shown}; it knows {known}.")
        raise UserError(
            f"{labelled.name}: {plural(number, 'image')} {agreeing(number, 'has a label', 'have labels')} that the run "
            f"does not know: {shown}; it knows {known}. Rename them, or leave such images out (unknown=skip)."
        )
    split = labelled.split.take(kept)
    return Split(split.images, numbers[kept], split.names, split.frames), others
