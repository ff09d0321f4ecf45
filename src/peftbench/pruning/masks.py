"""Unstructured pruning: which weights are zero, and how they stay so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.backbones.layers import layers


def prunable(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The weights of convolutions and linear layers, but for the first layer and weights that are standardised."""
    after_the_first = layers(backbone)[1:]
    chosen = (layer for layer in after_the_first if "standardised" not in layer.fixed)
    return {f"{layer.name}.weight": cast(nn.Parameter, layer.weight) for layer in chosen}


def masks_of_lowest(scores: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Masks in the shapes of the scores: false on the round(ratio · N) lowest of all N scores, true on the others.

    Equal scores go in their order: a threshold alone would take more of them, or fewer.
    """
    flat = torch.cat([s.flatten() for s in scores.values()])
    count = round(ratio * flat.numel())
    keep = torch.ones(flat.numel(), dtype=torch.bool)
    if count:
        threshold = flat.kthvalue(count).values
        below = flat < threshold
        ties = (flat == threshold).nonzero()[:, 0][: count - int(below.sum())]
        keep[below] = False
        keep[ties] = False
    pieces = keep.split([s.numel() for s in scores.values()])
    return {n: p.view(s.shape) for (n, s), p in zip(scores.items(), pieces, strict=True)}


def zero_lowest(backbone: Backbone, scores: Mapping[str, Tensor], ratio: float, scope: str) -> None:
    """Sets the lowest weights to zero, of all (`scope="global"`) or of each layer (`"layer"`)."""
    if scope == "global":
        masks = masks_of_lowest(scores, ratio)
    else:
        masks = {name: masks_of_lowest({name: score}, ratio)[name] for name, score in scores.items()}
    with torch.no_grad():
        for name, parameter in prunable(backbone).items():
            parameter.mul_(masks[name])


def hold_zeros(backbone: Backbone) -> None:
    """Keeps the zeros of weights that train at zero, under momentum and weight decay too: their gradient is zero."""
    for name, parameter in backbone.net.named_parameters():
        if name in backbone.masks and parameter.requires_grad:
            parameter.register_hook(_Masking(backbone.masks[name]))


class _Masking:
    """Multiplies a gradient by a mask, which goes to the gradient's device with the first one and stays there.

    It is no buffer: several processes would send it to each other in every step.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, gradient: Tensor) -> Tensor:
        if self.mask.device != gradient.device:
            self.mask = self.mask.to(gradient.device)
        return gradient * self.mask


def mask_hash(masks: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and bits; the empty string where nothing is masked."""
    if not masks:
        return ""
    digest = hashlib.sha256()
    for name, mask in sorted(masks.items()):
        digest.update(f"{name} {tuple(mask.shape)}".encode() + mask.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def sparsity(backbone: Backbone) -> float:
    """The share of zeros among the weights that could be pruned, as they are now."""
    weights = list(prunable(backbone).values())
    return sum(int((w == 0).sum()) for w in weights) / max(sum(w.numel() for w in weights), 1)
