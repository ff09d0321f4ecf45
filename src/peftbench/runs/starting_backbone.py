"""The backbone that a run starts from: built, pruned where the config asks for it, and kept as a file of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from peftbench import backbones, pruning
from peftbench.common.errors import Refusal, UserError
from peftbench.common.seeds import mix
from peftbench.config import Config
from peftbench.methods.base import Method
from peftbench.pruning.scores import TAYLOR_IMAGES
from peftbench.runs.data_sets import mistakes_of
from peftbench.runs.latency_pruning import place_of, pruned_to_latency
from peftbench.runs.pruning_images import image_files, normalised
from peftbench.tasks.base import task_class


def input_size(config: Config) -> backbones.Size | None:
    """The input size that the backbone is built for, None for its own; each task has a say in it."""
    return task_class(config.task).input_size(config)


def build_on_meta(config: Config, method: Method) -> backbones.Backbone:
    """The backbone on the meta device, pruned: its shapes are those of the run. Raises Refusal."""
    backbone = pruning.prune(backbones.build_on_meta(config.backbone, input_size(config)), config.pruning)
    return choose_merging(_quantized(backbone, config), config, method)


def _quantized(backbone: backbones.Backbone, config: Config) -> backbones.Backbone:
    form = config.backbone.quantize
    return backbone if form is None else backbones.quantize(backbone, form)


def build_starting_backbone(
    config: Config, method: Method, tell: Callable[[str], None] = lambda text: None
) -> backbones.Backbone:
    """The backbone with its weights, pruned. `tell` is given what the user should know of it.

    Raises:
        UserError: as `backbones.build_with_weights`, and of the images that pruning looks at.
    """
    torch.manual_seed(mix(config.seed, 1))  # of a backbone that starts from random weights
    source = config.backbone
    task = task_class(config.task)
    with mistakes_of("weights"):
        start_file = task.start_file(config.task, source)
    if start_file is not None:  # the backbone is in the same file
        source = replace(source, weights=str(start_file), pretrained=True)
    with mistakes_of("weights"):
        try:
            backbone = backbones.build_with_weights(source, input_size(config))
        except UserError as problem:
            if start_file is None:
                raise
            raise type(problem)(str(problem).replace("backbone.weights=", "task.weights=")) from None
    if start_file is not None:
        task.settle(backbone, start_file)
    spec, whole = config.pruning, backbone.facts.parameters
    if spec.name == "none" or backbone.masks or backbone.kept:  # the file of the pruned one was given
        return choose_merging(_quantized(backbone, config), config, method)
    if spec.latency is not None:
        return choose_merging(pruned_to_latency(backbone, config, source, input_size(config), tell), config, method)
    images = None
    if spec.criterion == "taylor":
        images = normalised(image_files(spec.images, TAYLOR_IMAGES), backbone)
    pruned = choose_merging(pruning.prune(backbone, spec, images), config, method)
    if spec.name == "structured":
        tell(
            f"pruning=structured: {whole - pruned.facts.parameters:,} of the backbone's {whole:,} parameters are taken "
            f"out (pruning=none leaves it whole)"
        )
    else:
        tell(
            f"pruning=unstructured: {pruning.sparsity(pruned):.0%} of the backbone's weights are zero; merging is "
            f"{pruned.merging} (pruning=none leaves it whole)"
        )
    return pruned


def choose_merging(backbone: backbones.Backbone, config: Config, method: Method) -> backbones.Backbone:
    """The backbone, which now knows how a run's updates are merged. Raises Refusal where the method cannot do so.

    Updates of a quantized backbone stay beside its codes; those of a pruned one follow `pruning.merge`.
    """
    if backbone.quantized:
        backbone.merging = "unmerged"
    if not backbone.masks:
        return backbone
    merges = method.merges
    wanted = config.pruning.merge
    if wanted != "auto" and wanted not in merges:
        raise Refusal(
            f"pruning.merge={wanted}: method={config.method.name} can leave a pruned backbone {' or '.join(merges)}; "
            f"leave pruning.merge out, or take method=petah, which can do all three."
        )
    backbone.merging = merges[0] if wanted == "auto" else wanted
    return backbone


def keep_pruned_file(backbone: backbones.Backbone, config: Config) -> Path:
    """The file of a pruned backbone, which all tasks share; written where it is not there yet, or is not whole."""
    path = place_of(backbone, config)
    if not pruning.is_saved(backbone, path):
        pruning.save_pruned(backbone, path)
    return path


def pruning_stamp(backbone: backbones.Backbone, config: Config) -> dict[str, Any]:
    """What a record says of pruning; nothing of a whole backbone."""
    if not backbone.masks and not backbone.kept:
        return {}
    if backbone.masks:
        zeros = {n: int((~m).sum()) for n, m in backbone.masks.items()}
        changes = {
            "mask": pruning.mask_hash(backbone.masks),
            "zeros": sum(zeros.values()),
            "of": sum(m.numel() for m in backbone.masks.values()),
            "merge": backbone.merging,
        }
    else:
        changes = {"kept": json.loads(json.dumps(backbone.kept))}
    return {**backbone.pruned, "origin": backbone.origin, **changes}


def quantize_stamp(backbone: backbones.Backbone) -> dict[str, Any]:
    """What a record says of weights in few bits; nothing of plain ones. `bytes`: of codes and scales, `of` whole ones.

    Both are of the weights of convolutions and linear layers.
    """
    if not backbone.quantized:
        return {}
    few, whole = backbones.bytes_of_weights(backbone)
    library = {"torchao": version("torchao")} if backbones.coded_by_torchao(backbone) else {}
    return {"form": backbone.quantized, "origin": backbone.origin, "bytes": few, "of": whole, **library}
