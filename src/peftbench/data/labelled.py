"""New labelled images for a finished run, and their labels in its words: here class folders, or a CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError, nearest
from peftbench.common.readable_names import composed
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
from peftbench.data.targets import Column, OneClass

UNKNOWN = ("refuse", "skip")
"""What may be done with labels that the run does not know."""


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


@dataclass(frozen=True)
class Known:
    """Labelled images in the words of a run.

    Attributes:
        split: the images; its labels are indices of the run's classes, or in the order of its labels or numbers.
        left_out: label that the run does not know -> how many images, or boxes, of it were left out.
        note: that they were, as a sentence; empty where nothing was.
    """

    split: Split
    left_out: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


def folder_of(images: str | Path) -> Path:
    """The folder of the labelled images. Raises UserError where there is none."""
    root = Path(images).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "there is no such folder"
        raise UserError(f"images={images}: {what}; give the folder of the labelled images.")
    return root


def table_at(root: Path, labels: str | Path, suffix: str, expected: str) -> Path:
    """The file that `labels` names, as it stands or in `root`.

    Raises:
        UserError: there is no such file, or its name does not end in `suffix`; `expected` says what would do.
    """
    file = Path(labels).expanduser()
    table = next((path for path in (file, root / file) if path.is_file()), None)
    if table is None:
        raise UserError(f"labels={labels}: there is no such file, nor one in {root}.")
    if table.suffix.lower() != suffix:
        raise UserError(f"labels={labels}: expected {expected}.")
    return table


def read_classes(images: str | Path, labels: str | Path | None = None) -> Labelled:
    """The images in the class folders of `images`, or those that the CSV `labels` names, with paths relative to it.

    Of a CSV with the column split, the rows of test are read.

    Raises:
        UserError: there is no such place, it holds no image in a class folder, it holds splits, or the CSV is wrong.
    """
    root = folder_of(images)
    if labels is None:
        rows, notes = _in_folders(root)
    else:
        table = table_at(root, labels, ".csv", "a CSV with the columns path and label")
        rows, notes = rows_of_table(table, root, OneClass())
    classes = OneClass().names([row.label for row in rows], root)
    numbers = OneClass().array([row.label for row in rows], classes)
    name = (root if labels is None else Path(labels)).resolve().stem
    return Labelled(name, split_of_rows(root, rows, numbers), classes, tuple(notes))


def split_of_rows(root: Path, rows: Sequence[Row], labels: np.ndarray) -> Split:
    """The images of rows, whose paths are relative to `root`, with their labels. Raises UserError: HEIF unread."""
    paths = [root / row.path for row in rows]
    require_heif(paths)
    return Split(paths, labels, [row.path for row in rows])


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


def rows_of_table(table: Path, root: Path, column: Column) -> tuple[list[Row], list[str]]:
    """(the rows of a CSV, those of its test split where it has splits; what a user should know of that).

    Raises:
        UserError: as `read_table`, no row is of test, or an image has two labels.
    """
    rows_of = read_table(table, root, "image", lambda path: path.is_file() and is_image(path), None, column)
    notes = []
    if ALL not in rows_of:
        if "test" not in rows_of:
            raise UserError(f"{table}: its column split names no test image; expected some, or no such column.")
        notes.append(f"of {table} the rows of split test are read")
    rows = rows_of.get(ALL) or rows_of["test"]
    first = first_copies([root / row.path for row in rows])
    refuse_two_labels(table, root, rows, [ALL] * len(rows), first, "image")
    return rows, notes


def classes_known(labelled: Labelled, classes: Sequence[str], unknown: str = "refuse") -> Known:
    """The images with labels that are indices of `classes`, matched by name.

    Args:
        labelled: the images.
        classes: what the run knows.
        unknown: `refuse`, or `skip` to leave images with other labels out.

    Raises:
        UserError: a label that the run does not know, or no image is left.
    """
    place = {composed(name): i for i, name in enumerate(classes)}
    numbers = np.array([place.get(composed(name), -1) for name in labelled.classes], dtype=np.int64)[
        labelled.split.labels
    ]
    counts = np.bincount(labelled.split.labels[numbers < 0], minlength=len(labelled.classes))
    others = {name: int(n) for name, n in zip(labelled.classes, counts, strict=True) if n}
    kept = np.flatnonzero(numbers >= 0)
    number = sum(others.values())
    refuse_unknown(labelled.name, others, number, len(kept), classes, unknown)
    note = f"{plural(number, 'image')} with {left_out_in_words(others, number)}" if others else ""
    return Known(replace(labelled.split.take(kept), labels=numbers[kept]), others, note)


def left_out_in_words(others: Mapping[str, int], number: int) -> str:
    """What is said of so many images, or boxes, that were left out for these labels."""
    labels = ", ".join(f"'{name}'" for name in list(others)[:5]) + (", …" if len(others) > 5 else "")
    return f"labels that the run does not know {agreeing(number)} left out: {labels}"


def refuse_unknown(
    name: str,
    others: Mapping[str, int],
    number: int,
    known: int,
    classes: Sequence[str],
    unknown: str,
    what: str = "image",
) -> None:
    """Refuses labels that the run does not know, where they may not be left out or none other is there.

    Args:
        name: of the set.
        others: such label -> how many have it.
        number: how many have any of them.
        known: how many have one that the run knows.
        classes: what the run knows.
        unknown: `refuse` or `skip`.
        what: what is counted, in the singular.

    Raises:
        UserError: the labels, with the nearest ones that the run knows.
    """
    if unknown not in UNKNOWN:
        raise UserError(f"unknown={unknown}: expected {' or '.join(UNKNOWN)}.")
    if not others or (unknown == "skip" and known):
        return
    shown = ", ".join(f"'{label}'{nearest(label, classes)}" for label in list(others)[:5])
    shown += f" and {len(others) - 5:,} more" if len(others) > 5 else ""
    there = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
    if not known:
        raise UserError(f"{name}: the run knows none of its labels: {shown}; it knows {there}.")
    raise UserError(
        f"{name}: {plural(number, what)} {agreeing(number, 'has a label', 'have labels')} that the run does not know: "
        f"{shown}; it knows {there}. Rename them, or leave them out (unknown=skip)."
    )
