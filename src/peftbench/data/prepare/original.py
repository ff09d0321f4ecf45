"""A task from its original source."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.progress import Stages, unwatched
from peftbench.common.vtab_tasks import TASKS
from peftbench.data.prepare.drawing import OURS, ROLES, TFDS, Entry, draw_images, pools_of_roles
from peftbench.data.prepare.source_files import SourceFiles
from peftbench.data.prepare.sources import Source, source_of
from peftbench.data.prepare.task_folder import write_task_folder
from peftbench.data.vtab.provenance import Provenance


@dataclass(frozen=True)
class Wanted:
    """What is to be made.

    Attributes:
        archives: where archives lie or go.
        split: tfds-order or peftbench-v1; None is the first of them that the source allows.
        sizes: images of train, val and test, for a smaller set; None is VTAB-1k's.
        mirror: see `Files`.
    """

    archives: Path
    split: str | None = None
    sizes: tuple[int, int, int] | None = None
    mirror: str | None = None


def prepare_task(task: str, target: Path, wanted: Wanted, watch: Stages = unwatched) -> Provenance:
    """Makes the folder `target` of a task, which must not be there yet.

    Raises:
        UserError: files that are missing, damaged, not what they should be, or cannot be written.
    """
    name, source = source_of(task)
    split = _split(task, source, wanted.split)
    watch(f"reading {name}", 0, 0)
    files = SourceFiles(name, source, wanted.archives, wanted.mirror, watch)
    reader = importlib.import_module(f"peftbench.data.prepare.readers.{source.reader}").Reader(files, task)
    splits = reader.splits()
    _labelled(task, splits)
    pools = pools_of_roles(splits, source.cut, split)
    reduced = wanted.sizes is not None
    if not reduced:
        _whole(task, source, pools)
    drawn = draw_images(task, pools, wanted.sizes or (800, 200, None))
    return write_task_folder(
        target,
        drawn,
        reader.pictures,
        split="-".join([split, *map(str, wanted.sizes or ())]),
        source=source.title,
        reduced=reduced,
        classes=reader.classes,
        watch=watch,
    )


def _split(task: str, source: Source, wanted: str | None) -> str:
    if wanted in (None, "") or wanted == OURS:
        return wanted or (TFDS if source.known else OURS)
    if wanted != TFDS:
        raise UserError(f"split={wanted}: expected {TFDS} or {OURS}.")
    if not source.known:
        raise UserError(
            f"split={TFDS}: {source.note} ({task}); adopt a copy with source=folder path=…, "
            f"or leave split out for {OURS}."
        )
    return TFDS


def _labelled(task: str, splits: dict[str, list[Entry]]) -> None:
    classes = TASKS[task].classes
    for split, entries in splits.items():
        if not entries:
            raise UserError(f"{task}: the source has no images of {split}.")
        for entry in entries:
            if not 0 <= entry.label < classes:
                raise UserError(f"{task}: {entry.key} of {split} has label {entry.label}; expected 0 to {classes - 1}.")


def _whole(task: str, source: Source, pools: dict[str, list[Entry]]) -> None:
    """Whether the source is as large as it should be: an archive that lacks images would give another split."""
    table = TASKS[task]
    for role, sizes in zip(ROLES, ((table.pools[0],), (table.pools[1],), table.test), strict=True):
        if len(pools[role]) not in sizes:
            raise UserError(
                f"{task}: {source.title} gives {len(pools[role]):,} images for {role}, expected "
                f"{' or '.join(f'{n:,}' for n in sizes)}; it is not whole or of another version "
                f"(for a smaller set give train=, val= and test=)."
            )
