"""What a look at every image and label of a data set finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.progress import Watch
from peftbench.data.base import Split, Splits
from peftbench.data.check.near import near_pairs
from peftbench.data.check.pictures import Looks, labels_of, look_at
from peftbench.data.pixel_values import Range

IMBALANCE = 10
"""The largest class has so many times the images of the smallest: more is told."""
_WORDS = {"train": "training", "val": "validation", "test": "test"}


class Twin(NamedTuple):
    """An image that looks like one of another split.

    Attributes:
        role, at: its split and its place there.
        other, there: those of the one that it looks like.
        same: whether the two have the same label.
    """

    role: str
    at: int
    other: str
    there: int
    same: bool


@dataclass(frozen=True)
class Findings:
    """What was found in the splits, by role.

    Attributes:
        counts: role -> how many images, or objects, each class has.
        broken: role -> index -> why an image cannot be read.
        twins: images that look like one of another split.
        notes: what was found while the lists were read.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    counts: Mapping[str, np.ndarray]
    broken: Mapping[str, Mapping[int, str]]
    twins: tuple[Twin, ...]
    notes: tuple[str, ...]

    @property
    def wrong(self) -> bool:
        """Whether something should be mended: images that cannot be read, or that are on two sides."""
        return bool(self.twins) or any(self.broken.values())

    def lines(self) -> Iterator[str]:
        """A sentence for each finding."""
        yield from (
            f"{role}: {plural(len(split), 'image')}, {plural(int((self.counts[role] > 0).sum()), 'class')}"
            for role, split in self.splits.items()
        )
        for role, broken in self.broken.items():
            if broken:
                at, why = next(iter(broken.items()))
                yield (
                    f"wrong: {len(broken):,} of the {_WORDS[role]} images cannot be read, such as "
                    f"{self.splits[role].names[at]} ({why})"
                )
        for pair in dict.fromkeys((twin.role, twin.other) for twin in self.twins):
            yield self._twins(*pair)
        for role, counts in self.counts.items():
            lacking = [self.classes[at] for at in np.flatnonzero(counts == 0)]
            if lacking and len(self.classes):
                shown = ", ".join(lacking[:5]) + (", …" if len(lacking) > 5 else "")
                yield f"note: {plural(len(lacking), 'class')} without {_WORDS[role]} images: {shown}"
        yield from self._imbalance()
        yield from (f"note: {note}" for note in self.notes)

    def _twins(self, role: str, other: str) -> str:
        twins = [twin for twin in self.twins if (twin.role, twin.other) == (role, other)]
        first = twins[0]
        names = f"{self.splits[role].names[first.at]} and {self.splits[other].names[first.there]}"
        differing = sum(not twin.same for twin in twins)
        labels = f", {differing:,} of them with another label" if differing else ""
        look = agreeing(len(twins), f"looks like a {_WORDS[other]} image", f"look like {_WORDS[other]} images")
        return f"wrong: {len(twins):,} of the {_WORDS[role]} images {look}{labels}, such as {names}"

    def _imbalance(self) -> Iterator[str]:
        counts = self.counts["train"]
        there = np.flatnonzero(counts)
        if len(there) < 2:
            return
        most, least = there[counts[there].argmax()], there[counts[there].argmin()]
        if counts[most] >= IMBALANCE * counts[least]:
            yield (
                f"note: to train on, {self.classes[most]} has {counts[most]:,} and {self.classes[least]} "
                f"{counts[least]:,}, {counts[most] / counts[least]:.0f} times as many"
            )


def examine(splits: Splits, values: Range = "auto", watch: Watch = lambda done, of: None) -> Findings:
    """Reads every image of the splits, and counts and compares them."""
    by_role = {role: split for role in ("train", "val", "test") if (split := getattr(splits, role)) is not None}
    looks = {role: look_at(split, values, watch) for role, split in by_role.items()}
    labels = {role: labels_of(split) for role, split in by_role.items()}
    counts = {
        role: np.bincount(np.concatenate([*each, np.empty(0, dtype=np.int64)]).astype(np.int64), minlength=len(classes))
        if (classes := splits.classes)
        else np.zeros(0, dtype=np.int64)
        for role, each in labels.items()
    }
    twins = []
    for role, other in (("val", "train"), ("test", "train"), ("test", "val")):
        if role in by_role and other in by_role:
            for at, there in near_pairs(looks[role], looks[other]):
                same = np.array_equal(np.sort(labels[role][at]), np.sort(labels[other][there]))
                twins.append(Twin(role, at, other, there, same))
    return Findings(splits.name, splits.classes, by_role, counts, _broken(looks), tuple(twins), tuple(splits.notes))


def _broken(looks: Mapping[str, Looks]) -> dict[str, dict[int, str]]:
    return {role: dict(sorted(each.broken.items())) for role, each in looks.items()}
