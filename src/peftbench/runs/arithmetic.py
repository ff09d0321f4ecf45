"""In which arithmetic a run computes on the device that it gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from peftbench.common.errors import UserError
from peftbench.common.gpus import gpu_has_bf16, gpu_name, runs_on, torch_build
from peftbench.config import Config
from peftbench.config import Trainer as TrainerConfig
from peftbench.training import device_of_process

_NAMES = {"32": "fp32", "16": "fp16", "bf16": "bf16"}


def settled_arithmetic(
    config: Config, tell: Callable[[str], None] = lambda text: None
) -> tuple[Config, dict[str, Any]]:
    """The config with `trainer.precision=auto` made that of its device, and what the record says of it.

    `auto` is bf16 on a GPU that has it, fp16 on another, and fp32 on a CPU. Where a GPU is asked for and none is here,
    as for a plan, it counts as one that has bf16. A run is then that of the precision it was given, and has its id.

    Raises:
        UserError: fp16 on a CPU, bf16 on a GPU that only emulates it, or a GPU that the installed torch was not built
            for.
    """
    trainer = config.trainer
    place = device_of_process(trainer)
    gpus = range(min(trainer.devices, torch.cuda.device_count())) if place.type == "cuda" else range(0)
    for index in gpus:
        if not runs_on(index):
            raise UserError(
                f"trainer.accelerator={trainer.accelerator}: {gpu_name(index)} is none that this torch runs on "
                f"({torch_build()}); install a build of torch for it (pytorch.org/get-started), or give "
                f"trainer.accelerator=cpu."
            )
    emulating = next((index for index in gpus if not gpu_has_bf16(index)), None)
    if trainer.precision == "16" and place.type == "cpu" and trainer.accelerator == "auto":
        raise UserError("trainer.precision='16': half precision needs a GPU, and there is none; use 'bf16' or '32'.")
    if trainer.precision == "bf16" and emulating is not None:
        raise UserError(
            f"trainer.precision=bf16: {gpu_name(emulating)} only emulates bf16, slower than fp32; give "
            f"trainer.precision=16 or 32, or auto, which chooses by the GPU."
        )
    about: dict[str, Any] = {}
    if trainer.precision == "auto":
        chosen, why = _chosen(trainer, place, emulating)
        if why:
            tell(f"trainer.precision=auto: {_NAMES[chosen]} (trainer.precision={chosen}), since {why}")
        config = dataclasses.replace(config, trainer=dataclasses.replace(trainer, precision=chosen))
        about["asked"] = "auto"
    if place.type == "cuda":
        about["tf32"] = trainer.tf32
    return config, {"arithmetic": {"precision": config.trainer.precision, **about}} if about else {}


def _chosen(trainer: TrainerConfig, place: torch.device, emulating: int | None) -> tuple[Any, str]:
    """The precision, and why; the empty string for a GPU that is not here."""
    if emulating is not None:
        return "16", f"{gpu_name(emulating)} only emulates bf16"
    if place.type == "cuda":
        return "bf16", f"{gpu_name(0)} has it"
    if place.type == "cpu" and trainer.accelerator != "gpu":
        return "32", "it computes on the CPU"
    return "bf16", "" if place.type == "cpu" else "the GPU has it"
