"""New images with boxes for a finished detector: COCO's JSON, its categories matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.data.annotations import read_annotations
from peftbench.data.boxes import BoxSet, BoxSplit, Objects, box_split
from peftbench.data.coco import classes_of, split_of_file
from peftbench.data.labelled import Known, Labelled, folder_of, left_out_in_words, refuse_unknown, table_at

_NEEDED = "COCO's annotations as JSON (labels=FILE.json)"


def read_boxes(images: str | Path, labels: str | Path | None, masks: bool = False) -> Labelled:
    """The images that a JSON file in COCO's format lists, with their objects.

    Args:
        images: the folder of the images.
        labels: the file.
        masks: whether the objects' pixels are read, too.

    Raises:
        UserError: no such place, no such file, one that is not COCO's, an image that is not there, or no masks.
    """
    root = folder_of(images)
    if labels is None:
        raise UserError(f"images={images}: class folders hold no boxes; give {_NEEDED}.")
    file = table_at(root, labels, ".json", _NEEDED)
    listed = read_annotations(file, masks)
    notes: list[str] = []
    split = split_of_file(BoxSet(), listed, [root], notes)
    return Labelled(file.resolve().stem, split, classes_of(listed.categories), tuple(notes))


def boxes_known(
    labelled: Labelled, classes: Sequence[str], categories: Sequence[int], unknown: str = "refuse"
) -> Known:
    """The images with boxes whose labels are indices of `classes`, matched by name.

    With `unknown=skip` the boxes of other classes are left out, and all images stay.

    Args:
        labelled: the images.
        classes: what the run finds.
        categories: the numbers of the classes in the files that the run was trained on.
        unknown: `refuse` or `skip`.

    Raises:
        UserError: a box of a class that the run does not know, or no box is left.
    """
    split = labelled.split
    assert isinstance(split, BoxSplit)
    place = {name: i for i, name in enumerate(classes)}
    numbers = np.array([place.get(name, -1) for name in labelled.classes], dtype=np.int64)
    boxes = np.concatenate([objects.labels for objects in split.labels])
    if not len(boxes):
        raise UserError(f"{labelled.name}: none of its {plural(len(split), 'image')} has a box; expected some.")
    counts = np.bincount(boxes[numbers[boxes] < 0], minlength=len(labelled.classes))
    others = {name: int(n) for name, n in zip(labelled.classes, counts, strict=True) if n}
    number = sum(others.values())
    refuse_unknown(labelled.name, others, number, len(boxes) - number, classes, unknown, "box")
    note = f"{plural(number, 'box')} with {left_out_in_words(others, number)}" if others else ""
    objects = [_renumbered(one, numbers) for one in split.labels]
    images = [path for path in split.images if isinstance(path, Path)]
    return Known(box_split(images, objects, split.names, categories), others, note)


def _renumbered(objects: Objects, numbers: np.ndarray) -> Objects:
    """The objects with other numbers for their labels, without those of a negative one."""
    labels = numbers[objects.labels]
    kept = labels >= 0
    return replace(
        objects,
        boxes=objects.boxes[kept],
        labels=labels[kept],
        crowd=objects.crowd[kept],
        area=objects.area[kept],
        segments=objects.segments and tuple(objects.segments[i] for i in np.flatnonzero(kept)),
    )
