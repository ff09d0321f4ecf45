"""What this machine's processor is, and what it can do."""

from __future__ import annotations

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
