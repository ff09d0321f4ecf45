"""What lies in the tap cache: entries, their locks, their sizes. No torch, so that listing answers at once.

An entry is a folder `<dir>/<key>/` with `about.json` and one file a tap; it is whole, or it is not there. Two locks
go with it in `<dir>/.locks/`: `<key>.fill` is held by the one run that fills it, `<key>.use` is shared by those that
read it.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from peftbench.common.cache_folder import cache
from peftbench.common.errors import UserError
from peftbench.common.file_lock import releasing, take, take_reading, take_unread
from peftbench.common.json_text import json_of
from peftbench.common.own_folders import holds_only, remove_own_files
from peftbench.common.regular_files import text_in

ABOUT = "about.json"
LOCKS = ".locks"
PARTS = ".parts"
DTYPES = ("float32", "float16", "bfloat16", "int8")
FILES = re.compile(r"about\.json|tap-\d+\.bin")
"""The names of the files of an entry, whole or half-written; nothing else is ever removed."""
_KEY = "[0-9a-f]{20}"
RESERVE = 2**26
"""Bytes that stay free on the disk."""
Lock = TypeVar("Lock")


class CacheError(UserError):
    """The cache itself cannot hold an entry: there is no room, or its folder cannot be written or read back."""


def taps_folder(folder: str | None) -> Path:
    """The folder of the cache.

    `folder` where it is given, else `taps` in $PEFTBENCH_CACHE, in $XDG_CACHE_HOME/peftbench or in ~/.cache/peftbench.
    """
    if folder:
        return Path(folder).expanduser()
    return cache() / "taps"


@dataclass(frozen=True)
class Entry:
    """An entry: what it holds, its size in bytes, and when it was last read (seconds since 1970).

    `about` is empty where its description is missing or damaged.
    """

    key: str
    folder: Path
    about: dict[str, Any]
    bytes: int
    used: float


def entries(root: Path) -> list[Entry]:
    """The entries under `root`, the last used first; whatever else lies there is passed over."""
    listed = []
    for folder in root.glob("*"):
        with contextlib.suppress(OSError):  # no folder; or another process is removing it
            files = list(folder.iterdir())
            about = read_about(folder)
            if folder.name.startswith(".") or not (about or _damaged(folder, files)):
                continue
            size = sum(f.stat().st_size for f in files)
            used = (folder / ABOUT if about else folder).stat().st_mtime
            listed.append(Entry(folder.name, folder, about or {}, size, used))
    return sorted(listed, key=lambda e: -e.used)


def _damaged(folder: Path, files: list[Path]) -> bool:
    """Whether a folder without a sound description was an entry all the same, by its name and those of its files."""
    named = re.fullmatch(_KEY, folder.name) and not folder.is_symlink()
    return bool(named) and bool(files) and all(FILES.fullmatch(f.name) for f in files)


def read_about(folder: Path) -> dict[str, Any] | None:
    """The description of an entry: `about`, `rows`, and `shape`, `dtype` and `crc32` of each of its `taps`.

    None where the description is missing or damaged.
    """
    try:
        content = json_of(text_in(folder / ABOUT))
        rows, taps = content["rows"], content["taps"]
        sound = isinstance(content["about"], dict) and _counts([rows]) and rows * len(taps) > 0
        taps_sound = [_counts(t["shape"]) and _counts(t["crc32"]) and t["dtype"] in DTYPES for t in taps]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return content if sound and all(taps_sound) else None


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def mark_used(folder: Path) -> None:
    """Notes that the entry is used now."""
    with contextlib.suppress(OSError):
        os.utime(folder / ABOUT)


def remove_entry(entry: Entry) -> bool:
    """Removes an entry unless a run reads it, or files of others are in it, or it is a link; says if it is gone."""
    with releasing(_taken(entry.folder.parent, f"{entry.key}.use", take_unread)) as unread:
        if not unread:
            return False
        doomed = entry.folder.parent / PARTS / f"{entry.key}.{os.getpid()}.removed"
        doomed.parent.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            if holds_only(entry.folder, FILES):
                entry.folder.rename(doomed)  # at once out of sight: nobody sees half an entry
                remove_own_files(doomed, FILES)
        return not entry.folder.exists()


def leftover_sizes(root: Path) -> list[int]:
    """The size of each thing that a killed run left half-written."""
    return [_size(part) for part in _left(root)]


def remove_leftovers(root: Path) -> int:
    """Removes what killed runs left half-written; the number of bytes freed."""
    freed = 0
    for part in _left(root):
        freed += _size(part)
        remove_own_files(part, FILES)
    return freed


def _left(root: Path) -> Iterator[Path]:
    """Half-written entries that no run is writing, nor begins to write while they are looked at.

    A folder of that name may be somebody's own, or a link to it: what is not named as we do, or holds other files, is
    none of ours.
    """
    if (root / PARTS).is_symlink():
        return
    for part in (root / PARTS).glob("*"):
        if not re.fullmatch(rf"{_KEY}\.\d+(\.old|\.removed)?", part.name) or not holds_only(part, FILES):
            continue
        with releasing(_fill_lock(root, part.name.split(".")[0], wait=False)) as held:
            if held:
                yield part


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def make_room(root: Path, needed: int, limit: int) -> None:
    """Removes the entries used longest ago until `needed` more bytes stay within `limit`.

    Raises:
        CacheError: they cannot, or the disk has not that much free.
    """
    if needed > limit:
        allowed = round(limit / 2**30, 6)
        raise CacheError(f"taps.max_gb={allowed:g}: these taps need {_amount(needed)}; give more, or taps=off.")
    last_used_first = entries(root)
    excess = sum(e.bytes for e in last_used_first) + needed - limit
    for oldest in reversed(last_used_first):
        if excess > 0 and remove_entry(oldest):
            excess -= oldest.bytes
    free = shutil.disk_usage(root).free
    if (lacking := needed + RESERVE - free) > 0:
        raise CacheError(
            f"taps.dir={root}: these taps need {_amount(needed)}, and the disk has {_amount(free)} free, of which "
            f"{_amount(RESERVE)} are kept free: {_amount(lacking)} too little; make room, give another taps.dir, or "
            f"taps=off."
        )


def fits(root: Path, needed: int, limit: int) -> bool:
    """Whether `make_room` would find room for `needed` more bytes; nothing is removed, and no folder made."""
    place = root.absolute()
    while not place.is_dir():
        place = place.parent
    there = sum(entry.bytes for entry in entries(root))
    freed = min(max(there + needed - limit, 0), there)
    return needed <= limit and needed + RESERVE <= shutil.disk_usage(place).free + freed


def _amount(value: int) -> str:
    """Bytes in MiB, or from 1 GiB on in GiB; rounded up."""
    unit, length = ("GiB", 2**30) if value >= 2**30 else ("MiB", 2**20)
    return f"{math.ceil(100 * value / length) / 100:g} {unit}"


@contextlib.contextmanager
def lock_for_filling(root: Path, key: str, waiting: Any = None) -> Iterator[None]:
    """Inside, no other process fills this entry. `waiting` is called if one does, before waiting for it."""
    with releasing(_fill_lock(root, key, wait=False)) as held:
        if held:
            yield
            return
    if waiting:
        waiting()
    with releasing(_fill_lock(root, key, wait=True)):
        yield


def lock_for_reading(root: Path, key: str) -> FileLock:
    """A lock that keeps an entry from being removed until it is released or forgotten. Raises CacheError."""
    return _taken(root, f"{key}.use", take_reading)


def _fill_lock(root: Path, key: str, wait: bool) -> FileLock | None:
    return _taken(root, f"{key}.fill", partial(take, wait=wait))


def _taken(root: Path, name: str, take_lock: Callable[[Path], Lock]) -> Lock:
    try:
        (root / LOCKS).mkdir(parents=True, exist_ok=True)
        return take_lock(root / LOCKS / name)
    except OSError as problem:
        raise CacheError(f"taps.dir={root}: cannot be written ({problem.strerror}); give another.") from None


def ago(moment: float) -> str:
    """How long ago, in words of one unit."""
    seconds = max(time.time() - moment, 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
