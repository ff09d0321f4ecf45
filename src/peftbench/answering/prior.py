"""What earlier records say of what to try first. It changes the order of trying, and judges nothing.

A record tells which backbone and method it had, and what that reached on the validation images of another data set.
Of the data sets that are nearest, by their numbers of images and classes and by what a probe reaches, each name gets
the share of the others that it beat there. Names of which nothing is known keep their places.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.config import Config
from peftbench.results import FILE, Record, read_record

NEAREST = 3
"""So many data sets are heard."""
MOST_SHARE, LEAST_SECONDS, MOST_SECONDS = 0.02, 0.3, 3.0
"""Reading records ends after this share of the time, and within these bounds."""
FOLDERS = (f"*/{FILE}", f"*/*/{FILE}", f"auto-*/runs/*/{FILE}")
"""Where runs lie under `output_dir`: alone, of a sweep, of an answer."""
PROBE_WEIGHT = 4.0
"""A difference of 0.25 between probes counts as much as ten times the images."""


@dataclass(frozen=True)
class Seen:
    """One earlier run.

    Attributes:
        data: hash of its data set's images and labels, and how many of them judged.
        images: to train on.
        classes: of its data; 0 where there are none.
        backbone, method: by the names of their YAML files.
        value: what its task is judged by, on validation images.
        solved: whether its head was worked out from frozen features: a probe.
    """

    data: tuple[str, int]
    images: int
    classes: int
    backbone: str
    method: str
    value: float
    solved: bool


@dataclass(frozen=True)
class Prior:
    """Earlier runs on other images than these; empty where there are none.

    Attributes:
        seen: the runs.
        images, classes: of the data to be learned from.
        same: records that were left out because they may share images with these data.
        unread: records that could not be read.
    """

    seen: tuple[Seen, ...] = ()
    images: int = 1
    classes: int = 0
    same: int = 0
    unread: int = 0

    @property
    def says(self) -> str:
        """One sentence on what was read."""
        data_sets = len({one.data[0] for one in self.seen})
        told = f"{plural(len(self.seen), 'earlier run')} on {plural(data_sets, 'other data set')} may change the order"
        if not self.seen:
            told = "no earlier run on other images has a validation figure; the order is that of the list"
        left = [f"{self.same:,} not heard, since they may share images with these"] if self.same else []
        left += [f"{self.unread:,} could not be read"] if self.unread else []
        return "; ".join([told, *left])

    def ordered(self, names: Sequence[str], kind: str, probe: float | None = None) -> list[str]:
        """The names, those that did better on the nearest data sets first.

        Only names of which something is known change places, and only among themselves.

        Args:
            names: of backbones or methods.
            kind: `backbone` or `method`.
            probe: what the best probe reached on these data, where that is known.
        """
        scores = self._scores(frozenset(names), kind, probe)
        known = iter(sorted((name for name in names if name in scores), key=lambda name: -scores[name]))
        return [next(known) if name in scores else name for name in names]

    def _scores(self, names: frozenset[str], kind: str, probe: float | None) -> dict[str, float]:
        """Name -> the share of the others that it beat, 1 for all; nearer data sets count more."""
        by_data: dict[tuple[str, int], list[Seen]] = defaultdict(list)
        for one in self.seen:
            by_data[one.data].append(one)
        told = []
        for runs in by_data.values():
            best: dict[str, float] = {}
            for run in runs:
                name = str(getattr(run, kind))
                if name in names:
                    best[name] = max(best.get(name, -math.inf), run.value)
            if len(best) > 1:  # one alone beat nothing
                told.append((self._distance(runs, probe), best))
        told.sort(key=lambda entry: entry[0])
        sums: dict[str, float] = defaultdict(float)
        weights: dict[str, float] = defaultdict(float)
        for distance, best in told[:NEAREST]:
            for name, value in best.items():
                others = [other for key, other in best.items() if key != name]
                beaten = sum(1.0 if value > other else 0.5 if value == other else 0.0 for other in others)
                weight = 1 / (1 + distance)
                sums[name] += weight * beaten / len(others)
                weights[name] += weight
        return {name: sums[name] / weights[name] for name in sums}

    def _distance(self, runs: Sequence[Seen], probe: float | None) -> float:
        """How unlike these data others are: tenfold images or classes count as 1 each."""
        first = runs[0]
        far = abs(math.log10(max(first.images, 1) / max(self.images, 1)))
        far += abs(math.log10(max(first.classes, 1) / max(self.classes, 1)))
        theirs = max((run.value for run in runs if run.solved), default=None)
        if probe is not None and theirs is not None:
            far += PROBE_WEIGHT * abs(theirs - probe)
        return far


def read_prior(
    config: Config, folder: Path, images: int, classes: int, hashes: frozenset[str], minutes: float
) -> Prior:
    """What the records under a folder tell, of runs of the same task on other images; validation figures alone.

    A record may share images where its data have the hash of these, or come from the same data set or place: its
    folder is this one, lies in it or holds it. That a part of these images was copied elsewhere cannot be known.

    Args:
        config: of any run on these data.
        folder: with runs, sweeps and answers.
        images: to train on.
        classes: of these data; 0 where there are none.
        hashes: of these images and labels.
        minutes: that the answer may take.
    """
    end = time.monotonic() + min(max(60 * minutes * MOST_SHARE, LEAST_SECONDS), MOST_SECONDS)
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
        if record is None or record.status != "complete" or _section(record, "task").get("name") != config.task.name:
            continue
        if _may_share(config, record, hashes):
            same += 1
        elif (one := _seen(record)) is not None:
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


def _section(record: Record, name: str) -> dict[str, Any]:
    section = record.config.get(name)
    return section if isinstance(section, dict) else {}


def _may_share(config: Config, record: Record, hashes: frozenset[str]) -> bool:
    """Whether a record's images may be among these."""
    stamp, data = record.stamps.get("data") or {}, _section(record, "data")
    if stamp.get("hash") in hashes or data.get("name") is None:
        return True
    theirs, ours = _root(data.get("options")), _root(config.data.options)
    if theirs is None or ours is None:  # images of a package
        return data.get("path") == config.data.path and theirs == ours
    return theirs == ours or theirs in ours.parents or ours in theirs.parents


def _root(options: object) -> Path | None:
    root = options.get("root") if isinstance(options, dict) else None
    return Path(root).expanduser().resolve() if isinstance(root, str) else None


def _seen(record: Record) -> Seen | None:
    """What a record tells; None where it has no validation figure."""
    stamp, choices = record.stamps.get("data") or {}, _section(record, "choices")
    value = record.metrics.get(f"val/{record.stamps.get('judged_by')}")
    images = stamp.get("images")
    names = (choices.get("backbone"), choices.get("method"))
    if value is None or not isinstance(images, dict) or not all(isinstance(name, str) for name in names):
        return None
    return Seen(
        data=(str(stamp.get("hash")), int(images.get("val") or 0)),
        images=int(images.get("train") or 0),
        classes=int(stamp.get("classes") or 0),
        backbone=str(names[0]),
        method=str(names[1]),
        value=float(value),
        solved="solved" in record.stamps,
    )
