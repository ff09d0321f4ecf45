"""Seeds made of several numbers, and numbers that are drawn without a trace."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def mix(*numbers: int) -> int:
    """One seed of several numbers (63 bits), different for different numbers."""
    return int(np.random.SeedSequence([n & 0xFFFFFFFF for n in numbers]).generate_state(1, np.uint64)[0]) >> 1


def random_numbers_kept(device: torch.device | None = None) -> AbstractContextManager[None]:
    """Torch's random state is afterwards as it was before: the CPU's, and that of the GPU which draws inside, if any.

    Other GPUs are not asked for theirs: that would start each of them.
    """
    import torch

    if device is None or device.type != "cuda":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type="cuda")
