"""Masks of pixels from COCO's panoptic annotations: a JSON with the segments of each image, and PNGs of their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.json_text import json_of
from peftbench.common.regular_files import content_of
from peftbench.data.masks import IGNORED, MOST, MaskInFile

_FORM = "expected COCO's panoptic form: images, categories, and annotations with image_id, file_name and segments_info"


@dataclass(frozen=True)
class PanopticMask(MaskInFile):
    """A PNG whose colours are ids of segments, red + 256 green + 65,536 blue, with the class of each of these.

    Id 0, which COCO leaves to pixels without a segment, is of no class.
    """

    classes: Mapping[int, int]

    @property
    def reading(self) -> str:
        return hashlib.sha256(repr(sorted(self.classes.items())).encode()).hexdigest()

    def decoded(self, image: Image.Image) -> np.ndarray:
        if image.mode != "RGB":
            raise UserError(
                f"{self.path}: is of mode {image.mode}; expected a panoptic PNG in RGB, whose colours are ids "
                f"of segments (masks of one value a pixel are no such)."
            )
        wide = np.asarray(image).astype(np.int64)
        ids, at = np.unique(wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2], return_inverse=True)
        known = {0: IGNORED, **self.classes}
        if strange := [int(id_) for id_ in ids if int(id_) not in known]:
            raise UserError(
                f"{self.path}: holds the segment {strange[0]}, which its annotation does not list; expected the PNGs "
                f"that belong to the JSON."
            )
        classes = np.array([known[int(id_)] for id_ in ids], dtype=np.uint8)
        return np.asarray(classes[at].reshape(wide.shape[:2]))


def is_panoptic(file: Path) -> bool:
    """Whether a JSON lists segments in the panoptic form. False where it cannot be read, which others will say."""
    try:
        content = json_of(content_of(file))
    except (OSError, ValueError, RecursionError):
        return False
    entries = content.get("annotations") if isinstance(content, dict) else None
    return (
        isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict) and "segments_info" in entries[0]
    )


def read_panoptic(file: Path) -> tuple[tuple[str, ...], list[tuple[str, PanopticMask]]]:
    """The classes of a panoptic file, by their ids, and (file name, mask) of each image.

    The PNGs lie in the folder of the file's own name without its suffix, as COCO hands them out. A crowd is of its
    class, as in other semantic masks from these files.

    Raises:
        UserError: it is not of that form, or a PNG is not there; the first entry that is wrong is named.
    """
    content = _parsed(file)
    categories = {_of(c, "id", int, file): _of(c, "name", str, file) for c in _listed(content, "categories", file)}
    if not 1 < len(categories) <= MOST or len(set(categories.values())) < len(categories):
        raise UserError(
            f"{file}: names {len(categories)} categories with {len(set(categories.values()))} names; expected 2 to "
            f"{MOST}, of different names and ids."
        )
    number = {id_: i for i, id_ in enumerate(sorted(categories))}
    images = {_of(i, "id", int, file): _of(i, "file_name", str, file) for i in _listed(content, "images", file)}
    folder = file.with_suffix("")
    if not folder.is_dir():
        raise UserError(f"{file}: there is no folder {folder}; expected the PNGs of its annotations there.")
    masks: dict[int, tuple[str, PanopticMask]] = {}
    for entry in _listed(content, "annotations", file):
        id_ = _of(entry, "image_id", int, file)
        if id_ not in images or id_ in masks:
            told = "which is not among its images" if id_ not in images else "which has one before"
            raise UserError(f"{file}: has an annotation of image {id_}, {told}; expected one for each image.")
        png = folder / _inside(_of(entry, "file_name", str, file), file)
        if not png.is_file():
            raise UserError(f"{file}: image {id_} has no mask {png}; expected one for each.")
        classes = {}
        for segment in _listed(entry, "segments_info", file):
            category = _of(segment, "category_id", int, file)
            if category not in number:
                raise UserError(
                    f"{file}: a segment of image {id_} is of the category {category}; expected an id of its categories."
                )
            classes[_of(segment, "id", int, file)] = number[category]
        masks[id_] = (_inside(images[id_], file), PanopticMask(png, classes))
    if lacking := [name for id_, name in images.items() if id_ not in masks]:
        raise UserError(f"{file}: {lacking[0]} has no annotation; expected one for each image.")
    if not masks:
        raise UserError(f"{file}: lists no image; {_FORM}.")
    return tuple(categories[id_] for id_ in sorted(categories)), list(masks.values())


def _parsed(file: Path) -> Any:
    try:
        return json_of(content_of(file))
    except OSError as problem:
        raise UserError(f"{file}: cannot be read ({problem.strerror}).") from None
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{file}: cannot be read as JSON ({str(problem).splitlines()[0]}).") from None


def _listed(content: Any, key: str, file: Path) -> list[Any]:
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{file}: {key} is {shortened(repr(entries), 60)}; {_FORM}.")
    return entries


def _of(entry: Any, key: str, kind: type, file: Path) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not kind:
        raise UserError(f"{file}: {key} is {shortened(repr(value), 60)} in an entry; {_FORM}.")
    return value


def _inside(name: str, file: Path) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise UserError(f"{file}: the file name {name!r} lies elsewhere; expected one in the folder of the images.")
    return name
