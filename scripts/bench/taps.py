"""Kept taps: reading them from the page cache, and filling against forward and decoding.

Reading has two peers. The plain loop is how taps were read at first: one thread, row after row, into memory that is new
each time. The other is the least that reading costs: two threads that copy as many bytes, one after the other, into
memory that is there; on two cores it takes more than half of the plain loop's time, so reading cannot be twice as fast.

Filling is ViT-S/16 at 224 pixels over JPEGs of 500 pixels, in batches of 16, written to the disk.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.tables import Row, time_row
from bench.timing import interleaved_row, seconds_of

BATCH = 16
READING = "a batch of ViT-B taps from the page cache, row after row into new memory"
LEAST = "a batch of ViT-B taps from the page cache, two threads that copy as many bytes in a row"
FILLING = "filling taps of ViT-S/16, JPEGs of 500 pixels, forward and 1.1 times decoding on one core"


def names() -> list[str]:
    return [READING, LEAST, FILLING]


def measure(quick: bool = False) -> list[Row]:
    """`quick` takes few rows and images."""
    with tempfile.TemporaryDirectory() as folder:
        return [*_reading(Path(folder), quick), _filling(Path(folder), quick)]


def _reading(folder: Path, quick: bool) -> list[Row]:
    import torch

    from peftbench.taps.store import taps_on_disk

    rows, shape, count = (32, (197, 64), 2) if quick else (96, (197, 768), 12)

    def fill() -> Iterator[list[Any]]:
        for _ in range(rows // BATCH):
            yield [torch.rand(BATCH, *shape) for _ in range(count)]

    bytes_ = 4 * rows * count * shape[0] * shape[1]
    taps = taps_on_disk(folder / "taps", {"what": "bench"}, bytes_, 2 * bytes_, fill, print)
    files = [path.open("rb", buffering=0) for path in sorted((folder / "taps" / taps.key).glob("tap-*"))]
    size = 4 * shape[0] * shape[1]
    orders = [order for _ in range(200) for order in torch.randperm(rows).split(BATCH)]

    def row_after_row() -> list[Any]:
        batch = []
        order = orders.pop().tolist()
        for file in files:
            values = torch.empty((BATCH, *shape))
            into = memoryview(values.flatten().view(torch.uint8).numpy())
            for i, row in enumerate(order):
                os.preadv(file.fileno(), [into[i * size : (i + 1) * size]], row * size)
            batch.append(values)
        return batch

    there = torch.zeros(BATCH * count * size, dtype=torch.uint8)
    halves = there.numpy().reshape(2, -1)

    def copy(half: int) -> None:
        share = memoryview(halves[half])
        for i, file in enumerate(files[half::2]):
            os.preadv(file.fileno(), [share[i * BATCH * size : (i + 1) * BATCH * size]], 0)

    threads = ThreadPoolExecutor(2)
    repeats = 2 if quick else 8

    def repeated(read: Callable[[], Any]) -> Callable[[], None]:
        def work() -> None:
            for _ in range(repeats):
                read()

        return work

    try:
        rounds, ours = 1 if quick else 7, repeated(lambda: taps(orders.pop()))
        return [
            interleaved_row(READING, ours, repeated(row_after_row), rounds, 0.75),
            interleaved_row(LEAST, ours, repeated(lambda: list(threads.map(copy, (0, 1)))), rounds, 1.35),
        ]
    finally:
        threads.shutdown()
        for file in files:
            file.close()


def _filling(folder: Path, quick: bool) -> Row:
    import torch

    from bench.models import adapted_model, random_config
    from peftbench.runs.build import transform_of
    from peftbench.training import tap_filling

    count, rounds = (2 * BATCH, 1) if quick else (6 * BATCH, 5)
    backbone = "vit_nano" if quick else "vit_s"
    config = random_config(
        *("method=linear", f"backbone={backbone}", "data=digits"),
        *(f"data.eval_batch_size={BATCH}", f"taps.dir={folder}/kept"),
    )
    model = adapted_model(config).eval()
    split, device = _jpegs(folder, count), torch.device("cpu")
    transform = transform_of(config, model.backbone)
    chunks = torch.arange(count).split(BATCH)

    def images() -> Any:
        return transform.over(split, "refuse", 4.0, lambda done, of: None)

    whole = images()
    pictures = torch.stack([torch.from_numpy(whole._decode(i).copy()) for i in range(count)])
    filled = 0

    def fill() -> None:
        nonlocal filled
        filled += 1
        costs = tap_filling.keep_taps_of(
            [images()], config, model, f"bench {filled}", device, lambda done, of: None, print
        )
        assert costs is not None
        assert costs["computed"] == count

    def forward() -> None:
        for rows in chunks:
            model.frozen(pictures[rows])

    def decode() -> None:
        for i in range(count):
            whole._decode(i)

    with model.padded_batches():
        works = (fill, forward, decode)
        times = [[seconds_of(work) for work in works] for _ in range(rounds + 1)][1:]  # in turn; the first warms up
    ours, once, decoding = (statistics.median(column) for column in zip(*times, strict=True))
    return time_row(FILLING, ours, once + 1.1 * decoding, 1.0)


def _jpegs(folder: Path, count: int) -> Any:
    """A split of photographs of nothing: blurred noise, 500 x 500."""
    import numpy as np
    from PIL import Image

    from peftbench.data.base import Split

    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        paths.append(folder / f"{i}.jpg")
        small = Image.fromarray(rng.integers(0, 256, (125, 125, 3), dtype=np.uint8))
        small.resize((500, 500), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return Split(paths, np.zeros(count, dtype=np.int64), [path.name for path in paths])
