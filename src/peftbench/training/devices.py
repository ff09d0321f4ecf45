"""The device of this process, and whether there are as many as a run asks for."""

from __future__ import annotations

import os

import torch

from peftbench.common.errors import UserError
from peftbench.common.world import World, world_of
from peftbench.config import Trainer


def device_of_process(spec: Trainer) -> torch.device:
    """The device of this process: what Lightning will choose. For a plan, whose processes nobody started, the first."""
    if spec.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        world = world_of(spec.devices, spec.nodes)
        return torch.device("cuda", 0 if world is None else world.local)
    if spec.accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def world_of_process(spec: Trainer) -> World:
    """The world that carries out a run of this process. Raises UserError where nobody started as many processes."""
    world = world_of(spec.devices, spec.nodes)
    if world is None:
        raise UserError(
            f"trainer.devices={spec.devices}: needs as many processes; start it with the peftbench command, torchrun "
            f"or srun."
        )
    return world


def refuse_missing_devices(spec: Trainer) -> None:
    """Refuses more GPUs than this process sees. Raises UserError."""
    if spec.accelerator not in ("auto", "gpu") or spec.devices == 1:
        return
    here = torch.cuda.device_count()
    if here >= spec.devices or (here == 0 and not torch.backends.mps.is_available() and spec.accelerator == "auto"):
        return
    why = "there is no GPU"
    if torch.backends.mps.is_available():
        why = "there is one GPU (mps)"
    elif here:
        why = f"this process sees {here} GPU{'s' if here > 1 else ''}"
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    seen = next((f" ({name}={os.environ[name]})" for name in names if name in os.environ), "")
    remedy = f"give trainer.devices={here}" if here > 1 else "give trainer=auto trainer.devices=1"
    bound = ", or --gpus-per-node instead of --gpus-per-task" if "SLURM_STEP_NUM_TASKS" in os.environ else ""
    raise UserError(
        f"trainer.accelerator={spec.accelerator} trainer.devices={spec.devices}: {why}{seen}; {remedy}{bound}, or "
        f"trainer.accelerator=cpu."
    )
