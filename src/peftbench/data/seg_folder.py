"""A user's own masks: the folders images/ and masks/ with the same stems, in splits by folder, by lists, or drawn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError
from peftbench.common.text_files import text_of
from peftbench.data.base import DataSet, Split, Splits
from peftbench.data.class_list import FILES, coding_of_values, read_classes
from peftbench.data.copies import first_copies
from peftbench.data.heif import require_heif
from peftbench.data.layout import ALL, ROLES, role_of
from peftbench.data.listing import folders_in, read_tree
from peftbench.data.masks import MOST, Coding, Mask, MaskFile, mask_split
from peftbench.data.media import DAMAGED, is_image, open_image
from peftbench.data.panoptic import is_panoptic, read_panoptic
from peftbench.data.segments import read_segments
from peftbench.data.shared_images import notes_of_shared
from peftbench.data.splitting import split_images


@dataclass(frozen=True)
class Pair:
    """An image and its mask; `stem` is the path that both have in their folders, without its suffix."""

    stem: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class SegFolder(DataSet):
    """Images under `root/images` and masks of the same stems under `root/masks`, in one of four forms.

    - `images/train/…` and `masks/train/…`, with val and test beside them: the splits are taken as they are;
    - `train/images/…` and `train/masks/…`, with val and test beside it: the same;
    - `images/…` and `masks/…` with the lists train.txt, val.txt and test.txt, a stem a line, in `root` or where
      `train`, `val` and `test` say;
    - without lists: `val_fraction` and `test_fraction` are drawn with `split_seed`, each image and its copies together.

    A mask holds a value a pixel, with a palette or without; or colours, which the CSV `classes` then gives with the
    columns name, r, g and b (classes.csv or classes.txt in `root`, if it is there). Where nothing names the classes,
    there are as many as the masks' largest value says. Pixels of the values `ignore` are neither learned from nor
    judged. Without masks/ there may be COCO's annotations/instances_train.json and the like (or `train` and the like
    name such): their polygons and run lengths are drawn, and pixels without an object are of the class background.
    Or COCO's panoptic annotations/panoptic_train.json, with PNGs of its segments in annotations/panoptic_train.
    `missing` is the share of images without a mask, and of masks without an image, that may be left out.
    """

    places: ClassVar[tuple[str, ...]] = ("root", "classes", "train", "val", "test")

    root: str
    classes: str | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    ignore: tuple[int, ...] = (255,)
    missing: float = 0.0

    def load(self) -> Splits:
        return self.load_called(Path(os.path.expanduser(self.root)).name)

    def load_called(self, name: str) -> Splits:
        """As `load`, with another name of the set. Raises UserError."""
        self.check()
        root = Path(os.path.expanduser(self.root))
        if not root.is_dir():
            raise UserError(f"data.root={self.root}: there is no folder {root.absolute()}; give that of your images.")
        notes: list[str] = []
        if files := self._annotations(root):
            return self._of_annotations(root, name, files)
        pairs = self._pairs(root, notes)
        return self.splits(root, name, pairs, self._coding(root, pairs), notes)

    def splits(
        self,
        root: Path,
        name: str,
        pairs: dict[str, list[Pair]],
        named: tuple[tuple[str, ...], Coding],
        notes: Sequence[str] = (),
    ) -> Splits:
        """The splits of pairs that are known by their roles. Raises UserError."""
        classes, coding = named
        parts = {
            role: ([p.image for p in each], [MaskFile(p.mask, coding) for p in each]) for role, each in pairs.items()
        }
        return self.made(root, name, classes, parts, notes)

    def made(
        self,
        root: Path,
        name: str,
        classes: tuple[str, ...],
        parts: Mapping[str, tuple[Sequence[Path], Sequence[Mask]]],
        notes: Sequence[str] = (),
    ) -> Splits:
        """The splits of images and masks that are known by their roles, or of all together. Raises UserError."""
        require_heif(image for images, _ in parts.values() for image in images)
        if ALL in parts:
            parts = self._drawn(parts[ALL], {"val": self.val_fraction, "test": self.test_fraction})
            name = f"{name}-made-{self.val_fraction:g}-{self.test_fraction:g}-s{self.split_seed}"
        elif "val" not in parts and self.val_fraction:
            parts = {**parts, **self._drawn(parts["train"], {"val": self.val_fraction})}
        splits = {
            role: mask_split(images, masks, [image.relative_to(root).as_posix() for image in images])
            for role, (images, masks) in parts.items()
            if images
        }
        train, val, test = (splits.get(role) for role in ROLES)
        assert train is not None
        shared = notes_of_shared(train, val, test)
        return Splits(name, classes, train, val, test, notes=(*notes, *shared), lacking=self._lacking(root, splits))

    def _annotations(self, root: Path) -> dict[str, Path]:
        """COCO's file of each role, where the set has such. Raises UserError where one is not there."""
        named = {role: file for role in ROLES if (file := getattr(self, role)) is not None}
        if not any(file.endswith(".json") for file in named.values()):
            if named or (root / "masks").is_dir():
                return {}
            for kind in ("instances", "panoptic"):
                files = {role: root / "annotations" / f"{kind}_{role}.json" for role in ROLES}
                if there := {role: file for role, file in files.items() if file.is_file()}:
                    return there
            return {}
        return self._lists(root)

    def _of_annotations(self, root: Path, name: str, files: Mapping[str, Path]) -> Splits:
        """The splits of COCO's files, with objects or panoptic; where there is no test file, val's images are tested.

        Raises:
            UserError: a file of another form, or images that are not there.
        """
        parts: dict[str, tuple[list[Path], list[Mask]]] = {}
        classes: tuple[str, ...] = ()
        for role, file in files.items():
            if file.suffix != ".json":
                raise UserError(f"data.{role}={file}: is a list, and another split is COCO's JSON; expected one form.")
            named, masks = read_panoptic(file) if is_panoptic(file) else read_segments(file)
            if classes and named != classes:
                raise UserError(f"{file}: has other categories than {next(iter(files.values()))}; expected the same.")
            classes = named
            folders = (file.parent, root / role, root / "images" / role, root / "images", root)
            parts[role] = found_images(file, [name for name, _ in masks], folders), [mask for _, mask in masks]
        if "train" not in parts:
            raise UserError(f"data.root={root}: there are {', '.join(parts)} images but none to train on.")
        if "test" not in parts and "val" in parts:
            parts["test"] = parts.pop("val")
        return self.made(root, name, classes, parts)

    def check(self) -> None:
        """Raises UserError for an option that makes no sense."""
        for key in ("val_fraction", "test_fraction", "missing"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"data.{key}={getattr(self, key)}: expected at least 0 and below 1.")
        if self.split_seed < 0:
            raise UserError(f"data.split_seed={self.split_seed}: expected 0 or more.")

    def _lacking(self, root: Path, parts: Mapping[str, Split]) -> dict[str, str]:
        return {
            role: f"data.root={self.root}: there are images to train on and none to {what}; expected {root}/images/"
            f"{role} and {root}/masks/{role}, a list {role}.txt, or a larger data.{role}_fraction."
            for role, what in (("val", "validate on"), ("test", "test"))
            if role not in parts
        }

    def _pairs(self, root: Path, notes: list[str]) -> dict[str, list[Pair]]:
        """The pairs of each role, by folders or lists; of `ALL`, where there are no splits. Raises UserError."""
        places = _places(root)
        found = {role: pairs_of(images, masks, self.missing, notes) for role, (images, masks) in places.items()}
        lists = self._lists(root)
        if ALL not in found:
            if lists:
                key = next(iter(lists))
                raise UserError(f"data.{key}={lists[key]}: {root} has its splits in folders; leave the list out.")
            return _with_train(found, root)
        if not lists:
            return found
        pairs = {pair.stem: pair for pair in found[ALL]}
        listed: dict[str, list[Pair]] = {}
        for role, file in lists.items():
            listed[role] = [_listed(pairs, line, file, number) for number, line in stems_in(file)]
            if not listed[role]:
                raise UserError(f"{file}: names no image.")
        of = sum(map(len, listed.values()))
        if of < len(pairs):
            notes.append(f"{plural(len(pairs) - of, 'image')} of {root} {agreeing(len(pairs) - of)} in no list")
        return _with_train(listed, root)

    def _lists(self, root: Path) -> dict[str, Path]:
        """The list of each role, where there is one. Raises UserError where one that is named is not there."""
        lists = {}
        for role in ROLES:
            named = getattr(self, role)
            if named is None:
                if (root / f"{role}.txt").is_file():
                    lists[role] = root / f"{role}.txt"
                continue
            file = next((p for p in (Path(os.path.expanduser(named)), root / named) if p.is_file()), None)
            if file is None:
                raise UserError(f"data.{role}={named}: there is no such file, nor one in {root}.")
            lists[role] = file
        return lists

    def _coding(self, root: Path, pairs: Mapping[str, Sequence[Pair]]) -> tuple[tuple[str, ...], Coding]:
        """The names of the classes and what masks hold for them. Raises UserError."""
        if self.classes is not None:
            file = next((p for p in (Path(os.path.expanduser(self.classes)), root / self.classes) if p.is_file()), None)
            if file is None:
                raise UserError(f"data.classes={self.classes}: there is no such file, nor one in {root}.")
            return read_classes(file, self.ignore)
        for name in FILES:
            if (root / name).is_file():
                return read_classes(root / name, self.ignore)
        masks = [pair.mask for of_role in pairs.values() for pair in of_role]
        names = tuple(map(str, range(_largest_value(masks, self.ignore) + 1)))
        return names, coding_of_values(names, self.ignore)

    def _drawn(
        self, whole: tuple[Sequence[Path], Sequence[Mask]], fractions: Mapping[str, float]
    ) -> dict[str, tuple[list[Path], list[Mask]]]:
        images, masks = whole
        first = first_copies(images)
        parts = split_images(np.zeros(len(images), dtype=np.int64), first, [*fractions.values()], self.split_seed)
        roles = zip(("train", *fractions), parts, strict=True)
        return {role: ([images[at] for at in part], [masks[at] for at in part]) for role, part in roles}


def found_images(file: Path, names: Sequence[str], folders: Sequence[Path]) -> list[Path]:
    """The images that a file names, each in the first of the folders that has it. Raises UserError where none has."""
    places = [next((f / name for f in folders if (f / name).is_file()), None) for name in names]
    if gone := [name for name, place in zip(names, places, strict=True) if place is None]:
        raise UserError(
            f"{file}: {plural(len(gone), 'image')} of {len(names):,} {agreeing(len(gone))} not there, such as "
            f"{gone[0]} (looked for in {', '.join(map(str, folders))})."
        )
    return [place for place in places if place is not None]


def _places(root: Path) -> dict[str, tuple[Path, Path]]:
    """Role -> the folders of its images and masks. Raises UserError."""
    images, masks = root / "images", root / "masks"
    if images.is_dir() and masks.is_dir():
        of_images, of_masks = _by_role(images), _by_role(masks)
        if not of_images and not of_masks:
            return {ALL: (images, masks)}
        if lacking := sorted(set(of_images) ^ set(of_masks)):
            has, other = (images, masks) if lacking[0] in of_images else (masks, images)
            raise UserError(f"{has}: has a folder for {lacking[0]}, and {other} has none; expected the same in both.")
        return {role: (of_images[role], of_masks[role]) for role in ROLES if role in of_images}
    inner = {role: folder for folder in folders_in(root) if (role := role_of(folder.name))}
    whole = {r: f for r in ROLES if (f := inner.get(r)) and (f / "images").is_dir() and (f / "masks").is_dir()}
    if not whole:
        lacking_one = images if not images.is_dir() else masks
        raise UserError(
            f"data.root={root}: there is no folder {lacking_one}; expected images and masks of the same stems in "
            f"{root}/images and {root}/masks."
        )
    return {role: (folder / "images", folder / "masks") for role, folder in whole.items()}


def _by_role(folder: Path) -> dict[str, Path]:
    return {role: inner for inner in folders_in(folder) if (role := role_of(inner.name))}


def _with_train(pairs: dict[str, list[Pair]], root: Path) -> dict[str, list[Pair]]:
    if "train" not in pairs:
        raise UserError(f"data.root={root}: there are {', '.join(pairs)} images but none to train on.")
    return pairs


def pairs_of(images: Path, masks: Path, missing: float, notes: list[str]) -> list[Pair]:
    """The images of one folder with the masks of another that have their stems, at any depth.

    Args:
        images: the folder of the images.
        masks: that of the masks.
        missing: the share of either that may be without a partner.
        notes: takes a sentence on what is left out.

    Raises:
        UserError: there is none, two have one stem, or too many have no partner.
    """
    of_images, of_masks = _by_stem(images), _by_stem(masks)
    if not of_images:
        raise UserError(f"{images}: holds no image.")
    for have, lack, other, what, partner in (
        (of_images, of_masks, masks, "image", "mask"),
        (of_masks, of_images, images, "mask", "image"),
    ):
        alone = [stem for stem in have if stem not in lack]
        if not alone:
            continue
        example = have[alone[0]]
        told = f"{plural(len(alone), what)} of {len(have):,} {agreeing(len(alone), 'has', 'have')} no {partner}"
        if len(alone) > missing * len(have):
            share = -(-100 * len(alone) // len(have)) / 100
            help_ = f"or data.missing={share:g} to leave out what has none" if share < 1 else "the same stems in both"
            raise UserError(
                f"{example}: there is no {partner} {other / alone[0]}.*; {told}; expected one for each, {help_}."
            )
        notes.append(f"{told}, such as {example}; left out")
    return [Pair(stem, path, of_masks[stem]) for stem, path in of_images.items() if stem in of_masks]


def _by_stem(folder: Path) -> dict[str, Path]:
    """Stem -> file, of the images at any depth. Raises UserError where two have one stem."""
    files: dict[str, Path] = {}
    for path in sorted(filter(is_image, read_tree([folder]).below(folder))):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in files:
            raise UserError(f"{path}: has the stem of {files[stem].name}; expected different stems.")
        files[stem] = path
    return files


def stems_in(file: Path) -> Iterable[tuple[int, str]]:
    """(number, text) of each line of a list that is not empty. Raises UserError."""
    text = text_of(file)
    return ((n, line.strip()) for n, line in enumerate(text.splitlines(), start=1) if line.strip())


def _listed(pairs: Mapping[str, Pair], line: str, file: Path, number: int) -> Pair:
    pair = pairs.get(line) or pairs.get(str(Path(line).with_suffix("")) if is_image(Path(line)) else line)
    if pair is None:
        raise UserError(
            f"{file}:{number}: there is no image and mask '{line}'; expected a stem such as {next(iter(pairs))}."
        )
    return pair


def _largest_value(masks: Sequence[Path], ignore: Sequence[int]) -> int:
    """The largest value of masks that stands for a class. Raises UserError."""

    def largest(path: Path) -> int:
        try:
            with open_image(path) as image:
                if image.mode in ("RGB", "RGBA"):
                    Coding({}, 0).decode(image, str(path))
                values = np.unique(np.asarray(image))
        except DAMAGED as problem:
            raise UserError(f"{path}: cannot be read as a mask ({problem}).") from None
        return max((int(value) for value in values if int(value) not in ignore), default=0)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(largest, masks))
    most = max(found)
    if most >= MOST:
        raise UserError(
            f"{masks[found.index(most)]}: holds the value {most}; expected values from 0 to {MOST - 1}, or a "
            f"classes.csv that says which value is which class."
        )
    return max(most, 1)
