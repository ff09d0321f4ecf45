"""Splits that peftbench makes: no image, and no group, is on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from peftbench.data.base import stratified


def split_images(labels: np.ndarray, first: np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Indices cut class by class into len(fractions) + 1 parts, as `stratified` cuts images that occur once.

    Copies of an image are in one part. The first part, to train on, keeps them all; the others have each image once.

    Args:
        labels: int64 (N,).
        first: int64 (N,), the index of each image's first copy.
        fractions: of the images, for the parts after the first.
        seed: of the draw.

    Raises:
        UserError: a negative seed.
    """
    once = np.flatnonzero(first == np.arange(len(first)))
    train, *others = [once[part] for part in stratified(labels[once], fractions, seed)]
    return [np.flatnonzero(np.isin(first, train)), *others]


def split_groups(
    labels: np.ndarray, first: np.ndarray, groups: Sequence[str], fractions: Sequence[float], seed: int
) -> list[np.ndarray]:
    """The same, with each group wholly in one part; groups that share an image count as one.

    Groups come in a drawn order, the largest first, and go where the shares of all classes then come closest to what
    was asked for. Each class is trained on. A part to which a share but no group fell gets the smallest that training
    can spare; it stays empty where there is none.
    """
    units = _units(first, groups)
    once = np.flatnonzero(first == np.arange(len(first)))
    by_unit = once[np.argsort(units[once], kind="stable")]
    members = np.split(by_unit, np.cumsum(np.bincount(units[once]))[:-1])
    counts = [np.unique(labels[m], return_counts=True) for m in members]
    shares = np.array([max(1 - sum(fractions), 0), *fractions])
    held = _Parts(counts, shares, np.bincount(labels[once]).astype(np.float64))
    held.fill(seed)
    held.train_every_class()
    for part in range(len(fractions), 0, -1):  # the test set before the validation images
        if round(fractions[part - 1] * len(once)):
            held.spare_one(part)
    train, *others = [np.flatnonzero(held.part_of[units] == part) for part in range(len(shares))]
    return [train, *(part[first[part] == part] for part in others)]


def _units(first: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """int64 (N,): the number of what each image must stay with; groups that share an image are one."""
    above: dict[str, str] = {group: group for group in groups}

    def top(group: str) -> str:
        while above[group] != group:
            above[group] = above[above[group]]
            group = above[group]
        return group

    for at in np.flatnonzero(first != np.arange(len(first))).tolist():
        above[top(groups[at])] = top(groups[first[at]])
    number: dict[str, int] = {}
    return np.array([number.setdefault(top(group), len(number)) for group in groups], dtype=np.int64)


class _Parts:
    """Which part each unit is in, and how many images of each class every part holds by that."""

    def __init__(self, counts: Sequence[tuple[np.ndarray, np.ndarray]], shares: np.ndarray, sizes: np.ndarray) -> None:
        self.counts, self.sizes = counts, sizes
        self.wanted = shares[:, None] * sizes
        self.held = np.zeros_like(self.wanted)
        self.part_of = np.zeros(len(counts), dtype=np.int64)
        self.images = np.array([count.sum() for _, count in counts])

    def fill(self, seed: int) -> None:
        """Puts each unit where the squared distance from what is wanted, as shares of the classes, grows least."""
        order = np.random.default_rng(seed).permutation(len(self.counts))
        for unit in order[np.argsort(-self.images[order], kind="stable")].tolist():
            classes, count = self.counts[unit]
            lacking = self.wanted[:, classes] - self.held[:, classes]
            growth = (count * (count - 2 * lacking) / self.sizes[classes] ** 2).sum(axis=1)
            self.part_of[unit] = part = int(growth.argmin())
            self.held[part, classes] += count

    def train_every_class(self) -> None:
        """Moves to training the smallest unit of each class that has none there."""
        for class_ in np.flatnonzero((self.held[0] == 0) & (self.sizes > 0)).tolist():
            if self.held[0, class_] == 0:
                units = [unit for unit, (classes, _) in enumerate(self.counts) if class_ in classes]
                self._move(min(units, key=self.images.__getitem__), 0)

    def spare_one(self, part: int) -> None:
        """Gives a part that has no unit the smallest that training can spare, if there is one."""
        if (self.part_of == part).any():
            return
        trained = np.flatnonzero(self.part_of == 0)
        for unit in trained[np.argsort(self.images[trained], kind="stable")].tolist():
            classes, count = self.counts[unit]
            if (self.held[0, classes] > count).all():
                self._move(unit, part)
                return

    def _move(self, unit: int, part: int) -> None:
        classes, count = self.counts[unit]
        self.held[self.part_of[unit], classes] -= count
        self.held[part, classes] += count
        self.part_of[unit] = part
