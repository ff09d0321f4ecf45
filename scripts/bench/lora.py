"""The forms of LoRA against plain LoRA of the same rank: a training step, and the bytes that it keeps for backward."""

from __future__ import annotations

from bench.tables import Row, memory_row
from bench.timing import interleaved_row

FORMS = {"dora": "DoRA", "rslora": "rsLoRA", "pissa": "PiSSA", "olora": "OLoRA", "lora_plus": "LoRA+"}


def _step(form: str) -> str:
    return f"training step, ViT-S/16, batch 16, fp32, rank 8: {form}, LoRA"


def _memory(form: str) -> str:
    return f"bytes saved for backward, ViT-S/16, batch 16, rank 8: {form}, LoRA"


def names() -> list[str]:
    return [what(form) for form in FORMS.values() for what in (_step, _memory)]


def measure(quick: bool = False) -> list[Row]:
    import torch

    from bench.models import adapted_model, fused_adamw, random_config, training_step
    from peftbench.costs import SavedBytes

    batch = torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8), torch.arange(16) % 10
    rows, steps, saved = [], {}, {}
    for name in ("lora", *FORMS):
        model = adapted_model(random_config("backbone=vit_s", f"method={name}")).train()
        steps[name] = training_step(model, fused_adamw(model.trainable()), lambda m: m.loss(batch))
        meter = SavedBytes(model)
        with meter.counting():
            model.loss(batch)
        saved[name] = meter.total
    for name, shown in FORMS.items():
        rows.append(interleaved_row(_step(shown), steps[name], steps["lora"], 1 if quick else 7, 1.25))
        rows.append(memory_row(_memory(shown), saved[name], saved["lora"], None))
    return rows
