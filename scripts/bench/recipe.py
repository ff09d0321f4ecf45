"""What options of training add to full fine-tuning: averages, kept weights, a balanced order, mixed images."""

from __future__ import annotations

import statistics
from types import SimpleNamespace
from typing import Any

from bench.tables import Row, time_row
from bench.timing import seconds_of

LIMIT = 1.03
AVERAGE = "training step, ViT-S/16, batch 16: with trainer.ema, without"
KEPT = "epoch of 1,000 images, ViT-S/16, batch 16: with trainer.keep=best, without"
BALANCED = "epoch of 1,000 images, ViT-S/16, batch 16: with data.sampler=balanced, without"
MIXED = "training step with its batch read, ViT-S/16, batch 16: with data.mixup and data.cutmix, without"
STEPS = -(-1000 // 16)


def names() -> list[str]:
    return [AVERAGE, KEPT, BALANCED, MIXED]


def measure(quick: bool = False) -> list[Row]:
    """Each addition is timed right after a step: as a share it is too small to be seen between two whole runs.

    The kept weights are those of the dearest case, in which every epoch is the best so far.
    """
    import torch

    from bench.models import fused_adamw, plain_model, random_config, training_step
    from peftbench.methods.base import unfreeze
    from peftbench.training.averaging import Average
    from peftbench.training.keeping import Keeper

    config = random_config("backbone=vit_s", "method=full", "data=digits", "trainer.ema=0.999", "trainer.keep=best")
    model = plain_model(config)
    unfreeze(model.backbone)
    batch = torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8), torch.randint(0, 10, (16,))
    step = training_step(model.train(), fused_adamw(model.parameters()), lambda m: m.loss(batch))

    fit, trainer = _fit_of(model), SimpleNamespace(global_step=0)
    average, keeper = Average(config.trainer.ema), Keeper(config.trainer, "val_accuracy")
    average.on_train_start(trainer, fit)  # type: ignore[arg-type]
    steps, averages, copies = [], [], []
    for _ in range(2 if quick else 15):
        steps.append(seconds_of(step))
        trainer.global_step += 1
        averages.append(seconds_of(lambda: average.on_train_batch_end(trainer, fit)))  # type: ignore[arg-type]
        copies.append(seconds_of(lambda: keeper.note(fit, 1)))
    plain, averaging, copying = (statistics.median(times[1:]) for times in (steps, averages, copies))
    shuffled, balanced = (_order_seconds(sampler) for sampler in ("shuffle", "balanced"))
    read, mixed = (_reading_seconds(**options) for options in ({}, {"mixup": 0.2, "cutmix": 1.0}))
    return [
        time_row(AVERAGE, plain + averaging, plain, LIMIT, 3),
        time_row(KEPT, STEPS * plain + copying, STEPS * plain, LIMIT, 3),
        time_row(BALANCED, STEPS * plain + balanced, STEPS * plain + shuffled, 1.01, 4),
        time_row(MIXED, plain + mixed, plain + read, 1.05, 3),
    ]


def _loaders(**options: Any) -> Any:
    """A thousand images of 25 classes, of which the largest has a hundred times as many as the smallest."""
    import numpy as np

    from peftbench.config import Data
    from peftbench.data.base import Split
    from peftbench.data.images import Transform
    from peftbench.data.loading import loaders

    shares = np.geomspace(100, 1, 25)
    labels = np.sort(np.random.default_rng(0).choice(25, 1000, p=shares / shares.sum())).astype(np.int64)
    images = np.random.default_rng(1).integers(0, 256, (1000, 224, 224), dtype=np.uint8)
    split = Split(images, labels, [str(i) for i in range(1000)])
    transform = Transform(224, "bicubic", (0.5,) * 3, (0.5,) * 3)
    data = Data("bench", "", ("classification",), {}, **{"batch_size": 16} | options)
    made = loaders((split, None, None), transform, data, seed=0, classes=25)
    made.load(lambda done, of: None)
    return made


def _order_seconds(sampler: str) -> float:
    order = _loaders(sampler=sampler).order
    return statistics.median(seconds_of(lambda: list(order)) for _ in range(9))


def _reading_seconds(**options: Any) -> float:
    made = _loaders(**options)
    images, batches = made.train.dataset, list(made.order)
    return statistics.median(seconds_of(lambda b=batch: images.__getitems__(b)) for batch in batches)


def _fit_of(model: Any) -> Any:
    """As much of a training as averaging and keeping look at."""
    from peftbench.training.module import Fit

    fit = SimpleNamespace(model=model, history=[{"epoch": 1, "val_accuracy": 0.5}])
    fit.moving = fit.averaged = lambda: Fit.moving(fit)  # type: ignore[arg-type]
    return fit
