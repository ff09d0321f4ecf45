"""Training from kept taps: whether, where, and how the taps of a run's images are computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftbench.common.errors import UserError
from peftbench.common.progress import Watch
from peftbench.config import Config
from peftbench.config import Taps as Spec
from peftbench.costs import PeakMemory
from peftbench.data.images import Images
from peftbench.data.loading import Loaders, images_of
from peftbench.data.media import frame_files
from peftbench.models.joint import JointModel
from peftbench.models.kept_taps import shapes_of_kept_taps, why_not_kept
from peftbench.models.model import Model
from peftbench.taps.entries import CacheError, taps_folder
from peftbench.taps.kept import CPU, Taps, room_on
from peftbench.taps.rates import device_name, rates_of
from peftbench.taps.store import Fill, size_of_taps, taps_in_memory, taps_on_disk
from peftbench.training.computed_taps import Pace, computed_taps

_CHANGES = ("jitter", "erase")  # of single images
Tell = Callable[[str], None]


def keep_taps(
    config: Config,
    model: Model | JointModel,
    data: Loaders,
    fingerprint: str,
    device: torch.device,
    watch: Watch,
    tell: Tell,
) -> dict[str, Any] | None:
    """Has the training and validation images replaced by their taps; returns what that cost, for the record.

    Test images are looked at once, so a run never keeps theirs; nor those of validation images where these are looked
    at several times. Else as `keep_taps_of`.
    """
    loaders = (data.train, None if model.task.looks_at(config) else data.val)
    parts = [images for images in map(images_of, loaders) if images is not None]
    return keep_taps_of(parts, config, model, fingerprint, device, watch, tell)


def keep_taps_of(
    parts: Sequence[Images],
    config: Config,
    model: Model | JointModel,
    fingerprint: str,
    device: torch.device,
    watch: Watch,
    tell: Tell,
) -> dict[str, Any] | None:
    """Has all of these images replaced by their taps; returns what that cost. None for a method that changes the
    backbone, unless it goes on from a frozen prefix.

    Args:
        parts: a split's each, prepared alike.
        config, model: of the run; the model is on `device` afterwards.
        fingerprint: of the backbone's weights.
        device: where taps are computed.
        watch: called with the number of images whose taps were computed, and of how many.
        tell: shows the user a sentence.

    Raises:
        CacheError: `taps=disk` was asked for and there is no room.
        UserError: an image cannot be read, or `taps.dtype` was asked for and taps are not kept.
    """
    spec = config.taps
    if not model.goes_on_from_taps:
        reason = f"method={config.method.name} changes the backbone, so there are no taps to keep"
        _refuse_eight_bits(spec, reason)
        if spec.mode in ("memory", "disk"):
            tell(f"taps={spec.mode}: {reason}")
        return None
    if spec.mode == "off":
        return {"mode": "off"}
    if why := why_not_kept(config, model, one_size=all(images.transform.size is not None for images in parts)):
        _refuse_eight_bits(spec, f"taps are not kept, since {why}")
        tell(f"taps: not kept, since {why}")
        return {"mode": "off"}
    one = shapes_of_kept_taps(config, model)
    sizes = [size_of_taps(one) * images.rows * (images.split.frames or 1) for images in parts]
    model.to(device)
    memory = PeakMemory(device)
    memory.start()
    done, total = 0, sum(images.rows for images in parts)

    def fill(images: Images, pace: Pace) -> Iterator[list[Tensor]]:
        nonlocal done
        for chunk in computed_taps(config, model, images, device, pace):
            yield chunk
            done += len(chunk[0])
            watch(done, total)

    kept = _kept(parts, sizes, config, device, fill, partial(_about, config, model, fingerprint=fingerprint), tell)
    if not kept:
        return {"mode": "off"}
    computed = sum(t.filled for t in kept)
    peak = {"memory": memory.read()} if computed else {}
    _bring_near(kept, spec, device)
    costs = {
        "rows": total,
        "computed": computed,
        **peak,
        "bytes": sum(t.bytes for t in kept),
        "seconds": sum(t.seconds for t in kept),
    }
    rates = rates_of(kept, device)
    if spec.mode == "auto" and spec.dtype is None and rates.get("reading", math.inf) < rates.get("computing", 0.0):
        tell(
            f"taps: {rates['reading']:,.0f} images/s are read from {taps_folder(spec.dir)} and "
            f"{rates['computing']:,.0f} computed on {device_name(device)}; taps=auto computes them in every step, and "
            f"taps=disk reads them"
        )
        return {"mode": "off", **costs, "rates": rates}
    for images, taps in zip(parts, kept, strict=True):
        images.stored = taps
    return {
        "mode": kept[0].mode,
        **costs,
        "views": config.taps.views,
        **_held(kept),
        **({"rates": rates} if rates else {}),
        **({} if model.prefix is None else {"behind": model.places_of_kept_taps[-1][0]}),
    }


def _kept(
    parts: Sequence[Images],
    sizes: Sequence[int],
    config: Config,
    device: torch.device,
    fill: Callable[[Images, Pace], Iterator[list[Tensor]]],
    about: Callable[..., dict[str, Any]],
    tell: Tell,
) -> list[Taps]:
    """The taps of each part, of so many bytes: on the disk, else on the GPU or in memory; none where nothing has room.

    Raises:
        CacheError: `taps=disk` was asked for and there is no room.
        UserError: `taps.dtype` was asked for and there is no room.
    """
    spec = config.taps
    kept: list[Taps] = []
    mode, place = spec.mode, None  # the GPU that holds them, where the disk does not
    for images, bytes_ in zip(parts, sizes, strict=True):
        pace = Pace()
        filled = partial(fill, images, pace)
        if mode != "memory":
            try:
                entry = about(images=images, device=device)
                kept.append(_on_disk(spec, entry, bytes_, filled, partial(_speed, pace, device), tell))
                continue
            except CacheError as problem:
                if spec.mode == "disk":
                    raise
                place = device if sum(sizes) <= room_on(device, spec.gpu_gb) else None
                if place is None and sum(sizes) > spec.memory_gb * 2**30:
                    _refuse_eight_bits(spec, str(problem))
                    gpu = f"on {device} (taps.gpu_gb) or " if room_on(device, None) else ""
                    without = f"does without, since there is no room {gpu}in memory (taps.memory_gb) either"
                    tell(f"{str(problem).rstrip('.')}; taps=auto {without}")
                    return []
                where = "in memory" if place is None else f"on {place}"
                tell(f"{str(problem).rstrip('.')}; taps=auto keeps them {where}")
                mode = "memory"  # for what comes after too: the disk is not asked again
        kept.append(taps_in_memory(filled, images.rows, place))
    return kept


def _bring_near(kept: Sequence[Taps], spec: Spec, device: torch.device) -> None:
    """Has the GPU hold those taps that it has room for, and the others come to it as they are read."""
    room = room_on(device, spec.gpu_gb)
    for taps in kept:
        if taps.held_on is None:
            taps.device = device if device.type == "cuda" else CPU
            if taps.bytes <= room and taps.put_on(device):
                room -= taps.bytes


def _on_disk(
    spec: Spec, about: dict[str, Any], bytes_: int, fill: Fill, speed: Callable[[], dict[str, Any]], tell: Tell
) -> Taps:
    return taps_on_disk(taps_folder(spec.dir), about, bytes_, int(spec.max_gb * 2**30), fill, tell, speed)


def _speed(pace: Pace, device: torch.device) -> dict[str, Any]:
    """What the description of an entry says of how fast its taps were computed, and on what."""
    return {} if pace.rate is None else {"computed": {"rate": pace.rate, "on": device_name(device)}}


def _held(kept: Sequence[Taps]) -> dict[str, Any]:
    """What the record says of the GPU that holds taps, and how long it took to put them there."""
    held = [taps for taps in kept if taps.held_on is not None]
    if not held:
        return {}
    return {"held_on": str(held[0].held_on), "held_seconds": sum(taps.held_seconds for taps in held)}


def _refuse_eight_bits(spec: Spec, why: str) -> None:
    """Raises UserError where taps were to be kept in 8 bits: without them the run would have other numbers."""
    if spec.dtype is not None:
        raise UserError(f"taps.dtype={spec.dtype}: {why.rstrip('.')}; without kept taps leave taps.dtype out.")


def _about(
    config: Config, model: Model | JointModel, *, images: Images, fingerprint: str, device: torch.device
) -> dict[str, Any]:
    """All that decides the bits of the taps; its hash names the entry."""
    transform = images.transform
    return {
        "backbone": model.backbone.facts.name,
        "fingerprint": fingerprint,
        "taps": [name for name, _ in model.places_of_kept_taps],
        "condensed": model.condensed,
        "pixels": [_plain(transform.size), transform.interpolation, list(transform.mean), list(transform.std)],
        **({} if config.data.range == "auto" else {"range": list(config.data.range)}),
        **({"tokens": "row by row"} if any(t.order for t in model.backbone.facts.taps) else {}),  # once in the model's
        **({"tiffs": "scaled by their type"} if _of_tiffs(images) else {}),  # as those of older versions were not
        "augment": transform.augment if images.views else "none",
        **({key: getattr(config.data, key) for key in _CHANGES if images.views and getattr(config.data, key)}),
        **({} if config.data.resize == "squash" else {"resize": config.data.resize}),
        **({"draft": True} if config.data.draft else {}),
        "views": images.views,
        "frames": images.split.frames,
        "precision": config.trainer.precision,
        **({"layout": "channels last"} if config.trainer.channels_last else {}),
        **({} if config.taps.dtype is None else {"dtype": config.taps.dtype}),
        "data": config.data.name,
        "split": images.split.content,
        "device": device.type,
        **({"tf32": config.trainer.tf32} if device.type == "cuda" else {}),
        "versions": {n: version(n) for n in ("torch", "timm")},
    }


def _of_tiffs(images: Images) -> bool:
    """Whether any of the images, or of the frames of clips, is a TIFF."""
    split = images.split
    paths = () if isinstance(split.images, np.ndarray) else split.images
    files = (file for path in paths for file in (frame_files(path) if split.frames and path.is_dir() else [path]))
    return any(file.suffix.lower() in (".tif", ".tiff") for file in files)


def _plain(size: Any) -> Any:
    """As JSON gives it back."""
    return list(size) if isinstance(size, tuple) else size
