"""Objects that are less than a pixel once their image is resized: counted, and refused where they are many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from peftbench.common.amounts import agreeing
from peftbench.common.errors import Refusal
from peftbench.data.base import Split
from peftbench.tasks.detection.scenes import LEAST, SceneTransform

_ROLES = ("train", "validate", "test")


class _Small(NamedTuple):
    """How many of the objects of a split are too small, and one of them in words."""

    number: int
    of: int
    example: str


def note_small_objects(transform: SceneTransform, roles: Sequence[Split | None], share: float) -> list[str]:
    """Sentences on the objects that are less than a pixel wide or high on the input; crowds are not counted.

    In training nothing is learned from them. In evaluation they count as missed, as all that is not found.

    Args:
        transform: gives the size of each image on the input.
        roles: the splits to train on, to validate on and to test on.
        share: of the objects to train on, how many may be lost so.

    Raises:
        Refusal: more are.
    """
    keys = "data.size" if transform.size is not None else "data.min_size and data.max_size"
    sizes = list(transform.size) if transform.size is not None else f"{transform.min_size[-1]} and {transform.max_size}"
    notes: list[str] = []
    for role, split in zip(_ROLES, roles, strict=True):
        small = _count(transform, split)
        if not small.number:
            continue
        what = (
            f"{small.number:,} of the {small.of:,} objects to {role} on {agreeing(small.number)} less than a pixel "
            f"wide or high once {agreeing(small.number, 'its image is', 'their images are')} resized to that, such as "
            f"one of {small.example}"
        )
        part = small.number / small.of
        if role == "train" and part > share:
            raise Refusal(
                f"{keys}={sizes}: {what}; expected a larger one, or a larger share to leave out, such as "
                f"data.dropped={math.ceil(100 * part) / 100:g}."
            )
        they = agreeing(small.number, "it is", "they are")
        notes.append(f"{keys}={sizes}: {what}; {they} {'left out' if role == 'train' else 'hardly to be found'}")
    return notes


def _count(transform: SceneTransform, split: Split | None) -> _Small:
    annotated = [] if split is None else list(split.labels)
    alone = [~objects.crowd for objects in annotated]
    if not any(of.any() for of in alone):
        return _Small(0, 0, "")
    counts = [int(of.sum()) for of in alone]
    image = np.repeat(np.arange(len(annotated)), counts)
    boxes = np.concatenate([objects.boxes[of] for objects, of in zip(annotated, alone, strict=True)])
    sides = boxes[:, 2:] - boxes[:, :2]
    sizes = np.array([objects.size for objects in annotated], dtype=np.float64)[:, ::-1]
    fitted = np.array([transform.fit(objects.size) for objects in annotated], dtype=np.float64)[:, ::-1]
    small = np.flatnonzero((sides * (fitted / sizes)[image] < LEAST).any(axis=1))
    if not len(small):
        return _Small(0, len(boxes), "")
    first = int(small[0])
    (width, height), (whole_width, whole_height) = sides[first], sizes[image[first]]
    assert split is not None
    name = split.names[image[first]]
    example = f"{width:.4g} x {height:.4g} pixels in {name} ({whole_width:.0f} x {whole_height:.0f})"
    return _Small(len(small), len(boxes), example)
