"""Folding what a method put beside a layer's parameters into them, and taking that back to the bit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.common.errors import Refusal


@cache
def layer_class(base: Any, prefix: str, members: tuple[tuple[str, Any], ...]) -> Any:
    """A class derived from `base` with more members, the same one whenever it is asked for.

    torch's parametrize would do, but it renames the frozen tensor, and with it the backbone's fingerprint and delta
    would no longer go by the backbone's own names; so an adapted layer changes its class, and stays the same object.
    """
    return type(f"{prefix}{base.__name__}", (base,), {**dict(members), "plain_class": base})


def refuse_taken_names(layer: nn.Module, names: Iterable[str], name: str) -> None:
    """Raises Refusal where the layer called `name` has an attribute that one of ours would hide."""
    if taken := next((ours for ours in names if hasattr(layer, ours)), None):
        raise Refusal(
            f"layer {name}: a {type(layer).__name__} has an attribute {taken} of its own, which the update would hide; "
            f"leave this layer out, or take a side method such as losa."
        )


class Folded:
    """A layer whose parameters have taken new values, and which has lost what made these; `undo` restores it.

    The old tensors are kept here and nowhere else: they are freed with this object.

    Args:
        layer: changed in place. Who else holds its old parameters finds them as they were.
        values: name -> the parameter's new value, in its shape.
        parts: the names of the parameters, buffers, modules and attributes that are taken away.
        plain: the class that the layer has afterwards.
    """

    @torch.no_grad()
    def __init__(
        self, layer: nn.Module, values: Mapping[str, Tensor], parts: Collection[str], plain: type[nn.Module]
    ) -> None:
        self.layer, self.kind = layer, type(layer)
        places: tuple[dict[str, Any], ...] = (layer._parameters, layer._buffers, layer._modules, layer.__dict__)
        self.kept = [dict(place) for place in places[:3]]
        self.attributes = {name: layer.__dict__[name] for name in parts if name in layer.__dict__}
        for name, value in values.items():
            frozen = layer._parameters[name]
            assert frozen is not None
            layer._parameters[name] = nn.Parameter(value.detach(), requires_grad=frozen.requires_grad)
        for place in places:
            for name in parts:
                place.pop(name, None)
        layer.__class__ = plain

    def undo(self) -> None:
        """The layer has its class, parts and very tensors again."""
        layer = self.layer
        places: tuple[dict[str, Any], ...] = (layer._parameters, layer._buffers, layer._modules)
        for place, kept in zip(places, self.kept, strict=True):
            place.clear()
            place.update(kept)
        layer.__dict__.update(self.attributes)
        layer.__class__ = self.kind
