"""The norms of a backbone, and which layers stand right before a batch norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from peftbench.backbones.backbone import Backbone
from peftbench.backbones.coded_weights import coded_layers


def norms(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every batch, layer, group and RMS norm of a net, by name, in order."""
    kinds, words = (_NormBase, nn.LayerNorm, nn.GroupNorm), ("LayerNorm", "RmsNorm", "RMSNorm", "SimpleNorm")
    return [(n, m) for n, m in net.named_modules() if isinstance(m, kinds) or type(m).__name__.startswith(words)]


def before_batch_norm(backbone: Backbone) -> frozenset[str]:
    """The convolutions and linear layers whose very output a batch norm with a weight of its own takes, by name.

    One forward pass is watched, from image to pooled features; none where there is no such norm.

    Args:
        backbone: as built; on the meta device it costs nothing.
    """
    net: Any = backbone.net
    normed = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.weight is not None]
    if not normed:
        return frozenset()
    given: dict[int, tuple[Tensor, str]] = {}  # the tensors are kept, so that no other one gets their place in memory
    before: set[str] = set()

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            given[id(_whole(output))] = _whole(output), name

        return hook

    def look(_: Any, inputs: tuple[Tensor, ...]) -> None:
        if (layer := given.get(id(_whole(inputs[0])))) is not None:
            before.add(layer[1])

    handles = [m.register_forward_pre_hook(look) for m in normed]
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            handles.append(module.register_forward_hook(keep(name)))
    height, width = backbone.facts.canvas
    like = next(p for p in net.parameters() if p.is_floating_point())
    image = torch.zeros(1, 3, height, width, dtype=like.dtype, device=like.device)
    modes = {m: m.training for m in net.modules()}
    try:
        with torch.no_grad(), _plain_stand_ins(net):
            net.eval()
            net.forward_head(net.forward_features(image), pre_logits=True)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    return frozenset(before)


@contextmanager
def _plain_stand_ins(net: nn.Module) -> Iterator[None]:
    """Within it weights in codes are zeros of their shape, which take no decoding, nor a device that has values."""
    coded = [(layer, coder) for _, layer, coder, _ in coded_layers(net)]
    for layer, coder in coded:
        like = next(layer.parameters())
        zeros = torch.zeros(coder.shape, dtype=coder.dtype, device=like.device)
        kind: Any = type(layer)
        layer.__class__ = type(kind.__name__, (kind,), {"weight": zeros})
    try:
        yield
    finally:
        for layer, _ in coded:
            layer.__class__ = type(layer).__mro__[1]


def _whole(tensor: Tensor) -> Tensor:
    """The tensor that another one, in another shape, is a view of."""
    return tensor if tensor._base is None else tensor._base
