"""Structured pruning: hidden channels, and heads, that really go."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.backbones.channels import (
    Channels,
    Heads,
    attention_heads,
    hidden_channels,
    owned_parameters,
    shrink_backbone,
)

Score = Callable[[Mapping[str, nn.Parameter]], dict[str, Tensor]]


def remove_parts(
    backbone: Backbone, ratio: float, round_to: int, of_heads: float, score: Score
) -> dict[str, dict[str, int]]:
    """Takes out the share `ratio` of each block's hidden channels, and `of_heads` of each attention's heads.

    A group keeps the multiple of `round_to` nearest to its share, and at least `round_to`. A channel is worth the L2
    norm of the scores of all weights that it owns.

    Args:
        backbone: it is changed in place; on the meta device only shapes change.
        ratio: the share of hidden channels to take out; 0 leaves them.
        round_to: see above.
        of_heads: the share of heads to take out; 0 leaves them.
        score: a score for each weight, by the names and in the shapes of the parameters that it is given.

    Returns:
        How many are kept: `{"channels": {layer: count}, "heads": {attention: count}}`.
    """
    groups = [(g, _share(g.count, ratio, round_to)) for g in hidden_channels(backbone)] if ratio else []
    attentions = [(h, _share(h.count, of_heads, 1)) for h in attention_heads(backbone)] if of_heads else []
    return _removed(backbone, groups, attentions, score)


def keep_best(backbone: Backbone, channels: Mapping[str, int], heads: Mapping[str, int], score: Score) -> None:
    """Keeps so many channels of each group, by its first layer, and heads of each attention: those worth most."""
    groups = [(g, channels[g.first]) for g in hidden_channels(backbone) if g.first in channels]
    attentions = [(h, heads[h.module]) for h in attention_heads(backbone) if h.module in heads]
    _removed(backbone, groups, attentions, score)


def _removed(
    backbone: Backbone, groups: list[tuple[Channels, int]], attentions: list[tuple[Heads, int]], score: Score
) -> dict[str, dict[str, int]]:
    if backbone.on_meta:
        channels = {g.first: torch.arange(n) for g, n in groups if n < g.count}
        kept = {h.module: torch.arange(n) for h, n in attentions if n < h.count}
    else:
        channels, kept = _best(backbone, groups, attentions, score)
    shrink_backbone(backbone, channels, kept)
    return {
        "channels": {n: len(k) for n, k in channels.items()},
        "heads": {n: len(k) for n, k in kept.items()},
    }


def _share(count: int, ratio: float, round_to: int) -> int:
    return min(count, max(round_to, round(count * (1 - ratio) / round_to) * round_to))


def _best(
    backbone: Backbone, groups: list[tuple[Channels, int]], attentions: list[tuple[Heads, int]], score: Score
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The channels of each group that are worth most, by first layer, and so the heads, by attention."""
    counts = {g.first: n for g, n in groups} | {h.module: n for h, n in attentions}
    worth = worth_of(backbone, [g for g, n in groups if n < g.count], [h for h, n in attentions if n < h.count], score)
    best = {name: _highest(each, counts[name]) for name, each in worth.items()}
    return {g.first: best[g.first] for g, _ in groups if g.first in best}, {
        h.module: best[h.module] for h, _ in attentions if h.module in best
    }


def worth_of(backbone: Backbone, groups: list[Channels], attentions: list[Heads], score: Score) -> dict[str, Tensor]:
    """What each channel of a group is worth, by its first layer, and so each head, by its attention: (count,)."""
    net = backbone.net
    names = {id(p): n for n, p in net.named_parameters()}
    owned = {g.first: [(names[id(p)], dim) for p, dim in owned_parameters(net, g)] for g in groups}
    layers = {h.module: (f"{h.module}.qkv.weight", f"{h.module}.proj.weight") for h in attentions}
    wanted = {n for pairs in owned.values() for n, _ in pairs} | {n for pair in layers.values() for n in pair}
    scores = score({n: p for n, p in net.named_parameters() if n in wanted})
    worth = {}
    for first, pairs in owned.items():
        # Of each tensor that a group owns a part of, the channels come first: (channels, …).
        squares = [scores[n].square().movedim(dim, 0) for n, dim in pairs]
        worth[first] = torch.stack([s.flatten(1).sum(1) if s.ndim > 1 else s for s in squares]).sum(0)
    for head in attentions:
        qkv, proj = (scores[n].square() for n in layers[head.module])
        worth[head.module] = qkv[head.rows].flatten(1).sum(1) + proj.T[head.columns].flatten(1).sum(1)
    return worth


def _highest(worth: Tensor, count: int) -> Tensor:
    """The indices of the `count` highest, in order; among equals the last are kept."""
    return torch.sort(worth, stable=True).indices[-count:].sort().values
