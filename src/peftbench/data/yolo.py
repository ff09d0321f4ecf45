"""Detection data in YOLO's form: a data.yaml, images, and a text file of labels for each image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.regular_files import text_in
from peftbench.data.annotations import Annotations
from peftbench.data.layout import ROLES
from peftbench.data.listing import files_in, read_tree
from peftbench.data.media import is_image, size_in_file
from peftbench.data.yolo_labels import Label, read_label_file
from peftbench.data.yolo_yaml import DataYaml, read_yaml, shown


@dataclass(frozen=True)
class YoloSplit:
    """One split: what its label files say, in pixels, where its images are, and in which folders they were found."""

    annotations: Annotations
    places: list[Path]
    folders: list[Path]


def read_yolo(root: Path, file: Path, masks: bool = False) -> tuple[dict[str, YoloSplit], list[str]]:
    """(the splits by role, notes) that a data.yaml of `root` describes.

    All is looked for within `root`, wherever the paths lead that its file was written with. Labels are beside
    the images, in `labels/` in the place of the last `images/` of a path. An image without a label file has no objects.

    Raises:
        UserError: a key or a label that is wrong, a path that leads out of `root`, or images that cannot be read.
    """
    described = read_yaml(file)
    content = described.content
    base = _base(root, content.get("path"))
    notes: list[str] = []
    if base is None:
        base = root
        notes.append(
            f"{file.name}: path is {shown(content['path'])}, which is no folder in {root}; that is read instead"
        )
    splits: dict[str, YoloSplit] = {}
    for key, role in ((key, role) for role, keys in ROLES.items() for key in keys):
        if not content.get(key):
            continue
        if role in splits:
            raise UserError(f"{file}: holds two keys for the {role} split, such as {key}; expected one.")
        folders, images = _images(root, base, file, content, key)
        if images:
            splits[role] = _split(root, described, folders, images, role, notes, masks)
        elif role == "test":
            notes.append(f"{file.name}: {key} names {shown(content[key])}, where there are no images; it is left out")
        else:
            raise UserError(f"{file}: {key} is {shown(content[key])}, where there are no images; expected some.")
    if "train" not in splits:
        raise UserError(f"{file}: has no 'train'; expected the keys train, val and names, and test if you like.")
    return splits, notes


def _images(root: Path, base: Path, file: Path, content: Mapping[str, Any], key: str) -> tuple[list[Path], list[Path]]:
    """(the folders, the images) of a key, which names folders or lists of images."""
    words = content[key] if isinstance(content[key], list) else [content[key]]
    folders: list[Path] = []
    images: dict[Path, None] = {}
    for word in words:
        if not isinstance(word, str):
            raise UserError(f"{file}: {key} is {shown(content[key])}; expected a folder of images, or several.")
        place = _place(root, base, word)
        if place is None:
            if key in ROLES["test"]:
                continue
            raise UserError(
                f"{file}: {key} is {shown(word)}, which is no folder in {root.absolute()}, where alone it is looked "
                f"for; expected the images there, such as {key}: {key}/images, or data.root=DIR, the folder that holds "
                f"them."
            )
        if place.is_file():
            images |= dict.fromkeys(_listed(root, base, place))
            folders.append(place.parent)
        else:
            tree = read_tree([place])
            images |= dict.fromkeys(sorted(filter(is_image, tree.below(place))))
            folders.append(place)
    return folders, list(images)


def _base(root: Path, path: Any) -> Path | None:
    """The folder that `path` names; None where it is not in `root`: it was written on another machine."""
    if not path:
        return root
    base = _within(root, root / os.path.expanduser(path)) if isinstance(path, str) else None
    return base if base is not None and base.is_dir() else None


def _within(root: Path, path: Path) -> Path | None:
    """The path without `..`, if it lies in `root`."""
    inside, top = os.path.abspath(path), os.path.abspath(root)
    return root / os.path.relpath(inside, top) if os.path.commonpath([inside, top]) == top else None


def _place(root: Path, base: Path, word: str) -> Path | None:
    """The folder or file that a path means; Roboflow writes ../train/images for what is beside the file."""
    plain = word.replace("\\", "/")
    bare = plain
    while bare.startswith(("../", "./")):
        bare = bare.partition("/")[2]
    for path in (base / plain, base / bare, root / bare):
        try:
            place = _within(root, path)
            if place is not None and place.exists() and (place.is_dir() or place.suffix.lower() == ".txt"):
                return place
        except (OSError, ValueError):  # a name too long, or with a zero byte
            continue
    return None


def _listed(root: Path, base: Path, table: Path) -> Iterator[Path]:
    """The images that a text file lists, a line each."""
    try:
        lines = text_in(table, "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{table}: cannot be read as text ({problem}).") from None
    for number, line in enumerate(lines, 1):
        if not (word := line.strip()):
            continue
        for path in (table.parent / word, base / word):
            place = _within(root, path)
            if place is not None and place.is_file():
                yield place
                break
        else:
            raise UserError(
                f"{table}:{number}: there is no image '{shortened(word, 80)}' in {root.absolute()}; expected a path "
                f"relative to the list, or to the folder."
            )


def _split(
    root: Path,
    described: DataYaml,
    folders: list[Path],
    images: list[Path],
    role: str,
    notes: list[str],
    masks: bool,
) -> YoloSplit:
    labels = {id_: at for at, (id_, _) in enumerate(described.categories)}
    label_files = [_label_file(root, image) for image in images]
    there = [label_file.is_file() for label_file in label_files]
    if not any(there):
        raise UserError(
            f"{described.file}: none of the {plural(len(images), f'{role} image')} has a label file, such as "
            f"{label_files[0]}; expected <name>.txt beside each image, or in labels/ in the place of images/."
        )
    with ThreadPoolExecutor() as pool:
        sizes = np.array(list(pool.map(_size, images)), dtype=np.int64)
    rows: list[Label] = []
    image: list[int] = []
    repeated = 0
    for at, label_file in enumerate(label_files):
        if there[at]:
            objects, again = read_label_file(label_file, labels, described.points)
            repeated += again
            rows += objects
            image += [at] * len(objects)
    outlines = sum(row.area is not None for row in rows)
    lacking = [picture for picture, has in zip(images, there, strict=True) if not has]
    notes += _notes(role, lacking, _without_image(label_files), 0 if masks else outlines, repeated)
    index = np.array(image, dtype=np.int64)
    shares = np.array([row.box for row in rows], dtype=np.float64).reshape(-1, 4)
    area = np.array([np.nan if row.area is None else row.area for row in rows], dtype=np.float64)
    annotations = Annotations(
        file=described.file,
        categories=described.categories,
        ids=np.arange(1, len(images) + 1),
        names=[picture.relative_to(root).as_posix() for picture in images],
        sizes=sizes,
        image=index,
        boxes=shares * sizes[index][:, [1, 0, 1, 0]],
        labels=np.array([row.label for row in rows], dtype=np.int64),
        crowd=np.zeros(len(rows), dtype=bool),
        area=area * sizes[index].prod(axis=1),
        object_ids=np.arange(1, len(rows) + 1) if masks else None,
        segments=[_polygon(row, sizes[at]) for row, at in zip(rows, image, strict=True)] if masks else None,
    )
    return YoloSplit(annotations, images, folders)


def _polygon(label: Label, size: np.ndarray) -> Any:
    """The outline in pixels, packed; None where the file gives a box."""
    if not label.outline:
        return None
    corners = np.array(label.outline, dtype=np.float64).reshape(-1, 2) * size[::-1]
    return (corners.tobytes(),)


def _label_file(root: Path, image: Path) -> Path:
    """Where an image's labels are: in labels/ in the place of the last images/ of its path, else beside it."""
    parts = list(image.relative_to(root).parts)
    folders = [at for at, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


def _without_image(label_files: Sequence[Path]) -> list[Path]:
    """The label files in the same folders that are of no image."""
    known = set(label_files)
    folders = [folder for folder in dict.fromkeys(f.parent for f in label_files) if folder.name == "labels"]
    folders += [f for f in dict.fromkeys(f.parent for f in label_files) if f.parent.name == "labels"]
    texts = (file for folder in dict.fromkeys(folders) if folder.is_dir() for file in files_in(folder))
    return [file for file in texts if file.suffix == ".txt" and file not in known and file.name != "classes.txt"]


def _notes(role: str, lacking: Sequence[Path], orphans: Sequence[Path], outlines: int, repeated: int) -> Iterator[str]:
    if lacking:
        counts = agreeing(len(lacking), "has no label file, and counts as one", "have no label file, and count as some")
        yield f"{plural(len(lacking), f'{role} image')} {counts} without objects, such as {lacking[0]}"
    if orphans:
        yield f"left out, {plural(len(orphans), 'label file')} without an image, such as {orphans[0]}"
    if outlines:
        are = agreeing(outlines, "is an outline", "are outlines")
        yield f"{plural(outlines, 'label')} of the {role} images {are}; the box around each is taken"
    if repeated:
        repeat = agreeing(repeated, "repeats another", "repeat others")
        yield f"{plural(repeated, 'label')} of the {role} images {repeat}; each counts once"


def _size(image: Path) -> tuple[int, int]:
    """(height, width) of an image as it stands upright, which its labels are shares of."""
    return size_in_file(image, "its labels are shares of its size; repair it, or take it out")
