"""The folder in which runs that train together keep their one checkpoint, until the last of them has its record."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.common.json_text import json_of
from peftbench.common.own_folders import remove_own_files
from peftbench.common.regular_files import text_in
from peftbench.results import read_record
from peftbench.runs.folder import set_aside
from peftbench.runs.single_run import SingleRun
from peftbench.training import CHECKPOINT

FOLDER = ".together"
RUNS = "runs.json"
"""Written first into the folder: whose checkpoint it holds, in their order."""
_OURS = re.compile(rf"{re.escape(CHECKPOINT)}|{re.escape(RUNS)}")


def group_of(todo: Sequence[SingleRun], runs: Mapping[str, SingleRun]) -> list[SingleRun]:
    """The runs to carry out in one pass: those that are left, and those whose checkpoint they share.

    Where a command was ended after some of a group had their records, the others' training is in the group's
    checkpoint: it goes on with all of the group, and those that are complete keep their records.

    Args:
        todo: the runs that are left.
        runs: all that were asked for, by their ids.
    """
    wanted = {one.id for one in todo}
    for mark in sorted((todo[0].folder.parent / FOLDER).glob(f"*/{RUNS}")):
        ids = _read(mark)
        if wanted < set(ids) <= set(runs) and (mark.parent / CHECKPOINT).is_file():
            return [runs[name] for name in ids]
    return list(todo)


def _read(mark: Path) -> list[str]:
    try:
        ids = json_of(text_in(mark))
    except (OSError, ValueError):
        return []
    return ids if isinstance(ids, list) and all(isinstance(name, str) for name in ids) else []


@contextlib.contextmanager
def records_kept(runs: Collection[SingleRun]) -> Iterator[None]:
    """Within this block complete runs may be carried out again with others: their records stay what they are."""
    kept = {one.id: one.record for one in runs if one.done}
    for one in runs:
        if one.done:
            one.record = copy.deepcopy(one.record)
    try:
        yield
    finally:
        for one in runs:
            if one.done:
                one.record = kept[one.id]


def shared_folder(runs: Sequence[SingleRun]) -> Path:
    """The folder of the checkpoint of runs that train together; its name is a hash of theirs. Raises UserError."""
    ids = [one.id for one in runs]
    name = hashlib.sha256(" ".join(ids).encode()).hexdigest()[:20]
    folder = runs[0].folder.parent / FOLDER / name
    if runs[0].context.config.force and folder.exists():
        set_aside(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"{folder}: cannot be written ({problem.strerror}); give another output_dir.") from None
    with replacing(folder / RUNS) as part:
        part.write_text(json.dumps(ids), encoding="utf-8")
    return folder


def remove_shared_checkpoint(runs: Sequence[SingleRun]) -> None:
    """Removes the checkpoint of runs that trained together, where each has a record that says how it ended."""
    folder = runs[0].checkpoints
    if folder == runs[0].folder:
        return
    for one in runs:
        record = read_record(one.folder)
        if record is None or record.status not in ("complete", "failed"):
            return
    remove_own_files(folder, _OURS)
