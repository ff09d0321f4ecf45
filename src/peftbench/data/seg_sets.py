"""Published sets with masks, in the layouts that they are handed out in: ADE20K, PASCAL VOC 2012 and COCO-Stuff."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from peftbench.common.errors import UserError
from peftbench.common.regular_files import text_in
from peftbench.data.base import DataMissing, DataSet, Splits
from peftbench.data.listing import files_in
from peftbench.data.masks import IGNORED, Coding
from peftbench.data.media import is_image
from peftbench.data.panoptic import PanopticMask, read_panoptic
from peftbench.data.seg_folder import Pair, SegFolder, found_images, pairs_of, stems_in

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Ids of COCO's things that no release has."""
_STUFF = 182  # ids, from 1, with these


@dataclass(frozen=True, kw_only=True)
class OfficialSet(DataSet):
    """A published set under `root`. What it calls its validation set, on which everybody reports, is the test set here:
    it is looked at once. Validation images come from its training set, with `val_fraction`, drawn with `split_seed`.
    """

    places: ClassVar[tuple[str, ...]] = ("root",)
    title: ClassVar[str]
    """What messages call it."""

    root: str
    val_fraction: float = 0.0
    split_seed: int = 0

    def load(self) -> Splits:
        root = self._root()
        pairs = {"train": self.pairs(root, "train"), "test": self.pairs(root, "test")}
        return self._folder().splits(root, self._named(type(self).__name__.lower()), pairs, self.coding(root))

    @abstractmethod
    def pairs(self, root: Path, role: str) -> list[Pair]:
        """The images to `train` on, or to `test`, with their masks. Raises UserError."""

    @abstractmethod
    def coding(self, root: Path) -> tuple[tuple[str, ...], Coding]:
        """The names of the classes, and what its masks hold. Raises UserError."""

    def _folder(self) -> SegFolder:
        """What makes the splits. Raises UserError for an option that makes no sense."""
        made = SegFolder(self.root, val_fraction=self.val_fraction, split_seed=self.split_seed)
        made.check()
        return made

    def _root(self) -> Path:
        self._folder()
        root = Path(os.path.expanduser(self.root))
        if not root.is_dir():
            raise DataMissing(
                f"data.root={self.root}: there is no folder {root.absolute()}; give that of {self.title}."
            )
        return root

    def _named(self, name: str) -> str:
        return f"{name}-val{self.val_fraction:g}-s{self.split_seed}" if self.val_fraction else name

    def _inside(self, root: Path, *places: str) -> list[Path]:
        """Folders, or files, of the root. Raises UserError where one is not there."""
        for place in places:
            if not (root / place).exists():
                raise DataMissing(
                    f"data.root={self.root}: {place} is not in {root.absolute()}; put {self.title} there."
                )
        return [root / place for place in places]


@dataclass(frozen=True, kw_only=True)
class ADE20K(OfficialSet):
    """The SceneParsing benchmark's ADEChallengeData2016: 150 classes, 20,210 images to train and 2,000 to test.

    images/training, images/validation, and annotations/ of the same, whose value 0 is no class; the names are those of
    objectInfo150.txt, where that is there.
    """

    title: ClassVar[str] = "ADEChallengeData2016, with images/ and annotations/"

    def pairs(self, root: Path, role: str) -> list[Pair]:
        part = {"train": "training", "test": "validation"}[role]
        images, masks = self._inside(root, f"images/{part}", f"annotations/{part}")
        return pairs_of(images, masks, 0.0, [])

    def coding(self, root: Path) -> tuple[tuple[str, ...], Coding]:
        count = 150
        values = {0: IGNORED, **{i + 1: i for i in range(count)}}
        file = root / "objectInfo150.txt"
        if not file.is_file():
            return tuple(map(str, range(1, count + 1))), Coding(values, count)
        rows = [line.split("\t") for line in text_in(file).splitlines()[1:] if line.strip()]
        if len(rows) != count or any(len(row) < 2 for row in rows):
            raise UserError(f"{file}: names {len(rows)} classes; expected {count}, a line each below a heading.")
        return _told_apart([row[-1].strip() for row in rows]), Coding(values, count)


@dataclass(frozen=True, kw_only=True)
class VOCSeg(OfficialSet):
    """PASCAL VOC 2012: 21 classes, background among them; 1,464 images to train and 1,449 to test.

    JPEGImages, SegmentationClass, whose value 255 is no class, and ImageSets/Segmentation with the lists. `train_list`
    is that of the training images, `trainaug`, say; `masks` the folder of the masks, which holds those of it too.
    """

    title: ClassVar[str] = "VOCdevkit/VOC2012, with JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/"

    train_list: str = "train"
    masks: str = "SegmentationClass"

    def pairs(self, root: Path, role: str) -> list[Pair]:
        name = self.train_list if role == "train" else "val"
        images, masks, file = self._inside(root, "JPEGImages", self.masks, f"ImageSets/Segmentation/{name}.txt")
        stems = list(dict.fromkeys(stem for _, stem in stems_in(file)))
        return [Pair(stem, _there(images, stem, ".jpg", file), _there(masks, stem, ".png", file)) for stem in stems]

    def coding(self, root: Path) -> tuple[tuple[str, ...], Coding]:
        values = {i: i for i in range(len(VOC_CLASSES))} | {IGNORED: IGNORED}
        return VOC_CLASSES, Coding(values, len(VOC_CLASSES))


@dataclass(frozen=True, kw_only=True)
class CocoStuff(OfficialSet):
    """COCO-Stuff's 171 classes of things and stuff: 118,287 images to train and 5,000 to test.

    images/train2017, images/val2017, and annotations/ of the same with the masks of stuffthingmaps: their values are
    COCO's ids less 1, and 255 is no class. The names are those of labels.txt, where that is there.

    With `masks=panoptic` there are the 133 classes of COCO's panoptic annotations/panoptic_train2017.json and
    panoptic_val2017.json, whose PNGs lie in folders of these names; they name the classes.
    """

    title: ClassVar[str] = "COCO-Stuff, with images/ and annotations/ of train2017 and val2017"

    parts: ClassVar[dict[str, str]] = {"train": "train2017", "test": "val2017"}

    masks: str = "stuffthingmaps"

    def load(self) -> Splits:
        if self.masks == "stuffthingmaps":
            return super().load()
        if self.masks != "panoptic":
            raise UserError(f"data.masks={self.masks}: expected stuffthingmaps or panoptic.")
        root = self._root()
        parts: dict[str, tuple[list[Path], list[PanopticMask]]] = {}
        classes: tuple[str, ...] = ()
        for role, part in self.parts.items():
            images, file = self._inside(root, f"images/{part}", f"annotations/panoptic_{part}.json")
            named, masks = read_panoptic(file)
            if classes and named != classes:
                raise UserError(f"{file}: has other categories than the training set's; expected the same.")
            classes = named
            parts[role] = found_images(file, [name for name, _ in masks], [images]), [mask for _, mask in masks]
        return self._folder().made(root, self._named("cocopanoptic"), classes, parts)

    def pairs(self, root: Path, role: str) -> list[Pair]:
        part = self.parts[role]
        images, masks = self._inside(root, f"images/{part}", f"annotations/{part}")
        known = [path for path in files_in(masks) if is_image(path)]
        if not known:
            raise UserError(f"{masks}: holds no mask.")
        return pairs_of(images, masks, 0.0, [])

    def coding(self, root: Path) -> tuple[tuple[str, ...], Coding]:
        ids = [id_ for id_ in range(1, _STUFF + 1) if id_ not in _UNUSED_IDS]
        coding = Coding({id_ - 1: i for i, id_ in enumerate(ids)} | {IGNORED: IGNORED}, len(ids))
        file = root / "labels.txt"
        if not file.is_file():
            return tuple(map(str, ids)), coding
        named = {}
        for number, line in enumerate(text_in(file).splitlines(), start=1):
            found = re.fullmatch(r"\s*(\d+)\s*:\s*(.+?)\s*", line)
            if line.strip() and found is None:
                raise UserError(f"{file}:{number}: '{line[:60]}' is no id and name; expected such as 1: person.")
            if found:
                named[int(found[1])] = found[2]
        if lacking := [id_ for id_ in ids if id_ not in named]:
            raise UserError(f"{file}: names no class {lacking[0]}; expected {len(ids)} ids.")
        return _told_apart([named[id_] for id_ in ids]), coding


def _told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Each name's first word among synonyms, or all of it where that is another's too."""
    short = [re.split(r"[,;]", name)[0].strip() for name in names]
    return tuple(s if short.count(s) == 1 else name for s, name in zip(short, names, strict=True))


def _there(folder: Path, stem: str, suffix: str, listed: Path) -> Path:
    path = folder / f"{stem}{suffix}"
    if not path.is_file():
        raise UserError(f"{listed}: names {stem}, and there is no {path}.")
    return path
