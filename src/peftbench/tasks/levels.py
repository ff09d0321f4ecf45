"""Which of a backbone's taps a dense task reads, and the strides of their maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

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


def choose_levels(facts: Facts, finest: int, most: int, task: str = "detection", odd: bool = False) -> Levels:
    """The taps that a dense task reads, whose finest stride is about `finest` and which has `most` levels.

    A hierarchical backbone gives the deepest tap of each of its last strides, a plain one its last tap.

    Args:
        facts: of the backbone.
        finest: pixels.
        most: levels.
        task: what messages call the task.
        odd: whether images may be of a size that a stride does not divide.

    Raises:
        Refusal: its taps are no maps, or the images cannot be divided by a stride.
    """
    height, width = facts.canvas
    tap_of_stride: dict[int, int] = {}
    for i, tap in enumerate(facts.taps):
        if tap.grid is None or 0 in tap.grid:
            raise Refusal(
                f"task={task}: {tap.module} of {facts.name} gives {' x '.join(map(str, tap.shape))} at "
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
    if not odd and (height % coarsest or width % coarsest):
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
