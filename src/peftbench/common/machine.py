"""What this machine can do."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def has_bf16() -> bool:
    """Whether this processor multiplies in bf16; one that does not emulates it, several times slower than fp32.

    A frozen forward pass and a side net on such a processor are in fp32, which is more exact as well; taps are rounded
    to bf16 all the same.
    """
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return True
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
