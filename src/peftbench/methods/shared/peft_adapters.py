"""The method whose delta an adapter of Hugging Face's PEFT is, and a delta of it as PEFT has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from peftbench.methods.base import Method, Plan
from peftbench.methods.lora import LoRA


@dataclass(frozen=True)
class AdapterForm:
    """PEFT's options of an adapter: `r`, `lora_alpha`, `lora_dropout`, `use_rslora` and `use_dora`."""

    rank: int
    alpha: float
    dropout: float
    rslora: bool = False
    dora: bool = False


def method_of_adapter(form: AdapterForm, layers: Sequence[str]) -> tuple[str, str, Method]:
    """(name, import path of its class, method) of LoRA on the named linear layers."""
    method = LoRA(form.rank, form.alpha, form.dropout, tuple(layers), form.rslora, form.dora)
    return "lora", f"{LoRA.__module__}.{LoRA.__qualname__}", method


def as_adapter(method: Method, plan: Plan, tensors: Mapping[str, Tensor]) -> tuple[AdapterForm, dict[str, Tensor]]:
    """A delta of a method with `peft_adapters`, and its form.

    Where factors count from what they began as, B A - B0 A0 is written as one product of twice the rank,
    [B, B0] [A; -A0], since PEFT has no place for A0 and B0.

    Args:
        method: the run's.
        plan: the run's; holds A0 and B0 where there are any.
        tensors: the delta.
    """
    lora = cast(LoRA, method)
    if not plan.tensors:
        return AdapterForm(lora.rank, lora.alpha, lora.dropout, lora.rslora, lora.dora), dict(tensors)
    whole = dict(tensors)
    for name, tensor in tensors.items():
        layer = name.removeprefix("backbone.net.")
        if layer.endswith(".lora_a"):
            whole[name] = torch.cat([tensor, -plan.tensors[f"{layer}0"]])
        elif layer.endswith(".lora_b"):
            whole[name] = torch.cat([tensor, plan.tensors[f"{layer}0"]], 1)
    rank = 2 * lora.rank
    return AdapterForm(rank, lora.scale * rank, lora.dropout, dora=lora.dora), whole
