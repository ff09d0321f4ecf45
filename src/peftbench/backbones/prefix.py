"""The frozen prefix of a backbone that is adapted in place: what lies before the first layer that trains.

Its last tap depends on nothing that trains, so that it can be computed once and kept, as taps under a side method are.
The rest of the backbone runs from it: every tapped module of the prefix is told its output for the time of one pass and
computes nothing, whatever the model does between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from peftbench.backbones.backbone import Backbone
from peftbench.backbones.facts import WHOLE
from peftbench.common.errors import UserError


@dataclass(frozen=True)
class Prefix:
    """What of a frozen prefix is kept for the rest of the backbone.

    Attributes:
        taps: indices into `facts.taps`, ascending; the rest runs from the last of them.
        embedded: whether the input of the first tapped module is kept too, before the taps.
    """

    taps: tuple[int, ...]
    embedded: bool = False

    def places(self, backbone: Backbone) -> list[tuple[str, tuple[int, ...]]]:
        """(where it is, its shape for one image) of each tensor that is kept, in order."""
        taps = backbone.facts.taps
        first = [(f"input of {taps[0].module}", taps[0].shape)] if self.embedded else []
        return [*first, *((taps[i].module, taps[i].shape) for i in self.taps)]

    @torch.no_grad()
    def compute(self, backbone: Backbone, images: Tensor) -> list[Tensor]:
        """What is kept of normalised images (B, 3, H, W): what the modules give, before a hook changes it."""
        entered: list[Tensor] = []
        module = backbone.net.get_submodule(backbone.facts.taps[0].module)
        handles = []
        if self.embedded:
            handles = [module.register_forward_pre_hook(lambda _, args: entered.append(args[0]), prepend=True)]
        try:
            taps = backbone.taps(images, self.taps, raw=True)
        finally:
            for handle in handles:
                handle.remove()
        return [*entered, *taps]

    def rest(self, backbone: Backbone, kept: Sequence[Tensor], wanted: Sequence[int]) -> list[Tensor]:
        """The `wanted` taps, as `Backbone.taps` gives them, from what was kept (B, …) of images.

        What lies before the first tap computes for one blank image, which nothing behind sees.
        """
        parameter = next(backbone.net.parameters())
        image = kept[0].new_zeros((1, 3, *backbone.facts.canvas), dtype=parameter.dtype)
        with self._told(backbone, kept):
            return backbone.taps(image, wanted)

    @contextmanager
    def _told(self, backbone: Backbone, kept: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the tapped modules up to the last kept one give what was kept, or zeros for one image."""
        facts, net = backbone.facts, backbone.net
        values = dict(zip(self.taps, kept[len(kept) - len(self.taps) :], strict=True))
        modules: list[Any] = [net.get_submodule(facts.taps[i].module) for i in range(self.taps[-1] + 1)]
        handles = []
        if self.embedded:
            handles = [modules[0].register_forward_pre_hook(lambda _, args: (kept[0], *args[1:]), prepend=True)]
        try:
            for i, module in enumerate(modules):
                value = values[i] if i in values else kept[0].new_zeros((1, *facts.taps[i].shape))
                module.forward = partial(_give, value)
            yield
        finally:
            for module in modules:
                module.__dict__.pop("forward", None)
            for handle in handles:
                handle.remove()


def _give(value: Tensor, *_: Any, **__: Any) -> Tensor:
    return value


def find_prefix(backbone: Backbone, reads: Sequence[int], everything: bool) -> Prefix | str:
    """The longest prefix of an adapted backbone that can be computed once, or why there is none.

    Args:
        backbone: adapted, in the modes that it trains in.
        reads: the taps that the task reads.
        everything: whether what the method added reads every tap of the prefix, and the input of the first.
    """
    facts = backbone.facts
    if facts.taps[0].module == WHOLE:
        return f"{facts.name} cannot be cut at its blocks"
    frozen, finished = _watched(backbone)
    if not frozen:
        return "what trains begins before the first block or stage ends"
    last = frozen - 1
    if moving := next((why for m in finished[last] for x in m.modules() if (why := _moves(x))), ""):
        return moving
    taps = range(frozen) if everything else sorted({*(i for i in map(facts.index, reads) if i < last), last})
    prefix = Prefix(tuple(taps), everything)
    return prefix if _computes_the_same(backbone, prefix, reads) else f"{facts.name} does not go on from its taps alone"


def _watched(backbone: Backbone) -> tuple[int, list[list[nn.Module]]]:
    """(how many taps, from the first, have no gradient; for each tap the modules that have run when it is there)."""
    finished: list[nn.Module] = []
    by_tap: list[list[nn.Module]] = []
    gradients: list[bool] = []

    def note(index: int, tap: Tensor) -> None:
        module = backbone.net.get_submodule(backbone.facts.taps[index].module)
        by_tap.append([*finished, module])
        gradients.append(tap.requires_grad)

    parameter = next(backbone.net.parameters())
    image = torch.zeros(1, 3, *backbone.facts.canvas, device=parameter.device, dtype=parameter.dtype)
    handles = [m.register_forward_hook(lambda module, *_: finished.append(module)) for m in backbone.net.modules()]
    try:
        with _in_eval_mode(backbone), torch.enable_grad():
            backbone.taps(image, emit=note, raw=True)
    finally:
        for handle in handles:
            handle.remove()
    return (gradients.index(True) if True in gradients else len(gradients)), by_tap


@contextmanager
def _in_eval_mode(backbone: Backbone) -> Iterator[None]:
    """Inside, the backbone computes without chance and moves nothing; what modules kept of it is forgotten after."""
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        yield
    finally:
        backbone.train()  # some modules keep what they computed in eval mode, with its graph
        for module, mode in modes.items():
            module.training = mode


def _moves(module: Any) -> str:
    """Why a module gives other values for one image in training, or the empty string."""
    kind = type(module).__name__
    if isinstance(module, _NormBase) and module.training and module.track_running_stats:
        return f"{kind} takes the statistics of each batch"
    chance = module.p if isinstance(module, _DropoutNd) else 0.0
    chance = chance or getattr(module, "drop_prob", 0.0) or (getattr(module, "prob", 0.0) if "Drop" in kind else 0.0)
    if isinstance(module, nn.MultiheadAttention):
        chance = module.dropout
    return f"{kind} drops {chance:g} at random before the first layer that trains" if chance else ""


@torch.no_grad()
def _computes_the_same(backbone: Backbone, prefix: Prefix, reads: Sequence[int]) -> bool:
    """Whether the taps are the same bits from the prefix as in one pass, tried on two images of noise."""
    parameter = next(backbone.net.parameters())
    noise = torch.randn(2, 3, *backbone.facts.canvas, generator=torch.Generator().manual_seed(0), device="cpu")
    noise = noise.to(parameter.device, parameter.dtype)
    with _in_eval_mode(backbone):
        whole = backbone.taps(noise, reads)
        try:
            rest = prefix.rest(backbone, prefix.compute(backbone, noise), reads)
        except (
            UserError,
            RuntimeError,
            ValueError,
            LookupError,
            AssertionError,
            TypeError,
        ):  # each model fails in its own way
            return False
    pairs = list(zip(whole, rest, strict=True))
    return all(a.shape == b.shape and (a.is_meta or torch.equal(a, b)) for a, b in pairs)
