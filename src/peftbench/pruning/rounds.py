"""Pruning to a latency, in rounds: some channels and heads go, and the rest learns to do without them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from peftbench import config
from peftbench.backbones import Backbone
from peftbench.backbones.channels import Channels, Heads
from peftbench.pruning.by_latency import Chosen, Counts, choose_counts, sensitivity, split
from peftbench.pruning.layer_times import Part, parts_of
from peftbench.pruning.recovery import recover
from peftbench.pruning.scores import TAYLOR_IMAGES, magnitude_scores, taylor_scores
from peftbench.pruning.structured import Score, keep_best, worth_of


def prune_to_latency(
    backbone: Backbone,
    spec: config.Pruning,
    images: Tensor,
    device: torch.device,
    doing: Callable[[str], None] = lambda what: None,
) -> Backbone:
    """The pruned backbone, with a fingerprint of its own; the one given is used up.

    Args:
        backbone: whole, on the CPU.
        spec: its target, rounds and steps of recovery.
        images: normalised, (N, 3, H, W), without labels.
        device: where recovery is computed. Latency is measured on this machine's processor.
        doing: is told what takes time now.

    Raises:
        UserError: as `choose_counts` and `recover`.
        Refusal: as `choose_counts`.
    """
    assert spec.latency is not None
    origin = backbone.fingerprint
    doing("measuring layers")
    parts = parts_of(backbone, spec.round_to)
    worth = _worth(backbone, parts, spec, images)
    weights = sensitivity(backbone, parts, worth, images)
    chosen = choose_counts(backbone, worth, weights, spec.latency, spec.round_to, spec.runtime)

    whole, pruned = _copied(backbone), backbone
    generator = torch.Generator().manual_seed(0)
    for number in range(1, spec.rounds + 1):
        doing(f"pruning, round {number} of {spec.rounds}")
        counts = _of_round(parts, chosen.counts, number / spec.rounds, spec.round_to)
        channels, heads = split(parts, counts)
        keep_best(pruned, channels, heads, _score(pruned, spec, images))
        pruned = _wrapped(pruned)
        steps = spec.recovery * number // spec.rounds - spec.recovery * (number - 1) // spec.rounds
        recover(pruned, whole, images, steps, generator, device)
    pruned = _wrapped(pruned)  # whose fingerprint is of the weights as they are now
    channels, heads = split(parts, chosen.counts)
    pruned.kept, pruned.origin = {"channels": channels, "heads": heads}, origin
    pruned.pruned = {"name": spec.name, "target": spec.target, "runtime": spec.runtime, "latency": _told(chosen)}
    return pruned


def _told(chosen: Chosen) -> dict[str, float]:
    return {"share": round(chosen.share, 4), "seconds": chosen.seconds, "whole": chosen.whole}


def _worth(backbone: Backbone, parts: list[Part], spec: config.Pruning, images: Tensor) -> dict[str, Tensor]:
    groups = [p.what for p in parts if isinstance(p.what, Channels)]
    attentions = [p.what for p in parts if isinstance(p.what, Heads)]
    return worth_of(backbone, groups, attentions, _score(backbone, spec, images))


def _score(backbone: Backbone, spec: config.Pruning, images: Tensor) -> Score:
    if spec.criterion == "magnitude":
        return magnitude_scores
    return partial(taylor_scores, backbone, images=images[:TAYLOR_IMAGES])


def _of_round(parts: list[Part], last: Counts, share: float, round_to: int) -> Counts:
    """What each part keeps after this share of the rounds: as far on its way to the last count."""
    counts = {}
    for part in parts:
        step = round_to if isinstance(part.what, Channels) else 1
        way = part.what.count - share * (part.what.count - last[part.name])
        counts[part.name] = last[part.name] if share == 1 else max(last[part.name], round(way / step) * step)
        counts[part.name] = min(counts[part.name], part.what.count)
    return counts


def _copied(backbone: Backbone) -> Backbone:
    facts = backbone.facts
    return Backbone(copy.deepcopy(backbone.net), facts.name, facts.family, facts.input_size)


def _wrapped(backbone: Backbone) -> Backbone:
    facts = backbone.facts
    return Backbone(backbone.net, facts.name, facts.family, facts.input_size)
