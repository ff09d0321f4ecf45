"""Exported files at batch 1 and one thread: ONNX against the tuned model in torch, int8 against fp32; one thread."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from bench.tables import Row
from bench.timing import interleaved_row

BACKBONES = {"efficientnet_lite0": "EfficientNet-Lite0", "vit_nano": "vit_nano"}
INT8 = "ONNX in int8 on onnxruntime, EfficientNet-Lite0, batch 1: in fp32"


def _onnx(shown: str) -> str:
    return f"ONNX on onnxruntime, {shown}, batch 1: the tuned model in torch"


def names() -> list[str]:
    return [*map(_onnx, BACKBONES.values()), INT8]


def measure(quick: bool = False) -> list[Row]:
    import torch

    rounds = 5 if quick else 60
    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for backbone, shown in BACKBONES.items():
                rows += _rows(backbone, shown, folder, rounds)
    finally:
        torch.set_num_threads(threads)
    return rows


def _rows(backbone: str, shown: str, folder: str, rounds: int) -> list[Row]:
    import torch

    import peftbench
    from peftbench.tuned.export import export
    from peftbench.tuned.runtimes import open_exported

    words = ["method=lora", f"backbone={backbone}", "data=digits", "trainer.epochs=1", "trainer.max_batches=2"]
    words += ["data.batch_size=4", "logger=none", "trainer.progress=false", "taps=off", f"output_dir={folder}"]
    run = peftbench.run(peftbench.compose(*words)).folder
    tuned = peftbench.load(run)
    pixels = torch.randint(0, 256, (1, 3, tuned.transform.size, tuned.transform.size), dtype=torch.uint8)
    image = (pixels.float() / 255).numpy()
    whole = open_exported(export(run, "onnx").path, threads=1)
    eager: Any = torch.no_grad()(partial(tuned, pixels))
    rows = [interleaved_row(_onnx(shown), partial(whole, image), eager, rounds, 0.6)]
    if backbone == "efficientnet_lite0":
        file = export(run, "onnx", Path(run) / "model.int8.onnx", precision="int8", calibration=32).path
        rows.append(
            interleaved_row(INT8, partial(open_exported(file, threads=1), image), partial(whole, image), rounds, 0.7)
        )
    return rows
