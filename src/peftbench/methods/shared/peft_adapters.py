"""The method whose delta an adapter of Hugging Face's PEFT is."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.methods.base import Method
from peftbench.methods.lora import LoRA


def method_of_adapter(rank: int, alpha: float, dropout: float, layers: Sequence[str]) -> tuple[str, str, Method]:
    """(name, import path of its class, method) of plain LoRA on the named linear layers."""
    method = LoRA(rank, alpha, dropout, tuple(layers))
    return "lora", f"{LoRA.__module__}.{LoRA.__qualname__}", method
