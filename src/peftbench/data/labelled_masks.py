"""New images with masks for a finished run of segmentation, their classes matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.common.home import with_home
from peftbench.data.class_list import FILES, coding_of_values, read_classes
from peftbench.data.labelled import Known, Labelled, folder_of, left_out_in_words, refuse_unknown
from peftbench.data.masks import IGNORED, Mask, MaskFile, counts_of_pixels, mask_split
from peftbench.data.seg_folder import pairs_of


@dataclass(frozen=True)
class Renumbered(Mask):
    """A mask whose classes have other numbers: `numbers` of each, `IGNORED` where there is none."""

    mask: Mask
    numbers: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.mask.name

    @property
    def stamp(self) -> str:
        return f"{self.mask.stamp}-{','.join(map(str, self.numbers))}"

    @property
    def bytes(self) -> int:
        return self.mask.bytes

    def read(self) -> np.ndarray:
        table = np.full(256, IGNORED, dtype=np.uint8)
        table[: len(self.numbers)] = self.numbers
        return np.asarray(table[self.mask.read()])


def read_masks(images: str | Path, labels: str | Path | None, classes: Sequence[str]) -> Labelled:
    """The images of a folder with the masks of the same stems in another.

    Where a classes.csv or classes.txt lies in either folder, or beside it, it says what the masks hold; else their
    values are the numbers of the run's classes.

    Args:
        images: the folder of the images; of images/ and masks/, where `labels` is not given.
        labels: the folder of the masks.
        classes: what the run tells apart.

    Raises:
        UserError: no such place, or an image or mask without a partner.
    """
    root = folder_of(images)
    if labels is None:
        if not ((root / "images").is_dir() and (root / "masks").is_dir()):
            raise UserError(
                f"images={images}: holds no images/ and masks/; give the folder of the masks (labels=FOLDER)."
            )
        of_images, of_masks = root / "images", root / "masks"
    else:
        of_images, of_masks = root, Path(with_home(str(labels), f"labels={labels}"))
        if not of_masks.is_dir():
            raise UserError(f"labels={labels}: there is no such folder; expected that of the masks.")
    notes: list[str] = []
    pairs = pairs_of(of_images, of_masks, 0.0, notes)
    places = (of_images, of_masks, root, of_masks.parent)
    file = next((place / name for place in places for name in FILES if (place / name).is_file()), None)
    if file is not None:
        names, coding = read_classes(file, (IGNORED,))
    else:
        names, coding = tuple(classes), coding_of_values(classes)
    masks = [MaskFile(pair.mask, coding) for pair in pairs]
    named = [pair.image.relative_to(of_images).as_posix() for pair in pairs]
    whole = root.resolve().parent if root.name == "images" else root.resolve()  # else every such set has that name
    return Labelled(whole.name, mask_split([pair.image for pair in pairs], masks, named), names, tuple(notes))


def masks_known(labelled: Labelled, classes: Sequence[str], unknown: str = "refuse") -> Known:
    """The images with masks whose classes are indices of `classes`, matched by name.

    With `unknown=skip` the pixels of other classes are ignored, and all images stay.

    Args:
        labelled: the images.
        classes: what the run tells apart.
        unknown: `refuse` or `skip`.

    Raises:
        UserError: pixels of a class that the run does not know, or no other pixel is left.
    """
    place = {name: i for i, name in enumerate(classes)}
    numbers = tuple(place.get(name, IGNORED) for name in labelled.classes)
    if numbers == tuple(range(len(classes))):
        return Known(labelled.split, {}, "")
    masks: list[Mask] = list(labelled.split.labels)
    counts = counts_of_pixels(masks, len(labelled.classes)).sum(0)[:-1]
    there = zip(labelled.classes, counts, numbers, strict=True)
    others = {name: int(n) for name, n, number in there if n and number == IGNORED}
    number = sum(others.values())
    refuse_unknown(labelled.name, others, number, int(counts.sum()) - number, classes, unknown, "pixel")
    note = f"{plural(number, 'pixel')} with {left_out_in_words(others, number)}" if others else ""
    images = [path for path in labelled.split.images if isinstance(path, Path)]
    renumbered = mask_split(images, [Renumbered(mask, numbers) for mask in masks], labelled.split.names)
    return Known(renumbered, others, note)
