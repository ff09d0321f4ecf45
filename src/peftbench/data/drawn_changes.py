"""Flips and cuts of training images, drawn on the host and applied to a whole batch where the model computes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from peftbench.data.augmentation import MARGIN, Changes


class Drawn(NamedTuple):
    """A batch whose images are as they are kept, with what was drawn for each.

    `images` are uint8 (B, 3, H, W), or clips (B, T, 3, H, W); `cuts` int64 (B, 5): top, left, height and width of what
    is kept of each image, and 1 where it is mirrored.
    """

    images: Tensor
    targets: Any
    cuts: Tensor


def draw(changes: Changes, images: Tensor, seed: int) -> Tensor:
    """The cuts (B, 5) of `Drawn`, of the same random numbers in the same order as `augmentation` applies to each image.

    Args:
        changes: with `augment` flip, crop or rrc.
        images: uint8 (B, 3, H, W), or clips, as they are kept.
        seed: of the batch.
    """
    from torchvision.transforms import v2

    height, width = images.shape[-2:]
    cutting: dict[str, Any] = {
        "crop": lambda: v2.RandomCrop(changes.size),
        "rrc": lambda: v2.RandomResizedCrop(changes.size, scale=(0.3, 1.0), antialias=True),
    }
    cut = cutting[changes.augment]() if changes.augment in MARGIN else None
    rows = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for image in images:
            drawn = {"top": 0, "left": 0, "height": height, "width": width}
            if cut is not None:
                drawn |= cut.make_params([image])
            rows.append([*(int(drawn[key]) for key in ("top", "left", "height", "width")), int(torch.rand(1) < 0.5)])
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 5)


def applied(batch: Drawn, size: int) -> Tensor:
    """The images (B, 3, size, size), or clips (B, T, 3, size, size), cut, resized and mirrored: uint8.

    Where nothing is resized they are the host's to the bit. A resized cut is two products of matrices, of rows and of
    columns, with the weights of the bilinear filter with antialiasing; the host rounds between the two, so that a value
    may differ by 1 of 255.
    """
    images, cuts = batch.images, batch.cuts
    if not len(images):
        return images.new_empty((0, *images.shape[1:-2], size, size))
    planes = images.flatten(1, -3)  # (B, planes, H, W)
    top, left, height, width, mirrored = cuts.unbind(1)
    if images.shape[-1] in (size, round(size * MARGIN["crop"])):  # asking the cuts would wait for the device
        offsets = torch.arange(size, device=cuts.device)
        columns = torch.where(mirrored.bool()[:, None], size - 1 - offsets, offsets) + left[:, None]
        which = torch.arange(len(images), device=cuts.device)[:, None, None, None]
        plane = torch.arange(planes.shape[1], device=cuts.device)[:, None, None]
        changed = planes[which, plane, (top[:, None] + offsets)[:, None, :, None], columns[:, None, None, :]]
        return changed.reshape(*images.shape[:-2], size, size)
    across = _weights(left, width, size, planes.shape[-1])
    across = torch.where(mirrored.bool()[:, None, None], across.flip(1), across)
    down = _weights(top, height, size, planes.shape[-2])
    with torch.autocast(images.device.type, enabled=False):
        changed = (down[:, None] @ planes.float() @ across.mT[:, None]).round_().clamp_(0, 255)
    return changed.to(torch.uint8).reshape(*images.shape[:-2], size, size)


def _weights(begin: Tensor, length: Tensor, size: int, whole: int) -> Tensor:
    """float32 (B, size, whole): how much each place of a whole side counts for each place of the resized cut.

    As torch's `upsample_bilinear2d_aa` has it: a triangle as wide as the scale, cut off at the cut's ends.
    """
    exact = torch.float32 if begin.device.type == "mps" else torch.float64
    begin, length = begin[:, None, None].to(exact), length[:, None, None].to(exact)
    scale = length / size
    support = scale.clamp(min=1.0)
    middle = (torch.arange(size, device=begin.device)[:, None] + 0.5) * scale
    place = torch.arange(whole, device=begin.device) - begin
    first = (middle - support + 0.5).trunc().clamp(min=0)
    last = torch.minimum((middle + support + 0.5).trunc(), length)
    weight = (1 - ((place + 0.5 - middle) / support).abs()).clamp(min=0)
    weight = torch.where((place >= first) & (place < last), weight, 0)
    return (weight / weight.sum(-1, keepdim=True)).float()
