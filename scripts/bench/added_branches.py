"""Adapters and other branches on blocks against our LoRA: a training step on ViT-S/16, in fp32."""

from __future__ import annotations

import functools
from collections.abc import Callable

from bench.tables import NOTHING, Row, memory_row, seconds
from bench.timing import interleaved

LIMIT = 1.25
LIMITED = ("adapter", "adaptformer", "adapter_plus", "pfeiffer", "houlsby")
FREE = {
    "repadapter": "as many products, none of them merged in training",
    "convpass": "and a convolution in each of two branches a block",
    "mona": "and four convolutions of 64 channels in each of two branches a block",
}
"""Method -> why its step has no limit."""
BATCH = 16


def _what(method: str) -> str:
    why = f"; {FREE[method]}" if method in FREE else ""
    return f"training step, ViT-S/16, batch {BATCH}: {method}, our LoRA{why}"


def _kept(method: str) -> str:
    return f"bytes saved for backward, ViT-S/16, batch {BATCH}: {method}, our LoRA"


def names() -> list[str]:
    return [what(method) for method in (*LIMITED, *FREE) for what in (_what, _kept)]


def measure(quick: bool = False) -> list[Row]:
    (lora, of_lora), rows = _step("lora"), []
    for method in (*LIMITED, *FREE):
        step, saved = _step(method)
        ours, peer = interleaved(step, lora, 1 if quick else 5)
        limit, kept = (f"{LIMIT:.2f}", ours <= LIMIT * peer) if method in LIMITED else (NOTHING, None)
        rows.append(Row(_what(method), seconds(ours), seconds(peer), f"{ours / peer:.2f}", limit, kept))
        rows.append(memory_row(_kept(method), saved, of_lora))
    return rows


@functools.cache
def _step(method: str) -> tuple[Callable[[], None], int]:
    """A call that makes one training step with this method, at its defaults, and the bytes that a step saves."""
    import torch

    from bench.models import adapted_model, fused_adamw, random_config, training_step
    from peftbench.costs import SavedBytes

    model = adapted_model(random_config("backbone=vit_s", f"method={method}", "data=digits"))
    meter = SavedBytes(model.train())
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.arange(BATCH) % 10

    def loss(net: torch.nn.Module) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(net(images), labels)

    with meter.counting():
        loss(model)
    return training_step(model, fused_adamw([p for p in model.parameters() if p.requires_grad]), loss), meter.total
