"""Late blocks that train from kept taps, ViT-S/16 at 224 pixels, batch 16, fp32, against our LoRA's live step."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from bench.tables import Row, memory_row, time_row
from bench.timing import seconds_of

BATCH = 16
FORMS = {"DTL": ("dtl", 0.55), "DTL+": ("dtl_plus", 0.55), "the last block (partial)": ("partial", 0.55)}


def _step(name: str) -> str:
    return f"{name} step from kept taps, ViT-S/16, fp32, our LoRA's step"


def _saved(name: str) -> str:
    return f"{name}, bytes saved for backward from kept taps, our LoRA's"


def names() -> list[str]:
    return [row for name in FORMS for row in (_step(name), _saved(name))]


def measure(quick: bool = False) -> list[Row]:
    """`quick` takes batches of two."""
    import torch

    from bench.models import adapted_model, random_config

    rounds, count = (1, 2) if quick else (5, BATCH)
    images, labels = torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8), torch.randint(0, 10, (count,))
    models = {"lora": adapted_model(random_config("backbone=vit_s", "method=lora"))}
    kept: dict[str, Any] = {"lora": None}
    for name, (method, _) in FORMS.items():
        models[name] = adapted_model(random_config("backbone=vit_s", f"method={method}"))
        if why := models[name].start_behind_prefix(method.startswith("dtl")):
            raise RuntimeError(why)
        kept[name] = models[name].frozen(images)
    steps = {name: _stepped(model.train(), (images, labels), kept[name]) for name, model in models.items()}
    times, saved = (
        defaultdict(list),
        {name: _saved_bytes(models[name], (images, labels), kept[name]) for name in models},
    )
    for i in range(rounds + 1):  # interleaved; the first round warms up
        for name, step in steps.items():
            seconds = seconds_of(step)
            if i > 0:
                times[name].append(seconds)
    middle = {name: statistics.median(values) for name, values in times.items()}
    rows = []
    for name, (_, limit) in FORMS.items():
        rows.append(time_row(_step(name), middle[name], middle["lora"], limit))
        rows.append(memory_row(_saved(name), saved[name], saved["lora"]))
    return rows


def _stepped(model: Any, batch: Any, kept: Any) -> Callable[[], None]:
    from bench.models import fused_adamw

    optimizer = fused_adamw([p for _, p in model.trainable()])

    def step() -> None:
        loss = model.loss(batch, kept)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _saved_bytes(model: Any, batch: Any, kept: Any) -> int:
    from peftbench.costs import SavedBytes

    meter = SavedBytes(model)
    with meter.counting():
        model.loss(batch, kept)
    return meter.total
