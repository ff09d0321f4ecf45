"""Pruning as a config asks for it, and the pruned backbone as a file of its own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from peftbench import config
from peftbench.backbones import Backbone
from peftbench.backbones.channels import attention_heads, hidden_channels
from peftbench.common.errors import Refusal
from peftbench.pruning.masks import prunable, zero_lowest
from peftbench.pruning.scores import magnitude_scores, taylor_scores
from peftbench.pruning.structured import remove_parts


def refuse_unprunable(backbone: Backbone, spec: config.Pruning) -> None:
    """Refuses a backbone that has nothing to prune as `spec` says, or that is pruned already.

    Raises:
        Refusal: why, and what would work.
    """
    if spec.name == "none":
        return
    if backbone.masks or backbone.kept:
        raise Refusal(f"pruning={spec.name}: the weights given are of a pruned backbone; give pruning=none.")
    if spec.name == "structured" and spec.ratio and not hidden_channels(backbone):
        raise Refusal(
            f"pruning=structured: no block of {backbone.facts.name} has hidden channels that nothing else reads; "
            f"pruning=unstructured works on any backbone."
        )
    if spec.heads and not attention_heads(backbone):
        raise Refusal(
            f"pruning.heads={spec.heads:g}: {backbone.facts.name} has no attention whose heads can be taken out; give "
            f"pruning.heads=0."
        )


def prune(backbone: Backbone, spec: config.Pruning, images: Tensor | None = None) -> Backbone:
    """The pruned backbone, with facts and a fingerprint of its own; the one given is used up.

    `criterion: taylor` looks at `images` (N, 3, H, W), normalised. On the meta device only shapes change.

    Raises:
        Refusal: as `refuse_unprunable`.
    """
    refuse_unprunable(backbone, spec)
    if spec.name == "none":
        return backbone
    score = (
        magnitude_scores
        if spec.criterion == "magnitude" or images is None
        else partial(taylor_scores, backbone, images=images)
    )
    net, facts = backbone.net, backbone.facts
    origin = "" if backbone.on_meta else backbone.fingerprint
    kept: dict[str, dict[str, int]] = {}
    if spec.name == "structured":
        kept = remove_parts(backbone, spec.ratio, spec.round_to, spec.heads, score)
    elif not backbone.on_meta:
        zero_lowest(backbone, score(prunable(backbone)), spec.ratio, spec.scope)
    pruned = Backbone(net, facts.name, facts.family, facts.input_size)
    pruned.kept, pruned.origin, pruned.pruned = kept, origin, {"name": spec.name, "ratio": spec.ratio}
    if spec.name == "unstructured":
        pruned.masks = {n: p.detach() != 0 for n, p in prunable(pruned).items()}
    return pruned


def save_pruned(backbone: Backbone, path: Path) -> None:
    """Writes a pruned backbone to a file that `backbone.weights=<path>` takes, on the same timm model."""
    about = {
        "format": "peftbench-backbone-1",
        "name": backbone.facts.name,
        "fingerprint": backbone.fingerprint,
        "kept": json.dumps(backbone.kept),
        "masked": json.dumps(sorted(backbone.masks)),
        "pruned": json.dumps(backbone.pruned),
        "origin": backbone.origin,
    }
    state = {n: t.contiguous().clone() for n, t in backbone.net.state_dict().items()}
    safetensors.torch.save_file(state, path, metadata=about)


def is_saved(backbone: Backbone, path: Path) -> bool:
    """Whether `path` is a whole file of this pruned backbone."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:  # which compares its length with what it says
            about = file.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return False
    return "pruned" in about and about.get("fingerprint") == backbone.fingerprint
