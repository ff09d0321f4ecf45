"""How far each parameter lies below the head, in timm's own count of a model's layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from timm.models._manipulate import group_with_matcher
from timm.optim._param_groups import auto_group_layers

from peftbench.backbones.backbone import Backbone

_PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.([^.]+)\..*$")


def layers_below_head(backbone: Backbone, names: Iterable[str]) -> dict[str, int]:
    """How many layers lie between a parameter and the head, counted as timm counts layers for its own layer decay.

    A model's `group_matcher` says which layer a parameter belongs to (stem, blocks, stages); a model without one is cut
    into groups of twelve tensors, as timm does. What a method added inside a module counts as the deepest of what that
    module was built with; what stands in none of the model's modules counts as the head does, which is our reading.

    Args:
        backbone: as built or adapted.
        names: of parameters in `backbone.net`, those that a method added included.

    Returns:
        name -> layers, 0 at the head's own level, 1 in the last block.
    """
    built = _built_layers(backbone)
    inside: dict[str, int] = {}
    for name, layers in built.items():
        while name := name.rpartition(".")[0]:
            inside[name] = min(layers, inside.get(name, layers))
    return {name: _layers_of(name, built, inside) for name in names}


@dataclass(frozen=True)
class Blocks:
    """Where the parameters of a model stand, by timm's own count of its blocks, or of its stages.

    Attributes:
        count: how many there are.
        of: the name of a parameter in the net -> its block, from 1 on; 0 for the stem, `count` + 1 for what stands
            behind the last one and belongs to none. A last norm may be counted with the last block.
    """

    count: int
    of: Mapping[str, int]


def numbered_blocks(backbone: Backbone, stages: bool = False) -> Blocks | None:
    """The blocks (or `stages`) of a model as built; None where timm does not name them."""
    if not hasattr(backbone.net, "group_matcher"):
        return None
    numbers, top = _numbers(backbone, coarse=stages)
    return Blocks(top - 1, numbers)


def _built_layers(backbone: Backbone) -> dict[str, int]:
    """Of the parameters that the model was built with; the classifier, which it is without, is at the top."""
    numbers, top = _numbers(backbone, coarse=False)
    return {name: top - number for name, number in numbers.items()}


def _numbers(backbone: Backbone, coarse: bool) -> tuple[dict[str, int], int]:
    """The number of the layer of each parameter that the model was built with, from 0 on, and that of the classifier.

    `coarse` counts whole stages.
    """
    net, classifier = backbone.net, f"{(*backbone.classifiers, 'head')[0]}.weight"
    named = [(name, None) for name in (*backbone.built, classifier)]
    if hasattr(net, "group_matcher"):
        layers = group_with_matcher(iter(named), net.group_matcher(coarse=coarse), reverse=True)
    else:
        listed: Any = SimpleNamespace(named_parameters=lambda: named, pretrained_cfg=net.pretrained_cfg)
        layers = auto_group_layers(listed)
    return {name: layers[name] for name in backbone.built if name in layers}, max(layers.values())


def _layers_of(name: str, built: dict[str, int], inside: dict[str, int]) -> int:
    name = _PARAMETRIZED.sub(r"\1\2", name)
    if name in built:
        return built[name]
    while name := name.rpartition(".")[0]:
        if name in inside:
            return inside[name]
    return 0
