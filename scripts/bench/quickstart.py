"""The quickstart's command, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench.tables import Row, row_name
from bench.timing import COMMAND

LIMIT = 90
"""Seconds."""


def names() -> list[str]:
    return ["quickstart"]


def measure(quick: bool = False) -> list[Row]:
    """The whole command, whose taps are computed as in a user's first run; `quick` looks at two batches."""
    shortened = ["trainer.max_batches=2", "trainer.epochs=1"] if quick else []
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        command = [COMMAND, "experiment=quickstart", f"output_dir={folder}", *shortened]
        environment = {**os.environ, "PEFTBENCH_CACHE": folder}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        spent = time.perf_counter() - begun
        records = [json.loads(p.read_text(encoding="utf-8")) for p in Path(folder).glob("*/result.json")]
        print(done.stdout)
    top1 = {r["config"]["method"]["name"]: 100 * r["metrics"]["test/accuracy"] for r in records}
    what = f"quickstart (top-1: bitfit {top1['bitfit']:.1f} %, linear probe {top1['linear']:.1f} %)"
    assert row_name(what) in names()
    return [Row(what, f"{spent:.0f} s", limit=f"{LIMIT} s", kept=spent <= LIMIT)]
