"""Branches: what a method adds beside layers, so that what scales it has one place (`Method.branches`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal
from peftbench.methods.base import Branch
from peftbench.methods.shared.low_rank_update import LowRankUpdate, has_update

Gain = Callable[[Tensor], Tensor]
InParts = Callable[[Any, Gain, Tensor], Tensor]
"""What a layer computes for an input with a gain on its branch."""


class OutputOf(Branch):
    """A module that is called once for each call of the layer, and whose output is the branch."""

    def __init__(self, name: str, module: nn.Module, axis: int = -1) -> None:
        self.name, self.module, self.axis = name, module, axis
        self._handle: Any = None

    def hold(self, gain: Gain) -> None:
        self._handle = self.module.register_forward_hook(lambda module, inputs, output: gain(output))

    def release(self) -> None:
        self._handle.remove()


class PartOf(Branch):
    """A part of what a linear layer or convolution computes, which is another function of it while it is held."""

    def __init__(self, name: str, layer: Any, in_parts: InParts) -> None:
        self.name, self.layer, self.axis = name, layer, 1 if isinstance(layer, nn.Conv2d) else -1
        self.in_parts = in_parts

    def hold(self, gain: Gain) -> None:
        self.layer.__dict__["forward"] = partial(self.in_parts, self.layer, gain)

    def release(self) -> None:
        del self.layer.__dict__["forward"]


class UpdateOf(PartOf):
    """The low-rank update of a layer: whatever its form, the layer then computes in two parts."""

    def __init__(self, name: str, layer: Any) -> None:
        super().__init__(name, layer, _in_two_parts)


def update_branches(backbone: Backbone) -> list[Branch]:
    """Those of all low-rank updates that `LowRankUpdate.add` has given to layers of a backbone.

    Raises:
        Refusal: a layer is not called, or computes with its weight in a way of its own.
    """
    found: list[Branch] = []
    for name, layer in backbone.net.named_modules():
        if not has_update(layer):
            continue
        plain: Any = layer.plain_class
        if name not in backbone.facts.called and isinstance(layer, nn.Linear):
            raise _no_branch(backbone, name, "is read instead of called")
        if plain.forward not in (nn.Linear.forward, nn.Conv2d.forward):
            raise _no_branch(backbone, name, "computes with its weight in a way of its own")
        found.append(UpdateOf(name, layer))
    return found


def _no_branch(backbone: Backbone, name: str, why: str) -> Refusal:
    return Refusal(
        f"trainer.consistency: {name} of {backbone.facts.name} {why}, so that its update is no branch that noise could "
        f"scale; leave that layer or trainer.consistency out."
    )


def _in_two_parts(layer: Any, gain: Gain, x: Tensor) -> Tensor:
    update = LowRankUpdate(layer)
    if isinstance(layer, nn.Linear):
        return F.linear(x, update.frozen, layer.bias) + gain(update.branch(x))
    base: Tensor = layer._conv_forward(x, update.frozen, layer.bias)
    return base + gain(update.branch(x))
