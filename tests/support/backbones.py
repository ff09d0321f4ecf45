"""Small backbones for tests; what many tests build alike is built once in a process, and each gets a copy."""

from __future__ import annotations

import copy
from typing import Any

import torch

import peftbench
from peftbench import backbones, config
from peftbench.backbones.backbone import Backbone
from peftbench.backbones.facts import Size
from peftbench.methods.base import Method, Plan
from peftbench.runs.build import instantiate


def spec(name: str, args: dict[str, Any] | None = None, **more: Any) -> config.Backbone:
    return config.Backbone(name=name, args=args or {}, pretrained=False, **more)


# Pretrained: with random weights timm starts the last norm of a residual branch at zero, and its inside is dead.
SMALL = {
    "vit": config.Backbone(
        "vit_tiny_patch16_224", args={"img_size": 32, "depth": 2, "embed_dim": 48}, pretrained=False
    ),
    "cnn": peftbench.compose("backbone=resnet_nano").backbone,
    "hybrid": peftbench.compose("backbone=hybrid_nano").backbone,
}

REFUSES = {
    "houlsby": ("cnn", "hybrid"),
    "repadapter": ("cnn",),
    "convpass": ("cnn",),
    "fact": ("cnn", "hybrid"),
    "fact_tk": ("cnn", "hybrid"),
    "vpt": ("cnn", "hybrid"),
    "vpt_shallow": ("cnn", "hybrid"),
    "apla": ("cnn",),
    "dtl": ("cnn", "hybrid"),
    "dtl_plus": ("cnn", "hybrid"),
}
"""The families, as in `SMALL`, that a method refuses."""
OTHER_NAMES = {
    *("adaptformer", "adapter_plus", "houlsby", "pfeiffer", "fact_tk", "ln_tune", "apla", "dtl_plus"),
    "vpt_shallow",
    *("dora", "rslora", "pissa", "olora", "lora_plus", "pace"),
}
"""Names of a class that another name stands for where each test of a method costs."""
DEAR = OTHER_NAMES | {
    *("adapter", "repadapter", "convpass", "mona", "ssf", "gps", "fact", "attentive", "mlp", "partial", "dtl"),
}
"""Methods of which the tests beside a ViT, and those of detectors, are slow ones."""

_built: dict[str, tuple[Backbone, torch.Tensor]] = {}
_on_meta: dict[str, Backbone] = {}
_composed: dict[tuple[str, ...], config.Config] = {}


def with_weights(spec: config.Backbone, size: Size | None = None) -> Backbone:
    """`backbones.build_with_weights` after `torch.manual_seed(0)`; torch's random state is as if it had been built."""
    key = repr((spec, size))
    if key not in _built:
        torch.manual_seed(0)
        _built[key] = backbones.build_with_weights(spec, size), torch.get_rng_state()
    backbone, state = _built[key]
    torch.set_rng_state(state)
    return copy.deepcopy(backbone)


def on_meta(spec: config.Backbone, size: Size | None = None) -> Backbone:
    """`backbones.build_on_meta`."""
    key = repr((spec, size))
    if key not in _on_meta:
        _on_meta[key] = backbones.build_on_meta(spec, size)
    return copy.deepcopy(_on_meta[key])


def composed(*words: str) -> config.Config:
    """`peftbench.compose`."""
    if words not in _composed:
        _composed[words] = peftbench.compose(*words)
    return copy.deepcopy(_composed[words])


def method(name: str, *words: str) -> Method:
    """The method that a config with these words describes."""
    return instantiate(composed(f"method={name}", *words).method)


def parameters(method: Method, backbone: Backbone) -> int:
    """What `peftbench.count_parameters` counts, for a method and a copy of a backbone that are there."""
    method.check(backbone)
    side = method.adapt(backbone, Plan())
    trained = [*backbone.parameters(), *(side.parameters() if side is not None else ())]
    return sum(p.numel() for p in trained if p.requires_grad)
