"""`peftbench serve` against `MultiTask` called in a loop: eight LoSA tasks on ViT-S/16, one thread, JPEGs decoded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.tables import Row, time_row
from bench.timing import ROOT, in_own_process, seconds_of

CLIENTS = 4
THROUGHPUT = f"an image through the server, {CLIENTS} clients, eight LoSA tasks, ViT-S/16: MultiTask in a loop"
P95 = "p95 of the server at a quarter of saturation, ViT-S/16: its median with one client"
PHOTOS = ROOT / "src" / "peftbench" / "data" / "photos" / "test"


def names() -> list[str]:
    return [THROUGHPUT, P95]


def measure(quick: bool = False) -> list[Row]:
    figures = in_own_process("bench.serve", "figures", int(quick), environment={"OMP_NUM_THREADS": "1"})
    return [
        time_row(THROUGHPUT, figures["served"], figures["looped"], 1 / 0.8),
        time_row(P95, figures["p95"], figures["alone"], 2.0),
    ]


def figures(quick: int) -> dict[str, float]:
    """Seconds an image through the server and in a loop, in turn; of a request at a quarter of saturation and alone."""
    import statistics

    from serve_load import Client, arriving, known_answers, load

    import peftbench
    from bench.models import random_config

    rounds, images = (1, 8) if quick else (3, 20)
    files = sorted(PHOTOS.rglob("*.jpg"))[:images]
    with tempfile.TemporaryDirectory() as folder:
        short = ["data=digits", "trainer.max_batches=1", "trainer.epochs=1", "data.batch_size=4", "taps=off"]
        short += ["data.eval_batch_size=4", "logger=none", "trainer.progress=false", f"output_dir={folder}"]
        run = peftbench.run(random_config("backbone=vit_s", "method=losa", *short)).folder
        tasks = peftbench.MultiTask(None, {f"task{i}": run for i in range(8)})

        def looped() -> None:
            for file in files:
                tasks(tasks.transform(file)[None])

        looped()
        with _server(run, Path(folder)) as url:
            known = known_answers(Client(url), [file.read_bytes() for file in files])
            pairs = []
            for _ in range(rounds):
                done = load(url, known, len(files), CLIENTS)
                _refuse_losses(done, len(files))
                pairs.append((done.wall / len(files), seconds_of(looped) / len(files)))
            alone = load(url, known, len(files), 1)
            served = statistics.median(pair[0] for pair in pairs)
            quarter = arriving(url, known, 4 * images, 0.25 / served)
            _refuse_losses(quarter, 4 * images)
    return {
        "served": served,
        "looped": statistics.median(pair[1] for pair in pairs),
        "p95": quarter.told()["p95_ms"] / 1000,
        "alone": alone.told()["median_ms"] / 1000,
    }


def _refuse_losses(done: Any, asked: int) -> None:
    told = done.told()
    if told["answered"] != asked or told["mixed"]:
        raise SystemExit(f"the server lost answers, or mixed them up: {told}")


@contextmanager
def _server(run: str, folder: Path) -> Iterator[str]:
    """The address of a server of eight tasks."""
    words = ",".join(f"task{i}={run}" for i in range(8))
    command: Sequence[str] = [sys.executable, "-m", "peftbench", "serve", f"runs=[{words}]", "port=0", "device=cpu"]
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command, stdout=said, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            end = time.monotonic() + 300
            while " on http" not in (text := (folder / "said").read_text()):
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit("the server did not start")
                time.sleep(0.1)
            yield text.rpartition(" on ")[2].strip()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
