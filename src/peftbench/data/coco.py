"""Detection data in COCO's format: the official folders of COCO 2017, and anybody's own JSON files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError
from peftbench.common.readable_names import forms_of
from peftbench.data.annotations import Annotations, read_annotations
from peftbench.data.base import Splits
from peftbench.data.box_units import in_pixels
from peftbench.data.boxes import MASKS, BoxSet, BoxSplit, Objects, box_split, note_dropped
from peftbench.data.coco_merging import merge_entries
from peftbench.data.coco_parent import without_parent
from peftbench.data.layout import role_of
from peftbench.data.listing import folders_in
from peftbench.data.media import size_in_file
from peftbench.data.object_segments import segments_of
from peftbench.data.segment_forms import Segment
from peftbench.data.yolo import read_yolo
from peftbench.data.yolo_yaml import find_yaml

EXPORTED = "_annotations.coco.json"
"""What Roboflow calls the file of a split, in the split's folder."""


@dataclass(frozen=True, kw_only=True)
class Coco(BoxSet):
    """COCO 2017 under `root`: annotations/instances_{train,val}2017.json, train2017/, val2017/.

    Its val2017, on which everybody reports, is the test set here: it is looked at once. Validation images come from
    train2017, with `val_fraction`.
    """

    places: ClassVar[tuple[str, ...]] = ("root",)

    root: str

    def load(self) -> Splits:
        return self.load_as("own")

    def load_as(self, targets: str) -> Splits:
        self.check()
        root = _folder(self.root, "COCO 2017, with annotations/, train2017/ and val2017/")
        files = {"train": "annotations/instances_train2017.json", "test": "annotations/instances_val2017.json"}
        for file in files.values():
            if not (root / file).is_file():
                raise UserError(
                    f"data.root={self.root}: {file} is not in {root.absolute()}; put COCO 2017 there, or take "
                    f"data=coco_folder for files of your own."
                )
        folders = {"train": [root / "train2017"], "test": [root / "val2017"]}
        paths = {role: root / file for role, file in files.items()}
        return splits_from_files(self, "coco2017", paths, folders, masks=targets == MASKS)


@dataclass(frozen=True, kw_only=True)
class CocoFolder(BoxSet):
    """JSON files in COCO's format, `train` and the like, absolute or relative to `root`.

    With three files `val` is watched after every epoch and `test` tested once. Where only one of `val` and `test` is
    given, it is the test set, since what was watched is no test. `images` is the folder of the images, or several;
    without it they are looked for beside the JSON file, in root/<split>, root/images/<split>, root/images and root.

    Where `train` is left at its default and is not there, two other forms are found: Roboflow's, with
    <split>/_annotations.coco.json, and YOLO's, with a data.yaml.
    """

    places: ClassVar[tuple[str, ...]] = ("root", "train", "val", "test", "images")

    root: str
    train: str = "annotations/instances_train.json"
    val: str | None = "annotations/instances_val.json"
    test: str | None = None
    images: str | tuple[str, ...] | None = None

    def load(self) -> Splits:
        return self.load_as("own")

    def load_as(self, targets: str) -> Splits:
        self.check()
        masks = targets == MASKS
        root = _folder(self.root, "your annotations and images")
        paths = {"train": self.train, "val": self.val, "test": self.test}
        if self._is_default() and not (root / self.train).is_file():
            if exported := find_exported(root):
                paths = {"train": None, "val": None, "test": None, **exported}
            elif described := find_yaml(root):
                return self._yolo(root, described, masks)
        files = {role: root / Path(os.path.expanduser(file)) for role, file in paths.items() if file is not None}
        for role, file in files.items():
            if not file.is_file():
                sentence = f"data.{role}={paths[role]}: there is no file {file.absolute()}"
                if self._is_default():
                    sentence += (
                        f"; {root} holds neither <split>/{EXPORTED} nor a data.yaml, so name yours (data.{role}=FILE)"
                    )
                raise UserError(f"{sentence}.")
        folders = {role: self._folders(root, role, file) for role, file in files.items()}
        if "test" not in files and "val" in files:
            files["test"], folders["test"] = files.pop("val"), folders["val"]
        return splits_from_files(self, root.resolve().name, files, folders, self.images is not None, masks)

    def _is_default(self) -> bool:
        """Whether no file is named, so that other forms may be looked for."""
        return (self.train, self.val, self.test) == (CocoFolder.train, CocoFolder.val, CocoFolder.test)

    def _yolo(self, root: Path, described: Path, masks: bool) -> Splits:
        if self.images is not None:
            raise UserError(f"data.images={self.images}: is for JSON files, but {described} says where images are.")
        yolo, notes = read_yolo(root, described, masks)
        if "test" not in yolo and "val" in yolo:
            yolo["test"] = yolo.pop("val")
        splits = {role: _split(self, s.annotations, s.places, s.folders, notes) for role, s in yolo.items()}
        classes = classes_of(yolo["train"].annotations.categories)
        name = root.resolve().name
        return self.splits(name, classes, splits["train"], splits.get("val"), splits.get("test"), tuple(notes))

    def _folders(self, root: Path, role: str, file: Path) -> list[Path]:
        if self.images is None:
            places = (file.parent, root / role, root / "images" / role, root / "images", root)
            return [place for place in dict.fromkeys(places) if place.is_dir()]
        paths = (self.images,) if isinstance(self.images, str) else self.images
        folders = [root / Path(os.path.expanduser(folder)) for folder in paths]
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"data.images={self.images}: there is no folder {folder.absolute()}.")
        return folders


def find_exported(root: Path) -> dict[str, str]:
    """The files of Roboflow's form by role, <split>/_annotations.coco.json; none where it is another.

    Raises:
        UserError: two folders for one split, or none to train on.
    """
    files: dict[str, str] = {}
    for folder in folders_in(root):
        role = role_of(folder.name)
        if role is None or not (folder / EXPORTED).is_file():
            continue
        if role in files:
            raise UserError(f"data.root={root}: {files[role]} and {folder.name} are both of {role}; expected one.")
        files[role] = f"{folder.name}/{EXPORTED}"
    if files and "train" not in files:
        raise UserError(f"data.root={root}: holds {', '.join(files.values())}, but no train/{EXPORTED} to train on.")
    return files


def _folder(root: str, content: str) -> Path:
    folder = Path(os.path.expanduser(root))
    if not folder.is_dir():
        raise UserError(f"data.root={root}: there is no folder {folder.absolute()}; give the folder of {content}.")
    return folder


def splits_from_files(
    of: BoxSet,
    name: str,
    files: dict[str, Path],
    folders: dict[str, list[Path]],
    spread: bool = True,
    masks: bool = False,
) -> Splits:
    """The splits of JSON files by role (train, and val and test where given).

    Args:
        of: the options of the data set.
        name: the name of the data set.
        files: the JSON file of each role.
        folders: by role, where its images may be.
        spread: images may be in any of the folders, else all are in one.
        masks: whether the objects' pixels are read, too.

    Raises:
        UserError: a file that is not COCO's, categories that differ between files, or images or masks that are missing.
    """
    annotations = {role: read_annotations(file, masks) for role, file in files.items()}
    for other in annotations.values():
        _require_same_categories(annotations["train"], other)
    notes: list[str] = []
    annotations = without_parent(annotations, notes)
    splits = {role: split_of_file(of, listed, folders[role], notes, spread) for role, listed in annotations.items()}
    classes = classes_of(annotations["train"].categories)
    return of.splits(name, classes, splits["train"], splits.get("val"), splits.get("test"), tuple(notes))


def split_of_file(
    of: BoxSet, listed: Annotations, folders: Sequence[Path], notes: list[str], spread: bool = False
) -> BoxSplit:
    """The images of one JSON file, with their objects; the other arguments are as of `splits_from_files`.

    Args:
        notes: takes what a user should know of what is left out.

    Raises:
        UserError: images that are missing, or boxes that are no use, beyond the share that `of` permits.
    """
    places = _places(listed, folders, spread)
    merged, kept, note = merge_entries(listed, [p or n for p, n in zip(places, listed.names, strict=True)])
    notes += [note] if note else []
    return _split(of, merged, [places[at] for at in kept], folders, notes)


def classes_of(categories: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    """The names; where two categories have the same, their ids tell them apart."""
    names = [name for _, name in categories]
    return tuple(f"{name} (id {id_})" if names.count(name) > 1 else name for id_, name in categories)


def _require_same_categories(first: Annotations, other: Annotations) -> None:
    ours, theirs = dict(first.categories), dict(other.categories)
    if ours == theirs:
        return
    id_ = min(i for i in ours | theirs if ours.get(i) != theirs.get(i))
    here, there = (f"'{c[id_]}'" if id_ in c else "nothing" for c in (theirs, ours))
    raise UserError(
        f"{other.file}: category {id_} is {here}, but {there} in {first.file}; expected the same categories in both."
    )


def _places(annotations: Annotations, folders: Sequence[Path], spread: bool) -> list[Path | None]:
    """Where each image is; None where it is in none of the folders. Folders are listed, not asked for each file."""
    forms = [forms_of(name) for name in annotations.names]
    parents = {form.rpartition("/")[0] for of_name in forms for form in of_name}
    there = [
        {f"{parent}/{file}" if parent else file for parent in parents for file in _files(folder / parent)}
        for folder in folders
    ]
    if not spread and there:
        hits = [sum(not listed.isdisjoint(of_name) for of_name in forms) for listed in there]
        best = hits.index(max(hits))
        folders, there = [folders[best]], [there[best]]
    both = list(zip(folders, there, strict=True))
    return [next((f / form for form in of_name for f, listed in both if form in listed), None) for of_name in forms]


def _files(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if not entry.is_dir()]
    except (OSError, ValueError):
        return []


def _split(
    of: BoxSet, annotations: Annotations, places: Sequence[Path | None], folders: Sequence[Path], notes: list[str]
) -> BoxSplit:
    """The images that are there, with their objects.

    What is left out is noted in `notes`, or refused where it is more than the share that `of` lets be `missing` or
    `dropped`.
    """
    missing = of.missing
    gone = [at for at, place in enumerate(places) if place is None]
    if gone:
        problem = (
            f"{len(gone):,} of {len(places):,} images {agreeing(len(gone))} not there, such as "
            f"{annotations.names[gone[0]]}"
        )
        if len(gone) > missing * len(places) or len(gone) == len(places):
            raise UserError(
                f"{annotations.file}: {problem} (looked for in {', '.join(map(str, folders)) or 'no folder'}); "
                f"expected all, or a larger share to leave out, such as data.missing=0.1."
            )
        theirs = int(np.isin(annotations.image, gone).sum())
        notes.append(f"{annotations.file.name}: {problem}; {_left_out(len(gone))}, with {plural(theirs, 'box')}")
    if annotations.orphan:
        count = int((annotations.image < 0).sum())
        problem = (
            f"{count:,} of {len(annotations.image):,} annotations {agreeing(count, 'is of an image', 'are of images')} "
            f"that {agreeing(count)} not listed, such as"
        )
        if count > missing * len(annotations.image):
            raise UserError(
                f"{annotations.file}: {problem} {annotations.orphan}; expected each image_id among the images' ids, or "
                f"a larger share to leave out, such as data.missing=0.1."
            )
        notes.append(f"{annotations.file.name}: {problem} {annotations.orphan}; {_left_out(count)}")
    sizes = _sizes(annotations, places)
    objects = _objects(in_pixels(annotations, sizes, notes), sizes, of.dropped, notes)
    kept = [at for at, place in enumerate(places) if place is not None]
    return box_split(
        [place for place in places if place is not None],
        [objects[at] for at in kept],
        [annotations.names[at] for at in kept],
        [id_ for id_, _ in annotations.categories],
    )


def _left_out(number: int) -> str:
    return f"{agreeing(number, 'it is', 'they are')} left out"


def _sizes(annotations: Annotations, places: Sequence[Path | None]) -> np.ndarray:
    """Height and width of each image: what the file says, else what the image does once it stands upright."""
    sizes = annotations.sizes.copy()
    unknown = [at for at in np.flatnonzero(sizes[:, 0] == 0).tolist() if places[at] is not None]

    def look(at: int) -> tuple[int, int]:
        place = places[at]
        assert place is not None
        lacking = f"{annotations.file} does not say its width and height"
        return size_in_file(place, f"{lacking}; repair it, or take it out of the file")

    if unknown:
        with ThreadPoolExecutor() as pool:
            sizes[unknown] = list(pool.map(look, unknown))
    return sizes


def _objects(annotations: Annotations, sizes: np.ndarray, share: float, notes: list[str]) -> list[Objects]:
    """The objects of each image, their boxes clipped to it; what is empty then is left out, up to a share."""
    listed = annotations.image >= 0
    limits = sizes[annotations.image][:, [1, 0, 1, 0]]  # those without an image take any, and are dropped
    boxes = np.clip(annotations.boxes, 0, limits).astype(np.float32)
    whole = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    segments = None
    if annotations.segments is not None:
        segments, outside = segments_of(annotations, sizes, notes)
        whole &= ~outside
    known = sizes[annotations.image, 0] > 0  # else the image is not there
    dropped = np.flatnonzero(listed & known & ~whole)
    if len(dropped):
        x1, y1, x2, y2 = annotations.boxes[dropped[0]].tolist()
        height, width = sizes[annotations.image[dropped[0]]]
        note_dropped(
            annotations.file,
            f"{len(dropped):,} of {len(boxes):,} boxes{'' if segments is None else ' or masks'} "
            f"{agreeing(len(dropped), 'is', 'are')} empty or outside "
            f"{agreeing(len(dropped), 'its', 'their')} image, such as x {x1:.6g} to "
            f"{x2:.6g}, y {y1:.6g} to {y2:.6g} of {annotations.names[annotations.image[dropped[0]]]} ({width} x "
            f"{height})",
            len(dropped),
            len(boxes),
            share,
            notes,
        )
    unknown, box_area = np.isnan(annotations.area), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    area = np.where(unknown, box_area, annotations.area).astype(np.float32)
    keep = np.flatnonzero(listed & whole)
    keep = keep[np.argsort(annotations.image[keep], kind="stable")]
    ends = np.searchsorted(annotations.image[keep], np.arange(len(sizes) + 1))
    boxes, labels, crowd, area = boxes[keep], annotations.labels[keep], annotations.crowd[keep], area[keep]
    kept_segments = None if segments is None else [segments[at] for at in keep]
    return [
        Objects(int(id_), (int(h), int(w)), boxes[a:b], labels[a:b], crowd[a:b], area[a:b], _part(kept_segments, a, b))
        for id_, (h, w), a, b in zip(annotations.ids, sizes, ends[:-1], ends[1:], strict=True)
    ]


def _part(segments: Sequence[Segment | None] | None, first: int, last: int) -> tuple[Segment, ...] | None:
    return None if segments is None else tuple(segment for segment in segments[first:last] if segment is not None)
