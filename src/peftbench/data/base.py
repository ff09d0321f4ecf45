"""What a data set is: splits of images and labels, with a name and a hash."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.readable_names import is_text, readable, readable_in
from peftbench.common.regular_files import open_binary
from peftbench.data.media import frame_files


class DataMissing(UserError):
    """The files of a data set are not there, or not all of them."""


@dataclass(frozen=True)
class Split:
    """Images with labels, not yet decoded.

    Attributes:
        images: uint8 (N, H, W) or (N, H, W, 3), or N paths.
        labels: int64 (N,), indices of classes; float32 (N, labels), 1 where an image has a label; float32 (N, numbers),
            or (N,) where a set names none.
        names: what each image is, relative to the set.
        frames: where it is given, the paths are those of clips (folders or video files), each read as so many frames.
        categories: the numbers that a detection set's own files give its classes.
    """

    images: np.ndarray | Sequence[Path]
    labels: np.ndarray
    names: Sequence[str]
    frames: int | None = None
    categories: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not is_text("".join(self.names)):
            object.__setattr__(self, "names", list(map(readable, self.names)))

    def __len__(self) -> int:
        return len(self.labels)

    def unknown(self, classes: int) -> tuple[int, int] | None:
        """(place, label) of the first image with a label that is none of so many classes.

        Labels that are no indices are numbers, and any will do.
        """
        if not classes or self.labels.dtype.kind == "f":
            return None
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= classes))
        return (int(outside[0]), int(self.labels[outside[0]])) if len(outside) else None

    def fault(self, at: int, size: tuple[int, int]) -> str:
        """What is wrong with the target of image `at`, whose (height, width) is `size`; empty where nothing is."""
        return ""

    def take(self, indices: Sequence[int] | np.ndarray) -> Split:
        """The split of the images at `indices`, in that order."""
        images = self.images[indices] if isinstance(self.images, np.ndarray) else [self.images[i] for i in indices]
        return replace(self, images=images, labels=self.labels[indices], names=[self.names[i] for i in indices])

    def __add__(self, other: Split) -> Split:
        images: np.ndarray | list[Path]
        if isinstance(self.images, np.ndarray) and isinstance(other.images, np.ndarray):
            images = np.concatenate([self.images, other.images])
        else:
            images = [*self.images, *other.images]
        labels = np.concatenate([self.labels, other.labels])
        return replace(self, images=images, labels=labels, names=[*self.names, *other.names])

    @functools.cached_property
    def content(self) -> str:
        """sha256 over the lines: what the split holds, whatever it is called."""
        return hash_of_lines(self.lines())

    def lines(self) -> list[str]:
        """One line an image: its name, its label, and the hash of its bytes (for a clip, of all its frames)."""
        stamps = stamps_of_array(self.images) if isinstance(self.images, np.ndarray) else stamps_of_files(self.images)
        return [image_line(n, y, s) for n, y, s in zip(self.names, self.labels, stamps, strict=True)]


def image_line(name: str, label: float | np.ndarray, stamp: str) -> str:
    """What the hash of a split sees of an image: its name, its label or row of numbers, and the hash of its bytes."""
    if isinstance(label, np.ndarray):
        return f"{name} {' '.join(map(repr, label.tolist()))} {stamp}"
    value = float(label) if isinstance(label, float | np.floating) else int(label)
    return f"{name} {value} {stamp}"


def hash_of_lines(lines: Sequence[str]) -> str:
    """sha256 over the lines of a split's images."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def stamp_of_bytes(content: bytes) -> str:
    """The hash of an image file's bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def stamps_of_array(images: np.ndarray) -> list[str]:
    """The hash of the pixels of each of N images."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:16] for image in images]


def stamps_of_files(paths: Iterable[Path]) -> list[str]:
    """The hash of each file's bytes, or of a folder's frames.

    Raises:
        UserError: a file cannot be read.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_stamp, paths))


def _stamp(path: Path) -> str:
    try:
        if path.is_dir():
            return stamp_of_bytes(b"".join(map(_digest, frame_files(path))))
        return _digest(path).hex()[:16]
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None


def _digest(path: Path) -> bytes:
    with open_binary(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


@dataclass(frozen=True)
class Splits:
    """The splits of one data set.

    Attributes:
        name: the name of the split, which records bear.
        classes: the classes' names, in the order of the labels; of numbers, what each of them is called.
        trainval: where it is given, the official union of train and val.
        source: where the images come from and in what files they are, where that is known.
        notes: what a user should know about how they were read, a sentence each.
        lacking: for a role without images, the sentence that says why and what would help.
        groups: the number of the group, from 1, in which each class was learned; empty where there are no such groups.
        shifted: further test sets that the data set has by itself, such as other domains, by name.

    Raises:
        UserError: a split that is empty, or a label that is not one of the classes.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split | None = None
    test: Split | None = None
    trainval: Split | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)
    shifted: Mapping[str, Split] = field(default_factory=dict)
    groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for part in ("name", "classes", "source", "notes"):
            object.__setattr__(self, part, readable_in(getattr(self, part)))
        own = {role: getattr(self, role) for role in ("train", "val", "test", "trainval")}
        for role, split in (own | dict(self.shifted)).items():
            if split is None:
                continue
            if not len(split):
                raise UserError(f"{self.name}: the {role} split is empty; expected at least one image.")
            unknown = split.unknown(len(self.classes))
            if unknown is not None:
                at, label = unknown
                raise UserError(
                    f"{self.name}: {split.names[at]} of the {role} split has label {label}; "
                    f"expected 0 to {len(self.classes) - 1} ({len(self.classes)} classes)."
                )

    def roles(self, stage: str) -> tuple[Split, Split | None, Split | None]:
        """(train, val, test) for a stage.

        `fit` trains on train, watches val and tests once; `tune` leaves test alone; `final` trains on train and val
        together and tests once.

        Raises:
            UserError: the stage needs images that the data set has not.
        """
        if stage == "tune":
            if self.val is None:
                raise UserError(
                    self.lacking.get("val")
                    or f"data.stage=tune: {self.name} has no validation images to tune on; give data.val_fraction "
                    f"where the data set has that key, or use data.stage=fit."
                )
            return self.train, self.val, None
        if self.test is None:
            raise UserError(
                self.lacking.get("test")
                or f"data.stage={stage}: {self.name} has no test images; give data.test_fraction where the data set "
                f"has that key, or use data.stage=tune."
            )
        if stage == "final":
            return self.trainval or (self.train + self.val if self.val else self.train), None, self.test
        return self.train, self.val, self.test


@dataclass(frozen=True)
class DataSet:
    """A family of data sets. Its fields are its options: plain types, literal defaults.

    `places` are options that say where files lie, or which. What is in the files is in the hash of the split, so that
    these are no part of a run's id. Each data set names its own; the default is for those from outside that name none.

    `shifts` says that its splits may have shifted test sets of their own (`Splits.shifted`).
    """

    places: ClassVar[tuple[str, ...]] = ("root", "labels")
    shifts: ClassVar[bool] = False

    def load(self) -> Splits:
        """Reads lists and labels, no pixels of files.

        Raises:
            DataMissing: where it was looked for and how to get it.
            UserError: lists that contradict themselves.
        """
        raise UserError(f"{type(self).__name__} defines no load().")

    def load_as(self, targets: str) -> Splits:
        """As `load`, with the targets that a task asks for in its schema; a set that serves one kind has nothing to do.

        Args:
            targets: `own`, `labels` (several for each image), `numbers`, or `masks` (boxes with the pixels of each).
        """
        return self.load()

    def outline(self) -> Splits | None:
        """What is known of the splits where their files are missing: classes and how many images, which none can read.

        None where nothing is known.
        """
        return None


def split_hash(*splits: Split | None) -> str:
    """sha256 over the contents of the splits, in order."""
    return hash_of_contents(None if s is None else s.content for s in splits)


def hash_of_contents(contents: Iterable[str | None]) -> str:
    """The hash of splits whose contents are known."""
    return hashlib.sha256(" ".join(c or "-" for c in contents).encode()).hexdigest()


def stratified(labels: np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Indices cut class by class into len(fractions) + 1 parts, the rest first; sorted within each part.

    A class gives round(fraction * size) images to a part, and keeps at least one for the first.

    Raises:
        UserError: a negative seed.
    """
    if seed < 0:
        raise UserError(f"data.split_seed={seed}: expected 0 or more.")
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        left = len(members) - 1
        at = 0
        for i, fraction in enumerate(fractions, start=1):
            count = min(round(fraction * len(members)), left)
            parts[i].extend(members[at : at + count])
            at, left = at + count, left - count
        parts[0].extend(members[at:])
    return [np.sort(np.array(p, dtype=np.int64)) for p in parts]
