"""Where `peftbench predict` writes a picture for each image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from peftbench.common.errors import UserError


def files_for(
    key: str, images: str, items: Sequence[Path], place: str, force: bool, suffix: str = ""
) -> dict[Path, Path]:
    """The file for each image in a folder: as it lies below `images`, or below the folder that holds them all.

    Args:
        key: what messages call the option that names the folder.
        images: what the user gave.
        items: the images.
        place: the folder to write into.
        force: whether files that are there may be replaced.
        suffix: in the place of that of the images, where it is given.

    Raises:
        UserError: something is in the way, or two images would have one file.
    """
    source, folder = (Path(os.path.abspath(Path(each).expanduser())) for each in (images, place))
    absolute = {item: Path(os.path.abspath(item)) for item in items}
    base = source if source.is_dir() else Path(os.path.commonpath([path.parent for path in absolute.values()]))
    pictures = {item: folder / path.relative_to(base) for item, path in absolute.items()}
    if suffix:
        pictures = {item: path.with_suffix(suffix) for item, path in pictures.items()}
    sources = {path.resolve() for path in absolute.values()}
    if folder.is_relative_to(source) or any(path.resolve() in sources for path in pictures.values()):
        raise UserError(f"{key}={place}: lies among the images of images={images}; give a folder apart from them.")
    owners: dict[Path, Path] = {}
    for item, path in pictures.items():
        if (other := owners.setdefault(path, item)) != item:
            raise UserError(f"{key}={place}: {other} and {item} would both be {path.name}; give them different stems.")
    there = [path for path in pictures.values() if path.exists()]
    if there and not force:
        more = f", as do {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(f"{key}={place}: {there[0]} exists already{more}; give another folder, or force=true.")
    return pictures
