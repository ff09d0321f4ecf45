"""The residual blocks of a timm model, found by watching one forward pass: items of a row that hand on one tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from peftbench.backbones.facts import WHOLE, Block, Grid, Tap

_BEFORE = ("stem", "patch_embed", "conv_stem", "conv1")
_BETWEEN = "downsample"


class BlockWatch:
    """What modules that may be blocks gave, and the order in which each called its children.

    A block is an item of a `Sequential` or `ModuleList`, with children, called for the features; stems and what lies
    between stages are none. A stage is none either: it has items called `blocks`, or hands on the output of its last
    one. Of blocks within blocks the outer one counts.

    Attributes:
        outputs: name -> its first output, in the order of the calls.
        inner: name -> the names of its children, in the order of their first calls, with the size of what they read.
    """

    def __init__(self, net: nn.Module) -> None:
        self.modules = dict(net.named_modules())
        self.outputs: dict[str, Tensor] = {}
        self.inner: dict[str, dict[str, int]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, calls are noted."""
        handles = []
        for name in filter(self._may_be_block, self.modules):
            module = self.modules[name]
            handles.append(module.register_forward_hook(self._leave(name)))
            for child, inside in module.named_children():
                handles.append(inside.register_forward_pre_hook(self._enter(name, child)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def blocks(self, taps: Sequence[Tap], tail: Sequence[str], prefix: int) -> tuple[Block, ...]:
        """The blocks, in the order of their calls; of a model without any, the modules that are tapped.

        Args:
            taps: of the model, for the layout of maps and the grids of tokens.
            tail: the modules behind the last tap, which has no blocks.
            prefix: the number of class and register tokens.
        """
        found: list[str] = []
        for name in sorted(self.outputs, key=lambda n: n.count(".")):
            if not self._is_stage(name) and not any(name.startswith(f"{outer}.") for outer in (*found, *tail)):
                found.append(name)
        made = [self._block(n, taps, prefix) for n in self.outputs if n in found]
        blocks = tuple(block for block in made if block is not None)
        return blocks or tuple(_tapped(tap, prefix) for tap in taps if tap.module != WHOLE and tap.layout != "NC")

    def _may_be_block(self, name: str) -> bool:
        module, words = self.modules[name], name.split(".")
        parent = self.modules[name.rpartition(".")[0]] if name else None
        plain = type(module).forward in (nn.Sequential.forward, nn.ModuleList.forward)
        if not isinstance(parent, nn.Sequential | nn.ModuleList) or plain or not len(module._modules):
            return False
        return not words[0].startswith(_BEFORE) and not any(_BETWEEN in word for word in words)

    def _is_stage(self, name: str) -> bool:
        items = self.modules[name]._modules.get("blocks")
        if isinstance(items, nn.Sequential | nn.ModuleList):
            return True
        output = self.outputs[name]
        return any(n.startswith(f"{name}.") and inside is output for n, inside in self.outputs.items())

    def _block(self, name: str, taps: Sequence[Tap], prefix: int) -> Block | None:
        """What is known of a block; None where it gives no map and no tokens of one image."""
        output = self.outputs[name]
        shape = tuple(output.shape[1:])
        if output.ndim not in (3, 4) or output.shape[0] != 1:
            return None
        # A norm of other tokens than the block gives is none of its stream: class attention (CaiT) reads more or fewer.
        seen = self.inner.get(name, {})
        inner = tuple(n for n, size in seen.items() if n not in ("norm1", "norm2") or size == output.numel())
        if output.ndim == 4:
            layout = "NHWC" if any(t.layout == "NHWC" for t in taps) else "NCHW"
            first, second, third = shape
            channels, grid = (first, (second, third)) if layout == "NCHW" else (third, (first, second))
            return Block(name, channels, 0, shape, layout, grid, inner=inner)
        before, tokens = _tokens(shape[0], taps, prefix)
        return Block(name, shape[1], 0, shape, "NLC", tokens, prefix=before, inner=inner)

    def _leave(self, name: str):
        def hook(module: nn.Module, args: object, output: object) -> None:
            if isinstance(output, Tensor):
                self.outputs.setdefault(name, output)  # a tail that is tried afterwards calls some again

        return hook

    def _enter(self, name: str, child: str):
        def hook(module: nn.Module, args: tuple[object, ...]) -> None:
            size = args[0].numel() if args and isinstance(args[0], Tensor) else 0
            self.inner.setdefault(name, {}).setdefault(child, size)

        return hook


def _tapped(tap: Tap, prefix: int) -> Block:
    """A tapped module as a block."""
    return Block(**vars(tap), prefix=prefix if tap.layout == "NLC" else 0)


def _tokens(count: int, taps: Sequence[Tap], prefix: int) -> tuple[int, Grid | None]:
    """How many of a block's tokens are class and register tokens, and the grid of the others.

    Some models (CaiT) add their class token behind the first blocks.
    """
    for tap in taps:
        if tap.layout == "NLC" and tap.shape[0] == count and tap.grid is not None:
            return count - math.prod(tap.grid), tap.grid
    for before in (prefix, 0):
        side = math.isqrt(max(count - before, 0))
        if side and side * side == count - before:
            return before, (side, side)
    return min(prefix, count), None
