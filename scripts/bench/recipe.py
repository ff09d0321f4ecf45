"""What the moving average and the best epoch's weights add to full fine-tuning."""

from __future__ import annotations

import statistics
from types import SimpleNamespace
from typing import Any

from bench.tables import Row, time_row
from bench.timing import seconds_of

LIMIT = 1.03
AVERAGE = "training step, ViT-S/16, batch 16: with trainer.ema, without"
KEPT = "epoch of 1,000 images, ViT-S/16, batch 16: with trainer.keep=best, without"
STEPS = -(-1000 // 16)


def names() -> list[str]:
    return [AVERAGE, KEPT]


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
    return [
        time_row(AVERAGE, plain + averaging, plain, LIMIT, 3),
        time_row(KEPT, STEPS * plain + copying, STEPS * plain, LIMIT, 3),
    ]


def _fit_of(model: Any) -> Any:
    """As much of a training as averaging and keeping look at."""
    from peftbench.training.module import Fit

    fit = SimpleNamespace(model=model, history=[{"epoch": 1, "val_accuracy": 0.5}])
    fit.moving = fit.averaged = lambda: Fit.moving(fit)  # type: ignore[arg-type]
    return fit
