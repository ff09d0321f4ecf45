"""From a backbone's maps to a detector's pyramid: torchvision's FPN, or the simple pyramid of a plain ViT."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from peftbench.backbones import Facts, Tap
from peftbench.common.errors import Refusal


@dataclass(frozen=True)
class Levels:
    """What a pyramid is made of.

    Attributes:
        taps: indices in `facts.taps`, one for each stride; a plain ViT has a single one.
        channels: the channels of these taps.
        strides: the strides of the pyramid's levels in pixels, without the extra ones.
        start: a plain ViT's patch size over the first stride; 0 for other backbones.
    """

    taps: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    start: int = 0


def choose_levels(facts: Facts, finest: int, most: int) -> Levels:
    """The taps that a detector reads, whose finest stride is about `finest` and which has `most` levels.

    A hierarchical backbone gives the deepest tap of each of its last strides, a plain one its last tap.

    Raises:
        Refusal: its taps are no maps, or the images cannot be divided by a stride.
    """
    height, width = facts.canvas
    tap_of_stride: dict[int, int] = {}
    for i, tap in enumerate(facts.taps):
        if tap.grid is None or 0 in tap.grid:
            raise Refusal(
                f"task=detection: {tap.module} of {facts.name} gives {' x '.join(map(str, tap.shape))} at "
                f"{facts.input_size} pixels, which is no map; take a convolutional backbone, or a plain ViT with "
                f"data.size=[H,W]."
            )
        tap_of_stride[_stride(tap, (height, width))] = i
    if len(tap_of_stride) == 1:
        ((patch, tap_index),) = tap_of_stride.items()
        chosen = _plain(facts, patch, tap_index, finest, most)
    else:
        coarse_enough = [s for s in sorted(tap_of_stride) if s >= finest]
        strides = coarse_enough[:most] or [max(tap_of_stride)]
        taps = tuple(tap_of_stride[s] for s in strides)
        chosen = Levels(taps, tuple(facts.taps[i].channels for i in taps), tuple(strides))
    coarsest = math.lcm(*chosen.strides)
    if height % coarsest or width % coarsest:
        near = [max(round(side / coarsest), 1) * coarsest for side in (height, width)]
        raise Refusal(
            f"data.size=[{height},{width}]: the detector's maps of {facts.name} have strides of "
            f"{', '.join(map(str, chosen.strides))} pixels; expected multiples of {coarsest}, such as "
            f"data.size=[{near[0]},{near[1]}]."
        )
    return chosen


def _stride(tap: Tap, image: tuple[int, int]) -> int:
    """Pixels of an image per entry of its map: what timm says where the map is of that size, rounded up or down."""
    assert tap.grid is not None
    sides = list(zip(image, tap.grid, strict=True))
    if tap.reduction and all(entries in (side // tap.reduction, -(-side // tap.reduction)) for side, entries in sides):
        return tap.reduction
    return max(round(side / entries) for side, entries in sides)


def _plain(facts: Facts, patch: int, tap: int, finest: int, most: int) -> Levels:
    """The levels of a backbone of a single stride, `patch` pixels: its map is enlarged, and then halved."""
    factor = next((f for f in (4, 2) if patch % f == 0 and patch // f >= finest), 1)
    strides = tuple(patch // factor * 2**i for i in range(most))
    return Levels((tap,), (facts.taps[tap].channels,), strides, factor)


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
