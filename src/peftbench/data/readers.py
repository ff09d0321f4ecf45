"""How many processes read images beside the one that trains, and how far they read ahead."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal

from peftbench.data.worker_handover import end_where_nothing_comes

MOST = 8
"""Processes of one loader at most, where nobody says how many."""
WORTH_FROM_DISK, WORTH_FROM_MEMORY = 256, 4096
"""Images of a pass from which on processes of their own are worth their start: where each is decoded, and where each is
changed alone."""
_AHEAD = 2**28
"""Bytes of batches that are read ahead."""
_SHARED = Path("/dev/shm")  # where processes hand tensors over; containers often have 64 MB of it


def cores(threads: int | None = None) -> int:
    """The processor's cores that this process may use, or as many as it was told to (`trainer.threads`)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, threads or allowed)


def reading(
    wanted: int | Literal["auto"],
    *,
    images: int,
    batch_bytes: int,
    from_memory: bool,
    again: bool,
    share: int,
) -> dict[str, Any]:
    """A `DataLoader`'s `num_workers`, `prefetch_factor` and `persistent_workers`.

    Args:
        wanted: so many, or `auto`: as many as this process has cores to itself, at most `MOST`, none where a pass is
            too short, and no more than the memory that processes share has room for.
        images: of one pass.
        batch_bytes: of a batch in this process; 0 where images are of any size.
        from_memory: whether images are decoded already.
        again: whether there is more than one pass: its processes then live on between passes.
        share: cores that this process has to itself.
    """
    if wanted == "auto":
        least = WORTH_FROM_MEMORY if from_memory else WORTH_FROM_DISK
        worth = images >= least and not (from_memory and share < 2)
        count = min(share, MOST, _room() // (3 * max(batch_bytes, 1))) if worth else 0
    else:
        count = wanted
    if not count:
        return {"num_workers": 0}
    ahead = min(max(_AHEAD // (count * batch_bytes), 2), 8) if batch_bytes else 2
    while ahead > 2 and count * (ahead + 1) * batch_bytes > _room():
        ahead -= 1
    return {
        "num_workers": count,
        "prefetch_factor": ahead,
        "persistent_workers": again,
        "worker_init_fn": end_where_nothing_comes,
    }


def _room() -> int:
    """Bytes that are free for handing tensors over."""
    try:
        return shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else 2**40
    except OSError:
        return 2**40
