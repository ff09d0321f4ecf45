"""Folders of images that are made once and kept in the cache, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftbench.common.errors import UserError
from peftbench.common.json_text import json_of
from peftbench.common.regular_files import text_in

_STAMP = "stamp.json"


def made_once(folder: Path, recipe: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder, which `make` fills where it is not there as it was written.

    A folder that somebody changed is kept beside it. Several processes may ask for one at a time.

    Args:
        folder: in the cache.
        recipe: all that its files depend on, as JSON.
        make: writes the files into an empty folder.

    Raises:
        UserError: it cannot be written.
    """
    if _whole(folder, recipe):
        return folder
    part = folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        part.chmod(0o755)
        make(part)
        (part / _STAMP).write_text(json.dumps({"recipe": recipe, "files": _sizes(part)}), encoding="utf-8")
        if folder.exists() and not _whole(folder, recipe):  # somebody changed it: that is kept
            folder.rename(Path(tempfile.mkdtemp(prefix=f"{folder.name}.changed-", dir=folder.parent)) / folder.name)
        with contextlib.suppress(OSError):  # another process was faster
            part.rename(folder)
        if not _whole(folder, recipe):
            raise UserError(f"{folder}: could not be put in place; is another process removing it?")
    except OSError as problem:
        raise UserError(
            f"{folder}: could not be written ({problem.strerror or problem}); PEFTBENCH_CACHE names another place."
        ) from None
    finally:
        if part != folder:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _sizes(folder: Path) -> dict[str, int]:
    """The size of every file but the stamp."""
    files = (p for p in folder.rglob("*") if p.is_file() and p != folder / _STAMP)
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(files)}


def _whole(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether all files are there as they were written."""
    try:
        stamp = json_of(text_in(folder / _STAMP))
        return bool(stamp["recipe"] == recipe and stamp["files"] == _sizes(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False
