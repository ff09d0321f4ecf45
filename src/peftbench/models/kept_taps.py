"""Which taps of a frozen backbone, or of its frozen prefix, a run keeps: their shapes, and whether they can be kept."""

from __future__ import annotations

import torch
from torch import Tensor

from peftbench.common.precisions import HALF
from peftbench.config import Config
from peftbench.models.joint import JointModel
from peftbench.models.model import Model
from peftbench.taps.eight_bits import encoded


def shapes_of_kept_taps(config: Config, model: Model | JointModel) -> list[Tensor]:
    """What is stored of the kept taps of one image, on the meta device, in the precision of the run or in 8 bits."""
    dtype = HALF[config.trainer.precision] or torch.float32
    taps = [torch.empty((1, *shape), dtype=dtype, device="meta") for _, shape in model.places_of_kept_taps]
    return stored_of(config, model, model.condense(taps))


def stored_of(config: Config, model: Model | JointModel, taps: list[Tensor]) -> list[Tensor]:
    """What is stored of kept taps (B, …): the taps themselves, or 8 bits of each value and scales (`taps.dtype`)."""
    if config.taps.dtype is None:
        return taps
    layouts = {tap.layout for tap in model.backbone.facts.taps}
    return encoded(taps, maps_channels_first="NCHW" in layouts)


def why_in_one_pass(config: Config, one_size: bool) -> str:
    """Why a backbone that trains in part computes from image to tap in one pass; the empty string where it need not.

    Args:
        config: of the run.
        one_size: whether all images have the same size.
    """
    trainer = config.trainer
    if not one_size:
        return "images have different sizes"
    reasons = {
        "trainer.compile=true compiles whole blocks": trainer.compile,
        "trainer.grad_checkpointing=true computes blocks again": trainer.grad_checkpointing,
        "trainer.channels_last=true keeps another layout": trainer.channels_last,
        f"trainer.precision={trainer.precision} rounds between blocks": trainer.precision != "32",
        "trainer=fsdp spreads the blocks over devices": trainer.strategy == "fsdp",
    }
    return next((why for why, holds in reasons.items() if holds), "")


def why_not_kept(config: Config, model: Model | JointModel, one_size: bool) -> str | None:
    """Why the taps of a run's images cannot be kept, and what would help; None where they can.

    Args:
        config: of the run.
        model: whose taps they are.
        one_size: whether all images have the same size.
    """
    if not one_size:
        return "images have different sizes; data.size=[H,W] pads them to one"
    if key := config.data.mixing:
        return f"{key} mixes the images in every step; {_without(key)} keeps them"
    key = config.data.changing
    if not key or config.taps.views:
        return None
    instead = (
        "taps.views=4 keeps those of four fixed views" if model.task.keeps_views else f"{_without(key)} keeps them"
    )
    return f"{key} changes the images in every epoch; {instead}"


def _without(key: str) -> str:
    name = key.partition("=")[0]
    return f"{name}={'none' if name == 'data.augment' else 0}"
