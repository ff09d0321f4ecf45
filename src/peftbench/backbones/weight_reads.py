"""Which layers' weights a model reads besides calling the layers: what is put around a call does not reach those."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.backbone import Backbone
from peftbench.backbones.coded_weights import own_weight


def layers_read(backbone: Backbone) -> frozenset[str]:
    """The linear layers whose weight is computed with outside their own forward, by name in the net.

    One forward pass is watched, from image to pooled features. To ask a weight for its type, device or shape is no
    reading.

    Args:
        backbone: as built; on the meta device it costs nothing.
    """
    net: Any = backbone.net
    height, width = backbone.facts.canvas
    like = next(net.parameters())
    image = torch.zeros(1, 3, height, width, dtype=like.dtype, device=like.device)
    with torch.no_grad(), _watched(net) as read:
        net.forward_head(net.forward_features(image), pre_logits=True)
    return frozenset(read)


class _Watched(Tensor):
    """A weight that notes that it is computed with."""

    note: Any

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = getattr(func, "__name__", "") == "__get__" or func in _ABOUT
        for argument in _tensors((args, kwargs)) if not asked else ():
            if isinstance(argument, _Watched):
                argument.note()
        with torch._C.DisableTorchFunctionSubclass():
            answer = func(*args, **(kwargs or {}))
        return answer.as_subclass(Tensor) if isinstance(answer, _Watched) else answer


_ABOUT = (Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.__len__)


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    else:
        yield value


@contextmanager
def _watched(net: nn.Module) -> Iterator[set[str]]:
    """Within it the names are gathered of linear layers whose weight is computed with while they are not called."""
    read: set[str] = set()
    busy: list[nn.Module] = []
    names = {id(m): n for n, m in net.named_modules() if isinstance(m, nn.Linear)}

    def weight(layer: Any) -> Any:
        frozen = own_weight(layer)
        if layer in busy:
            return frozen
        watched = frozen.detach().as_subclass(_Watched)
        watched.note = partial(read.add, names[id(layer)])
        return watched

    def enter(layer: nn.Module, _: Any) -> None:
        busy.append(layer)

    def leave(layer: nn.Module, _: Any, __: Any) -> None:
        busy.remove(layer)

    layers = [m for m in net.modules() if id(m) in names]
    kinds = {kind: type(kind.__name__, (kind,), {"weight": property(weight)}) for kind in {type(m) for m in layers}}
    handles = [m.register_forward_pre_hook(enter) for m in layers] + [m.register_forward_hook(leave) for m in layers]
    try:
        for layer in layers:
            layer.__class__ = kinds[type(layer)]
        yield read
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            layer.__class__ = type(layer).__mro__[1]
