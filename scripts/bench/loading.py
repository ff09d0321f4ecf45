"""VTAB's 1000 images at 224 into memory against a plain Pillow loop, and that nothing is decoded after that; and epochs
of images of 500 pixels from a folder, cut at random, as `data.workers` chooses against one process that does all."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.tables import Row, time_row
from bench.timing import ROOT, in_own_process, interleaved_row

INTO_MEMORY = "1000 images at 224 into memory, a plain Pillow loop"
DECODED = "images decoded in an epoch after that"
CUT = "three epochs of training, linear, vit_nano, 500-pixel JPEGs, data.augment=rrc, {}: data.workers=auto, 0"
PLACES = {"from the disk": 0.0, "from memory": 4.0}
"""What is said of where images come from, and `data.memory_gb`."""
DATA = ROOT.parent / "shared" / "data" / "caltech101-vtab1k-like"
"""Caltech101 as VTAB-1k lays it out; without it this topic has no rows."""


def names() -> list[str]:
    return [INTO_MEMORY, DECODED, *(CUT.format(place) for place in PLACES)]


def measure(quick: bool = False) -> list[Row]:
    return [*_into_memory(quick), *_cut_at_random(quick)]


def _cut_at_random(quick: bool) -> list[Row]:
    """Seconds of training, in runs of a process of their own, in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _write_photos(Path(folder), 16 if quick else 1024)
        for place, memory_gb in PLACES.items():
            taken: dict[str, list[float]] = {"auto": [], "0": []}
            for _ in range(1 if quick else 3):
                for workers, each in taken.items():
                    each.append(in_own_process("bench.loading", "seconds_of_training", folder, workers, str(memory_gb)))
            ours, peer = (statistics.median(each) for each in taken.values())
            rows.append(time_row(CUT.format(place), ours, peer, 1 / 1.5))
    return rows


def seconds_of_training(folder: str, workers: str, memory_gb: str) -> float:
    """Of the three epochs of a run of `linear` on these photographs."""
    import peftbench

    with tempfile.TemporaryDirectory() as output:
        words = [f"data.root={folder}", "data.augment=rrc", f"data.workers={workers}", f"data.memory_gb={memory_gb}"]
        quiet = ["trainer.epochs=3", "trainer.progress=false", "trainer.accelerator=cpu", "logger=none"]
        config = peftbench.compose(
            *("method=linear", "backbone=vit_nano", "taps=off", "data=folder", "data.stage=final"),
            *(*words, *quiet, f"output_dir={output}"),
        )
        record = peftbench.run(config)
    return float(record.costs["time"]["train"])


def _write_photos(folder: Path, count: int) -> None:
    """So many JPEGs of 500 x 375 pixels to train on, in four classes of smooth noise, and eight to test on."""
    import numpy as np
    from PIL import Image

    for i in range(count + 8):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (75, 100, 3), dtype=np.uint8))
        path = folder / ("train" if i < count else "test") / str(i % 4) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def _into_memory(quick: bool) -> list[Row]:
    import numpy as np
    import torch
    from PIL import Image

    from peftbench.data.images import IMAGENET, Images, Transform
    from peftbench.data.vtab.dataset import Vtab

    if not DATA.is_dir():
        print(f"bench loading: left out, for {DATA} is missing.", file=sys.stderr)
        return []
    split = Vtab("caltech101", 102, str(DATA)).load().trainval
    assert split is not None
    transform = Transform(224, "bicubic", *IMAGENET)

    def ours() -> Images:
        images = Images(split, transform, "refuse", 4.0, lambda done, of: None)
        images.load()
        return images

    def plain() -> np.ndarray:
        pixels = np.empty((len(split), 224, 224, 3), dtype=np.uint8)
        for i, path in enumerate(split.images):
            with Image.open(path) as image:
                pixels[i] = image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        return pixels

    rows = [interleaved_row(INTO_MEMORY, ours, plain, 1 if quick else 5, 1.30)]
    images = ours()
    opened = Image.open
    decoded = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return opened(*arguments, **options)

    Image.open = counted  # type: ignore[assignment]
    try:
        images.load()
        images.pictures(torch.arange(len(images)))
    finally:
        Image.open = opened
    rows.append(Row(DECODED, str(decoded), limit="0", kept=decoded == 0))
    return rows
