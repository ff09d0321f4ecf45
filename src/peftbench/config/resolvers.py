"""What configs may ask for: which GPU a sweep's job gets, where its launcher does not say, and the user's home."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from filelock import FileLock

_PLACE: list[FileLock] = []  # the lock that keeps this process's place; free again when the process ends


def assign(sweep: Path, launcher: str, composed: DictConfig) -> str:
    """Gives this process its share of the GPUs, once, before torch looks for them; returns how to say so.

    Processes take places in the order in which they come, each `trainer.devices` GPUs; with more processes than GPUs
    the places go round. Only under joblib: Slurm and Ray do this themselves.
    """
    if "Joblib" not in launcher or composed.trainer.accelerator == "cpu":
        return ""
    if not _PLACE:
        known = gpus()
        if not known:
            return ""
        count = max(1, int(composed.trainer.devices))
        place = _taken_place(sweep / "places") * count
        chosen = [known[(place + i) % len(known)] for i in range(min(count, len(known)))]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
    return f" on GPU {os.environ['CUDA_VISIBLE_DEVICES']}"


def _taken_place(folder: Path) -> int:
    """The first place that no other process of the sweep holds; this one keeps it until it ends."""
    from peftbench.common.file_lock import take

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(10_000):
        lock = take(folder / str(number), wait=False)
        if lock is not None:
            _PLACE.append(lock)
            return number
    return 0


@cache
def gpus() -> tuple[str, ...]:
    """The GPUs that may be used: those of CUDA_VISIBLE_DEVICES, or else all that nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(gpu.strip() for gpu in visible.split(",") if gpu.strip() and gpu.strip() != "-1")
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(str(i) for i in range(len(lines)))


def at_once() -> int:
    """How many jobs to run at a time: one a GPU, or one for every four cores and at least two."""
    return len(gpus()) or max(2, (os.cpu_count() or 1) // 4)


def register() -> None:
    """Makes `${jobs_at_once:}`, `${gpus_per_job:}` and `${with_home:PATH}` known to configs."""
    OmegaConf.register_new_resolver("with_home", os.path.expanduser, replace=True)
    OmegaConf.register_new_resolver("jobs_at_once", at_once, replace=True)
    OmegaConf.register_new_resolver("gpus_per_job", lambda: min(1, len(gpus())), replace=True)
