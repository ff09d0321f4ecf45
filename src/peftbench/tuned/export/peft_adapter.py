"""A LoRA run as an adapter of Hugging Face's PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from peftbench import backbones
from peftbench.backbones.weight_reads import layers_read
from peftbench.common.errors import Refusal
from peftbench.deltas import peft_adapter
from peftbench.methods.shared.peft_adapters import as_adapter
from peftbench.tuned.export.graph import Sample
from peftbench.tuned.finished_run import FinishedRun
from peftbench.tuned.load import load


def to_adapter(
    run: FinishedRun, sample: Sample, folder: Path, told: Mapping[str, str], weights: str | Path | None
) -> float:
    """Writes the adapter of `timm.create_model(**create)`; the metadata of the adapter's tensors hold `create`.

    Returns how far the logits are from the model's when the adapter is read again.

    Raises:
        Refusal: another method than LoRA, a pruned backbone, or layers that PEFT cannot adapt.
    """
    spec = run.config
    name = spec.backbone.name
    if not run.method.peft_adapters:
        raise Refusal(
            f"format=peft: method={spec.method.name} is no LoRA of linear layers, which method=lora is; "
            f"format=onnx and format=torch_export hold any method."
        )
    if run.frames is not None:
        raise Refusal("format=peft: a timm model takes images, and this run is of clips; format=onnx holds it whole.")
    if run.record.stamps["backbone"].get("pruning"):  # on the whole weights it would compute something else, unnoticed
        raise Refusal(
            f"format=peft: {name} was pruned, and PEFT would put the adapter on timm's whole weights; format=onnx and "
            f"format=torch_export hold the pruned ones with it."
        )
    if beside := [n for n in run.tensors if n.startswith("task.") and not n.startswith("task.head.")]:
        raise Refusal(
            f"format=peft: task={spec.task.name} keeps {beside[0].removeprefix('task.')} besides its head, for which "
            f"PEFT's adapters have no place; format=onnx and format=torch_export hold the model."
        )
    if run.record.stamps["backbone"].get("quantize"):
        raise Refusal(
            "format=peft: the backbone was quantized, and PEFT would put the adapter on timm's plain weights; "
            "format=safetensors, onnx and torch_export hold the merged ones."
        )
    timm_model, arguments = backbones.with_classifier(spec.backbone, spec.data.size, len(run.classes))
    backbone = backbones.build_on_meta(spec.backbone, spec.data.size)
    others = _besides_the_head(timm_model, backbone)
    if others or not backbone.classifiers:
        which = others[0] if others else "it has none"
        raise Refusal(
            f"format=peft: the classifier of {name} is no single linear layer ({which}), so the head cannot take its "
            f"place; format=onnx and format=torch_export hold it whole."
        )
    if not any(isinstance(m, nn.Linear) for m in backbone.net.modules()):
        raise Refusal(
            f"format=peft: LoRA adapts convolutions of {name}, in another form than PEFT's; format=safetensors holds "
            f"the merged weights."
        )
    adapted = {n.removeprefix("backbone.net.").removesuffix(".lora_a") for n in run.tensors if n.endswith(".lora_a")}
    if read := sorted(adapted & layers_read(backbone)):
        how = "besides calling" if read[0] in backbone.facts.called else "instead of calling"
        raise Refusal(
            f"format=peft: {name} reads the weight of {read[0]} {how} the layer, and PEFT adapts calls; "
            f"format=safetensors holds the merged weights."
        )
    metadata = {**told, "create": json.dumps(arguments)}
    form, tensors = as_adapter(run.method, run.plan, run.tensors)
    peft_adapter.write_adapter(folder, tensors, form, name, backbone.classifiers, metadata)
    again = load(run, merge=False, weights=weights, adapter=folder)
    return sample.difference(lambda images: again((images * 255).round().to(torch.uint8)), "format=peft")


def _besides_the_head(timm_model: nn.Module, backbone: backbones.Backbone) -> list[str]:
    """The tensors of timm's model that are neither the backbone's nor a linear classifier's weight and bias."""
    linear = [c for c in backbone.classifiers if isinstance(timm_model.get_submodule(c), nn.Linear)]
    head = {f"{classifier}.{part}" for classifier in linear for part in ("weight", "bias")}
    return sorted(set(timm_model.state_dict()) - set(backbone.net.state_dict()) - head)
