"""What this machine's processor is, and what it can do."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path


@cache
def _cpuinfo() -> str:
    """What Linux says of the processors; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def processor_name() -> str:
    """The processor's name, as its maker has it where the system says so."""
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


@cache
def has_bf16() -> bool:
    """Whether this processor multiplies in bf16; one that does not emulates it, several times slower than fp32.

    A frozen forward pass and a side net on such a processor are in fp32, which is more exact as well; taps are rounded
    to bf16 all the same. Where the system does not say, a processor counts as one that does.
    """
    words = set(_cpuinfo().split())
    return not words or bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def free_memory() -> int:
    """Bytes of the machine's memory that a process can still have, by what the system and its control group say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 2**32
    try:
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text(encoding="utf-8"))
        return min(free, most - int((group / "memory.current").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # no such group, or one without a limit ("max")
        return free


def usable_cores() -> int:
    """The cores that this process may use, which a scheduler may have made fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
