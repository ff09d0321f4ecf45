"""SPT: scoring against as many passes, steps and memory against LoRA of equal budget; random weights."""

from __future__ import annotations

from bench.tables import Row, memory_row
from bench.timing import interleaved_row

SCORING = "scoring, ViT-S/16, 2 batches of 8: as many passes"
ARMS = {"spt": "SPT (LoRA and entries)", "spt_sparse": "SPT, entries alone"}
BUDGET = 442_368
"""The parameters of LoRA of rank 3 on every linear layer of ViT-B: the nearest to 0.4 M."""


def _step(arm: str) -> str:
    return f"training step, ViT-B/16, batch 4, 0.44 M: {arm}, LoRA of rank 3"


def _memory(arm: str) -> str:
    return f"memory of a step (weights, states, kept for backward), batch 16, same: {arm}, LoRA of rank 3"


def names() -> list[str]:
    return [SCORING, *(what(arm) for arm in ARMS.values() for what in (_step, _memory))]


def measure(quick: bool = False) -> list[Row]:
    import torch

    from bench.models import adapted_model, fused_adamw, plain_model, random_config, training_step
    from peftbench.costs import SavedBytes
    from peftbench.methods.spt import sensitivity

    rounds = 1 if quick else 7
    batch = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8), torch.arange(8)
    vit_s = random_config("backbone=vit_s")
    scored, passed = plain_model(vit_s).train(), plain_model(vit_s).eval()

    def passes() -> None:
        for _ in range(2):
            passed.zero_grad()
            passed.loss(batch).backward()

    def score() -> None:
        sensitivity(scored, [batch] * 2, lambda model, b: model.loss(b), unreached="skip")

    rows = [interleaved_row(SCORING, score, passes, rounds, 1.10)]
    small = batch[0][:4], batch[1][:4]
    large = torch.cat([batch[0]] * 2), torch.cat([batch[1]] * 2)
    arms = {
        name: adapted_model(
            random_config("backbone=vit_b", f"method={name}", f"method.budget={BUDGET}"), batches=[small] * 2
        )
        for name in ARMS
    }
    arms["lora"] = adapted_model(random_config("backbone=vit_b", "method=lora", "method.rank=3"))
    steps, memory = {}, {}
    for name, model in arms.items():
        model.train()
        named = model.trainable()
        steps[name] = training_step(model, fused_adamw(named), lambda m: m.loss(small))
        meter = SavedBytes(model)
        with meter.counting():
            model.loss(large)
        weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
        gradient_and_moments = 3 * sum(4 * p.numel() for _, p in named)
        memory[name] = meter.total + weights + gradient_and_moments
    for name, shown in ARMS.items():
        rows.append(interleaved_row(_step(shown), steps[name], steps["lora"], rounds, 1.10))
        limit = 1.0 if name == "spt_sparse" else None
        rows.append(memory_row(_memory(shown), memory[name], memory["lora"], limit, digits=3))
    return rows
