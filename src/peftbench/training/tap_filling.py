"""Training from kept taps: whether, where, and how the taps of a run's images are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftbench.common.precisions import HALF
from peftbench.common.progress import Watch
from peftbench.config import Config
from peftbench.config import Taps as Spec
from peftbench.data.images import Images
from peftbench.data.loading import Loaders, images_of
from peftbench.data.media import frame_files
from peftbench.models.joint import JointModel
from peftbench.models.kept_taps import shapes_of_kept_taps, why_not_kept
from peftbench.models.model import Model
from peftbench.taps.entries import CacheError, taps_folder
from peftbench.taps.store import Fill, Taps, size_of_taps, taps_in_memory, taps_on_disk

CHUNK = 2**30
"""Bytes of taps that are in memory at once while they are computed."""
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
    at with their mirror images. Else as `keep_taps_of`.
    """
    loaders = (data.train, data.val if config.data.tta == "none" else None)
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
        UserError: an image cannot be read.
    """
    spec = config.taps
    if not model.goes_on_from_taps:
        if spec.mode in ("memory", "disk"):
            tell(f"taps={spec.mode}: method={config.method.name} changes the backbone, so there are no taps to keep")
        return None
    if spec.mode == "off":
        return {"mode": "off"}
    if why := why_not_kept(config, model, one_size=all(images.transform.size is not None for images in parts)):
        tell(f"taps: not kept, since {why}")
        return {"mode": "off"}
    one = shapes_of_kept_taps(config, model)
    sizes = [size_of_taps(one) * images.rows * (images.split.frames or 1) for images in parts]
    model.to(device)
    done, total = 0, sum(images.rows for images in parts)

    def fill(images: Images) -> Iterator[list[Tensor]]:
        nonlocal done
        for chunk in _computed(config, model, images, device):
            yield chunk
            done += len(chunk[0])
            watch(done, total)

    kept: list[Taps] = []
    mode = spec.mode
    for images, bytes_ in zip(parts, sizes, strict=True):
        about = _about(config, model, images, fingerprint, device)
        try:
            kept.append(_kept(spec, mode, about, bytes_, partial(fill, images), tell))
        except CacheError as problem:
            if spec.mode == "disk":
                raise
            fits = sum(sizes) <= spec.memory_gb * 2**30
            tell(f"{str(problem).rstrip('.')}; taps=auto {'keeps them in memory' if fits else 'does without'}")
            if not fits:
                return {"mode": "off"}
            mode = "memory"  # for what comes after too: the disk is not asked again
            kept.append(taps_in_memory(partial(fill, images)))
    for images, taps in zip(parts, kept, strict=True):
        images.stored = taps
    return {
        "mode": kept[0].mode,
        "rows": total,
        "computed": sum(t.filled for t in kept),
        "bytes": sum(t.bytes for t in kept),
        "seconds": sum(t.seconds for t in kept),
        "views": config.taps.views,
        **({} if model.prefix is None else {"behind": model.places_of_kept_taps[-1][0]}),
    }


def _kept(spec: Spec, mode: str, about: dict[str, Any], bytes_: int, fill: Fill, tell: Tell) -> Taps:
    if mode == "memory":
        return taps_in_memory(fill)
    return taps_on_disk(taps_folder(spec.dir), about, bytes_, int(spec.max_gb * 2**30), fill, tell)


def _about(
    config: Config, model: Model | JointModel, images: Images, fingerprint: str, device: torch.device
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
        "views": images.views,
        "frames": images.split.frames,
        "precision": config.trainer.precision,
        **({"layout": "channels last"} if config.trainer.channels_last else {}),
        "data": config.data.name,
        "split": images.split.content,
        "device": device.type,
        "versions": {n: version(n) for n in ("torch", "timm")},
    }


def _computed(
    config: Config, model: Model | JointModel, images: Images, device: torch.device
) -> Iterator[list[Tensor]]:
    """The taps of all rows, in chunks of data.eval_batch_size, or smaller ones where their taps would take too much."""
    model.eval()
    half = HALF[config.trainer.precision]
    most = CHUNK // size_of_taps(shapes_of_kept_taps(config, model)) // (images.split.frames or 1)
    size = max(min(config.data.eval_batch_size, most) // model.multiple, 1) * model.multiple
    for rows in torch.arange(images.rows).split(size):
        pictures = images.pictures(rows).to(device)
        with torch.autocast(device.type, half, enabled=half is not None):
            taps = [t.cpu() for t in model.frozen(pictures)]
        yield taps if images.split.frames is None else [t.unflatten(0, (len(rows), -1)) for t in taps]  # a row a clip


def _of_tiffs(images: Images) -> bool:
    """Whether any of the images, or of the frames of clips, is a TIFF."""
    split = images.split
    paths = () if isinstance(split.images, np.ndarray) else split.images
    files = (file for path in paths for file in (frame_files(path) if split.frames and path.is_dir() else [path]))
    return any(file.suffix.lower() in (".tif", ".tiff") for file in files)


def _plain(size: Any) -> Any:
    """As JSON gives it back."""
    return list(size) if isinstance(size, tuple) else size
