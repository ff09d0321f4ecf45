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
from peftbench.data.check.pictures import Looks, look_at
from peftbench.data.check.targets import COMPARED, Noun, counts_of, lines_of_split, noun_of, targets_of
from peftbench.data.pixel_values import Range

IMBALANCE = 10
"""The largest class has so many times the images of the smallest: more is told."""
_WORDS = {"train": "training", "val": "validation", "test": "test"}
SHIFTED = "ood/"
"""What the name of a shifted test set of the data set's own begins with, among the roles."""


def _word(role: str) -> str:
    return _WORDS.get(role, role)


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
        noun: what an image has: a class (or objects, each with one), labels, or numbers.
        counts: role -> how many images, or objects, each class or label has; nothing of numbers.
        broken: role -> index -> why an image cannot be read.
        faults: role -> index -> what is wrong with the target of one, such as a mask of another size.
        twins: images that look like one of another split.
        notes: what was found while the lists were read.
    """

    name: str
    classes: tuple[str, ...]
    noun: Noun
    splits: Mapping[str, Split]
    counts: Mapping[str, np.ndarray]
    broken: Mapping[str, Mapping[int, str]]
    faults: Mapping[str, Mapping[int, str]]
    twins: tuple[Twin, ...]
    notes: tuple[str, ...]

    @property
    def wrong(self) -> bool:
        """Whether something should be mended: images, or targets, that cannot be read, or images on two sides."""
        return bool(self.twins) or any(self.broken.values()) or any(self.faults.values())

    def lines(self) -> Iterator[str]:
        """A sentence for each finding."""
        for role, split in self.splits.items():
            yield from lines_of_split(role, split, self.noun, self.classes, self.counts[role])
        for role, broken in self.broken.items():
            if broken:
                at, why = next(iter(broken.items()))
                yield (
                    f"wrong: {len(broken):,} of the {_word(role)} images cannot be read, such as "
                    f"{self.splits[role].names[at]} ({why})"
                )
        for role, faults in self.faults.items():
            if faults:
                do = agreeing(len(faults), "does", "do")
                yield (
                    f"wrong: what is annotated of {len(faults):,} of the {_word(role)} images {do} not fit, such as "
                    f"{next(iter(faults.values()))}"
                )
        for pair in dict.fromkeys((twin.role, twin.other) for twin in self.twins):
            yield self._twins(*pair)
        for role, counts in self.counts.items():
            lacking = [self.classes[at] for at in np.flatnonzero(counts == 0)]
            if lacking:
                shown = ", ".join(lacking[:5]) + (", …" if len(lacking) > 5 else "")
                yield f"note: {plural(len(lacking), self.noun)} without {_word(role)} images: {shown}"
        yield from self._imbalance()
        yield from (f"note: {note}" for note in self.notes)

    def _twins(self, role: str, other: str) -> str:
        twins = [twin for twin in self.twins if (twin.role, twin.other) == (role, other)]
        first = twins[0]
        names = f"{self.splits[role].names[first.at]} and {self.splits[other].names[first.there]}"
        differing = sum(not twin.same for twin in twins)
        labels = f", {differing:,} of them with {COMPARED[self.noun][1]}" if differing else ""
        look = agreeing(len(twins), f"looks like a {_word(other)} image", f"look like {_word(other)} images")
        return f"wrong: {len(twins):,} of the {_word(role)} images {look}{labels}, such as {names}"

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


def examine(
    splits: Splits, targets: str = "own", values: Range = "auto", watch: Watch = lambda done, of: None
) -> Findings:
    """Reads every image of the splits, of shifted test sets too, and counts and compares them.

    Args:
        splits: what to read.
        targets: what the task asked the data set for (`TaskSchema.targets`).
        values: which values of images of more than 8 bits are black and white.
        watch: called with the number of images of a split that have been read, and of how many.
    """
    by_role = {role: split for role in ("train", "val", "test") if (split := getattr(splits, role)) is not None}
    by_role |= {f"{SHIFTED}{name}": split for name, split in splits.shifted.items()}
    looks = {role: look_at(split, values, watch) for role, split in by_role.items()}
    noun = noun_of(targets, splits.train)
    labels = {role: targets_of(split, noun) for role, split in by_role.items()}
    counts = {role: counts_of(each, noun, len(splits.classes)) for role, each in labels.items()}
    twins = []
    shifted = [(role, "train") for role in by_role if role.startswith(SHIFTED)]
    for role, other in (("val", "train"), ("test", "train"), ("test", "val"), *shifted):
        if role in by_role and other in by_role:
            for at, there in near_pairs(looks[role], looks[other]):
                same = np.array_equal(labels[role][at], labels[other][there])
                twins.append(Twin(role, at, other, there, same))
    faults = {role: each.faults for role, each in looks.items()}
    about = (_broken(looks), faults, tuple(twins), tuple(splits.notes))
    return Findings(splits.name, splits.classes, noun, by_role, counts, *about)


def _broken(looks: Mapping[str, Looks]) -> dict[str, dict[int, str]]:
    return {role: dict(sorted(each.broken.items())) for role, each in looks.items()}
