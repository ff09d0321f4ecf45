"""Whole runs of LoSA on ViT-S/16, from the command to the table: several in one pass, against one alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.tables import Row, time_row

COUNT = 8
WHAT = f"{COUNT} whole LoSA runs together (20 epochs, taps and test included), one run alone"


def names() -> list[str]:
    return [WHAT]


def measure(quick: bool = False) -> list[Row]:
    """`quick` trains two batches of one epoch."""
    several, alone = _seconds(COUNT, quick), _seconds(1, quick)
    return [time_row(WHAT, several, alone, 2.5)]


def _seconds(runs: int, quick: bool) -> float:
    words = ["-m", "method=losa", "backbone=vit_s", "backbone.pretrained=false", "data=photos", "logger=none"]
    words += ["trainer=cpu", "trainer.progress=false", "data.batch_size=16", f"sweep.together={COUNT}"]
    if quick:
        words += ["trainer.epochs=1", "trainer.max_batches=2"]
    rates = ",".join(f"{0.001 * (i + 1):g}" for i in range(runs))
    with tempfile.TemporaryDirectory() as folder:  # a cache of their own: both compute the taps
        command = [sys.executable, "-m", "peftbench.cli.main", *words, f"optimizer.lr={rates}"]
        begun = time.perf_counter()
        subprocess.run(
            [*command, f"output_dir={folder}/runs"],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PEFTBENCH_CACHE": folder},
        )
        spent = time.perf_counter() - begun
        assert len(list(Path(folder).glob("runs/*/delta.safetensors"))) == runs
    return spent
