"""A task of VTAB-1k's protocol from the command to the table: six trials and three seeds of LoSA on ViT-S/16.

A stand-in of 800, 200 and 1,000 images, which are decoded as any folder's. The peer is one frozen forward pass over its
2,000 images. At VTAB's 388,000 test images the passes outweigh the side nets: that figure is worked out from the same
times, of 19 such tasks whose tests hold so many images together.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.tables import NOTHING, Row, time_row
from bench.timing import seconds_of

TRAIN, TEST, CLASSES, BATCH = 1000, 1000, 10, 16
TASKS, TESTED = 19, 388_000
"""Of VTAB-1k, with the test images of all."""
ONE = "VTAB-1k's protocol on one task (six trials, three seeds of LoSA, 20 epochs), a frozen pass over its 2,000 images"
ALL = "the same of 19 tasks with 388,000 test images, worked out from these times, a frozen pass over all images"


def names() -> list[str]:
    return [ONE, ALL]


def measure(quick: bool = False) -> list[Row]:
    """`quick` trains two batches of one epoch over few images."""
    train, test = (40, 20) if quick else (TRAIN, TEST)
    with tempfile.TemporaryDirectory() as folder:
        _images(Path(folder) / "images", train, test)
        image = _forward_seconds(quick)
        spent, records = _protocol(Path(folder), quick)
        image = statistics.mean([image, _forward_seconds(quick)])  # before and after
    once = image * (train + test)
    shares = [record["costs"]["time"]["test"] / record["costs"].get("together", 1) for record in records]
    testing = sum(shares) / test  # of an image, by all final runs
    beside = spent - once - testing * test  # of a task, whatever it tests on
    everywhere = image * (TASKS * train + TESTED)
    ratio = (everywhere + TASKS * beside + TESTED * testing) / everywhere
    return [
        time_row(ONE, spent, once, 4.5),
        Row(ALL, NOTHING, NOTHING, f"{ratio:.2f}", "1.40", ratio <= 1.4),
    ]


def _images(folder: Path, train: int, test: int) -> None:
    """Class folders of blurred noise, 224 x 224."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            place = folder / split / str(number % CLASSES)
            place.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
            small.resize((224, 224), Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)


def _forward_seconds(quick: bool) -> float:
    """Of an image in the frozen pass, as taps are filled: batches of 16, one after the other."""
    import torch

    from bench.models import adapted_model, random_config

    model = adapted_model(random_config("method=losa", f"backbone={_backbone(quick)}", "data=digits")).eval()
    size = 64 if quick else 224
    images = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8)

    def forward() -> None:
        with torch.inference_mode():
            model.frozen(images)

    times = [seconds_of(forward) for _ in range(2 if quick else 12)][1:]
    return statistics.median(times) / BATCH


def _backbone(quick: bool) -> str:
    return "vit_nano" if quick else "vit_s"


def _protocol(folder: Path, quick: bool) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of the command, and the records of its final runs."""
    words = ["-m", "protocol=vtab1k", "method=losa", f"backbone={_backbone(quick)}", "backbone.pretrained=false"]
    words += ["data=folder", f"data.root={folder}/images", "data.val_fraction=0.2", "data.order_seed=0"]
    words += ["trainer=cpu", "trainer.epochs=20", "trainer.progress=false", "data.batch_size=32", "logger=none"]
    words += ["sweep.together=8", f"output_dir={folder}/runs"]
    if quick:
        words += ["trainer.epochs=1", "trainer.max_batches=2"]
    environment = {**os.environ, "PEFTBENCH_CACHE": f"{folder}/cache"}
    begun = time.perf_counter()
    command = [sys.executable, "-m", "peftbench", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    spent = time.perf_counter() - begun
    records = [json.loads(file.read_text(encoding="utf-8")) for file in Path(folder).glob("runs/[!.]*/result.json")]
    final = [record for record in records if record["config"]["data"]["stage"] == "final"]
    assert (len(records), len(final)) == (9, 3)
    return spent, final
