"""Bootstrap intervals over images: figures of images that are drawn anew, with replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

RESAMPLES = 1000
LEAST = 100
LEVEL = 0.95
_SCORES = 2e8  # of all draws together, a few seconds; beyond that areas are of fewer draws
_AT_ONCE = 4_000_000  # counts of images that are held at a time


def draws(images: int, seed: int, number: int = RESAMPLES) -> Iterator[np.ndarray]:
    """The places of so many images, drawn with replacement, int64 (images,), one draw after the other."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        yield rng.integers(0, images, images)


def counts_of_draws(images: int, seed: int, number: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each image is in a draw, float32 (some draws, images), until there are `number` of them."""
    several = max(1, _AT_ONCE // images)
    kept: list[np.ndarray] = []
    for drawn in draws(images, seed, number):
        kept.append(np.bincount(drawn, minlength=images).astype(np.float32))
        if len(kept) == several:
            yield np.stack(kept)
            kept = []
    if kept:
        yield np.stack(kept)


def number_of_draws(scores: int) -> int:
    """How many draws there are where so many scores (images times classes) must be ranked: `LEAST` to `RESAMPLES`."""
    return int(np.clip(_SCORES // max(scores, 1), LEAST, RESAMPLES))


def interval(values: Sequence[float] | np.ndarray) -> list[float] | None:
    """[low, high] of the figures of draws: percentiles, without those that are no number; None where none is one."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return None
    return np.percentile(numbers, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]).tolist()


def of_all_or_none(share: float, images: float) -> list[float]:
    """[low, high] of a share of images that is 0 or 1, by Clopper and Pearson (1934): draws of them are all alike.

    Args:
        share: 0 where none is right, 1 where all are.
        images: how many; of a mean over classes the number that it is worth, which need not be whole.
    """
    far = float((0.5 * (1 - LEVEL)) ** (1 / images))
    return [far, 1.0] if share == 1 else [0.0, 1 - far]


def intervals_of(
    figures: Callable[[np.ndarray], Mapping[str, float]], images: int, seed: int
) -> dict[str, list[float] | None]:
    """The interval of each of the figures that `figures` gives for the places (images,) of a draw."""
    values = [figures(drawn) for drawn in draws(images, seed)]
    return {name: interval([row[name] for row in values]) for name in values[0]}


class Ranked:
    """The scores of one class, ranked once for all draws.

    Args:
        scores: (N,), higher is surer.
        positive: bool (N,), whether an image is of the class.
    """

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        _, group = np.unique(-scores, return_inverse=True)
        self.order = np.argsort(group, kind="stable")
        self.first = np.searchsorted(group[self.order], np.arange(group.max() + 1))
        self.positive = positive[self.order].astype(np.float32)

    def _groups(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each group of equal scores, the highest first: positives, and negatives, float64 (draws, groups)."""
        ordered = counts[:, self.order]
        positives = np.add.reduceat(ordered * self.positive, self.first, axis=1).astype(np.float64)
        return positives, np.add.reduceat(ordered, self.first, axis=1) - positives

    def auroc(self, counts: np.ndarray) -> np.ndarray:
        """The area under the ROC curve in each draw, (draws,); not a number without positives or negatives.

        Args:
            counts: float (draws, N), how often each image is in it.
        """
        positives, negatives = self._groups(counts)
        below = negatives.sum(1, keepdims=True) - np.cumsum(negatives, 1)
        pairs = positives.sum(1) * negatives.sum(1)
        area = (positives * (below + negatives / 2)).sum(1) / np.where(pairs, pairs, 1)
        return np.where(pairs > 0, area, np.nan)

    def average_precision(self, counts: np.ndarray) -> np.ndarray:
        """The average precision in each draw, (draws,); not a number without positives."""
        positives, negatives = self._groups(counts)
        right = np.cumsum(positives, 1)
        said = right + np.cumsum(negatives, 1)
        there = positives.sum(1)
        area = (positives * right / np.where(said, said, 1)).sum(1) / np.where(there, there, 1)
        return np.where(there > 0, area, np.nan)


def mean_area(
    scores: np.ndarray,
    positive: np.ndarray,
    area: Callable[[Ranked, np.ndarray], np.ndarray],
    seed: int,
) -> list[float] | None:
    """The interval of the mean over classes of an area, such as `Ranked.auroc`, over the classes that have one.

    Args:
        scores: (N, classes).
        positive: bool (N, classes).
        area: of a class, in some draws.
        seed: of the draws.
    """
    images, classes = scores.shape
    ranked = [Ranked(scores[:, i], positive[:, i]) for i in range(classes)]
    means: list[np.ndarray] = []
    for counts in counts_of_draws(images, seed, number_of_draws(scores.size)):
        areas = np.stack([area(one, counts) for one in ranked])
        known = ~np.isnan(areas)
        sums, numbers = np.where(known, areas, 0).sum(0), known.sum(0)
        means.append(np.where(numbers, sums / np.where(numbers, numbers, 1), np.nan))
    return interval(np.concatenate(means))
