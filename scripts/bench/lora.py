"""The forms of LoRA against plain LoRA of the same rank: a training step, and the bytes that it keeps for backward."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from bench.tables import Row, memory_row
from bench.timing import interleaved_row

FORMS = {"dora": "DoRA", "rslora": "rsLoRA", "pissa": "PiSSA", "olora": "OLoRA", "lora_plus": "LoRA+"}
PACE = {"pace": "PACE", "pace every 4": "PACE on half a batch every fourth step"}
LIMITS = dict.fromkeys(FORMS, 1.25) | {"pace": 2.1, "pace every 4": 1.25}


def _step(form: str) -> str:
    return f"training step, ViT-S/16, batch 16, fp32, rank 8: {form}, LoRA"


def _memory(form: str) -> str:
    return f"bytes saved for backward, ViT-S/16, batch 16, rank 8: {form}, LoRA"


def names() -> list[str]:
    return [what(form) for form in (FORMS | PACE).values() for what in (_step, _memory)]


def measure(quick: bool = False) -> list[Row]:
    import torch

    from bench.models import adapted_model, fused_adamw, random_config, training_step
    from peftbench.costs import SavedBytes
    from peftbench.runs.build import instantiate
    from peftbench.training.consistency import Consistency

    batch = torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8), torch.arange(16) % 10

    def made(name: str) -> tuple[Callable[[], object], int]:
        """A step of a method, of PACE four where it takes turns, and the most bytes that one keeps."""
        method, _, every = name.partition(" every ")
        words = ["backbone=vit_s", f"method={method}", *([f"trainer.consistency_every={every}"] if every else [])]
        config = random_config(*words)
        model = adapted_model(config).train()
        loss: Callable[[Any], torch.Tensor] = lambda m: m.loss(batch)  # noqa: E731
        if config.trainer.consistency:
            pace, steps = Consistency(model, instantiate(config.method), config.trainer), count()
            loss = lambda m: pace.loss(batch, next(steps), 0)  # noqa: E731
        meter, most = SavedBytes(model), 0
        for _ in range(int(every or 1)):
            with meter.counting():
                loss(model)
            most = max(most, meter.total)
        return training_step(model, fused_adamw(model.trainable()), loss), most

    rows = []
    plain, kept = made("lora")
    for name, shown in (FORMS | PACE).items():
        step, saved = made(name)  # one form at a time is in memory
        turns = int(name.partition(" every ")[2] or 1)
        ours, peer = (_repeated(one, turns) for one in (step, plain))
        rows.append(interleaved_row(_step(shown), ours, peer, 1 if quick else 5, LIMITS[name]))
        rows.append(memory_row(_memory(shown), saved, kept, None))
    return rows


def _repeated(step: Callable[[], object], turns: int) -> Callable[[], object]:
    def steps() -> None:
        for _ in range(turns):
            step()

    return steps
