"""Seeds made of several numbers."""

from __future__ import annotations

import numpy as np


def mix(*numbers: int) -> int:
    """One seed of several numbers (63 bits), different for different numbers."""
    return int(np.random.SeedSequence([n & 0xFFFFFFFF for n in numbers]).generate_state(1, np.uint64)[0]) >> 1
