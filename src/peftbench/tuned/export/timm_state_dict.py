"""The tuned model as a state dict of timm's own model, with its classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from peftbench import backbones
from peftbench.common.errors import Refusal
from peftbench.tuned.export.graph import Sample
from peftbench.tuned.load import Tuned


def to_state_dict(tuned: Tuned, sample: Sample, path: Path, told: Mapping[str, str]) -> float:
    """Writes what `timm.create_model(**create)` loads; the file's metadata hold `create`.

    Returns how far the logits of that model are from the tuned model's.

    Raises:
        Refusal: the tuned model is more than a plain timm model, or timm's has another kind of classifier.
    """
    spec, model = tuned.run.config, tuned.model
    name, method = spec.backbone.name, spec.method.name
    instead = "format=onnx and format=torch_export hold it whole"
    if tuned.run.frames is not None:
        raise Refusal(f"format=safetensors: a timm model takes images, and this run is of clips; {instead}.")
    if any(True for p in (model.side or torch.nn.Module()).parameters()):
        raise Refusal(f"format=safetensors: method={method} has a side path, which a timm model has not; {instead}.")
    if model.backbone.kept:
        raise Refusal(
            f"format=safetensors: {name} was pruned, and timm's model of that name is whole; {instead}, and the pruned "
            f"backbone is a file of its own (docs/pruning.md)."
        )
    try:
        head = model.task.linear_head()
    except Refusal as problem:
        raise Refusal(
            f"format=safetensors: method={method}: {problem}, as a timm model's classifier is; {instead}."
        ) from None
    plain, arguments = backbones.with_classifier(spec.backbone, spec.data.size, len(tuned.classes))
    wanted = plain.state_dict()
    backbone = model.backbone.state_dict()
    state = {n.removeprefix("net."): t for n, t in backbone.items() if n.startswith("net.")}
    if model.backbone.merging == "unmerged" and not tuned.merged:
        raise Refusal(
            f"format=safetensors: the updates of this run stay beside the pruned weights (pruning.merge=unmerged); "
            f"merge=dense folds them in and loses the zeros; {instead}."
        )
    if foreign := [n for n in backbone if n.removeprefix("net.") not in wanted or not n.startswith("net.")]:
        raise Refusal(
            f"format=safetensors: method={method} adds {foreign[0]} to the backbone, which cannot be merged into a "
            f"timm model; {instead}."
        )
    for classifier in model.backbone.classifiers:
        for part, tensor in head.items():
            key = f"{classifier}.{part}"
            fits = key in wanted and wanted[key].numel() == tensor.numel()
            state[key] = tensor.view(wanted[key].shape) if fits else tensor  # a 1 x 1 convolution is a linear layer
    differing = sorted(set(state) ^ set(wanted)) or [n for n in wanted if wanted[n].shape != state[n].shape]
    if differing:
        raise Refusal(
            f"format=safetensors: timm's classifier of {name} is no single linear layer ({differing[0]}), so the head "
            f"cannot take its place; {instead}."
        )
    copies = {n: t.detach().contiguous().clone() for n, t in state.items()}
    safetensors.torch.save_file(copies, path, metadata={**told, "format": "pt", "create": json.dumps(arguments)})
    plain.load_state_dict(safetensors.torch.load_file(path))
    mean, std = model.mean / 255, model.std / 255

    def answer(images: Tensor) -> Tensor:
        return plain((images - mean) / std)

    return sample.difference(answer, "format=safetensors")
