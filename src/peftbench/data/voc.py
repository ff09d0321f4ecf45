"""Pascal VOC's annotation folders as COCO's JSON (Everingham et al., 2010); images stay where they are."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from peftbench.common.amounts import agreeing
from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError, nearest
from peftbench.common.regular_files import content_of, first_bytes, text_in
from peftbench.data.box_units import are_shares
from peftbench.data.boxes import note_dropped
from peftbench.data.media import DAMAGED, IMAGES, open_image, upright_size

_LISTS = ("train", "val", "trainval", "test")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MOST = 2**24  # bytes of one annotation

_CONVERTED = "converted from Pascal VOC's XML"


@dataclass
class Converted:
    """What a conversion wrote.

    Attributes:
        files: the JSON file of each list.
        images, objects: how many of them each list has.
        classes: in the order of their category ids, which begin at 1.
        notes: sentences about what was left out.
    """

    files: dict[str, Path] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]  # as written
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    path: Path
    image: str
    size: tuple[int, int]
    objects: tuple[_Object, ...]


def convert_voc(
    root: Path, out: Path, classes: Sequence[str] = (), zero_based: bool = False, dropped: float = 0.1
) -> Converted:
    """Writes instances_<list>.json to `out` for each of train, val, trainval and test in ImageSets/Main.

    Without ImageSets all annotations are one file, instances_all.json. `file_name` is relative to `root`. VOC counts
    pixels from 1 and both corners are within the box, so x = xmin - 1 and width = xmax - xmin + 1; with `zero_based`
    x = xmin and width = xmax - xmin, as most annotation tools write it. Where all boxes are in shares of the image, 0
    to 1, they are scaled to pixels. Empty boxes are left out, up to the share `dropped` of a list's. Classes are those
    of all objects, by name, or `classes` in that order, without the rest. A `difficult` object becomes a crowd (our
    reading): neither format trains on it, nor counts it as missed or its detection as wrong.

    Raises:
        UserError: a missing or wrong file, by name; a file in `out` that is there already; too many empty boxes.
    """
    if not 0 <= dropped <= 1:
        raise UserError(f"dropped={dropped:g}: expected a share from 0 to 1.")
    lists = _lists(root)
    targets = {name: out / f"instances_{name}.json" for name in lists}
    for target in targets.values():
        if target.exists() and not _was_converted(target):
            raise _in_the_way(target)
    read = {stem: _read(root, stem) for stem in dict.fromkeys(s for stems in lists.values() for s in stems)}
    converted = Converted(targets, classes=_classes(root, read.values(), classes))
    origin = f"pixels counted from {0 if zero_based else 1}"
    if _in_shares(read.values()):
        origin, zero_based = "shares of the image", True
        read = {stem: _scaled(annotation) for stem, annotation in read.items()}
        converted.notes.append(
            "boxes are in shares of the image, 0 to 1, instead of pixels; they are scaled to its size"
        )
    info = {"description": f"{_CONVERTED}; {origin} there"}
    contents = {
        name: {"info": info, **_content(converted, name, [read[s] for s in stems], 0 if zero_based else 1, dropped)}
        for name, stems in lists.items()
    }
    left_out = Counter(o.name for a in read.values() for o in a.objects if o.name not in converted.classes)
    if left_out:
        counts = ", ".join(f"{name} ({count:,})" for name, count in left_out.most_common(5))
        number = left_out.total()
        others = agreeing(number, "object is of another class", "objects are of other classes")
        converted.notes.append(f"{number:,} {others} and left out: {counts}")
    _write(targets, contents)
    return converted


def _lists(root: Path) -> dict[str, list[str]]:
    """The names of the annotations in each list."""
    folder = root / "Annotations"
    if not folder.is_dir():
        inner = next((p.parent for p in sorted(root.glob("*/Annotations"))), None) if root.is_dir() else None
        raise UserError(
            f"{root}: has no folder Annotations; give the folder that holds Annotations/ and JPEGImages/"
            f"{f', such as {inner}' if inner else ''}."
        )
    there = {p.stem for p in folder.glob("*.xml")}
    stems_of: dict[str, list[str]] = {}
    for name in _LISTS:
        file = root / "ImageSets" / "Main" / f"{name}.txt"
        if not file.is_file():
            continue
        try:
            lines = [line.strip() for line in text_in(file, "utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as problem:
            raise UserError(f"{file}: cannot be read as text ({problem}).") from None
        stems = [line if line in there else line.split()[0] for line in lines]  # some lists have a second column
        for number, stem in enumerate(stems, start=1):
            if stem not in there:
                raise UserError(f"{file}:{number}: there is no Annotations/{stem}.xml.")
        if stems:
            stems_of[name] = list(dict.fromkeys(stems))
    if not stems_of and there:
        stems_of["all"] = sorted(there)
    if not stems_of:
        raise UserError(f"{folder}: holds no annotations; expected <image>.xml.")
    return stems_of


def _read(root: Path, stem: str) -> _Annotation:
    path = root / "Annotations" / f"{stem}.xml"
    tree = _tree(path)
    if tree.tag != "annotation":
        raise UserError(f"{path}: is <{tree.tag}>; expected VOC's <annotation>.")
    image = _image(root, stem, tree.findtext("filename") or "", path)
    objects = tuple(_object(path, number, o) for number, o in enumerate(tree.findall("object"), start=1))
    return _Annotation(path, image.relative_to(root).as_posix(), _size(tree, image), objects)


def _tree(path: Path) -> ElementTree.Element:
    """The XML, which may come from anywhere: a file that declares entities is refused before they are expanded."""

    def refuse(*_: Any) -> None:
        raise UserError(f"{path}: declares a document type, which VOC's files do not; remove its <!DOCTYPE …>.")

    try:
        if path.stat().st_size > _MOST:
            raise UserError(f"{path}: has more than {_MOST:,} bytes; expected the boxes of one image.")
        content = content_of(path)
        guard = expat.ParserCreate()
        guard.StartDoctypeDeclHandler = refuse
        guard.Parse(content, True)
        return ElementTree.fromstring(content)
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as problem:
        raise UserError(f"{path}: cannot be read as XML ({problem}).") from None


def _image(root: Path, stem: str, filename: str, path: Path) -> Path:
    """The image of an annotation: of the same name, as VOC has it, or the one that it names."""
    folder = root / "JPEGImages"
    named = [filename] if filename and Path(filename).name == filename else []
    for name in (*(f"{stem}{suffix}" for suffix in (".jpg", *sorted(IMAGES), ".JPG")), *named):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{path}: its image is not in {folder}; expected {stem}.jpg there.")


def _size(tree: ElementTree.Element, image: Path) -> tuple[int, int]:
    """(height, width) as the annotation has it, or as the image does where that says nothing."""
    texts = [(tree.findtext(f"size/{key}") or "").strip() for key in ("height", "width")]
    if all(text.isdecimal() and len(text) < 10 and int(text) for text in texts):
        return int(texts[0]), int(texts[1])
    try:
        with open_image(image) as opened:
            return upright_size(opened)
    except DAMAGED as problem:
        raise UserError(f"{image}: cannot be read as an image ({problem}), and its annotation has no size.") from None


def _object(path: Path, number: int, element: ElementTree.Element) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{path}: object {number} has no name; expected its class.")
    corners = [element.findtext(f"bndbox/{key}") for key in _CORNERS]
    try:
        box = tuple(float(text or "") for text in corners)
    except ValueError:
        box = (math.nan,)
    if len(box) != 4 or not all(map(math.isfinite, box)):
        shown = ", ".join(f"{k}={t!r}" for k, t in zip(_CORNERS, corners, strict=True))
        raise UserError(f"{path}: object {number} ({name}) has the box {shown}; expected four numbers.")
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise UserError(f"{path}: object {number} ({name}) has difficult={difficult!r}; expected 0 or 1.")
    return _Object(name, box, difficult == "1")


def _classes(root: Path, annotations: Any, wanted: Sequence[str]) -> tuple[str, ...]:
    there = sorted({o.name for annotation in annotations for o in annotation.objects})
    if not there:
        raise UserError(f"{root}: no annotation has an object; expected some boxes.")
    for name in wanted:
        if name not in there:
            raise UserError(f"classes={','.join(wanted)}: no object is called '{name}'{nearest(name, there)}.")
    if len(set(wanted)) < len(wanted):
        raise UserError(f"classes={','.join(wanted)}: names a class twice.")
    return tuple(wanted or there)


def _in_shares(annotations: Collection[_Annotation]) -> bool:
    """Whether all boxes are written in shares of their image."""
    rows = [(object_.box, annotation.size) for annotation in annotations for object_ in annotation.objects]
    return are_shares(*(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)))


def _scaled(annotation: _Annotation) -> _Annotation:
    """With boxes in pixels that were in shares; both corners are then where the box ends."""
    height, width = annotation.size
    objects = []
    for object_ in annotation.objects:
        x1, y1, x2, y2 = object_.box
        objects.append(replace(object_, box=(x1 * width, y1 * height, x2 * width, y2 * height)))
    return replace(annotation, objects=tuple(objects))


def _content(
    done: Converted, name: str, annotations: Sequence[_Annotation], first: int, dropped: float
) -> dict[str, Any]:
    """COCO's object of a list, whose pixels count from `first`; `done` counts what it holds."""
    ids = {name: i for i, name in enumerate(done.classes, start=1)}
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    empty: list[tuple[Path, str]] = []
    for at, annotation in enumerate(annotations, start=1):
        height, width = annotation.size
        images.append({"id": at, "file_name": annotation.image, "width": width, "height": height})
        for object_ in annotation.objects:
            if object_.name not in ids:
                continue
            x, y = object_.box[0] - first, object_.box[1] - first
            w, h = object_.box[2] - object_.box[0] + first, object_.box[3] - object_.box[1] + first
            if w <= 0 or h <= 0:
                empty.append((annotation.path, object_.name))
                continue
            # A whole number stays one: 47, not 47.0.
            bbox = [int(v) if v.is_integer() else v for v in (x, y, w, h)]
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": at,
                    "category_id": ids[object_.name],
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": int(object_.difficult),
                    "difficult": int(object_.difficult),
                }
            )
    if empty:
        path, what = empty[0]
        total = len(empty) + len(objects)
        problem = f"{len(empty):,} of {total:,} boxes {agreeing(len(empty))} empty, such as one of {path.name} ({what})"
        note_dropped(Path(name), problem, len(empty), total, dropped, done.notes, "")
    done.images[name], done.objects[name] = len(images), len(objects)
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    return {"categories": categories, "images": images, "annotations": objects}


def _write(targets: dict[str, Path], contents: dict[str, dict[str, Any]]) -> None:
    """All files or none. One that a killed command of the same words wrote already stays as it is."""
    texts = {name: json.dumps(content) for name, content in contents.items()}
    for name, target in targets.items():
        if target.exists() and not _holds(target, texts[name]):
            raise _in_the_way(target)
    with contextlib.ExitStack() as whole:  # each takes its place when all are written
        for name, target in targets.items():
            part = whole.enter_context(replacing(target, partial(_not_written, target)))
            part.write_text(texts[name], encoding="utf-8")


def _in_the_way(target: Path) -> UserError:
    return UserError(f"{target}: is there already; move it away, or give another out=.")


def _was_converted(file: Path) -> bool:
    """Whether it begins as what this command writes, so that an earlier one may have written it before it ended."""
    try:
        return first_bytes(file, 100).startswith(f'{{"info": {{"description": "{_CONVERTED}'.encode())
    except OSError:
        return False


def _holds(file: Path, text: str) -> bool:
    try:
        return content_of(file) == text.encode()
    except OSError:
        return False


def _not_written(target: Path, why: str) -> str:
    return f"{target}: could not be written ({why})."
