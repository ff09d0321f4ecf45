"""What this machine can do."""

from __future__ import annotations

import contextlib
import platform
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


def processor_name() -> str:
    """The processor's model, or what the system says of it where that is not known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
