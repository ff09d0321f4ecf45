"""Mixing seeds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peftbench.common.seeds import mix


def test_seeds_mix_to_different_numbers():
    assert len({mix(a, b, c) for a in range(5) for b in range(5) for c in range(5)}) == 125
    assert mix(0, 1) != mix(1, 0)


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
)
def test_mixed_seeds_are_stable_and_differ(a, b):
    assert mix(*a) == mix(*a)
    assert 0 <= mix(*a) < 2**63
    if a[:4] != b[:4] and len(a) == len(b):
        assert mix(*a) != mix(*b)
