"""The page of a classifier's run: which classes are taken for which, how sure it is, and its mistakes as pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from peftbench.common.amounts import plural
from peftbench.results.class_figures import (
    BINS,
    by_class,
    calibration_error,
    confusion_of,
    probabilities_of,
    reliability,
)
from peftbench.results.page_parts import Chart, PagePart
from peftbench.results.text_table import TextTable
from peftbench.tasks.run_pages import Explained, RunPage, Seen

MOST = 20
"""Pictures of a kind."""
_BARS = 40  # classes that are drawn
_PAIRS = 20  # classes that are taken for another, in the table
_CELLS = 4000  # of the matrix that are drawn, the largest first
_BINS = BINS


@dataclass(frozen=True)
class Figures:
    """What a classifier said of N images: `logits` (N, classes) and `labels` (N,)."""

    logits: np.ndarray
    labels: np.ndarray

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(N, classes), float64."""
        return probabilities_of(self.logits)

    @cached_property
    def said(self) -> np.ndarray:
        """The class that was said, (N,)."""
        return self.logits.argmax(1)

    @cached_property
    def sure(self) -> np.ndarray:
        """The probability of that class, (N,)."""
        return self.probabilities.max(1)

    @cached_property
    def right(self) -> np.ndarray:
        """Whether it is the true one, bool (N,)."""
        return self.said == self.labels

    @cached_property
    def confusion(self) -> np.ndarray:
        """Counts (classes, classes): rows are the truth, columns what was said."""
        return confusion_of(self.labels, self.said, self.logits.shape[1])

    def bins(self) -> list[list[float]]:
        """[mean probability, share right, images] of each of ten equal bins of the probability that has an image."""
        return reliability(self.sure, self.right, _BINS)


class ClassPage(RunPage):
    """Confusion, figures of each class, calibration, the surest mistakes and the least sure images."""

    def parts(self, seen: Seen) -> list[PagePart]:
        figures = _figures(seen)
        return [_confusion(seen, figures), _by_class(seen, figures), _calibration(figures), *_pictures(seen, figures)]

    def right(self, seen: Seen) -> np.ndarray:
        return _figures(seen).right

    def explained(self, seen: Seen) -> list[Explained]:
        """Three of the surest mistakes, and three images that it was surest of and right."""
        figures = _figures(seen)
        mistakes, right = _surest(figures, ~figures.right)[:3], _surest(figures, figures.right)[:3]
        return [Explained(i, int(figures.said[i]), _told(seen, figures, i)) for i in (*mistakes, *right)]


def _figures(seen: Seen) -> Figures:
    return Figures(seen.predictions.numpy(), np.asarray(seen.split.labels))


def _surest(figures: Figures, among: np.ndarray) -> list[int]:
    """Places of images, the surest first; of equal ones the first in the split."""
    places = np.flatnonzero(among)
    return places[np.argsort(-figures.sure[places], kind="stable")].tolist()


def _told(seen: Seen, figures: Figures, index: int) -> tuple[str, ...]:
    said = f"said {seen.classes[figures.said[index]]}, {100 * figures.sure[index]:.0f}\N{NO-BREAK SPACE}%"
    truth = seen.classes[figures.labels[index]]
    return (said, "right") if figures.right[index] else (said, f"is {truth}")


def _confusion(seen: Seen, figures: Figures) -> PagePart:
    counts = figures.confusion
    sums, wrong = counts.sum(1), counts * (1 - np.eye(len(counts), dtype=np.int64))
    rows, columns = np.nonzero(counts)
    order = np.argsort(-counts[rows, columns], kind="stable")[:_CELLS]
    cells = [[int(rows[i]), int(columns[i]), int(counts[rows[i], columns[i]])] for i in order]
    content = {"classes": list(seen.classes), "cells": cells, "sums": sums.tolist()}
    part = PagePart("Which classes are taken for which", charts=[Chart("matrix", "Confusion matrix", content)])
    if len(rows) > _CELLS:
        part.notes.append(f"The {_CELLS:,} fullest of {len(rows):,} cells are drawn.")
    rows, columns = np.nonzero(wrong)
    worst = np.argsort(-wrong[rows, columns], kind="stable")[:_PAIRS]
    if len(worst):
        table = TextTable("Taken most often for another", [("is", False), ("said", False), ("images", True)])
        for i in worst:
            number = int(wrong[rows[i], columns[i]])
            table.rows.append([seen.classes[rows[i]], seen.classes[columns[i]], f"{number:,} of {sums[rows[i]]:,}"])
            table.values.append([None, None, float(number)])
        part.tables.append(table)
    else:
        part.notes.append("No image is taken for another class.")
    return part


def _by_class(seen: Seen, figures: Figures) -> PagePart:
    counts = figures.confusion
    there = counts.sum(1)
    figures_of: list[tuple[str, int, list[float | None]]] = []
    for i, (name, row) in enumerate(zip(seen.classes, by_class(counts), strict=True)):
        figures_of.append((name, int(there[i]), [row["precision"], row["recall"], row["f1"]]))
    figures_of.sort(key=lambda row: (row[2][2] is None, row[2][2] or 0.0))
    columns = [("class", False), ("images", True), ("precision %", True), ("recall %", True), ("F1 %", True)]
    table = TextTable("", columns)
    for name, number, values in figures_of:
        table.rows.append([name, f"{number:,}", *map(_percent, values)])
        table.values.append([None, float(number), *values])
    drawn = [
        {"name": name, "values": values[:2], "told": _percent(values[2])}
        for name, number, values in figures_of[:_BARS]
        if number
    ]
    notes = ["The worst by F1 come first; at the right stands F1 in per cent."]
    if empty := [name for name, number, _ in figures_of if not number]:
        notes.append(f"{plural(len(empty), 'class')} without an image here: no recall, no F1.")
    content = {"names": ["precision", "recall"], "rows": drawn, "unit": "%"}
    title = "Precision and recall of each class"
    title = title if len(drawn) == len(figures_of) else f"{title}: the worst {len(drawn)}"
    return PagePart("By class", notes, [Chart("bars", title, content)] if drawn else [], [table])


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _calibration(figures: Figures) -> PagePart:
    bins = figures.bins()
    error = calibration_error(bins)
    sure, right = figures.sure.mean(), figures.right.mean()
    lean = "surer than it is right" if sure > right else "less sure than it is right"
    told = (
        f"On average the model is {100 * sure:.1f} % sure and {100 * right:.1f} % right: {lean}. Expected calibration "
        f"error over {_BINS} equal bins: {100 * error:.1f} points."
    )
    return PagePart("How sure, and how often right", [told], [Chart("reliability", "Calibration", {"bins": bins})])


def _pictures(seen: Seen, figures: Figures) -> Iterable[PagePart]:
    mistakes = _surest(figures, ~figures.right)
    least = np.argsort(figures.sure, kind="stable")[:MOST].tolist()
    for title, places, of in (
        ("The surest mistakes", mistakes[:MOST], f"Of {plural(len(mistakes), 'mistake')}, the surest first."),
        ("The least sure", least, "The images of whose class it was least sure, the least sure first."),
    ):
        shown = [seen.thumbnail(i, _told(seen, figures, i)) for i in places]
        part = PagePart(title, [of if places else "There are none."])
        part.pictures = [picture for picture in shown if picture is not None]
        if gone := len(shown) - len(part.pictures):
            part.notes.append(f"{plural(gone, 'image')} cannot be read any more.")
        yield part
