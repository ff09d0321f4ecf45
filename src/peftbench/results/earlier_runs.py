"""What earlier runs say of what to try first on other images. It suggests an order, and judges nothing.

A record tells which backbone and method it had, and what that reached on the validation images of a data set.
Of the data sets that are nearest, by their numbers of images and classes and by what a probe reaches, each name gets
the share of the others that it beat there. Names of which nothing is known keep their places.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.common.amounts import plural
from peftbench.results.labels import data_name
from peftbench.results.record import Record
from peftbench.results.task_results import less_is_better

NEAREST = 3
"""So many data sets are heard."""
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
        value: what its task is judged by, on validation images; negative where less of it is better.
        solved: whether its head was worked out from frozen features: a probe.
        place: what its data set is called.
    """

    data: tuple[str, int]
    images: int
    classes: int
    backbone: str
    method: str
    value: float
    solved: bool
    place: str = ""


@dataclass(frozen=True)
class Source:
    """Where images come from.

    Attributes:
        hashes: of the images and labels.
        named: whether it is known which data set they are of.
        path: the import path of that data set's class.
        root: the folder that they lie in; None of images of a package.
    """

    hashes: frozenset[str]
    named: bool
    path: str
    root: Path | None

    def may_share(self, other: Source) -> bool:
        """Whether some images may be in both: their hash is one, or they are the same data set, or their folders are
        one, or one lies in the other. That a part of the images was copied elsewhere cannot be known.
        """
        if self.hashes & other.hashes or not (self.named and other.named):
            return True
        if self.root is None or other.root is None:
            return self.path == other.path and self.root == other.root
        return self.root == other.root or self.root in other.root.parents or other.root in self.root.parents


@dataclass(frozen=True)
class Ranked:
    """Names of which something is known, the best first, and the data sets that say so, the nearest first.

    `scores` has by name the share of the others that it beat there, 1 for all.
    """

    names: tuple[str, ...]
    scores: Mapping[str, float]
    places: tuple[str, ...]


@dataclass(frozen=True)
class Prior:
    """Earlier runs on other images than these; empty where there are none.

    Attributes:
        seen: the runs.
        images, classes: of the data to be learned from; None where nothing is known of them: all are as near.
        same: records that were left out because they may share images with these data.
        unread: records that could not be read.
    """

    seen: tuple[Seen, ...] = ()
    images: int | None = 1
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
        ranked = self.ranked(names, kind, probe)
        known = iter(ranked.names)
        return [next(known) if name in ranked.scores else name for name in names]

    def ranked(self, names: Sequence[str], kind: str, probe: float | None = None) -> Ranked:
        """As `ordered`, of those of which something is known alone; nearer data sets count more."""
        by_data: dict[tuple[str, int], list[Seen]] = defaultdict(list)
        for one in self.seen:
            by_data[one.data].append(one)
        told = []
        for runs in by_data.values():
            best = _best_of(runs, kind, names)
            if len(best) > 1:  # one alone beat nothing
                told.append((self._distance(runs, probe), runs[0].place, best))
        told.sort(key=lambda entry: entry[0])
        told = told if self.images is None else told[:NEAREST]
        sums: dict[str, float] = defaultdict(float)
        weights: dict[str, float] = defaultdict(float)
        for distance, _, best in told:
            for name, value in best.items():
                others = [other for key, other in best.items() if key != name]
                beaten = sum(1.0 if value > other else 0.5 if value == other else 0.0 for other in others)
                weight = 1 / (1 + distance)
                sums[name] += weight * beaten / len(others)
                weights[name] += weight
        scores = {name: sums[name] / weights[name] for name in sums}
        in_order = sorted((name for name in names if name in scores), key=lambda name: -scores[name])
        return Ranked(tuple(in_order), scores, tuple(dict.fromkeys(place for _, place, _ in told)))

    def _distance(self, runs: Sequence[Seen], probe: float | None) -> float:
        """How unlike these data others are: tenfold images or classes count as 1 each."""
        if self.images is None:
            return 0.0
        first = runs[0]
        far = abs(math.log10(max(first.images, 1) / max(self.images, 1)))
        far += abs(math.log10(max(first.classes, 1) / max(self.classes, 1)))
        theirs = max((run.value for run in runs if run.solved), default=None)
        if probe is not None and theirs is not None:
            far += PROBE_WEIGHT * abs(theirs - probe)
        return far


def _best_of(runs: Sequence[Seen], kind: str, names: Collection[str]) -> dict[str, float]:
    best: dict[str, float] = {}
    for run in runs:
        name = str(getattr(run, kind))
        if name in names:
            best[name] = max(best.get(name, -math.inf), run.value)
    return best


def source_of(data: Mapping[str, Any], hashes: Collection[str]) -> Source:
    """Where the images of a config's section `data` come from; `hashes` are of them."""
    options = data.get("options")
    root = options.get("root") if isinstance(options, dict) else None
    folder = Path(root).expanduser().resolve() if isinstance(root, str) else None
    return Source(frozenset(hashes), data.get("name") is not None, str(data.get("path")), folder)


def source_of_record(record: Record) -> Source:
    """Where the images of a run come from."""
    return source_of(section_of(record, "data"), {str((record.stamps.get("data") or {}).get("hash"))})


def seen_in(record: Record) -> Seen | None:
    """What a record tells; None where it has no validation figure."""
    stamp, choices = record.stamps.get("data") or {}, section_of(record, "choices")
    metric = f"val/{record.stamps.get('judged_by')}"
    value = record.metrics.get(metric)
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
        value=-float(value) if less_is_better(metric) else float(value),
        solved="solved" in record.stamps,
        place=data_name(record.config),
    )


def section_of(record: Record, name: str) -> dict[str, Any]:
    """A section of a record's config; empty where it has none."""
    section = record.config.get(name)
    return section if isinstance(section, dict) else {}
