"""From a backbone's maps to a pyramid: torchvision's FPN, or the simple pyramid of a plain ViT."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from peftbench.tasks.levels import Levels


class Pyramid(nn.Module):
    """The neck: maps (B, C_i, H_i, W_i) to maps (B, width, H_j, W_j), finest first, by name.

    Args:
        levels: what it is made of.
        width: channels of the maps that it gives.
        extra: torchvision's block that adds coarser levels.
    """

    def __init__(self, levels: Levels, width: int, extra: ExtraFPNBlock) -> None:
        super().__init__()
        self.out_channels = width
        if levels.start:
            self.fpn: nn.Module = SimplePyramid(levels.channels[0], width, levels.start, len(levels.strides), extra)
        else:
            self.fpn = FeaturePyramidNetwork(list(levels.channels), width, extra)

    def forward(self, maps: Sequence[Tensor]) -> OrderedDict[str, Tensor]:
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps)))


class SimplePyramid(nn.Module):
    """The simple feature pyramid of ViTDet (Li et al., 2022, arXiv 2203.16527, section 3): levels from one map.

    The map (B, channels, H, W) is scaled by `start`, `start` / 2, … on `count` levels: by transposed convolutions of
    stride 2, or by max-pooling. On each level follow a 1 x 1 and a 3 x 3 convolution to `width` channels, with a layer
    norm over channels after each.
    """

    def __init__(self, channels: int, width: int, start: int, count: int, extra: ExtraFPNBlock) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for i in range(count):
            scale, out, steps = start / 2**i, channels, []
            while scale > 1:
                half = max(out // 2, 1)
                if out != channels:
                    steps += [LayerNorm2d(out), nn.GELU()]
                steps.append(nn.ConvTranspose2d(out, half, 2, 2))
                scale, out = scale / 2, half
            while scale < 1:
                steps.append(nn.MaxPool2d(2, 2))
                scale *= 2
            for kernel, before in ((1, out), (3, width)):
                steps += [nn.Conv2d(before, width, kernel, padding=kernel // 2, bias=False), LayerNorm2d(width)]
            self.levels.append(nn.Sequential(*steps))
        self.extra = extra

    def forward(self, maps: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
        (only,) = maps.values()
        levels = [level(only) for level in self.levels]
        names = [str(i) for i in range(len(levels))]
        levels, names = self.extra(levels, levels, names)
        return OrderedDict(zip(names, levels, strict=True))


def extra_block(kind: str, width: int) -> ExtraFPNBlock:
    """The coarser levels that torchvision's detectors add: a subsampled one, or two convolutions of stride 2."""
    return LastLevelMaxPool() if kind == "pool" else LastLevelP6P7(width, width)
