"""What configs may ask for: which GPU a sweep's job gets, where its launcher does not say, and the user's home."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from peftbench.common.machine import usable_cores

if TYPE_CHECKING:
    from filelock import FileLock

_LISTS = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")  # AMD's drivers read both, the first before the second
_TOLD = "PEFTBENCH_GPUS"  # how many torch sees, where it was asked
_PLACE: list[FileLock] = []  # the lock that keeps this process's place; free again when the process ends


def assign(sweep: Path, launcher: str, composed: DictConfig) -> str:
    """Gives this process its share of the GPUs, once, before torch looks for them; returns how to say so.

    Processes take places in the order in which they come, each `trainer.devices` GPUs; with more processes than GPUs
    the places go round. Only under joblib: Slurm and Ray do this themselves, and Ray may give several jobs one GPU.
    """
    if "RayLauncher" in launcher and os.environ.get(_LISTS[-1]):
        return f" on GPU {os.environ[_LISTS[-1]]}"
    if "Joblib" not in launcher or composed.trainer.accelerator == "cpu":
        return ""
    variable = next((name for name in _LISTS if name in os.environ), _LISTS[-1])
    if not _PLACE:
        known = gpus()
        if not known:
            return ""
        count = max(1, int(composed.trainer.devices))
        place = _taken_place(sweep / "places") * count
        chosen = [known[(place + i) % len(known)] for i in range(min(count, len(known)))]
        os.environ[variable] = ",".join(chosen)
    return f" on GPU {os.environ[variable]}"


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
    """The GPUs that may be used: those that HIP_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES names, or all that torch sees.

    Torch is asked in a process of its own: here it would take seconds and memory that a sweep's first process has no
    use for, and a driver that has begun cannot be handed on by fork. Workers read what the first process was told.
    """
    for name in _LISTS:
        if (visible := os.environ.get(name)) is not None:
            return tuple(gpu.strip() for gpu in visible.split(",") if gpu.strip() and gpu.strip() != "-1")
    if not os.environ.get(_TOLD, "").isdecimal():
        os.environ[_TOLD] = _count_by_torch()
    return tuple(str(i) for i in range(int(os.environ[_TOLD])))


def _count_by_torch() -> str:
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=False).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return "0"
    return said[-1] if said and said[-1].isdecimal() else "0"


def jobs_at_once(devices: Any = 1, accelerator: str = "auto") -> int:
    """How many jobs to run at a time: one for each `devices` GPUs; or on a CPU one for every four cores, at least two.

    There a job of several processes counts as so many, and one runs at least.
    """
    each = _count(devices)
    if accelerator in ("auto", "gpu") and gpus():
        return max(1, len(gpus()) // each)
    return max(1, max(2, usable_cores() // 4) // each)


def gpus_per_job(devices: Any = 1, accelerator: str = "auto") -> int:
    """How many GPUs a job asks its launcher for: as many as it trains on, where there are any."""
    return min(_count(devices), len(gpus())) if accelerator in ("auto", "gpu") else 0


def _count(devices: Any) -> int:
    """A number of devices as it was given; what is none is refused where the run is checked."""
    return max(1, int(devices)) if str(devices).isdecimal() else 1


def register() -> None:
    """Makes `${jobs_at_once:N,WHAT}`, `${gpus_per_job:N,WHAT}` and `${with_home:PATH}` known to configs."""
    OmegaConf.register_new_resolver("with_home", os.path.expanduser, replace=True)
    OmegaConf.register_new_resolver("jobs_at_once", jobs_at_once, replace=True)
    OmegaConf.register_new_resolver("gpus_per_job", gpus_per_job, replace=True)
