"""Filling and reading entries of the tap cache."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftbench.common.own_folders import holds_only, remove_own_files
from peftbench.taps import in_file
from peftbench.taps.entries import (
    ABOUT,
    FILES,
    PARTS,
    CacheError,
    lock_for_filling,
    lock_for_reading,
    make_room,
    mark_used,
    read_about,
    remove_leftovers,
)
from peftbench.taps.in_file import InFile
from peftbench.taps.kept import CPU, Taps
from peftbench.taps.writing import file_name, write_taps

Fill = Callable[[], Iterable[list[Tensor]]]
"""Yields the taps of all rows in order, chunk by chunk: for each tap a CPU tensor (rows of the chunk, …)."""

_VERIFIED: set[tuple[str, int]] = set()


def entry_key(about: dict[str, Any]) -> str:
    """The name of the entry that holds what `about` describes: twenty hex digits of a hash."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]


def taps_in_memory(fill: Fill, rows: int, place: torch.device | None = None) -> Taps:
    """All taps, of so many rows, in memory: the machine's, or that of a GPU."""
    begun, done = time.perf_counter(), 0
    tensors: list[Tensor] = []
    for chunk in fill():
        tensors = tensors or [t.new_empty((rows, *t.shape[1:]), device=place or CPU) for t in chunk]  # else twice there
        for whole, part in zip(tensors, chunk, strict=True):
            whole[done : done + len(part)] = part
        done += len(chunk[0])
    return Taps(tensors, "memory", done, time.perf_counter() - begun, device=place or CPU, held_on=place)


def taps_on_disk(
    root: Path,
    about: dict[str, Any],
    bytes_: int,
    limit: int,
    fill: Fill,
    tell: Callable[[str], None],
    more: Callable[[], dict[str, Any]] = dict,
) -> Taps:
    """The entry that `about` describes, filled first where it is not there or is damaged.

    Where several processes ask for it, one fills it and the others wait.

    Args:
        root: the folder of the cache.
        about: what the entry holds.
        bytes_: the size that the entry will have.
        limit: bytes that the whole cache may have.
        fill: computes the taps.
        tell: shows the user a sentence.
        more: once it is filled, what its description says besides.

    Raises:
        CacheError: there is no room for it, or the disk cannot be written. What `fill` raises is passed on.
    """
    name = entry_key(about)
    begun, filled = time.perf_counter(), 0
    remove_leftovers(root)
    reading = lock_for_reading(root, name)
    with lock_for_filling(root, name, lambda: tell("waiting for another run that computes the same taps")):
        if (taps := _opened(root / name, about, tell)) is None:
            begun = time.perf_counter()
            make_room(root, bytes_, limit)
            filled = _write(root, name, about, fill, more)
            taps = _opened(root / name, about, tell)
    if taps is None:
        raise CacheError(f"{root / name}: was written and cannot be read back; give another taps.dir, or taps=off.")
    mark_used(root / name)
    seconds = time.perf_counter() - begun if filled else 0.0
    return Taps(taps, "disk", filled, seconds, name, more=read_about(root / name) or {}, _locks=[reading])


def _write(root: Path, name: str, about: dict[str, Any], fill: Fill, more: Callable[[], dict[str, Any]]) -> int:
    """Fills the entry beside its place and moves it there when it is whole; returns the number of rows."""
    part = root / PARTS / f"{name}.{os.getpid()}"
    with contextlib.ExitStack() as stack:
        with _writing(root):
            remove_own_files(part, FILES)
            part.mkdir(parents=True)
        stack.callback(remove_own_files, part, FILES)
        rows, listed = write_taps(part, fill(), partial(_writing, root))
        with _writing(root):
            content = {**more(), "about": about, "rows": rows, "taps": listed}
            (part / ABOUT).write_text(json.dumps(content) + "\n", encoding="utf-8")
            old = root / PARTS / f"{name}.{os.getpid()}.old"
            stack.callback(remove_own_files, old, FILES)
            if (root / name).exists():  # a damaged one
                _refuse_what_others_keep(root / name)
                (root / name).rename(old)
            part.rename(root / name)
    return rows


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        why = "the disk is full" if problem.errno == errno.ENOSPC else problem.strerror
        raise CacheError(
            f"taps.dir={root}: the taps could not be written ({why}), and nothing of them is left there; make "
            f"room, give another taps.dir, or taps=memory or taps=off."
        ) from None


def _opened(folder: Path, about: dict[str, Any], tell: Callable[[str], None]) -> list[InFile] | None:
    """The taps of an entry; None where it is not there or damaged. Damage is told to the user by `tell`."""
    if not folder.is_dir():
        return None
    content = read_about(folder)
    try:
        if content is None:
            raise ValueError(f"its description is {'damaged' if (folder / ABOUT).exists() else 'missing'}")
        theirs = content["about"]
        for key, value in about.items():
            if theirs.get(key, value) != value:
                raise ValueError(f"it is of another {key} ({theirs[key]}, not {value})")
        if theirs != about:
            raise ValueError("its description is damaged")
        rows, listed = content["rows"], content["taps"]
        shapes = [(t["shape"], getattr(torch, t["dtype"])) for t in listed]
        taps = [InFile(folder / file_name(i), rows, *shape) for i, shape in enumerate(shapes)]
        stamp = (str(folder), os.stat(folder / file_name(0)).st_mtime_ns)
        if stamp not in _VERIFIED:
            wanted = [s for t in listed for s in t["crc32"]]
            blocks = [(tap, at) for tap in taps for at in range(0, tap.nbytes, in_file.BLOCK)]
            with ThreadPoolExecutor() as pool:
                if list(pool.map(lambda block: block[0].crc32(block[1]), blocks)) != wanted:
                    raise ValueError("a checksum differs")
        _VERIFIED.add(stamp)
    except (OSError, ValueError) as problem:
        why = str(problem)
        if isinstance(problem, OSError):
            why = f"{Path(problem.filename or folder).name} cannot be read ({problem.strerror})"
        _refuse_what_others_keep(folder)
        tell(f"{folder}: {why}; its taps are computed again")
        return None
    return taps


def _refuse_what_others_keep(entry: Path) -> None:
    """Raises CacheError where a damaged entry cannot be replaced, since not all in it is ours."""
    if not holds_only(entry, FILES):
        raise CacheError(
            f"{entry}: is damaged, and is a link or holds files that are not of peftbench; move it away, or give "
            f"another taps.dir."
        )


def size_of_taps(taps: Sequence[Tensor]) -> int:
    """The bytes of some taps, on any device."""
    return sum(t.numel() * t.element_size() for t in taps)
