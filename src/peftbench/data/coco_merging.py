"""One image of the entries by which a COCO file lists it twice, as files with an entry for each object do."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from peftbench.common.errors import UserError
from peftbench.data.annotations import Annotations


def merge_entries(listed: Annotations, files: Sequence[Hashable]) -> tuple[Annotations, np.ndarray, str]:
    """(the annotations with one entry for each file, the places of these among the entries, a note or nothing).

    A file's entry is its first, with the objects of all. An object that a later entry repeats counts once.

    Args:
        listed: of M images.
        files: what file each entry is of, M.

    Raises:
        UserError: entries of one file that give it different sizes.
    """
    numbers: dict[Hashable, int] = {}
    number = np.array([numbers.setdefault(file, len(numbers)) for file in files], dtype=np.int64)
    kept = np.unique(number, return_index=True)[1]
    if len(kept) == len(number):
        return listed, kept, ""
    sizes = _sizes(listed, number, kept)
    image = np.where(listed.image >= 0, number[listed.image], -1)
    rows = np.column_stack([image, listed.labels, listed.crowd, listed.boxes])
    _, first, copy = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    whole = listed.image == listed.image[first[copy.reshape(-1)]]
    merged = replace(
        listed,
        ids=listed.ids[kept],
        names=[listed.names[at] for at in kept],
        sizes=sizes,
        image=image[whole],
        boxes=listed.boxes[whole],
        labels=listed.labels[whole],
        crowd=listed.crowd[whole],
        area=listed.area[whole],
        object_ids=None if listed.object_ids is None else listed.object_ids[whole],
        segments=None if listed.segments is None else [listed.segments[at] for at in np.flatnonzero(whole)],
    )
    again = int(np.flatnonzero(np.isin(np.arange(len(number)), kept, invert=True))[0])
    ids = f"ids {listed.ids[kept[number[again]]]} and {listed.ids[again]}"
    repeated = int((~whole).sum())
    more = f", each once ({repeated:,} repeated)" if repeated else ""
    note = (
        f"{listed.file.name}: {len(number):,} entries list {len(kept):,} images, such as {listed.names[again]} "
        f"({ids}); each is one image, with the boxes of all its entries{more}"
    )
    return merged, kept, note


def _sizes(listed: Annotations, number: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """int64 (images, 2): what any of the entries of an image says."""
    sizes = listed.sizes[kept].copy()
    for at in np.flatnonzero(listed.sizes[:, 0]).tolist():
        size = sizes[number[at]]
        if not size[0]:
            size[:] = listed.sizes[at]
        elif (size != listed.sizes[at]).any():
            one = kept[number[at]]
            raise UserError(
                f"{listed.file}: images {listed.ids[one]} and {listed.ids[at]} are both {listed.names[at]}, but of "
                f"{size[1]} x {size[0]} and {listed.sizes[at, 1]} x {listed.sizes[at, 0]} pixels; expected one size."
            )
    return sizes
