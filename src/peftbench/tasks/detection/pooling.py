"""RoIAlign over the levels of a pyramid, several times as fast on a CPU as torchvision's operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper


class Pooling(MultiScaleRoIAlign):
    """RoIAlign (He et al., 2017, arXiv 1703.06870), bins of 2 x 2 samples, at the level of each region's size.

    On a CPU torchvision's operator goes through its channels one by one, and its backward pass took a third of a
    training step. Here a bin is a weighted sum of 16 positions of the map, all channels of them at once. Other devices
    take torchvision's.

    Args:
        strides: of the levels, in pixels. torchvision would infer them from the sizes of images, which padding hides.
        bins: down and across.
    """

    SAMPLES = 2

    def __init__(self, strides: Sequence[int], bins: int = 7) -> None:
        super().__init__([str(i) for i in range(len(strides))], bins, self.SAMPLES)
        self.bins = bins
        self.scales = [1 / s for s in strides]
        first = (strides[0] - 1).bit_length()
        self.map_levels = initLevelMapper(first, first + len(strides) - 1)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """The bins of each region, (K, C, bins, bins).

        Args:
            x: maps (B, C, H, W) by name, finest first.
            boxes: for each image (n, 4), x1 y1 x2 y2 in pixels of the input; K of them in all.
            image_shapes: height and width of each image; only torchvision's operator reads them.
        """
        # Suffixes: K regions, L levels, P positions of all maps one after the other; Y and X are the bins down and
        # across, S and T the 4 positions that a bin takes of each axis (2 samples, each between 2 positions).
        maps = [x[name] for name in self.featmap_names]
        count = sum(map(len, boxes))
        if maps[0].device.type != "cpu" or not count or torch.jit.is_tracing():
            return super().forward(x, boxes, image_shapes)
        level_K = self.map_levels(boxes)
        image_K = torch.cat([level_K.new_full((len(b),), i) for i, b in enumerate(boxes)])
        sizes_L2 = torch.tensor([m.shape[2:] for m in maps])
        area_L = sizes_L2.prod(1)
        first_L = (area_L * len(boxes)).cumsum(0) - area_L * len(boxes)  # a level's first among all positions
        regions_K4 = torch.cat(boxes).float() * torch.tensor(self.scales)[level_K][:, None]
        height_K, width_K = sizes_L2[level_K].unbind(1)
        rows_KYS, row_weights_KYS = _positions(regions_K4[:, 1], regions_K4[:, 3], height_K, self.bins)
        columns_KXT, column_weights_KXT = _positions(regions_K4[:, 0], regions_K4[:, 2], width_K, self.bins)
        start_K = first_L[level_K] + image_K * area_L[level_K]
        row_starts_KYS = start_K[:, None, None] + rows_KYS * width_K[:, None, None]
        at_KYXST = row_starts_KYS[:, :, None, :, None] + columns_KXT[:, None, :, None, :]
        weights_KYXST = row_weights_KYS[:, :, None, :, None] * column_weights_KXT[:, None, :, None, :]
        table_PC = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps]).float()
        bins = count * self.bins**2
        pooled = F.embedding_bag(
            at_KYXST.reshape(bins, -1), table_PC, per_sample_weights=weights_KYXST.reshape(bins, -1), mode="sum"
        )
        return pooled.unflatten(0, (count, self.bins, self.bins)).permute(0, 3, 1, 2).to(maps[0].dtype)


def _positions(start_K: Tensor, end_K: Tensor, length_K: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """What each bin of K regions reads along one axis: positions (K, bins, 4) and their weights.

    Regions reach from `start_K` to `end_K`, in entries of a map that has `length_K` of them. Each of two samples a bin
    lies between two positions.
    """
    # Suffixes: K regions, N samples, two a bin, 2 the position before a sample and the one after it.
    count = bins * Pooling.SAMPLES
    step_K = (end_K - start_K).clamp(min=1) / count
    sample_KN = start_K[:, None] + (torch.arange(count) + 0.5) * step_K[:, None]
    last_K1 = (length_K - 1)[:, None].float()
    inside_KN = (sample_KN >= -1) & (sample_KN <= last_K1 + 1)
    sample_KN = sample_KN.clamp(min=0).minimum(last_K1)
    before_KN = sample_KN.floor()
    share_KN = sample_KN - before_KN
    at_KN2 = torch.stack([before_KN, (before_KN + 1).minimum(last_K1)], 2).long()
    weights_KN2 = torch.stack([1 - share_KN, share_KN], 2) * inside_KN[..., None] / Pooling.SAMPLES
    by_bin = (bins, -1)
    return at_KN2.unflatten(1, by_bin).flatten(2), weights_KN2.unflatten(1, by_bin).flatten(2)
