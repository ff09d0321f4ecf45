"""How a task judges a finished run on new labelled images: `peftbench evaluate`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from peftbench.data.base import Split
from peftbench.data.labelled import Known, Labelled

Table = Sequence[Sequence[Any]]
"""The rows of a CSV, its heading first."""


@dataclass(frozen=True)
class Judged:
    """Images that a tuned model has looked at.

    Attributes:
        predictions: what `Task.evaluate` gave for N images, a tensor (N, …) or a list of N.
        split: the images; their labels are in the words of the run.
        classes: what the run tells apart, in the order of its predictions.
        task: that of the model.
        seed: of the intervals.
        held_out: the validation images of the run, where something is fitted on them.
    """

    predictions: Any
    split: Split
    classes: tuple[str, ...]
    task: Any
    seed: int = 0
    held_out: Judged | None = None

    @property
    def labels(self) -> np.ndarray:
        """Those of the split."""
        return self.split.labels


class Evaluator(ABC):
    """Reads labelled images in the form of its task, and says what the predictions for them amount to.

    Args:
        section: the section `task` of the run's config.
    """

    calibrates: ClassVar[bool] = False
    """Whether it fits a temperature on validation images."""

    def __init__(self, section: Any) -> None:
        self.section = section

    @abstractmethod
    def read(self, images: str | Path, labels: str | Path | None, classes: Sequence[str]) -> Labelled:
        """The images of a folder, with the labels that their folders or a file give them.

        Args:
            images: the folder.
            labels: the file, if any.
            classes: what the run tells apart.

        Raises:
            UserError: the images have no such labels, or the file is wrong.
        """

    @abstractmethod
    def known(self, labelled: Labelled, classes: Sequence[str], categories: Sequence[int], unknown: str) -> Known:
        """The images with labels in the words of the run, matched by name.

        Args:
            labelled: the images.
            classes: what the run tells apart.
            categories: the numbers of the classes in the data set's own files, where it has such.
            unknown: `skip` leaves out what the run does not know, `refuse` does not go on.

        Raises:
            UserError: something that the run does not know, or nothing is left.
        """

    @abstractmethod
    def headline(self, judged: Judged) -> dict[str, float]:
        """The few figures that stand for all, of which there are also intervals; the same names as in a run's test."""

    @abstractmethod
    def figures(self, judged: Judged) -> dict[str, Any]:
        """All figures, those of `headline` among them, in plain values: the record holds them."""

    @abstractmethod
    def lines(self, figures: Mapping[str, Any]) -> list[str]:
        """The figures in words, for the terminal."""

    def notes(self, judged: Judged, figures: Mapping[str, Any]) -> list[str]:
        """What a reader of the figures, those of `figures`, should know of them and the labels, a sentence each."""
        return []

    def tables(self, figures: Mapping[str, Any]) -> Mapping[str, Table]:
        """Tables that lie beside the record as CSV, by name."""
        return {}


def without_images(judged: Judged, there: np.ndarray) -> list[str]:
    """A sentence on the classes that no image has, none where all are there.

    Args:
        there: bool (classes,), whether one is.
    """
    empty = [name for name, is_there in zip(judged.classes, there, strict=True) if not is_there]
    if not empty:
        return []
    names = ", ".join(f"'{name}'" for name in empty[:5]) + (", …" if len(empty) > 5 else "")
    number = "1 class" if len(empty) == 1 else f"{len(empty):,} classes"
    return [f"{number} without an image here: {names}; means over classes are over those with one"]


def percent(value: float | None) -> str:
    """With one digit, without the sign; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def with_interval(told: str, value: float | None, interval: Sequence[float] | None) -> str:
    """A line such as `accuracy: 75.0 % (95 % interval 58.2 to 90.1)`."""
    if value is None:
        return f"{told}: –"
    return f"{told}: {percent(value)} %{between(interval)}"


def between(interval: Sequence[float] | None) -> str:
    """The interval in words, to stand behind a figure in percent; nothing where there is none."""
    return f" (95 % interval {percent(interval[0])} to {percent(interval[1])})" if interval else ""


def columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str], first: str = "class") -> list[str]:
    """Rows as aligned text: `name`, then counts as they are and shares in percent."""
    width = max(5, len(first), *(len(row["name"]) for row in rows))
    wide = [max(11, len(name) + 2) for name in names]
    lines = [f"{first:{width}}" + "".join(f"{name:>{w}}" for name, w in zip(names, wide, strict=True))]
    for row in rows:
        values = (f"{value:,}" if isinstance(value := row[name], int) else percent(value) for name in names)
        lines.append(f"{row['name']:{width}}" + "".join(f"{v:>{w}}" for v, w in zip(values, wide, strict=True)))
    return lines


def nulled(value: float) -> float | None:
    """The number, None where it is not one."""
    return None if np.isnan(value) else float(value)
