"""Earlier records under a folder, which say what `auto` tries first (`results/earlier_runs.py` says how)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.config import Config
from peftbench.results import FILE, read_record
from peftbench.results.earlier_runs import Prior, Seen, section_of, seen_in, source_of, source_of_record

MOST_SHARE, LEAST_SECONDS, MOST_SECONDS = 0.02, 0.3, 3.0
"""Reading records ends after this share of the time, and within these bounds."""
FOLDERS = (f"*/{FILE}", f"*/*/{FILE}", f"auto-*/runs/*/{FILE}")
"""Where runs lie under `output_dir`: alone, of a sweep, of an answer."""


def read_prior(
    config: Config, folder: Path, images: int, classes: int, hashes: frozenset[str], minutes: float
) -> Prior:
    """What the records under a folder tell, of runs of the same task on other images; validation figures alone.

    What may share images with these is left out, as `Source.may_share` tells.

    Args:
        config: of any run on these data.
        folder: with runs, sweeps and answers.
        images: to train on.
        classes: of these data; 0 where there are none.
        hashes: of these images and labels.
        minutes: that the answer may take.
    """
    end = time.monotonic() + min(max(60 * minutes * MOST_SHARE, LEAST_SECONDS), MOST_SECONDS)
    data = config.data
    ours = source_of({"name": data.name, "path": data.path, "options": data.options}, hashes)
    seen: list[Seen] = []
    same = unread = 0
    for path in _record_files(folder):
        if time.monotonic() > end:
            break
        try:
            record = read_record(path.parent)
        except UserError:  # a damaged one says so where it is asked for
            unread += 1
            continue
        if record is None or record.status != "complete" or section_of(record, "task").get("name") != config.task.name:
            continue
        if ours.may_share(source_of_record(record)):
            same += 1
        elif (one := seen_in(record)) is not None:
            seen.append(one)
    return Prior(tuple(seen), images, classes, same, unread)


def _record_files(folder: Path) -> Iterator[Path]:
    """The newest first, so that what there is no time to read is old."""
    found: dict[Path, float] = {}
    for pattern in FOLDERS:
        for path in folder.glob(pattern):
            try:
                found[path] = path.stat().st_mtime
            except OSError:
                continue
    yield from sorted(found, key=lambda path: -found[path])
