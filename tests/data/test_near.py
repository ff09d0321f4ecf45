"""Which images look like which: as comparing every two would find it, and quickly among tens of thousands."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.data.check import near
from peftbench.data.check.pictures import Looks

BITS, LEVELS = 4, 6.0


def looks(hashes: np.ndarray, small: np.ndarray, broken: tuple[int, ...] = ()) -> Looks:
    return Looks(hashes.astype(np.uint64), small.astype(np.uint8), dict.fromkeys(broken, "why"))


def scenes(count: int, seed: int) -> Looks:
    """Images of a few scenes, whose hashes differ by some bits and whose pictures by some levels."""
    draw, of_scenes = np.random.default_rng(seed), np.random.default_rng(0)
    hashes, pictures = of_scenes.integers(0, 2**64, 3, dtype=np.uint64), of_scenes.integers(20, 235, (3, 256))
    which = draw.integers(0, 3, count)
    flips = (np.uint64(1) << draw.integers(0, 64, (4, count)).astype(np.uint64)) * draw.integers(
        0, 2, (4, count)
    ).astype(np.uint64)
    spread = draw.integers(0, 12, (count, 1))
    noise = draw.integers(-1, 2, (count, 256)) * spread
    return looks(
        hashes[which] ^ np.bitwise_xor.reduce(flips), (pictures[which] + noise).clip(0, 255), tuple(range(0, count, 7))
    )


def one_by_one(one: Looks, other: Looks) -> dict[int, int]:
    """Of each image that looks like another the first of the most alike."""
    pairs = {}
    for at in one.whole:
        best: tuple[float, int] | None = None
        for there in other.whole:
            if bin(int(one.hashes[at]) ^ int(other.hashes[there])).count("1") <= BITS:
                apart = np.abs(one.small[at].astype(int) - other.small[there].astype(int)).mean()
                if apart <= LEVELS and (best is None or apart < best[0]):
                    best = (apart, int(there))
        if best is not None:
            pairs[int(at)] = best[1]
    return pairs


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 40), others=st.integers(1, 40), seed=st.integers(0, 1000))
def test_it_finds_what_comparing_every_two_finds(count, others, seed):
    one, other = scenes(count, seed), scenes(others, seed + 1)
    wanted = one_by_one(one, other)
    assert near.near_pairs(one, other) == sorted(wanted.items())
    with pytest.MonkeyPatch.context() as patch:  # of more candidates than are compared at first, any that is alike
        patch.setattr(near, "_FIRST", 2)
        patch.setattr(near, "_AT_ONCE", 7)
        some = dict(near.near_pairs(one, other))
    assert some.keys() == wanted.keys()
    for at, there in some.items():
        assert np.abs(one.small[at].astype(int) - other.small[there].astype(int)).mean() <= LEVELS


def test_bits_are_counted_alike_with_every_version_of_numpy(monkeypatch):
    one, other = scenes(30, 1), scenes(30, 2)
    pairs = near.near_pairs(one, other)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert near.near_pairs(one, other) == pairs != []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["all different", "flat"])
def test_tens_of_thousands_are_compared_in_seconds(kind):
    count = 30_000
    draw = np.random.default_rng(0)
    small = draw.integers(0, 256, (2, count, 256 if kind == "all different" else 1)).repeat(
        1 if kind == "all different" else 256, 2
    )
    hashes = draw.integers(0, 2**64, (2, count), dtype=np.uint64) if kind == "all different" else np.zeros((2, count))
    hashes[1, 7], small[1, 7] = hashes[0, 29_999], small[0, 29_999]
    begun = time.process_time()
    pairs = near.near_pairs(looks(hashes[1], small[1]), looks(hashes[0], small[0]))
    assert time.process_time() - begun < 30, "a second or two, and seven where all have one hash"
    assert pairs[0 if kind == "all different" else 7][0] == 7
    assert len(pairs) == (1 if kind == "all different" else count)
