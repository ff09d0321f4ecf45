"""What a data set gives for each image beside the one class: several labels, or numbers; and how a CSV says it.

A task asks for one of `KINDS` in its schema (`TaskSchema.targets`); `own` is whatever the data set has by itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.readable_names import composed

SEPARATOR = ";"
_FLAGS = ("0", "1")


@dataclass(frozen=True)
class Column(ABC):
    """How the columns of a CSV say what is to be predicted. Here: one class, in the column label.

    A row is read into one text, in which equal targets are equal; `arrays` makes numbers of the texts.

    Args:
        columns: those that `data.label_columns` names; empty where the column label says it.
    """

    columns: tuple[str, ...] = ()
    plural: ClassVar[str] = "classes"

    def takes(self, cell: str) -> bool:
        """Whether a cell of a column that `data.label_columns` names may hold this; no column holds one class so."""
        return False

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that the CSV must have."""
        return self.columns or ("label",)

    @abstractmethod
    def text(self, row: Mapping[str, str], place: str) -> str:
        """The targets of one row; `place` is its file and line. Raises UserError."""

    @abstractmethod
    def names(self, texts: Sequence[str], file: Path) -> tuple[str, ...]:
        """What is predicted, of all rows of `file`. Raises UserError where they make no sense together."""

    @abstractmethod
    def array(self, texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
        """The targets of rows: int64 (N,) of classes, float32 (N, names) of labels (0 or 1) and of numbers."""


class OneClass(Column):
    """One class for each image."""

    def text(self, row: Mapping[str, str], place: str) -> str:
        if label := composed(_cell(row, "label")):
            return label
        raise UserError(f"{place}: expected a path and a label.")

    def names(self, texts: Sequence[str], file: Path) -> tuple[str, ...]:
        return tuple(sorted(set(texts), key=natural))

    def array(self, texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
        number = {name: i for i, name in enumerate(names)}
        return np.array([number[text] for text in texts], dtype=np.int64)


class SeveralLabels(Column):
    """Any number of labels for each image, also none: a column of 0 and 1 for each, or names split at `;`."""

    plural: ClassVar[str] = "labels"

    def takes(self, cell: str) -> bool:
        return cell.strip() in _FLAGS

    def text(self, row: Mapping[str, str], place: str) -> str:
        if not self.columns:
            return SEPARATOR.join(sorted(set(_parts(composed(_cell(row, "label"))))))
        for column in self.columns:
            if (cell := _cell(row, column)) not in _FLAGS:
                raise UserError(
                    f"{place}: column '{column}' holds {_shown(cell)}; expected 0 or 1, whether the image has the "
                    f"label."
                )
        return SEPARATOR.join(sorted(column for column in self.columns if _cell(row, column) == "1"))

    def names(self, texts: Sequence[str], file: Path) -> tuple[str, ...]:
        of_rows = {label for text in texts for label in _parts(text)}
        if not of_rows:
            where = f"columns {', '.join(self.columns)}" if self.columns else "column label"
            raise UserError(f"{file}: no row has a label ({where}); expected at least one image with one.")
        return self.columns or tuple(sorted(of_rows, key=natural))

    def array(self, texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
        number = {name: i for i, name in enumerate(names)}
        labels = np.zeros((len(texts), len(names)), dtype=np.float32)
        for at, text in enumerate(texts):
            labels[at, [number[label] for label in _parts(text)]] = 1
        return labels


class Numbers(Column):
    """One or several numbers for each image: a column for each, or the column label, split at `;`."""

    plural: ClassVar[str] = "numbers"

    def takes(self, cell: str) -> bool:
        try:
            return math.isfinite(_number(cell, ""))
        except UserError:
            return False

    def text(self, row: Mapping[str, str], place: str) -> str:
        if self.columns:
            cells = [(column, _cell(row, column)) for column in self.columns]
        else:
            cells = [("label", cell.strip()) for cell in _cell(row, "label").split(SEPARATOR)]
        return SEPARATOR.join(repr(_number(cell, f"{place}: column '{column}'")) for column, cell in cells)

    def names(self, texts: Sequence[str], file: Path) -> tuple[str, ...]:
        counts = [text.count(SEPARATOR) + 1 for text in texts]
        if other := next((count for count in counts if count != counts[0]), None):
            raise UserError(
                f"{file}: column 'label' holds {counts[0]} numbers in some rows and {other} in others; expected as "
                f"many in each, split at '{SEPARATOR}'."
            )
        several = tuple(f"label_{i}" for i in range(1, counts[0] + 1))
        names = self.columns or (several if len(several) > 1 else ("label",))
        refuse_constant(self.array(texts, names), names, f"{file}: ", "all rows")
        return names

    def array(self, texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
        return np.array([[float(part) for part in text.split(SEPARATOR)] for text in texts], dtype=np.float32)


KINDS: Mapping[str, type[Column]] = {"own": OneClass, "labels": SeveralLabels, "numbers": Numbers}
"""Kind of targets -> how a CSV says them."""


def refuse_constant(numbers: np.ndarray, names: Sequence[str], place: str, where: str) -> None:
    """Raises UserError where one of the numbers (N, names) is the same everywhere: nothing can be learned of it.

    Args:
        place: what the sentence begins with, such as the file.
        where: where it is the same.
    """
    for name, column in zip(names, numbers.T, strict=True):
        if len(column) and (column == column[0]).all():
            raise UserError(
                f"{place}'{name}' is {column[0]:g} in {where}; expected numbers that differ, since a constant cannot "
                f"be learned or judged."
            )


def strata(labels: np.ndarray) -> np.ndarray:
    """int64 (N,): the groups from each of which a split takes its share; all are one where images have no one class."""
    return labels if labels.ndim == 1 and labels.dtype.kind == "i" else np.zeros(len(labels), dtype=np.int64)


_DIGITS = 4000  # Python reads no longer numbers


def natural(label: str) -> tuple[int, int, str]:
    """Numbers as numbers, then words: '2' before '10'."""
    if label.isdecimal() and len(label) <= _DIGITS:
        return 0, int(label), label
    return 1, 0, label


def _cell(row: Mapping[str, str], column: str) -> str:
    return (row.get(column) or "").strip()


def _parts(text: str) -> list[str]:
    return [part for part in map(str.strip, text.split(SEPARATOR)) if part]


def _number(cell: str, place: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > float(np.finfo(np.float32).max):
        raise UserError(f"{place} holds {_shown(cell)}; expected a finite number, such as 3.5.")
    return value


def _shown(cell: str) -> str:
    return f"'{shortened(cell, 40)}'" if cell else "nothing"
