"""Which images of one split look like one of another, among tens of thousands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from peftbench.data.check.pictures import Looks

_FIRST = 256
"""So many candidates are compared before the others: where a whole set looks alike, one of these will do."""
_AT_ONCE = 2**18  # pairs of hashes


def near_pairs(one: Looks, other: Looks, bits: int = 4, levels: float = 6.0) -> list[tuple[int, int]]:
    """(index in `one`, index in `other`) of images that look alike: their hashes differ in `bits` at most.

    The small pictures then differ by `levels` of 255 at most, on the mean: so flat images, which all have one hash, are
    told apart. Each image of `one` that looks like any is named once, with what is most like it. Where more than 256
    have such a hash, these are the 256 nearest in brightness, and all others only if none of them is alike.
    """
    left, right = one.whole, other.whole
    if not (len(left) and len(right)):
        return []
    right = right[np.argsort(other.small[right].mean(axis=1), kind="stable")]
    candidates = _Candidates(right, other.small[right], levels)
    ours, images_of = _by_hash(one.hashes[left])
    theirs, places_of = _by_hash(other.hashes[right])
    pairs = []
    for at, near in _near_hashes(ours, theirs, bits):
        places = np.sort(np.concatenate([places_of[i] for i in near]))
        for image in left[images_of[at]].tolist():
            if (alike := candidates.most_like(one.small[image], places)) is not None:
                pairs.append((image, alike))
    return sorted(pairs)


class _Candidates:
    """Images, by index, and their small pictures, uint8 (N, pixels), in the order of brightness."""

    def __init__(self, images: np.ndarray, small: np.ndarray, levels: float) -> None:
        self.images, self.small, self.levels = images, small, levels
        self.brightness = small.mean(axis=1)

    def most_like(self, picture: np.ndarray, places: np.ndarray) -> int | None:
        """The image at one of `places`, which ascend, that is most like the picture; None where none is alike."""
        bright, middle = self.brightness[places], picture.mean()
        # Means differ by no more than the pictures do.
        begin, end = np.searchsorted(bright, [middle - self.levels - 1e-6, middle + self.levels + 1e-6])
        centre = int(np.searchsorted(bright, middle)) - _FIRST // 2
        first = max(begin, min(centre, end - _FIRST))
        nearest = self._alike(picture, places[first : min(first + _FIRST, end)])
        if nearest is None and end - begin > _FIRST:
            return self._alike(picture, places[begin:end])
        return nearest

    def _alike(self, picture: np.ndarray, places: np.ndarray) -> int | None:
        if not len(places):
            return None
        theirs = self.small[places]
        apart = np.maximum(theirs, picture) - np.minimum(theirs, picture)  # in 8 bits, unlike a difference
        differences = apart.mean(axis=1)
        least = differences.min()
        return int(self.images[places[differences == least]].min()) if least <= self.levels else None


def _by_hash(hashes: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """(the different hashes, the indices of each, which ascend)."""
    different, which, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return different, np.split(np.argsort(which, kind="stable"), np.cumsum(counts)[:-1])


def _near_hashes(one: np.ndarray, other: np.ndarray, bits: int) -> Iterator[tuple[int, np.ndarray]]:
    """(index in `one`, indices in `other`) of each hash that differs from any in `bits` at most."""
    step = max(1, _AT_ONCE // len(other))
    for start in range(0, len(one), step):
        near = _count_bits(one[start : start + step, None] ^ other[None]) <= bits
        for row in np.flatnonzero(near.any(axis=1)).tolist():
            yield start + row, np.flatnonzero(near[row])


_BITS = np.array([number.bit_count() for number in range(2**16)], dtype=np.uint8)


def _count_bits(numbers: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are set."""
    if hasattr(np, "bitwise_count"):  # numpy 1 has it not
        return np.asarray(np.bitwise_count(numbers))
    counts: np.ndarray = _BITS[numbers.view(np.uint16).reshape(*numbers.shape, 4)].sum(axis=-1, dtype=np.uint8)
    return counts
