"""`test_confusion.csv` of a run: how many pixels of each class were taken for which."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from peftbench.common.atomic_files import replacing

FILE = "test_confusion.csv"


def write_matrix(rows: Sequence[Sequence[int]], classes: Sequence[str], folder: Path) -> None:
    """Writes the counts; rows are true classes, columns predicted ones. Raises UserError where that fails."""
    with replacing(folder / FILE) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["true \\ predicted", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, rows, strict=True))
