"""RoIAlign over the levels of a pyramid, several times as fast on a CPU as torchvision's operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper


class Pooling(MultiScaleRoIAlign):
    """RoIAlign (He et al., 2017, arXiv 1703.06870), 7 x 7 bins of 2 x 2 samples, at the level of each region's size.

    On a CPU torchvision's operator goes through its channels one by one, and its backward pass took a third of a
    training step. Here a bin is a weighted sum of 16 positions of the map, all channels of them at once. Other devices
    take torchvision's.

    Args:
        strides: of the levels, in pixels. torchvision would infer them from the sizes of images, which padding hides.
    """

    BINS, SAMPLES = 7, 2

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__([str(i) for i in range(len(strides))], self.BINS, self.SAMPLES)
        self.scales = [1 / s for s in strides]
        first = (strides[0] - 1).bit_length()
        self.map_levels = initLevelMapper(first, first + len(strides) - 1)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """(K, C, 7, 7) of maps (B, C, H, W) by name, for boxes (n, 4) of each image in pixels, K of them in all."""
        maps = [x[name] for name in self.featmap_names]
        count = sum(map(len, boxes))
        if maps[0].device.type != "cpu" or not count:
            return super().forward(x, boxes, image_shapes)
        level = self.map_levels(boxes)
        image = torch.cat([level.new_full((len(b),), i) for i, b in enumerate(boxes)])
        sizes = torch.tensor([m.shape[2:] for m in maps])
        rows = sizes.prod(1)
        first = (rows * len(boxes)).cumsum(0) - rows * len(boxes)  # of each level in the table of all positions
        regions = torch.cat(boxes).float() * torch.tensor(self.scales)[level][:, None]
        height, width = sizes[level].unbind(1)
        down, over = (_axis(regions[:, i], regions[:, i + 2], n) for i, n in ((1, height), (0, width)))
        start = (first[level] + image * rows[level])[:, None, None, None, None]
        at = start + down[0][:, :, None, :, None] * width[:, None, None, None, None] + over[0][:, None, :, None, :]
        weights = down[1][:, :, None, :, None] * over[1][:, None, :, None, :]
        table = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps]).float()
        bins = count * self.BINS**2
        pooled = F.embedding_bag(at.reshape(bins, -1), table, per_sample_weights=weights.reshape(bins, -1), mode="sum")
        return pooled.unflatten(0, (count, self.BINS, self.BINS)).permute(0, 3, 1, 2).to(maps[0].dtype)


def _axis(start: Tensor, end: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (K, 7, 4) along one axis of `length` (K,), and their weights: each sample lies between two."""
    count = Pooling.BINS * Pooling.SAMPLES
    step = (end - start).clamp(min=1) / count
    sample = start[:, None] + (torch.arange(count) + 0.5) * step[:, None]
    last = (length - 1)[:, None].float()
    inside = (sample >= -1) & (sample <= last + 1)
    sample = sample.clamp(min=0).minimum(last)
    low = sample.floor()
    share = sample - low
    places = torch.stack([low, (low + 1).minimum(last)], 2).long()
    weights = torch.stack([1 - share, share], 2) * inside[..., None] / Pooling.SAMPLES
    return places.unflatten(1, (Pooling.BINS, -1)).flatten(2), weights.unflatten(1, (Pooling.BINS, -1)).flatten(2)
