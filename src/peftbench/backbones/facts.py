"""What is known of a backbone without its weights: its taps, their shapes, its input."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

WHOLE = "forward_features"
"""The `module` of the only tap of a model that cannot be cut: its whole output."""


Size = int | tuple[int, int]
"""Pixels of an input image: the side of a square one, else height and width."""


Grid = tuple[int, int]
"""Height and width of a tap's map; prefix tokens are not on it."""


@dataclass(frozen=True)
class Tap:
    """One tapped module.

    Attributes:
        module: its name in the net, or `WHOLE`.
        channels: the channels of its output.
        reduction: pixels of the input per entry of its map, as timm says; 0 where it does not.
        shape: the shape of its output for one image, in the model's own `layout`.
        layout: NLC, NCHW, NHWC, or NC where the output has no positions.
        grid: height and width of its map; None where its tokens (prefix apart) lie on none.
        order: where the entries of its map, row by row, lie among the tokens of the module's output; empty where they
            lie so themselves. `Backbone.taps` hands them on row by row.
    """

    module: str
    channels: int
    reduction: int
    shape: tuple[int, ...]
    layout: str
    grid: Grid | None = None
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Block(Tap):
    """One residual block, which a method may add to.

    Attributes:
        prefix: the number of class and register tokens among its tokens.
        inner: the names of its children, in the order of their first calls.
    """

    prefix: int = 0
    inner: tuple[str, ...] = ()

    def calls(self, *names: str) -> bool:
        """Whether it calls children of these names, each after the one before."""
        places = [self.inner.index(name) for name in names if name in self.inner]
        return len(places) == len(names) and places == sorted(places)

    @property
    def has_middle(self) -> bool:
        """Whether it is m = x + attn(norm1 x), y = m + mlp(norm2 m), on tokens or on maps whose channels come last."""
        return self.layout != "NCHW" and self.calls("norm1", "attn", "norm2", "mlp")


@dataclass(frozen=True)
class Facts:
    """What is known of a backbone without its weights.

    Attributes:
        name: timm's name of the model.
        family: what kind of model it is, as its config says.
        input_size: see `Size`.
        taps: in order of depth.
        tail: the modules between the last tap and `forward_head`.
        reshaped: the shape of one image's features, where it is another than the tail's output has (tokens that a model
            lays out as a map); empty where it is none.
        width: the number of pooled features.
        prefix: the number of class and register tokens.
        parameters: the count without classifier.
        called: the modules whose forward runs for features or for pooling (some models read a layer's weight instead).
        pools: those of them that run for pooling alone, behind the features: an attention pool, a head's hidden layer.
        mean, std: the normalisation that it was trained with, in units of the range 0 to 1.
        interpolation: the filter of resizing that it was trained with, in PIL's word.
        blocks: the residual blocks, in the order of their calls.
    """

    name: str
    family: str | None
    input_size: Size
    taps: tuple[Tap, ...]
    tail: tuple[str, ...]
    width: int
    prefix: int
    parameters: int
    called: frozenset[str]
    pools: frozenset[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    blocks: tuple[Block, ...] = ()
    reshaped: tuple[int, ...] = ()

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of an input image."""
        size = self.input_size
        return (size, size) if isinstance(size, int) else size

    def index(self, i: int) -> int:
        """The place of tap `i` among `taps`, counted from the end where `i` is negative: -1 is the last.

        Raises:
            IndexError: there are not so many taps.
        """
        count = len(self.taps)
        if not -count <= i < count:
            raise IndexError(f"tap {i} of {self.name}, which has {count}")
        return i % count


def grid_of(tap: Tensor, built: Tap, prefix: int) -> Grid:
    """Height and width of a raw tap (B, …), which `built` describes as the backbone was built.

    Raises:
        ValueError: its number of tokens fits neither the grid that it was built for nor a square one.
    """
    if built.layout == "NCHW":
        return tap.shape[2], tap.shape[3]
    if built.layout == "NHWC":
        return tap.shape[1], tap.shape[2]
    tokens = tap.shape[1] - prefix
    if built.grid is not None and math.prod(built.grid) == tokens:
        return built.grid
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{tokens} tokens are not a square grid")
    return side, side
