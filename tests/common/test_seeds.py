"""Mixing seeds."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from peftbench.common.seeds import mix, random_numbers_kept


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


def test_numbers_are_drawn_without_a_trace_and_no_other_gpu_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(str(device)) or torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append(f"{device} again"))
    before = torch.get_rng_state()
    for device in (None, torch.device("cpu"), torch.device("mps"), torch.device("cuda", 1)):
        with random_numbers_kept(device):
            torch.rand(3)
        assert torch.equal(torch.get_rng_state(), before)
    assert asked == ["cuda:1", "cuda:1 again"]
