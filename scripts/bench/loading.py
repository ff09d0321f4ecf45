"""VTAB's 1000 images at 224 into memory against a plain Pillow loop, and that nothing is decoded after that; and epochs
of images of 500 pixels from a folder, cut at random, as `data.workers` chooses against one process that does all.

Of the latter only the row with `data.draft=true` has a limit. Half of the processor's time there is the backbone's, on
both cores already, so two cores that decode give little: by counting 1.4 times the images at most."""

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
CUT = "three epochs of training, linear, vit_nano, 500-pixel JPEGs from the disk, data.augment=rrc: {}, one process"
FORMS = {
    "data.workers=auto": (["data.workers=auto"], None),
    "data.workers=auto and data.draft=true": (["data.workers=auto", "data.draft=true"], 1 / 1.5),
}
"""What is given, and the limit."""
DATA = ROOT.parent / "shared" / "data" / "caltech101-vtab1k-like"
"""Caltech101 as VTAB-1k lays it out; without it this topic has no rows."""


def names() -> list[str]:
    return [INTO_MEMORY, DECODED, *(CUT.format(form) for form in FORMS)]


def measure(quick: bool = False) -> list[Row]:
    return [*_into_memory(quick), *_cut_at_random(quick)]


def _cut_at_random(quick: bool) -> list[Row]:
    """Seconds of training, in runs of a process of their own, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        _write_photos(Path(folder), 16 if quick else 1024)
        taken: dict[str, list[float]] = {form: [] for form in ("one process", *FORMS)}
        for _ in range(1 if quick else 3):
            for form, each in taken.items():
                words = FORMS[form][0] if form in FORMS else ["data.workers=0"]
                each.append(in_own_process("bench.loading", "seconds_of_training", folder, *words))
    peer, *ours = (statistics.median(each) for each in taken.values())
    limits = [limit for _, limit in FORMS.values()]
    return [
        time_row(CUT.format(form), each, peer, limit) for form, each, limit in zip(FORMS, ours, limits, strict=True)
    ]


def seconds_of_training(folder: str, *given: str) -> float:
    """Of the three epochs of a run of `linear` on these photographs, with these words besides."""
    import peftbench

    with tempfile.TemporaryDirectory() as output:
        words = [f"data.root={folder}", "data.augment=rrc", "data.memory_gb=0", *given]
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
