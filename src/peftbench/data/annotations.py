"""COCO's annotation JSON (cocodataset.org/#format-data), read and checked. Needs no torch."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.json_text import json_of
from peftbench.common.regular_files import content_of
from peftbench.data.segment_forms import packed

_INT = frozenset({int})
_NUMBER = frozenset({int, float})
_FLAG = frozenset({int, bool})
_MOST = 2**31 - 1  # pixels of a side


@dataclass(frozen=True)
class Annotations:
    """What a file lists, of M images and N annotated objects.

    Attributes:
        categories: (id, name) of each class, by id.
        ids: int64 (M,), of the images.
        names: the images' file names, relative, with forward slashes.
        sizes: int64 (M, 2), height and width, or 0 where the file does not say.
        image: int64 (N,), each object's index among the images, or -1 where its image is not listed.
        boxes: float64 (N, 4), x1 y1 x2 y2 as given: they may be empty, or reach beyond the image.
        labels: int64 (N,), indices of categories.
        crowd: bool (N,).
        area: float64 (N,), NaN where the file does not say.
        orphan: what names the first annotation whose image is not listed, if there is one.
        supercategories: what each category belongs to, in their order, empty where the file does not say; or none.
        object_ids: int64 (N,), the annotations' own, where segments were read.
        segments: (N,) what the file holds under segmentation, polygons packed; None where it was passed over.
    """

    file: Path
    categories: tuple[tuple[int, str], ...]
    ids: np.ndarray
    names: list[str]
    sizes: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    orphan: str = ""
    supercategories: tuple[str, ...] = ()
    object_ids: np.ndarray | None = None
    segments: list[Any] | None = None


def read_annotations(file: Path, segments: bool = False) -> Annotations:
    """The annotations in a JSON file; captions and key points are passed over, and segments unless they are asked for.

    Raises:
        UserError: the file is missing, is no JSON or not COCO's: the first entry that is wrong is named.
    """
    content = _parsed(file, segments)
    if not isinstance(content, dict):
        raise UserError(
            f"{file}: holds {_shown(content)}; expected COCO's object with images, annotations and categories."
        )
    images, annotations, categories = (
        _Entries(file, key, _list(file, content, key)) for key in ("images", "annotations", "categories")
    )
    names_of_categories = _categories(categories)
    ids = images.ids()
    names = images.column("file_name", frozenset({str}), "the image's file name")
    for at, name in enumerate(names):
        names[at] = images.inside(at, name)
    if not names:
        raise UserError(f"{file}: images is empty; expected at least one.")
    index = {id_: i for i, id_ in enumerate(ids)}
    annotation_ids = annotations.ids()
    image_ids = annotations.column("image_id", _INT, "a whole number")
    image = np.array([index.get(i, -1) for i in image_ids], dtype=np.int64)
    orphan = ""
    if (image < 0).any():
        at = int(np.flatnonzero(image < 0)[0])
        orphan = f"annotation {annotation_ids[at]} of image {image_ids[at]}"
    boxes = annotations.boxes()
    crowd = annotations.column("iscrowd", _FLAG, "0 or 1", 0)
    for at, flag in enumerate(crowd):
        if flag not in (0, 1):
            raise annotations.wrong(at, "iscrowd", flag, "0 or 1")
    return Annotations(
        file,
        tuple(sorted(names_of_categories.items())),
        np.array(ids, dtype=np.int64),
        names,
        images.sizes(),
        image,
        boxes,
        annotations.labels(sorted(names_of_categories)),
        np.array(crowd, dtype=bool),
        annotations.areas(),
        orphan,
        _supercategories(categories, sorted(names_of_categories)),
        np.array(annotation_ids, dtype=np.int64) if segments else None,
        [entry.get("segmentation") for entry in annotations.entries] if segments else None,
    )


def _parsed(file: Path, segments: bool) -> Any:
    """The JSON; segments, most of COCO's bytes, are dropped or packed while it is read."""
    collecting = gc.isenabled()
    gc.disable()  # it would look through millions of new dictionaries again and again, and free nothing
    try:
        return json_of(content_of(file), object_hook=_packed if segments else _slim)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; expected COCO's annotations as JSON.") from None
    except OSError as problem:
        raise UserError(f"{file}: cannot be read ({problem.strerror}).") from None
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{file}: cannot be read as JSON ({str(problem).splitlines()[0]}).") from None
    finally:
        if collecting:
            gc.enable()


def _slim(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)
    return entry


def _packed(entry: dict[str, Any]) -> dict[str, Any]:
    if "segmentation" in entry:
        entry["segmentation"] = packed(entry["segmentation"])
    return entry


def _list(file: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    if key not in content:
        raise UserError(f"{file}: has no '{key}'; expected COCO's keys images, annotations and categories.")
    entries = content[key]
    if not isinstance(entries, list):
        raise UserError(f"{file}: {key} is {_shown(entries)}; expected a list.")
    for at, entry in enumerate(entries):
        if type(entry) is not dict:
            raise UserError(f"{file}: {key}[{at}] is {_shown(entry)}; expected an object with an id.")
    return entries


class _Entries:
    """One of the three lists: whole columns are checked at once, and only then is a wrong entry looked for."""

    def __init__(self, file: Path, key: str, entries: list[dict[str, Any]]) -> None:
        self.file, self.key, self.entries = file, key, entries
        self.named: list[int] = []

    def wrong(self, at: int, key: str, value: Any, expected: str) -> UserError:
        return UserError(f"{self._where(at)}: {key} is {_shown(value)}; expected {expected}.")

    def _where(self, at: int) -> str:
        name = f" (id {self.named[at]})" if self.named else ""
        return f"{self.file}: {self.key}[{at}]{name}"

    def column(self, key: str, kinds: frozenset[type], expected: str, default: Any = ...) -> list[Any]:
        """The value of each entry under a key, all of these types."""
        if default is ...:
            try:
                values = [entry[key] for entry in self.entries]
            except KeyError:
                at = next(at for at, entry in enumerate(self.entries) if key not in entry)
                raise UserError(f"{self._where(at)} has no '{key}'; expected {expected}.") from None
        else:
            values = [entry.get(key, default) for entry in self.entries]
        if not kinds.issuperset(map(type, values)):
            at = next(at for at, value in enumerate(values) if type(value) not in kinds)
            raise self.wrong(at, key, values[at], expected)
        return values

    def ids(self) -> list[int]:
        """Their ids, no two of which are equal."""
        ids = self.column("id", _INT, "a whole number")
        if len(set(ids)) < len(ids):
            raise UserError(f"{self.file}: {self.key} holds the id {_first_repeated(ids)} twice; expected each once.")
        if ids and not -(2**63) <= min(ids) <= max(ids) < 2**63:
            at = next(at for at, id_ in enumerate(ids) if not -(2**63) <= id_ < 2**63)
            raise self.wrong(at, "id", ids[at], "a whole number of 64 bits")
        self.named = ids
        return ids

    def inside(self, at: int, name: str) -> str:
        """A relative path that stays in its folder, with forward slashes."""
        if name and not any(c in name for c in "/\\:") and name not in (".", ".."):
            return name
        path = PurePosixPath(name)
        parts = {*path.parts, *PureWindowsPath(name).parts}
        if not path.name or path.is_absolute() or PureWindowsPath(name).anchor or ".." in parts:
            raise self.wrong(at, "file_name", name, "a path inside the folder of images")
        return str(path)

    def sizes(self) -> np.ndarray:
        """int64 (n, 2): height and width; 0 where either is not given."""
        kinds = frozenset({int, type(None)})
        sizes = [self.column(key, kinds, "a size in pixels", None) for key in ("height", "width")]
        for key, values in zip(("height", "width"), sizes, strict=True):
            for at, value in enumerate(values):
                if value is not None and not 1 <= value <= _MOST:
                    raise self.wrong(at, key, value, "a size in pixels")
        return np.array([(h, w) if h and w else (0, 0) for h, w in zip(*sizes, strict=True)], dtype=np.int64).reshape(
            -1, 2
        )

    def boxes(self) -> np.ndarray:
        """float64 (n, 4): x1 y1 x2 y2."""
        expected = "[x, y, width, height], four finite numbers"
        rows = self.column("bbox", frozenset({list}), expected)
        if set(map(len, rows)) - {4} or not _NUMBER.issuperset(map(type, chain.from_iterable(rows))):
            at = next(at for at, box in enumerate(rows) if len(box) != 4 or not _NUMBER.issuperset(map(type, box)))
            raise self.wrong(at, "bbox", rows[at], expected)
        boxes = self._floats("bbox", rows, expected).reshape(-1, 4)
        with np.errstate(over="ignore", invalid="ignore"):
            boxes[:, 2:] += boxes[:, :2]
        return boxes

    def areas(self) -> np.ndarray:
        """float64 (n,), NaN where not given."""
        expected = "a finite number, 0 or more"
        column = self.column("area", _NUMBER, expected, -1)
        lacking = np.array(["area" not in entry for entry in self.entries], dtype=bool)
        areas = self._floats("area", column, expected)
        unfit = ~lacking & ((areas < 0) | (areas > np.finfo(np.float32).max))
        if unfit.any():
            at = int(np.flatnonzero(unfit)[0])
            raise self.wrong(at, "area", column[at], expected)
        return np.where(lacking, np.nan, areas)

    def _floats(self, key: str, column: Sequence[Any], expected: str) -> np.ndarray:
        try:
            values = np.array(column, dtype=np.float64)
        except OverflowError:  # a whole number of hundreds of digits
            values = np.array([np.vectorize(_float, otypes=[float])(value) for value in column])
        if not (finite := np.isfinite(values)).all():
            at = int(np.flatnonzero(~finite.reshape(len(column), -1).all(axis=1))[0])
            raise self.wrong(at, key, column[at], expected)
        return values

    def labels(self, categories: Sequence[int]) -> np.ndarray:
        """int64 (n,): indices of the categories."""
        column = self.column("category_id", _INT, "the id of a category")
        index = {id_: i for i, id_ in enumerate(categories)}
        labels = np.array([index.get(id_, -1) for id_ in column], dtype=np.int64)
        if (labels < 0).any():
            at = int(np.flatnonzero(labels < 0)[0])
            known = ", ".join(map(str, categories[:8])) + (", …" if len(categories) > 8 else "")
            raise self.wrong(at, "category_id", column[at], f"the id of one of the file's categories ({known})")
        return labels


def _first_repeated(ids: Sequence[int]) -> int | None:
    seen: set[int] = set()
    for id_ in ids:
        if id_ in seen:
            return id_
        seen.add(id_)
    return None


def _categories(entries: _Entries) -> dict[int, str]:
    ids = entries.ids()
    names = entries.column("name", frozenset({str}), "the name of the category")
    if not ids:
        raise UserError(f"{entries.file}: categories is empty; expected at least one.")
    return dict(zip(ids, names, strict=True))


def _supercategories(entries: _Entries, ids: Sequence[int]) -> tuple[str, ...]:
    """What the categories with these ids belong to; what is no text counts as nothing said."""
    above = {entry["id"]: entry.get("supercategory") for entry in entries.entries}
    return tuple(name if isinstance(name := above[id_], str) else "" for id_ in ids)


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _shown(value: Any) -> str:
    """A JSON value in at most 60 characters."""
    if isinstance(value, list | dict) and not value:
        return f"an empty {'list' if isinstance(value, list) else 'object'}"
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):  # too many digits, too deep
        return f"a {type(value).__name__} that cannot be shown"
    return shortened(text, 60)
