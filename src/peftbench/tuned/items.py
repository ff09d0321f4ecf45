"""The images, or clips, that a word of the command line stands for."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.common.errors import UserError
from peftbench.data.listing import read_tree
from peftbench.data.media import find_clips, is_image, is_video, require_reader

if TYPE_CHECKING:
    from peftbench.tasks.predictor import Skip


def find_items(given: str, of_clips: bool, skip: Skip) -> list[Path]:
    """The images (or clips) that a file, a folder at any depth or a glob stands for, sorted; others are skipped.

    What a glob reaches by several ways, through links to folders, counts once.

    Raises:
        UserError: there is nothing there.
    """
    path = Path(given).expanduser()
    pattern = str(path)
    matches = [pattern] if path.exists() else glob.glob(pattern, recursive=True)
    matches = matches or glob.glob(pattern.replace("[", "[[]"), recursive=True)  # in the name of a folder
    if not matches:
        raise UserError(f"images={given}: there is no such file or folder, and no file that matches it.")
    left: set[Path] = set()

    def skip_once(file: Path, why: str) -> None:
        if (real := _real(file)) not in left:
            left.add(real)
            skip(file, why)

    items: dict[Path, Path] = {}
    try:
        for place in sorted(map(Path, matches), key=lambda p: (len(p.parts), p)):  # the shortest way first
            for item in (_clips if of_clips else _images)(place, skip_once):
                items.setdefault(_real(item), item)
    except OSError as problem:
        raise UserError(f"images={given}: {problem.filename} cannot be read ({problem.strerror}).") from None
    return sorted(items.values())


def _real(item: Path) -> Path:
    """Where it lies; a link to a file stays what it is called."""
    return item.parent.resolve() / item.name


def _images(place: Path, skip: Skip) -> Iterator[Path]:
    for file in _files(place, skip):
        if is_image(file):
            yield file
        else:
            skip(file, f"is no image ({file.suffix or 'no suffix'})")


def _files(place: Path, skip: Skip) -> Iterator[Path]:
    if not place.is_dir():
        yield place
        return
    tree = read_tree([place])
    for path in tree.neither:
        skip(path, "leads nowhere")
    yield from sorted(tree.below(place))


def _clips(place: Path, skip: Skip) -> Iterator[Path]:
    if place.is_dir():
        tree = read_tree([place])
        yield from [place] if any(map(is_image, tree.files[place])) else find_clips(tree, place)
        for inner in sorted(tree.below(place)):
            if not is_video(inner) and not is_image(inner):
                skip(inner, f"is no clip ({inner.suffix or 'no suffix'})")
    elif is_video(place):
        require_reader(place)
        yield place
    else:
        skip(place, f"is no clip ({place.suffix or 'no suffix'})")
