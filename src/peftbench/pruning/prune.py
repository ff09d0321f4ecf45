"""Pruning as a config asks for it, and the pruned backbone as a file of its own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from torch import Tensor

from peftbench import config
from peftbench.backbones import Backbone
from peftbench.backbones.channels import attention_heads, hidden_channels
from peftbench.backbones.weights import PRUNED
from peftbench.common.errors import Refusal, UserError
from peftbench.common.sealed_file import check_seal, read_tensors, sealed, write_tensors
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
    if spec.name == "structured" and (spec.ratio or spec.target) and not hidden_channels(backbone):
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

    `criterion: taylor` looks at `images` (N, 3, H, W), normalised. On the meta device only shapes change; not those of
    a latency, which nobody knows before it is measured: the backbone stays whole there.

    Raises:
        Refusal: as `refuse_unprunable`.
    """
    refuse_unprunable(backbone, spec)
    if spec.name == "none" or spec.latency is not None:
        assert spec.latency is None or backbone.on_meta, "`prune_to_latency` prunes weights to a latency"
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
    """Writes a pruned backbone to a sealed file that `backbone.weights=<path>` takes, on the same timm model.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    about = {
        "format": PRUNED,
        "name": backbone.facts.name,
        "fingerprint": backbone.fingerprint,
        "kept": json.dumps(backbone.kept),
        "masked": json.dumps(sorted(backbone.masks)),
        "pruned": json.dumps(backbone.pruned),
        "origin": backbone.origin,
    }
    state = dict(backbone.net.state_dict())
    write_tensors(path, state, sealed(state, about))


def is_saved(backbone: Backbone, path: Path) -> bool:
    """Whether `path` is a whole and sealed file of this pruned backbone."""
    try:
        tensors, about = read_tensors(path)
        return (
            "pruned" in about and about.get("fingerprint") == backbone.fingerprint and check_seal(path, tensors, about)
        )
    except UserError:
        return False
