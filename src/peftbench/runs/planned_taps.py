"""What the kept taps of a run would take, and where they would be kept: foretold without images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peftbench.config import Config
from peftbench.data.base import Split
from peftbench.models.kept_taps import shapes_of_kept_taps, why_not_kept
from peftbench.models.model import Model
from peftbench.runs.build import transform_of
from peftbench.taps.entries import fits, taps_folder
from peftbench.taps.kept import room_on
from peftbench.taps.store import size_of_taps
from peftbench.training import device_of_process


@dataclass(frozen=True)
class PlannedTaps:
    """The kept taps of a run of a side method, or of one that goes on from a frozen prefix.

    Attributes:
        mode: where they would be kept, `disk`, `gpu`, `memory` or `off`.
        bytes: of each split whose taps are kept.
        images: how many images of each split go through the backbone once, if they are not kept already.
        why: why none would be kept; empty otherwise.
    """

    mode: str
    bytes: Mapping[str, int]
    images: Mapping[str, int]
    why: str = ""


def plan_taps(config: Config, model: Model, roles: Sequence[Split | None]) -> PlannedTaps | None:
    """What `taps=` would do for (train, val, …); None for a method that changes the backbone, unless it goes on from
    a frozen prefix.

    `model` is on the meta device. As a run decides: with `auto` the first of disk, GPU, memory and off that has room.
    """
    if not model.goes_on_from_taps:
        return None
    if config.taps.mode == "off":
        return PlannedTaps("off", {}, {}, "taps=off")
    one_size = transform_of(config, model.backbone).size is not None
    if why := why_not_kept(config, model, one_size):
        return PlannedTaps("off", {}, {}, why)
    one = size_of_taps(shapes_of_kept_taps(config, model))
    images, sizes = {}, {}
    for name, split in zip(("train", "val"), roles, strict=False):
        if split is not None and (name == "train" or not model.task.looks_at(config)):
            images[name] = len(split) * max(config.taps.views if name == "train" else 0, 1)
            sizes[name] = one * images[name] * (split.frames or 1)
    mode, why = _place(config, sum(sizes.values()))
    return PlannedTaps(mode, sizes, images, why)


def _place(config: Config, needed: int) -> tuple[str, str]:
    """(where they would be kept, why nowhere)."""
    spec = config.taps
    if spec.mode == "memory":
        return "memory", ""
    if fits(taps_folder(spec.dir), needed, int(spec.max_gb * 2**30)):
        return "disk", ""
    if spec.mode == "disk":
        return "off", "the disk has no room for them, so that the run would be refused"
    if needed <= room_on(device_of_process(config.trainer), spec.gpu_gb):
        return "gpu", ""
    if needed <= spec.memory_gb * 2**30:
        return "memory", ""
    return "off", "neither taps.max_gb and the disk, nor a GPU, nor taps.memory_gb have room for them"
