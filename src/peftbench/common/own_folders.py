"""Removing folders: only files that we write are ever removed, and nothing through a link."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path


def holds_only(folder: Path, ours: re.Pattern[str]) -> bool:
    """Whether this is a folder, and no link to one, in which there are only files that bear names of ours.

    Raises:
        OSError: it cannot be read.
    """
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(ours.fullmatch(f.name) and f.is_file() and not f.is_symlink() for f in folder.iterdir())


def remove_own_files(folder: Path, ours: re.Pattern[str]) -> None:
    """Removes the files of a folder that bear names of ours, and the folder where nothing else was in it.

    What is no folder, or a link to one, stays as it is, as does what cannot be removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            if ours.fullmatch(file.name) and file.is_file() and not file.is_symlink():
                file.unlink(missing_ok=True)
        folder.rmdir()
