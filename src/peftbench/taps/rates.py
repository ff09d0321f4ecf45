"""How fast kept taps are read, and how fast they were computed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from peftbench.common.machine import free_memory, processor_name
from peftbench.taps.kept import Taps

LEAST = 2**26
"""Bytes of an entry below which reading is not measured: it stays in the system's memory and is read in no time."""
SAMPLE = 2**26
"""Bytes that are read to measure."""


def rates_of(kept: Sequence[Taps], device: torch.device) -> dict[str, float]:
    """`reading` and `computing` in rows a second: the lowest of the splits in files, where both are known.

    Computing is known where this kind of device filled the entry. Reading is measured on rows at random: from the disk
    where the entry takes more than half of the memory that is free, since it is then read from there in every epoch.
    """
    known = []
    for taps in kept:
        computed = taps.more.get("computed")
        if taps.held_on is None and taps.mode == "disk" and taps.bytes >= LEAST and isinstance(computed, dict):
            rate = computed.get("rate")
            if isinstance(rate, int | float) and computed.get("on") == device_name(device):
                known.append((_reading(taps), float(rate)))
    if not known:
        return {}
    reading, computing = min(known, key=lambda rates: rates[0] / rates[1])
    return {"reading": reading, "computing": computing}


def device_name(device: torch.device) -> str:
    """What computes: the GPU's name, or the processor's and how many threads of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name() or device.type}, {torch.get_num_threads()} threads"


def _reading(taps: Taps) -> float:
    rows = len(taps)
    count = min(max(SAMPLE * rows // taps.bytes, 1), rows)
    if taps.bytes > free_memory() // 2:
        taps.forget_pages()
    generator = torch.Generator().manual_seed(0)
    batches = torch.randperm(rows, generator=generator)[: 2 * count].split(max(count // 4, 1))
    taps(batches[0])  # warms up
    begun, done = time.perf_counter(), 0
    for batch in batches[1:] or batches:
        taps(batch)
        done += len(batch)
    if taps.device.type == "cuda":
        torch.cuda.synchronize(taps.device)
    return done / (time.perf_counter() - begun)
