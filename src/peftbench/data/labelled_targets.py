"""New images with several labels, or numbers, for a finished run: a CSV, read as its training data were."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError, nearest
from peftbench.common.regular_files import open_text
from peftbench.data.base import Split
from peftbench.data.label_table import Row
from peftbench.data.labelled import (
    Known,
    Labelled,
    folder_of,
    left_out_in_words,
    refuse_unknown,
    rows_of_table,
    split_of_rows,
    table_at,
)
from peftbench.data.targets import SEPARATOR, Numbers, SeveralLabels, natural

_NEEDED = "a CSV with the column path and the labels, all in the column label or each in one of its own"


def read_labels(images: str | Path, labels: str | Path | None, classes: Sequence[str]) -> Labelled:
    """The images that a CSV gives any number of labels: in the column label, split at `;`, or a column of 0 and 1 each.

    Args:
        images: what its paths are relative to.
        labels: the CSV.
        classes: the labels that the run knows.

    Raises:
        UserError: no such file, or one that is wrong.
    """
    root, table, columns = _opened(images, labels, classes)
    column = SeveralLabels(columns)
    rows, notes = rows_of_table(table, root, column)
    texts = [row.label for row in rows]
    there = {part for text in texts for part in text.split(SEPARATOR) if part}
    names = columns or tuple(sorted(there, key=natural))
    return _labelled(table, root, rows, column.array(texts, names), names, notes)


def read_numbers(images: str | Path, labels: str | Path | None, classes: Sequence[str]) -> Labelled:
    """The images that a CSV gives numbers: a column for each of the run's, or all in the column label, split at `;`.

    Raises:
        UserError: no such file, one that is wrong, or other than as many numbers as the run predicts.
    """
    root, table, columns = _opened(images, labels, classes)
    column = Numbers(columns)
    rows, notes = rows_of_table(table, root, column)
    for row in rows:
        if (count := row.label.count(SEPARATOR) + 1) != len(classes):
            raise UserError(
                f"{table}:{row.line}: column 'label' holds {count} numbers, and the run predicts {len(classes)} "
                f"({', '.join(classes)}); expected as many, split at '{SEPARATOR}'."
            )
    return _labelled(table, root, rows, column.array([row.label for row in rows], classes), tuple(classes), notes)


def _opened(
    images: str | Path, labels: str | Path | None, classes: Sequence[str]
) -> tuple[Path, Path, tuple[str, ...]]:
    """(the folder of the images, the CSV, the columns of the run's labels in it; none where column label holds them).

    Raises:
        UserError: there is no such place, or the CSV has neither.
    """
    root = folder_of(images)
    if labels is None:
        raise UserError(
            f"images={images}: class folders say one class for each image; give labels=FILE.csv, {_NEEDED}."
        )
    table = table_at(root, labels, ".csv", _NEEDED)
    try:
        with open_text(table, "utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
    except (UnicodeDecodeError, csv.Error):
        header = []  # which reading it says
    lacking = [name for name in classes if name not in header]
    if not lacking:
        return root, table, tuple(classes)
    if "label" not in header and header:
        raise UserError(
            f"{table}: has no column '{lacking[0]}'{nearest(lacking[0], header)}, which the run predicts; expected the "
            f"columns {', '.join(classes)}, or the column label, and found {', '.join(header)}."
        )
    return root, table, ()


def _labelled(
    table: Path, root: Path, rows: Sequence[Row], values: np.ndarray, names: Sequence[str], notes: Sequence[str]
) -> Labelled:
    return Labelled(table.resolve().stem, split_of_rows(root, rows, values), tuple(names), tuple(notes))


def labels_known(labelled: Labelled, classes: Sequence[str], unknown: str = "refuse") -> Known:
    """The images with labels (N, classes) in the order of `classes`, matched by name.

    With `unknown=skip` the labels that the run does not know are left out, and all images stay.

    Raises:
        UserError: an image has a label that the run does not know, or no image has one that it knows.
    """
    there = labelled.split.labels > 0
    known = np.array([name in classes for name in labelled.classes], dtype=bool)
    counts = zip(labelled.classes, known, there.sum(0).tolist(), strict=True)
    others = {name: n for name, is_known, n in counts if n and not is_known}
    number, shared = int(there[:, ~known].any(1).sum()), int(there[:, known].any(1).sum())
    if not shared and not others:
        raise UserError(f"{labelled.name}: no image has a label; expected at least one that the run knows.")
    refuse_unknown(labelled.name, others, number, shared, classes, unknown)
    note = f"of {plural(number, 'image')} {left_out_in_words(others, 2)}" if others else ""
    return Known(_in_order(labelled, classes), others, note)


def numbers_known(labelled: Labelled, classes: Sequence[str], unknown: str = "refuse") -> Known:
    """The images with numbers (N, classes) in the order of `classes`, matched by name; others are passed over.

    Raises:
        UserError: one of the run's numbers is not there.
    """
    if lacking := [name for name in classes if name not in labelled.classes]:
        raise UserError(
            f"{labelled.name}: has no number '{lacking[0]}'{nearest(lacking[0], labelled.classes)}, which the run "
            f"predicts; it has {', '.join(labelled.classes)}."
        )
    return Known(_in_order(labelled, classes))


def _in_order(labelled: Labelled, classes: Sequence[str]) -> Split:
    """The images with a column for each of `classes`; of one that the set does not have it is 0."""
    place = {name: i for i, name in enumerate(labelled.classes)}
    values = np.zeros((len(labelled.split), len(classes)), dtype=np.float32)
    for at, name in enumerate(classes):
        if name in place:
            values[:, at] = labelled.split.labels[:, place[name]]
    return replace(labelled.split, labels=values)
