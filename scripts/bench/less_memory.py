"""What gradient checkpointing, compiled blocks and channels last do to a step of full fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.tables import Row, megabytes, time_row
from bench.timing import interleaved

BYTES = "bytes kept for backward, full, ViT-S/16, batch 16: with trainer.grad_checkpointing, without"
CHECKPOINTED = "training step, full, ViT-S/16, batch 16: with trainer.grad_checkpointing, without"
COMPILED = "training step, full, ViT-S/16, batch 16: with trainer.compile, without"
LAST = "training step, full, ResNet-50, batch 16: with trainer.channels_last, without"


def names() -> list[str]:
    return [BYTES, CHECKPOINTED, COMPILED, LAST]


def measure(quick: bool = False) -> list[Row]:
    """Both of a pair are timed in turn. A compiled step above 0.9 of the plain one does not pay: the row says so."""
    from peftbench.costs import SavedBytes

    rounds = 1 if quick else 6
    models = [_model("vit_s"), _model("vit_s", "trainer.grad_checkpointing=true")]
    saved = []
    for model in models:
        bytes_ = SavedBytes(model)
        with bytes_.counting():
            model.loss(_batch())
        saved.append(bytes_.total)
    plain, less = saved
    rows = [Row(BYTES, megabytes(less), megabytes(plain), f"{less / plain:.2f}", "0.5", less <= 0.5 * plain)]
    rows.append(time_row(CHECKPOINTED, *interleaved(_step(models[1]), _step(models[0]), rounds), 1.4))
    rows.append(time_row(COMPILED, *interleaved(_compiled_step(), _step(models[0]), rounds), 0.9))
    layouts = [_step(_model("resnet50", *words)) for words in (["trainer.channels_last=true"], [])]
    rows.append(time_row(LAST, *interleaved(layouts[0], layouts[1], rounds), 1.0))
    return rows


def _model(backbone: str, *words: str) -> Any:
    from bench.models import adapted_model, random_config
    from peftbench.runs.compatibility import choose_ways_of_computing

    config = random_config(f"backbone={backbone}", "method=full", "data=digits", *words)
    model = adapted_model(config)
    choose_ways_of_computing(config, model)
    return model.train()


def _compiled_step() -> Callable[[], None]:
    """Its first call compiles, and is the one that does not count."""
    from peftbench.training.compiling import CompiledBlocks

    model = _model("vit_s")
    CompiledBlocks().compile(model.backbone)
    return _step(model)


def _step(model: Any) -> Callable[[], None]:
    from bench.models import fused_adamw, training_step

    batch = _batch()
    return training_step(model, fused_adamw(model.parameters()), lambda m: m.loss(batch))


def _batch() -> Any:
    import torch

    return torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8), torch.randint(0, 10, (16,))
