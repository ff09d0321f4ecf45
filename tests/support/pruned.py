"""Backbones to prune, and what is left of them."""

import torch

import peftbench
from peftbench import config
from peftbench.pruning.masks import prunable


def of(name):
    return peftbench.compose(f"backbone={name}").backbone


def unstructured(ratio=0.5, **options):
    return config.Pruning("unstructured", ratio=ratio, **options)


def structured(ratio=0.5, **options):
    return config.Pruning("structured", ratio=ratio, **options)


def features(backbone, size=64):
    x = torch.linspace(-3, 3, 2 * 3 * size * size).sin().view(2, 3, size, size)
    with torch.no_grad():
        return backbone.pool(backbone.taps(x, (-1,))[0])


def zeros(backbone):
    return sum(int((p == 0).sum()) for p in prunable(backbone).values())
