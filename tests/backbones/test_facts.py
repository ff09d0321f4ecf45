"""What is known of a backbone without its weights."""

from __future__ import annotations

import pytest

from peftbench.backbones import Facts, Tap


def facts(taps: int) -> Facts:
    made = tuple(Tap(f"stages.{i}", 8, 4, (8, 2, 2), "NCHW", (2, 2)) for i in range(taps))
    return Facts("mine", None, 8, made, (), 8, 0, 100, frozenset(), frozenset(), (0.5,) * 3, (0.5,) * 3, "bicubic")


def test_a_negative_index_counts_taps_from_the_end():
    assert [facts(3).index(i) for i in range(-3, 3)] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("i", [-4, 3])
def test_a_tap_that_is_not_there(i):
    with pytest.raises(IndexError, match=f"tap {i} of mine, which has 3"):
        facts(3).index(i)
