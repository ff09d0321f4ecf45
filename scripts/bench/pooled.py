"""Probes with features of their own, on kept taps of ViT-S/16, batch 16, fp32: steps against LoRA's, and bytes kept.

The taps are of 64 images, so that each step reads its own from memory, as a run does.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

from bench.tables import Row, memory_row, time_row
from bench.timing import seconds_of

BATCH = 16
PROBES = {
    "attentive probe": ("method=attentive",),
    "attentive probe, form=aim": ("method=attentive", "method.form=aim"),
    "attentive probe, form=vjepa": ("method=attentive", "method.form=vjepa"),
    "MLP head": ("method=mlp",),
}
LIMIT = 0.05
"""Of LoRA's step; V-JEPA's block is a row without a limit, as are the bytes."""


def _step(probe: str) -> str:
    return f"{probe} step, ViT-S/16, batch 16, fp32, from kept taps, LoRA's step"


def _saved(probe: str) -> str:
    return f"{probe}, same: bytes saved for backward, LoRA"


def names() -> list[str]:
    return [name(probe) for probe in PROBES for name in (_step, _saved)]


def measure(quick: bool = False) -> list[Row]:
    """`quick` takes batches of two."""
    import torch

    from bench.models import adapted_model, fused_adamw, random_config, training_step
    from peftbench.costs import SavedBytes

    rounds, count = (1, 2) if quick else (5, BATCH)
    batch = torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8), torch.arange(count) % 10
    models = {"LoRA": adapted_model(random_config("backbone=vit_s", "method=lora")).train()}
    kept: dict[str, list[Any]] = {}
    for probe, words in PROBES.items():
        models[probe] = model = adapted_model(random_config("backbone=vit_s", *words)).train()
        kept[probe] = [torch.cat([tap] * 4) for tap in model.frozen(batch[0])]
    orders = (torch.randint(4 * count, (count,)) for _ in itertools.count())

    def loss(probe: str) -> Callable[[Any], torch.Tensor]:
        def value(model: Any) -> torch.Tensor:
            order = next(orders)
            return model.loss(batch, [tap.index_select(0, order) for tap in kept[probe]] if probe in kept else None)

        return value

    saved = {}
    for name, model in models.items():
        meter = SavedBytes(model)
        with meter.counting():
            loss(name)(model)
        saved[name] = meter.total
    steps = {
        name: training_step(model, fused_adamw([p for _, p in model.trainable()]), loss(name))
        for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):  # interleaved; the first round warms up
        for name, step in steps.items():
            median = statistics.median(seconds_of(step) for _ in range(9 if name in kept else 1))
            if i > 0:
                times[name].append(median)
    middle = {name: statistics.median(values) for name, values in times.items()}
    rows = []
    for probe in PROBES:
        rows.append(time_row(_step(probe), middle[probe], middle["LoRA"], LIMIT, digits=3))
        rows.append(memory_row(_saved(probe), saved[probe], saved["LoRA"], digits=3))
    return rows
