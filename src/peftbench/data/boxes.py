"""What a detection data set is: images with the objects annotated in them. Needs no torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.amounts import agreeing
from peftbench.common.errors import UserError
from peftbench.data.base import DataSet, Split, Splits, stamps_of_files
from peftbench.data.copies import first_copies
from peftbench.data.segment_forms import Segment
from peftbench.data.shared_images import notes_of_shared

MASKS = "masks"
"""What a task asks a data set for that wants the pixels of each object besides its box (`TaskSchema.asks`)."""
HASHED = 2 * 10**9
"""Bytes of image files up to which a split's hash is over the bytes themselves."""


@dataclass(frozen=True)
class Objects:
    """What is annotated in one image, in pixels of the original image as it stands upright.

    Attributes:
        id: of the image, in its file.
        size: (height, width).
        boxes: float32 (n, 4), x1 y1 x2 y2, within the image, x2 > x1 and y2 > y1.
        labels: int64 (n,), indices of classes.
        crowd: bool (n,), whether a box stands for a group, which COCO neither trains on nor counts as missed.
        area: float32 (n,) in square pixels: the segment's where the file gives it, which is what COCO's small, medium
            and large go by; else the box's.
    """

    id: int
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    segments: tuple[Segment, ...] | None = None

    @property
    def stamp(self) -> str:
        """A hash of all of it."""
        whole = hashlib.sha256(repr((self.id, self.size)).encode())
        for values in (self.boxes, self.labels, self.crowd, self.area):
            whole.update(np.ascontiguousarray(values).tobytes())
        for segment in self.segments or ():
            whole.update(b"|".join([*segment.polygons, segment.counts, b";"]))
        return whole.hexdigest()[:16]


@dataclass(frozen=True)
class BoxSplit(Split):
    """Images whose `labels` are an object array of `Objects`; `categories` are the classes' ids in their file."""

    def unknown(self, classes: int) -> tuple[int, int] | None:
        for at, objects in enumerate(self.labels):
            outside = objects.labels[(objects.labels < 0) | (objects.labels >= classes)]
            if len(outside):
                return at, int(outside[0])
        return None

    def lines(self) -> list[str]:
        """One line an image: its name, its objects, and its bytes.

        Where the files hold more than 2 GB together, as COCO's 18 GB do, reading them at every start would take
        minutes; then each file's size stands for its bytes.
        """
        assert not isinstance(self.images, np.ndarray)
        try:
            sizes = [path.stat().st_size for path in self.images]
        except OSError as problem:
            raise UserError(f"{problem.filename}: cannot be read ({problem.strerror}).") from None
        stamps = stamps_of_files(self.images) if sum(sizes) <= HASHED else [f"{size}B" for size in sizes]
        rows = zip(self.names, self.labels, stamps, strict=True)
        return [f"{name} {objects.stamp} {stamp}" for name, objects, stamp in rows]


def box_split(images: Sequence[Path], objects: Sequence[Objects], names: Sequence[str], ids: Sequence[int]) -> BoxSplit:
    """The split of these images; `ids` are the category ids of the classes."""
    labels = np.empty(len(objects), dtype=object)
    labels[:] = objects
    return BoxSplit(images, labels, names, categories=tuple(ids))


@dataclass(frozen=True)
class BoxSet(DataSet):
    """What all detection data sets can be asked for.

    With `data.size: null` images are resized so that the shorter side is `min_size` pixels, but the longer at most
    `max_size`: the last of several, which `data.augment=multiscale` draws among for each training image.

    `val_images` limits the validation images of an epoch, evenly spaced. `val_fraction` of the training images, drawn
    with `split_seed`, are held out to validate on, where no validation file is given. `empty` trains on images without
    objects too (evaluation always has them). `missing` is the share of listed images that may not be there, and of
    annotations whose image may not be listed; they are left out. `dropped` is the share of boxes that may be left out
    because they are empty, outside their image, or less than a pixel wide or high on the input.
    """

    places: ClassVar[tuple[str, ...]] = ("root", "train", "val", "test", "images")
    """For data sets from outside that name none; each of peftbench's names its own."""

    min_size: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    max_size: int = 1333
    val_images: int | None = None
    val_fraction: float = 0.0
    split_seed: int = 0
    empty: bool = False
    missing: float = 0.0
    dropped: float = 0.1

    def load_as(self, targets: str) -> Splits:
        if targets != MASKS:
            return self.load()
        raise UserError(
            f"task.masks=true: {type(self).__name__} gives boxes alone; take data=coco, data=coco_folder or "
            f"data=digits_det, or leave task.masks out."
        )

    def check(self) -> None:
        """Checks the options.

        Raises:
            UserError: an option that makes no sense.
        """
        if not self.min_size or min(self.min_size) < 1:
            raise UserError(f"data.min_size={list(self.min_size)}: expected one or more sizes in pixels, 1 or more.")
        for key, value in (("max_size", self.max_size), ("val_images", self.val_images)):
            if value is not None and value < 1:
                raise UserError(f"data.{key}={value}: expected at least 1.")
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"data.val_fraction={self.val_fraction}: expected at least 0 and below 1.")
        for key, share in (("missing", self.missing), ("dropped", self.dropped)):
            if not 0 <= share <= 1:
                raise UserError(f"data.{key}={share}: expected a share from 0 to 1.")
        if self.split_seed < 0:
            raise UserError(f"data.split_seed={self.split_seed}: expected 0 or more.")

    def splits(
        self,
        name: str,
        classes: tuple[str, ...],
        train: Split,
        val: Split | None,
        test: Split | None,
        notes: Sequence[str] = (),
    ) -> Splits:
        """The splits as the options ask for them.

        Raises:
            UserError: `val_fraction` beside validation images, or no training image with an object.
        """
        if self.val_fraction:
            if val is not None:
                raise UserError(
                    f"data.val_fraction={self.val_fraction}: {name} has validation images of its own; leave it out."
                )
            train, val = self._held_out(train)
            name = f"{name}-val{self.val_fraction:g}-s{self.split_seed}"
        watched = val
        if val is not None and self.val_images is not None and self.val_images < len(val):
            watched = val.take(np.linspace(0, len(val) - 1, self.val_images).round().astype(np.int64))
        both = self._with_objects(name, train + val) if val is not None else None
        sentences = (*notes, *notes_of_shared(train, val, test))
        return Splits(name, classes, self._with_objects(name, train), watched, test, both, notes=sentences)

    def _held_out(self, train: Split) -> tuple[Split, Split]:
        first = first_copies([path for path in train.images if isinstance(path, Path)])
        once = np.flatnonzero(first == np.arange(len(first)))
        count = min(max(round(self.val_fraction * len(once)), 1), len(once) - 1)
        if count < 1:
            raise UserError(f"data.val_fraction={self.val_fraction}: there is one training image, too few to hold out.")
        held = np.sort(once[np.random.default_rng(self.split_seed).permutation(len(once))[:count]])
        return train.take(np.flatnonzero(~np.isin(first, held))), train.take(held)

    def _with_objects(self, name: str, train: Split) -> Split:
        if self.empty:
            return train
        kept = np.flatnonzero([not objects.crowd.all() for objects in train.labels])
        if not len(kept):
            raise UserError(f"{name}: none of the {len(train)} training images has an object; expected some boxes.")
        return train if len(kept) == len(train) else train.take(kept)


def note_dropped(
    file: Path, problem: str, number: int, of: int, share: float, notes: list[str], key: str = "data."
) -> None:
    """Says in `notes` that a number of a file's boxes, `of` so many, is left out.

    Raises:
        UserError: it is more than the `share` that may be; `key` stands before the name of the option.
    """
    part = number / of
    if part > share:
        raise UserError(
            f"{file}: {problem}; expected boxes within their images, or a larger share to leave out, such as "
            f"{key}dropped={math.ceil(100 * part) / 100:g}."
        )
    notes.append(f"{file.name}: {problem}; {agreeing(number, 'it is', 'they are')} left out")
