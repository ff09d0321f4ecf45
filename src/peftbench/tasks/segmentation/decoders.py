"""From a backbone's maps to logits at a decoder's own stride."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from peftbench.backbones import Facts
from peftbench.common.errors import Refusal, UserError
from peftbench.tasks.levels import Levels, choose_levels
from peftbench.tasks.pyramid import SimplePyramid
from peftbench.tasks.segmentation import schema

_COUNT = 4  # maps, of strides 4 to 32
_DILATIONS = (12, 24, 36)  # DeepLabV3+ at stride 16, as segmentation-models-pytorch has them


class SteadyBatchNorm(nn.BatchNorm2d):
    """Batch norm that, where a channel has a single value, takes the statistics that it keeps, and leaves them so.

    That is the case for a pooled map of a batch of one image, of which no deviation can be had.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class SteadyGroupNorm(nn.GroupNorm):
    """Group norm that takes groups of a single value too, which become 0 before weight and bias; torch refuses them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class Decoder(nn.Module, ABC):
    """Maps of taps to logits (B, classes, h, w).

    Attributes:
        taps: the taps whose maps it reads, as indices in `facts.taps`.
        body: what comes before `head`, a 1 x 1 convolution to the classes.
        traces: whether a graph of it serves maps of any size.
    """

    traces = True

    taps: tuple[int, ...]
    body: nn.Module
    head: nn.Conv2d

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits at the decoder's own stride."""
        logits: Tensor = self.head(self.body(self.joined(maps)))
        return logits

    @abstractmethod
    def joined(self, maps: Sequence[Tensor]) -> Any:
        """What `body` takes, of the maps as they come."""


class Linear(Decoder):
    """Batch norm and a 1 x 1 convolution on the last map, as DINOv2 and DINOv3 evaluate; or on several.

    Source: Oquab et al., 2023, arXiv 2304.07193, section 7.4; our reading is that a hierarchical backbone's maps,
    whose sizes differ, are up-sampled to the finest before they are joined.

    Args:
        facts: of the backbone.
        maps: how many: the last taps of a plain backbone, the deepest tap of each of its last strides of another.
        classes: how many there are.
    """

    def __init__(self, facts: Facts, maps: int, classes: int) -> None:
        super().__init__()
        levels = choose_levels(facts, 1, len(facts.taps), "segmentation", odd=True)
        known = range(levels.taps[-1] + 1) if levels.start else levels.taps
        if maps > len(known):
            raise Refusal(
                f"task.maps={maps}: {facts.name} gives maps {'in' if levels.start else 'of'} {len(known)} "
                f"{'taps' if levels.start else 'strides'}; give at most {len(known)}."
            )
        self.taps = tuple(known[-maps:])
        channels = sum(facts.taps[i].channels for i in self.taps)
        self.body = SteadyBatchNorm(channels)
        self.head = nn.Conv2d(channels, classes, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def joined(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        return torch.cat([maps[0], *(resized(m, size) for m in maps[1:])], 1)


class Pyramidal(Decoder):
    """A decoder of segmentation-models-pytorch over maps of strides 4, 8, 16 and 32.

    A plain backbone's last map becomes four by the simple pyramid that detectors have. Maps of images whose size no
    power of two divides are resized a little, so that each has half the size of the one before.

    Args:
        facts: of the backbone.
        width: channels of the decoder.
        classes: how many there are.
        make: gives the decoder for the channels of its four maps.
    """

    pyramid: SimplePyramid | None

    def __init__(
        self, facts: Facts, width: int, classes: int, make: Callable[[Sequence[int], int], tuple[nn.Module, int]]
    ) -> None:
        super().__init__()
        levels = choose_levels(facts, 4, _COUNT, "segmentation", odd=True)
        if len(levels.strides) < _COUNT:
            raise Refusal(
                f"task.decoder: reads {_COUNT} maps, of strides 4 to 32, and {facts.name} has them of "
                f"{', '.join(map(str, levels.strides))} pixels; take task.decoder=linear."
            )
        self._read(levels, width, classes, make)

    def _read(self, levels: Levels, width: int, classes: int, make: Any) -> None:
        self.taps, channels = levels.taps, levels.channels
        self.pyramid = None
        if levels.start:
            self.pyramid = SimplePyramid(channels[0], width, levels.start, _COUNT, _NoMore())
            channels = (width,) * _COUNT
        self.body, features = make(channels, width)
        steady(self.body)
        self.head = nn.Conv2d(features, classes, 1)

    def joined(self, maps: Sequence[Tensor]) -> list[Tensor]:
        if self.pyramid is not None:
            maps = list(self.pyramid({"0": maps[0]}).values())
        maps = in_halves(maps)
        batch, _, height, width = maps[0].shape
        whole, half = (maps[0].new_empty(batch, 0, height * by, width * by) for by in (4, 2))
        return [whole, half, *maps]


class Dilated(Pyramidal):
    """DeepLabV3+: its pyramid of dilations over the last map at stride 16, and the first map of stride 4.

    Our reading: where the backbone was not built with dilations (`+backbone.args.output_stride=16`, which timm's CNNs
    take), its last map is up-sampled to that stride.
    """

    def _read(self, levels: Levels, width: int, classes: int, make: Any) -> None:
        super()._read(levels, width, classes, make)
        if self.pyramid is None:
            self.taps = (levels.taps[0], levels.taps[-1])
        else:  # of strides 4 and 16: what no loss reaches would stop several processes
            self.pyramid.levels = nn.ModuleList(self.pyramid.levels[i] for i in (0, 2))

    def joined(self, maps: Sequence[Tensor]) -> list[Tensor]:
        if self.pyramid is not None:
            maps = list(self.pyramid({"0": maps[0]}).values())
        height, width = (-(-side // 4) * 4 for side in maps[0].shape[2:])
        fine, deep = resized(maps[0], (height, width)), resized(maps[-1], (height // 4, width // 4))
        return [deep, deep, fine, deep]


class _NoMore(ExtraFPNBlock):
    """No coarser levels."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return results, names


def resized(map_: Tensor, size: Sequence[int]) -> Tensor:
    """A map (B, C, h, w) in another size, bilinearly; as it is where that is its own."""
    if tuple(map_.shape[2:]) == tuple(size):
        return map_
    return F.interpolate(map_, size=tuple(size), mode="bilinear", align_corners=False)


def in_halves(maps: Sequence[Tensor]) -> list[Tensor]:
    """Maps, finest first, each of half the size of the one before."""
    by = 2 ** (len(maps) - 1)
    height, width = (-(-side // by) * by for side in maps[0].shape[2:])  # whole numbers alone, for graphs of any size
    return [resized(m, (height // 2**i, width // 2**i)) for i, m in enumerate(maps)]


def steady(module: nn.Module) -> None:
    """Puts `SteadyBatchNorm` and `SteadyGroupNorm` in the place of every batch norm and group norm in a module."""
    for name, inner in module.named_children():
        if type(inner) is nn.BatchNorm2d:
            norm = SteadyBatchNorm(inner.num_features, inner.eps, inner.momentum, inner.affine)
            module.add_module(name, norm)
        elif type(inner) is nn.GroupNorm:
            module.add_module(name, SteadyGroupNorm(inner.num_groups, inner.num_channels, inner.eps, inner.affine))
        else:
            steady(inner)


def _library(decoder: str) -> Any:
    """The module of a decoder in segmentation-models-pytorch. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(f"{schema.LIBRARY}.decoders.{decoder}.decoder")
    except ImportError as problem:
        raise UserError(
            f"task.decoder: all but linear need segmentation-models-pytorch ({problem}); pip install 'peftbench[seg]', "
            f"or give task.decoder=linear."
        ) from None


def _fpn(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
    made = _library("fpn").FPNDecoder([3, 0, *channels], 5, width, width // 2)
    return made, width // 2


def _upernet(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
    return _library("upernet").UPerNetDecoder([3, 0, *channels], 5, width), width


def _segformer(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
    return _library("segformer").SegformerDecoder([3, 0, *channels], 5, width), width


def _deeplabv3plus(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
    made = _library("deeplabv3").DeepLabV3PlusDecoder([3, 0, *channels], 5, width, _DILATIONS, 16, True, 0.5)
    return made, width


def build_decoder(spec: schema.Segmentation, facts: Facts, classes: int) -> Decoder:
    """The decoder that a config's section asks for.

    Raises:
        Refusal: the backbone has too few maps, or taps that are none.
        UserError: the library of the decoder is not installed.
    """
    if spec.decoder == "linear":
        return Linear(facts, spec.maps, classes)
    if spec.decoder == "deeplabv3plus":
        return Dilated(facts, spec.width, classes, _deeplabv3plus)
    makes = {"fpn": _fpn, "upernet": _upernet, "segformer": _segformer}
    made = Pyramidal(facts, spec.width, classes, makes[spec.decoder])
    made.traces = spec.decoder != "upernet"  # which pools to grids of fixed numbers of places
    return made
