"""Methods that send a gradient through the whole backbone, against LoRA, and SPD against AdamW; ViT-S/16.

None has a limit: each row names what its cost is counted from.
"""

from __future__ import annotations

from bench.tables import Row, memory_row, seconds
from bench.timing import interleaved

METHODS = {
    "ssf": "SSF (each layer's output is kept and scaled), LoRA of rank 8",
    "fact": "FacT (three narrow products a layer, LoRA has two), LoRA of rank 8",
    "gps": "GPS (each layer's gradient of its whole weight, of which an entry a row is taken), LoRA of rank 8",
    "vpt": "VPT (ten more tokens in each block, none of LoRA's narrow products), LoRA of rank 8",
    "apla": "APLA (of each block the gradient of one matrix of twelve parts), LoRA of rank 8",
    "ln_tune": "the norms alone (no gradient of a matrix), LoRA of rank 8",
}
SPD = "training step, ViT-S/16, batch 16: full under SPD (two more passes over the weights), fused AdamW"


def _step(method: str) -> str:
    return f"training step, ViT-S/16, batch 16: {METHODS[method]}"


def _kept(method: str) -> str:
    return f"kept for backward, ViT-S/16, batch 16: {METHODS[method]}"


def names() -> list[str]:
    return [*(what(method) for method in METHODS for what in (_step, _kept)), SPD]


def measure(quick: bool = False) -> list[Row]:
    import torch

    from bench.models import adapted_model, fused_adamw, random_config, training_step
    from peftbench.costs import SavedBytes
    from peftbench.optim import SPD as Decayed

    rounds = 1 if quick else 5
    batch = torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8), torch.arange(16) % 10

    def model_of(method: str) -> torch.nn.Module:
        looks = {"batches": [batch]} if method == "gps" else {}
        return adapted_model(random_config("backbone=vit_s", f"method={method}"), **looks).train()

    models = {method: model_of(method) for method in (*METHODS, "lora")}
    steps = {
        name: training_step(model, fused_adamw(model.trainable()), lambda m: m.loss(batch))
        for name, model in models.items()
    }
    kept = {}
    for name, model in models.items():
        meter = SavedBytes(model)
        with meter.counting():
            model.loss(batch)
        kept[name] = meter.total
    rows = []
    for method in METHODS:
        rows.append(_without_limit(_step(method), *interleaved(steps[method], steps["lora"], rounds)))
        rows.append(memory_row(_kept(method), kept[method], kept["lora"]))
    del models, steps
    decayed, plain = model_of("full"), model_of("full")
    pair = [
        training_step(decayed, Decayed(fused_adamw(decayed.trainable())), lambda m: m.loss(batch)),
        training_step(plain, fused_adamw(plain.trainable()), lambda m: m.loss(batch)),
    ]
    rows.append(_without_limit(SPD, *interleaved(*pair, rounds)))
    return rows


def _without_limit(what: str, ours: float, peer: float) -> Row:
    return Row(what, seconds(ours), seconds(peer), f"{ours / peer:.2f}")
