"""What the targets of a split's images are, and how they are counted: classes, several labels, or numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError
from peftbench.data.base import Split

Noun = Literal["class", "label", "number"]
COMPARED: Mapping[Noun, tuple[str, str]] = {
    "class": ("the same label", "another label"),
    "label": ("the same labels", "other labels"),
    "number": ("the same numbers", "other numbers"),
}
"""What two images have, in words: where it is the same, and where not."""
_SHOWN = 20  # labels of which a line tells how many images they have


def noun_of(targets: str, split: Split) -> Noun:
    """What an image has: one class or objects with theirs, any number of labels, or numbers.

    Args:
        targets: what the task asks its data set for (`TaskSchema.targets`).
        split: one of the set's.
    """
    if split.labels.dtype.kind != "f":
        return "class"
    return "label" if targets == "labels" else "number"


def targets_of(split: Split, noun: Noun) -> Sequence[np.ndarray]:
    """What each image has: its class, those of its objects or its labels, in ascending order; or its numbers."""
    if noun == "number":
        return [np.atleast_1d(numbers) for numbers in split.labels]
    if noun == "label":
        return [np.flatnonzero(row) for row in split.labels]
    return [_classes_of(label) for label in split.labels]


def _classes_of(label: Any) -> np.ndarray:
    """Those of an image's one label, objects or mask, in ascending order; none of a mask that cannot be read."""
    try:
        return np.sort(np.atleast_1d(getattr(label, "labels", label)))
    except UserError:
        return np.zeros(0, dtype=np.int64)


def counts_of(targets: Sequence[np.ndarray], noun: Noun, classes: int) -> np.ndarray:
    """int64 (classes,): how many images, or objects, have each class or label; (0,) of numbers."""
    if noun == "number" or not classes:
        return np.zeros(0, dtype=np.int64)
    whole = np.concatenate([*targets, np.empty(0, dtype=np.int64)]).astype(np.int64)
    return np.bincount(whole, minlength=classes)


def lines_of_split(role: str, split: Split, noun: Noun, names: Sequence[str], counts: np.ndarray) -> Iterator[str]:
    """How many images a split has, and what of: a sentence, and of numbers one for each.

    Args:
        role: which split it is.
        split: its images.
        noun: what they have.
        names: those of the classes, labels or numbers.
        counts: as `counts_of`.
    """
    images = plural(len(split), "image")
    if noun == "class":
        yield f"{role}: {images}, {plural(int((counts > 0).sum()), 'class')}"
    elif noun == "label":
        most = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        shown = ", ".join(f"{names[at]} ({counts[at]:,})" for at in most[:_SHOWN])
        more = f" and {len(most) - _SHOWN:,} more" if len(most) > _SHOWN else ""
        bare = int((split.labels == 0).all(axis=1).sum())
        none = f"; {bare:,} {agreeing(bare, 'has', 'have')} none" if bare else ""
        yield f"{role}: {images}, {plural(len(most), 'label')}{': ' if shown else ''}{shown}{more}{none}"
    else:
        numbers = split.labels.reshape(len(split), -1).astype(np.float64)
        yield f"{role}: {images}, {plural(numbers.shape[1], 'number')}"
        for at, column in enumerate(numbers.T):
            name = names[at] if at < len(names) else f"number {at + 1}"
            yield f"{role}: {name} is {column.min():g} to {column.max():g}, on the mean {column.mean():g}"
