"""The page of a finished run of ViT-S/16 on 1,000 test images: the whole command, and how many of them it looks at."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from bench.tables import Row, megabytes
from bench.timing import watched

IMAGES, LIMIT = 1000, 20


def _what(images: int, backbone: str) -> str:
    return f"page of a run, {backbone}, {images:,} test images"


def names() -> list[str]:
    what = _what(IMAGES, "ViT-S/16")
    return [what, f"{what}: peak memory", f"{what}: images looked at"]


def measure(quick: bool = False) -> list[Row]:
    """`quick` has a small backbone and 40 images."""
    images, backbone, what = (40, "vit_nano", "vit_nano") if quick else (IMAGES, "vit_s", "ViT-S/16")
    with tempfile.TemporaryDirectory() as folder:
        run = _finished_run(Path(folder), images, backbone)
        spent, peak = watched([sys.executable, "-m", "peftbench.cli.main", "report", f"run={run}"])
        page = (run / "page.html").read_text(encoding="utf-8")
    some = re.search(r"are of ([\d,]+) of [\d,]+ test images", page)
    looked_at = int(some[1].replace(",", "")) if some else images
    what = _what(images, what)
    return [
        Row(what, f"{spent:.1f} s", limit=f"{LIMIT} s", kept=spent < LIMIT),
        Row(f"{what}: peak memory", megabytes(peak)),
        Row(f"{what}: images looked at", f"{looked_at:,}"),
    ]


def _finished_run(folder: Path, images: int, backbone: str) -> Path:
    """A probe that saw one batch: ten classes, images of 300 x 400 pixels, all of them drawn."""
    import numpy as np
    from PIL import Image

    import peftbench

    draw = np.random.default_rng(0)
    for role, count in (("train", 20), ("test", images)):
        for i in range(count):
            place = folder / "images" / role / f"class_{i % 10}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            coarse.resize((400, 300), Image.Resampling.BICUBIC).save(place / f"{i}.jpg")
    words = ["method=linear", f"backbone={backbone}", "data=folder", f"data.root={folder / 'images'}"]
    words += ["backbone.pretrained=false", "data.val_fraction=0", "data.batch_size=16", "trainer.epochs=1"]
    words += ["trainer.max_batches=1", "trainer.progress=false", "trainer.accelerator=cpu", "taps=off", "logger=none"]
    record = peftbench.run(peftbench.compose(*words, f"output_dir={folder}"))
    assert record.status == "complete", record.reason
    return Path(record.folder)
