"""Where the splits and classes of a folder lie, also where it is only nearly in the form that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.data.listing import Tree, files_in, folders_in, holds

ROLES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
ALL = "all"
"""The role of images that have no split yet."""
_DEEPEST = 2  # folders between the one that is given and the one that holds splits or classes


@dataclass(frozen=True)
class Layout:
    """Which folders hold the class folders.

    Attributes:
        folder: where the splits, or the classes, were found.
        places: role (`all`, or train and the like) -> the folder whose folders are the classes.
        notes: what a user should know of it, a sentence each.
    """

    folder: Path
    places: dict[str, Path]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """What class folders hold.

    Attributes:
        name: image or clip.
        forms: the files that are one, for messages.
        fits: whether a file is one, or a frame of one, by its name.
        is_class: whether a folder holds any, so that it may be a class.
        items: those of a class folder, at any depth.
    """

    name: str
    forms: str
    fits: Callable[[Path], bool]
    is_class: Callable[[Path], bool]
    items: Callable[[Tree, Path], Iterable[Path]]


def role_of(name: str) -> str | None:
    """The role that a folder, or a word of a table, names: `Validation` is val."""
    return next((role for role, names in ROLES.items() if name.lower() in names), None)


def find_layout(root: Path, kind: Kind) -> Layout:
    """Where splits and classes lie in `root`, or up to two folders below it.

    Raises:
        UserError: two folders for one split, splits without one to train on, or splits within the classes.
    """
    layout = _look(root, kind, _DEEPEST)
    if layout is None:  # what is wrong is told once there is no class in it
        return Layout(root, {ALL: root})
    if layout.folder == root:
        return layout
    note = f"{root} holds one folder with {kind.name}s; what is read is {layout.folder}"
    return replace(layout, notes=(note, *layout.notes))


def _look(folder: Path, kind: Kind, deeper: int) -> Layout | None:
    inner = folders_in(folder)
    roles = _roles(folder, inner, kind)
    if roles:
        return roles
    classes = [each for each in inner if kind.is_class(each)]
    if len(classes) > 1:
        _refuse_splits_in_classes(classes, kind)
        return Layout(folder, {ALL: folder})
    if len(classes) == 1 and deeper and not _holds_itself(classes[0], kind):
        return _look(classes[0], kind, deeper - 1)
    return None


def _roles(folder: Path, inner: list[Path], kind: Kind) -> Layout | None:
    """The folders of the splits; None where there are none, and `train` may be a class like others."""
    named: dict[str, list[Path]] = {}
    for each in inner:
        if role := role_of(each.name):
            named.setdefault(role, []).append(each)
    others = [each for each in inner if role_of(each.name) is None and kind.is_class(each)]
    if not named or (others and not _is_split(named, kind)):
        return None
    for role, folders in named.items():
        if len(folders) > 1:
            names = ", ".join(each.name for each in folders)
            raise UserError(f"{folder}: holds {names}, which both mean {role}; expected one folder for each split.")
    places = {role: named[role][0] for role in ROLES if role in named}
    if "train" not in places:
        if len(places) == 1 or not all(any(map(kind.is_class, folders_in(place))) for place in places.values()):
            return None  # a class may be called 'test'
        names = ", ".join(place.name for place in places.values())
        raise UserError(f"{folder}: holds {names}, but no {kind.name}s to train on; expected a folder train beside.")
    notes = []
    if others:
        names = ", ".join(place.name for place in places.values())
        notes.append(f"left out, {plural(len(others), 'folder')} beside {names}, such as {others[0]}")
    return Layout(folder, _below_one_folder(places, kind, notes), tuple(notes))


def _is_split(named: dict[str, list[Path]], kind: Kind) -> bool:
    """Whether `train`, beside folders that are no splits, is the training images rather than a class."""
    trains = named.get("train", [])
    if not any(any(map(kind.is_class, folders_in(train))) for train in trains):
        return False
    return any(train.name in ROLES["train"] for train in trains) or len(named) > 1


def _below_one_folder(places: dict[str, Path], kind: Kind, notes: list[str]) -> dict[str, Path]:
    """The same, one folder down where train holds all classes in one, as in train/images/<class>."""
    classes = [each for each in folders_in(places["train"]) if kind.is_class(each)]
    if len(classes) != 1 or _holds_itself(classes[0], kind):
        return places
    if sum(map(kind.is_class, folders_in(classes[0]))) < 2:
        return places
    below = {role: place / classes[0].name for role, place in places.items()}
    notes.append(f"the classes are the folders in {classes[0]}")
    return {role: below[role] if below[role].is_dir() else places[role] for role in places}


def _holds_itself(folder: Path, kind: Kind) -> bool:
    """Whether images lie in a folder itself, which then is a class."""
    return any(map(kind.fits, files_in(folder)))


def _refuse_splits_in_classes(classes: list[Path], kind: Kind) -> None:
    """Refuses <class>/train/<image>, where the split that is meant would be passed over."""
    for each in classes:
        roles = {role_of(inner.name) for inner in folders_in(each) if holds(inner, kind.fits)}
        if not {"train"} < roles - {None}:
            return
    raise UserError(
        f"{classes[0]}: holds splits inside of a class; expected train/<class>/<{kind.name}> and test/<class>/"
        f"<{kind.name}>, or a CSV with the columns path, label and split (data.labels=FILE)."
    )
