"""Eight tasks from one backbone, and a merged update, against the plain backbone; one thread, random weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench.tables import Row
from bench.timing import interleaved_row

BACKBONES = {"vit_s": "ViT-S/16", "resnet50": "ResNet-50"}
SIDE_METHODS: dict[str, list[str]] = {
    "LoSA": ["method=losa"],
    "CST": ["method=cst"],
    "CST (reduction 16)": ["method=cst", "method.reduction=16"],
}
MERGED = "LoRA merged, ViT-S/16, batch 1: the plain backbone"


def _eight(method: str, backbone: str) -> str:
    return f"eight {method} tasks, {backbone}, batch 8: one backbone forward"


def names() -> list[str]:
    return [*(_eight(method, shown) for shown in BACKBONES.values() for method in SIDE_METHODS), MERGED]


def measure(quick: bool = False) -> list[Row]:
    import torch

    import peftbench
    from bench.models import random_config

    rounds = 1 if quick else 15
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        short = ["data=digits", "trainer.max_batches=1", "trainer.epochs=1", "data.batch_size=4", "taps=off"]
        short += ["data.eval_batch_size=4", "logger=none", "trainer.progress=false", f"output_dir={folder}"]
        images = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8)
        for backbone, shown in BACKBONES.items():
            plain = _plain_forward(random_config(f"backbone={backbone}", *short))
            for method, words in SIDE_METHODS.items():
                run = peftbench.run(random_config(f"backbone={backbone}", *words, *short)).folder
                eight = partial(peftbench.MultiTask(None, {str(i): run for i in range(8)}), images)
                with _one_thread():
                    rows.append(interleaved_row(_eight(method, shown), eight, partial(plain, images), rounds, 1.3))
        lora = random_config("backbone=vit_s", "method=lora", *short)
        merged = peftbench.load(peftbench.run(lora).folder)
        plain = _plain_forward(lora)
        image = images[:1]
        with _one_thread(), torch.no_grad():
            rows.append(interleaved_row(MERGED, partial(merged, image), partial(plain, image), 4 * rounds, 1.02))
    return rows


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _plain_forward(config: Any) -> Callable[[Any], Any]:
    """The forward pass of a backbone without a method, head included."""
    import torch

    from bench.models import plain_model

    return torch.no_grad()(plain_model(config).eval().forward)
